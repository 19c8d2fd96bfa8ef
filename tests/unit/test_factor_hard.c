/* Factorisation of awkward problems: singular, scaled, ill-conditioned, wrong, out of memory. */
#include "factor_fixture.h"
#include "faults.h"

#include <pthread.h>

static const int32_t methods[] = {LR__FACTOR_SVD, LR__FACTOR_WHITEN, LR__FACTOR_WHITEN_EIG,
                                  LR__FACTOR_PCA, LR__FACTOR_AFM,    LR__FACTOR_ASVD,
                                  LR__FACTOR_QR};
enum { METHODS = 7 };

/* Every rank: finite, predicted = measured = tail from the explicit product. */
static void check_all_ranks(const fixture *f, int32_t method, double tolerance) {
    lr__factor_basis *basis = NULL;
    double *tails = fixture_tails(f, method);
    CHECK_OK(lr__factor_basis_new(&basis, &f->problem, method));
    for (int64_t r = 1; r <= basis->count; r = next_rank(r, basis->count)) {
        lr__factors cut;
        CHECK_OK(lr__factor_basis_cut(&cut, basis, &f->problem, r));
        double slack = tolerance * tails[0] + basis->floor;
        CHECK_NEAR(cut.predicted, tails[r], slack);
        CHECK_NEAR(cut.measured, tails[r], slack);
        for (int64_t i = 0; i < f->m * r; i++) ck_assert(isfinite(cut.left[i]));
        for (int64_t i = 0; i < f->n * r; i++) ck_assert(isfinite(cut.right[i]));
        double *approx = basis_approx(basis, 0, r);
        CHECK_NEAR(explicit_loss(f, approx, method), tails[r], slack);
        free(approx);
        lr__factors_clear(&cut);
    }
    double *full = basis_approx(basis, 0, basis->count), *w = weight_of(f);
    CHECK_NEAR(difference(full, w, f->m * f->n), 0, 1e-12);
    free(full);
    free(w);
    free(tails);
    lr__factor_basis_free(basis);
}

/* O17: fewer tokens than channels, down to one. */
START_TEST(few_tokens) {
    static const int64_t tokens[] = {1, 2, 5, 20};
    for (int s = 0; s < SHAPES; s++)
        for (int t = 0; t < 4; t++) {
            fixture f = fixture_new(shapes[s], tokens[t], 1, 30);
            check_all_ranks(&f, methods[_i], 1e-9);
            fixture_free(&f);
        }
}
END_TEST

/* Ranks the data says nothing of go where the weight is: with C = 0 that is the plain SVD. */
START_TEST(zero_gram_falls_back_on_the_weight) {
    for (int s = 0; s < SHAPES; s++) {
        fixture f = fixture_new(shapes[s], 10, 1, 1);
        lr__factor_basis *plain = NULL, *basis = NULL;
        memset(f.x, 0, (size_t)(f.n * f.tokens) * sizeof *f.x);
        fixture_moments(&f);
        check_all_ranks(&f, methods[_i], 0);
        CHECK_OK(lr__factor_basis_new(&plain, &f.problem, LR__FACTOR_SVD));
        CHECK_OK(lr__factor_basis_new(&basis, &f.problem, methods[_i]));
        for (int64_t r = 1; r <= basis->count; r++) {
            double *a = basis_approx(basis, 0, r), *b = basis_approx(plain, 0, r);
            CHECK_NEAR(difference(a, b, f.m * f.n), 0, 1e-9);
            free(a);
            free(b);
        }
        lr__factor_basis_free(plain);
        lr__factor_basis_free(basis);
        fixture_free(&f);
    }
}
END_TEST

START_TEST(zero_weight) {
    for (int s = 0; s < SHAPES; s++) {
        fixture f = fixture_new(shapes[s], 50, 1, 30);
        memset(f.weight, 0, (size_t)(f.m * f.n) * sizeof *f.weight);
        check_all_ranks(&f, methods[_i], 0);
        fixture_free(&f);
    }
}
END_TEST

/* Channels that never fire, channels that never vary, and copies of others. */
START_TEST(dead_constant_and_equal_channels) {
    for (int s = 0; s < 7; s++) {
        fixture f = fixture_new(shapes[s], 120, 1, 30);
        int64_t t = f.tokens;
        for (int64_t k = 0; k < t; k++) {
            f.x[0 * t + k] = f.x[5 * t + k] = 0;
            f.x[2 * t + k] = 0.7;
            f.x[3 * t + k] = f.x[4 * t + k];
            f.x[6 * t + k] = -3 * f.x[4 * t + k];
        }
        fixture_moments(&f);
        check_all_ranks(&f, methods[_i], 1e-9);
        fixture_free(&f);
    }
}
END_TEST

static void fill_spectrum(fixture *f, double condition, int is_rotated) {
    uint64_t state = 5;
    double *q = orthogonal(f->n, &state), *scale = zeros(f->n);
    for (int64_t p = 0; p < f->n; p++)
        scale[p] = pow(condition, -0.5 * (double)p / (double)(f->n - 1));
    memset(f->x, 0, (size_t)(f->n * f->tokens) * sizeof *f->x);
    for (int64_t p = 0; p < f->n; p++)
        for (int64_t k = 0; k < f->tokens; k++) {
            double z = noise(&state);
            for (int64_t i = 0; i < f->n; i++)
                f->x[i * f->tokens + k] +=
                    is_rotated ? scale[p] * q[i * f->n + p] * z : scale[i] * q[i * f->n + p] * z;
        }
    free(scale);
    free(q);
    fixture_moments(f);
}

START_TEST(ill_conditioned) {
    static const double conditions[] = {1e8, 1e14, 1e18};
    for (int s = 0; s < 7; s++)
        for (int c = 0; c < 6; c++) {
            fixture f = fixture_new(shapes[s], 60, 1, 1);
            fill_spectrum(&f, conditions[c / 2], c % 2);
            check_all_ranks(&f, methods[_i], 1e-9);
            fixture_free(&f);
        }
}
END_TEST

/* O17 with moments of rotated inputs rounded to binary32, as a cheap collector would leave them:
 * Cholesky has to fall back, and above the rounding every route is still at the optimum. */
START_TEST(moments_in_binary32_serve) {
    static const double conditions[] = {1e8, 1e9, 1e10};
    int damped = 0;
    for (int s = 0; s < 7; s++) {
        fixture f = fixture_new(shapes[s], 200, 1, 1);
        fill_spectrum(&f, conditions[_i], 1);
        double *tails = fixture_tails(&f, LR__FACTOR_PCA);
        for (int64_t i = 0; i < f.n * f.n; i++) f.gram[i] = (float)f.gram[i];
        for (int32_t method = LR__FACTOR_WHITEN; method <= LR__FACTOR_PCA; method++) {
            lr__factor_basis *basis = NULL;
            CHECK_OK(lr__factor_basis_new(&basis, &f.problem, method));
            damped += basis->damping > 0;
            for (int64_t r = 1; r < basis->count; r++) {
                double *approx = basis_approx(basis, 0, r);
                double loss = explicit_loss(&f, approx, LR__FACTOR_PCA);
                ck_assert(isfinite(loss));
                if (tails[r] > 1e-6 * tails[0]) ck_assert_double_le(loss, 1.001 * tails[r]);
                free(approx);
            }
            lr__factor_basis_free(basis);
        }
        free(tails);
        fixture_free(&f);
    }
    if (_i == 2) ck_assert_int_gt(damped, 0);
}
END_TEST

/* Outlier channels cost whitening no accuracy, even far below the total. */
START_TEST(whitening_is_accurate_under_outliers) {
    for (int s = 0; s < 7; s++) {
        fixture f = fixture_new(shapes[s], 120, 1, 1);
        fill_spectrum(&f, 1e18, 0);
        double *tails = fixture_tails(&f, LR__FACTOR_WHITEN);
        lr__factor_basis *basis = NULL;
        CHECK_OK(lr__factor_basis_new(&basis, &f.problem, LR__FACTOR_WHITEN + _i));
        ck_assert_double_eq(basis->damping, 0);
        for (int64_t r = 1; r < basis->count; r++) {
            double *approx = basis_approx(basis, 0, r);
            CHECK_NEAR(explicit_loss(&f, approx, LR__FACTOR_WHITEN), tails[r], 1e-4 * tails[r]);
            free(approx);
        }
        lr__factor_basis_free(basis);
        free(tails);
        fixture_free(&f);
    }
}
END_TEST

/* O18: tail(r) <= L(lambda) <= tail(r) + lambda |(W - W*) D|^2, in the undamped norm; the
 * spectrum is still in order. */
START_TEST(damping_is_bounded) {
    int damped = 0;
    for (int s = 0; s < 7; s++)
        for (int64_t tokens = 2; tokens < 9; tokens++) {
            fixture f = fixture_new(shapes[s], tokens, 0.5, 30);
            lr__factor_basis *basis = NULL, *best = NULL;
            double *tails = fixture_tails(&f, LR__FACTOR_PCA), *w = weight_of(&f);
            CHECK_OK(lr__factor_basis_new(&basis, &f.problem, LR__FACTOR_WHITEN));
            CHECK_OK(lr__factor_basis_new(&best, &f.problem, LR__FACTOR_PCA));
            damped += basis->damping > 0;
            for (int64_t r = 1; r <= basis->count; r++) {
                double *approx = basis_approx(basis, 0, r), *star = basis_approx(best, 0, r);
                double loss = explicit_loss(&f, approx, LR__FACTOR_PCA), price = 0;
                for (int64_t i = 0; i < f.m * f.n; i++)
                    price += pow(w[i] - star[i], 2) * f.gram[i % f.n * (f.n + 1)];
                ck_assert_double_ge(loss, tails[r] - 1e-12 * tails[0]);
                ck_assert_double_le(loss, tails[r] + basis->damping * price + 1e-12 * tails[0]);
                if (r > 1) ck_assert_double_ge(basis->spectrum[r - 2], basis->spectrum[r - 1]);
                free(approx);
                free(star);
            }
            lr__factor_basis_free(basis);
            lr__factor_basis_free(best);
            free(tails);
            free(w);
            fixture_free(&f);
        }
    ck_assert_int_gt(damped, 10);
}
END_TEST

/* O18: the more damping is put into C by hand, the more is lost, up to what it may cost. */
START_TEST(more_damping_loses_more) {
    for (int s = 0; s < 7; s++) {
        fixture f = fixture_new(shapes[s], 160, 2, 30);
        double *tails = fixture_tails(&f, LR__FACTOR_PCA), *last = zeros(f.n);
        double *exact = zeros(f.n), gain = 0;
        for (int64_t i = 0; i < f.n; i++) exact[i] = f.gram[i * (f.n + 1)];
        for (double damping = 1e-8; damping < 10; damping *= 100) {
            lr__factor_basis *basis = NULL;
            for (int64_t i = 0; i < f.n; i++) f.gram[i * (f.n + 1)] = exact[i] * (1 + damping);
            CHECK_OK(lr__factor_basis_new(&basis, &f.problem, methods[_i]));
            for (int64_t r = 1; r < basis->count; r++) {
                double *approx = basis_approx(basis, 0, r);
                double loss = explicit_loss(&f, approx, LR__FACTOR_PCA);
                ck_assert_double_ge(loss, fmax(last[r], tails[r]) - 1e-9 * tails[0]);
                gain = fmax(gain, loss / tails[r]);
                last[r] = loss;
                free(approx);
            }
            lr__factor_basis_free(basis);
        }
        ck_assert_double_gt(gain, 1.1);
        free(exact);
        free(last);
        free(tails);
        fixture_free(&f);
    }
}
END_TEST

/* A singular Gram kept in binary32 needs real damping; what is reported stays undamped. */
START_TEST(damping_leaves_the_norm_alone) {
    int damped = 0;
    for (int s = 0; s < 7; s++) {
        fixture f = fixture_new(shapes[s], shapes[s].n < 7 ? 3 : 6, 0.5, 3);
        lr__factor_basis *basis = NULL;
        double total = 0;
        for (int64_t i = 0; i < f.n * f.n; i++) f.gram[i] = (float)f.gram[i];
        for (int64_t i = 0; i < f.m; i++)
            for (int64_t j = 0; j < f.n; j++)
                for (int64_t k = 0; k < f.n; k++)
                    total += (double)f.weight[i * f.n + j] * f.gram[j * f.n + k] *
                             (double)f.weight[i * f.n + k];
        CHECK_OK(lr__factor_basis_new(&basis, &f.problem, LR__FACTOR_WHITEN));
        damped += basis->damping >= 1e-7;
        CHECK_NEAR(basis->total, total, 1e-12 * total);
        for (int64_t r = 1; r <= basis->count; r++) {
            lr__factors cut;
            CHECK_OK(lr__factor_basis_cut(&cut, basis, &f.problem, r));
            CHECK_NEAR(cut.predicted, cut.measured, 4e-8 * total);
            lr__factors_clear(&cut);
        }
        lr__factor_basis_free(basis);
        fixture_free(&f);
    }
    ck_assert_int_gt(damped, 0);
}
END_TEST

/* Tokens that never vary: their rounding is no covariance, and the weight decides. */
START_TEST(constant_inputs_have_no_covariance) {
    for (int s = 0; s < SHAPES; s++) {
        fixture f = fixture_new(shapes[s], 7, 1, 30);
        lr__factor_basis *plain = NULL, *afm = NULL;
        for (int64_t i = 0; i < f.n; i++)
            for (int64_t k = 1; k < 7; k++) f.x[i * 7 + k] = f.x[i * 7];
        fixture_moments(&f);
        CHECK_OK(lr__factor_basis_new(&plain, &f.problem, LR__FACTOR_SVD));
        CHECK_OK(lr__factor_basis_new(&afm, &f.problem, LR__FACTOR_AFM));
        ck_assert_double_eq(afm->total, 0);
        for (int64_t r = 1; r <= afm->count; r++) {
            double *a = basis_approx(afm, 0, r), *b = basis_approx(plain, 0, r);
            CHECK_NEAR(difference(a, b, f.m * f.n), 0, 1e-9);
            free(a);
            free(b);
        }
        lr__factor_basis_free(plain);
        lr__factor_basis_free(afm);
        fixture_free(&f);
    }
}
END_TEST

START_TEST(extreme_scales) {
    static const double scales[] = {1e-20, 1e20};
    for (int s = 0; s < 7; s++)
        for (int c = 0; c < 4; c++) {
            fixture f = fixture_new(shapes[s], 60, 1, 30);
            for (int64_t i = 0; i < f.m * f.n; i++) f.weight[i] *= (float)scales[c / 2];
            for (int64_t i = 0; i < f.m; i++) f.bias[i] = 0;
            for (int64_t i = 0; i < f.n * f.tokens; i++) f.x[i] *= scales[c % 2] / 1e4;
            fixture_moments(&f);
            check_all_ranks(&f, methods[_i], 1e-9);
            fixture_free(&f);
        }
}
END_TEST

START_TEST(factors_beyond_binary32) {
    fixture f = fixture_new((shape){8, 8}, 50, 1, 1);
    lr__factor_basis *basis = NULL;
    lr__factors cut;
    for (int64_t i = 0; i < f.m * f.n; i++) f.weight[i] = 3e38f;
    CHECK_OK(lr__factor_basis_new(&basis, &f.problem, LR__FACTOR_PCA));
    CHECK_FAILS(lr__factor_basis_cut(&cut, basis, &f.problem, 8), LR_E_NUMERIC,
                "layer.q_proj: right factor leaves the range of binary32");
    lr__factor_basis_free(basis);
    CHECK_OK(lr__factor_basis_new(&basis, &f.problem, LR__FACTOR_WHITEN));
    CHECK_OK(lr__factor_basis_cut(&cut, basis, &f.problem, 8));
    lr__factors_clear(&cut);
    lr__factor_basis_free(basis);
    fixture_free(&f);
}
END_TEST

static void check_refused(const fixture *f, lr_status expected, const char *text) {
    for (int i = 0; i < METHODS; i++) {
        lr__factor_basis *basis = NULL;
        if (strstr(text, "Gram") && (is_of_weights(methods[i]) || methods[i] == LR__FACTOR_QR))
            continue;
        if ((strstr(text, "mean") || strstr(text, "bias")) && methods[i] != LR__FACTOR_AFM)
            continue;
        CHECK_FAILS(lr__factor_basis_new(&basis, &f->problem, methods[i]), expected, text);
        ck_assert_ptr_null(basis);
        ck_assert_ptr_eq(strstr(lr_last_error(), "layer.q_proj: "), lr_last_error());
    }
}

START_TEST(numbers_that_are_not_finite) {
    const double bad = _i == 0 ? NAN : _i == 1 ? INFINITY : -INFINITY;
    fixture f = fixture_new((shape){6, 9}, 50, 1, 1);
    float weight = f.weight[2 * 9 + 5], bias = f.bias[3];
    double gram = f.gram[7 * 9 + 1], diagonal = f.gram[40], mean = f.mean[4];
    f.weight[2 * 9 + 5] = (float)bad;
    check_refused(&f, LR_E_NUMERIC, "weight [2, 5] is");
    f.weight[2 * 9 + 5] = weight;
    f.gram[7 * 9 + 1] = bad;
    check_refused(&f, LR_E_NUMERIC, "Gram [7, 1] is");
    f.gram[7 * 9 + 1] = gram;
    f.gram[1 * 9 + 7] = bad;
    check_refused(&f, LR_E_NUMERIC, "Gram [1, 7] is");
    f.gram[1 * 9 + 7] = gram;
    f.gram[40] = bad;
    check_refused(&f, LR_E_NUMERIC, "Gram [4, 4] is");
    f.gram[40] = diagonal;
    f.mean[4] = bad;
    check_refused(&f, LR_E_NUMERIC, "mean [4] is");
    f.mean[4] = mean;
    f.bias[3] = (float)bad;
    check_refused(&f, LR_E_NUMERIC, "bias [0, 3] is");
    f.bias[3] = bias;
    check_all_ranks(&f, LR__FACTOR_AFM, 1e-9);
    lr__factor_basis *basis = NULL;
    f.scale[2] = bad;
    CHECK_FAILS(lr__factor_basis_new(&basis, &f.problem, LR__FACTOR_ASVD), LR_E_NUMERIC,
                "layer.q_proj: scale [2] is");
    f.root[7 * 9 + 1] = bad;
    CHECK_FAILS(lr__factor_basis_new(&basis, &f.problem, LR__FACTOR_QR), LR_E_NUMERIC,
                "layer.q_proj: root [7, 1] is");
    fixture_free(&f);
}
END_TEST

START_TEST(moments_that_cannot_be) {
    static const double indefinite[] = {1, 0.9, 0.9, 0.9, 1, -0.9, 0.9, -0.9, 1};
    static const float identity[] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    static const double no_mean[3] = {0};
    fixture f = fixture_new((shape){6, 9}, 50, 1, 1);
    double kept = f.gram[12];
    f.gram[12] = kept + 1e-3;
    check_refused(&f, LR_E_INVALID, "Gram is not symmetric: [1, 3] is");
    f.gram[12] = f.gram[28] = 1e3;
    check_refused(&f, LR_E_INVALID, "Gram is not positive semidefinite: [1, 3] is 1000");
    f.gram[12] = f.gram[28] = kept;
    f.gram[20] *= -1;
    check_refused(&f, LR_E_INVALID, "Gram [2, 2] is -");
    f.gram[20] *= -1;
    lr__factor_basis *basis = NULL;
    f.scale[3] = -1;
    CHECK_FAILS(lr__factor_basis_new(&basis, &f.problem, LR__FACTOR_ASVD), LR_E_INVALID,
                "scale [3] is -1, expected 0 or more");
    f.root[3] = 2;
    CHECK_FAILS(lr__factor_basis_new(&basis, &f.problem, LR__FACTOR_QR), LR_E_INVALID,
                "root [0, 3] is 2, expected a lower triangle");
    f.mean[7] = 1e3;
    check_refused(&f, LR_E_INVALID, "mean [7] is 1000, at most");
    f.problem = (lr__factor_problem){.out = 3,
                                     .in = 3,
                                     .weight = identity,
                                     .gram = indefinite,
                                     .mean = no_mean,
                                     .name = "layer.q_proj"};
    check_refused(&f, LR_E_INVALID, "Gram is not positive semidefinite");
    fixture_free(&f);
}
END_TEST

START_TEST(calls_that_make_no_sense) {
    fixture f = fixture_new((shape){6, 9}, 50, 1, 1);
    lr__factor_basis *basis = NULL;
    lr__factors cut;
    double loss;
    lr__factor_problem asked = f.problem;
    CHECK_FAILS(lr__factor_basis_new(&basis, &asked, 7), LR_E_INVALID, "method 7, expected 0 to 6");
    CHECK_FAILS(lr__factor_basis_new(&basis, &asked, -1), LR_E_INVALID, "method -1");
    asked.out = 0;
    CHECK_FAILS(lr__factor_basis_new(&basis, &asked, 0), LR_E_SHAPE, "shape [0, 9]");
    asked = f.problem;
    asked.gram = NULL;
    CHECK_FAILS(lr__factor_basis_new(&basis, &asked, LR__FACTOR_PCA), LR_E_INVALID, "no Gram");
    CHECK_OK(lr__factor_basis_new(&basis, &asked, LR__FACTOR_SVD));
    CHECK_FAILS(lr__factor_basis_cut(&cut, basis, &asked, 0), LR_E_INVALID,
                "rank 0, expected 1 to 6");
    CHECK_FAILS(lr__factor_basis_cut(&cut, basis, &asked, 7), LR_E_INVALID, "rank 7");
    asked.in = 8;
    CHECK_FAILS(lr__factor_basis_cut(&cut, basis, &asked, 1), LR_E_SHAPE, "its basis is of [6, 9]");
    ck_assert_ptr_null(cut.left);
    CHECK_FAILS(lr__factor_loss(&loss, &f.problem, 0, NULL, NULL), LR_E_INVALID, "rank 0");
    lr__factor_basis_free(basis);
    asked.scale = asked.root = NULL;
    CHECK_FAILS(lr__factor_basis_new(&basis, &asked, LR__FACTOR_ASVD), LR_E_INVALID, "no scale");
    CHECK_FAILS(lr__factor_basis_new(&basis, &asked, LR__FACTOR_QR), LR_E_INVALID, "no root");
    asked = f.problem;
    asked.mean = NULL;
    asked.name = NULL;
    CHECK_FAILS(lr__factor_basis_new(&basis, &asked, LR__FACTOR_AFM), LR_E_INVALID,
                "matrix: no mean");
    ck_assert_ptr_null(basis);
    fixture_free(&f);
}
END_TEST

/* A cut that does not cost what its spectrum says is refused, both numbers named. */
START_TEST(broken_identity_is_refused) {
    fixture f = fixture_new((shape){6, 9}, 50, 1, 1);
    lr__factor_basis *basis = NULL;
    lr__factors cut;
    CHECK_OK(lr__factor_basis_new(&basis, &f.problem, methods[_i]));
    double share = 3e-6 * basis->total;
    basis->spectrum[5] += share;
    CHECK_FAILS(lr__factor_basis_cut(&cut, basis, &f.problem, 3), LR_E_NUMERIC,
                "layer.q_proj: rank 3: predicted loss ");
    ck_assert_ptr_nonnull(strstr(lr_last_error(), ", measured "));
    ck_assert_ptr_null(cut.left);
    basis->spectrum[5] -= share;
    basis->right[4] += 1;
    CHECK_FAILS(lr__factor_basis_cut(&cut, basis, &f.problem, 3), LR_E_NUMERIC, "predicted loss ");
    basis->right[4] -= 1;
    f.weight[0] += 1;
    CHECK_FAILS(lr__factor_basis_cut(&cut, basis, &f.problem, 3), LR_E_NUMERIC, "predicted loss ");
    lr__factor_basis_free(basis);
    fixture_free(&f);
}
END_TEST

static lr_status whole_flow(const fixture *f, int32_t method) {
    lr__factor_basis *basis = NULL;
    lr__factors cut = {0};
    double loss;
    lr_status status = lr__factor_basis_new(&basis, &f->problem, method);
    if (status == LR_OK) status = lr__factor_basis_cut(&cut, basis, &f->problem, 3);
    if (status == LR_OK) status = lr__factor_loss(&loss, &f->problem, 3, cut.left, cut.right);
    lr__factors_clear(&cut);
    lr__factor_basis_free(basis);
    return status;
}

/* Every allocation in turn fails: a clean error, nothing leaked. */
START_TEST(out_of_memory) {
    static const shape both[] = {{6, 9}, {9, 6}};
    for (int s = 0; s < 4; s++) {
        fixture f = fixture_new(both[s / 2], s % 2 ? 2 : 50, 1, 1);
        long refuse = 0;
        for (lr_status status = LR_E_NOMEM; status != LR_OK; refuse++) {
            ck_assert_int_lt(refuse, 100);
            faults_begin(refuse);
            status = whole_flow(&f, methods[_i]);
            ck_assert_int_eq(faults_end(), 0);
            if (status != LR_OK) ck_assert_int_eq(status, LR_E_NOMEM);
        }
        ck_assert_int_gt(refuse, 10);
        fixture_free(&f);
    }
}
END_TEST

typedef struct worker {
    const fixture *f;
    float right[4 * 40];
} worker;

static void *work(void *argument) {
    worker *w = argument;
    lr__factor_basis *basis = NULL;
    lr__factors cut = {0};
    if (lr__factor_basis_new(&basis, &w->f->problem, LR__FACTOR_WHITEN) == LR_OK &&
        lr__factor_basis_cut(&cut, basis, &w->f->problem, 4) == LR_OK)
        memcpy(w->right, cut.right, sizeof w->right);
    lr__factors_clear(&cut);
    lr__factor_basis_free(basis);
    return NULL;
}

/* Matrices in parallel give the bits of one after another. */
START_TEST(threads_agree) {
    enum { THREADS = 4 };
    fixture f = fixture_new((shape){24, 40}, 100, 1, 1);
    pthread_t threads[THREADS];
    worker alone = {.f = &f}, together[THREADS];
    work(&alone);
    ck_assert_float_ne(alone.right[0], 0);
    for (int i = 0; i < THREADS; i++) {
        together[i] = (worker){.f = &f};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, work, &together[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_mem_eq(together[i].right, alone.right, sizeof alone.right);
    }
    fixture_free(&f);
}
END_TEST

Suite *factor_hard_suite(void);

Suite *factor_hard_suite(void) {
    Suite *suite = suite_create("factor_hard");
    TCase *tests = tcase_create("awkward");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, few_tokens, 0, METHODS);
    tcase_add_loop_test(tests, zero_gram_falls_back_on_the_weight, 1, METHODS);
    tcase_add_loop_test(tests, zero_weight, 0, METHODS);
    tcase_add_loop_test(tests, dead_constant_and_equal_channels, 0, METHODS);
    tcase_add_loop_test(tests, ill_conditioned, 0, METHODS);
    tcase_add_loop_test(tests, moments_in_binary32_serve, 0, 3);
    tcase_add_loop_test(tests, whitening_is_accurate_under_outliers, 0, 2);
    tcase_add_test(tests, damping_is_bounded);
    tcase_add_loop_test(tests, more_damping_loses_more, 1, 4);
    tcase_add_test(tests, damping_leaves_the_norm_alone);
    tcase_add_test(tests, constant_inputs_have_no_covariance);
    tcase_add_loop_test(tests, extreme_scales, 0, METHODS);
    tcase_add_test(tests, factors_beyond_binary32);
    tcase_add_loop_test(tests, numbers_that_are_not_finite, 0, 3);
    tcase_add_test(tests, moments_that_cannot_be);
    tcase_add_test(tests, calls_that_make_no_sense);
    tcase_add_loop_test(tests, broken_identity_is_refused, 0, METHODS);
    tcase_add_loop_test(tests, out_of_memory, 0, METHODS);
    tcase_add_test(tests, threads_agree);
    suite_add_tcase(suite, tests);
    return suite;
}
