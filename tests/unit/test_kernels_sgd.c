/* The kernels of SGD and of sums of squares: the plain form against the formula in binary64, the
 * others bit for bit. */
#include "kernels_guard.h"

static const int64_t lengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 577, 1001};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static void check_near(const char *what, int64_t n, int64_t i, double got, double expected) {
    ck_assert_msg(fabs(got - expected) <= 1e-6 * (1 + fabs(expected)),
                  "%s: %d of %d: %.9g, expected %.9g", what, (int)i, (int)n, got, expected);
}

static lr__sgd_task sgd_task(int64_t n, float *arrays[3], int has_momentum) {
    return (lr__sgd_task){.n = n,
                          .w = arrays[0],
                          .v = has_momentum ? arrays[1] : NULL,
                          .gradient = arrays[2],
                          .scale = 0.75f,
                          .decay = 0.01f,
                          .momentum = 0.9f,
                          .rate = 0.05f};
}

static void fill_sgd(int64_t n, int first, float *arrays[3]) {
    guard_state = 4711;
    for (int k = 0; k < 3; k++) arrays[k] = guard_vector(first + k, n);
}

START_TEST(sgd_has_the_same_bits) {
    const lr__kernels *level = guard_level(_i / 2);
    int has_momentum = _i % 2;
    for (int l = 0; level && l < LENGTHS; l++) {
        int64_t n = lengths[l];
        float *got[3], *plain[3];
        fill_sgd(n, 0, got);
        fill_sgd(n, 3, plain);
        const lr__sgd_task a = sgd_task(n, got, has_momentum);
        for (int64_t i = 0; i < n; i++) {
            double g = 0.75 * got[2][i] + 0.01 * got[0][i];
            double v = has_momentum ? 0.9 * got[1][i] + g : got[1][i];
            double w = got[0][i] - 0.05 * (has_momentum ? v : g);
            lr__sgd_task one =
                sgd_task(1, (float *[]){plain[0] + i, plain[1] + i, plain[2] + i}, has_momentum);
            ck_assert_int_eq(guard_level(0)->sgd(&one), 1);
            check_near("w", n, i, plain[0][i], w);
            check_near("v", n, i, plain[1][i], v);
        }
        ck_assert_int_eq(level->sgd(&a), 1);
        for (int k = 0; k < 3; k++) {
            ck_assert_mem_eq(got[k], plain[k], (size_t)n * sizeof(float));
            guard_check_front(got[k]);
        }
    }
}
END_TEST

START_TEST(sgd_tells_what_is_not_finite) {
    static const float bad[] = {INFINITY, NAN, 3e38f};
    const lr__kernels *level = guard_level(_i);
    for (int64_t n = 1; level && n < 40; n++)
        for (int what = 0; what < 3; what++)
            for (int64_t at = 0; at<n; at += n> 1 ? n - 1 : 1) {
                float *arrays[3];
                fill_sgd(n, 0, arrays);
                lr__sgd_task task = sgd_task(n, arrays, what);
                task.rate = 100;
                arrays[what == 1 ? 0 : 2][at] = bad[what];
                ck_assert_int_eq(level->sgd(&task), 0);
            }
}
END_TEST

START_TEST(squares_have_the_same_bits) {
    const lr__kernels *level = guard_level(_i);
    ck_assert(guard_level(0)->squares(0, NULL) == 0);
    for (int l = 0; level && l < LENGTHS; l++) {
        int64_t n = lengths[l];
        guard_state = 4711;
        const float *x = guard_vector(0, n);
        double sum = 0, got = level->squares(n, x);
        for (int64_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
        ck_assert_msg(fabs(got - sum) <= 1e-14 * sum, "%d: %.17g, expected %.17g", (int)n, got,
                      sum);
        ck_assert(got == guard_level(0)->squares(n, x));
    }
}
END_TEST

/* One bad number anywhere is seen; the greatest one squares to a finite sum. */
START_TEST(squares_tell_what_is_not_finite) {
    const lr__kernels *level = guard_level(_i);
    for (int64_t n = 1; level && n < 70; n++)
        for (int64_t at = 0; at < n; at++) {
            float *x = guard_vector(0, n);
            x[at] = -3.4e38f;
            ck_assert(isfinite(level->squares(n, x)));
            x[at] = at % 2 ? NAN : -INFINITY;
            ck_assert(!isfinite(level->squares(n, x)));
        }
}
END_TEST

Suite *kernels_sgd_suite(void) {
    Suite *suite = suite_create("kernels_sgd");
    TCase *tests = tcase_create("sgd");
    tcase_add_loop_test(tests, sgd_has_the_same_bits, 0, 2 * GUARD_LEVELS);
    tcase_add_loop_test(tests, sgd_tells_what_is_not_finite, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, squares_have_the_same_bits, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, squares_tell_what_is_not_finite, 0, GUARD_LEVELS);
    suite_add_tcase(suite, tests);
    return suite;
}
