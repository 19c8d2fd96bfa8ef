/* lowrank distill as a script sees it: its result, the files of losses, the model it writes. */
#include "cli_fixture.h"

#include <math.h>

/* Letters in no order: every window differs. */
static const char *text_path(void) {
    static char path[600];
    char letters[6000];
    unsigned state = 1;
    if (*path && !access(path, R_OK)) return path;
    for (size_t i = 0; i < sizeof letters; i++) {
        state = state * 1103515245u + 12345u;
        letters[i] = (char)(state >> 28 ? 'a' + (state >> 16) % 26 : ' ');
    }
    scratch_write("letters", letters, sizeof letters);
    return lasting_path(path, "letters");
}

#define RANKS "{\"q_proj\": 20, \"gate_proj\": 16}"
#define DISTILL(out, steps)                                                                     \
    "distill", cli_model(), "--text", text_path(), "--self-text", "0", "--out", out, "--steps", \
        steps, "--window", "16", "--samples", "20", "--ranks", RANKS, "--dtype", "f32"

static const json_t *module_of(const char *name) {
    const json_t *row;
    size_t i;
    json_array_foreach(cli_member("modules"), i, row) {
        if (!strcmp(json_string_value(json_object_get(row, "module")), name)) return row;
    }
    ck_abort_msg("no module %s in %s", name, run.out);
}

static double of(const json_t *row, const char *key) {
    const json_t *value = json_object_get(row, key);
    ck_assert_msg(json_is_number(value), "no number %s", key);
    return json_number_value(value);
}

/* The file of a module as numbers; how many of them. */
static int losses_of(const char *out, const char *module, double *losses, int most) {
    static char text[1 << 14];
    char path[700];
    int count = 0;
    snprintf(path, sizeof path, "%s/losses/%s.losses", out, module);
    text[scratch_read(path, text, sizeof text - 1)] = '\0';
    for (char *rest = text, *line; count < most && (line = strsep(&rest, "\n"));) {
        ck_assert_int_ne(*line, '\0');
        losses[count++] = strtod(line, NULL);
    }
    return count;
}

START_TEST(distilling_tells_what_it_did) {
    const char *out = scratch_path("small"), *gate = "model.layers.1.mlp.gate_proj";
    double losses[40];
    RUN_JSON(DISTILL(out, "30"), "--start", "svd", "--tail", "--lr", "3e-3", "--batch", "4",
             "--eval", text_path(), "--eval-windows", "4");
    ck_assert_uint_eq(json_array_size(cli_member("modules")), 4);
    ck_assert_double_eq(cli_number("windows"), 18);
    ck_assert_double_eq(cli_number("held_out"), 2);
    ck_assert_double_eq(cli_number("steps"), 30);
    ck_assert_double_gt(cli_number("peak_bytes"), 1e6);
    ck_assert_double_ge(cli_number("seconds.distill"), 0);
    ck_assert_str_eq(json_string_value(cli_member("start")), "svd");
    ck_assert_str_eq(json_string_value(cli_member("stream")), "teacher");
    ck_assert_double_lt(cli_number("relative_loss.last"), cli_number("relative_loss.first"));
    const json_t *row = module_of(gate);
    ck_assert_int_eq(losses_of(out, gate, losses, 40), 30);
    ck_assert_double_eq_tol(losses[0], of(row, "first"), 1e-14 * losses[0]); /* 15 digits */
    ck_assert_double_eq_tol(losses[29], of(row, "last"), 1e-14 * losses[29]);
    ck_assert_double_eq(of(row, "rank"), 16);
    ck_assert_double_eq(of(row, "steps"), 30);
    ck_assert_double_lt(of(row, "best"), of(row, "start"));
    ck_assert_double_gt(of(row, "tail"), 0);
    ck_assert_double_lt(of(row, "tail"), of(row, "first"));
    ck_assert_double_lt(of(row, "first"), of(row, "energy"));
    const json_t *judged = json_object_get(cli_member("evaluations"), text_path());
    ck_assert_double_gt(of(judged, "kl"), 0);
    RUN_JSON("info", out);
    ck_assert_double_eq(cli_number("types.gate_proj.most_rank"), 16);
    ck_assert_str_eq(json_string_value(cli_member("types.gate_proj.storage")), "two-factor");
    RUN_FAILS(1, "exists; --force", DISTILL(out, "3"));
}
END_TEST

/* Statistics of all windows, all windows in each step: the first loss is the tail. */
START_TEST(closed_form_starts_at_the_tail) {
    const char *const storages[] = {"two-factor", "pivot"};
    RUN_JSON(DISTILL(scratch_path("small"), "2"), "--held-out", "0", "--batch", "20", "--storage",
             storages[_i]);
    const json_t *row;
    size_t i;
    json_array_foreach(cli_member("modules"), i, row) {
        double tail = of(row, "tail");
        ck_assert_double_gt(tail, 1e-3 * of(row, "energy"));
        ck_assert_double_eq_tol(of(row, "first"), tail, 1e-5 * tail);
        ck_assert_ptr_null(json_object_get(row, "start")); /* nothing was held out */
    }
    ck_assert_uint_eq(i, 4);
}
END_TEST

/* The last gate reads what three cut modules changed, so no two streams begin alike. */
START_TEST(streams_are_told_apart) {
    static const char *const streams[] = {"teacher", "shift", "anchored"};
    double first[3];
    for (int i = 0; i < 3; i++) {
        RUN_JSON(DISTILL(scratch_path(streams[i]), "2"), "--held-out", "0", "--batch", "20",
                 "--stream", streams[i]);
        first[i] = of(module_of("model.layers.1.mlp.gate_proj"), "first");
        ck_assert_str_eq(json_string_value(cli_member("stream")), streams[i]);
    }
    ck_assert_double_gt(fabs(first[1] - first[0]), 1e-4 * first[0]);
    ck_assert_double_gt(first[2], first[0]);
    ck_assert_double_gt(first[2], first[1]); /* it answers for the errors before it too */
}
END_TEST

START_TEST(same_seed_same_bytes) {
    enum { ROOM = 1 << 21 };
    static char a[ROOM], b[ROOM];
    const char *const names[] = {"a", "b"};
    size_t bytes[2];
    for (int i = 0; i < 2; i++) {
        char file[700];
        RUN_JSON(DISTILL(scratch_path(names[i]), "12"), "--seed", "3", "--stream", "shift", "--lr",
                 "1e-3");
        snprintf(file, sizeof file, "%s/model.safetensors", scratch_path(names[i]));
        bytes[i] = scratch_read(file, i ? b : a, ROOM);
    }
    ck_assert_uint_gt(bytes[0], 1000);
    ck_assert_uint_eq(bytes[0], bytes[1]);
    ck_assert_mem_eq(a, b, bytes[0]);
}
END_TEST

/* ---- runs that are interrupted ---- */

enum { WEIGHTS_ROOM = 1 << 21 };

static size_t weights(const char *folder, char *bytes) {
    char file[700];
    snprintf(file, sizeof file, "%s/model.safetensors", folder);
    return scratch_read(file, bytes, WEIGHTS_ROOM);
}

#define LONG(out) \
    DISTILL(out, "200"), "--stream", "anchored", "--lr", "1e-3", "--checkpoint-every", "10"

/* Stopped each time once a checkpoint of its own is there, in turn killed and asked. */
START_TEST(interrupted_runs_end_with_the_same_bytes) {
    static char whole[WEIGHTS_ROOM], resumed[WEIGHTS_ROOM];
    static const char last[] = "model.layers.1.mlp.gate_proj";
    char rooms[2][600];
    double losses[2][220];
    struct stat seen = {0}, now;
    const char *one = lasting_path(rooms[0], "whole"), *out = lasting_path(rooms[1], "resumed");
    const char *checkpoint = scratch_path(".resumed.lowrank-work/checkpoint.safetensors");
    RUN_JSON(LONG(one));
    for (int i = 0; i < 4; i++) {
        START(LONG(out), "--resume", "--quiet");
        while (stat(checkpoint, &now) || now.st_ino == seen.st_ino)
            ck_assert_int_eq(waitpid(run.pid, NULL, WNOHANG), 0);
        seen = now;
        kill(run.pid, i % 2 ? SIGTERM : SIGKILL);
        cli_wait(0);
        if (i % 2) ck_assert_int_eq(run.code, 5);
        ck_assert_int_ne(access(out, F_OK), 0);
    }
    RUN_FAILS(1, "--resume goes on with it", LONG(out));
    RUN_FAILS(2, "another --stream", LONG(out), "--resume", "--stream", "shift");
    RUN_FAILS(2, "another --ranks", LONG(out), "--resume", "--ranks", "{\"q_proj\": 20}");
    RUN_JSON(LONG(out), "--resume");
    size_t bytes = weights(one, whole);
    ck_assert_uint_gt(bytes, 1000);
    ck_assert_uint_eq(weights(out, resumed), bytes);
    ck_assert_mem_eq(whole, resumed, bytes);
    ck_assert_int_eq(losses_of(one, last, losses[0], 220), 200);
    ck_assert_int_eq(losses_of(out, last, losses[1], 220), 200);
    ck_assert_mem_eq(losses[0], losses[1], 200 * sizeof losses[0][0]);
    ck_assert_int_ne(access(scratch_path(".resumed.lowrank-work"), F_OK), 0);
}
END_TEST

/* Without --quiet one line for all modules every so many steps; patience ends a hopeless run. */
START_TEST(messages_and_patience) {
    RUN(0, DISTILL(scratch_path("small"), "40"), "--lr", "0.3", "--check-every", "3", "--patience",
        "2", "--json");
    ck_assert_ptr_nonnull(strstr(run.err, "step 1: relative loss "));
    ck_assert_ptr_nonnull(strstr(run.err, ", mean of 4 modules"));
    const json_t *row = module_of("model.layers.0.mlp.gate_proj");
    ck_assert_double_eq(of(row, "steps"), 6);
    ck_assert_double_eq(of(row, "best_step"), 0);
    ck_assert(of(row, "best") == of(row, "start"));
}
END_TEST

/* Ranks and form stand in the plan. */
START_TEST(plans_are_followed) {
    char rooms[2][600];
    const char *plan = lasting_path(rooms[0], "plan.json"), *out = lasting_path(rooms[1], "small");
    for (int i = 0; i < 2; i++) {
        RUN_JSON("plan", cli_model(), "--keep", "0.6", "--storage", i ? "shared" : "pivot", "--out",
                 plan, "--force");
        double rank =
            json_number_value(json_object_get(cli_member("ranks"), "model.layers.1.mlp.up_proj"));
        if (i) {
            RUN_FAILS(2, "shared storage, and each module", "distill", cli_model(), "--plan", plan,
                      "--out", scratch_path("other"), "--text", text_path());
            break;
        }
        RUN_JSON("distill", cli_model(), "--plan", plan, "--out", out, "--text", text_path(),
                 "--self-text", "0", "--steps", "2", "--window", "16", "--samples", "20");
        ck_assert_double_eq(of(module_of("model.layers.1.mlp.up_proj"), "rank"), rank);
        ck_assert_uint_eq(json_array_size(cli_member("modules")), 14);
        RUN_JSON("info", out);
        ck_assert_str_eq(json_string_value(cli_member("types.up_proj.storage")), "pivot");
    }
}
END_TEST

START_TEST(what_makes_no_sense_is_refused) {
    const char *out = scratch_path("small"), *text = text_path();
    RUN_FAILS(2, "expected exactly one", "distill", cli_model(), "--out", out, "--text", text);
    RUN_FAILS(2, "expected teacher, shift or anchored", DISTILL(out, "3"), "--stream", "both");
    RUN_FAILS(2, "expected two-factor or pivot", DISTILL(out, "3"), "--storage", "shared");
    RUN_FAILS(2, "--steps", DISTILL(out, "0"));
    RUN_FAILS(2, "expected no weight", "distill", cli_model(), "--out", out, "--text", "a:0.5",
              "--keep", "0.5");
    RUN_FAILS(2, "nothing to learn from", "distill", cli_model(), "--out", out, "--self-text", "0",
              "--keep", "0.5");
    RUN_FAILS(2, "leave none to learn from", DISTILL(out, "3"), "--held-out", "20");
    RUN_FAILS(2, "nothing to train", "distill", cli_model(), "--out", out, "--text", text, "--keep",
              "1", "--self-text", "0");
    RUN_FAILS(2, "no linear module matches", "distill", cli_model(), "--out", out, "--text", text,
              "--ranks", "{\"nothing\": 4}");
    RUN_FAILS(4, "step 2: model.layers.0.self_attn.q_proj", DISTILL(out, "3"), "--lr", "1e30",
              "--weight-decay", "0");
    ck_assert_int_ne(access(out, F_OK), 0);
}
END_TEST

Suite *cli_distill_suite(void) {
    Suite *suite = suite_create("cli_distill");
    TCase *tests = tcase_create("cli_distill");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_test(tests, distilling_tells_what_it_did);
    tcase_add_loop_test(tests, closed_form_starts_at_the_tail, 0, 2);
    tcase_add_test(tests, streams_are_told_apart);
    tcase_add_test(tests, same_seed_same_bytes);
    tcase_add_test(tests, interrupted_runs_end_with_the_same_bytes);
    tcase_add_test(tests, messages_and_patience);
    tcase_add_test(tests, plans_are_followed);
    tcase_add_test(tests, what_makes_no_sense_is_refused);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return suite;
}
