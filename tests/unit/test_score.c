/* Losses, divergence and agreement against sums in binary64 over whole rows of logits. */
#include "model_fixture.h"

#include <lowrank/eval.h>

static tiny with_vocabulary(int vocabulary) {
    tiny t = tiny_model;
    t.layers = 1;
    t.vocabulary = vocabulary;
    return t;
}

/* log of the sum of exp over one row. */
static double log_sum(const float *logits, int64_t count) {
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < count; i++) most = fmax(most, logits[i]);
    for (int64_t i = 0; i < count; i++) sum += exp(logits[i] - most);
    return most + log(sum);
}

static int64_t first_most(const float *logits, int64_t count) {
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static void compare_losses(const lr_model *model, int32_t kind, const lr_segment *segments,
                           int32_t count) {
    int64_t v = tiny_vocabulary(model), tokens = 0, at = 0, scored = 0;
    for (int32_t s = 0; s < count; s++) tokens += segments[s].count;
    float *logits = malloc((size_t)(tokens * v) * sizeof *logits);
    double *nll = malloc((size_t)tokens * sizeof *nll);
    lr_session *session = tiny_session(model, 4, kind, 1, NULL);
    CHECK_OK(lr_session_forward_all(session, segments, count, logits));
    CHECK_OK(lr_session_loss(session, segments, count, nll));
    for (int32_t s = 0; s < count; s++, at++)
        for (int32_t t = 0; t + 1 < segments[s].count; t++, at++, scored++) {
            const float *row = logits + at * v;
            double expected = log_sum(row, v) - (double)row[segments[s].tokens[t + 1]];
            ck_assert_msg(fabs(nll[scored] - expected) <= 3e-6 * (1 + expected),
                          "vocabulary %d, segment %d, token %d: %.9g, expected %.9g", (int)v, s, t,
                          nll[scored], expected);
        }
    ck_assert_int_eq(at, tokens);
    lr_session_free(session);
    free(logits);
    free(nll);
}

/* Segments of several lengths, one of a single token, more tokens than are folded at once. */
static void check_losses(const lr_model *model) {
    int32_t tokens[4][48], v = tiny_vocabulary(model);
    static const int32_t counts[4] = {40, 1, 7, 48};
    lr_segment segments[4];
    for (int32_t s = 0; s < 4; s++) {
        tiny_text(s, counts[s], v, tokens[s]);
        segments[s] = (lr_segment){(s + 2) % 4, counts[s], tokens[s]};
    }
    tokens[0][3] = v - 1; /* the last tile's last */
    tokens[0][4] = 0;
    for (int32_t kind = LR_STEP_ROWS; kind <= LR_STEP_BATCH; kind++) {
        compare_losses(model, kind, segments, 4);
        compare_losses(model, kind, segments + 1, 2);
    }
}

static const int vocabularies[] = {2, 131, 1023, 1024, 1025, 2500};
enum { VOCABULARIES = sizeof vocabularies / sizeof *vocabularies };

START_TEST(losses) {
    tiny t = with_vocabulary(vocabularies[_i]);
    t.is_tied = _i % 2;
    lr_model *model = tiny_open(&t, 2);
    check_losses(model);
    lr_model_free(model);
}
END_TEST

START_TEST(nothing_to_score) {
    tiny t = with_vocabulary(41);
    lr_model *model = tiny_open(&t, 1);
    lr_session *session = tiny_session(model, 2, LR_STEP_ROWS, 0, NULL);
    static const int32_t one[1] = {5}, three[3] = {1, 2, 3};
    const lr_segment single[2] = {{0, 1, one}, {1, 1, one}}, more = {0, 3, three};
    double nll[2] = {-5, -5}, fresh[3];
    CHECK_OK(lr_session_loss(session, single, 2, nll));
    ck_assert(nll[0] == -5 && nll[1] == -5);
    ck_assert_int_eq(lr_session_length(session, 1), 1);
    /* what is cached counts as context */
    CHECK_OK(lr_session_loss(session, &more, 1, nll));
    lr_session *other = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
    static const int32_t all[4] = {5, 1, 2, 3};
    const lr_segment whole = {0, 4, all};
    CHECK_OK(lr_session_loss(other, &whole, 1, fresh));
    ck_assert_mem_eq(nll, fresh + 1, sizeof nll);
    lr_session_free(session);
    lr_session_free(other);
    lr_model_free(model);
}
END_TEST

/* ---- heads of every shape ---- */

static lr__param *head_param(const char *name, int64_t rows, int64_t cols, int64_t period) {
    lr__param *param;
    CHECK_OK(lr__param_new(&param, name, rows, cols, 2));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            lr__param_floats(param)[r * cols + c] = tiny_number(name, r % period, c);
    return param;
}

enum { HEAD_DENSE, HEAD_BIAS, HEAD_FACTORS, HEAD_SCALED, HEAD_GATHER, HEAD_SUM, HEADS };

static lr_linear *make_head(lr_ctx *ctx, int shape, int64_t v, int64_t hidden) {
    lr_linear *head = NULL;
    lr__param *dense = head_param("dense", v, hidden, v), *left = head_param("left", v, 5, v);
    lr__param *right = head_param("right", 5, hidden, 5), *bias = head_param("bias", v, 1, v);
    lr__index *turned;
    int32_t *order = malloc((size_t)v * sizeof *order);
    bias->ndim = 1;
    for (int64_t i = 0; i < v; i++) order[i] = (int32_t)((i + 17) % v);
    CHECK_OK(lr__index_new(&turned, "turned", order, v, v));
    lr__op gather = {.kind = LR__OP_GATHER, .out = v, .in = v, .index = turned};
    lr__op matrix = {.kind = LR__OP_MATRIX, .out = v, .in = hidden, .param = dense};
    lr__op chain[2] = {{.kind = LR__OP_MATRIX, .out = v, .in = 5, .param = left},
                       {.kind = LR__OP_MATRIX, .out = 5, .in = hidden, .param = right}};
    lr__op turned_matrix[2] = {gather, matrix};
    if (shape == HEAD_DENSE || shape == HEAD_BIAS)
        CHECK_OK(lr__linear_dense(&head, ctx, "h", dense, shape == HEAD_BIAS ? bias : NULL));
    else if (shape == HEAD_FACTORS)
        CHECK_OK(lr__linear_low_rank(&head, ctx, "h", left, right, bias));
    else
        CHECK_OK(lr__linear_new(&head, ctx, "h", v, hidden));
    if (shape == HEAD_SCALED) CHECK_OK(lr__linear_add_term(head, 0.25f, chain, 2, NULL));
    if (shape == HEAD_GATHER) CHECK_OK(lr__linear_add_term(head, 1, turned_matrix, 2, NULL));
    if (shape == HEAD_SUM) {
        CHECK_OK(lr__linear_add_term(head, 1, &matrix, 1, NULL));
        CHECK_OK(lr__linear_add_term(head, -0.5f, chain, 2, NULL));
    }
    lr__param_drop(dense);
    lr__param_drop(left);
    lr__param_drop(right);
    lr__param_drop(bias);
    lr__index_drop(turned);
    free(order);
    return head;
}

static void set_head(lr_model *model, int shape) {
    lr_model_info info = {.size = sizeof info};
    CHECK_OK(lr_model_get_info(model, &info));
    lr_linear *head = make_head(model->ctx, shape, info.vocabulary_size, info.hidden_size);
    CHECK_OK(lr_model_set_linear(model, "lm_head", head));
    lr_linear_free(head);
}

START_TEST(heads) {
    tiny t = with_vocabulary(2500);
    lr_model *model = tiny_open(&t, 2);
    set_head(model, _i);
    check_losses(model);
    lr_model_free(model);
}
END_TEST

/* ---- two models ---- */

typedef struct judged {
    double nll, kl, agreement;
} judged;

/* Windows of a text, each run alone, all in binary64 from whole rows. */
static judged judge(const lr_model *model, const lr_model *reference, const int32_t *ids,
                    int32_t window, int32_t windows) {
    int64_t v = tiny_vocabulary(model), scored = 0;
    float *m = malloc((size_t)(window * v) * sizeof *m), *r = malloc((size_t)(window * v) * 4);
    judged sum = {0, 0, 0};
    lr_session *one = tiny_session(model, 1, LR_STEP_BATCH, 1, NULL);
    lr_session *two = tiny_session(reference, 1, LR_STEP_BATCH, 1, NULL);
    for (int32_t w = 0; w < windows; w++) {
        const lr_segment segment = {0, window, ids + w * window};
        CHECK_OK(lr_session_forward_all(one, &segment, 1, m));
        CHECK_OK(lr_session_forward_all(two, &segment, 1, r));
        for (int32_t t = 0; t + 1 < window; t++, scored++) {
            const float *a = m + t * v, *b = r + t * v;
            double lse_a = log_sum(a, v), lse_b = log_sum(b, v);
            sum.nll += lse_a - (double)a[segment.tokens[t + 1]];
            for (int64_t i = 0; i < v; i++)
                sum.kl += exp(b[i] - lse_b) * ((b[i] - lse_b) - (a[i] - lse_a));
            sum.agreement += first_most(a, v) == first_most(b, v);
        }
    }
    lr_session_free(one);
    lr_session_free(two);
    free(m);
    free(r);
    return (judged){sum.nll / (double)scored, sum.kl / (double)scored,
                    sum.agreement / (double)scored};
}

static void check_eval(const lr_model *model, const lr_model *reference) {
    enum { WINDOW = 16, WINDOWS = 6 };
    int32_t ids[WINDOW * (WINDOWS + 1) + 3];
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    tiny_text(4, WINDOW * (WINDOWS + 1) + 3, tiny_vocabulary(model), ids);
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = WINDOW;
    opts.first_window = 1;
    opts.reference = reference;
    CHECK_OK(lr_eval(&result, model, ids, sizeof ids / sizeof *ids, &opts));
    judged expected = judge(model, reference, ids + WINDOW, WINDOW, WINDOWS);
    ck_assert_int_eq(result.windows, WINDOWS);
    ck_assert_int_eq(result.tokens, WINDOWS * (WINDOW - 1));
    ck_assert_double_eq_tol(result.nll, expected.nll, 1e-5);
    ck_assert_double_eq_tol(result.perplexity, exp(expected.nll), 1e-4 * exp(expected.nll));
    ck_assert_double_eq_tol(result.kl, expected.kl, 1e-6 + 1e-5 * expected.kl);
    ck_assert_double_eq_tol(result.agreement, expected.agreement, 1e-12);
    ck_assert_double_gt(expected.kl, 1e-3);
    ck_assert_double_gt(result.tokens_per_second, 0);
}

START_TEST(divergence_and_agreement) {
    tiny t = with_vocabulary(1500);
    lr_model *model = tiny_open(&t, 2), *other;
    CHECK_OK(lr_model_clone(&other, model));
    set_head(other, _i);
    check_eval(other, model);
    check_eval(model, other);
    lr_model_free(model);
    lr_model_free(other);
}
END_TEST

START_TEST(a_model_agrees_with_itself) {
    tiny t = with_vocabulary(1500);
    lr_model *model = tiny_open(&t, 1), *clone;
    int32_t ids[40];
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    CHECK_OK(lr_model_clone(&clone, model));
    tiny_text(4, 40, 1500, ids);
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = 20;
    opts.reference = clone;
    CHECK_OK(lr_eval(&result, model, ids, 40, &opts));
    ck_assert(fabs(result.kl) <= 1e-12 && result.agreement == 1);
    lr_model_free(model);
    lr_model_free(clone);
}
END_TEST

/* Rows of the head repeat, so that the largest logit always stands twice, in two tiles: the lower
 * id is taken. A reference whose first copy is a little smaller takes the other. */
START_TEST(ties) {
    enum { PERIOD = 1100, V = 2200 };
    tiny t = with_vocabulary(V);
    lr_model *model = tiny_open(&t, 1), *other;
    lr_linear *head;
    int32_t ids[40];
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    lr__param *param = head_param("dense", V, 24, PERIOD);
    CHECK_OK(lr__linear_dense(&head, model->ctx, "h", param, NULL));
    CHECK_OK(lr_model_set_linear(model, "lm_head", head));
    lr_linear_free(head);
    lr__param_drop(param);
    CHECK_OK(lr_model_clone(&other, model));
    param = head_param("dense", V, 24, PERIOD);
    for (int64_t i = 0; i < PERIOD * 24; i++) lr__param_floats(param)[i] *= 0.999f;
    CHECK_OK(lr__linear_dense(&head, model->ctx, "h", param, NULL));
    CHECK_OK(lr_model_set_linear(other, "lm_head", head));
    lr_linear_free(head);
    lr__param_drop(param);
    tiny_text(4, 40, V, ids);
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = 20;
    opts.reference = other;
    CHECK_OK(lr_eval(&result, model, ids, 40, &opts));
    ck_assert(result.agreement == 0);
    check_losses(model);
    lr_model_free(model);
    lr_model_free(other);
}
END_TEST

START_TEST(refused_evaluations) {
    tiny t = with_vocabulary(41), u = with_vocabulary(40), spoiled = with_vocabulary(41);
    spoiled.poisoned = "lm_head.weight";
    lr_model *model = tiny_open(&t, 1), *other = tiny_open(&u, 1), *nan = tiny_open(&spoiled, 1);
    int32_t ids[40];
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    tiny_text(4, 40, 41, ids);
    lr_eval_opts_init(&opts, sizeof opts);
    CHECK_FAILS(lr_eval(&result, model, ids, 40, &opts), LR_E_INVALID, "no window");
    opts.window = 20;
    opts.first_window = 2;
    CHECK_FAILS(lr_eval(&result, model, ids, 40, &opts), LR_E_INVALID, "no window");
    opts.first_window = 0;
    opts.reference = other;
    CHECK_FAILS(lr_eval(&result, model, ids, 40, &opts), LR_E_SHAPE, "reference");
    opts.reference = nan;
    CHECK_FAILS(lr_eval(&result, model, ids, 40, &opts), LR_E_NUMERIC, "divergence of row 0");
    opts.reference = model;
    CHECK_FAILS(lr_eval(&result, nan, ids, 40, &opts), LR_E_NUMERIC, "loss of row 0");
    opts.reference = NULL;
    ids[33] = 41;
    CHECK_FAILS(lr_eval(&result, model, ids, 40, &opts), LR_E_INVALID, "token 41");
    opts.window = 1;
    CHECK_FAILS(lr_eval(&result, model, ids, 40, &opts), LR_E_INVALID, "window 1");
    lr_model_free(model);
    lr_model_free(other);
    lr_model_free(nan);
}
END_TEST

Suite *score_suite(void) {
    Suite *suite = suite_create("score");
    TCase *loss = tcase_create("loss"), *two = tcase_create("two models");
    tcase_set_timeout(loss, 60);
    tcase_set_timeout(two, 60);
    tcase_add_loop_test(loss, losses, 0, VOCABULARIES);
    tcase_add_test(loss, nothing_to_score);
    tcase_add_loop_test(loss, heads, 0, HEADS);
    tcase_add_loop_test(two, divergence_and_agreement, 0, HEADS);
    tcase_add_test(two, a_model_agrees_with_itself);
    tcase_add_test(two, ties);
    tcase_add_test(two, refused_evaluations);
    suite_add_tcase(suite, loss);
    suite_add_tcase(suite, two);
    return suite;
}
