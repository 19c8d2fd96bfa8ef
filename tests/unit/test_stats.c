/* Statistics against sums of the inputs that hooks saw, their arithmetic, and their place in a
 * host's own session. */
#include "compress/stats.h"
#include "run_fixture.h"

enum { WINDOW = 8, WINDOWS = 5, TEXT = WINDOW * WINDOWS + 3 };

static lr_model *model;
static int32_t ids[TEXT], more[TEXT];

static const char *const models[] = {"llama-tied", "llama-bias-sharded", "gguf-mixed/model.gguf",
                                     "qwen3", "mistral-window"};
enum { MODELS = sizeof models / sizeof *models };

static void open_named(const char *name) {
    lr_model_free(model);
    model = golden_open(name);
    tiny_text(1, TEXT, tiny_vocabulary(model), ids);
    tiny_text(2, TEXT, tiny_vocabulary(model), more);
}

static void setup(void) {
    scratch_make();
    open_named("llama-tied");
}

static void teardown(void) {
    lr_model_free(model);
    model = NULL;
    scratch_remove();
}

static const char q0[] = "model.layers.0.self_attn.q_proj";
static const char down1[] = "model.layers.1.mlp.down_proj";
enum { HIDDEN = 36, WIDE = 52 };

static lr_stats *stats_new(const char *pattern) {
    lr_stats *stats;
    lr_stats_opts opts;
    lr_stats_opts_init(&opts, sizeof opts);
    opts.pattern = pattern;
    CHECK_OK(lr_stats_new(&stats, model, &opts));
    return stats;
}

/* Largest difference of two statistics, relative to the largest number. */
static double distance(const lr_stats *a, const lr_stats *b, const char *module, int64_t n) {
    double *x = calloc((size_t)(4 * n * n), sizeof *x), *y = x + n * n + n, most = 0, size = 0;
    CHECK_OK(lr_stats_read(a, module, x, x + n * n));
    CHECK_OK(lr_stats_read(b, module, y, y + n * n));
    for (int64_t i = 0; i < n * n + n; i++) {
        most = fmax(most, fabs(x[i] - y[i]));
        size = fmax(size, fabs(x[i]));
    }
    free(x);
    return most / size;
}

/* The last three tokens make no window. */
START_TEST(test_collect) {
    open_named(models[_i]);
    captures *seen = capture_windows(model, ids, WINDOW, WINDOWS);
    lr_stats *stats = stats_of(model, ids, TEXT, WINDOW);
    ck_assert_int_eq(lr_stats_tokens(stats), WINDOW * WINDOWS);
    ck_assert_int_eq(stats->module_count, seen->count);
    for (int i = 0; i < seen->count; i++) CHECK_STATS(stats, &seen->items[i], 1e-5);
    lr_stats_free(stats);
    captures_free(seen);
}
END_TEST

static lr_status stats_of_plan(lr_stats **out, const char *ranks) {
    lr_plan *plan;
    lr_plan_opts how;
    lr_stats_opts opts;
    lr_plan_opts_init(&how, sizeof how);
    how.ranks = ranks;
    CHECK_OK(lr_plan_new(&plan, model, &how));
    lr_stats_opts_init(&opts, sizeof opts);
    opts.plan = plan;
    lr_status status = lr_stats_new(out, model, &opts);
    lr_plan_free(plan);
    return status;
}

START_TEST(test_modules_of_a_plan) {
    lr_stats *stats;
    CHECK_OK(stats_of_plan(&stats, "{\"*.1.*.{q,down}_proj\": 5}"));
    ck_assert_int_eq(stats->module_count, 2);
    ck_assert_str_eq(stats->modules[0], "model.layers.1.self_attn.q_proj");
    ck_assert_str_eq(stats->modules[1], down1);
    lr_stats_free(stats);
    ck_assert_int_eq(stats_of_plan(&stats, "{\"*.q_proj\": 0}"), LR_E_NOTFOUND);
    ck_assert_ptr_null(stats);
}
END_TEST

START_TEST(test_shared_inputs) {
    static const char *const suffix[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                         "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                         "mlp.down_proj"};
    static const int input[] = {0, 0, 0, 1, 2, 2, 3};
    char name[64];
    int32_t index;
    lr_stats *stats = stats_of(model, ids, TEXT, WINDOW);
    ck_assert_int_eq(stats->moments_count, 2 * 4);
    for (int layer = 0; layer < 2; layer++)
        for (int i = 0; i < 7; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s", layer, suffix[i]);
            CHECK_OK(lr__stats_find(stats, name, &index));
            ck_assert_int_eq(stats->moments_of[index], 4 * layer + input[i]);
        }
    lr_stats_free(stats);
}
END_TEST

/* Two sessions of the host, cut into uneven steps, each token with its session's weight. */
START_TEST(test_attach) {
    lr_stats *stats = stats_new("*");
    lr_hooks *hooks[2];
    lr_session *sessions[2];
    captures *seen[2];
    const double weights[2] = {0.5, 3};
    for (int s = 0; s < 2; s++) {
        seen[s] = calloc(1, sizeof *seen[s]);
        CHECK_OK(lr_hooks_new(&hooks[s]));
        CHECK_OK(lr_stats_attach(stats, hooks[s], weights[s]));
        CHECK_OK(lr_hook_add(hooks[s], "*_proj", LR_AFTER_FORWARD, capture_hook, seen[s], NULL));
        sessions[s] = tiny_session(model, 2, s ? LR_STEP_BATCH : LR_STEP_ROWS, 0, hooks[s]);
    }
    for (int32_t at = 0; at < 20; at += 5)
        for (int s = 0; s < 2; s++) {
            lr_segment segments[2] = {{0, 5, ids + at}, {1, 1 + s, more + at}};
            CHECK_OK(lr_session_forward(sessions[s], segments, 2, NULL));
        }
    for (int i = 0; i < seen[0]->count; i++) {
        capture *a = &seen[0]->items[i], *b = captured(seen[1], a->module);
        int64_t n = a->in;
        double *x = direct_gram(a), *y = direct_gram(b);
        double *got = calloc((size_t)(n * n), sizeof *got);
        double left = weights[0] * (double)a->tokens, right = weights[1] * (double)b->tokens;
        ck_assert_int_eq(a->tokens, 24);
        ck_assert_int_eq(b->tokens, 28);
        CHECK_OK(lr_stats_read(stats, a->module, got, NULL));
        for (int64_t k = 0; k < n * n; k++) {
            double mixed = (left * x[k] + right * y[k]) / (left + right);
            CHECK_NEAR(got[k], mixed, 1e-13 * (x[k / n * (n + 1)] + y[k / n * (n + 1)] + 1));
        }
        free(x);
        free(y);
        free(got);
    }
    ck_assert_int_eq(lr_stats_tokens(stats), 24 + 28);
    for (int s = 0; s < 2; s++) {
        lr_session_free(sessions[s]);
        lr_hooks_free(hooks[s]);
        captures_free(seen[s]);
    }
    lr_stats_free(stats);
}
END_TEST

/* The head is watched when asked for; it has an input of its own. */
START_TEST(test_head) {
    open_named("llama-bias-sharded");
    lr_stats *stats = stats_new("{lm_head,q_proj}");
    lr_hooks *hooks;
    double nll[TEXT];
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_stats_attach(stats, hooks, 1));
    lr_session *session = tiny_session(model, 1, LR_STEP_BATCH, 1, hooks);
    lr_segment segment = {0, WINDOW, ids};
    CHECK_OK(lr_session_loss(session, &segment, 1, nll));
    CHECK_OK(lr_stats_read(stats, "lm_head", NULL, NULL));
    ck_assert_int_eq(stats->moments_count, 3);
    ck_assert_int_eq(stats->moments[stats->moments_of[2]].tokens, WINDOW - 1);
    lr_session_free(session);
    lr_hooks_free(hooks);
    lr_stats_free(stats);
}
END_TEST

/* A text counts by its weight, not by its length. */
START_TEST(test_weights) {
    lr_stats *a = stats_of(model, ids, TEXT, WINDOW), *b = stats_of(model, more, 16, WINDOW);
    lr_stats *both = stats_new("*_proj");
    CHECK_OK(lr_stats_collect(both, ids, TEXT, WINDOW, 1));
    CHECK_OK(lr_stats_collect(both, more, 16, WINDOW, 3));
    ck_assert_int_eq(lr_stats_tokens(both), WINDOW * WINDOWS + 16);
    for (int i = 0; i < 2; i++) {
        int64_t n = i ? WIDE : HIDDEN;
        const char *name = i ? down1 : q0;
        double *x = calloc((size_t)(3 * n * n), sizeof *x), *y = x + n * n, *z = y + n * n;
        CHECK_OK(lr_stats_read(a, name, x, NULL));
        CHECK_OK(lr_stats_read(b, name, y, NULL));
        CHECK_OK(lr_stats_read(both, name, z, NULL));
        for (int64_t k = 0; k < n * n; k++)
            CHECK_NEAR(z[k], (x[k] + 3 * y[k]) / 4, 1e-13 * (fabs(x[k]) + fabs(y[k]) + 1));
        free(x);
    }
    lr_stats *sum = stats_new("*_proj");
    CHECK_OK(lr_stats_add(sum, a, 1));
    CHECK_OK(lr_stats_add(sum, b, 3));
    ck_assert_int_eq(lr_stats_tokens(sum), lr_stats_tokens(both));
    ck_assert(distance(both, sum, q0, HIDDEN) < 1e-14);
    ck_assert(distance(both, sum, down1, WIDE) < 1e-14);
    lr_stats_free(sum);
    lr_stats_free(both);
    lr_stats_free(a);
    lr_stats_free(b);
}
END_TEST

/* Windows [first, first + windows), a forward for each, so that their numbers do not depend on how
 * the text is cut. */
static lr_stats *stats_of_windows(int32_t first, int32_t windows) {
    lr_stats *stats = stats_new("*_proj");
    lr_hooks *hooks;
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_stats_attach(stats, hooks, 1));
    lr_session *session = tiny_session(model, 1, LR_STEP_BATCH, 1, hooks);
    for (int32_t w = first; w < first + windows; w++) {
        lr_segment segment = {0, WINDOW, ids + w * WINDOW};
        CHECK_OK(lr_session_forward(session, &segment, 1, NULL));
    }
    lr_session_free(session);
    lr_hooks_free(hooks);
    return stats;
}

/* O20: parts of a text, merged by their tokens, are the whole; in the same order, to the bit. */
START_TEST(test_split) {
    static const int32_t parts[][5] = {{2, 3}, {1, 1, 3}, {1, 1, 1, 1, 1}};
    lr_stats *whole = stats_of_windows(0, WINDOWS), *batched = stats_of(model, ids, TEXT, WINDOW);
    ck_assert(distance(whole, batched, q0, HIDDEN) < 1e-6);
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
        lr_stats *sums[2] = {stats_new("*_proj"), stats_new("*_proj")};
        for (int s = 0; s < 2; s++)
            for (int32_t k = 0, at = 0; k < 5 && parts[p][k]; at += parts[p][k++]) {
                lr_stats *part = stats_of_windows(at, parts[p][k]);
                CHECK_OK(lr_stats_add(sums[s], part, parts[p][k]));
                lr_stats_free(part);
            }
        ck_assert_int_eq(lr_stats_tokens(sums[0]), WINDOW * WINDOWS);
        ck_assert(distance(whole, sums[0], q0, HIDDEN) < 1e-14);
        ck_assert(distance(whole, sums[0], down1, WIDE) < 1e-14);
        ck_assert(distance(sums[0], sums[1], q0, HIDDEN) == 0);
        ck_assert(distance(sums[0], sums[1], down1, WIDE) == 0);
        for (int i = 0; i < HIDDEN; i++)
            ck_assert(sums[0]->moments[0].most[i] == whole->moments[0].most[i]);
        lr_stats_free(sums[0]);
        lr_stats_free(sums[1]);
    }
    lr_stats_free(batched);
    lr_stats_free(whole);
}
END_TEST

START_TEST(test_add_refused) {
    lr_stats *a = stats_of(model, ids, TEXT, WINDOW), *empty = stats_new("*_proj");
    lr_stats *mlp = stats_new("model.layers.*.mlp.*"), *copy = stats_of(model, ids, TEXT, WINDOW);
    CHECK_FAILS(lr_stats_add(a, a, 1), LR_E_INVALID, "two statistics");
    CHECK_FAILS(lr_stats_add(a, copy, 0), LR_E_INVALID, "positive weight");
    CHECK_FAILS(lr_stats_add(a, copy, NAN), LR_E_INVALID, "positive weight");
    CHECK_FAILS(lr_stats_add(a, empty, 1), LR_E_INVALID, "q_proj: no token was counted");
    CHECK_FAILS(lr_stats_add(a, mlp, 1), LR_E_SHAPE, "statistics of 6 modules, expected 14");
    /* As a file may say it: k with an input of its own. */
    int32_t k;
    CHECK_OK(lr__stats_find(copy, "model.layers.0.self_attn.k_proj", &k));
    copy->moments_of[k] = 1;
    copy->sizes[k] = 54;
    CHECK_FAILS(lr_stats_add(a, copy, 1), LR_E_SHAPE, "k_proj [54], expected");
    copy->sizes[k] = HIDDEN;
    CHECK_FAILS(lr_stats_add(a, copy, 1), LR_E_SHAPE, "k_proj: shares its input with");
    lr_stats *same = stats_of(model, ids, TEXT, WINDOW);
    ck_assert(distance(a, same, q0, HIDDEN) == 0);
    ck_assert_int_eq(lr_stats_tokens(a), WINDOW * WINDOWS);
    lr_stats_free(same);
    lr_stats_free(copy);
    lr_stats_free(mlp);
    lr_stats_free(empty);
    lr_stats_free(a);
}
END_TEST

/* Chunks of tokens and tiles of channels, more of each than tiny models have. */
START_TEST(test_large_moments) {
    static const int64_t sizes[][2] = {{385, 3}, {200, 513}, {7, 1100}, {193, 64}};
    lr_stats stats = {0};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s][0], tokens = sizes[s][1];
        int32_t moments_of = -1;
        lr__moments m;
        capture c = {.in = n, .tokens = tokens};
        float *x = malloc((size_t)(n * tokens) * sizeof *x);
        double *got = calloc((size_t)(n * n), sizeof *got);
        c.x = malloc((size_t)(n * tokens) * sizeof *c.x);
        for (int64_t i = 0; i < n * tokens; i++)
            c.x[i] = (double)(x[i] = (float)tiny_uniform((uint64_t)i) + 0.25f);
        stats.sizes = &n;
        stats.moments_of = &moments_of;
        stats.moments = &m;
        stats.moments_count = 0;
        CHECK_OK(lr__stats_add_input(&stats, 0, -1));
        CHECK_OK(lr__moments_count(&m, &model->ctx->device, &stats.arena, x, tokens, 0.125));
        lr__moments_read(&m, got, NULL);
        double *expected = direct_gram(&c), largest = 0;
        for (int64_t i = 0; i < n * n; i++) CHECK_NEAR(got[i], expected[i], 1e-14);
        for (int64_t t = 0; t < tokens; t++) largest = fmax(largest, fabs(c.x[t * n]));
        ck_assert(m.most[0] == largest);
        ck_assert_int_eq(m.tokens, tokens);
        free(expected);
        free(got);
        free(x);
        free(c.x);
        lr__aligned_free(m.gram);
        lr__free(m.sum);
        lr__free(m.absolute);
        lr__free(m.most);
    }
    lr__arena_clear(&stats.arena);
}
END_TEST

/* Exact statistics: the same moments by another way, merged and read as the others. */
START_TEST(test_exact) {
    lr_stats_opts opts;
    lr_stats *plain = stats_of(model, ids, TEXT, WINDOW), *exact, *sum;
    lr_stats_opts_init(&opts, sizeof opts);
    opts.exact = 1;
    CHECK_OK(lr_stats_new(&exact, model, &opts));
    CHECK_OK(lr_stats_collect(exact, ids, TEXT, WINDOW, 1));
    ck_assert_ptr_null(exact->moments[0].gram);
    ck_assert(distance(plain, exact, q0, HIDDEN) < 1e-13);
    ck_assert(distance(plain, exact, down1, WIDE) < 1e-13);
    for (int i = 0; i < HIDDEN; i++) {
        ck_assert(plain->moments[0].absolute[i] == exact->moments[0].absolute[i]);
        ck_assert(plain->moments[0].most[i] == exact->moments[0].most[i]);
    }
    CHECK_FAILS(lr_stats_add(exact, plain, 1), LR_E_INVALID, "do not mix");
    CHECK_OK(lr_stats_new(&sum, model, &opts));
    CHECK_OK(lr_stats_add(sum, exact, 2));
    CHECK_OK(lr_stats_collect(exact, more, 16, WINDOW, 3));
    CHECK_OK(lr_stats_collect(plain, more, 16, WINDOW, 3));
    CHECK_OK(lr_stats_add(sum, exact, 1));
    lr_stats *twin = stats_of(model, ids, TEXT, WINDOW);
    lr_stats *both = stats_new("*_proj");
    CHECK_OK(lr_stats_add(both, twin, 2));
    CHECK_OK(lr_stats_add(both, plain, 1));
    ck_assert(distance(both, sum, q0, HIDDEN) < 1e-13);
    ck_assert(distance(both, sum, down1, WIDE) < 1e-13);
    opts.exact = 2;
    lr_stats *none;
    CHECK_FAILS(lr_stats_new(&none, model, &opts), LR_E_INVALID, "exact 2");
    lr_stats_free(both);
    lr_stats_free(twin);
    lr_stats_free(sum);
    lr_stats_free(exact);
    lr_stats_free(plain);
}
END_TEST

START_TEST(test_refused) {
    lr_stats *stats;
    lr_stats_opts opts;
    lr_stats_opts_init(&opts, sizeof opts);
    opts.pattern = "nobody";
    CHECK_FAILS(lr_stats_new(&stats, model, &opts), LR_E_NOTFOUND, "nobody: no linear module");
    ck_assert_ptr_null(stats);
    opts.pattern = "{q,k";
    CHECK_FAILS(lr_stats_new(&stats, model, &opts), LR_E_INVALID, "not well formed");
    CHECK_FAILS(lr_stats_new(NULL, model, NULL), LR_E_INVALID, "needed");
    CHECK_FAILS(lr_stats_new(&stats, NULL, NULL), LR_E_INVALID, "needed");
    stats = stats_new("*");
    CHECK_FAILS(lr_stats_collect(stats, ids, TEXT, TEXT + 1, 1), LR_E_INVALID,
                "the text of 43 tokens holds no window of 44");
    CHECK_FAILS(lr_stats_collect(stats, ids, 0, 1, 1), LR_E_INVALID, "holds no window");
    CHECK_FAILS(lr_stats_collect(stats, ids, TEXT, 0, 1), LR_E_INVALID, "window 0");
    CHECK_FAILS(lr_stats_collect(stats, ids, TEXT, -8, 1), LR_E_INVALID, "window -8");
    CHECK_FAILS(lr_stats_collect(stats, ids, TEXT, 8, -1), LR_E_INVALID, "weight -1");
    CHECK_FAILS(lr_stats_collect(stats, ids, TEXT, 8, INFINITY), LR_E_INVALID, "weight inf");
    CHECK_FAILS(lr_stats_collect(stats, NULL, TEXT, 8, 1), LR_E_INVALID, "lr_stats_collect");
    ids[9] = tiny_vocabulary(model);
    CHECK_FAILS(lr_stats_collect(stats, ids, TEXT, 8, 1), LR_E_INVALID, "131");
    CHECK_FAILS(lr_stats_read(stats, "nobody", NULL, NULL), LR_E_NOTFOUND, "nobody");
    CHECK_FAILS(lr_stats_attach(stats, NULL, 1), LR_E_INVALID, "hooks");
    lr_stats_free(stats);
    lr_stats_free(NULL);
    ck_assert_int_eq(lr_stats_tokens(NULL), 0);
}
END_TEST

START_TEST(test_not_finite) {
    tiny poisoned = tiny_model;
    poisoned.poisoned = "model.layers.1.input_layernorm.weight";
    lr_model *bad = tiny_open(&poisoned, 2);
    lr_stats *stats;
    int32_t text[WINDOW];
    tiny_text(3, WINDOW, poisoned.vocabulary, text);
    CHECK_OK(lr_stats_new(&stats, bad, NULL));
    CHECK_FAILS(lr_stats_collect(stats, text, WINDOW, WINDOW, 1), LR_E_NUMERIC,
                "model.layers.1.self_attn.q_proj: input channel 0 is not finite");
    lr_stats_free(stats);
    lr_model_free(bad);
}
END_TEST

static int32_t cancel_second(const char *stage, int64_t done, int64_t total, void *user) {
    ck_assert_str_eq(stage, "collect");
    ck_assert_int_ge(total, done);
    return ++*(int *)user == 2;
}

START_TEST(test_cancelled) {
    lr_ctx *ctx;
    lr_ctx_opts opts;
    lr_stats *stats;
    int calls = 0;
    enum { LONG = 64 * 80 }; /* two steps of 4,096 tokens at most */
    int32_t text[LONG];
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.progress = cancel_second;
    opts.progress_user = &calls;
    CHECK_OK(lr_ctx_new(&ctx, &opts));
    lr_model_free(model);
    CHECK_OK(lr_model_open(&model, ctx, golden_model("llama-f32"), NULL));
    lr_ctx_free(ctx);
    tiny_text(4, LONG, 37, text);
    CHECK_OK(lr_stats_new(&stats, model, NULL));
    CHECK_FAILS(lr_stats_collect(stats, text, LONG, 64, 1), LR_E_CANCELLED, "collect: cancelled");
    ck_assert_int_eq(calls, 2);
    lr_stats_free(stats);
}
END_TEST

Suite *stats_suite(void) {
    Suite *suite = suite_create("stats");
    TCase *tests = tcase_create("stats");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, test_collect, 0, MODELS);
    tcase_add_test(tests, test_modules_of_a_plan);
    tcase_add_test(tests, test_shared_inputs);
    tcase_add_test(tests, test_attach);
    tcase_add_test(tests, test_head);
    tcase_add_test(tests, test_weights);
    tcase_add_test(tests, test_split);
    tcase_add_test(tests, test_add_refused);
    tcase_add_test(tests, test_large_moments);
    tcase_add_test(tests, test_exact);
    tcase_add_test(tests, test_refused);
    tcase_add_test(tests, test_not_finite);
    tcase_add_test(tests, test_cancelled);
    suite_add_tcase(suite, tests);
    return suite;
}
