/* Dispatch, and the kernels on single rows against binary64. */
#include "kernels_guard.h"

/* A dispatcher of our own, whose decision can be taken again. */
#define lr__kernels_best fresh_best
#define lr__kernels_named fresh_named
#define lr__multiply_pairs_best fresh_pairs
#include "backend/cpu/dispatch.c"
#undef lr__kernels_best
#undef lr__kernels_named
#undef lr__multiply_pairs_best

static const lr__kernels *level;

static const char *best_under(const char *cap) {
    if (cap)
        setenv("LOWRANK_MAX_ISA", cap, 1);
    else
        unsetenv("LOWRANK_MAX_ISA");
    once = (pthread_once_t)PTHREAD_ONCE_INIT;
    return fresh_best()->name;
}

START_TEST(environment_caps_the_level) {
    const char *old = getenv("LOWRANK_MAX_ISA");
    char *kept = old ? strdup(old) : NULL;
    const char *top = best_under(NULL);
    ck_assert_str_eq(best_under("c"), "c");
    ck_assert_str_eq(best_under("avx512"), top);
    ck_assert_str_eq(best_under("unknown"), top);
    ck_assert_str_eq(best_under(""), top);
    ck_assert_str_eq(best_under("avx2"), fresh_named("avx2") ? "avx2" : "c");
    best_under(kept);
    free(kept);
}
END_TEST

START_TEST(environment_takes_the_place_of_bf16) {
    const char *old = getenv("LOWRANK_MAX_ISA");
    char *kept = old ? strdup(old) : NULL;
    setenv("LOWRANK_BF16", "plain", 1);
    best_under("avx2");
    ck_assert(!fresh_pairs());
    best_under(NULL);
    ck_assert_int_eq(fresh_pairs() != NULL, fresh_named("avx512") != NULL);
    lr__panels_fn plain = fresh_pairs();
    unsetenv("LOWRANK_BF16");
    best_under(NULL);
    ck_assert(!plain || fresh_pairs() != plain);
    best_under(kept);
    free(kept);
}
END_TEST

START_TEST(levels_have_names_and_every_slot) {
    ck_assert_ptr_null(lr__kernels_named("sse9"));
    ck_assert_ptr_nonnull(lr__kernels_named("c"));
    ck_assert_ptr_eq(lr__kernels_best(), lr__kernels_named(lr__kernels_best()->name));
    for (int i = 0; i < GUARD_LEVELS; i++) {
        if (!(level = guard_level(i))) continue;
        ck_assert_str_eq(level->name, guard_levels[i]);
        for (size_t at = 0; at < sizeof *level; at += sizeof(void *)) {
            void *slot;
            memcpy(&slot, (const char *)level + at, sizeof slot);
            ck_assert_ptr_nonnull(slot);
        }
    }
}
END_TEST

static void check_close(const char *what, int64_t n, int64_t i, float got, double expected,
                        double bound) {
    if (!(fabs(got - expected) <= bound))
        ck_abort_msg("%s %s: %d of %d: %.9g, expected %.9g", level->name, what, (int)i, (int)n,
                     (double)got, expected);
}

/* 0 to 70, then a few larger. */
static int64_t length(int i) {
    static const int64_t large[] = {127, 128, 576, 1001, 1536};
    return i <= 70 ? i : large[i - 71];
}

enum { LENGTHS = 76 };

START_TEST(rmsnorm_matches_binary64) {
    if (!(level = guard_level(_i))) return;
    for (int l = 1; l < LENGTHS; l++) {
        int64_t n = length(l);
        float *x = guard_vector(0, n), *weight = guard_vector(1, n), *y = guard_vector(2, n);
        double sum = 0;
        for (int64_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
        double factor = 1 / sqrt(sum / (double)n + 1e-5);
        level->rmsnorm(n, x, weight, 1e-5f, y);
        guard_check_front(y);
        for (int64_t i = 0; i < n; i++) {
            double expected = x[i] * factor * weight[i];
            check_close("rmsnorm", n, i, y[i], expected, 3e-7 * fabs(expected));
        }
        level->rmsnorm(n, x, weight, 1e-5f, x);
        ck_assert(!memcmp(x, y, (size_t)n * sizeof *x));
    }
}
END_TEST

/* Squares that overflow binary32 do not. */
START_TEST(rmsnorm_bears_large_numbers) {
    if (!(level = guard_level(_i))) return;
    float *x = guard_vector(0, 20), *weight = guard_vector(1, 20), *y = guard_vector(2, 20);
    for (int i = 0; i < 20; i++) x[i] = 1e30f, weight[i] = 1.0f;
    level->rmsnorm(20, x, weight, 1e-5f, y);
    for (int i = 0; i < 20; i++) check_close("rmsnorm", 20, i, y[i], 1.0, 3e-7);
}
END_TEST

START_TEST(rope_matches_binary64) {
    if (!(level = guard_level(_i))) return;
    for (int l = 0; l < LENGTHS; l++) {
        int64_t n = length(l), half = n / 2;
        float *c = guard_vector(0, half), *s = guard_vector(1, half), *x = guard_vector(2, n);
        float *old = malloc((size_t)n * sizeof *old + 1);
        memcpy(old, x, (size_t)n * sizeof *old);
        level->rope(n, c, s, x);
        guard_check_front(x);
        for (int64_t i = 0; i < half; i++) {
            double a = old[i], b = old[i + half];
            check_close("rope", n, i, x[i], a * c[i] - b * s[i], 2e-7);
            check_close("rope", n, i + half, x[i + half], b * c[i] + a * s[i], 2e-7);
        }
        if (n % 2) ck_assert(guard_same(x[n - 1], old[n - 1]));
        free(old);
    }
}
END_TEST

static double silu(double g) { return g >= 0 ? g / (1 + exp(-g)) : g * exp(g) / (1 + exp(g)); }

START_TEST(swiglu_matches_binary64) {
    if (!(level = guard_level(_i))) return;
    for (int l = 0; l < LENGTHS; l++) {
        int64_t n = length(l);
        float *gate = guard_vector(0, n), *up = guard_vector(1, n), *out = guard_vector(2, n);
        for (int64_t i = 0; i < n; i++) gate[i] *= i % 3 ? 5.0f : 100.0f;
        level->swiglu(n, gate, up, out);
        guard_check_front(out);
        for (int64_t i = 0; i < n; i++) {
            double expected = silu(gate[i]) * up[i];
            check_close("swiglu", n, i, out[i], expected, 6e-7 * fabs(expected) + 2e-43);
        }
        level->swiglu(n, gate, up, up);
        ck_assert(!memcmp(up, out, (size_t)n * sizeof *up));
    }
}
END_TEST

START_TEST(swiglu_bears_extremes) {
    static const float gates[] = {3e38f, -3e38f, 1000.0f, -1000.0f, 0.0f, -0.0f, 1e-40f, -1e-40f};
    if (!(level = guard_level(_i))) return;
    for (int64_t pad = 0; pad < 20; pad++) {
        float *gate = guard_vector(0, pad + 10), *up = guard_vector(1, pad + 10), out[30];
        for (int i = 0; i < 8; i++) gate[pad + i] = gates[i];
        gate[pad + 8] = NAN;
        gate[pad + 9] = INFINITY;
        for (int64_t i = 0; i < pad + 10; i++) up[i] = 1.0f;
        level->swiglu(pad + 10, gate, up, out);
        for (int i = 0; i < 8; i++)
            check_close("swiglu", 8, i, out[pad + i], silu(gates[i]), 3e-7 * fabs(silu(gates[i])));
        ck_assert(isnan(out[pad + 8]));
        ck_assert(isinf(out[pad + 9]));
    }
}
END_TEST

START_TEST(vectors_match_binary64) {
    if (!(level = guard_level(_i))) return;
    for (int l = 0; l < LENGTHS; l++) {
        int64_t n = length(l);
        float *x = guard_vector(0, n), *y = guard_vector(1, n), *z = guard_vector(2, n);
        float *old = malloc((size_t)n * sizeof *old + 1);
        memcpy(old, y, (size_t)n * sizeof *old);
        level->axpy(n, 0.7f, x, y);
        guard_check_front(y);
        for (int64_t i = 0; i < n; i++)
            check_close("axpy", n, i, y[i], (double)0.7f * x[i] + old[i], 2e-7);
        level->scale(n, -1.3f, x, z);
        guard_check_front(z);
        for (int64_t i = 0; i < n; i++) ck_assert(guard_same(z[i], -1.3f * x[i]));
        memcpy(old, z, (size_t)n * sizeof *old);
        level->multiply(n, x, z);
        for (int64_t i = 0; i < n; i++) ck_assert(guard_same(z[i], old[i] * x[i]));
        level->scale(n, 2.0f, x, x);
        free(old);
    }
}
END_TEST

START_TEST(max_finds_the_largest_anywhere) {
    if (!(level = guard_level(_i))) return;
    ck_assert(level->max(0, NULL) == -INFINITY);
    for (int64_t n = 1; n <= 70; n++)
        for (int64_t at = 0; at < n; at++) {
            float *x = guard_vector(0, n);
            for (int64_t i = 0; i < n; i++) x[i] -= 5.0f;
            x[at] = -2.5f;
            if (level->max(n, x) != -2.5f) ck_abort_msg("%s max of %d", level->name, (int)n);
            x[at] = NAN;
            if (!isnan(level->max(n, x))) ck_abort_msg("%s NaN of %d", level->name, (int)n);
            x[at] = INFINITY;
            ck_assert(level->max(n, x) == INFINITY);
            for (int64_t i = 0; i < n; i++) x[i] = -INFINITY;
            ck_assert(level->max(n, x) == -INFINITY);
        }
}
END_TEST

static double ulps(float got, double expected) {
    int exponent;
    frexp(expected, &exponent);
    double ulp = ldexp(1, exponent - 24 < -149 ? -149 : exponent - 24);
    return fabs(got - expected) / ulp;
}

START_TEST(exp_is_accurate_to_two_ulp) {
    enum { COUNT = 200003 };
    if (!(level = guard_level(_i))) return;
    float *x = guard_vector(0, COUNT), *y = guard_vector(1, COUNT);
    double worst = 0, sum = 0;
    for (int i = 0; i < COUNT; i++) x[i] = (float)(-104.0 + 192.0 * i / (COUNT - 1));
    for (int i = 0; i < COUNT; i += 7) x[i] = guard_uniform();
    double total = level->exp_sum(COUNT, x, 0.0f, y);
    guard_check_front(y);
    for (int i = 0; i < COUNT; i++) {
        worst = fmax(worst, ulps(y[i], exp(x[i])));
        sum += (double)y[i];
    }
    if (!(worst <= 2)) ck_abort_msg("%s: %g ulp", level->name, worst);
    ck_assert_double_eq_tol(total / sum, 1.0, 1e-12);
}
END_TEST

START_TEST(exp_knows_its_limits) {
    static const float x[] = {-INFINITY, -1e38f, -104.0001f, 0.0f,     -0.0f,
                              88.72283f, 88.73f, 1e38f,      INFINITY, 0x1p-149f};
    static const float expected[] = {0, 0, 0, 1, 1, 3.40279e38f, INFINITY, INFINITY, INFINITY, 1};
    if (!(level = guard_level(_i))) return;
    for (int64_t pad = 0; pad < 20; pad++) {
        float *in = guard_vector(0, pad + 11), *out = guard_vector(1, pad + 11);
        memcpy(in + pad, x, sizeof x);
        in[pad + 10] = NAN;
        ck_assert(isnan(level->exp_sum(pad + 11, in, 0.0f, out)));
        for (int i = 0; i < 10; i++)
            if (!(out[pad + i] == expected[i] || fabsf(out[pad + i] / expected[i] - 1.0f) < 1e-4f))
                ck_abort_msg("%s: exp(%g) = %g", level->name, (double)x[i], (double)out[pad + i]);
        ck_assert(isnan(out[pad + 10]));
    }
}
END_TEST

/* Every length and shift; the sum takes nothing from beyond the end; y may be x. */
START_TEST(exp_sum_matches_binary64) {
    if (!(level = guard_level(_i))) return;
    ck_assert(level->exp_sum(0, NULL, 0.0f, NULL) == 0);
    for (int l = 1; l < LENGTHS; l++) {
        int64_t n = length(l);
        float *x = guard_vector(0, n), *y = guard_vector(1, n);
        double sum = 0;
        double total = level->exp_sum(n, x, 0.75f, y);
        guard_check_front(y);
        for (int64_t i = 0; i < n; i++) {
            double expected = exp((double)(x[i] - 0.75f));
            check_close("exp_sum", n, i, y[i], expected, 3e-7 * expected);
            sum += (double)y[i];
        }
        ck_assert_double_eq_tol(total / sum, 1.0, 1e-14);
        ck_assert(total == level->exp_sum(n, x, 0.75f, x));
        ck_assert(!memcmp(x, y, (size_t)n * sizeof *x));
    }
}
END_TEST

/* A number's bits are the same wherever in its row it stands. */
START_TEST(place_does_not_matter) {
    if (!(level = guard_level(_i))) return;
    float alone, one = 1.0f, x = 0.4321f;
    float silu_alone;
    level->exp_sum(1, &x, 0.0f, &alone);
    level->swiglu(1, &x, &one, &silu_alone);
    for (int64_t n = 1; n <= 40; n++) {
        float *in = guard_vector(0, n), *out = guard_vector(1, n), *up = guard_vector(2, n);
        for (int64_t i = 0; i < n; i++) in[i] = x, up[i] = 1.0f;
        level->exp_sum(n, in, 0.0f, out);
        for (int64_t i = 0; i < n; i++) ck_assert(guard_same(out[i], alone));
        level->swiglu(n, in, up, out);
        for (int64_t i = 0; i < n; i++) ck_assert(guard_same(out[i], silu_alone));
    }
}
END_TEST

Suite *kernels_suite(void) {
    Suite *suite = suite_create("kernels");
    TCase *tests = tcase_create("rows");
    tcase_set_timeout(tests, 30);
    tcase_add_test(tests, environment_caps_the_level);
    tcase_add_test(tests, environment_takes_the_place_of_bf16);
    tcase_add_test(tests, levels_have_names_and_every_slot);
    tcase_add_loop_test(tests, rmsnorm_matches_binary64, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, rmsnorm_bears_large_numbers, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, rope_matches_binary64, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, swiglu_matches_binary64, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, swiglu_bears_extremes, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, vectors_match_binary64, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, max_finds_the_largest_anywhere, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, exp_is_accurate_to_two_ulp, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, exp_knows_its_limits, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, exp_sum_matches_binary64, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, place_does_not_matter, 0, GUARD_LEVELS);
    suite_add_tcase(suite, tests);
    return suite;
}
