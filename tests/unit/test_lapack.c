/* The row-major layer over BLAS and LAPACK, against definitions written as loops. */
#include "backend/lapack.h"
#include "factor_fixture.h"
#include "faults.h"

static uint64_t seed = 42;

static double *gaussian(int64_t count) {
    double *values = zeros(count);
    for (int64_t i = 0; i < count; i++) values[i] = noise(&seed);
    return values;
}

static double element(lr__dview v, int64_t i, int64_t j) {
    return v.is_transposed ? v.at[j * v.step + i] : v.at[i * v.step + j];
}

/* out [a.rows, b.cols]. */
static double *product(lr__dview a, lr__dview b) {
    double *out = zeros(a.rows * b.cols);
    for (int64_t i = 0; i < a.rows; i++)
        for (int64_t j = 0; j < b.cols; j++)
            for (int64_t k = 0; k < a.cols; k++)
                out[i * b.cols + j] += element(a, i, k) * element(b, k, j);
    return out;
}

static void check_orthonormal_rows(lr__dview a) {
    double *gram = product(a, lr__dview_transpose(a));
    for (int64_t i = 0; i < a.rows; i++)
        for (int64_t j = 0; j < a.rows; j++) CHECK_NEAR(gram[i * a.rows + j], i == j, 1e-13);
    free(gram);
}

static void check_equal(const double *a, const double *b, int64_t count) {
    CHECK_NEAR(difference(a, b, count), 0, 1e-13);
}

START_TEST(gemm_reads_views) {
    double *a = gaussian(7 * 11), *b = gaussian(11 * 13), *c = gaussian(9 * 8), *was = zeros(9 * 8);
    lr__dview left = {a, 5, 6, 11, 0}, right = {b, 6, 7, 13, 0};
    if (_i & 1) left = lr__dview_transpose((lr__dview){a, 6, 5, 11, 0});
    if (_i & 2) right = lr__dview_transpose((lr__dview){b, 7, 6, 13, 0});
    memcpy(was, c, 72 * sizeof *c);
    double *expected = product(left, right);
    CHECK_OK(lr__dgemm(2, left, right, -3, (lr__dview){c, 5, 7, 8, 0}));
    for (int64_t i = 0; i < 9; i++)
        for (int64_t j = 0; j < 8; j++) {
            int inside = i < 5 && j < 7;
            double value = inside ? 2 * expected[i * 7 + j] - 3 * was[i * 8 + j] : was[i * 8 + j];
            CHECK_NEAR(c[i * 8 + j], value, inside ? 1e-12 : 0);
        }
    free(a);
    free(b);
    free(c);
    free(was);
    free(expected);
}
END_TEST

START_TEST(syrk_writes_the_lower_triangle) {
    double *a = gaussian(5 * 9), c[25];
    for (int i = 0; i < 25; i++) c[i] = 77;
    lr__dview view = _i ? lr__dview_transpose(lr__dview_of(a, 9, 5)) : lr__dview_of(a, 5, 9);
    double *expected = product(view, lr__dview_transpose(view));
    CHECK_OK(lr__dsyrk(view, c));
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 5; j++)
            CHECK_NEAR(c[i * 5 + j], j > i ? 77 : expected[i * 5 + j], 1e-12);
    free(a);
    free(expected);
}
END_TEST

START_TEST(cholesky_and_triangles) {
    enum { N = 12, ROWS = 5 };
    double *x = gaussian(N * 30), *c = zeros(N * N), *b = gaussian(ROWS * N),
           *was = zeros(ROWS * N);
    int64_t failed = -1;
    CHECK_OK(lr__dsyrk(lr__dview_of(x, N, 30), c));
    CHECK_OK(lr__dpotrf(N, c, &failed));
    ck_assert_int_eq(failed, 0);
    for (int i = 0; i < N; i++)
        for (int j = i + 1; j < N; j++) ck_assert_double_eq(c[i * N + j], 0);
    lr__dview l = lr__dview_of(c, N, N), whole = lr__dview_of(x, N, 30);
    double *back = product(l, lr__dview_transpose(l)),
           *expected = product(whole, lr__dview_transpose(whole));
    check_equal(back, expected, N * N);
    memcpy(was, b, ROWS * N * sizeof *b);
    double *times = product(lr__dview_of(b, ROWS, N), l);
    CHECK_OK(lr__dtrmm(ROWS, N, c, b));
    check_equal(b, times, ROWS * N);
    CHECK_OK(lr__dtrsm(ROWS, N, c, b));
    CHECK_NEAR(difference(b, was, ROWS * N), 0, 1e-12);
    c[3 * N + 3] = 0;
    CHECK_FAILS(lr__dtrsm(ROWS, N, c, b), LR_E_NUMERIC, "dtrsm: element [3, 3] is 0");
    free(x);
    free(c);
    free(b);
    free(was);
    free(back);
    free(expected);
    free(times);
}
END_TEST

START_TEST(cholesky_names_the_minor) {
    double c[9] = {4, 9, 9, 2, 0.5, 9, 0, 0, 1};
    int64_t failed = 0;
    CHECK_OK(lr__dpotrf(3, c, &failed));
    ck_assert_int_eq(failed, 2);
}
END_TEST

START_TEST(eigenvectors_lie_in_rows) {
    enum { N = 37 };
    double *x = gaussian(N * 20), *c = zeros(N * N), *a = zeros(N * N), values[N];
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < N; j++)
            for (int64_t k = 0; k < 20; k++) c[i * N + j] += x[i * 20 + k] * x[j * 20 + k];
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < N; j++) a[i * N + j] = j > i ? NAN : c[i * N + j];
    CHECK_OK(lr__dsyevd(N, a, values));
    check_orthonormal_rows(lr__dview_of(a, N, N));
    for (int64_t i = 0; i < N; i++) {
        if (i) ck_assert_double_ge(values[i], values[i - 1]);
        for (int64_t j = 0; j < N; j++) {
            double sum = 0;
            for (int64_t k = 0; k < N; k++) sum += c[j * N + k] * a[i * N + k];
            CHECK_NEAR(sum, values[i] * a[i * N + j], 1e-13 * values[N - 1]);
        }
    }
    free(x);
    free(c);
    free(a);
}
END_TEST

static const shape rectangles[] = {{7, 12}, {12, 7}, {9, 9}, {1, 6}, {6, 1}, {1, 1}, {40, 33}};

START_TEST(singular_values_and_vectors) {
    int64_t m = rectangles[_i].m, n = rectangles[_i].n, k = m < n ? m : n;
    double *a = gaussian(m * n), *was = zeros(m * n);
    double *u = zeros(m * k), *s = zeros(k), *vt = zeros(k * n);
    memcpy(was, a, (size_t)(m * n) * sizeof *a);
    CHECK_OK(lr__dgesdd(m, n, a, s, u, vt));
    check_orthonormal_rows(lr__dview_transpose(lr__dview_of(u, m, k)));
    check_orthonormal_rows(lr__dview_of(vt, k, n));
    memcpy(a, was, (size_t)(m * n) * sizeof *a);
    double *squares = jacobi_squares(a, m, n);
    for (int64_t i = 0; i < k; i++) {
        CHECK_NEAR(s[i] * s[i], squares[i], 1e-12 * squares[0]);
        for (int64_t j = 0; j < n; j++) vt[i * n + j] *= s[i];
    }
    double *back = product(lr__dview_of(u, m, k), lr__dview_of(vt, k, n));
    check_equal(back, was, m * n);
    free(a);
    free(was);
    free(u);
    free(s);
    free(vt);
    free(squares);
    free(back);
}
END_TEST

START_TEST(thin_qr_and_lq) {
    int64_t m = rectangles[_i].m, n = rectangles[_i].n, k = m < n ? m : n;
    double *a = gaussian(m * n), *was = zeros(m * n), *r = zeros(k * k);
    memcpy(was, a, (size_t)(m * n) * sizeof *a);
    lr__dview whole = lr__dview_of(was, m, n), triangle = lr__dview_of(r, k, k);
    if (m >= n) {
        CHECK_OK(lr__dqr(m, n, a, r));
        check_orthonormal_rows(lr__dview_transpose(lr__dview_of(a, m, n)));
        double *back = product(lr__dview_of(a, m, n), triangle);
        check_equal(back, was, m * n);
        free(back);
    } else {
        CHECK_OK(lr__dlq(m, n, a, r));
        double *gram = product(triangle, lr__dview_transpose(triangle)),
               *expected = product(whole, lr__dview_transpose(whole));
        check_equal(gram, expected, m * m);
        free(gram);
        free(expected);
    }
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < k; j++)
            if (m >= n ? j < i : j > i) ck_assert_double_eq(r[i * k + j], 0);
    free(a);
    free(was);
    free(r);
}
END_TEST

START_TEST(wrong_calls) {
    double a[16] = {0}, b[16] = {0}, c[16] = {0};
    int64_t failed, huge = (int64_t)INT32_MAX + 1;
    lr__dview two = lr__dview_of(a, 2, 3), three = lr__dview_of(b, 4, 2);
    CHECK_FAILS(lr__dgemm(1, two, three, 0, lr__dview_of(c, 2, 2)), LR_E_SHAPE,
                "dgemm: [2, 3] times [4, 2] into [2, 2]");
    CHECK_FAILS(lr__dgemm(1, (lr__dview){a, 2, 3, 2, 0}, three, 0, lr__dview_of(c, 2, 2)),
                LR_E_SHAPE, "rows of 3 numbers, 2 apart");
    CHECK_FAILS(lr__dgemm(1, lr__dview_of(a, huge, 2), three, 0, lr__dview_of(c, 2, 2)),
                LR_E_UNSUPPORTED, "dgemm: size 2147483648");
    CHECK_FAILS(lr__dsyrk(lr__dview_of(a, 0, 2), c), LR_E_UNSUPPORTED, "dsyrk: size 0");
    CHECK_FAILS(lr__dtrmm(huge, 2, a, b), LR_E_UNSUPPORTED, "dtrmm: size");
    CHECK_FAILS(lr__dtrsm(2, huge, a, b), LR_E_UNSUPPORTED, "dtrsm: size");
    CHECK_FAILS(lr__dpotrf(0, a, &failed), LR_E_UNSUPPORTED, "dpotrf: order 0");
    CHECK_FAILS(lr__dsyevd(30000, a, c), LR_E_UNSUPPORTED, "dsyevd: order 30000");
    CHECK_FAILS(lr__dgesdd(30000, 30000, a, c, a, b), LR_E_UNSUPPORTED, "dgesdd: order 30000");
    CHECK_FAILS(lr__dqr(2, 3, a, c), LR_E_SHAPE, "QR of [2, 3]");
    CHECK_FAILS(lr__dlq(3, 2, a, c), LR_E_SHAPE, "LQ of [3, 2]");
    a[4] = NAN;
    CHECK_FAILS(lr__dpotrf(3, a, &failed), LR_E_NUMERIC, "dpotrf: element [1, 1] is ");
    CHECK_FAILS(lr__dsyevd(3, a, c), LR_E_NUMERIC, "dsyevd: element [1, 1] is ");
    a[4] = INFINITY;
    CHECK_FAILS(lr__dgesdd(2, 3, a, c, b, c + 8), LR_E_NUMERIC, "dgesdd: element [1, 1] is inf");
}
END_TEST

static lr_status decompose(double *a, double *b, double *c, double *d) {
    lr_status status = lr__dsyevd(4, a, c);
    if (status == LR_OK) status = lr__dgesdd(4, 4, a, c, b, d);
    if (status == LR_OK) status = lr__dqr(4, 4, b, d);
    return status == LR_OK ? lr__dlq(4, 4, b, d) : status;
}

START_TEST(out_of_memory) {
    double b[16], c[16], d[16];
    long refuse = 0;
    for (lr_status status = LR_E_NOMEM; status != LR_OK; refuse++) {
        double a[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
        faults_begin(refuse);
        status = decompose(a, b, c, d);
        ck_assert_int_eq(faults_end(), 0);
        if (status != LR_OK) ck_assert_int_eq(status, LR_E_NOMEM);
    }
    ck_assert_int_eq(refuse, 9);
}
END_TEST

Suite *lapack_suite(void);

Suite *lapack_suite(void) {
    enum { RECTANGLES = sizeof rectangles / sizeof *rectangles };
    Suite *suite = suite_create("lapack");
    TCase *tests = tcase_create("definitions");
    tcase_add_loop_test(tests, gemm_reads_views, 0, 4);
    tcase_add_loop_test(tests, syrk_writes_the_lower_triangle, 0, 2);
    tcase_add_test(tests, cholesky_and_triangles);
    tcase_add_test(tests, cholesky_names_the_minor);
    tcase_add_test(tests, eigenvectors_lie_in_rows);
    tcase_add_loop_test(tests, singular_values_and_vectors, 0, RECTANGLES);
    tcase_add_loop_test(tests, thin_qr_and_lq, 0, RECTANGLES);
    tcase_add_test(tests, wrong_calls);
    tcase_add_test(tests, out_of_memory);
    suite_add_tcase(suite, tests);
    return suite;
}
