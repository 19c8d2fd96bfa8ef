/* The pivot form: lossless, small, and the same model as its two factors. */
#include "compress/pivot.h"

#include "base/rng.h"
#include "run_fixture.h"

static float *random_matrix(int64_t rows, int64_t cols, uint64_t seed) {
    float *a = malloc((size_t)(rows * cols) * sizeof *a);
    ck_assert_ptr_nonnull(a);
    for (int64_t i = 0; i < rows * cols; i++) a[i] = (float)lr__normal(seed, 0, (uint64_t)i);
    return a;
}

/* Row `row` of the product that the pivot form stands for. */
static void pivot_row(const lr__pivot *p, int64_t row, double *out) {
    for (int64_t j = 0; j < p->in; j++) out[j] = 0;
    for (int64_t i = 0; i < p->rank; i++)
        if (p->picked[i] == row)
            for (int64_t j = 0; j < p->in; j++) out[j] = (double)p->rows[i * p->in + j];
    for (int64_t i = 0; i < p->out - p->rank; i++)
        for (int64_t k = 0; p->rest[i] == row && k < p->rank; k++)
            for (int64_t j = 0; j < p->in; j++)
                out[j] += (double)p->mix[i * p->rank + k] * (double)p->rows[k * p->in + j];
}

static void check_shape(int64_t out, int64_t in, int64_t rank, double slope) {
    lr__pivot p;
    float *left = random_matrix(out, rank, 1), *right = random_matrix(rank, in, 2);
    double *row = malloc((size_t)in * sizeof *row), worst = 0, scale = 0;
    ck_assert_ptr_nonnull(row);
    for (int64_t i = 0; i < out * rank; i++) left[i] *= (float)pow((double)(i % rank + 1), -slope);
    CHECK_OK(lr__pivot_new(&p, out, in, rank, left, right, "m"));
    double largest = 0;
    for (int64_t i = 0; i < (out - rank) * rank; i++)
        largest = fmax(largest, fabs((double)p.mix[i]));
    ck_assert_double_le(largest, 2.0 + 1e-6);
    CHECK_NEAR(p.largest, largest, 1e-6);
    unsigned char *seen = calloc((size_t)out, 1);
    ck_assert_ptr_nonnull(seen);
    for (int64_t i = 0; i < rank; i++) ck_assert_int_eq(seen[p.picked[i]]++, 0);
    for (int64_t i = 0; i < out - rank; i++) ck_assert_int_eq(seen[p.rest[i]]++, 0);
    for (int64_t i = 0; i < out; i++) {
        pivot_row(&p, i, row);
        for (int64_t j = 0; j < in; j++) {
            double expected = 0;
            for (int64_t k = 0; k < rank; k++)
                expected += (double)left[i * rank + k] * (double)right[k * in + j];
            worst = fmax(worst, fabs(row[j] - expected));
            scale = fmax(scale, fabs(expected));
        }
    }
    ck_assert_msg(worst <= 1e-6 * scale, "[%d, %d] rank %d: off by %g of %g", (int)out, (int)in,
                  (int)rank, worst, scale);
    lr__pivot_clear(&p);
    free(seen);
    free(row);
    free(left);
    free(right);
}

START_TEST(reproduces_the_product) {
    static const int64_t shapes[][3] = {{7, 5, 3},    {5, 7, 5},    {16, 16, 16}, {40, 24, 1},
                                        {64, 48, 40}, {33, 70, 32}, {96, 31, 31}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_shape(shapes[i][0], shapes[i][1], shapes[i][2], 0);
        check_shape(shapes[i][0], shapes[i][1], shapes[i][2], 1);
    }
}
END_TEST

/* O21: what binary32 can hold comes back to 1e-12. The picked rows are those of an identity among
 * smaller ones, wherever they stand, and the others are mixed by fractions of 64. */
START_TEST(known_pivots_are_exact) {
    enum { OUT = 40, IN = 24, RANK = 12 };
    float left[OUT * RANK], right[RANK * IN];
    double row[IN];
    lr__pivot p;
    for (int i = 0; i < OUT; i++)
        for (int k = 0; k < RANK; k++)
            left[i * RANK + k] = (float)((5 * i + 3 * k + i * k) % 17 - 8) / 64;
    for (int k = 0; k < RANK; k++)
        for (int c = 0; c < RANK; c++) left[(7 * k + 3) % OUT * RANK + c] = k == c;
    for (int i = 0; i < RANK * IN; i++) right[i] = (float)(7 * i % 23 - 11);
    CHECK_OK(lr__pivot_new(&p, OUT, IN, RANK, left, right, "known"));
    for (int i = 0; i < OUT; i++) {
        pivot_row(&p, i, row);
        for (int j = 0; j < IN; j++) {
            for (int k = 0; k < RANK; k++)
                row[j] -= (double)left[i * RANK + k] * (double)right[k * IN + j];
            CHECK_NEAR(row[j], 0, 1e-12);
        }
    }
    for (int i = 0; i < RANK; i++) {
        int k = 0;
        while (k < RANK && p.picked[i] != (7 * k + 3) % OUT) k++;
        ck_assert_int_lt(k, RANK);
    }
    lr__pivot_clear(&p);
}
END_TEST

/* Columns of growing size make the first choice of pivots a poor one (Kahan's matrix, turned). */
START_TEST(exchanges_until_mix_is_small) {
    enum { N = 24 };
    float left[2 * N * N], right[N * N] = {0};
    lr__pivot p;
    double s = 0.28, c = sqrt(1 - s * s);
    for (int i = 0; i < N; i++) {
        right[i * N + i] = 1;
        for (int j = 0; j < N; j++) {
            left[j * N + i] = (float)(j < i ? 0 : j == i ? pow(s, i) : -c * pow(s, i));
            left[(N + j) * N + i] = (float)lr__normal(5, 1, (uint64_t)(i * N + j)) * 1e-3f;
        }
    }
    CHECK_OK(lr__pivot_new(&p, 2 * N, N, N, left, right, "kahan"));
    ck_assert_double_le(p.largest, 2.0 + 1e-9);
    lr__pivot_clear(&p);
}
END_TEST

START_TEST(refuses_what_has_no_pivots) {
    float left[12] = {0}, right[6] = {0};
    lr__pivot p;
    ck_assert_int_eq(lr__pivot_new(&p, 6, 3, 2, left, right, "zero"), LR_E_NUMERIC);
    ck_assert_int_eq(lr__pivot_new(&p, 6, 3, 7, left, right, "wide"), LR_E_INVALID);
    ck_assert_int_eq(lr__pivot_new(&p, 6, 3, 0, left, right, "none"), LR_E_INVALID);
    left[0] = NAN;
    ck_assert_int_eq(lr__pivot_new(&p, 6, 3, 2, left, right, "nan"), LR_E_NUMERIC);
}
END_TEST

static lr_model *compressed(const lr_model *model, const char *storage, const char *ranks,
                            const char *method) {
    lr_model *copy;
    lr_plan *plan;
    lr_stats *stats;
    lr_plan_opts opts;
    lr_compress_opts how;
    int32_t ids[512];
    tiny_text(1, 512, tiny_vocabulary(model), ids);
    CHECK_OK(lr_model_clone(&copy, model));
    CHECK_OK(lr_stats_new(&stats, model, NULL));
    CHECK_OK(lr_stats_collect(stats, ids, 512, 32, 1));
    lr_plan_opts_init(&opts, sizeof opts);
    lr_compress_opts_init(&how, sizeof how);
    opts.ranks = ranks;
    opts.storage = storage;
    how.method = method;
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    CHECK_OK(lr_compress(copy, plan, stats, &how, NULL, NULL));
    lr_plan_free(plan);
    lr_stats_free(stats);
    return copy;
}

/* The same ranks in both storages are the same function, with fewer parameters. */
static void check_model(const char *name, const char *method) {
    lr_model *model = golden_open(name);
    static const char ranks[] = "{\"*\": 4, \"{q,o,down}_proj\": 8}";
    lr_model *factors = compressed(model, "two-factor", ranks, method);
    lr_model *pivots = compressed(model, "pivot", ranks, method);
    int32_t count = 24, vocabulary = tiny_vocabulary(model);
    for (int32_t kind = 0; kind < 2; kind++) {
        float *a = tiny_logits(factors, kind, 2, count), *b = tiny_logits(pivots, kind, 2, count);
        ck_assert_double_le(tiny_distance(a, b, (int64_t)count * vocabulary), 1e-3);
        free(a);
        free(b);
    }
    int64_t saved = 0;
    int32_t of_kind[4] = {0};
    for (int32_t i = 0; i + 1 < lr_model_linear_count(model); i++) {
        lr_linear *linear;
        CHECK_OK(lr_model_linear(pivots, i, &linear));
        int64_t rank = lr_linear_rank(linear), out = lr_linear_out(linear);
        int is_pivot =
            rank * rank > out || (lr_linear_in(linear) - 1) * (lr_linear_in(linear) - 1) <= 4 * out;
        ck_assert_int_eq(lr_linear_kind(linear), is_pivot ? LR_LINEAR_PIVOT : LR_LINEAR_LOW_RANK);
        saved += is_pivot ? rank * rank : 0;
        of_kind[lr_linear_kind(linear)]++;
        lr_linear_free(linear);
    }
    ck_assert_int_gt(of_kind[LR_LINEAR_PIVOT], 0);
    ck_assert_int_eq(parameters_of(factors) - parameters_of(pivots), saved);
    lr_model_free(pivots);
    lr_model_free(factors);
    lr_model_free(model);
}

START_TEST(is_the_same_model) {
    check_model("llama-tied", "pca");
    check_model("qwen2", "whiten");
    check_model("llama-bias-sharded", "afm");
}
END_TEST

START_TEST(plan_counts_what_pivots_cost) {
    lr_model *model = golden_open("llama-tied");
    lr_plan *plan;
    lr_plan_opts opts;
    int64_t before, after, sum = 0;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.storage = "pivot";
    opts.keep = 0.8;
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    lr_plan_parameters(plan, &before, &after);
    int64_t spare = (int64_t)floor(0.8 * (double)before) - after;
    for (int32_t i = 0; i < lr_plan_count(plan); i++) {
        lr_linear *linear;
        int64_t r = lr_plan_rank(plan, i);
        CHECK_OK(lr_model_find_linear(model, lr_plan_module(plan, i), &linear));
        int64_t m = lr_linear_out(linear), n = lr_linear_in(linear);
        ck_assert(!r || r * r > m);
        sum += r ? r * (m + n - r) : m * n;
        if (r) ck_assert_int_gt((r + 1) * (m + n - r - 1) - r * (m + n - r), spare);
        lr_linear_free(linear);
    }
    ck_assert_int_eq(sum, after);
    ck_assert_int_ge(spare, 0);
    opts.storage = "thin";
    lr_plan *none;
    ck_assert_int_eq(lr_plan_new(&none, model, &opts), LR_E_INVALID);
    lr_plan_free(plan);
    lr_model_free(model);
}
END_TEST

START_TEST(survives_saving) {
    lr_model *model = golden_open("llama-tied"), *again;
    lr_model *pivots = compressed(model, "pivot", "{\"*\": 9, \"v_proj\": 18}", "pca");
    lr_save_opts opts;
    lr_save_opts_init(&opts, sizeof opts);
    opts.dtype = LR_F32;
    CHECK_OK(lr_model_save(pivots, scratch_path("pivots"), &opts));
    again = tiny_open_path(scratch_path("pivots"), 2);
    float *a = tiny_logits(pivots, LR_STEP_BATCH, 2, 24);
    float *b = tiny_logits(again, LR_STEP_BATCH, 2, 24);
    ck_assert_mem_eq(a, b, (size_t)(24 * tiny_vocabulary(model)) * sizeof *a);
    free(a);
    free(b);
    lr_model_free(again);
    lr_model_free(pivots);
    lr_model_free(model);
}
END_TEST

Suite *pivot_suite(void) {
    Suite *suite = suite_create("pivot");
    TCase *numbers = tcase_create("numbers"), *models = tcase_create("models");
    tcase_add_test(numbers, reproduces_the_product);
    tcase_add_test(numbers, known_pivots_are_exact);
    tcase_add_test(numbers, exchanges_until_mix_is_small);
    tcase_add_test(numbers, refuses_what_has_no_pivots);
    tcase_add_checked_fixture(models, scratch_make, scratch_remove);
    tcase_set_timeout(models, 60);
    tcase_add_test(models, is_the_same_model);
    tcase_add_test(models, plan_counts_what_pivots_cost);
    tcase_add_test(models, survives_saving);
    suite_add_tcase(suite, numbers);
    suite_add_tcase(suite, models);
    return suite;
}
