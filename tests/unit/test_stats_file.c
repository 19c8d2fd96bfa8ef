/* Files of statistics: what is saved comes back, and hostile files are refused. The files of the
 * hostile tests are written here, without the library. */
#include "compress/stats.h"
#include "run_fixture.h"

enum { WINDOW = 8, TEXT = 40, HIDDEN = 20, ROOM = 1 << 17 };

static lr_model *model;
static int32_t ids[TEXT];

static void setup(void) {
    scratch_make();
    model = golden_open("llama-f32");
    tiny_text(1, TEXT, tiny_vocabulary(model), ids);
}

static void teardown(void) {
    lr_model_free(model);
    scratch_remove();
}

static const char q0[] = "model.layers.0.self_attn.q_proj";

START_TEST(test_round_trip) {
    lr_stats *stats = stats_of(model, ids, TEXT, WINDOW), *opened;
    const char *path = scratch_path("stats");
    double gram[2][HIDDEN * HIDDEN], mean[2][HIDDEN];
    CHECK_OK(lr_stats_save(stats, path, 0));
    CHECK_FAILS(lr_stats_save(stats, path, 0), LR_E_EXISTS, "stats");
    CHECK_OK(lr_stats_save(stats, path, 1));
    CHECK_OK(lr_stats_open(&opened, model, path));
    ck_assert_int_eq(lr_stats_tokens(opened), TEXT);
    ck_assert_int_eq(opened->module_count, 7);
    ck_assert_int_eq(opened->moments_count, 4);
    for (int i = 0; i < 7; i++) ck_assert_int_eq(opened->moments_of[i], stats->moments_of[i]);
    CHECK_OK(lr_stats_read(stats, q0, gram[0], mean[0]));
    CHECK_OK(lr_stats_read(opened, q0, gram[1], mean[1]));
    for (int i = 0; i < HIDDEN * HIDDEN; i++)
        CHECK_NEAR(gram[0][i], gram[1][i], 1e-15 * fabs(gram[0][i]));
    for (int i = 0; i < HIDDEN; i++) CHECK_NEAR(mean[0][i], mean[1][i], 1e-15 * fabs(mean[0][i]));
    for (int i = 0; i < HIDDEN; i++) {
        CHECK_NEAR(opened->moments[0].absolute[i], stats->moments[0].absolute[i], 1e-14);
        ck_assert(opened->moments[0].most[i] == stats->moments[0].most[i]);
    }
    lr_stats_free(stats);
    lr_stats_free(opened);
}
END_TEST

/* Going on after a round trip is as if there had been none. */
START_TEST(test_continue) {
    lr_stats *whole = stats_of(model, ids, 24, WINDOW), *stats = stats_of(model, ids, 24, WINDOW);
    double gram[2][HIDDEN * HIDDEN];
    CHECK_OK(lr_stats_save(stats, scratch_path("stats"), 0));
    lr_stats_free(stats);
    CHECK_OK(lr_stats_open(&stats, model, scratch_path("stats")));
    CHECK_OK(lr_stats_collect(whole, ids + 24, 16, WINDOW, 2));
    CHECK_OK(lr_stats_collect(stats, ids + 24, 16, WINDOW, 2));
    CHECK_OK(lr_stats_add(stats, whole, 5));
    CHECK_OK(lr_stats_read(whole, q0, gram[0], NULL));
    CHECK_OK(lr_stats_read(stats, q0, gram[1], NULL));
    for (int i = 0; i < HIDDEN * HIDDEN; i++) CHECK_NEAR(gram[0][i], gram[1][i], 1e-14);
    ck_assert_int_eq(lr_stats_tokens(stats), 2 * TEXT);
    lr_stats_free(whole);
    lr_stats_free(stats);
}
END_TEST

START_TEST(test_refused) {
    lr_stats *stats, *none;
    CHECK_OK(lr_stats_new(&stats, model, NULL));
    CHECK_FAILS(lr_stats_save(stats, scratch_path("stats"), 0), LR_E_INVALID,
                "q_proj: no token was counted");
    ck_assert_int_eq(access(scratch_path("stats"), F_OK), -1);
    CHECK_OK(lr_stats_collect(stats, ids, TEXT, WINDOW, 1));
    CHECK_FAILS(lr_stats_save(stats, scratch_path("none/stats"), 0), LR_E_NOTFOUND, "none");
    CHECK_FAILS(lr_stats_open(&none, model, scratch_path("stats")), LR_E_NOTFOUND, "stats");
    ck_assert_ptr_null(none);
    /* Statistics of a wider model. */
    lr_model *other = golden_open("llama-tied");
    CHECK_OK(lr_stats_save(stats, scratch_path("stats"), 0));
    CHECK_FAILS(lr_stats_open(&none, other, scratch_path("stats")), LR_E_SHAPE, "gram");
    lr_model_free(other);
    stats->moments[0].gram[3] = NAN;
    CHECK_FAILS(lr_stats_save(stats, scratch_path("stats"), 1), LR_E_NUMERIC, "not finite");
    lr_stats_free(stats);
    CHECK_OK(lr_stats_open(&stats, model, scratch_path("stats"))); /* the earlier file stands */
    lr_stats_free(stats);
}
END_TEST

/* What a file of statistics says; members left NULL or 0 are as they should be. */
typedef struct hostile {
    const char *format, *version, *inputs, *dtype, *leader;
    int64_t gram, mean, poisoned; /* numbers of the gram and of the mean; place of a NaN from 1 */
    int has_huge;                 /* the fourth number is 1e250 */
    const char *gradients;        /* NULL: none */
    int vectors;                  /* how many of the parts there are */
} hostile;

#define INPUT(modules, tokens, weight) \
    "[{\\\"modules\\\":[" modules "],\\\"tokens\\\":" tokens ",\\\"weight\\\":" weight "}]"
#define GRADIENT(module, weight) \
    "[{\\\"module\\\":" module ",\\\"windows\\\":1,\\\"tokens\\\":5,\\\"weight\\\":" weight "}]"
#define MODULE(name) "\\\"model.layers.0." name "\\\""

static const char *hostile_write(const hostile *h) {
    static char bytes[ROOM];
    static const char *const parts[] = {"gram", "mean", "mean_absolute", "maximum"};
    const char *dtype = h->dtype ? h->dtype : "F64", *leader = h->leader ? h->leader : q0;
    int64_t size = strcmp(dtype, "F64") ? 4 : 8, at = 0;
    int64_t gram = h->gram ? h->gram : HIDDEN * (HIDDEN + 1) / 2;
    char *header = bytes + 8;
    int used =
        snprintf(header, ROOM / 2,
                 "{\"__metadata__\":{\"format\":\"%s\",\"version\":\"%s\",\"inputs\":\"%s\"%s%s%s}",
                 h->format ? h->format : "lowrank-stats", h->version ? h->version : "1",
                 h->inputs ? h->inputs : INPUT(MODULE("self_attn.q_proj"), "5", "1.0"),
                 h->gradients ? ",\"gradients\":\"" : "", h->gradients ? h->gradients : "",
                 h->gradients ? "\"" : "");
    for (int p = 0; p < (h->vectors ? h->vectors : 4); p++) {
        int64_t count = p == 0 ? gram : p == 1 && h->mean ? h->mean : HIDDEN;
        used += snprintf(
            header + used, ROOM / 2 - (size_t)used,
            ",\"%s.%s\":{\"dtype\":\"%s\",\"shape\":[%lld],\"data_offsets\":[%lld,%lld]}", leader,
            parts[p], dtype, (long long)count, (long long)at, (long long)(at + count * size));
        at += count * size;
    }
    header[used++] = '}';
    while (used % 8) header[used++] = ' ';
    uint64_t length = (uint64_t)used;
    memcpy(bytes, &length, 8);
    for (int64_t i = 0; i < at / 8; i++) {
        double value = h->poisoned == i + 1 ? NAN : h->has_huge && i == 3 ? 1e250 : 1;
        memcpy(header + used + i * 8, &value, 8);
    }
    return scratch_write("hostile", bytes, (size_t)(8 + used + at));
}

START_TEST(test_exact_round_trip) {
    lr_stats *stats, *opened;
    lr_stats_opts opts;
    double gram[2][HIDDEN * HIDDEN];
    lr_stats_opts_init(&opts, sizeof opts);
    opts.exact = 1;
    CHECK_OK(lr_stats_new(&stats, model, &opts));
    CHECK_OK(lr_stats_collect(stats, ids, TEXT, WINDOW, 3));
    CHECK_OK(lr_stats_save(stats, scratch_path("stats"), 0));
    CHECK_OK(lr_stats_open(&opened, model, scratch_path("stats")));
    ck_assert_int_eq(opened->is_exact, 1);
    for (int i = 0; i < HIDDEN * HIDDEN; i++)
        CHECK_NEAR(opened->moments[0].root[i], stats->moments[0].root[i],
                   1e-15 * fabs(stats->moments[0].root[i]));
    CHECK_OK(lr_stats_read(stats, q0, gram[0], NULL));
    CHECK_OK(lr_stats_read(opened, q0, gram[1], NULL));
    for (int i = 0; i < HIDDEN * HIDDEN; i++) CHECK_NEAR(gram[0][i], gram[1][i], 1e-14);
    lr_stats_free(stats);
    lr_stats_free(opened);
}
END_TEST

/* An older file without channel statistics opens and serves whatever does not need them, and what
 * is made of it says as little. */
START_TEST(test_missing_vectors) {
    static const hostile old = {.vectors = 2};
    lr_stats *stats, *opened;
    lr_plan *plan;
    lr_plan_opts plan_opts;
    lr_compress_opts opts;
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.ranks = "{\"q_proj\": 4}";
    CHECK_OK(lr_plan_new(&plan, model, &plan_opts));
    CHECK_OK(lr_stats_open(&stats, model, hostile_write(&old)));
    ck_assert_int_eq(stats->moments[0].missing, LR__MISSING_ABSOLUTE | LR__MISSING_MOST);
    CHECK_OK(lr_stats_save(stats, scratch_path("stats"), 0));
    CHECK_OK(lr_stats_open(&opened, model, scratch_path("stats")));
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = "asvd";
    CHECK_FAILS(lr_compress(model, plan, opened, &opts, NULL, NULL), LR_E_NOTFOUND,
                "q_proj: the statistics hold no mean |x| of the channels; collect them anew");
    opts.statistic = "max";
    CHECK_FAILS(lr_compress(model, plan, opened, &opts, NULL, NULL), LR_E_NOTFOUND, "no max |x|");
    opts.method = "qr";
    CHECK_FAILS(lr_compress(model, plan, opened, &opts, NULL, NULL), LR_E_INVALID,
                "q_proj: method qr needs exact statistics");
    opts.method = "asvd";
    opts.statistic = "rms";
    CHECK_OK(lr_compress(model, plan, opened, &opts, NULL, NULL));
    lr_stats_free(opened);
    lr_stats_free(stats);
    lr_plan_free(plan);
}
END_TEST

START_TEST(test_hostile) {
#define Q MODULE("self_attn.q_proj")
#define K MODULE("self_attn.k_proj")
    static const struct {
        hostile file;
        lr_status status;
        const char *text;
    } cases[] = {
        {{0}, LR_OK, ""},
        {{.inputs = INPUT(Q "," K, "5", "1")}, LR_OK, ""},
        {{.format = "pt"}, LR_E_FORMAT, "not a file of statistics"},
        {{.version = "2"}, LR_E_UNSUPPORTED, "version 2, expected 1"},
        {{.inputs = ""}, LR_E_FORMAT, "hostile"},
        {{.inputs = "{}"}, LR_E_FORMAT, "not a list"},
        {{.inputs = "[]"}, LR_E_FORMAT, "no statistics inside"},
        {{.inputs = "[7]"}, LR_E_FORMAT, "an input of 0 tokens"},
        {{.inputs = "[[[[["}, LR_E_FORMAT, "hostile"},
        {{.inputs = INPUT(Q, "0", "1")}, LR_E_FORMAT, "an input of 0 tokens"},
        {{.inputs = INPUT(Q, "-3", "1")}, LR_E_FORMAT, "an input of -3 tokens"},
        {{.inputs = INPUT(Q, "9223372036854775807", "1")}, LR_E_FORMAT, "an input of 92233720"},
        {{.inputs = INPUT(Q, "5.5", "1")}, LR_E_FORMAT, "tokens"},
        {{.inputs = INPUT(Q, "5", "0")}, LR_E_FORMAT, "weight 0"},
        {{.inputs = INPUT(Q, "5", "-1")}, LR_E_FORMAT, "weight -1"},
        {{.inputs = INPUT(Q, "5", "1e999")}, LR_E_FORMAT, "hostile"},
        {{.inputs = INPUT(Q, "5", "1e-310")}, LR_E_FORMAT, "weight 1e-310"},
        {{.inputs = INPUT(Q, "5", "1e308")}, LR_E_FORMAT, "weight 1e+308"},
        {{.gradients = GRADIENT(Q, "1e-310")}, LR_E_FORMAT, "weight 1e-310"},
        {{.gradients = GRADIENT(Q, "1")},
         LR_E_NOTFOUND,
         "no tensor model.layers.0.self_attn.q_proj.gradient_gram"},
        {{.inputs = INPUT(Q, "5", "1e100"), .has_huge = 1},
         LR_E_NUMERIC,
         "gram: number 3 is not finite"},
        {{.inputs = INPUT("", "5", "1")}, LR_E_FORMAT, "an input of 5 tokens"},
        {{.inputs = INPUT("7", "5", "1")}, LR_E_FORMAT, "not text"},
        {{.inputs = INPUT(Q "," Q, "5", "1")}, LR_E_FORMAT, "q_proj stands twice"},
        {{.inputs = INPUT(MODULE("q"), "5", "1")}, LR_E_NOTFOUND, "model.layers.0.q"},
        {{.inputs = INPUT(Q "," MODULE("mlp.down_proj"), "5", "1")},
         LR_E_SHAPE,
         "cannot share the input"},
        {{.inputs = INPUT(K, "5", "1")},
         LR_E_NOTFOUND,
         "no tensor model.layers.0.self_attn.k_proj"},
        {{.dtype = "F32"}, LR_E_SHAPE, "expected 210 numbers of f64"},
        {{.gram = 211}, LR_E_SHAPE, "q_proj.gram: expected 210"},
        {{.gram = 400}, LR_E_SHAPE, "q_proj.gram: expected 210"},
        {{.mean = 19}, LR_E_SHAPE, "q_proj.mean: expected 20"},
        {{.poisoned = 1}, LR_E_NUMERIC, "gram: number 0 is not finite"},
        {{.poisoned = 210 + 20}, LR_E_NUMERIC, "mean: number 19 is not finite"},
        {{.poisoned = 210 + 60}, LR_E_NUMERIC, "maximum: number 19 is not finite"},
    };
#undef Q
#undef K
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lr_stats *stats = NULL;
        lr_status status = lr_stats_open(&stats, model, hostile_write(&cases[i].file));
        ck_assert_msg(status == cases[i].status, "case %zu: %s, %s", i, lr_status_name(status),
                      lr_last_error());
        if (status < 0)
            ck_assert_msg(strstr(lr_last_error(), cases[i].text), "case %zu: %s", i,
                          lr_last_error());
        ck_assert_int_eq(status >= 0, stats != NULL);
        lr_stats_free(stats);
    }
}
END_TEST

/* Moments no input can have are refused where they would be used. */
START_TEST(test_impossible_moments) {
    const hostile file = {0}; /* all ones: the mean fits, rank one */
    lr_stats *stats;
    lr_plan *plan;
    lr_plan_opts plan_opts;
    lr_compress_opts opts;
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.ranks = "{\"q_proj\": 4}";
    CHECK_OK(lr_plan_new(&plan, model, &plan_opts));
    CHECK_OK(lr_stats_open(&stats, model, hostile_write(&file)));
    lr_compress_opts_init(&opts, sizeof opts);
    stats->moments[0].gram[0] = -1;
    CHECK_FAILS(lr_compress(model, plan, stats, &opts, NULL, NULL), LR_E_INVALID, "q_proj: Gram");
    stats->moments[0].gram[0] = 1;
    stats->moments[0].sum[1] = 2;
    opts.method = "afm";
    CHECK_FAILS(lr_compress(model, plan, stats, &opts, NULL, NULL), LR_E_INVALID, "mean [1]");
    lr_stats_free(stats);
    lr_plan_free(plan);
}
END_TEST

/* Every truncation and thousands of flipped bits: an answer, never a fault. */
START_TEST(test_damaged) {
    static char bytes[ROOM];
    lr_stats *stats = stats_of(model, ids, TEXT, WINDOW);
    CHECK_OK(lr_stats_save(stats, scratch_path("stats"), 0));
    lr_stats_free(stats);
    size_t size = scratch_read(scratch_path("stats"), bytes, sizeof bytes);
    ck_assert_uint_lt(size, sizeof bytes);
    for (size_t cut = 0; cut < size; cut += cut < 3000 ? 37 : 997) {
        lr_status status = lr_stats_open(&stats, model, scratch_memory(bytes, cut));
        ck_assert_msg(status < 0, "%zu of %zu bytes", cut, size);
        ck_assert_ptr_null(stats);
    }
    for (uint64_t i = 0; i < 3000; i++) {
        size_t at = tiny_mix(i) % 2200; /* the header */
        char kept = bytes[at];
        bytes[at] ^= (char)(1 << i % 8);
        if (lr_stats_open(&stats, model, scratch_memory(bytes, size)) >= 0) lr_stats_free(stats);
        bytes[at] = kept;
    }
}
END_TEST

Suite *stats_file_suite(void) {
    Suite *suite = suite_create("stats_file");
    TCase *tests = tcase_create("stats_file");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, test_round_trip);
    tcase_add_test(tests, test_continue);
    tcase_add_test(tests, test_exact_round_trip);
    tcase_add_test(tests, test_missing_vectors);
    tcase_add_test(tests, test_refused);
    tcase_add_test(tests, test_hostile);
    tcase_add_test(tests, test_impossible_moments);
    tcase_add_test(tests, test_damaged);
    suite_add_tcase(suite, tests);
    return suite;
}
