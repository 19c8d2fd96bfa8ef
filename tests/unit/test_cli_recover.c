/* lowrank recover as a script sees it: its stages, its files, and runs that are killed. */
#include "cli_fixture.h"
#include "format/safetensors.h"

static const char *text_path(void) {
    static char path[600];
    char words[3000];
    size_t used = 0;
    if (*path && !access(path, R_OK)) return path;
    for (uint32_t seed = 7; used + 1 < sizeof words; used++) {
        seed = seed * 1664525 + 1013904223;
        words[used] = (char)(seed >> 27 < 26 ? 'a' + (seed >> 27) : ' ');
    }
    scratch_write("text", words, used);
    return lasting_path(path, "text");
}

#define PARTS(out, epochs, steps)                                                                \
    "recover", cli_model(), "--out", out, "--text", text_path(), "--eval", text_path(),          \
        "--eval-windows", "4", "--window", "16", "--step-window", "16", "--batch", "8",          \
        "--samples", "256", "--self-text", "0", "--epochs", epochs, "--steps", steps, "--dtype", \
        "f32"
#define RECOVER(out, epochs, steps) \
    PARTS(out, epochs, steps), "--lr", "0.0002", "--refine-lr", "0.001"

static const json_t *stage(size_t index, const char *name) {
    const json_t *about = json_array_get(cli_member("stages"), index);
    ck_assert_str_eq(json_string_value(json_object_get(about, "stage")), name);
    ck_assert_double_ge(json_number_value(json_object_get(about, "seconds")), 0);
    return json_object_get(json_object_get(about, "evaluations"), text_path());
}

static double kl(size_t index, const char *name) {
    const json_t *kl = json_object_get(stage(index, name), "kl");
    ck_assert(json_is_number(kl));
    return json_number_value(kl);
}

/* Each stage brings the model nearer on the text it learns from. */
START_TEST(stages_come_nearer) {
    char file[700];
    const char *out = scratch_path("small");
    RUN_JSON(RECOVER(out, "4", "30"), "--keep", "0.6");
    ck_assert_uint_eq(json_array_size(cli_member("stages")), 4);
    const json_t *source = stage(0, "source");
    ck_assert_double_gt(json_number_value(json_object_get(source, "perplexity")), 1);
    ck_assert_ptr_null(json_object_get(source, "kl"));
    ck_assert_double_lt(kl(2, "refined"), 0.9 * kl(1, "closed form"));
    ck_assert_double_lt(kl(3, "polished"), kl(2, "refined"));
    ck_assert_double_gt(cli_number("best_step"), 0);
    ck_assert_uint_gt(json_array_size(cli_member("blocks")), 0);
    ck_assert_uint_eq(json_array_size(cli_member("losses")), 30);
    ck_assert_double_le(cli_number("kept_linear"), 0.6);
    ck_assert_double_gt(cli_number("peak_bytes"), 1e6);
    snprintf(file, sizeof file, "%s/losses.csv", out);
    ck_assert(cli_exists(file));
    ck_assert(!cli_exists(scratch_path(".small.lowrank-work")));
    RUN_FAILS(1, "exists; --force", RECOVER(out, "4", "30"), "--keep", "0.6");
}
END_TEST

/* Steps that lead away are not taken: the state that is nearest on held-out text is kept. */
START_TEST(the_nearest_step_is_kept) {
#define STRAY(out, rate)                                                                         \
    "recover", cli_model(), "--out", out, "--keep", "0.7", "--window", "16", "--samples", "64",  \
        "--epochs", "0", "--steps", "10", "--step-window", "16", "--dtype", "f32", "--lr", rate, \
        "--eval", text_path(), "--eval-windows", "4"
    RUN_JSON(STRAY(scratch_path("stray"), "0.2"));
    ck_assert_double_eq(cli_number("best_step"), 0);
    ck_assert(kl(2, "polished") == kl(1, "closed form"));
    char file[700], line[200];
    snprintf(file, sizeof file, "%s/evaluations.csv", scratch_path("stray"));
    FILE *table = fopen(file, "r");
    int rows = 0;
    ck_assert_ptr_nonnull(table);
    while (fgets(line, sizeof line, table)) rows++;
    fclose(table);
    ck_assert_int_eq(rows, 1 + 6); /* steps 0, 2, 4, 6, 8, 10 */
}
END_TEST

/* A model that is factorised already comes with the dense one. */
START_TEST(factorised_models_come_with_their_teacher) {
    char room[700];
    const char *small = scratch_path("small");
    snprintf(room, sizeof room, "%s", small);
    RUN_JSON("compress", cli_model(), "--out", room, "--text", text_path(), "--window", "16",
             "--self-text", "0", "--keep", "0.6");
    RUN_JSON("recover", room, "--teacher", cli_model(), "--out", scratch_path("back"), "--text",
             text_path(), "--eval", text_path(), "--eval-windows", "4", "--window", "16",
             "--self-text", "0", "--samples", "256", "--epochs", "0", "--steps", "40",
             "--step-window", "16", "--lr", "0.0005");
    ck_assert_uint_eq(json_array_size(cli_member("stages")), 3);
    ck_assert_double_lt(kl(2, "polished"), 0.9 * kl(1, "factorised"));
    ck_assert_uint_eq(json_array_size(cli_member("blocks")), 0);
}
END_TEST

/* Without a text the model writes what is learnt from, and other text to be judged on. */
START_TEST(models_write_the_text_themselves) {
    RUN_JSON("recover", cli_model(), "--out", scratch_path("small"), "--keep", "0.7", "--window",
             "16", "--samples", "8", "--epochs", "1", "--steps", "2", "--step-window", "16");
    const json_t *about = json_array_get(cli_member("stages"), 1);
    const json_t *judged = json_object_get(json_object_get(about, "evaluations"), "self-text");
    ck_assert(json_is_number(json_object_get(judged, "kl")));
    ck_assert_double_eq(cli_number("tokens"), 8 * 16);
}
END_TEST

/* Without --eval the last tenth of each text judges, and is not learnt from. */
START_TEST(ends_of_texts_are_held_out) {
    RUN_JSON("tokenize", cli_model(), "--text", text_path());
    double all = floor((double)json_array_size(cli_member("ids")) / 16);
    RUN_JSON("recover", cli_model(), "--out", scratch_path("small"), "--keep", "0.7", "--text",
             text_path(), "--self-text", "0", "--samples", "100000", "--window", "16", "--epochs",
             "1", "--steps", "0");
    ck_assert_double_eq(cli_number("tokens"), 16 * (all - floor(all / 10)));
    ck_assert_double_gt(kl(1, "closed form"), 0);
}
END_TEST

static size_t weights(const char *folder, char *bytes, size_t room) {
    char file[700];
    snprintf(file, sizeof file, "%s/model.safetensors", folder);
    return scratch_read(file, bytes, room);
}

/* Begun or gone on with, and stopped once the file is there. */
static void stop_behind(const char *out, const char *name, int signal) {
    char path[700];
    struct stat before = {0}, now;
    snprintf(path, sizeof path, "%s/.resumed.lowrank-work/%s", scratch, name);
    stat(path, &before);
    START(RECOVER(out, "6", "60"), "--keep", "0.6", "--resume", "--quiet");
    while (stat(path, &now) || now.st_ino == before.st_ino)
        ck_assert_int_eq(waitpid(run.pid, NULL, WNOHANG), 0);
    kill(run.pid, signal);
    cli_wait(0);
    if (signal == SIGTERM) ck_assert_int_eq(run.code, 5);
}

/* Runs that are stopped behind a block and behind checkpoints, and ten that are killed at moments
 * of their own. */
START_TEST(killed_runs_end_with_the_same_bytes) {
    enum { ROOM = 1 << 21 };
    static char whole[ROOM], resumed[ROOM];
    char paths[2][600];
    lasting_path(paths[0], "whole");
    lasting_path(paths[1], "resumed");
    stop_behind(paths[1], "statistics.safetensors", SIGKILL);
    stop_behind(paths[1], "block-0.safetensors", SIGKILL);
    stop_behind(paths[1], "block-1.safetensors", SIGTERM);
    stop_behind(paths[1], "checkpoint.safetensors", SIGKILL);
    stop_behind(paths[1], "checkpoint.safetensors", SIGTERM);
    RUN_JSON(RECOVER(paths[0], "6", "60"), "--keep", "0.6");
    size_t bytes = weights(paths[0], whole, ROOM);
    ck_assert_uint_gt(bytes, 1000);
    for (useconds_t i = 0; i < 10; i++) {
        START(RECOVER(paths[1], "6", "60"), "--keep", "0.6", "--resume", "--quiet");
        usleep(20000 + 40000 * i);
        kill(run.pid, SIGKILL);
        cli_wait(0);
        if (run.signal != SIGKILL) break; /* it was done already */
    }
    if (access(paths[1], F_OK)) RUN_JSON(RECOVER(paths[1], "6", "60"), "--keep", "0.6", "--resume");
    ck_assert_uint_eq(weights(paths[1], resumed, ROOM), bytes);
    ck_assert_mem_eq(whole, resumed, bytes);
}
END_TEST

/* Nothing that decides what the factors are or what is learnt may differ. */
START_TEST(runs_go_on_as_they_began) {
    char weighted[700], rooms[2][600];
    const char *out = lasting_path(rooms[0], "small");
    const char *settings = lasting_path(rooms[1], ".small.lowrank-work/settings.json");
    snprintf(weighted, sizeof weighted, "%s:2", text_path());
    START(RECOVER(out, "50", "60"), "--keep", "0.6", "--quiet");
    for (int i = 0; i < 10000 && !cli_exists(settings); i++) usleep(1000);
    kill(run.pid, SIGKILL);
    cli_wait(0);
    ck_assert_int_eq(run.signal, SIGKILL);
#define RESUME(...) RECOVER(out, "50", "60"), "--resume", "--keep", __VA_ARGS__
    RUN_FAILS(2, "another --keep;", RESUME("0.61"));
    RUN_FAILS(2, "another --storage;", RESUME("0.6", "--storage", "two-factor"));
    RUN_FAILS(2, "another --allocation;", RESUME("0.6", "--allocation", "energy"));
    RUN_FAILS(2, "another --match;", RESUME("0.6", "--match", "*_proj"));
    RUN_FAILS(2, "another --window;", RESUME("0.6", "--window", "32"));
    RUN_FAILS(2, "another --text;", RESUME("0.6", "--text", weighted));
    RUN_FAILS(2, "another --lr;", RESUME("0.6", "--lr", "1"));
    RUN_FAILS(2, "another --seed;", RESUME("0.6", "--seed", "1"));
    RUN_FAILS(2, "another --dtype;", RESUME("0.6", "--dtype", "bf16"));
    ck_assert(!cli_exists(out));
}
END_TEST

/* The text without its end, so that it is whole windows; how many. */
static int whole_windows(char room[600]) {
    static char words[4096];
    size_t used = scratch_read(text_path(), words, sizeof words), tokens;
    do {
        lasting_path(room, "whole.txt");
        scratch_write("whole.txt", words, used--);
        RUN_JSON("tokenize", cli_model(), "--text", room);
        tokens = json_array_size(cli_member("ids"));
    } while (tokens % 16);
    return (int)(tokens / 16);
}

/* What the result says of the last stage is what the command eval says of the files. */
START_TEST(stages_are_what_eval_says) {
    char rooms[2][600], first[20];
    int windows = whole_windows(rooms[0]);
    const char *text = rooms[0], *out = lasting_path(rooms[1], "small");
    ck_assert_int_gt(windows, 8);
    RUN_JSON(RECOVER(out, "1", "5"), "--keep", "0.6", "--eval", text);
    const json_t *about = json_array_get(cli_member("stages"), 3);
    const json_t *judged = json_object_get(json_object_get(about, "evaluations"), text);
    double perplexity = json_number_value(json_object_get(judged, "perplexity"));
    double kl = json_number_value(json_object_get(judged, "kl"));
    double agreement = json_number_value(json_object_get(judged, "agreement"));
    snprintf(first, sizeof first, "%d", windows - 4);
    RUN_JSON("eval", out, "--reference", cli_model(), "--text", text, "--window", "16", "--windows",
             "4", "--first-window", first);
    ck_assert_double_gt(kl, 0);
    ck_assert_double_eq_tol(cli_number("perplexity"), perplexity, 1e-6 * perplexity);
    ck_assert_double_eq_tol(cli_number("kl"), kl, 1e-6 * kl);
    ck_assert_double_eq_tol(cli_number("agreement"), agreement, 1e-9);
}
END_TEST

static int is_norm(const char *name) { return strstr(name, "norm.weight") != NULL; }

static int is_factor(const char *name) {
    return strstr(name, ".left.") || strstr(name, ".right.") || strstr(name, ".pivot.") ||
           strstr(name, ".mix.");
}

/* Tensors of two models of one shape that differ, of those that `is_of` names or of all others. */
static int differing(const char *const folders[2], int (*is_of)(const char *), int others) {
    lr__stored_list lists[2] = {{0}, {0}};
    int found = 0;
    for (int i = 0; i < 2; i++)
        ck_assert_int_ge(lr__safetensors_add_folder(&lists[i], folders[i], 0), 0);
    ck_assert_uint_eq(lists[0].count, lists[1].count);
    for (size_t i = 0; i < lists[0].count; i++) {
        const lr__stored *a = &lists[0].items[i], *b = &lists[1].items[i];
        ck_assert_str_eq(a->name, b->name);
        ck_assert_uint_eq(a->bytes, b->bytes);
        if (is_of(a->name) != others) found += memcmp(a->data, b->data, a->bytes) != 0;
    }
    for (int i = 0; i < 2; i++) lr__stored_list_clear(&lists[i]);
    return found;
}

/* Two rates leave what does not learn alike, in blocks and from end to end. */
START_TEST(what_does_not_learn_stays) {
    int (*const is_of)(const char *) = _i % 2 ? is_factor : is_norm;
    const char *epochs = _i / 2 ? "1" : "0", *steps = _i / 2 ? "0" : "4";
    char rooms[2][600];
    const char *folders[2] = {lasting_path(rooms[0], "a"), lasting_path(rooms[1], "b")};
    for (int i = 0; i < 2; i++) {
        const char *rate = i ? "0.0004" : "0.0002";
        if (_i / 2)
            RUN_JSON(PARTS(folders[i], epochs, steps), "--keep", "0.6", "--train",
                     _i % 2 ? "factors" : "norms", "--refine-lr", rate);
        else
            RUN_JSON(PARTS(folders[i], epochs, steps), "--keep", "0.6", "--train",
                     _i % 2 ? "factors" : "norms", "--lr", rate);
    }
    ck_assert_int_gt(differing(folders, is_of, 0), 1);
    ck_assert_int_eq(differing(folders, is_of, 1), 0);
}
END_TEST

/* Each option of block refinement, and the preset that sets several of them, tells. */
START_TEST(options_of_refinement_tell) {
    static const char *const options[][2] = {{"--batch", "8"},          {"--look-ahead", "0.5"},
                                             {"--dense-inputs", "0.5"}, {"--loss", "cosine"},
                                             {"--preset", "gpu"},       {"--refine-lr", "0.003"}};
    enum { OPTIONS = sizeof options / sizeof *options };
    double after[OPTIONS];
    for (int i = 0; i < OPTIONS; i++) {
        RUN_JSON(PARTS(scratch_path("small"), "2", "0"), "--keep", "0.6", "--force", options[i][0],
                 options[i][1]);
        const json_t *block = json_array_get(cli_member("blocks"), 1);
        after[i] = json_number_value(json_object_get(block, "after"));
        ck_assert_double_gt(after[i], 0);
        for (int k = 0; k < i; k++) ck_assert(after[k] != after[i]);
    }
}
END_TEST

#define BRIEF(out, ...)                                                                        \
    "recover", cli_model(), "--out", out, "--keep", "0.7", "--window", "16", "--samples", "8", \
        "--epochs", "0", "--steps", "1", "--step-window", "16", __VA_ARGS__

/* Factors and ranks follow the loss unless told otherwise. */
START_TEST(the_usual_factors_are_those_of_the_loss) {
    enum { ROOM = 1 << 21 };
    static char usual[ROOM], named[ROOM], other[ROOM];
    RUN_JSON(BRIEF(scratch_path("usual"), "--seed", "0"));
    ck_assert_str_eq(json_string_value(cli_member("allocation")), "first-order");
    ck_assert_double_eq(cli_number("floor"), 0.3);
    ck_assert_double_le(cli_number("kept_linear"), 0.7);
    size_t bytes = weights(scratch_path("usual"), usual, ROOM);
    RUN_JSON(BRIEF(scratch_path("named"), "--method", "kfac", "--allocation", "first-order",
                   "--floor", "0.3"));
    ck_assert_uint_eq(weights(scratch_path("named"), named, ROOM), bytes);
    ck_assert_mem_eq(usual, named, bytes);
    RUN_JSON(BRIEF(scratch_path("other"), "--method", "pca", "--allocation", "first-order"));
    ck_assert(weights(scratch_path("other"), other, ROOM) != bytes || memcmp(usual, other, bytes));
    RUN_JSON(BRIEF(scratch_path("shared"), "--storage", "shared"));
    ck_assert_double_le(cli_number("kept_linear"), 0.7);
    RUN_JSON(BRIEF(scratch_path("exact"), "--method", "qr", "--allocation", "uniform"));
    ck_assert_double_le(cli_number("kept_linear"), 0.7);
}
END_TEST

/* Unless told, a run writes as much as the polish reads once, but at least 64 windows. */
START_TEST(the_polish_reads_fresh_text) {
#define FRESH(out, batch)                                                                         \
    "recover", cli_model(), "--out", out, "--keep", "0.7", "--allocation", "uniform", "--window", \
        "16", "--epochs", "0", "--steps", "5", "--batch", batch, "--step-window", "32"
    RUN_JSON(FRESH(scratch_path("few"), "2"));
    ck_assert_double_eq(cli_number("self_text.windows"), 64);
    RUN_JSON(FRESH(scratch_path("many"), "8"));
    ck_assert_double_eq(cli_number("self_text.windows"), 80);
}
END_TEST

/* auto tries the allocations and takes the one that is nearest on held-out text, as a method that
 * sees no loss does unless told. */
START_TEST(the_nearest_allocation_is_taken) {
    const json_t *candidate;
    size_t i;
    RUN_JSON(BRIEF(scratch_path("small"), "--seed", "3", "--allocation", "auto"));
    const json_t *best = cli_member("held_out");
    double kl = json_number_value(json_object_get(best, "kl"));
    ck_assert_double_gt(kl, 0);
    ck_assert_uint_ge(json_array_size(cli_member("candidates")), 3);
    json_array_foreach(cli_member("candidates"), i, candidate) {
        ck_assert_double_le(kl, json_number_value(json_object_get(candidate, "kl")));
        if (i)
            ck_assert_str_ne(json_string_value(json_object_get(candidate, "allocation")),
                             "uniform");
    }
    RUN_JSON(BRIEF(scratch_path("pca"), "--method", "pca"));
    ck_assert_uint_ge(json_array_size(cli_member("candidates")), 3);
    RUN_JSON(BRIEF(scratch_path("uniform"), "--allocation", "uniform"));
    ck_assert_ptr_null(json_object_get(run.json, "candidates"));
    RUN_JSON("recover", cli_model(), "--out", scratch_path("ranks"), "--ranks", "4", "--window",
             "16", "--samples", "8", "--epochs", "0", "--steps", "1", "--step-window", "16");
    ck_assert_ptr_null(json_object_get(run.json, "candidates"));
}
END_TEST

START_TEST(what_makes_no_sense_is_refused) {
    char room[600];
    const char *out = lasting_path(room, "small");
    RUN_FAILS(2, "no --match, --storage", RECOVER(out, "1", "1"), "--teacher", cli_model(),
              "--storage", "two-factor");
    RUN_FAILS(2, "no --match, --storage", RECOVER(out, "1", "1"), "--teacher", cli_model(),
              "--allocation", "uniform");
    RUN_FAILS(2, "no --match, --storage, --method", RECOVER(out, "1", "1"), "--teacher",
              cli_model(), "--method", "pca");
    RUN_FAILS(2, "nothing to share out", RECOVER(out, "1", "1"), "--ranks", "3", "--allocation",
              "auto");
    RUN_FAILS(2, "--weights is missing", RECOVER(out, "1", "1"), "--keep", "0.6", "--allocation",
              "sensitivity");
    RUN_FAILS(2, "expected exactly one", RECOVER(out, "1", "1"));
    RUN_FAILS(2, "factorised already", RECOVER(out, "1", "1"), "--keep", "0.6", "--teacher",
              cli_model());
    RUN_FAILS(2, "nothing to do", PARTS(out, "0", "0"), "--teacher", cli_model());
    RUN_FAILS(2, "--epochs 0: expected none", PARTS(out, "0", "1"), "--keep", "0.6", "--loss",
              "cosine");
    RUN_FAILS(2, "--epochs 0: expected none", PARTS(out, "0", "1"), "--keep", "0.6", "--patience",
              "0");
    RUN_FAILS(2, "--epochs 0: expected none", PARTS(out, "0", "1"), "--keep", "0.6", "--preset",
              "cpu");
    RUN_FAILS(2, "expected cpu or gpu", PARTS(out, "1", "1"), "--keep", "0.6", "--preset", "tpu");
    RUN_FAILS(2, "--steps 0: expected no --lr", PARTS(out, "1", "0"), "--keep", "0.6", "--lr", "1");
    RUN_FAILS(2, "want equal ranks", PARTS(out, "1", "1"), "--keep", "0.6", "--storage", "shared",
              "--allocation", "first-order");
    RUN_FAILS(2, "--weights: the allocation", PARTS(out, "1", "1"), "--keep", "0.6", "--storage",
              "shared", "--weights", "{}");
    RUN_FAILS(2, "--floor: the allocation", PARTS(out, "1", "1"), "--keep", "0.6", "--allocation",
              "uniform", "--floor", "0.5");
    ck_assert(!cli_exists(out));
}
END_TEST

Suite *cli_recover_suite(void) {
    Suite *suite = suite_create("cli_recover");
    TCase *tests = tcase_create("cli_recover");
    tcase_add_checked_fixture(tests, cli_setup, cli_teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, stages_come_nearer);
    tcase_add_test(tests, the_nearest_step_is_kept);
    tcase_add_test(tests, factorised_models_come_with_their_teacher);
    tcase_add_test(tests, models_write_the_text_themselves);
    tcase_add_test(tests, ends_of_texts_are_held_out);
    tcase_add_test(tests, killed_runs_end_with_the_same_bytes);
    tcase_add_test(tests, runs_go_on_as_they_began);
    tcase_add_test(tests, stages_are_what_eval_says);
    tcase_add_loop_test(tests, what_does_not_learn_stays, 0, 4);
    tcase_add_test(tests, options_of_refinement_tell);
    tcase_add_test(tests, the_usual_factors_are_those_of_the_loss);
    tcase_add_test(tests, the_polish_reads_fresh_text);
    tcase_add_test(tests, the_nearest_allocation_is_taken);
    tcase_add_test(tests, what_makes_no_sense_is_refused);
    suite_add_tcase(suite, tests);
    return suite;
}
