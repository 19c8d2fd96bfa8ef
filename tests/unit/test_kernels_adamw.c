/* The AdamW kernels: the plain form against the formula in binary64, the others bit for bit. */
#include "kernels_guard.h"

static const int64_t lengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 577, 1001};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static void check_near(const char *what, int64_t n, int64_t i, double got, double expected) {
    ck_assert_msg(fabs(got - expected) <= 1e-6 * (1 + fabs(expected)),
                  "%s: %d of %d: %.9g, expected %.9g", what, (int)i, (int)n, got, expected);
}

static lr__adamw_task adamw_task(int64_t n, float *arrays[4]) {
    return (lr__adamw_task){.n = n,
                            .w = arrays[0],
                            .m = arrays[1],
                            .v = arrays[2],
                            .gradient = arrays[3],
                            .scale = 0.75f,
                            .beta1 = 0.9f,
                            .fresh1 = 0.1f,
                            .beta2 = 0.99f,
                            .fresh2 = 0.01f,
                            .kept = 0.999f,
                            .rate = 0.01f,
                            .spread = 1.5f,
                            .epsilon = 1e-6f};
}

static void fill_adamw(int64_t n, int first, float *arrays[4]) {
    guard_state = 4711;
    for (int k = 0; k < 4; k++) arrays[k] = guard_vector(first + k, n);
    for (int64_t i = 0; i < n; i++) arrays[2][i] = i % 5 ? fabsf(arrays[2][i]) : 0;
}

START_TEST(adamw_has_the_same_bits) {
    const lr__kernels *level = guard_level(_i);
    for (int l = 0; level && l < LENGTHS; l++) {
        int64_t n = lengths[l];
        float *got[4], *plain[4];
        fill_adamw(n, 0, got);
        fill_adamw(n, 4, plain);
        const lr__adamw_task a = adamw_task(n, got), b = adamw_task(n, plain);
        for (int64_t i = 0; i < n; i++) {
            double g = 0.75 * got[3][i], m = 0.9 * got[1][i] + 0.1 * g;
            double v = 0.99 * got[2][i] + 0.01 * g * g;
            double w = 0.999 * got[0][i] - 0.01 * m / (1.5 * sqrt(v) + 1e-6);
            lr__adamw_task one =
                adamw_task(1, (float *[]){plain[0] + i, plain[1] + i, plain[2] + i, plain[3] + i});
            ck_assert_int_eq(guard_level(0)->adamw(&one), 1);
            check_near("w", n, i, b.w[i], w);
            check_near("m", n, i, b.m[i], m);
            check_near("v", n, i, b.v[i], v);
        }
        ck_assert_int_eq(level->adamw(&a), 1);
        for (int k = 0; k < 4; k++) {
            ck_assert_mem_eq(got[k], plain[k], (size_t)n * sizeof(float));
            guard_check_front(got[k]);
        }
    }
}
END_TEST

START_TEST(adamw_tells_what_is_not_finite) {
    const lr__kernels *level = guard_level(_i);
    for (int64_t n = 1; level && n < 40; n++)
        for (int what = 0; what < 3; what++) {
            float *arrays[4];
            fill_adamw(n, 0, arrays);
            arrays[what == 1 ? 0 : 3][n - 1] = what == 0 ? 1e30f : what == 1 ? INFINITY : NAN;
            const lr__adamw_task task = adamw_task(n, arrays);
            ck_assert_int_eq(level->adamw(&task), 0);
        }
}
END_TEST

Suite *kernels_adamw_suite(void) {
    Suite *suite = suite_create("kernels_adamw");
    TCase *tests = tcase_create("adamw");
    tcase_add_loop_test(tests, adamw_has_the_same_bits, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, adamw_tells_what_is_not_finite, 0, GUARD_LEVELS);
    suite_add_tcase(suite, tests);
    return suite;
}
