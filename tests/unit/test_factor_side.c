/* Norms with weights on both sides: spectra and losses against a Jacobi SVD of the explicit product
 * H' W X and against plain loops. */
#include "compress/refit.h"
#include "factor_fixture.h"
#include "model/save.h"

enum { METHODS = 6, TOKENS = 120 };

/* Every other one with a diagonal H. */
static const int32_t methods[METHODS] = {LR__FACTOR_PCA,  LR__FACTOR_SVD,        LR__FACTOR_WHITEN,
                                         LR__FACTOR_ASVD, LR__FACTOR_WHITEN_EIG, LR__FACTOR_QR};

typedef struct sided {
    fixture f;
    double *h, *diagonal; /* H [m, m]; the diagonal when it is one */
} sided;

static sided sided_new(shape s, int is_diagonal) {
    sided c = {.f = fixture_new(s, TOKENS, 1, 5), .h = zeros(s.m * s.m)};
    uint64_t state = 77;
    if (is_diagonal) c.diagonal = zeros(s.m);
    for (int64_t i = 0; i < s.m; i++) {
        for (int64_t j = 0; j < i && !is_diagonal; j++)
            c.h[i * s.m + j] = noise(&state) / sqrt((double)s.m);
        c.h[i * s.m + i] = pow(10, noise(&state) / 2);
        if (is_diagonal) c.diagonal[i] = c.h[i * s.m + i];
    }
    c.f.problem.mean = NULL;
    c.f.problem.bias = NULL;
    c.f.problem.out_scale = c.diagonal;
    c.f.problem.out_root = is_diagonal ? NULL : c.h;
    return c;
}

static void sided_free(sided *c) {
    free(c->h);
    free(c->diagonal);
    fixture_free(&c->f);
}

/* H' A by loops; freed by the caller. */
static double *turned(const sided *c, const double *a) {
    int64_t m = c->f.m, n = c->f.n;
    double *out = zeros(m * n);
    for (int64_t k = 0; k < m; k++)
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) out[i * n + j] += c->h[k * m + i] * a[k * n + j];
    return out;
}

/* A in the coordinates of a method's norm: times X / sqrt(T), diag(s) or nothing; its columns in
 * *cols. */
static double *in_norm(const fixture *f, double *a, int32_t method, int64_t *cols) {
    *cols = f->n;
    scale_channels(f, a, method);
    if (is_of_weights(method)) return a;
    double *y = times_x(f, a, 0);
    for (int64_t i = 0; i < f->m * f->tokens; i++) y[i] /= sqrt((double)f->tokens);
    free(a);
    *cols = f->tokens;
    return y;
}

static double *sided_tails(const sided *c, int32_t method) {
    int64_t full = fixture_full(&c->f), cols;
    double *w = weight_of(&c->f), *tails = zeros(full + 1);
    double *y = in_norm(&c->f, turned(c, w), method, &cols);
    double *squares = jacobi_squares(y, c->f.m, cols);
    for (int64_t i = full; i-- > 0;) tails[i] = tails[i + 1] + squares[i];
    free(w);
    free(y);
    free(squares);
    return tails;
}

static double sided_loss(const sided *c, const double *approx, int32_t method) {
    double *e = weight_of(&c->f), sum = 0;
    int64_t cols;
    for (int64_t i = 0; i < c->f.m * c->f.n; i++) e[i] -= approx[i];
    double *y = in_norm(&c->f, turned(c, e), method, &cols);
    for (int64_t i = 0; i < c->f.m * cols; i++) sum += y[i] * y[i];
    free(e);
    free(y);
    return sum;
}

/* O3 and O16: what is stated, what is measured and what plain loops find is the tail of the
 * spectrum, at every rank; components are nested, and all of them are W. */
START_TEST(loss_is_the_tail) {
    int32_t method = methods[_i];
    for (int s = 0; s < SHAPES; s++) {
        sided c = sided_new(shapes[s], _i % 2);
        int64_t full = fixture_full(&c.f), count;
        double *tails = sided_tails(&c, method);
        lr__factor_basis *basis = NULL;
        CHECK_OK(lr__factor_basis_new(&basis, &c.f.problem, method));
        const double *spectrum = lr__factor_basis_spectrum(basis, &count);
        ck_assert_int_eq(count, full);
        for (int64_t r = 1; r <= full; r = next_rank(r, full)) {
            lr__factors cut;
            CHECK_OK(lr__factor_basis_cut(&cut, basis, &c.f.problem, r));
            double *approx = basis_approx(basis, 0, r);
            CHECK_NEAR(spectrum[r - 1], tails[r - 1] - tails[r], 1e-9 * tails[0]);
            CHECK_NEAR(cut.total, tails[0], 1e-9 * tails[0]);
            CHECK_NEAR(cut.predicted, tails[r], 1e-9 * tails[0]);
            CHECK_NEAR(cut.measured, tails[r], 1e-9 * tails[0]);
            CHECK_NEAR(sided_loss(&c, approx, method), tails[r], 1e-9 * tails[0]);
            free(approx);
            lr__factors_clear(&cut);
        }
        double *whole = basis_approx(basis, 0, full), *w = weight_of(&c.f);
        CHECK_NEAR(difference(whole, w, c.f.m * c.f.n), 0, 1e-10);
        free(whole);
        free(w);
        free(tails);
        lr__factor_basis_free(basis);
        sided_free(&c);
    }
}
END_TEST

/* Both factors of a component are of one size, so that neither leaves the range of a type. */
START_TEST(factors_are_split_evenly) {
    sided c = sided_new((shape){24, 40}, _i);
    for (int64_t i = 0; i < c.f.m * c.f.m; i++) c.h[i] *= 1e-12;
    for (int64_t i = 0; i < c.f.m && c.diagonal; i++) c.diagonal[i] *= 1e-12;
    lr__factor_basis *basis = NULL;
    CHECK_OK(lr__factor_basis_new(&basis, &c.f.problem, LR__FACTOR_PCA));
    for (int64_t k = 0; k < basis->count; k++) {
        double left = 0, right = 0;
        for (int64_t i = 0; i < c.f.m; i++)
            left += basis->left[k * c.f.m + i] * basis->left[k * c.f.m + i];
        for (int64_t j = 0; j < c.f.n; j++)
            right += basis->right[k * c.f.n + j] * basis->right[k * c.f.n + j];
        CHECK_NEAR(left / right, 1, 1e-9);
    }
    lr__factor_basis_free(basis);
    sided_free(&c);
}
END_TEST

static double *cut_approx(const lr__factor_problem *problem, int32_t method, int64_t rank) {
    lr__factor_basis *basis = NULL;
    CHECK_OK(lr__factor_basis_new(&basis, problem, method));
    double *approx = basis_approx(basis, 0, rank);
    lr__factor_basis_free(basis);
    return approx;
}

/* O16: an H that is a multiple of the identity changes nothing; the inputs' own optimum is worse in
 * the norm of both sides, and the two-sided one in that of the inputs. */
START_TEST(identity_is_one_sided) {
    enum { RANK = 7 };
    sided c = sided_new((shape){24, 40}, 1);
    lr__factor_problem inputs = c.f.problem;
    inputs.out_scale = NULL;
    double *both = cut_approx(&c.f.problem, LR__FACTOR_PCA, RANK);
    double *one = cut_approx(&inputs, LR__FACTOR_PCA, RANK);
    ck_assert_double_lt(sided_loss(&c, both, LR__FACTOR_PCA),
                        0.99 * sided_loss(&c, one, LR__FACTOR_PCA));
    ck_assert_double_lt(explicit_loss(&c.f, one, LR__FACTOR_PCA),
                        0.99 * explicit_loss(&c.f, both, LR__FACTOR_PCA));
    for (int64_t i = 0; i < c.f.m; i++) c.diagonal[i] = 3;
    double *same = cut_approx(&c.f.problem, LR__FACTOR_PCA, RANK);
    CHECK_NEAR(difference(same, one, c.f.m * c.f.n), 0, 1e-10);
    free(both);
    free(one);
    free(same);
    sided_free(&c);
}
END_TEST

START_TEST(spectrum_and_loss_know_both_sides) {
    for (int s = 0; s < 4; s++) {
        sided c = sided_new(shapes[s], _i);
        int64_t full = fixture_full(&c.f), rank = (full + 1) / 2;
        double *tails = sided_tails(&c, LR__FACTOR_PCA), *spectrum = zeros(full), loss;
        lr__factor_basis *basis = NULL;
        lr__factors cut;
        CHECK_OK(lr__factor_spectrum(spectrum, &c.f.problem));
        for (int64_t i = 0; i < full; i++)
            CHECK_NEAR(spectrum[i], tails[i] - tails[i + 1], 1e-9 * tails[0]);
        CHECK_OK(lr__factor_basis_new(&basis, &c.f.problem, LR__FACTOR_PCA));
        CHECK_OK(lr__factor_basis_cut(&cut, basis, &c.f.problem, rank));
        double *approx = factors_approx(&c.f, &cut);
        CHECK_OK(lr__factor_loss(&loss, &c.f.problem, rank, cut.left, cut.right));
        CHECK_NEAR(loss, sided_loss(&c, approx, LR__FACTOR_PCA), 1e-9 * tails[0]);
        free(approx);
        free(spectrum);
        free(tails);
        lr__factors_clear(&cut);
        lr__factor_basis_free(basis);
        sided_free(&c);
    }
}
END_TEST

/* O25 with both sides. */
START_TEST(sketch_is_near_the_tail) {
    enum { RANK = 24 };
    static const lr__factor_sketch sketch = {.use = 1, .seed = 5};
    sided c = sided_new(_i % 2 ? (shape){90, 110} : (shape){110, 90}, _i / 2);
    double *tails = sided_tails(&c, LR__FACTOR_PCA);
    lr__factor_basis *basis = NULL;
    lr__factors cut;
    CHECK_OK(lr__factor_basis_sketch(&basis, &c.f.problem, LR__FACTOR_PCA, RANK, &sketch));
    ck_assert_int_lt(basis->count, 90);
    CHECK_OK(lr__factor_basis_cut(&cut, basis, &c.f.problem, RANK));
    double *approx = basis_approx(basis, 0, RANK), loss = sided_loss(&c, approx, LR__FACTOR_PCA);
    CHECK_NEAR(cut.predicted, loss, 1e-9 * tails[0]);
    CHECK_NEAR(cut.measured, loss, 1e-9 * tails[0]);
    ck_assert_double_ge(loss, tails[RANK] - 1e-9 * tails[0]);
    ck_assert_double_le(loss, 1.05 * tails[RANK]);
    free(approx);
    free(tails);
    lr__factors_clear(&cut);
    lr__factor_basis_free(basis);
    sided_free(&c);
}
END_TEST

/* ---- refits ---- */

static const lr__kernels *kernels(void) { return lr__kernels_best(); }

/* Weighted by H (O11, O12): rounds from the plain SVD end at the two-sided optimum, and from there
 * change nothing. */
START_TEST(rounds_end_at_the_optimum) {
    enum { RANK = 6 };
    sided c = sided_new((shape){24, 40}, _i);
    double *tails = sided_tails(&c, LR__FACTOR_PCA), stored, last = INFINITY;
    lr__factor_problem plain = c.f.problem;
    lr__factor_basis *basis = NULL;
    lr__factors cut;
    plain.out_scale = plain.out_root = NULL;
    CHECK_OK(lr__factor_basis_new(&basis, &plain, LR__FACTOR_SVD));
    CHECK_OK(lr__factor_basis_cut(&cut, basis, &plain, RANK));
    for (int32_t rounds = 1; rounds <= 256; rounds *= 4) {
        const lr__refit_opts o = {LR__FACTOR_PCA, rounds, LR_F32, kernels()};
        CHECK_OK(lr__refit_factors(&cut, &c.f.problem, &o, &stored));
        double *approx = factors_approx(&c.f, &cut);
        CHECK_NEAR(stored, sided_loss(&c, approx, LR__FACTOR_PCA), 1e-9 * tails[0]);
        ck_assert_double_le(stored, last * (1 + 1e-6));
        last = stored;
        free(approx);
    }
    ck_assert_double_ge(stored, tails[RANK] * (1 - 1e-6));
    ck_assert_double_le(stored, tails[RANK] * (1 + 1e-4));
    free(tails);
    lr__factors_clear(&cut);
    lr__factor_basis_free(basis);
    sided_free(&c);
}
END_TEST

/* Left factors fitted to rounded right ones lose less in the norm of both sides than plain
 * rounding, and what is stated is what plain loops find. */
START_TEST(rounded_factors_are_refitted) {
    enum { RANK = 10 };
    sided c = sided_new((shape){24, 40}, _i);
    lr__factor_basis *basis = NULL;
    lr__factors cut, plain;
    double stored;
    const lr__refit_opts o = {LR__FACTOR_PCA, 0, LR_BF16, kernels()};
    CHECK_OK(lr__factor_basis_new(&basis, &c.f.problem, LR__FACTOR_PCA));
    CHECK_OK(lr__factor_basis_cut(&cut, basis, &c.f.problem, RANK));
    CHECK_OK(lr__factor_basis_cut(&plain, basis, &c.f.problem, RANK));
    CHECK_OK(lr__refit_factors(&cut, &c.f.problem, &o, &stored));
    lr__save_round(kernels(), LR_BF16, 24, RANK, plain.left);
    lr__save_round(kernels(), LR_BF16, RANK, 40, plain.right);
    double *approx = factors_approx(&c.f, &cut), *rounded = factors_approx(&c.f, &plain);
    double loss = sided_loss(&c, approx, LR__FACTOR_PCA);
    CHECK_NEAR(stored, loss, 1e-9 * cut.total);
    ck_assert_double_ge(loss, cut.measured);
    ck_assert_double_lt(loss, sided_loss(&c, rounded, LR__FACTOR_PCA));
    free(approx);
    free(rounded);
    lr__factors_clear(&cut);
    lr__factors_clear(&plain);
    lr__factor_basis_free(basis);
    sided_free(&c);
}
END_TEST

enum { PIVOTS = 10, OUTS = 24, INS = 40, MIXED = (OUTS - PIVOTS) * PIVOTS };

/* What a pivot form stands for, with another mix unless NULL; freed by the caller. */
static double *product_of(const lr__pivot *pivot, const double *mix) {
    double *approx = zeros(OUTS * INS);
    for (int i = 0; i < OUTS; i++)
        for (int j = 0; j < INS; j++)
            for (int k = 0; k < PIVOTS; k++) {
                int at = (i - PIVOTS) * PIVOTS + k;
                if (i < PIVOTS)
                    approx[pivot->picked[i] * INS + j] = (double)pivot->rows[i * INS + j];
                else
                    approx[pivot->rest[i - PIVOTS] * INS + j] +=
                        (mix ? mix[at] : (double)pivot->mix[at]) * (double)pivot->rows[k * INS + j];
            }
    return approx;
}

static double pivot_loss(const sided *c, const lr__pivot *pivot, const double *mix) {
    double *approx = product_of(pivot, mix), loss = sided_loss(c, approx, LR__FACTOR_PCA);
    free(approx);
    return loss;
}

/* x of a x = b by elimination, over b. */
static void eliminate(double *a, double *b, int n) {
    for (int k = 0; k < n; k++)
        for (int i = k + 1; i < n; i++) {
            double share = a[i * n + k] / a[k * n + k];
            for (int j = k; j < n; j++) a[i * n + j] -= share * a[k * n + j];
            b[i] -= share * b[k];
        }
    for (int i = n; i-- > 0;) {
        for (int j = i + 1; j < n; j++) b[i] -= a[i * n + j] * b[j];
        b[i] /= a[i * n + i];
    }
}

/* The mix of least loss for the rows of a pivot form: for every k in the rest, (G E C rows')_k = 0,
 * as one system of equations. */
static double *best_mix(const sided *c, const lr__pivot *pivot) {
    double *g = zeros(OUTS * OUTS), *turned_rows = zeros(PIVOTS * INS), *b = zeros(MIXED);
    double *a = zeros(MIXED * MIXED), *none = zeros(MIXED), *e = weight_of(&c->f);
    double *picked = product_of(pivot, none), energy[PIVOTS * PIVOTS] = {0};
    for (int i = 0; i < OUTS * INS; i++) e[i] -= picked[i];
    for (int i = 0; i < OUTS; i++)
        for (int j = 0; j < OUTS; j++)
            for (int k = 0; k < OUTS; k++)
                g[i * OUTS + j] += c->h[i * OUTS + k] * c->h[j * OUTS + k];
    for (int r = 0; r < PIVOTS; r++)
        for (int j = 0; j < INS; j++)
            for (int k = 0; k < INS; k++)
                turned_rows[r * INS + j] +=
                    (double)pivot->rows[r * INS + k] * c->f.problem.gram[k * INS + j];
    for (int r = 0; r < PIVOTS * PIVOTS; r++)
        for (int j = 0; j < INS; j++)
            energy[r] +=
                turned_rows[r / PIVOTS * INS + j] * (double)pivot->rows[r % PIVOTS * INS + j];
    for (int at = 0; at < MIXED; at++) {
        const double *weights = g + pivot->rest[at / PIVOTS] * OUTS;
        for (int to = 0; to < MIXED; to++)
            a[at * MIXED + to] =
                weights[pivot->rest[to / PIVOTS]] * energy[at % PIVOTS * PIVOTS + to % PIVOTS];
        for (int k = 0; k < OUTS; k++)
            for (int j = 0; j < INS; j++)
                b[at] += weights[k] * e[k * INS + j] * turned_rows[at % PIVOTS * INS + j];
    }
    eliminate(a, b, MIXED);
    free(g);
    free(turned_rows);
    free(a);
    free(none);
    free(e);
    free(picked);
    return b;
}

/* The pivot form's loss is that of the whole product: rows do not add up in this norm. Its mix is
 * the one of least loss for the rounded rows, rounded too, and better than one that is merely
 * rounded. */
START_TEST(rounded_pivots_are_refitted) {
    sided c = sided_new((shape){OUTS, INS}, _i);
    lr__factor_basis *basis = NULL;
    lr__factors cut;
    lr__pivot pivot = {0}, plain = {0};
    double stored;
    const lr__refit_opts o = {LR__FACTOR_PCA, 0, LR_BF16, kernels()};
    CHECK_OK(lr__factor_basis_new(&basis, &c.f.problem, LR__FACTOR_PCA));
    CHECK_OK(lr__factor_basis_cut(&cut, basis, &c.f.problem, PIVOTS));
    CHECK_OK(lr__pivot_new(&pivot, OUTS, INS, PIVOTS, cut.left, cut.right, "layer"));
    CHECK_OK(lr__pivot_new(&plain, OUTS, INS, PIVOTS, cut.left, cut.right, "layer"));
    CHECK_OK(lr__refit_pivot(&pivot, &cut, &c.f.problem, &o, &stored));
    CHECK_NEAR(stored, pivot_loss(&c, &pivot, NULL), 1e-9 * cut.total);
    lr__save_round(kernels(), LR_BF16, PIVOTS, INS, plain.rows);
    lr__save_round(kernels(), LR_BF16, OUTS - PIVOTS, PIVOTS, plain.mix);
    ck_assert_mem_eq(pivot.rows, plain.rows, sizeof(float[PIVOTS * INS]));
    double *mix = best_mix(&c, &pivot), least = pivot_loss(&c, &pivot, mix);
    double rounded = pivot_loss(&c, &plain, NULL);
    ck_assert_double_ge(least, cut.measured * (1 - 1e-9));
    ck_assert_double_ge(stored, least * (1 - 1e-9));
    ck_assert_double_lt(stored, rounded);
    for (int at = 0; at < MIXED; at++)
        CHECK_NEAR((double)pivot.mix[at], mix[at], fabs(mix[at]) / 256 + 1e-6);
    free(mix);
    lr__pivot_clear(&pivot);
    lr__pivot_clear(&plain);
    lr__factors_clear(&cut);
    lr__factor_basis_free(basis);
    sided_free(&c);
}
END_TEST

START_TEST(wrong_sides_are_refused) {
    sided c = sided_new((shape){8, 33}, _i);
    lr__factor_basis *basis = NULL;
    double *where = c.diagonal ? &c.diagonal[3] : &c.h[3 * 8 + 3], kept = *where;
    const char *name = c.diagonal ? "output scale [3] is" : "output root [3, 3] is";
    *where = NAN;
    CHECK_FAILS(lr__factor_basis_new(&basis, &c.f.problem, LR__FACTOR_PCA), LR_E_NUMERIC, name);
    *where = 0;
    CHECK_FAILS(lr__factor_basis_new(&basis, &c.f.problem, LR__FACTOR_SVD), LR_E_INVALID, name);
    *where = -1;
    CHECK_FAILS(lr__factor_basis_new(&basis, &c.f.problem, LR__FACTOR_PCA), LR_E_INVALID, name);
    *where = kept;
    c.f.problem.mean = c.f.mean;
    CHECK_FAILS(lr__factor_basis_new(&basis, &c.f.problem, LR__FACTOR_AFM), LR_E_INVALID,
                "beside a mean");
    c.h[2] = 1;
    if (!c.diagonal)
        CHECK_FAILS(lr__factor_basis_new(&basis, &c.f.problem, LR__FACTOR_PCA), LR_E_INVALID,
                    "output root [0, 2] is 1, expected a lower triangle");
    sided_free(&c);
}
END_TEST

Suite *factor_side_suite(void) {
    Suite *suite = suite_create("factor_side");
    TCase *basis = tcase_create("basis");
    tcase_add_loop_test(basis, loss_is_the_tail, 0, METHODS);
    tcase_add_loop_test(basis, factors_are_split_evenly, 0, 2);
    tcase_add_test(basis, identity_is_one_sided);
    tcase_add_loop_test(basis, spectrum_and_loss_know_both_sides, 0, 2);
    tcase_add_loop_test(basis, sketch_is_near_the_tail, 0, 4);
    tcase_add_loop_test(basis, wrong_sides_are_refused, 0, 2);
    suite_add_tcase(suite, basis);
    TCase *refits = tcase_create("refits");
    tcase_add_loop_test(refits, rounds_end_at_the_optimum, 0, 2);
    tcase_add_loop_test(refits, rounded_factors_are_refitted, 0, 2);
    tcase_add_loop_test(refits, rounded_pivots_are_refitted, 0, 2);
    suite_add_tcase(suite, refits);
    return suite;
}
