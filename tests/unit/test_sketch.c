/* Randomised truncation against the tail of the spectrum and against the exact directions. */
#include "factor_fixture.h"

enum { M = 90, N = 110, RANK = 24, METHODS = 7 };

static const int32_t methods[METHODS] = {LR__FACTOR_SVD, LR__FACTOR_WHITEN, LR__FACTOR_WHITEN_EIG,
                                         LR__FACTOR_PCA, LR__FACTOR_AFM,    LR__FACTOR_ASVD,
                                         LR__FACTOR_QR};

static lr__factor_basis *sketch_of(const fixture *f, int32_t method, uint64_t seed) {
    const lr__factor_sketch sketch = {.use = 1, .seed = seed};
    lr__factor_basis *basis = NULL;
    CHECK_OK(lr__factor_basis_sketch(&basis, &f->problem, method, RANK, &sketch));
    ck_assert_int_lt(basis->count, M);
    return basis;
}

/* O25: never below the tail, at most 1.05 of it; what it says of itself is exact; the same seed
 * gives the same bits. */
START_TEST(loss_is_near_the_tail) {
    int32_t method = methods[_i];
    fixture f = fixture_new(_i % 2 ? (shape){M, N} : (shape){N, M}, 300, 1, 3);
    double *tails = fixture_tails(&f, method);
    lr__factor_basis *a = sketch_of(&f, method, 5), *b = sketch_of(&f, method, 5);
    lr__factor_basis *other = sketch_of(&f, method, 6);
    lr__factors cut, again, differs;
    CHECK_OK(lr__factor_basis_cut(&cut, a, &f.problem, RANK));
    CHECK_OK(lr__factor_basis_cut(&again, b, &f.problem, RANK));
    CHECK_OK(lr__factor_basis_cut(&differs, other, &f.problem, RANK));
    double *approx = basis_approx(a, 0, RANK), loss = explicit_loss(&f, approx, method);
    CHECK_NEAR(cut.total, tails[0], 1e-9 * tails[0]);
    CHECK_NEAR(cut.predicted, loss, 1e-9 * tails[0]);
    CHECK_NEAR(cut.measured, loss, 1e-9 * tails[0]);
    ck_assert_double_ge(loss, tails[RANK] - 1e-9 * tails[0]);
    ck_assert_double_le(loss, 1.05 * tails[RANK]);
    ck_assert_mem_eq(cut.left, again.left, (size_t)(f.m * RANK) * sizeof *cut.left);
    ck_assert_mem_eq(cut.right, again.right, (size_t)(RANK * f.n) * sizeof *cut.right);
    ck_assert_int_ne(memcmp(cut.left, differs.left, (size_t)(f.m * RANK) * sizeof *cut.left), 0);
    ck_assert_double_le(differs.measured, 1.05 * tails[RANK]);
    for (int64_t r = 1; r < a->count; r++) ck_assert_double_ge(a->spectrum[r - 1], a->spectrum[r]);
    free(approx);
    free(tails);
    lr__factors_clear(&cut);
    lr__factors_clear(&again);
    lr__factors_clear(&differs);
    lr__factor_basis_free(a);
    lr__factor_basis_free(b);
    lr__factor_basis_free(other);
    fixture_free(&f);
}
END_TEST

/* The leading direction, far from the others, is found to the last digits. */
START_TEST(leading_direction_is_found) {
    fixture f = fixture_new((shape){M, N}, 300, 2, 3);
    lr__factor_basis *sketch = sketch_of(&f, LR__FACTOR_PCA, 0), *exact = NULL;
    CHECK_OK(lr__factor_basis_new(&exact, &f.problem, LR__FACTOR_PCA));
    double dot = 0;
    for (int64_t i = 0; i < M; i++) dot += sketch->left[i] * exact->left[i];
    CHECK_NEAR(fabs(dot), 1, 1e-9);
    lr__factor_basis_free(sketch);
    lr__factor_basis_free(exact);
    fixture_free(&f);
}
END_TEST

START_TEST(small_or_full_ones_are_exact) {
    fixture f = fixture_new((shape){24, 40}, 100, 1, 3);
    const lr__factor_sketch on = {.use = 1}, usual = {.use = 0};
    ck_assert_int_eq(lr__factor_sketch_applies(&f.problem, 3, &on), 0);
    ck_assert_int_eq(lr__factor_sketch_applies(&f.problem, 3, &usual), 0);
    lr__factor_problem wide = f.problem;
    wide.out = wide.in = LR__SKETCH_FROM;
    ck_assert_int_eq(lr__factor_sketch_applies(&wide, 500, &usual), 1);
    ck_assert_int_eq(lr__factor_sketch_applies(&wide, LR__SKETCH_FROM, &on), 0);
    fixture_free(&f);
}
END_TEST

Suite *sketch_suite(void);

Suite *sketch_suite(void) {
    Suite *suite = suite_create("sketch");
    TCase *tests = tcase_create("sketch");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, loss_is_near_the_tail, 0, METHODS);
    tcase_add_test(tests, leading_direction_is_found);
    tcase_add_test(tests, small_or_full_ones_are_exact);
    suite_add_tcase(suite, tests);
    return suite;
}
