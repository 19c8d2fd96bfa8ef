/* The triangle of the inputs: its square is their gram whatever the blocks, it keeps what the gram
 * loses, and the factors made from it keep that too. */
#include "compress/root.h"
#include "factor_fixture.h"

static lr__device device_of(int32_t threads) {
    lr__device device = {0};
    CHECK_OK(lr__pool_new(&device.pool, threads));
    return device;
}

/* X [n, tokens] in blocks of `block` tokens, from the left. */
static double *root_of(const double *x, int64_t n, int64_t tokens, int64_t block, int32_t threads) {
    double *root = zeros(n * n), *rows = zeros(n * block);
    lr__device device = device_of(threads);
    lr__arena arena = {0};
    for (int64_t t = 0; t < tokens; t += block) {
        int64_t now = tokens - t < block ? tokens - t : block;
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < now; k++) rows[i * now + k] = x[i * tokens + t + k];
        CHECK_OK(lr__root_fold(root, n, rows, now, &device, &arena));
    }
    lr__arena_clear(&arena);
    lr__pool_free(device.pool);
    free(rows);
    return root;
}

static double *inputs(int64_t n, int64_t tokens) {
    uint64_t state = 3 + (uint64_t)n;
    double *x = zeros(n * tokens);
    for (int64_t i = 0; i < n * tokens; i++) x[i] = noise(&state) + 0.2;
    return x;
}

/* Panels of 64 channels, and fewer tokens than channels as well as more. */
START_TEST(square_is_the_gram) {
    static const int64_t sizes[][3] = {{1, 1, 1},    {1, 9, 2},     {5, 40, 7},     {64, 30, 30},
                                       {65, 200, 1}, {130, 90, 33}, {200, 410, 128}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s][0], tokens = sizes[s][1];
        double *x = inputs(n, tokens), *root = root_of(x, n, tokens, sizes[s][2], 2);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                double square = 0, gram = 0;
                for (int64_t k = 0; k < n; k++) square += root[i * n + k] * root[j * n + k];
                for (int64_t k = 0; k < tokens; k++) gram += x[i * tokens + k] * x[j * tokens + k];
                CHECK_NEAR(square, gram, 1e-13 * (double)tokens * 2);
                if (j > i) ck_assert(root[i * n + j] == 0);
            }
        free(x);
        free(root);
    }
}
END_TEST

START_TEST(threads_give_the_same_bits) {
    enum { N = 150, TOKENS = 90 };
    double *x = inputs(N, TOKENS);
    double *one = root_of(x, N, TOKENS, 40, 1), *three = root_of(x, N, TOKENS, 40, 3);
    ck_assert_mem_eq(one, three, N * N * sizeof *one);
    free(one);
    free(three);
    free(x);
}
END_TEST

/* X with singular values that fall by `ratio` in all, in no channel's own direction. */
static void fill_steep(fixture *f, double ratio) {
    uint64_t state = 17;
    int64_t n = f->n, t = f->tokens;
    double *q = orthogonal(n, &state), *v = orthogonal(t, &state);
    memset(f->x, 0, (size_t)(n * t) * sizeof *f->x);
    for (int64_t p = 0; p < n; p++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < t; k++)
                f->x[i * t + k] +=
                    pow(ratio, -(double)p / (double)(n - 1)) * q[i * n + p] * v[p * t + k];
    free(q);
    free(v);
    fixture_moments(f);
}

/* How far a method is from the optimum at its worst rank, as a factor. */
static double worst_factor(const fixture *f, int32_t method, const double *tails) {
    lr__factor_basis *basis = NULL;
    double worst = 1;
    CHECK_OK(lr__factor_basis_new(&basis, &f->problem, method));
    for (int64_t r = 1; r < basis->count; r++) {
        double *approx = basis_approx(basis, 0, r);
        worst = fmax(worst, explicit_loss(f, approx, LR__FACTOR_PCA) / tails[r]);
        free(approx);
    }
    lr__factor_basis_free(basis);
    return worst;
}

/* O7, and where the covariance has lost its digits: the inputs' condition is 1e11, that of the
 * covariance 1e22, and only the root still finds the small directions. */
START_TEST(keeps_what_squaring_loses) {
    fixture f = fixture_new((shape){20, 20}, 40, 1, 1);
    fill_steep(&f, 1e11);
    double *folded = root_of(f.x, f.n, f.tokens, 13, 2);
    for (int64_t i = 0; i < f.n * f.n; i++) folded[i] /= sqrt((double)f.tokens);
    f.problem.root = folded;
    double *tails = fixture_tails(&f, LR__FACTOR_PCA);
    ck_assert_double_lt(tails[19], 1e-18 * tails[0]);
    ck_assert_double_le(worst_factor(&f, LR__FACTOR_QR, tails), 1.001);
    ck_assert_double_gt(worst_factor(&f, LR__FACTOR_PCA, tails), 10);
    ck_assert_double_gt(worst_factor(&f, LR__FACTOR_WHITEN, tails), 10);
    ck_assert_double_gt(worst_factor(&f, LR__FACTOR_WHITEN_EIG, tails), 10);
    free(tails);
    free(folded);
    fixture_free(&f);
}
END_TEST

Suite *root_suite(void);

Suite *root_suite(void) {
    Suite *suite = suite_create("root");
    TCase *tests = tcase_create("root");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, square_is_the_gram);
    tcase_add_test(tests, threads_give_the_same_bits);
    tcase_add_test(tests, keeps_what_squaring_loses);
    suite_add_tcase(suite, tests);
    return suite;
}
