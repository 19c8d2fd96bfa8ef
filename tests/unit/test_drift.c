/* Corrected weights against what they are said to minimise, by plain loops over the inputs
 * themselves: the gradient there is zero by finite differences, and factors of the corrected
 * weight beat those of the plain one. */
#include "compress/drift.h"
#include "factor_fixture.h"

enum { OUT = 5, IN = 14, TOKENS = 900, RANK = 3 };
static double ridge = 1e-3, blend = 0.7;

static lr__device device;
static lr__arena arena;
static float weight[OUT * IN], x[TOKENS * IN], z[TOKENS * IN];
static double share[TOKENS], gram[IN * IN];

static double uniform(void) {
    static uint64_t state;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) * 0x1p-52 - 1;
}

/* z is x with errors that depend on x, and some of their own. The first 600 tokens weigh more. */
static void setup(void) {
    double total = 0;
    ck_assert_int_eq(lr__pool_new(&device.pool, 2), LR_OK);
    for (int i = 0; i < OUT * IN; i++) weight[i] = (float)uniform();
    for (int t = 0; t < TOKENS; t++) {
        for (int i = 0; i < IN; i++)
            x[t * IN + i] = (float)(uniform() * (i < 2 ? 30 : 1 + 0.1 * i) + (i == 3));
        for (int i = 0; i < IN; i++)
            z[t * IN + i] =
                (float)(x[t * IN + i] * 0.8 + 0.3 * x[t * IN + (i + 5) % IN] + 0.2 * uniform());
        share[t] = t < 600 ? 2 : 0.5;
        total += share[t];
    }
    memset(gram, 0, sizeof gram);
    for (int t = 0; t < TOKENS; t++) {
        share[t] /= total;
        for (int i = 0; i < IN; i++)
            for (int j = 0; j < IN; j++)
                gram[i * IN + j] += share[t] * (double)z[t * IN + i] * (double)z[t * IN + j];
    }
}

static void teardown(void) {
    lr__pool_free(device.pool);
    lr__arena_clear(&arena);
}

static void count(lr__drift *drift, int first, int tokens, double each) {
    float *moved = malloc((size_t)tokens * IN * sizeof *moved);
    memcpy(moved, x + first * IN, (size_t)tokens * IN * sizeof *moved);
    CHECK_OK(lr__drift_count(drift, &device, &arena, moved, z + first * IN, tokens, each));
    free(moved);
}

static void solve(lr__drift *drift) {
    double *lost = malloc(sizeof gram);
    memcpy(lost, gram, sizeof gram);
    CHECK_OK(lr__drift_new(drift, IN));
    count(drift, 0, 590, 2);
    count(drift, 590, 10, 2);
    count(drift, 600, 300, 0.5);
    CHECK_OK(lr__drift_solve(drift, lost, ridge));
    free(lost);
}

/* E|W z + b W (x - z) - V z|^2, with the pull towards W when asked for. */
static double loss(const double *v, double pull) {
    double sum = 0;
    for (int t = 0; t < TOKENS; t++)
        for (int o = 0; o < OUT; o++) {
            double e = 0;
            for (int i = 0; i < IN; i++) {
                double a = x[t * IN + i], c = z[t * IN + i], w = weight[o * IN + i];
                e += w * (c + blend * (a - c)) - v[o * IN + i] * c;
            }
            sum += share[t] * e * e;
        }
    for (int o = 0; o < OUT; o++)
        for (int i = 0; i < IN; i++) {
            double away = v[o * IN + i] - (double)weight[o * IN + i];
            sum += pull * gram[i * IN + i] * away * away;
        }
    return sum;
}

/* With the rounding of the weight to binary32 left out, by undoing it along the gradient. */
START_TEST(gradient_is_zero) {
    lr__drift drift;
    float corrected[OUT * IN];
    double v[OUT * IN], largest = 0, plain = 0;
    solve(&drift);
    memcpy(corrected, weight, sizeof weight);
    CHECK_OK(lr__drift_correct(&drift, blend, OUT, corrected));
    for (int pass = 0; pass < 2; pass++) {
        double *most = pass ? &largest : &plain;
        for (int i = 0; i < OUT * IN; i++) v[i] = pass ? corrected[i] : weight[i];
        for (int i = 0; i < OUT * IN; i++) {
            double step = 1e-3, kept = v[i];
            v[i] = kept + step;
            double above = loss(v, ridge);
            v[i] = kept - step;
            double below = loss(v, ridge);
            v[i] = kept;
            *most = fmax(*most, fabs(above - below) / (2 * step));
        }
    }
    ck_assert_msg(largest < 1e-5 * plain, "gradient %g, of the plain weight %g", largest, plain);
    lr__drift_clear(&drift);
}
END_TEST

static void factors_of(double *product, const float *w, const double *moments) {
    lr__factor_basis *basis;
    lr__factors f;
    const lr__factor_problem problem = {
        .out = OUT, .in = IN, .weight = w, .gram = moments, .name = "test"};
    CHECK_OK(lr__factor_basis_new(&basis, &problem, LR__FACTOR_PCA));
    CHECK_OK(lr__factor_basis_cut(&f, basis, &problem, RANK));
    for (int o = 0; o < OUT; o++)
        for (int i = 0; i < IN; i++) {
            product[o * IN + i] = 0;
            for (int r = 0; r < RANK; r++)
                product[o * IN + i] += (double)f.left[o * RANK + r] * (double)f.right[r * IN + i];
        }
    lr__factors_clear(&f);
    lr__factor_basis_free(basis);
}

START_TEST(its_factors_are_better) {
    lr__drift drift;
    float corrected[OUT * IN];
    double plain[OUT * IN], anchored[OUT * IN], turned[OUT * IN], dense[IN * IN] = {0};
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < IN * IN; i++)
            dense[i] += share[t] * (double)x[t * IN + i / IN] * (double)x[t * IN + i % IN];
    solve(&drift);
    memcpy(corrected, weight, sizeof weight);
    CHECK_OK(lr__drift_correct(&drift, blend, OUT, corrected));
    factors_of(anchored, corrected, gram);
    double best = loss(anchored, 0);
    factors_of(plain, weight, gram);
    ck_assert(best < 0.9 * loss(plain, 0));
    factors_of(plain, weight, dense);
    ck_assert(best < 0.9 * loss(plain, 0));
    /* No other matrix of its rank nearby is better: rows and columns mixed a little. */
    for (int n = 0; n < 40; n++) {
        double mix[IN * IN], rows[OUT * OUT];
        for (int i = 0; i < IN * IN; i++) mix[i] = 0.02 * uniform() + (i / IN == i % IN);
        for (int i = 0; i < OUT * OUT; i++) rows[i] = 0.02 * uniform() + (i / OUT == i % OUT);
        for (int o = 0; o < OUT; o++)
            for (int i = 0; i < IN; i++) {
                turned[o * IN + i] = 0;
                for (int p = 0; p < OUT; p++)
                    for (int k = 0; k < IN; k++)
                        turned[o * IN + i] +=
                            rows[o * OUT + p] * anchored[p * IN + k] * mix[k * IN + i];
            }
        ck_assert(loss(turned, 0) > best);
    }
    lr__drift_clear(&drift);
}
END_TEST

/* Squares of the singular values of the targets within the span of the compressed inputs, and
 * `total`, the square of the targets. */
static double *squares_within(double *total) {
    double *q = zeros(IN * TOKENS), within[OUT * IN] = {0};
    *total = 0;
    for (int i = 0; i < IN; i++) {
        double square = 0;
        for (int t = 0; t < TOKENS; t++) q[i * TOKENS + t] = sqrt(share[t]) * z[t * IN + i];
        for (int p = 0; p < 2 * i; p++) {
            double dot = 0, *other = q + p % i * TOKENS;
            for (int t = 0; t < TOKENS; t++) dot += q[i * TOKENS + t] * other[t];
            for (int t = 0; t < TOKENS; t++) q[i * TOKENS + t] -= dot * other[t];
        }
        for (int t = 0; t < TOKENS; t++) square += pow(q[i * TOKENS + t], 2);
        for (int t = 0; t < TOKENS; t++) q[i * TOKENS + t] /= sqrt(square);
    }
    for (int t = 0; t < TOKENS; t++)
        for (int o = 0; o < OUT; o++) {
            double y = 0;
            for (int i = 0; i < IN; i++) {
                double a = x[t * IN + i], c = z[t * IN + i];
                y += sqrt(share[t]) * (double)weight[o * IN + i] * (c + blend * (a - c));
            }
            for (int i = 0; i < IN; i++) within[o * IN + i] += y * q[i * TOKENS + t];
            *total += y * y;
        }
    free(q);
    return jacobi_squares(within, OUT, IN);
}

/* O15: what a rank loses is the target less its largest directions within reach of the inputs. */
START_TEST(loss_is_what_is_out_of_reach) {
    static const double blends[] = {0.25, 0.7, 1};
    lr__drift drift;
    float corrected[OUT * IN];
    double anchored[OUT * IN], expected;
    blend = blends[_i];
    ridge = 0;
    solve(&drift);
    memcpy(corrected, weight, sizeof weight);
    CHECK_OK(lr__drift_correct(&drift, blend, OUT, corrected));
    factors_of(anchored, corrected, gram);
    double *squares = squares_within(&expected), total = expected;
    for (int i = 0; i < RANK; i++) expected -= squares[i];
    CHECK_NEAR(loss(anchored, 0), expected, 1e-7 * total);
    free(squares);
    lr__drift_clear(&drift);
}
END_TEST

START_TEST(no_drift_no_change) {
    lr__drift drift;
    float corrected[OUT * IN];
    memcpy(x, z, sizeof x);
    solve(&drift);
    memcpy(corrected, weight, sizeof weight);
    CHECK_OK(lr__drift_correct(&drift, 1, OUT, corrected));
    ck_assert_mem_eq(corrected, weight, sizeof weight);
    lr__drift_clear(&drift);
}
END_TEST

START_TEST(refused_numbers) {
    lr__drift drift;
    double *lost = malloc(sizeof gram);
    memcpy(lost, gram, sizeof gram);
    CHECK_OK(lr__drift_new(&drift, IN));
    CHECK_FAILS(lr__drift_solve(&drift, lost, ridge), LR_E_NUMERIC, "drift of");
    x[3] = INFINITY;
    count(&drift, 0, 4, 1);
    CHECK_FAILS(lr__drift_solve(&drift, lost, ridge), LR_E_NUMERIC, "drift [");
    lr__drift_clear(&drift);
    free(lost);
}
END_TEST

Suite *drift_suite(void) {
    Suite *suite = suite_create("drift");
    TCase *all = tcase_create("drift");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, gradient_is_zero);
    tcase_add_test(all, its_factors_are_better);
    tcase_add_loop_test(all, loss_is_what_is_out_of_reach, 0, 3);
    tcase_add_test(all, no_drift_no_change);
    tcase_add_test(all, refused_numbers);
    suite_add_tcase(suite, all);
    return suite;
}
