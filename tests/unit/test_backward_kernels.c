/* Derivatives of the kernels on single rows: the plain form against central differences of closed
 * formulas in binary64, the faster forms against the plain one. */
#include "kernels_guard.h"

static const lr__kernels *level;

enum { MOST = 2000 };

static const int64_t lengths[] = {1,  2,  3,  5,  7,  8,  9,  15, 16,  17,  23,  24,   25,  31,
                                  32, 33, 47, 48, 49, 63, 64, 65, 100, 127, 577, 1001, 1537};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static void check_close(const char *what, int64_t n, int64_t i, double got, double expected,
                        double bound) {
    if (!(fabs(got - expected) <= bound))
        ck_abort_msg("%s %s: %d of %d: %.9g, expected %.9g", level->name, what, (int)i, (int)n, got,
                     expected);
}

/* ---- rmsnorm ---- */

static double norm_epsilon = 1e-5;

/* sum of dy * rmsnorm(x, weight) */
static double norm_loss(int64_t n, const double *x, const double *weight, const float *dy) {
    double squares = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) squares += x[i] * x[i];
    for (int64_t i = 0; i < n; i++)
        sum += dy[i] * x[i] * weight[i] / sqrt(squares / (double)n + norm_epsilon);
    return sum;
}

static double norm_slope(int64_t n, double *x, double *weight, const float *dy, double *at) {
    double kept = *at, h = 1e-5;
    *at = kept + h;
    double above = norm_loss(n, x, weight, dy);
    *at = kept - h;
    double below = norm_loss(n, x, weight, dy);
    *at = kept;
    return (above - below) / (2 * h);
}

static void widen(int64_t n, const float *from, double *to) {
    for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

START_TEST(plain_rmsnorm_matches_differences) {
    static double x64[MOST], weight64[MOST];
    level = guard_level(0);
    for (int l = 0; lengths[l] <= 65; l++) {
        int64_t n = lengths[l];
        float *x = guard_vector(0, n), *weight = guard_vector(1, n), *dy = guard_vector(2, n);
        float *dx = guard_matrix(3, 1, n, n), *dweight = guard_matrix(4, 1, n, n);
        for (int64_t i = 0; i < n; i++) dx[i] = 0.5f, dweight[i] = -0.25f;
        widen(n, x, x64);
        widen(n, weight, weight64);
        level->rmsnorm_backward(n, x, weight, 1e-5f, dy, dx, dweight);
        for (int64_t i = 0; i < n; i++) {
            double slope = norm_slope(n, x64, weight64, dy, &x64[i]);
            check_close("dx", n, i, dx[i], 0.5 + slope, 1e-6 * (1 + fabs(slope)) + 1e-7);
            slope = norm_slope(n, x64, weight64, dy, &weight64[i]);
            check_close("dweight", n, i, dweight[i], -0.25 + slope, 1e-6 * (1 + fabs(slope)));
        }
    }
}
END_TEST

START_TEST(rmsnorm_matches_the_plain_form) {
    static float dx0[MOST], dweight0[MOST];
    if (!(level = guard_level(_i))) return;
    for (int l = 0; l < LENGTHS; l++) {
        int64_t n = lengths[l];
        float *x = guard_vector(0, n), *weight = guard_vector(1, n), *dy = guard_vector(2, n);
        float *dx = guard_vector(3, n), *dweight = guard_vector(4, n);
        memcpy(dx0, dx, (size_t)n * sizeof *dx);
        memcpy(dweight0, dweight, (size_t)n * sizeof *dx);
        guard_level(0)->rmsnorm_backward(n, x, weight, 1e-5f, dy, dx0, dweight0);
        level->rmsnorm_backward(n, x, weight, 1e-5f, dy, dx, dweight);
        guard_check_front(dx);
        guard_check_front(dweight);
        for (int64_t i = 0; i < n; i++) {
            check_close("dx", n, i, dx[i], dx0[i], 1e-6 * (1 + fabs((double)dx0[i])));
            check_close("dweight", n, i, dweight[i], dweight0[i], 1e-6);
        }
        memcpy(dweight0, dweight, (size_t)n * sizeof *dx);
        level->rmsnorm_backward(n, x, weight, 1e-5f, dy, dx, NULL);
        ck_assert(!memcmp(dweight, dweight0, (size_t)n * sizeof *dx));
    }
}
END_TEST

/* Squares beyond binary32, and factors that are tiny then: z = 1 everywhere, so dx is
 * (dy - mean dy) / 1e30. */
START_TEST(rmsnorm_bears_large_numbers) {
    if (!(level = guard_level(_i))) return;
    float *x = guard_vector(0, 20), *weight = guard_vector(1, 20), *dy = guard_vector(2, 20);
    float dx[20] = {0}, dweight[20] = {0};
    double mean = 0;
    for (int i = 0; i < 20; i++) x[i] = 1e30f, weight[i] = 1, mean += dy[i] / 20.0;
    level->rmsnorm_backward(20, x, weight, 1e-5f, dy, dx, dweight);
    for (int i = 0; i < 20; i++) {
        check_close("dx", 20, i, dx[i] * 1e30, dy[i] - mean, 1e-6);
        check_close("dweight", 20, i, dweight[i], dy[i], 1e-6);
    }
}
END_TEST

/* ---- swiglu ---- */

static double swiglu(double g, double u) { return u * g / (1 + exp(-g)); }

START_TEST(plain_swiglu_matches_differences) {
    enum { COUNT = 4001 };
    level = guard_level(0);
    float *gate = guard_vector(0, COUNT), *up = guard_vector(1, COUNT);
    float *dout = guard_vector(2, COUNT);
    float *dgate = guard_matrix(3, 1, COUNT, COUNT), *dup = guard_matrix(4, 1, COUNT, COUNT);
    for (int i = 0; i < COUNT; i++) gate[i] = (float)(i - 2000) * 0.01f;
    level->swiglu_backward(COUNT, gate, up, dout, dgate, dup);
    for (int i = 0; i < COUNT; i++) {
        double h = 1e-5, g = gate[i], u = up[i], d = dout[i];
        double along_gate = d * (swiglu(g + h, u) - swiglu(g - h, u)) / (2 * h);
        double along_up = d * (swiglu(g, u + h) - swiglu(g, u - h)) / (2 * h);
        check_close("dgate", COUNT, i, dgate[i], along_gate, 5e-7);
        check_close("dup", COUNT, i, dup[i], along_up, 5e-7 * (1 + fabs(along_up)));
    }
}
END_TEST

START_TEST(swiglu_matches_the_plain_form) {
    static float dgate0[MOST], dup0[MOST];
    if (!(level = guard_level(_i))) return;
    for (int l = 0; l < LENGTHS; l++) {
        int64_t n = lengths[l];
        size_t bytes = (size_t)n * sizeof(float);
        float *gate = guard_vector(0, n), *up = guard_vector(1, n), *dout = guard_vector(2, n);
        float *dgate = guard_vector(3, n), *dup = guard_vector(4, n);
        for (int64_t i = 0; i < n; i++) gate[i] *= i % 3 ? 5.0f : 100.0f;
        guard_level(0)->swiglu_backward(n, gate, up, dout, dgate0, dup0);
        level->swiglu_backward(n, gate, up, dout, dgate, dup);
        guard_check_front(dgate);
        guard_check_front(dup);
        for (int64_t i = 0; i < n; i++) {
            check_close("dgate", n, i, dgate[i], dgate0[i], 1e-6);
            check_close("dup", n, i, dup[i], dup0[i], 1e-6 * (1 + fabs((double)dup0[i])));
        }
        memcpy(dgate0, gate, bytes);
        memcpy(dup0, up, bytes);
        level->swiglu_backward(n, dgate0, dup0, dout, dgate0, dup0);
        ck_assert(!memcmp(dgate0, dgate, bytes) && !memcmp(dup0, dup, bytes));
        memcpy(dgate0, gate, bytes);
        memcpy(dup0, dout, bytes);
        level->swiglu_backward(n, dgate0, up, dup0, dup0, dgate0);
        ck_assert(!memcmp(dup0, dgate, bytes) && !memcmp(dgate0, dup, bytes));
    }
}
END_TEST

START_TEST(swiglu_bears_extremes) {
    static const float gates[] = {3e38f, -3e38f, 1000.0f, -1000.0f, 0.0f, -0.0f, 1e-40f, -1e-40f};
    static const double expected[] = {1, 0, 1, 0, 0.5, 0.5, 0.5, 0.5};
    if (!(level = guard_level(_i))) return;
    for (int64_t pad = 0; pad < 20; pad++) {
        float *gate = guard_vector(0, pad + 9), *one = guard_vector(1, pad + 9);
        float dgate[29], dup[29];
        memcpy(gate + pad, gates, sizeof gates);
        gate[pad + 8] = NAN;
        for (int64_t i = 0; i < pad + 9; i++) one[i] = 1.0f;
        level->swiglu_backward(pad + 9, gate, one, one, dgate, dup);
        for (int i = 0; i < 8; i++) check_close("dgate", 8, i, dgate[pad + i], expected[i], 1e-7);
        ck_assert(isnan(dgate[pad + 8]) && isnan(dup[pad + 8]));
    }
}
END_TEST

/* ---- rope ---- */

/* Backward by negated sines is the transpose: <rope(x), y> = <x, rope'(y)>. */
START_TEST(rope_with_negated_sines_is_its_transpose) {
    if (!(level = guard_level(_i))) return;
    for (int l = 1; l < LENGTHS; l++) {
        int64_t n = lengths[l], half = n / 2;
        float *c = guard_vector(0, half), *s = guard_vector(1, half);
        float *x = guard_vector(2, n), *y = guard_vector(3, n);
        static float turned[MOST], back[MOST];
        double forward = 0, backward = 0;
        memcpy(turned, x, (size_t)n * sizeof *x);
        memcpy(back, y, (size_t)n * sizeof *y);
        level->rope(n, c, s, turned);
        for (int64_t i = 0; i < half; i++) s[i] = -s[i];
        level->rope(n, c, s, back);
        for (int64_t i = 0; i < 2 * half; i++) {
            forward += (double)turned[i] * y[i];
            backward += (double)x[i] * back[i];
        }
        check_close("rope", n, 0, backward, forward, 2e-7 * (double)n);
    }
}
END_TEST

Suite *backward_kernels_suite(void) {
    Suite *suite = suite_create("backward_kernels");
    TCase *tests = tcase_create("rows");
    tcase_add_test(tests, plain_rmsnorm_matches_differences);
    tcase_add_loop_test(tests, rmsnorm_matches_the_plain_form, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, rmsnorm_bears_large_numbers, 0, GUARD_LEVELS);
    tcase_add_test(tests, plain_swiglu_matches_differences);
    tcase_add_loop_test(tests, swiglu_matches_the_plain_form, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, swiglu_bears_extremes, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, rope_with_negated_sines_is_its_transpose, 0, GUARD_LEVELS);
    suite_add_tcase(suite, tests);
    return suite;
}
