/* lowrank train as a script sees it: its result and files, and runs that are killed. */
#include "cli_fixture.h"

#include <math.h>

static const char *text_path(void) {
    static char path[600];
    char words[6000];
    size_t used = 0;
    if (*path && !access(path, R_OK)) return path;
    for (int i = 0; used + 16 < sizeof words; i++)
        used += (size_t)snprintf(words + used, sizeof words - used, "%s ", i % 3 ? "the" : "and");
    snprintf(path, sizeof path, "%s", scratch_write("text", words, used));
    return path;
}

#define TRAIN(out, steps)                                                                          \
    "train", cli_model(), "--text", text_path(), "--out", out, "--steps", steps, "--window", "16", \
        "--batch", "2", "--lr", "0.003", "--dtype", "f32", "--checkpoint-every", "5",              \
        "--eval-windows", "4"

/* Points of the first curve of a picture; how many. */
static int points_of(const char *folder, const char *name, double (*points)[2], int most) {
    static char text[1 << 15];
    char file[700];
    int count = 0;
    snprintf(file, sizeof file, "%s/%s", folder, name);
    size_t length = scratch_read(file, text, sizeof text - 1);
    text[length] = '\0';
    ck_assert(!strncmp(text, "<svg ", 5) && !strcmp(text + length - 7, "</svg>\n"));
    char *at = strstr(text, "points=\"");
    ck_assert_ptr_nonnull(at);
    for (at += 8; count < most && *at && *at != '"'; count++) {
        points[count][0] = strtod(at, &at);
        points[count][1] = strtod(at + 1, &at);
        while (*at == ' ' || *at == '\n') at++;
    }
    return count;
}

/* A curve is the values, linearly and upside down; they lie a tenth of a unit near at the best. */
static void check_curve(double (*points)[2], const double *values, int count) {
    int low = 0, high = 0;
    for (int i = 0; i < count; i++) {
        if (values[i] < values[low]) low = i;
        if (values[i] > values[high]) high = i;
        if (i) ck_assert_double_gt(points[i][0], points[i - 1][0]);
    }
    double scale = (points[high][1] - points[low][1]) / (values[high] - values[low]);
    ck_assert_double_lt(scale, 0);
    for (int i = 0; i < count; i++) {
        double wanted = points[low][1] + scale * (values[i] - values[low]);
        ck_assert_double_eq_tol(points[i][1], wanted, 0.2);
    }
}

START_TEST(pictures_show_the_table) {
    double points[40][2], values[40];
    const char *out = scratch_path("taught");
    RUN_JSON(TRAIN(out, "30"), "--eval-every", "4");
    for (size_t i = 0; i < 30; i++)
        values[i] = json_number_value(json_array_get(cli_member("losses"), i));
    ck_assert_int_eq(points_of(out, "losses.svg", points, 40), 30);
    check_curve(points, values, 30);
    const json_t *judged = json_object_get(cli_member("evaluations"), text_path());
    const json_t *during = json_object_get(judged, "during");
    for (size_t i = 0; i < 8; i++)
        values[i] = json_number_value(json_object_get(json_array_get(during, i), "perplexity"));
    ck_assert_int_eq(points_of(out, "evaluations.svg", points, 40), 8);
    check_curve(points, values, 8);
}
END_TEST

START_TEST(training_tells_what_it_did) {
    const char *out = scratch_path("taught");
    char file[700], line[80];
    RUN_JSON(TRAIN(out, "12"));
    ck_assert_uint_eq(json_array_size(cli_member("losses")), 12);
    ck_assert_double_eq(cli_number("steps"), 12);
    ck_assert_double_gt(cli_number("tokens_per_second"), 0);
    ck_assert_double_gt(cli_number("peak_bytes"), 1e6);
    const json_t *judged = json_object_get(cli_member("evaluations"), text_path());
    const json_t *perplexity = json_object_get(judged, "perplexity");
    ck_assert_double_eq(json_number_value(json_object_get(judged, "windows")), 4);
    ck_assert_double_lt(json_number_value(json_object_get(perplexity, "after")),
                        0.8 * json_number_value(json_object_get(perplexity, "before")));
    snprintf(file, sizeof file, "%s/losses.csv", out);
    FILE *table = fopen(file, "r");
    ck_assert_ptr_nonnull(table);
    ck_assert_ptr_nonnull(fgets(line, sizeof line, table));
    ck_assert_str_eq(line, "step,loss,next_token,divergence,hidden,norm,learning_rate,seconds\n");
    fclose(table);
    snprintf(file, sizeof file, "%s/losses.svg", out);
    ck_assert_int_eq(access(file, R_OK), 0);
    ck_assert_int_ne(access(scratch_path(".taught.lowrank-work"), F_OK), 0);
    RUN_FAILS(1, "exists; --force", TRAIN(out, "12"));
}
END_TEST

START_TEST(parts_learn_from_a_teacher) {
    RUN_JSON(TRAIN(scratch_path("away"), "12"));
    double whole = cli_number("trained");
    RUN_JSON("train", scratch_path("away"), "--teacher", cli_model(), "--train", "*norm*",
             "--train", "*.mlp.*", "--self-windows", "4", "--out", scratch_path("back"), "--steps",
             "12", "--window", "16", "--batch", "2", "--lr", "0.003");
    ck_assert_double_lt(cli_number("trained"), whole);
    const json_t *losses = cli_member("losses");
    ck_assert_double_lt(json_number_value(json_array_get(losses, 11)),
                        json_number_value(json_array_get(losses, 0)));
}
END_TEST

static int lines_of(const char *folder, const char *name) {
    char file[700];
    int lines = 0, c;
    snprintf(file, sizeof file, "%s/%s", folder, name);
    FILE *in = fopen(file, "r");
    ck_assert_ptr_nonnull(in);
    while ((c = fgetc(in)) != EOF) lines += c == '\n';
    fclose(in);
    return lines;
}

static size_t weights(const char *folder, char *bytes, size_t room) {
    char file[700];
    snprintf(file, sizeof file, "%s/model.safetensors", folder);
    return scratch_read(file, bytes, room);
}

static void check_same_file(const char *one, const char *other, const char *name) {
    static char bytes[2][1 << 14];
    const char *folders[2] = {one, other};
    size_t counts[2];
    for (int i = 0; i < 2; i++) {
        char file[700];
        snprintf(file, sizeof file, "%s/%s", folders[i], name);
        counts[i] = scratch_read(file, bytes[i], sizeof bytes[i]);
    }
    ck_assert_uint_eq(counts[0], counts[1]);
    ck_assert_mem_eq(bytes[0], bytes[1], counts[0]);
}

#define TRIED(out) TRAIN(out, "58"), "--eval-every", tried, "--keep-best"

/* Ten runs are killed at moments of their own, most of them somewhere in the steps. The trials of
 * the first turn fall on checkpoints, those of the second between them. */
START_TEST(killed_runs_end_with_the_same_bytes) {
    enum { ROOM = 1 << 21 };
    static char whole[ROOM], resumed[ROOM];
    char room[600];
    const char *out = lasting_path(room, "resumed"), *tried = _i ? "7" : "10";
    RUN_JSON(TRIED(scratch_path("whole")));
    size_t bytes = weights(scratch_path("whole"), whole, ROOM);
    ck_assert_uint_gt(bytes, 1000);
    for (useconds_t i = 0; i < 10; i++) {
        START(TRIED(out), "--resume", "--quiet");
        usleep(5000 + 17000 * i);
        kill(run.pid, SIGKILL);
        cli_wait(0);
        if (run.signal != SIGKILL) break; /* it was done already */
    }
    if (access(out, F_OK) || !access(scratch_path(".resumed.lowrank-work/saving"), F_OK))
        RUN_JSON(TRIED(out), "--resume");
    ck_assert_uint_eq(weights(out, resumed, ROOM), bytes);
    ck_assert_mem_eq(whole, resumed, bytes);
    ck_assert_int_eq(lines_of(out, "losses.csv"), 59); /* no step is missing */
    check_same_file(out, scratch_path("whole"), "evaluations.csv");
    ck_assert_int_eq(lines_of(out, "evaluations.csv"), _i ? 10 : 7);
}
END_TEST

#define JUDGED(out)                                                                              \
    "train", cli_model(), "--text", text_path(), "--eval", text_path(), "--eval-windows", "200", \
        "--eval-every", "1", "--keep-best", "--out", out, "--steps", "12", "--window", "16",     \
        "--batch", "1", "--lr", "0.01", "--dtype", "f32"

/* Most of the time goes into trials, so it is there that a run is asked to stop; the trial it has
 * not ended is made by the run that goes on. */
START_TEST(cancelled_trials_are_made_up) {
    enum { ROOM = 1 << 21 };
    static char whole[ROOM], resumed[ROOM];
    char room[600];
    const char *out = lasting_path(room, "resumed");
    int stops = 0;
    RUN_JSON(JUDGED(scratch_path("whole")));
    size_t bytes = weights(scratch_path("whole"), whole, ROOM);
    for (useconds_t i = 0; i < 10; i++) {
        START(JUDGED(out), "--resume", "--quiet");
        usleep(10000 + 10000 * i);
        kill(run.pid, SIGTERM);
        cli_wait(0);
        if (run.code != 5 && run.signal < 0) break; /* done, or else the checks below fail */
        stops++;
    }
    ck_assert_int_gt(stops, 0);
    if (access(out, F_OK) || !access(scratch_path(".resumed.lowrank-work/saving"), F_OK))
        RUN_JSON(JUDGED(out), "--resume");
    ck_assert_uint_eq(weights(out, resumed, ROOM), bytes);
    ck_assert_mem_eq(whole, resumed, bytes);
    ck_assert_int_eq(lines_of(out, "losses.csv"), 13);
    check_same_file(out, scratch_path("whole"), "evaluations.csv");
    ck_assert_int_eq(lines_of(out, "evaluations.csv"), 13);
}
END_TEST

static int is_running(void) {
    siginfo_t info = {.si_pid = 0};
    ck_assert_int_eq(waitid(P_PID, (id_t)run.pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid == 0;
}

#define OF_COPY(model, out) "train", model, "--text", text_path(), "--out", out, "--window", "16"

/* A run that has left nothing but its settings, and a model whose last number is another now. */
START_TEST(replaced_models_are_noticed) {
    static char bytes[1 << 20];
    size_t count = scratch_read(cli_model(), bytes, sizeof bytes);
    char rooms[3][600];
    const char *model = lasting_path(rooms[0], "copy.gguf"),
               *out = lasting_path(rooms[1], "taught");
    const char *settings = lasting_path(rooms[2], ".taught.lowrank-work/settings.json");
    ck_assert_uint_lt(count, sizeof bytes);
    scratch_write("copy.gguf", bytes, count);
    START(OF_COPY(model, out), "--steps", "100000", "--checkpoint-every", "1", "--quiet");
    while (access(scratch_path(".taught.lowrank-work/checkpoint.safetensors"), F_OK))
        ck_assert_int_eq(waitpid(run.pid, NULL, WNOHANG), 0);
    kill(run.pid, SIGKILL);
    cli_wait(0);
    bytes[count - 1] ^= 1;
    scratch_write("copy.gguf", bytes, count);
    RUN_FAILS(2, "another MODEL", OF_COPY(model, out), "--steps", "100000", "--resume");
    scratch_write(".taught.lowrank-work/settings.json", "{\"model\": ", 10);
    RUN_FAILS(3, settings, OF_COPY(model, out), "--steps", "100000", "--resume");
}
END_TEST

/* A run is killed when its folder is there and its tables are not; only this one may be replaced.
 */
START_TEST(runs_killed_in_saving_are_completed) {
    char rooms[2][600];
    const char *out = lasting_path(rooms[0], "taught");
    const char *saving = lasting_path(rooms[1], ".taught.lowrank-work/saving");
    for (int turn = 0, is_hit = 0; turn < 40 && !is_hit; turn++) {
        RUN_JSON(TRAIN(out, "5"), "--force");
        START(TRAIN(out, "5"), "--force", "--quiet");
        while (access(saving, F_OK) && is_running()) continue;
        kill(run.pid, SIGKILL);
        cli_wait(0);
        is_hit = !access(saving, F_OK) && !access(out, F_OK);
        ck_assert(is_hit || turn < 39);
    }
    RUN_FAILS(1, "exists; --force", TRAIN(out, "5"));
    RUN_JSON(TRAIN(out, "5"), "--resume");
    ck_assert_double_gt(cli_number("tokens_per_second"), 0); /* of steps that were made before */
    ck_assert_int_eq(lines_of(out, "losses.csv"), 6);
    ck_assert_int_ne(access(saving, F_OK), 0);
    RUN_FAILS(1, "exists; --force", TRAIN(out, "5"), "--resume");
}
END_TEST

START_TEST(unfinished_runs_are_not_lost) {
    const char *out = scratch_path("taught"), *work = scratch_path(".taught.lowrank-work");
    const char *checkpoint = scratch_path(".taught.lowrank-work/checkpoint.safetensors");
    START(TRAIN(out, "100000"), "--quiet");
    while (access(checkpoint, F_OK)) ck_assert_int_eq(waitpid(run.pid, NULL, WNOHANG), 0);
    kill(run.pid, SIGKILL);
    cli_wait(0);
    RUN_FAILS(1, "--resume goes on with it", TRAIN(out, "100000"));
    RUN_FAILS(2, "another --steps", TRAIN(out, "7"), "--resume");
    RUN_FAILS(2, "another --seed", TRAIN(out, "100000"), "--resume", "--seed", "1");
    ck_assert_int_eq(access(work, F_OK), 0);
    RUN_JSON(TRAIN(out, "7"), "--force");
    ck_assert_int_ne(access(work, F_OK), 0);
}
END_TEST

/* What comes to be at the output's place during a run is not the run's. */
START_TEST(outputs_of_others_are_left) {
    char rooms[2][600];
    const char *out = lasting_path(rooms[0], "taught");
    const char *settings = lasting_path(rooms[1], ".taught.lowrank-work/settings.json");
    START(TRAIN(out, "300"), "--quiet");
    while (access(settings, F_OK)) ck_assert_int_eq(waitpid(run.pid, NULL, WNOHANG), 0);
    ck_assert_int_eq(mkdir(out, 0700), 0);
    cli_wait(1);
    ck_assert_int_eq(run.code, 1);
    ck_assert_ptr_nonnull(strstr(run.err, "exists; --force"));
    RUN_FAILS(1, "exists; --force", TRAIN(out, "300"), "--resume");
    ck_assert_int_eq(rmdir(out), 0); /* it is as empty as it was */
    RUN_JSON(TRAIN(out, "300"), "--resume");
    ck_assert_int_eq(lines_of(out, "losses.csv"), 301);
}
END_TEST

START_TEST(work_of_other_commands_is_left) {
    char room[600];
    const char *out = scratch_path("taught"), *blocks;
    ck_assert_int_eq(mkdir(scratch_path(".taught.lowrank-work"), 0700), 0);
    blocks = scratch_write(".taught.lowrank-work/work.json", "{}", 2);
    snprintf(room, sizeof room, "%s", blocks);
    RUN_FAILS(1, "unfinished work of compress", TRAIN(out, "5"));
    RUN_FAILS(1, "unfinished work of compress", TRAIN(out, "5"), "--resume");
    ck_assert_int_eq(access(room, F_OK), 0);
    RUN_JSON(TRAIN(out, "5"), "--force");
    ck_assert_int_ne(access(room, F_OK), 0);
}
END_TEST

/* A name need not be UTF-8. */
START_TEST(names_are_bytes) {
    char room[600];
    const char *model = lasting_path(room, "m\xe9"
                                           "del");
    ck_assert_int_eq(symlink(realpath(cli_model(), NULL), model), 0);
    RUN_JSON("train", model, "--text", text_path(), "--out", scratch_path("taught"), "--steps", "2",
             "--window", "16");
    RUN_FAILS(2, "no parameter", TRAIN(scratch_path("other"), "2"), "--train", "\xff*");
}
END_TEST

/* ---- texts ---- */

static double tokens_of(const char *name, const char *text) {
    RUN_JSON("tokenize", cli_model(), "--text", scratch_write(name, text, strlen(text)));
    return (double)json_array_size(cli_member("ids"));
}

#define READ(file)                                                                         \
    "train", cli_model(), "--text", file, "--out", scratch_path("taught"), "--steps", "2", \
        "--window", "4", "--batch", "1", "--force", "--eval", text_path(), "--eval-windows", "1"

static double learnt_from(const char *file, const char *field, const char *self_windows) {
    if (field)
        RUN_JSON(READ(file), "--field", field, "--self-windows", self_windows);
    else
        RUN_JSON(READ(file), "--self-windows", self_windows);
    return cli_number("tokens");
}

/* Each line by itself, one token between them; blank lines and empty texts are nothing. */
START_TEST(lines_of_json_are_texts) {
    static const char lines[] = "{\"text\": \"the and the\\n\", \"other\": \"one, two\"}\r\n"
                                " \t\n"
                                "{\"text\": \"\", \"other\": \"\\u2603\"}\n"
                                "{\"other\": \"and\", \"text\": \"then\"}";
    char room[600];
    const char *file = lasting_path(room, "lines.jsonl");
    scratch_write("lines.jsonl", lines, sizeof lines - 1);
    double text = tokens_of("a", "the and the\n") + tokens_of("b", "then") + 1;
    double other =
        tokens_of("c", "one, two") + tokens_of("d", "\xe2\x98\x83") + tokens_of("e", "and") + 2;
    ck_assert_double_eq(learnt_from(file, NULL, "0"), text);
    ck_assert_double_eq(learnt_from(file, "other", "0"), other);
    ck_assert_double_eq(learnt_from(file, NULL, "3"), text + 1 + 3 * 64);
    double twice = tokens_of("f", "the and the") + 1 + text;
    RUN_JSON(READ(file), "--text", scratch_write("plain", "the and the", 11));
    ck_assert_double_eq(cli_number("tokens"), twice);
}
END_TEST

typedef struct bad_lines {
    const char *text, *said;
} bad_lines;

static const bad_lines bad[] = {
    {"{\"text\": \"a\"}\n{\"text\": \"b\"\n", "lines.jsonl:2: no JSON object"},
    {"\n{\"text\": \"\xff\"}\n", "lines.jsonl:2: no JSON object: unable to decode byte 0xff"},
    {"{\"text\": 3}\n", "lines.jsonl:1: no string of the name \"text\""},
    {"{\"text\": \"a\"}\n[\"text\"]\n", "lines.jsonl:2: no string of the name \"text\""},
    {"{\"text\": \"a\", \"text\": \"b\"}\n", "lines.jsonl:1: no JSON object"},
    {"{\"text\": \"a\"} \033[2J\n", "lines.jsonl:1: no JSON object"},
    {"\n \n{\"text\": \"\"}\n", "no text in 3 lines"},
};

START_TEST(bad_lines_are_named) {
    const char *file = scratch_write("lines.jsonl", bad[_i].text, strlen(bad[_i].text));
    RUN_FAILS(3, bad[_i].said, READ(file));
    ck_assert_ptr_null(strchr(run.err, '\033'));
    ck_assert_int_ne(access(scratch_path("taught"), F_OK), 0);
}
END_TEST

START_TEST(long_lines_are_refused) {
    size_t bytes = ((size_t)64 << 20) + 16;
    char *line = malloc(bytes);
    memset(line, ' ', bytes);
    memcpy(line, "{\"text\": \"a\"}\n", 14);
    line[bytes - 1] = '}';
    RUN_FAILS(3, "lines.jsonl:2: a line of", READ(scratch_write("lines.jsonl", line, bytes)));
    free(line);
}
END_TEST

/* ---- trials ---- */

static void read_column(double *to, const char *out, int column, int rows) {
    char path[700], line[400];
    snprintf(path, sizeof path, "%s/losses.csv", out);
    FILE *table = fopen(path, "r");
    ck_assert_ptr_nonnull(table);
    ck_assert_ptr_nonnull(fgets(line, sizeof line, table));
    for (int i = 0; i < rows; i++) {
        char *rest = line, *cell = NULL;
        ck_assert_ptr_nonnull(fgets(line, sizeof line, table));
        for (int c = 0; c <= column; c++) cell = strsep(&rest, ",");
        to[i] = strtod(cell, NULL);
    }
    fclose(table);
}

/* The table holds what the result tells, and the options have done what they say. */
START_TEST(options_tell_in_the_table) {
    enum { STEPS = 6, LOSS = 1, RATE = 6 };
    double losses[STEPS], rates[STEPS], plain[STEPS];
    const char *out = scratch_path("taught");
    RUN_JSON(TRAIN(out, "6"), "--schedule", "linear", "--warm-up", "2", "--lr", "0.004");
    read_column(losses, out, LOSS, STEPS);
    read_column(rates, out, RATE, STEPS);
    for (int i = 0; i < STEPS; i++) {
        double told = json_number_value(json_array_get(cli_member("losses"), (size_t)i));
        ck_assert_double_eq_tol(losses[i], told, 1e-12 * told);
        double wanted = 0.004 * (i < 2 ? i / 2.0 : (6 - i) / 4.0);
        ck_assert_double_eq_tol(rates[i], wanted, 1e-9);
    }
    RUN_JSON(TRAIN(scratch_path("sgd"), "6"), "--rule", "sgd", "--lr", "0.05");
    read_column(plain, scratch_path("sgd"), LOSS, STEPS);
    RUN_JSON(TRAIN(scratch_path("rolling"), "6"), "--rule", "sgd", "--lr", "0.05", "--momentum",
             "0.9");
    read_column(losses, scratch_path("rolling"), LOSS, STEPS);
    ck_assert(losses[0] == plain[0] && losses[1] == plain[1]); /* v is g at first */
    ck_assert(losses[STEPS - 1] != plain[STEPS - 1]);
}
END_TEST

/* What is not computed again is not computed otherwise. */
START_TEST(kept_activations_change_no_bit) {
    enum { ROOM = 1 << 21 };
    static char again[ROOM], kept[ROOM];
    RUN_JSON(TRAIN(scratch_path("again"), "3"));
    RUN_JSON(TRAIN(scratch_path("kept"), "3"), "--keep-activations");
    size_t bytes = weights(scratch_path("again"), again, ROOM);
    ck_assert_uint_eq(weights(scratch_path("kept"), kept, ROOM), bytes);
    ck_assert_mem_eq(again, kept, bytes);
}
END_TEST

/* Without a file there is text of the model's own to judge on, and it is not what is learnt from.
 */
START_TEST(self_text_judges) {
    RUN_JSON("train", cli_model(), "--self-windows", "2", "--out", scratch_path("taught"),
             "--steps", "2", "--window", "16", "--batch", "1", "--eval-windows", "3");
    const json_t *judged = json_object_get(cli_member("evaluations"), "self-text");
    ck_assert_int_eq(json_integer_value(json_object_get(judged, "windows")), 3);
    ck_assert_double_eq(cli_number("tokens"), 2 * 64);
}
END_TEST

/* Without --eval the last tenth of a text is not learnt from. */
START_TEST(ends_of_texts_are_held_out) {
    RUN_JSON("tokenize", cli_model(), "--text", text_path());
    double all = (double)json_array_size(cli_member("ids"));
    RUN_JSON("train", cli_model(), "--text", text_path(), "--out", scratch_path("taught"),
             "--steps", "2", "--window", "16", "--batch", "1", "--eval-windows", "4");
    const json_t *judged = json_object_get(cli_member("evaluations"), text_path());
    ck_assert_int_eq(json_integer_value(json_object_get(judged, "windows")), 4);
    ck_assert_double_eq(cli_number("tokens"), all - 16 * floor(floor(all / 10) / 16));
}
END_TEST

/* Text of other words is unlearnt after a while: the best step is not the last, and it is what the
 * output holds. */
START_TEST(best_step_is_kept) {
    const char *other = scratch_write("other", "the 12 then under one, other the the 12 and", 43);
    const char *out = scratch_path("taught");
    double least = INFINITY;
    int64_t best = 0;
    RUN_JSON("train", cli_model(), "--text", text_path(), "--eval", other, "--out", out, "--steps",
             "30", "--window", "16", "--batch", "2", "--lr", "0.003", "--dtype", "f32",
             "--eval-every", "4", "--keep-best");
    const json_t *judged = json_object_get(cli_member("evaluations"), other);
    const json_t *during = json_object_get(judged, "during");
    ck_assert_uint_eq(json_array_size(during), 8); /* 4, 8, .. 28, 30 */
    for (size_t i = 0; i < 8; i++) {
        const json_t *trial = json_array_get(during, i);
        double perplexity = json_number_value(json_object_get(trial, "perplexity"));
        if (perplexity < least) best = json_integer_value(json_object_get(trial, "step"));
        least = fmin(least, perplexity);
        ck_assert_ptr_null(json_object_get(trial, "kl"));
    }
    ck_assert_double_eq(cli_number("best_step"), (double)best);
    ck_assert_int_lt(best, 30);
    double after =
        json_number_value(json_object_get(json_object_get(judged, "perplexity"), "after"));
    ck_assert_double_eq_tol(after, least, 1e-9 * least);
    ck_assert_int_eq(lines_of(out, "evaluations.csv"), 9);
    char file[700];
    snprintf(file, sizeof file, "%s/evaluations.svg", out);
    ck_assert_int_eq(access(file, R_OK), 0);
}
END_TEST

START_TEST(hidden_states_are_learnt) {
    RUN_JSON(TRAIN(scratch_path("away"), "12"));
    RUN_JSON("train", scratch_path("away"), "--teacher", cli_model(), "--hidden", "2", "--text",
             text_path(), "--out", scratch_path("back"), "--steps", "12", "--window", "16",
             "--batch", "2", "--lr", "0.003", "--eval-every", "6", "--eval-windows", "4");
    const json_t *losses = cli_member("losses");
    ck_assert_double_lt(json_number_value(json_array_get(losses, 11)),
                        json_number_value(json_array_get(losses, 0)));
    const json_t *judged = json_object_get(cli_member("evaluations"), text_path());
    const json_t *during = json_object_get(judged, "during");
    ck_assert_uint_eq(json_array_size(during), 2);
    double kl_before = json_number_value(json_object_get(judged, "kl_before"));
    const json_t *perplexity = json_object_get(judged, "perplexity");
    ck_assert_double_gt(kl_before, json_number_value(json_object_get(judged, "kl")));
    ck_assert(json_number_value(json_object_get(perplexity, "before")) !=
              json_number_value(json_object_get(judged, "teacher_perplexity")));
    double kl = json_number_value(json_object_get(json_array_get(during, 1), "kl"));
    ck_assert_double_gt(kl, 0);
    ck_assert_double_lt(kl, json_number_value(json_object_get(json_array_get(during, 0), "kl")));
}
END_TEST

/* Nothing is written, and what a run can go on from is kept. */
START_TEST(losses_that_are_not_finite_stop) {
    const char *out = scratch_path("taught");
    RUN_FAILS(4, "there is no checkpoint", "train", cli_model(), "--text", text_path(), "--out",
              out, "--steps", "9", "--window", "16", "--batch", "2", "--lr", "1e30",
              "--checkpoint-every", "1");
    ck_assert_msg(strstr(run.err, "step 2: ") && strstr(run.err, " of model.layers.0."), "%s",
                  run.err);
    ck_assert_int_ne(access(out, F_OK), 0);
}
END_TEST

START_TEST(what_makes_no_sense_is_refused) {
    const char *out = scratch_path("taught");
    RUN_FAILS(2, "no parameter", TRAIN(out, "5"), "--train", "nothing.of.this.name");
    ck_assert_int_ne(access(scratch_path(".taught.lowrank-work"), F_OK), 0);
    RUN_FAILS(2, "--momentum: expected --rule sgd", TRAIN(out, "5"), "--momentum", "0.5");
    RUN_FAILS(2, "--alpha: expected --teacher", TRAIN(out, "5"), "--alpha", "0.5");
    RUN_FAILS(2, "--temperature: expected --teacher", TRAIN(out, "5"), "--temperature", "2");
    RUN_FAILS(2, "--steps", TRAIN(out, "0"));
    RUN_FAILS(2, "expected --teacher", TRAIN(out, "5"), "--hidden", "1");
    RUN_FAILS(2, "expected --eval-every", TRAIN(out, "5"), "--keep-best");
    RUN_FAILS(2, "nothing to learn from", "train", cli_model(), "--self-windows", "0", "--out",
              out);
    RUN_FAILS(2, "expected --eval", "train", cli_model(), "--text",
              scratch_write("short", "the and the and the", 19), "--out", out, "--window", "16");
    ck_assert_int_ne(access(out, F_OK), 0);
}
END_TEST

Suite *cli_train_suite(void) {
    Suite *suite = suite_create("cli_train");
    TCase *tests = tcase_create("cli_train");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_test(tests, training_tells_what_it_did);
    tcase_add_test(tests, pictures_show_the_table);
    tcase_add_test(tests, parts_learn_from_a_teacher);
    tcase_add_loop_test(tests, killed_runs_end_with_the_same_bytes, 0, 2);
    tcase_add_test(tests, cancelled_trials_are_made_up);
    tcase_add_test(tests, runs_killed_in_saving_are_completed);
    tcase_add_test(tests, unfinished_runs_are_not_lost);
    tcase_add_test(tests, replaced_models_are_noticed);
    tcase_add_test(tests, outputs_of_others_are_left);
    tcase_add_test(tests, work_of_other_commands_is_left);
    tcase_add_test(tests, names_are_bytes);
    tcase_add_test(tests, lines_of_json_are_texts);
    tcase_add_loop_test(tests, bad_lines_are_named, 0, sizeof bad / sizeof *bad);
    tcase_add_test(tests, long_lines_are_refused);
    tcase_add_test(tests, options_tell_in_the_table);
    tcase_add_test(tests, kept_activations_change_no_bit);
    tcase_add_test(tests, self_text_judges);
    tcase_add_test(tests, ends_of_texts_are_held_out);
    tcase_add_test(tests, best_step_is_kept);
    tcase_add_test(tests, hidden_states_are_learnt);
    tcase_add_test(tests, losses_that_are_not_finite_stop);
    tcase_add_test(tests, what_makes_no_sense_is_refused);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return suite;
}
