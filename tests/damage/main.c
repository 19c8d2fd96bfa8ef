/* Makes damaged files and watches what becomes of whoever opens them:
 *   damage COUNT [FIRST]
 * Case n is the same everywhere. A batch of cases is a process of its own, so that a crash or a
 * hang names its case and the others go on; `damage 1 n` repeats one. */
#include "damage.h"

#include <ftw.h>
#include <limits.h>
#include <lowrank/base.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 100, SECONDS = 20, PATIENCE = 900, MOST_FAILURES = 10, CODES = 13 };

/* `folder` is below the golden models, or below the root where the library wrote it. */
static const struct {
    const char *name;
    int what, form;
    const char *folder, *file;
    int is_golden;
} kinds[] = {
    {"config.json", MODEL, JSON_TEXT, "llama-f32", "config.json", 1},
    {"config.json, yarn", MODEL, JSON_TEXT, "rope-yarn-new", "config.json", 1},
    {"config.json, Qwen3", MODEL, JSON_TEXT, "qwen3", "config.json", 1},
    {"safetensors", MODEL, SAFETENSORS, "mistral-window", "model.safetensors", 1},
    {"safetensors of Qwen2", MODEL, SAFETENSORS, "qwen2", "model.safetensors", 1},
    {"shard", MODEL, SAFETENSORS, "llama-bias-sharded", "model-00001-of-00003.safetensors", 1},
    {"index", MODEL, JSON_TEXT, "llama-bias-sharded", "model.safetensors.index.json", 1},
    {"GGUF", MODEL, PLAIN_BYTES, "gguf-mixed", "model.gguf", 1},
    {"GGUF", MODEL, PLAIN_BYTES, "gguf-mixed", "model.gguf", 1},
    {"tokenizer.json", TOKENIZER, JSON_TEXT, "source", "tokenizer.json", 0},
    {"tokenizer.json of a model", MODEL, JSON_TEXT, "source", "tokenizer.json", 0},
    {"statistics", STATS, SAFETENSORS, "", "stats", 0},
    {"statistics with gradients", GRADIENTS, SAFETENSORS, "", "gradients", 0},
    {"plan", PLAN, JSON_TEXT, "", "plan.json", 0},
    {"factors, config.json", MODEL, JSON_TEXT, "factors", "config.json", 0},
    {"pivot, config.json", MODEL, JSON_TEXT, "pivot", "config.json", 0},
    {"pivot, safetensors", MODEL, SAFETENSORS, "pivot", "model.safetensors", 0},
};

enum { KINDS = sizeof kinds / sizeof *kinds };

/* Written by the child that works, read by the parent that watches. */
typedef struct watched {
    long current;
    long seen[KINDS][CODES];
    char problem[200];
} watched;

static watched *shared;
static char root[PATH_MAX], golden[PATH_MAX];

static void source_path(char out[2 * PATH_MAX], int kind, const char *file) {
    snprintf(out, 2 * PATH_MAX, "%s%s/%s/%s", kinds[kind].is_golden ? golden : root,
             kinds[kind].is_golden ? "/models" : "", kinds[kind].folder, file);
}

static bytes read_whole(const char *path) {
    bytes file = {NULL, 0};
    FILE *in = fopen(path, "rb");
    struct stat info;
    if (!in || fstat(fileno(in), &info)) {
        perror(path);
        exit(2);
    }
    file.size = (size_t)info.st_size;
    file.data = calloc(file.size + 1, 1);
    if (!file.data || fread(file.data, 1, file.size, in) != file.size) exit(2);
    fclose(in);
    return file;
}

static int drop(const char *path, const struct stat *info, int type, struct FTW *where) {
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

/* A folder like the source's, of links, in which one file is damaged. */
static void damage(char path[2 * PATH_MAX], int kind, long number) {
    static const char *const files[] = {"config.json",
                                        "model.safetensors",
                                        "model-00001-of-00003.safetensors",
                                        "tokenizer.json",
                                        "stats",
                                        "gradients",
                                        "model-00002-of-00003.safetensors",
                                        "modeling_lowrank.py",
                                        "plan.json",
                                        "model-00003-of-00003.safetensors",
                                        "tokenizer_config.json",
                                        "model.gguf",
                                        "model.safetensors.index.json"};
    char from[2 * PATH_MAX], folder[PATH_MAX + 20];
    snprintf(folder, sizeof folder, "%s/case", root);
    nftw(folder, drop, 8, FTW_PHYS | FTW_DEPTH);
    mkdir(folder, 0777);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        source_path(from, kind, files[i]);
        snprintf(path, 2 * PATH_MAX, "%s/%s", folder, files[i]);
        if (!access(from, F_OK) && symlink(from, path)) exit(2);
    }
    source_path(from, kind, kinds[kind].file);
    snprintf(path, 2 * PATH_MAX, "%s/%s", folder, kinds[kind].file);
    bytes file = read_whole(from);
    mangle(&file, kinds[kind].form, (uint64_t)number);
    remove(path);
    FILE *out = fopen(path, "wb");
    if (!out || fwrite(file.data, 1, file.size, out) != file.size || fclose(out)) exit(2);
    free(file.data);
    int is_folder = kinds[kind].what == MODEL && strcmp(kinds[kind].file, "model.gguf");
    if (is_folder) snprintf(path, 2 * PATH_MAX, "%s", folder);
}

static void work(long from, long end) {
    static char path[2 * PATH_MAX];
    for (long number = from; number < end; number++) {
        int kind = (int)(number % KINDS);
        shared->current = number;
        damage(path, kind, number);
        life lived = life_run(kinds[kind].what, root, path);
        shared->seen[kind][lived.refusal > -CODES ? -lived.refusal : 0]++;
        if (getenv("V")) fprintf(stderr, "%ld %s: %s\n", number, kinds[kind].name, lived.sentence);
        if (!lived.problem) continue;
        snprintf(shared->problem, sizeof shared->problem, "%s", lived.problem);
        exit(3);
    }
    exit(0);
}

/* Of the child: on a busy machine the clock on the wall says nothing. */
static double seconds_of(clockid_t clock) {
    struct timespec now = {0, 0};
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Waits for the child, or ends it when one case takes too long. 1: all went well. */
static int watch(pid_t child) {
    long last = shared->current;
    int state;
    clockid_t clock;
    if (clock_getcpuclockid(child, &clock)) clock = CLOCK_MONOTONIC;
    double since = seconds_of(clock), begun = seconds_of(CLOCK_MONOTONIC);
    while (waitpid(child, &state, WNOHANG) == 0) {
        nanosleep(&(struct timespec){0, 5000000}, NULL);
        if (shared->current != last) {
            last = shared->current;
            since = seconds_of(clock);
            begun = seconds_of(CLOCK_MONOTONIC);
        } else if (seconds_of(clock) - since > SECONDS ||
                   seconds_of(CLOCK_MONOTONIC) - begun > PATIENCE) {
            snprintf(shared->problem, sizeof shared->problem, "hangs");
            kill(child, SIGKILL);
            waitpid(child, &state, 0);
            return 0;
        }
    }
    if (WIFEXITED(state) && WEXITSTATUS(state) == 0) return 1;
    if (WIFSIGNALED(state))
        snprintf(shared->problem, sizeof shared->problem, "ended by signal %d", WTERMSIG(state));
    else if (WEXITSTATUS(state) != 3)
        snprintf(shared->problem, sizeof shared->problem, "exit status %d", WEXITSTATUS(state));
    return 0;
}

static int run_all(long first, long end) {
    int failures = 0;
    for (long at = first; at < end && failures < MOST_FAILURES;) {
        long stop = end - at < BATCH ? end : at + BATCH;
        shared->current = at;
        pid_t child = fork();
        if (child < 0) return perror("fork"), 1;
        if (child == 0) work(at, stop);
        at = stop;
        if (watch(child)) continue;
        failures++;
        at = shared->current + 1;
        fprintf(stderr, "damage: case %ld, %s: %s\n", shared->current,
                kinds[shared->current % KINDS].name, shared->problem);
    }
    return failures;
}

static void report(long count) {
    long all[CODES] = {0};
    for (int kind = 0; kind < KINDS; kind++)
        for (int code = 0; code < CODES; code++) all[code] += shared->seen[kind][code];
    printf("damage: %ld files, %ld of them still in order", count, all[0]);
    for (int code = 1; code < CODES; code++)
        if (all[code]) printf(", %ld %s", all[code], lr_status_name(-code));
    printf("\n");
    if (!getenv("V")) return;
    for (int kind = 0; kind < KINDS; kind++) {
        printf("  %-28s", kinds[kind].name);
        for (int code = 0; code < CODES; code++) printf(" %5ld", shared->seen[kind][code]);
        printf("\n");
    }
}

int main(int argc, char **argv) {
    const char *base = getenv("TMPDIR"), *files = getenv("LR_GOLDEN");
    long count = argc > 1 ? atol(argv[1]) : 500, first = argc > 2 ? atol(argv[2]) : 0;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(root, sizeof root - 20, "%s/lowrank-damage-XXXXXX", base && *base ? base : "/tmp");
    if (shared == MAP_FAILED || !realpath(files ? files : "tests/golden", golden) ||
        !mkdtemp(root)) {
        perror(root);
        return 2;
    }
    pid_t child = fork(); /* so that no thread is made in the process that forks again */
    if (child == 0) _exit(!life_prepare(golden, root));
    int state, failures = 1;
    if (waitpid(child, &state, 0) == child && state == 0) {
        failures = run_all(first, first + count);
        report(count);
    }
    nftw(root, drop, 8, FTW_PHYS | FTW_DEPTH);
    return failures != 0;
}
