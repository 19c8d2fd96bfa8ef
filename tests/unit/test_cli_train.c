/* lowrank train as a script sees it: its result and files, and runs that are killed. */
#include "cli_fixture.h"

static const char *text_path(void) {
    static const char *path;
    char words[6000];
    size_t used = 0;
    if (path && !access(path, R_OK)) return path;
    for (int i = 0; used + 16 < sizeof words; i++)
        used += (size_t)snprintf(words + used, sizeof words - used, "%s ", i % 3 ? "the" : "and");
    return path = scratch_write("text", words, used);
}

#define TRAIN(out, steps)                                                                          \
    "train", cli_model(), "--text", text_path(), "--out", out, "--steps", steps, "--window", "16", \
        "--batch", "2", "--lr", "0.003", "--dtype", "f32", "--checkpoint-every", "5",              \
        "--eval-windows", "4"

START_TEST(training_tells_what_it_did) {
    const char *out = scratch_path("taught");
    char file[700], line[64];
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
    ck_assert_str_eq(line, "step,loss,next_token,divergence,norm,learning_rate,seconds\n");
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

/* Ten runs are killed at moments of their own, most of them somewhere in the steps. */
START_TEST(killed_runs_end_with_the_same_bytes) {
    enum { ROOM = 1 << 21 };
    static char whole[ROOM], resumed[ROOM];
    const char *out = scratch_path("resumed");
    RUN_JSON(TRAIN(scratch_path("whole"), "60"));
    size_t bytes = weights(scratch_path("whole"), whole, ROOM);
    ck_assert_uint_gt(bytes, 1000);
    for (useconds_t i = 0; i < 10; i++) {
        START(TRAIN(out, "60"), "--resume", "--quiet");
        usleep(5000 + 17000 * i);
        kill(run.pid, SIGKILL);
        cli_wait(0);
        if (run.signal != SIGKILL) break; /* it was done already */
    }
    if (access(out, F_OK)) RUN_JSON(TRAIN(out, "60"), "--resume");
    ck_assert_uint_eq(weights(out, resumed, ROOM), bytes);
    ck_assert_mem_eq(whole, resumed, bytes);
    ck_assert_int_eq(lines_of(out, "losses.csv"), 61); /* no step is missing */
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
    ck_assert_int_eq(access(work, F_OK), 0);
    RUN_JSON(TRAIN(out, "7"), "--force");
    ck_assert_int_ne(access(work, F_OK), 0);
}
END_TEST

START_TEST(what_makes_no_sense_is_refused) {
    const char *out = scratch_path("taught");
    RUN_FAILS(3, "no parameter", TRAIN(out, "5"), "--train", "nothing.of.this.name");
    RUN_FAILS(2, "--steps", TRAIN(out, "0"));
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
    tcase_add_test(tests, parts_learn_from_a_teacher);
    tcase_add_test(tests, killed_runs_end_with_the_same_bytes);
    tcase_add_test(tests, unfinished_runs_are_not_lost);
    tcase_add_test(tests, what_makes_no_sense_is_refused);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return suite;
}
