/* Evaluation against direct sums over logits. */
#include "run_fixture.h"

enum { TEXT = 60 };

static lr_model *model, *other;
static int32_t ids[TEXT], vocabulary;

static void setup(void) {
    model = golden_open("llama-f16");
    other = golden_open("llama-f32");
    vocabulary = tiny_vocabulary(model);
    tiny_text(1, TEXT, vocabulary, ids);
}

static void teardown(void) {
    lr_model_free(model);
    lr_model_free(other);
}

static lr_eval_result eval_of(int32_t window, int32_t windows, int64_t first,
                              const lr_model *reference) {
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = window;
    opts.windows = windows;
    opts.first_window = first;
    opts.reference = reference;
    CHECK_OK(lr_eval(&result, model, ids, TEXT, &opts));
    return result;
}

static double log_sum(const float *logits) {
    double sum = 0;
    for (int32_t i = 0; i < vocabulary; i++) sum += exp((double)logits[i]);
    return log(sum);
}

static int32_t argmax(const float *logits) {
    int32_t best = 0;
    for (int32_t i = 1; i < vocabulary; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* The contract by plain loops: tokens [first, first + windows) * window. */
static lr_eval_result direct(int32_t window, int32_t windows, int64_t first) {
    const int32_t *text = ids + first * window;
    float *logits = window_logits(model, text, window, windows);
    float *reference = window_logits(other, text, window, windows);
    lr_eval_result r = {.windows = windows};
    for (int32_t w = 0; w < windows; w++)
        for (int32_t t = 0; t + 1 < window; t++) {
            const float *p = logits + (w * window + t) * vocabulary;
            const float *q = reference + (w * window + t) * vocabulary;
            double lse = log_sum(p), reference_lse = log_sum(q);
            r.nll += lse - (double)p[text[w * window + t + 1]];
            for (int32_t i = 0; i < vocabulary; i++)
                r.kl += exp((double)q[i] - reference_lse) *
                        ((double)q[i] - reference_lse - (double)p[i] + lse);
            r.agreement += argmax(p) == argmax(q);
            r.tokens++;
        }
    r.nll /= (double)r.tokens;
    r.kl /= (double)r.tokens;
    r.agreement /= (double)r.tokens;
    free(logits);
    free(reference);
    return r;
}

START_TEST(test_sums) {
    static const struct {
        int32_t window, asked;
        int64_t first;
        int32_t found;
    } cases[] = {
        {8, 0, 0, 7},  {8, 3, 0, 3},  {8, 100, 2, 5}, {8, 1, 6, 1}, {2, 0, 0, 30},
        {60, 0, 0, 1}, {59, 0, 0, 1}, {30, 0, 1, 1},  {7, 0, 0, 8}, {20, 2, 1, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t window = cases[i].window;
        lr_eval_result expected = direct(window, cases[i].found, cases[i].first);
        lr_eval_result got = eval_of(window, cases[i].asked, cases[i].first, other);
        ck_assert_int_eq(got.windows, cases[i].found);
        ck_assert_int_eq(got.tokens, cases[i].found * (window - 1));
        ck_assert_int_eq(got.tokens, expected.tokens);
        CHECK_NEAR(got.nll, expected.nll, 1e-5);
        CHECK_NEAR(got.perplexity, exp(got.nll), 1e-12 * got.perplexity);
        CHECK_NEAR(got.kl, expected.kl, 1e-5);
        CHECK_NEAR(got.agreement, expected.agreement, 1e-12);
        ck_assert(got.tokens_per_second > 0 && isfinite(got.tokens_per_second));
        lr_eval_result alone = eval_of(window, cases[i].asked, cases[i].first, NULL);
        ck_assert(alone.kl == 0 && alone.agreement == 0);
        CHECK_NEAR(alone.nll, got.nll, 1e-12);
    }
}
END_TEST

/* Against itself a model has no distance. */
START_TEST(test_itself) {
    lr_eval_result r = eval_of(8, 0, 0, model);
    CHECK_NEAR(r.kl, 0, 1e-12);
    ck_assert(r.agreement == 1);
}
END_TEST

/* More windows than one step holds, against each alone. */
START_TEST(test_many_rows) {
    enum { LONG = 2 * 70 };
    int32_t text[LONG];
    double nll[1], sum = 0;
    tiny_text(2, LONG, vocabulary, text);
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = 2;
    CHECK_OK(lr_eval(&result, model, text, LONG, &opts));
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 1, NULL);
    for (int w = 0; w < 70; w++) {
        lr_segment segment = {0, 2, text + 2 * w};
        CHECK_OK(lr_session_loss(session, &segment, 1, nll));
        sum += nll[0];
    }
    CHECK_NEAR(result.nll, sum / 70, 1e-5);
    lr_session_free(session);
}
END_TEST

START_TEST(test_refused) {
    static const struct {
        int32_t window, windows;
        int64_t first;
        const char *text;
    } cases[] = {
        {61, 0, 0, "the text of 60 tokens holds no window of 61"},
        {30, 0, 2, "holds no window of 30 from window 2 on"},
        {8, 0, INT64_MAX, "holds no window of 8"},
        {1, 0, 0, "window 1"},
        {0, 0, 0, "window 0"},
        {-4, 0, 0, "window -4"},
        {8, -1, 0, "windows -1"},
        {8, 0, -1, "first window -1"},
    };
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lr_eval_opts_init(&opts, sizeof opts);
        opts.window = cases[i].window;
        opts.windows = cases[i].windows;
        opts.first_window = cases[i].first;
        CHECK_FAILS(lr_eval(&result, model, ids, TEXT, &opts), LR_E_INVALID, cases[i].text);
    }
    CHECK_FAILS(lr_eval(&result, model, ids, TEXT, NULL), LR_E_INVALID, "no window of 512");
    CHECK_FAILS(lr_eval(&result, model, ids, 0, NULL), LR_E_INVALID, "0 tokens");
    CHECK_FAILS(lr_eval(NULL, model, ids, TEXT, NULL), LR_E_INVALID, "needed");
    result.size = 4;
    CHECK_FAILS(lr_eval(&result, model, ids, TEXT, NULL), LR_E_INVALID, "needed");
    result.size = sizeof result;
    lr_model *wide = golden_open("llama-tied");
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = 8;
    opts.reference = wide;
    CHECK_FAILS(lr_eval(&result, model, ids, TEXT, &opts), LR_E_SHAPE,
                "the reference has 131 token ids, expected 37");
    opts.reference = NULL;
    ids[20] = 37;
    CHECK_FAILS(lr_eval(&result, model, ids, TEXT, &opts), LR_E_INVALID, "37");
    lr_model_free(wide);
}
END_TEST

/* An older caller's shorter result is filled as far as it goes. */
START_TEST(test_short_result) {
    lr_eval_result result;
    lr_eval_opts opts;
    memset(&result, 0x55, sizeof result);
    result.size = offsetof(lr_eval_result, nll);
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = 8;
    CHECK_OK(lr_eval(&result, model, ids, TEXT, &opts));
    ck_assert_int_eq(result.windows, 7);
    ck_assert_int_eq(result.tokens, 49);
    unsigned char untouched[sizeof result.nll];
    memset(untouched, 0x55, sizeof untouched);
    ck_assert_mem_eq(&result.nll, untouched, sizeof untouched);
}
END_TEST

START_TEST(test_not_finite) {
    tiny poisoned = tiny_model;
    poisoned.poisoned = "model.layers.1.input_layernorm.weight";
    lr_model *bad = tiny_open(&poisoned, 2);
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = 8;
    CHECK_FAILS(lr_eval(&result, bad, ids, TEXT, &opts), LR_E_NUMERIC, "loss of row 0 at token 1");
    lr_model_free(bad);
}
END_TEST

static int32_t cancel(const char *stage, int64_t done, int64_t total, void *user) {
    (void)user;
    ck_assert_str_eq(stage, "evaluate");
    ck_assert_int_eq(total, 7);
    return done > 0;
}

START_TEST(test_cancelled) {
    lr_ctx *ctx;
    lr_ctx_opts opts;
    lr_eval_opts eval_opts;
    lr_eval_result result = {.size = sizeof result};
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.progress = cancel;
    CHECK_OK(lr_ctx_new(&ctx, &opts));
    lr_model_free(other);
    CHECK_OK(lr_model_open(&other, ctx, golden_model("llama-f16"), NULL));
    lr_eval_opts_init(&eval_opts, sizeof eval_opts);
    eval_opts.window = 8;
    CHECK_FAILS(lr_eval(&result, other, ids, TEXT, &eval_opts), LR_E_CANCELLED, "evaluate");
    lr_ctx_free(ctx);
}
END_TEST

Suite *eval_suite(void) {
    Suite *suite = suite_create("eval");
    TCase *tests = tcase_create("eval");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, test_sums);
    tcase_add_test(tests, test_itself);
    tcase_add_test(tests, test_many_rows);
    tcase_add_test(tests, test_refused);
    tcase_add_test(tests, test_short_result);
    tcase_add_test(tests, test_not_finite);
    tcase_add_test(tests, test_cancelled);
    suite_add_tcase(suite, tests);
    return suite;
}
