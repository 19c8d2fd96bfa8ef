/* The methods and the allocation that use derivatives, against a Jacobi SVD of the weighted matrix
 * and plain loops. */
#include "jacobi.h"
#include "slopes_fixture.h"

typedef struct seen {
    const lr_stats *stats;
    const char *method, *storage;
    lr_model *cut; /* once it is there */
    int32_t count;
    double measured[64], total[64];
} seen;

/* Weights of a method on one module: of the inputs [in, in] and of the outputs [out, out], whose
 * products with the weight the method approximates. Roots by loops. */
static void cholesky(double *a, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            if (j > i) {
                a[i * n + j] = 0;
                continue;
            }
            double sum = a[i * n + j];
            for (int64_t k = 0; k < j; k++) sum -= a[i * n + k] * a[j * n + k];
            a[i * n + j] = i == j ? sqrt(sum) : sum / a[j * n + j];
        }
}

static void shrunk_root(double *a, int64_t n, double share) {
    double mean = 0;
    for (int64_t i = 0; i < n; i++) mean += a[i * n + i] / (double)n;
    for (int64_t i = 0; i < n * n; i++) a[i] *= 1 - share;
    for (int64_t i = 0; i < n; i++) a[i * n + i] += share * mean;
    cholesky(a, n);
}

/* H' A L [out, in]; freed by the caller. */
static double *weighted(const seen *s, const char *module, const double *a, int64_t m, int64_t n) {
    sums g = sums_new(m, n);
    lr_stats_gradients read = {.size = sizeof read,
                               .fisher_in = g.fisher_in,
                               .importance_in = g.importance_in,
                               .importance_out = g.importance_out,
                               .gram = g.gram};
    double *in = calloc((size_t)(n * n), sizeof *in), *out = calloc((size_t)(m * m), sizeof *out);
    double *half = calloc((size_t)(m * n), sizeof *half),
           *whole = calloc((size_t)(m * n), sizeof *whole);
    CHECK_OK(lr_stats_read_gradients(s->stats, module, &read));
    for (int64_t i = 0; i < m; i++) out[i * m + i] = 1;
    if (!strcmp(s->method, "kfac")) {
        CHECK_OK(lr_stats_read(s->stats, module, in, NULL));
        shrunk_root(in, n, 0.1);
        memcpy(out, g.gram, (size_t)(m * m) * sizeof *out);
        shrunk_root(out, m, 0.3);
    }
    for (int64_t j = 0; j < n && !strcmp(s->method, "fwsvd"); j++)
        in[j * n + j] = sqrt(g.fisher_in[j]);
    for (int64_t j = 0; j < n && !strcmp(s->method, "iwsvd"); j++)
        in[j * n + j] = sqrt(g.importance_in[j]);
    for (int64_t i = 0; i < m && !strcmp(s->method, "iwsvd"); i++)
        out[i * m + i] = sqrt(g.importance_out[i]);
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < n; k++)
            for (int64_t j = 0; j < n; j++) half[i * n + j] += a[i * n + k] * in[k * n + j];
    for (int64_t k = 0; k < m; k++)
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) whole[i * n + j] += out[k * m + i] * half[k * n + j];
    free(g.numbers);
    free(in);
    free(out);
    free(half);
    return whole;
}

/* A module's weight, less that of another model unless NULL: [out, in]. */
static double *weight_less(const char *module, const lr_model *other, int64_t *m, int64_t *n) {
    lr_linear *linear = linear_of(model, module);
    *m = lr_linear_out(linear);
    *n = lr_linear_in(linear);
    double *w = matrix_of(model, module), *less = other ? matrix_of(other, module) : NULL;
    for (int64_t i = 0; i < *m; i++)
        for (int64_t j = 0; j < *n; j++)
            w[i * *n + j] = w[i * (*n + 1) + j] - (less ? less[i * (*n + 1) + j] : 0);
    free(less);
    lr_linear_free(linear);
    return w;
}

static int32_t check_event(const lr_compress_event *e, void *user) {
    seen *s = user;
    int64_t m, n;
    ck_assert_str_eq(e->storage, s->storage);
    s->measured[s->count] = e->measured;
    s->total[s->count++] = e->total;
    double *w = weight_less(e->module, NULL, &m, &n), *y = weighted(s, e->module, w, m, n);
    double *squares = jacobi_squares(y, m, n), total = 0, tail = 0;
    for (int64_t i = 0; i < (m < n ? m : n); i++) {
        total += squares[i];
        if (i >= e->rank) tail += squares[i];
    }
    CHECK_NEAR(e->total, total, 1e-8 * total);
    CHECK_NEAR(e->predicted, tail, 1e-8 * total);
    CHECK_NEAR(e->measured, tail, 1e-8 * total);
    free(w);
    free(y);
    free(squares);
    return 0;
}

static const char *const methods[] = {"fwsvd", "iwsvd", "kfac"};
static const char *const storages[] = {"pivot", "two-factor"};

static lr_plan *plan_of(const char *ranks, const char *storage) {
    lr_plan *plan;
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.ranks = ranks;
    opts.storage = storage;
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    return plan;
}

/* O3 and O16 on models: totals and tails are those of the weighted matrix, and what the model then
 * holds has the loss that was stated, in binary32 and in bf16. */
START_TEST(losses_are_tails) {
    seen s = {.method = methods[_i % 3], .storage = storages[_i / 3 % 2]};
    lr_compress_opts opts;
    open_named(models[_i % 2]);
    lr_stats *stats = gradients_of(ids, TEXT);
    lr_plan *plan = plan_of("{\"*\": 9}", s.storage);
    s.stats = stats;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = s.method;
    opts.dtype = _i / 6 ? LR_BF16 : LR_F32;
    CHECK_OK(lr_model_clone(&s.cut, model));
    CHECK_OK(lr_compress(s.cut, plan, stats, &opts, check_event, &s));
    ck_assert_int_eq(s.count, lr_plan_count(plan));
    for (int32_t i = 0; i < s.count; i++) {
        int64_t m, n;
        double *e = weight_less(lr_plan_module(plan, i), s.cut, &m, &n), sum = 0;
        double *y = weighted(&s, lr_plan_module(plan, i), e, m, n);
        for (int64_t k = 0; k < m * n; k++) sum += y[k] * y[k];
        CHECK_NEAR(sum, s.measured[i], (_i / 6 ? 1e-3 : 1e-5) * s.total[i]);
        free(e);
        free(y);
    }
    lr_plan_free(plan);
    lr_stats_free(stats);
    lr_model_free(s.cut);
}
END_TEST

/* Rounds behind the methods of the weights end at the optimum of pca. */
static int32_t add_stored(const lr_compress_event *event, void *user) {
    *(double *)user += event->stored / event->total;
    return 0;
}

static double stored_of(const lr_stats *stats, const lr_plan *plan, const char *method,
                        int32_t refits) {
    double sum = 0;
    lr_model *copy;
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = method;
    opts.refits = refits;
    CHECK_OK(lr_model_clone(&copy, model));
    CHECK_OK(lr_compress(copy, plan, stats, &opts, add_stored, &sum));
    lr_model_free(copy);
    return sum;
}

static int32_t keep_events(const lr_compress_event *event, void *user) {
    seen *s = user;
    s->measured[s->count] = event->stored;
    s->total[s->count++] = event->total;
    return 0;
}

START_TEST(refits_end_where_pca_begins) {
    lr_stats *stats = gradients_of(ids, TEXT);
    lr_plan *plan = plan_of("{\"*\": 6}", "pivot");
    seen best = {0}, got = {0};
    lr_compress_opts opts;
    lr_model *copy;
    lr_compress_opts_init(&opts, sizeof opts);
    CHECK_OK(lr_model_clone(&copy, model));
    CHECK_OK(lr_compress(copy, plan, stats, &opts, keep_events, &best));
    lr_model_free(copy);
    opts.method = methods[_i];
    opts.refits = 200;
    CHECK_OK(lr_model_clone(&copy, model));
    CHECK_OK(lr_compress(copy, plan, stats, &opts, keep_events, &got));
    lr_model_free(copy);
    for (int32_t i = 0; i < got.count; i++) {
        ck_assert_double_ge(got.measured[i], best.measured[i] * (1 - 1e-6));
        ck_assert_double_le(got.measured[i], best.measured[i] + 1e-3 * best.total[i]);
    }
    /* kfac is an optimum of its own norm already */
    double once = stored_of(stats, plan, "kfac", 0), often = stored_of(stats, plan, "kfac", 5);
    CHECK_NEAR(often, once, 1e-6 * once);
    lr_plan_free(plan);
    lr_stats_free(stats);
}
END_TEST

/* q, k and v as one matrix: its input weights are the sums of theirs, its output weights stand on
 * one another, and E of all three loses what the shared factor loses. */
static int32_t check_shared(const lr_compress_event *e, void *user) {
    seen *s = user;
    if (!strstr(e->module, "layers.0.self_attn.") || strstr(e->module, "o_proj")) return 0;
    ck_assert_int_eq(e->sharers, 3);
    s->measured[0] = e->measured;
    s->total[0] = e->total;
    return 0;
}

START_TEST(sharers_are_one_matrix) {
    static const char *const names[] = {"model.layers.0.self_attn.q_proj",
                                        "model.layers.0.self_attn.k_proj",
                                        "model.layers.0.self_attn.v_proj"};
    seen s = {.method = methods[_i]};
    lr_compress_opts opts;
    lr_stats *stats = gradients_of(ids, TEXT);
    lr_plan *plan = plan_of("{\"*\": 9}", "shared");
    double sum = 0, fisher[64] = {0}, importance[64] = {0};
    s.stats = stats;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = s.method;
    CHECK_OK(lr_model_clone(&s.cut, model));
    CHECK_OK(lr_compress(s.cut, plan, stats, &opts, check_shared, &s));
    for (int k = 0; k < 3; k++) {
        double own_fisher[64], own_importance[64];
        lr_stats_gradients read = {
            .size = sizeof read, .fisher_in = own_fisher, .importance_in = own_importance};
        CHECK_OK(lr_stats_read_gradients(stats, names[k], &read));
        for (int j = 0; j < 36; j++) {
            fisher[j] += own_fisher[j];
            importance[j] += own_importance[j];
        }
    }
    for (int k = 0; k < 3; k++) {
        int64_t m, n;
        double *e = weight_less(names[k], s.cut, &m, &n), own_fisher[64], own_importance[64];
        lr_stats_gradients read = {
            .size = sizeof read, .fisher_in = own_fisher, .importance_in = own_importance};
        CHECK_OK(lr_stats_read_gradients(stats, names[k], &read));
        ck_assert_int_eq(n, 36);
        for (int64_t i = 0; i < m * n && _i < 2; i++)
            e[i] *= _i ? sqrt(importance[i % n] / own_importance[i % n])
                       : sqrt(fisher[i % n] / own_fisher[i % n]);
        double *y = weighted(&s, names[k], e, m, n);
        for (int64_t i = 0; i < m * n; i++) sum += y[i] * y[i];
        free(e);
        free(y);
    }
    ck_assert_double_gt(s.measured[0], 0.01 * s.total[0]);
    CHECK_NEAR(sum, s.measured[0], 1e-5 * s.total[0]);
    lr_plan_free(plan);
    lr_stats_free(stats);
    lr_model_free(s.cut);
}
END_TEST

/* ---- allocation ---- */

static int32_t add_loss(const lr_compress_event *event, void *user) {
    *(double *)user += event->measured;
    return 0;
}

static double loss_of(const lr_stats *stats, const lr_plan *plan) {
    double sum = 0;
    lr_model *copy;
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = "kfac";
    CHECK_OK(lr_model_clone(&copy, model));
    CHECK_OK(lr_compress(copy, plan, stats, &opts, add_loss, &sum));
    lr_model_free(copy);
    return sum;
}

/* Of what kfac itself measures, no exchange of a rank between modules of one shape loses less. */
START_TEST(first_order_has_the_least_loss) {
    lr_stats *stats = gradients_of(ids, TEXT);
    lr_plan *plan, *uniform;
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.keep = 0.5;
    opts.storage = storages[_i];
    opts.stats = stats;
    CHECK_OK(lr_plan_new(&uniform, model, &opts));
    opts.allocation = "first-order";
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    ck_assert_ptr_nonnull(strstr(lr_plan_about(plan), "\"first-order\",\"floor\":0.3"));
    lr_plan_free(plan);
    opts.floor = 0;
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    ck_assert_ptr_nonnull(strstr(lr_plan_about(plan), "\"first-order\",\"floor\":0.0"));
    double best = loss_of(stats, plan);
    int64_t dense, used, next;
    lr_plan_parameters(plan, &dense, &used);
    ck_assert_double_lt(best, loss_of(stats, uniform));
    int exchanged = 0;
    for (int32_t a = 0; a < lr_plan_count(plan); a++) {
        int32_t b = (a + 7) % lr_plan_count(plan); /* the same in the other block */
        int64_t from = lr_plan_rank(plan, a), to = lr_plan_rank(plan, b);
        if (from < 2 || to < 1) continue;
        CHECK_OK(lr_plan_set_rank(plan, lr_plan_module(plan, a), from - 1));
        lr_status status = lr_plan_set_rank(plan, lr_plan_module(plan, b), to + 1);
        lr_plan_parameters(plan, &dense, &next);
        if (status == LR_OK && next <= used) {
            ck_assert_double_ge(loss_of(stats, plan), best * (1 - 1e-6));
            exchanged++;
        }
        CHECK_OK(lr_plan_set_rank(plan, lr_plan_module(plan, a), from));
        CHECK_OK(lr_plan_set_rank(plan, lr_plan_module(plan, b), to));
    }
    ck_assert_int_ge(exchanged, 4);
    lr_plan_free(plan);
    lr_plan_free(uniform);
    lr_stats_free(stats);
}
END_TEST

Suite *slopes_uses_suite(void) {
    Suite *suite = suite_create("slopes_uses");
    TCase *uses = tcase_create("uses");
    tcase_add_checked_fixture(uses, setup, teardown);
    tcase_add_loop_test(uses, losses_are_tails, 0, 12);
    tcase_add_loop_test(uses, refits_end_where_pca_begins, 0, 2);
    tcase_add_loop_test(uses, sharers_are_one_matrix, 0, 3);
    tcase_add_loop_test(uses, first_order_has_the_least_loss, 0, 2);
    suite_add_tcase(suite, uses);
    return suite;
}
