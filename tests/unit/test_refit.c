/* Updates of one factor given the other: stationary, monotone, and they end at the optimum; refits
 * against rounded factors win back part of what rounding cost. */
#include "compress/refit.h"
#include "factor_fixture.h"
#include "model/save.h"

enum { METHODS = 5 };
static const int32_t methods[METHODS] = {LR__FACTOR_SVD, LR__FACTOR_WHITEN, LR__FACTOR_PCA,
                                         LR__FACTOR_ASVD, LR__FACTOR_QR};

typedef struct refit_case {
    fixture f;
    double *weight, *tails;
    lr__factor_norm norm; /* of the outputs */
    lr__refit r;
} refit_case;

static refit_case case_new(shape s, int64_t rank, int64_t tokens, double decay) {
    refit_case c = {.f = fixture_new(s, tokens, decay, 30)};
    c.weight = weight_of(&c.f);
    c.tails = fixture_tails(&c.f, LR__FACTOR_PCA);
    c.r = (lr__refit){.out = s.m,
                      .in = s.n,
                      .rank = rank,
                      .weight = c.weight,
                      .left = zeros(s.m * rank),
                      .right = zeros(rank * s.n)};
    return c;
}

/* The norm is the case's own, so that the case may be moved until here. */
static void use_norm(refit_case *c, int32_t method) {
    CHECK_OK(lr__factor_norm_new(&c->norm, &c->f.problem, method));
    c->r.norm = &c->norm;
}

static void case_free(refit_case *c) {
    lr__factor_norm_clear(&c->norm);
    free(c->weight);
    free(c->tails);
    free(c->r.left);
    free(c->r.right);
    fixture_free(&c->f);
}

static void take_basis(refit_case *c, int32_t method) {
    lr__factor_basis *basis = NULL;
    CHECK_OK(lr__factor_basis_new(&basis, &c->f.problem, method));
    for (int64_t k = 0; k < c->r.rank; k++) {
        for (int64_t i = 0; i < c->f.m; i++)
            c->r.left[i * c->r.rank + k] = basis->left[k * c->f.m + i];
        for (int64_t j = 0; j < c->f.n; j++)
            c->r.right[k * c->f.n + j] = basis->right[k * c->f.n + j];
    }
    lr__factor_basis_free(basis);
}

static double *product_of(const lr__refit *r) {
    double *w = zeros(r->out * r->in);
    for (int64_t i = 0; i < r->out; i++)
        for (int64_t k = 0; k < r->rank; k++)
            for (int64_t j = 0; j < r->in; j++)
                w[i * r->in + j] += r->left[i * r->rank + k] * r->right[k * r->in + j];
    return w;
}

static double loss_now(const refit_case *c) {
    double *w = product_of(&c->r), loss = explicit_loss(&c->f, w, LR__FACTOR_PCA), said;
    CHECK_OK(lr__refit_loss(&said, &c->r));
    CHECK_NEAR(said, loss, 1e-9 * c->tails[0]);
    free(w);
    return loss;
}

/* O11: the closed forms of the optimum stay where they are, in either norm of the outputs. */
START_TEST(optimum_is_a_fixed_point) {
    static const int32_t optimal[] = {LR__FACTOR_WHITEN, LR__FACTOR_PCA, LR__FACTOR_QR};
    for (int s = 0; s < 7; s++)
        for (int o = 0; o < 3; o++) {
            int64_t rank = shapes[s].m < shapes[s].n ? shapes[s].m / 2 : shapes[s].n / 2;
            refit_case c = case_new(shapes[s], rank, 160, 1);
            use_norm(&c, _i ? LR__FACTOR_QR : LR__FACTOR_PCA);
            take_basis(&c, optimal[o]);
            double *before = product_of(&c.r);
            CHECK_OK(lr__refit_left(&c.r));
            double *after = product_of(&c.r);
            CHECK_NEAR(difference(after, before, c.f.m * c.f.n), 0, 1e-10);
            CHECK_OK(lr__refit_right(&c.r));
            free(after);
            after = product_of(&c.r);
            CHECK_NEAR(difference(after, before, c.f.m * c.f.n), 0, 1e-10);
            free(before);
            free(after);
            case_free(&c);
        }
}
END_TEST

/* Largest element of E C right' and of left' E, each over what it could be. */
static void gradients(const refit_case *c, double *left, double *right) {
    int64_t m = c->f.m, n = c->f.n, r = c->r.rank;
    double *w = product_of(&c->r);
    *left = *right = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < r; k++) {
            double sum = 0, size = 0;
            for (int64_t j = 0; j < n; j++)
                for (int64_t p = 0; p < n; p++) {
                    double at = c->f.gram[j * n + p] * c->r.right[k * n + p];
                    sum += (c->weight[i * n + j] - w[i * n + j]) * at;
                    size += fabs(c->weight[i * n + j] * at);
                }
            *left = fmax(*left, fabs(sum) / size);
        }
    for (int64_t k = 0; k < r; k++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0, size = 0;
            for (int64_t i = 0; i < m; i++) {
                double at = c->r.left[i * r + k];
                sum += (c->weight[i * n + j] - w[i * n + j]) * at;
                size += fabs(c->weight[i * n + j] * at);
            }
            *right = fmax(*right, fabs(sum) / size);
        }
    free(w);
}

/* O11, O12: after an update its own gradient is zero; the loss never rises, and from anywhere it
 * ends at the tail of the spectrum. */
START_TEST(rounds_are_monotone_and_end_at_the_optimum) {
    for (int s = 0; s < 4; s++) {
        refit_case c = case_new(shapes[s], 5, 160, 1);
        uint64_t state = 4;
        use_norm(&c, LR__FACTOR_PCA);
        if (_i < METHODS)
            take_basis(&c, methods[_i]);
        else
            for (int64_t i = 0; i < 5 * c.f.n; i++) c.r.right[i] = noise(&state);
        double last = loss_now(&c), left, right;
        for (int round = 0; round < 50; round++) {
            CHECK_OK(lr__refit_left(&c.r));
            double now = loss_now(&c);
            ck_assert_double_le(now, last + 1e-10 * c.tails[0]);
            gradients(&c, &left, &right);
            ck_assert_double_lt(left, 1e-9);
            CHECK_OK(lr__refit_right(&c.r));
            last = loss_now(&c);
            ck_assert_double_le(last, now + 1e-10 * c.tails[0]);
            gradients(&c, &left, &right);
            ck_assert_double_lt(right, 1e-8);
        }
        ck_assert_double_ge(last, c.tails[5] - 1e-9 * c.tails[0]);
        ck_assert_double_le(last, (1 + 1e-4) * c.tails[5]);
        case_free(&c);
    }
}
END_TEST

/* Fewer tokens than ranks: what C says nothing of stays, so full rank is still W. */
START_TEST(unknown_directions_stay) {
    for (int s = 0; s < 7; s++)
        for (int64_t tokens = 1; tokens < 8; tokens += 3) {
            int64_t full = shapes[s].m < shapes[s].n ? shapes[s].m : shapes[s].n;
            refit_case c = case_new(shapes[s], full, tokens, 1);
            use_norm(&c, _i ? LR__FACTOR_QR : LR__FACTOR_PCA);
            take_basis(&c, LR__FACTOR_PCA);
            CHECK_OK(lr__refit_left(&c.r));
            CHECK_OK(lr__refit_right(&c.r));
            double *w = product_of(&c.r);
            CHECK_NEAR(difference(w, c.weight, c.f.m * c.f.n), 0, 1e-9);
            free(w);
            case_free(&c);
        }
}
END_TEST

static const int32_t dtypes[] = {LR_BF16, LR_F16, LR_Q8_0};

static void round_to(int32_t dtype, int64_t rows, int64_t cols, float *x) {
    lr__save_round(lr__kernels_best(), dtype, rows, cols, x);
}

static lr__factors cut_of(const fixture *f, int32_t method, int64_t rank) {
    lr__factor_basis *basis = NULL;
    lr__factors cut;
    CHECK_OK(lr__factor_basis_new(&basis, &f->problem, method));
    CHECK_OK(lr__factor_basis_cut(&cut, basis, &f->problem, rank));
    lr__factor_basis_free(basis);
    return cut;
}

static double rounded_loss(const fixture *f, const lr__factors *cut) {
    double *approx = factors_approx(f, cut), loss = explicit_loss(f, approx, LR__FACTOR_PCA);
    free(approx);
    return loss;
}

/* O28: updating left against a rounded right, before left is rounded itself, never costs. */
START_TEST(refit_behind_rounding_never_costs) {
    double before = 0, after = 0;
    for (int s = 0; s < 7; s++) {
        int64_t n = shapes[s].n, rank = (shapes[s].m < n ? shapes[s].m : n) / 2;
        refit_case c = case_new(shapes[s], rank, 160, 1);
        float *right = calloc((size_t)(rank * n), sizeof *right);
        use_norm(&c, LR__FACTOR_PCA);
        take_basis(&c, LR__FACTOR_PCA);
        for (int64_t i = 0; i < rank * n; i++) right[i] = (float)c.r.right[i];
        round_to(dtypes[_i], rank, n, right);
        for (int64_t i = 0; i < rank * n; i++) c.r.right[i] = right[i];
        double rounded = loss_now(&c);
        CHECK_OK(lr__refit_left(&c.r));
        double refitted = loss_now(&c);
        ck_assert_double_le(refitted, rounded + 1e-12 * c.tails[0]);
        before += rounded / c.tails[rank];
        after += refitted / c.tails[rank];
        free(right);
        case_free(&c);
    }
    ck_assert_double_lt(after, before);
}
END_TEST

/* O28: rounding costs little, and less with the left factor fitted to the rounded right one; the
 * factors that come back are rounded already. */
START_TEST(rounded_factors_are_refitted) {
    int32_t dtype = dtypes[_i];
    double plain_sum = 0, refit_sum = 0;
    for (int s = 0; s < 4; s++) {
        fixture f = fixture_new(shapes[s], 160, 1, 3);
        int64_t rank = fixture_full(&f) / 2;
        double *tails = fixture_tails(&f, LR__FACTOR_PCA), stored;
        lr__factors plain = cut_of(&f, LR__FACTOR_PCA, rank),
                    refit = cut_of(&f, LR__FACTOR_PCA, rank);
        round_to(dtype, f.m, rank, plain.left);
        round_to(dtype, rank, f.n, plain.right);
        const lr__refit_opts o = {LR__FACTOR_PCA, 0, dtype, lr__kernels_best()};
        CHECK_OK(lr__refit_factors(&refit, &f.problem, &o, &stored));
        double loss = rounded_loss(&f, &refit);
        CHECK_NEAR(stored, loss, 1e-9 * tails[0]);
        float *again = calloc((size_t)(f.m * rank), sizeof *again);
        memcpy(again, refit.left, (size_t)(f.m * rank) * sizeof *again);
        round_to(dtype, f.m, rank, again);
        ck_assert_mem_eq(again, refit.left, (size_t)(f.m * rank) * sizeof *again);
        ck_assert_mem_eq(plain.right, refit.right, (size_t)(rank * f.n) * sizeof *again);
        free(again);
        double rounded = rounded_loss(&f, &plain);
        plain_sum += rounded / tails[rank];
        refit_sum += loss / tails[rank];
        ck_assert_double_ge(loss, tails[rank] - 1e-9 * tails[0]);
        ck_assert_double_le(rounded, 1.1 * tails[rank]);
        ck_assert_double_le(loss, 1.1 * tails[rank]);
        lr__factors_clear(&plain);
        lr__factors_clear(&refit);
        free(tails);
        fixture_free(&f);
    }
    ck_assert_double_lt(refit_sum, plain_sum);
}
END_TEST

/* The same in pivot form, whose picked rows are rounded and whose mix follows. */
START_TEST(rounded_pivots_are_refitted) {
    int32_t dtype = dtypes[_i];
    double plain_sum = 0, refit_sum = 0;
    for (int s = 0; s < 4; s++) {
        fixture f = fixture_new(shapes[s], 160, 1, 3);
        int64_t rank = fixture_full(&f) / 2, rest = f.m - rank;
        double *tails = fixture_tails(&f, LR__FACTOR_PCA), losses[2];
        for (int k = 0; k < 2; k++) {
            lr__factors cut = cut_of(&f, LR__FACTOR_PCA, rank);
            lr__pivot p;
            double stored;
            CHECK_OK(lr__pivot_new(&p, f.m, f.n, rank, cut.left, cut.right, "q"));
            const lr__refit_opts o = {LR__FACTOR_PCA, 0, dtype, lr__kernels_best()};
            if (k) {
                CHECK_OK(lr__refit_pivot(&p, &cut, &f.problem, &o, &stored));
                ck_assert_double_lt(p.largest, 4);
            } else {
                round_to(dtype, rank, f.n, p.rows);
                round_to(dtype, rest, rank, p.mix);
            }
            double *w = zeros(f.m * f.n);
            for (int64_t j = 0; j < f.n; j++) {
                for (int64_t i = 0; i < rank; i++) w[p.picked[i] * f.n + j] = p.rows[i * f.n + j];
                for (int64_t i = 0; i < rest; i++)
                    for (int64_t c = 0; c < rank; c++)
                        w[p.rest[i] * f.n + j] +=
                            (double)p.mix[i * rank + c] * (double)p.rows[c * f.n + j];
            }
            losses[k] = explicit_loss(&f, w, LR__FACTOR_PCA);
            if (k) CHECK_NEAR(stored, losses[1], 1e-9 * tails[0]);
            free(w);
            lr__pivot_clear(&p);
            lr__factors_clear(&cut);
        }
        plain_sum += losses[0] / tails[rank];
        refit_sum += losses[1] / tails[rank];
        for (int k = 0; k < 2; k++) ck_assert_double_le(losses[k], 1.2 * tails[rank]);
        free(tails);
        fixture_free(&f);
    }
    ck_assert_double_lt(refit_sum, plain_sum);
}
END_TEST

/* O14 after rounding: the bias makes up for the mean of whatever error there is. */
START_TEST(bias_follows_the_refit) {
    fixture f = fixture_new(shapes[0], 160, 1, 3);
    lr__factors cut = cut_of(&f, LR__FACTOR_AFM, 9);
    double stored, *w = weight_of(&f);
    const lr__refit_opts o = {LR__FACTOR_AFM, 2, LR_BF16, lr__kernels_best()};
    CHECK_OK(lr__refit_factors(&cut, &f.problem, &o, &stored));
    double *approx = factors_approx(&f, &cut);
    CHECK_NEAR(stored, explicit_loss(&f, approx, LR__FACTOR_AFM), 1e-6 * stored);
    for (int64_t i = 0; i < f.m; i++) {
        double teacher = f.bias[i], student = cut.bias[i];
        for (int64_t j = 0; j < f.n; j++) {
            teacher += w[i * f.n + j] * f.mean[j];
            student += approx[i * f.n + j] * f.mean[j];
        }
        CHECK_NEAR(student, teacher, 1e-5 * (1 + fabs(teacher)));
    }
    free(approx);
    free(w);
    lr__factors_clear(&cut);
    fixture_free(&f);
}
END_TEST

START_TEST(range_of_the_type_is_checked) {
    fixture f = fixture_new((shape){8, 8}, 50, 1, 1);
    for (int64_t i = 0; i < f.m * f.n; i++) f.weight[i] *= 1e6f;
    lr__factors cut = cut_of(&f, LR__FACTOR_PCA, 4);
    double stored;
    const lr__refit_opts o = {LR__FACTOR_PCA, 0, LR_F16, lr__kernels_best()};
    CHECK_FAILS(lr__refit_factors(&cut, &f.problem, &o, &stored), LR_E_NUMERIC,
                "layer.q_proj: right factor leaves the range of f16");
    lr__factors_clear(&cut);
    fixture_free(&f);
}
END_TEST

Suite *refit_suite(void);

Suite *refit_suite(void) {
    Suite *suite = suite_create("refit");
    TCase *tests = tcase_create("refit");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, optimum_is_a_fixed_point, 0, 2);
    tcase_add_loop_test(tests, rounds_are_monotone_and_end_at_the_optimum, 0, METHODS + 1);
    tcase_add_loop_test(tests, unknown_directions_stay, 0, 2);
    tcase_add_loop_test(tests, refit_behind_rounding_never_costs, 0, 3);
    tcase_add_loop_test(tests, rounded_factors_are_refitted, 0, 3);
    tcase_add_loop_test(tests, rounded_pivots_are_refitted, 0, 3);
    tcase_add_test(tests, bias_follows_the_refit);
    tcase_add_test(tests, range_of_the_type_is_checked);
    suite_add_tcase(suite, tests);
    return suite;
}
