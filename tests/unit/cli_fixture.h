/* Runs the command $LR_COMMAND (default build/lowrank) in a process of its own, with everything it
 * writes kept in files. */
#ifndef TESTS_CLI_FIXTURE_H
#define TESTS_CLI_FIXTURE_H

#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <sys/wait.h>

typedef struct cli_run {
    pid_t pid;
    int code, signal; /* one of them, the other is -1 */
    char out[1 << 18], err[1 << 14];
    json_t *json; /* stdout when it is one JSON object and a newline, else NULL */
} cli_run;

static cli_run run; /* the last one */

static inline const char *cli_golden(const char *name) {
    static char paths[4][600];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    const char *folder = getenv("LR_GOLDEN");
    snprintf(path, sizeof paths[0], "%s/models/%s", folder ? folder : "tests/golden", name);
    return path;
}

/* The one golden model with a tokenizer: 2 blocks, 275 tokens, context 64. */
static inline const char *cli_model(void) { return cli_golden("gguf-mixed/model.gguf"); }

static inline void cli_redirect(const char *name, int flags, int to) {
    int fd = open(name, flags, 0600);
    if (fd < 0 || dup2(fd, to) < 0) _exit(126);
    close(fd);
}

/* A child that is asked to stop before it runs anything must not answer as Check does, which stops
 * the test. */
static inline pid_t cli_fork(void) {
    sigset_t asked, before;
    sigemptyset(&asked);
    sigaddset(&asked, SIGTERM);
    sigaddset(&asked, SIGINT);
    sigprocmask(SIG_BLOCK, &asked, &before);
    pid_t pid = fork();
    if (!pid) {
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return pid;
}

static inline void cli_start(const char *const *words, const char *out) {
    const char *command = getenv("LR_COMMAND");
    char *argv[40] = {(char *)(command && *command ? command : "build/lowrank")};
    for (int i = 0; i < 38 && words[i]; i++) argv[i + 1] = (char *)words[i];
    json_decref(run.json);
    memset(&run, 0, sizeof run);
    run.code = run.signal = -1;
    run.pid = cli_fork();
    ck_assert_int_ge(run.pid, 0);
    if (run.pid) return;
    setenv("XDG_CACHE_HOME", scratch, 1);
    cli_redirect("/dev/null", O_RDONLY, 0);
    cli_redirect(out ? out : scratch_path("stdout"), O_WRONLY | O_CREAT | O_TRUNC, 1);
    cli_redirect(scratch_path("stderr"), O_WRONLY | O_CREAT | O_TRUNC, 2);
    execv(argv[0], argv);
    _exit(127);
}

static inline void cli_wait(int is_read) {
    int status;
    ck_assert_int_eq(waitpid(run.pid, &status, 0), run.pid);
    if (WIFEXITED(status)) run.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) run.signal = WTERMSIG(status);
    ck_assert_msg(run.code != 127, "$LR_COMMAND (default build/lowrank) cannot be run");
    scratch_read(scratch_path("stderr"), run.err, sizeof run.err - 1);
    if (!is_read) return;
    size_t length = scratch_read(scratch_path("stdout"), run.out, sizeof run.out - 1);
    json_t *json = json_loads(run.out, JSON_REJECT_DUPLICATES, NULL);
    int is_line = length > 0 && strchr(run.out, '\n') == run.out + length - 1;
    run.json = is_line && json_is_object(json) ? json : NULL;
    if (!run.json) json_decref(json);
}

#define START(...) cli_start((const char *const[]){__VA_ARGS__, NULL}, NULL)

/* Runs and compares the exit code. */
#define RUN(expected, ...)                                                                   \
    do {                                                                                     \
        START(__VA_ARGS__);                                                                  \
        cli_wait(1);                                                                         \
        ck_assert_msg(run.code == (expected), "exit %d, signal %d, expected %d; stderr: %s", \
                      run.code, run.signal, expected, run.err);                              \
    } while (0)

/* Members of these are names of texts, modules and types, or another file's own. */
static inline int cli_names_its_members(const char *key) {
    static const char *const keys[] = {"evaluations", "ranks", "types", "config"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(key, keys[i])) return 1;
    return 0;
}

/* Whatever a result holds is described in docs/command.md. */
static inline void cli_check_described(const json_t *value, int has_names) {
    static char page[1 << 16];
    const char *key;
    const json_t *member;
    size_t i;
    if (!*page) {
        const char *root = getenv("LR_DOCS");
        char path[600];
        snprintf(path, sizeof path, "%s/command.md", root && *root ? root : "docs");
        ck_assert_uint_lt(scratch_read(path, page, sizeof page - 1), sizeof page - 1);
    }
    json_array_foreach((json_t *)value, i, member) cli_check_described(member, 0);
    json_object_foreach((json_t *)value, key, member) {
        char quoted[600];
        snprintf(quoted, sizeof quoted, "`%s`", key);
        ck_assert_msg(has_names || strstr(page, quoted), "docs/command.md: no %s", quoted);
        if (strcmp(key, "config")) cli_check_described(member, cli_names_its_members(key));
    }
}

/* The same for a run that ends well, with --json and --quiet: nothing but the object. */
#define RUN_JSON(...)                                                        \
    do {                                                                     \
        RUN(0, __VA_ARGS__, "--json", "--quiet");                            \
        ck_assert_str_eq(run.err, "");                                       \
        ck_assert_msg(run.json != NULL, "not one JSON object: %s", run.out); \
        cli_check_described(run.json, 0);                                    \
    } while (0)

/* A run that fails says one line on stderr, which holds `words`, and nothing on stdout. */
#define RUN_FAILS(expected, words, ...)                                                        \
    do {                                                                                       \
        RUN(expected, __VA_ARGS__, "--quiet");                                                 \
        ck_assert_msg(strstr(run.err, words) != NULL, "\"%s\" is not in: %s", words, run.err); \
        ck_assert_ptr_eq(strchr(run.err, '\n'), run.err + strlen(run.err) - 1);                \
        ck_assert_str_eq(run.out, "");                                                         \
    } while (0)

/* A member by its path, such as "seconds.save". */
static inline const json_t *cli_member(const char *path) {
    char keys[64], *rest = keys, *key;
    const json_t *value = run.json;
    snprintf(keys, sizeof keys, "%s", path);
    while ((key = strsep(&rest, "."))) {
        value = json_object_get(value, key);
        ck_assert_msg(value != NULL, "no member \"%s\" in %s", path, run.out);
    }
    return value;
}

static inline double cli_number(const char *path) {
    const json_t *value = cli_member(path);
    ck_assert_msg(json_is_number(value), "\"%s\" is no number in %s", path, run.out);
    return json_number_value(value);
}

static inline int cli_exists(const char *path) { return access(path, F_OK) == 0; }

static inline void cli_write_text(void) {
    char text[6000];
    size_t used = 0;
    unsigned state = 1;
    static const char *const words[] = {"the ", "then ", "other ", "one, ", "12 ", "under ", "\n"};
    while (used < sizeof text - 16) {
        state = state * 1103515245u + 12345u;
        used += (size_t)sprintf(text + used, "%s", words[(state >> 16) % 7]);
    }
    scratch_write("text.txt", text, used);
}

static inline void cli_setup(void) {
    scratch_make();
    cli_write_text();
}

static inline void cli_teardown(void) {
    json_decref(run.json);
    run.json = NULL;
    scratch_remove();
}

static inline const char *cli_text(void) { return scratch_path("text.txt"); }

#endif
