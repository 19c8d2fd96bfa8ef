/* Factorisation against explicit X: the identities every method must meet. */
#include "factor_fixture.h"

static const double decays[] = {0.5, 1, 2};
static const int32_t methods[] = {LR__FACTOR_SVD, LR__FACTOR_WHITEN, LR__FACTOR_WHITEN_EIG,
                                  LR__FACTOR_PCA, LR__FACTOR_AFM,    LR__FACTOR_ASVD,
                                  LR__FACTOR_QR};
enum { METHODS = 7, DECAYS = 3 };

static lr__factor_basis *basis_of(const fixture *f, int32_t method) {
    lr__factor_basis *basis = NULL;
    CHECK_OK(lr__factor_basis_new(&basis, &f->problem, method));
    return basis;
}

static double loss_at(const fixture *f, const lr__factor_basis *basis, int64_t rank,
                      int32_t method) {
    double *approx = basis_approx(basis, 0, rank), loss = explicit_loss(f, approx, method);
    free(approx);
    return loss;
}

/* O2, O6, O7, O8: spectrum, total and the loss of every rank are those of the explicit product. */
START_TEST(loss_is_the_tail) {
    for (int s = 0; s < SHAPES; s++) {
        int32_t method = methods[_i % METHODS];
        fixture f = fixture_new(shapes[s], 160, decays[_i / METHODS], 30);
        double *tails = fixture_tails(&f, method), slack = 1e-9 * tails[0];
        lr__factor_basis *basis = basis_of(&f, method);
        int64_t count = 0, full = fixture_full(&f);
        const double *spectrum = lr__factor_basis_spectrum(basis, &count);
        ck_assert_int_eq(count, full);
        for (int64_t r = 0; r < full; r++) CHECK_NEAR(spectrum[r], tails[r] - tails[r + 1], slack);
        for (int64_t r = 1; r <= full; r = next_rank(r, full)) {
            lr__factors cut;
            CHECK_OK(lr__factor_basis_cut(&cut, basis, &f.problem, r));
            CHECK_NEAR(cut.total, tails[0], slack);
            CHECK_NEAR(cut.predicted, tails[r], slack);
            CHECK_NEAR(cut.measured, tails[r], slack);
            CHECK_NEAR(loss_at(&f, basis, r, method), tails[r], slack);
            ck_assert_int_eq(cut.bias != NULL, method == LR__FACTOR_AFM);
            lr__factors_clear(&cut);
        }
        lr__factor_basis_free(basis);
        free(tails);
        fixture_free(&f);
    }
}
END_TEST

/* O8: the eigenvalues of G alone, which allocations take, are the squared singular values too. */
START_TEST(spectrum_alone_is_that_of_the_product) {
    static const int32_t kinds[] = {LR__FACTOR_PCA, LR__FACTOR_SVD};
    for (int s = 0; s < SHAPES; s++)
        for (int k = 0; k < 2; k++) {
            fixture f = fixture_new(shapes[s], 160, decays[_i], 30);
            double *tails = fixture_tails(&f, kinds[k]), *values = zeros(fixture_full(&f));
            lr__factor_problem asked = f.problem;
            if (kinds[k] == LR__FACTOR_SVD) asked.gram = NULL;
            CHECK_OK(lr__factor_spectrum(values, &asked));
            for (int64_t r = 0; r < fixture_full(&f); r++)
                CHECK_NEAR(values[r], tails[r] - tails[r + 1], 1e-9 * tails[0]);
            free(values);
            free(tails);
            fixture_free(&f);
        }
}
END_TEST

/* O6: leaving component i out costs its energy and nothing else. */
START_TEST(components_are_additive) {
    int32_t method = methods[_i];
    for (int s = 0; s < 3; s++) {
        fixture f = fixture_new(shapes[s], 160, 1, 30);
        lr__factor_basis *basis = basis_of(&f, method);
        double *whole = basis_approx(basis, 0, 12);
        double loss = explicit_loss(&f, whole, method);
        for (int64_t i = 0; i < 12; i++) {
            double *one = basis_approx(basis, i, i + 1);
            for (int64_t j = 0; j < f.m * f.n; j++) one[j] = whole[j] - one[j];
            CHECK_NEAR(explicit_loss(&f, one, method) - loss, basis->spectrum[i],
                       1e-9 * basis->total);
            free(one);
        }
        free(whole);
        lr__factor_basis_free(basis);
        fixture_free(&f);
    }
}
END_TEST

/* O7: four routes, one W~, where the spectrum has a gap. */
START_TEST(routes_agree) {
    int compared = 0;
    for (int s = 0; s < SHAPES - 3; s++) {
        fixture f = fixture_new(shapes[s], 300, decays[_i], 3);
        lr__factor_basis *pca = basis_of(&f, LR__FACTOR_PCA);
        static const int32_t others[] = {LR__FACTOR_WHITEN, LR__FACTOR_WHITEN_EIG, LR__FACTOR_QR};
        for (int o = 0; o < 3; o++) {
            lr__factor_basis *other = basis_of(&f, others[o]);
            ck_assert_double_eq(other->damping, 0);
            for (int64_t r = 1; r <= pca->count; r++) {
                if (r < pca->count && pca->spectrum[r - 1] < 1.002 * pca->spectrum[r]) continue;
                double *a = basis_approx(pca, 0, r), *b = basis_approx(other, 0, r);
                CHECK_NEAR(difference(a, b, f.m * f.n), 0, 1e-8);
                compared++;
                free(a);
                free(b);
            }
            lr__factor_basis_free(other);
        }
        lr__factor_basis_free(pca);
        fixture_free(&f);
    }
    ck_assert_int_gt(compared, 300);
}
END_TEST

/* O2, O9: each is the best in its own norm. */
START_TEST(each_norm_has_its_winner) {
    for (int s = 0; s < SHAPES; s++) {
        fixture f = fixture_new(shapes[s], 160, decays[_i], 30);
        lr__factor_basis *bases[METHODS];
        for (int i = 0; i < METHODS; i++) bases[i] = basis_of(&f, methods[i]);
        for (int own = 0; own < METHODS; own++)
            for (int other = 0; other < METHODS; other++)
                for (int64_t r = 1; r <= bases[0]->count; r = next_rank(r, bases[0]->count))
                    ck_assert_double_le(
                        loss_at(&f, bases[own], r, methods[own]),
                        loss_at(&f, bases[other], r, methods[own]) + 1e-9 * bases[own]->total);
        for (int i = 0; i < METHODS; i++) lr__factor_basis_free(bases[i]);
        fixture_free(&f);
    }
}
END_TEST

/* Loss on the inputs of what is best for them, against a `base` that is best for something else:
 * W~ is its left left' W, or with `is_right` W left left', its directions being of the inputs. */
static void check_least(const fixture *f, const lr__factor_basis *best,
                        const lr__factor_basis *base, int is_right) {
    double *w = weight_of(f);
    for (int64_t r = 1; r < best->count; r = next_rank(r, best->count)) {
        double *approx = basis_approx(base, 0, r), *projected = zeros(f->m * f->n);
        for (int64_t i = 0; i < f->m && is_right; i++)
            for (int64_t k = 0; k < f->n; k++)
                for (int64_t j = 0; j < f->n; j++)
                    projected[i * f->n + j] += w[i * f->n + k] * approx[k * f->n + j];
        ck_assert_double_le(
            loss_at(f, best, r, LR__FACTOR_PCA),
            explicit_loss(f, is_right ? projected : approx, LR__FACTOR_PCA) + 1e-9 * best->total);
        free(approx);
        free(projected);
    }
    free(w);
}

/* O9: no scale of the channels and no choice among the directions of the inputs loses less. The
 * latter are the outputs of an identity. */
START_TEST(scales_and_input_directions_lose_more) {
    for (int s = 0; s < SHAPES; s++) {
        fixture f = fixture_new(shapes[s], 160, decays[_i], 30);
        lr__factor_basis *best = basis_of(&f, LR__FACTOR_PCA), *other;
        double *mean = zeros(f.n);
        memcpy(mean, f.scale, (size_t)f.n * sizeof *mean);
        for (int kind = 0; kind < 5; kind++) { /* powers 0.25, 1 and 2 of mean |x|; rms; max */
            static const double powers[] = {0.5, 2, 4};
            for (int64_t j = 0; j < f.n; j++) {
                double most = 0;
                for (int64_t k = 0; k < f.tokens; k++)
                    most = fmax(most, fabs(f.x[j * f.tokens + k]));
                f.scale[j] = kind < 3    ? pow(mean[j], powers[kind])
                             : kind == 3 ? sqrt(f.gram[j * (f.n + 1)])
                                         : most;
            }
            other = basis_of(&f, LR__FACTOR_ASVD);
            check_least(&f, best, other, 0);
            lr__factor_basis_free(other);
        }
        float *identity = calloc((size_t)(f.n * f.n), sizeof *identity);
        for (int64_t j = 0; j < f.n; j++) identity[j * (f.n + 1)] = 1;
        lr__factor_problem inputs = f.problem;
        inputs.out = f.n;
        inputs.weight = identity;
        CHECK_OK(lr__factor_basis_new(&other, &inputs, LR__FACTOR_PCA));
        check_least(&f, best, other, 1);
        lr__factor_basis_free(other);
        lr__factor_basis_free(best);
        free(identity);
        free(mean);
        fixture_free(&f);
    }
}
END_TEST

/* O1: an exact rank comes back. */
START_TEST(exact_rank_is_found) {
    for (int s = 0; s < 3; s++) {
        fixture f = fixture_new(shapes[s], 160, 1, 30);
        uint64_t state = 7;
        memset(f.weight, 0, (size_t)(f.m * f.n) * sizeof *f.weight);
        for (int r = 0; r < 8; r++) {
            double *row = zeros(f.n);
            for (int64_t j = 0; j < f.n; j++) row[j] = rint(4 * noise(&state));
            for (int64_t i = 0; i < f.m; i++) {
                double factor = rint(4 * noise(&state));
                for (int64_t j = 0; j < f.n; j++) f.weight[i * f.n + j] += (float)(factor * row[j]);
            }
            free(row);
        }
        double *w = weight_of(&f);
        lr__factor_basis *basis = basis_of(&f, methods[_i]);
        double *exact = basis_approx(basis, 0, 8);
        CHECK_NEAR(difference(exact, w, f.m * f.n), 0,
                   methods[_i] == LR__FACTOR_SVD ? 1e-12 : 1e-9);
        lr__factors cut;
        CHECK_OK(lr__factor_basis_cut(&cut, basis, &f.problem, 8));
        double *rounded = factors_approx(&f, &cut);
        CHECK_NEAR(difference(rounded, w, f.m * f.n), 0, 1e-6);
        lr__factors_clear(&cut);
        free(rounded);
        free(exact);
        free(w);
        lr__factor_basis_free(basis);
        fixture_free(&f);
    }
}
END_TEST

/* O10: loss falls with rank; the factors of a rank are a prefix of those of the next, to the bit;
 * left is orthonormal, or balanced against right. */
START_TEST(ranks_are_nested) {
    int32_t method = methods[_i];
    for (int s = 0; s < 3; s++) {
        fixture f = fixture_new(shapes[s], 160, 1, 30);
        lr__factor_basis *basis = basis_of(&f, method);
        lr__factors low, high;
        CHECK_OK(lr__factor_basis_cut(&low, basis, &f.problem, 1));
        for (int64_t r = 1; r < basis->count; r++) {
            CHECK_OK(lr__factor_basis_cut(&high, basis, &f.problem, r + 1));
            ck_assert_double_le(high.measured, low.measured + 1e-12 * low.total);
            ck_assert_double_ge(basis->spectrum[r - 1], basis->spectrum[r]);
            ck_assert_mem_eq(high.right, low.right, (size_t)(r * f.n) * sizeof(float));
            for (int64_t i = 0; i < f.m; i++)
                ck_assert_mem_eq(high.left + i * (r + 1), low.left + i * r,
                                 (size_t)r * sizeof(float));
            lr__factors_clear(&low);
            low = high;
        }
        lr__factors_clear(&low);
        for (int64_t r = 0; r < basis->count; r++) {
            double left = 0, right = 0;
            for (int64_t i = 0; i < f.m; i++) left += pow(basis->left[r * f.m + i], 2);
            for (int64_t j = 0; j < f.n; j++) right += pow(basis->right[r * f.n + j], 2);
            CHECK_NEAR(left, lr__factor_is_orthonormal(method) ? 1 : right, 1e-12 * left);
        }
        lr__factor_basis_free(basis);
        fixture_free(&f);
    }
}
END_TEST

/* O13, O14: the centred loss lies between two uncentred ones, outputs keep their mean, and b~ is
 * AFM's U U' b + (I - U U') ybar. */
START_TEST(bias_keeps_the_mean) {
    for (int s = 0; s < SHAPES; s++) {
        fixture f = fixture_new(shapes[s], 160, decays[_i], 30);
        lr__factor_basis *afm = basis_of(&f, LR__FACTOR_AFM), *pca = basis_of(&f, LR__FACTOR_PCA);
        double *w = weight_of(&f);
        for (int64_t r = 1; r <= afm->count; r++) {
            lr__factors cut, plain, next;
            CHECK_OK(lr__factor_basis_cut(&cut, afm, &f.problem, r));
            CHECK_OK(lr__factor_basis_cut(&plain, pca, &f.problem, r));
            ck_assert_double_le(cut.measured, plain.measured + 1e-9 * plain.total);
            if (r < afm->count) {
                CHECK_OK(lr__factor_basis_cut(&next, pca, &f.problem, r + 1));
                ck_assert_double_ge(cut.measured, next.measured - 1e-9 * plain.total);
                lr__factors_clear(&next);
            }
            double *approx = basis_approx(afm, 0, r);
            for (int64_t i = 0; i < f.m; i++) {
                double teacher = f.bias[i], student = cut.bias[i], formula = 0;
                double size = fabs(student); /* what binary32 rounds */
                for (int64_t j = 0; j < f.n; j++) {
                    teacher += w[i * f.n + j] * f.mean[j];
                    student += approx[i * f.n + j] * f.mean[j];
                    size += fabs(w[i * f.n + j] * f.mean[j]);
                }
                CHECK_NEAR(student, teacher, 1e-7 * size);
                for (int64_t k = 0; k < f.m; k++) {
                    double project = 0, ybar = f.bias[k];
                    for (int64_t c = 0; c < r; c++)
                        project += afm->left[c * f.m + i] * afm->left[c * f.m + k];
                    for (int64_t j = 0; j < f.n; j++) ybar += w[k * f.n + j] * f.mean[j];
                    formula += project * f.bias[k] + ((i == k) - project) * ybar;
                }
                CHECK_NEAR(cut.bias[i], formula, 1e-7 * size);
            }
            free(approx);
            lr__factors_clear(&cut);
            lr__factors_clear(&plain);
        }
        free(w);
        lr__factor_basis_free(afm);
        lr__factor_basis_free(pca);
        fixture_free(&f);
    }
}
END_TEST

/* O13: without a mean AFM is PCA, and a module without bias gets one. */
START_TEST(no_mean_is_pca) {
    fixture f = fixture_new(shapes[_i], 160, 1, 30);
    for (int64_t i = 0; i < f.n; i++)
        for (int64_t k = 0; k < f.tokens; k++) f.x[i * f.tokens + k] -= f.mean[i];
    fixture_moments(&f);
    memset(f.mean, 0, (size_t)f.n * sizeof *f.mean);
    f.problem.bias = NULL;
    lr__factor_basis *afm = basis_of(&f, LR__FACTOR_AFM), *pca = basis_of(&f, LR__FACTOR_PCA);
    for (int64_t r = 1; r <= afm->count; r++) {
        lr__factors a, b;
        CHECK_OK(lr__factor_basis_cut(&a, afm, &f.problem, r));
        CHECK_OK(lr__factor_basis_cut(&b, pca, &f.problem, r));
        CHECK_NEAR(a.measured, b.measured, 1e-12 * b.total);
        for (int64_t i = 0; i < f.m; i++) CHECK_NEAR(a.bias[i], 0, 1e-12);
        lr__factors_clear(&a);
        lr__factors_clear(&b);
    }
    lr__factor_basis_free(afm);
    lr__factor_basis_free(pca);
    fixture_free(&f);
}
END_TEST

/* Channels [n] `step` apart, neighbours turned by the triangle 3, 4, 5 and what has no neighbour
 * times 5, in three passes: 125 times a rotation, which keeps integers integers. */
static void turn_channels(double *x, int64_t n, int64_t step) {
    for (int64_t pass = 0; pass < 3; pass++)
        for (int64_t i = -(pass % 2); i < n; i += 2) {
            double *a = i < 0 ? NULL : x + i * step, *b = i + 1 < n ? x + (i + 1) * step : NULL;
            double first = a ? *a : 0, second = b ? *b : 0;
            if (a) *a = b ? 3 * first + 4 * second : 5 * first;
            if (b) *b = a ? 3 * second - 4 * first : 5 * second;
        }
}

/* O19: turning the input space moves nothing; its scale only the loss. */
START_TEST(input_basis_does_not_matter) {
    static const int32_t optimal[] = {LR__FACTOR_WHITEN, LR__FACTOR_WHITEN_EIG, LR__FACTOR_PCA,
                                      LR__FACTOR_QR};
    fixture f = fixture_new(shapes[_i], 200, 1, 1);
    for (int64_t i = 0; i < f.m * f.n; i++) f.weight[i] = rintf(8 * f.weight[i]);
    lr__factor_basis *before = basis_of(&f, LR__FACTOR_PCA);
    double *w = weight_of(&f);
    for (int64_t i = 0; i < f.m; i++) turn_channels(w + i * f.n, f.n, 1);
    for (int64_t i = 0; i < f.m * f.n; i++) {
        f.weight[i] = (float)w[i];
        ck_assert_double_eq((double)f.weight[i], w[i]);
    }
    for (int64_t k = 0; k < f.tokens; k++) turn_channels(f.x + k, f.n, f.tokens);
    fixture_moments(&f);
    for (int o = 0; o < 4; o++) {
        lr__factor_basis *after = basis_of(&f, optimal[o]);
        for (int64_t r = 0; r < before->count; r++)
            CHECK_NEAR(after->spectrum[r], pow(5, 12) * before->spectrum[r], 1e-9 * after->total);
        lr__factor_basis_free(after);
    }
    lr__factor_basis_free(before);
    free(w);
    fixture_free(&f);
}
END_TEST

START_TEST(scale_of_inputs_keeps_factors) {
    fixture f = fixture_new(shapes[_i], 200, 1, 10);
    for (int32_t method = LR__FACTOR_WHITEN; method <= LR__FACTOR_AFM; method++) {
        lr__factor_basis *before = basis_of(&f, method);
        for (int64_t i = 0; i < f.n * f.n; i++) f.gram[i] *= 0x1p20;
        for (int64_t i = 0; i < f.n; i++) f.mean[i] *= 0x1p10;
        lr__factor_basis *after = basis_of(&f, method);
        for (int64_t i = 0; i < f.n * f.n; i++) f.gram[i] *= 0x1p-20;
        for (int64_t i = 0; i < f.n; i++) f.mean[i] *= 0x1p-10;
        CHECK_NEAR(after->total, 0x1p20 * before->total, 1e-12 * after->total);
        for (int64_t r = 1; r <= before->count; r += 5) {
            double *a = basis_approx(before, 0, r), *b = basis_approx(after, 0, r);
            CHECK_NEAR(difference(a, b, f.m * f.n), 0, 1e-9);
            free(a);
            free(b);
        }
        lr__factor_basis_free(before);
        lr__factor_basis_free(after);
    }
    fixture_free(&f);
}
END_TEST

/* O4: without the power ASVD is the plain SVD; a common factor of the scale changes nothing. */
START_TEST(asvd_is_a_scaled_svd) {
    fixture f = fixture_new(shapes[_i], 120, 1, 30);
    lr__factor_basis *asvd = basis_of(&f, LR__FACTOR_ASVD), *plain = basis_of(&f, LR__FACTOR_SVD);
    for (int64_t j = 0; j < f.n; j++) f.scale[j] *= 1024;
    lr__factor_basis *larger = basis_of(&f, LR__FACTOR_ASVD);
    for (int64_t j = 0; j < f.n; j++) f.scale[j] = 1;
    lr__factor_basis *flat = basis_of(&f, LR__FACTOR_ASVD);
    for (int64_t r = 1; r <= plain->count; r = next_rank(r, plain->count)) {
        double *a = basis_approx(asvd, 0, r), *b = basis_approx(larger, 0, r);
        double *c = basis_approx(flat, 0, r), *d = basis_approx(plain, 0, r);
        CHECK_NEAR(difference(b, a, f.m * f.n), 0, 1e-12);
        CHECK_NEAR(difference(c, d, f.m * f.n), 0, 1e-12);
        free(a);
        free(b);
        free(c);
        free(d);
    }
    lr__factor_basis_free(asvd);
    lr__factor_basis_free(plain);
    lr__factor_basis_free(larger);
    lr__factor_basis_free(flat);
    fixture_free(&f);
}
END_TEST

/* O5: where channels do not correlate, scaling by their root mean square is whitening. */
START_TEST(rms_is_whitening_of_independent_channels) {
    fixture f = fixture_new(shapes[_i], 120, 1, 30);
    for (int64_t i = 0; i < f.n * f.n; i++)
        if (i % (f.n + 1)) f.gram[i] = 0;
    for (int64_t j = 0; j < f.n; j++) f.scale[j] = sqrt(f.gram[j * (f.n + 1)]);
    lr__factor_basis *asvd = basis_of(&f, LR__FACTOR_ASVD), *pca = basis_of(&f, LR__FACTOR_PCA);
    CHECK_NEAR(asvd->total, pca->total, 1e-12 * pca->total);
    for (int64_t r = 1; r <= pca->count; r++) {
        CHECK_NEAR(asvd->spectrum[r - 1], pca->spectrum[r - 1], 1e-12 * pca->total);
        if (r < pca->count && pca->spectrum[r - 1] < 1.002 * pca->spectrum[r]) continue;
        double *a = basis_approx(asvd, 0, r), *b = basis_approx(pca, 0, r);
        CHECK_NEAR(difference(a, b, f.m * f.n), 0, 1e-9);
        free(a);
        free(b);
    }
    lr__factor_basis_free(asvd);
    lr__factor_basis_free(pca);
    fixture_free(&f);
}
END_TEST

/* O27: the mean squared error of explicit outputs, with the rounded factors, is predicted / m; and
 * lr__factor_loss says the same of any pair of factors. */
START_TEST(mean_squared_error_is_predicted) {
    for (int s = 0; s < 7; s++) {
        fixture f = fixture_new(shapes[s], 160, 0.5, 3);
        for (int i = 0; i < METHODS; i++) {
            lr__factor_problem asked = f.problem;
            lr__factor_basis *basis = basis_of(&f, methods[i]);
            lr__factors cut;
            double loss = 0;
            CHECK_OK(lr__factor_basis_cut(&cut, basis, &f.problem, basis->count / 2));
            double *approx = factors_approx(&f, &cut);
            double mse = explicit_loss(&f, approx, methods[i]) / (double)f.m;
            CHECK_NEAR(mse, cut.predicted / (double)f.m, 1e-6 * mse);
            if (is_of_weights(methods[i]) || methods[i] == LR__FACTOR_QR) asked.gram = NULL;
            if (methods[i] != LR__FACTOR_AFM) asked.mean = NULL;
            if (methods[i] != LR__FACTOR_ASVD) asked.scale = NULL;
            if (methods[i] != LR__FACTOR_QR) asked.root = NULL;
            CHECK_OK(lr__factor_loss(&loss, &asked, cut.rank, cut.left, cut.right));
            CHECK_NEAR(loss, mse * (double)f.m, 1e-9 * basis->total);
            free(approx);
            lr__factors_clear(&cut);
            lr__factor_basis_free(basis);
        }
        fixture_free(&f);
    }
}
END_TEST

/* The tokens of a fixture of its own, every other one left to `odd`. */
static void split_tokens(fixture *f, fixture *odd) {
    double *all = f->x;
    int64_t half = f->tokens / 2;
    *odd = *f;
    f->x = zeros(f->n * half);
    odd->x = zeros(f->n * half);
    odd->gram = zeros(f->n * f->n);
    f->tokens = odd->tokens = half;
    for (int64_t i = 0; i < 2 * f->n * half; i++) (i % 2 ? odd : f)->x[i / 2] = all[i];
    fixture_moments(odd); /* vectors and root are those of f, who comes last */
    fixture_moments(f);
    odd->problem.gram = odd->gram;
    f->problem.mean = odd->problem.mean = NULL;
    free(all);
}

/* What directions chosen by one half lose on it, and on the other. */
static void add_losses(const fixture *own, const fixture *other, int64_t rank, double *seen,
                       double *held) {
    lr__factor_basis *basis = basis_of(own, LR__FACTOR_PCA);
    lr__factors cut;
    double loss;
    CHECK_OK(lr__factor_basis_cut(&cut, basis, &own->problem, rank));
    CHECK_OK(lr__factor_loss(&loss, &other->problem, rank, cut.left, cut.right));
    double *approx = factors_approx(own, &cut);
    CHECK_NEAR(loss, explicit_loss(other, approx, LR__FACTOR_PCA), 1e-9 * cut.total);
    *seen += cut.measured;
    *held += loss;
    free(approx);
    lr__factors_clear(&cut);
    lr__factor_basis_free(basis);
}

/* O32: of tokens twice the channels, either half losing more of what the other half chose. */
START_TEST(held_out_loss_is_larger) {
    for (int s = 0; s < 7; s++) {
        fixture f = fixture_new(shapes[s], 4 * shapes[s].n, decays[_i], 30), odd;
        int64_t full = fixture_full(&f);
        double most = 1;
        split_tokens(&f, &odd);
        for (int64_t r = 1; r < full; r = next_rank(r, full)) {
            double seen = 0, held = 0;
            add_losses(&f, &odd, r, &seen, &held);
            add_losses(&odd, &f, r, &seen, &held);
            ck_assert_double_ge(held, seen);
            most = fmax(most, held / seen);
        }
        ck_assert_double_gt(most, 1.05);
        free(odd.x);
        free(odd.gram);
        fixture_free(&f);
    }
}
END_TEST

/* O29: full rank is W, for plenty of tokens, half as many as channels, and one. */
START_TEST(full_rank_is_the_weight) {
    static const int64_t tokens[] = {160, 4, 1};
    for (int s = 0; s < SHAPES; s++)
        for (int t = 0; t < 3; t++) {
            fixture f = fixture_new(shapes[s], tokens[t], 1, 30);
            lr__factor_basis *basis = basis_of(&f, methods[_i]);
            double *w = weight_of(&f), *approx = basis_approx(basis, 0, basis->count);
            CHECK_NEAR(difference(approx, w, f.m * f.n), 0, 1e-12);
            lr__factors cut;
            CHECK_OK(lr__factor_basis_cut(&cut, basis, &f.problem, basis->count));
            double *rounded = factors_approx(&f, &cut);
            CHECK_NEAR(difference(rounded, w, f.m * f.n), 0, 1e-6);
            lr__factors_clear(&cut);
            free(rounded);
            free(approx);
            free(w);
            lr__factor_basis_free(basis);
            fixture_free(&f);
        }
}
END_TEST

Suite *factor_suite(void);

Suite *factor_suite(void) {
    Suite *suite = suite_create("factor");
    TCase *tests = tcase_create("identities");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, loss_is_the_tail, 0, METHODS * DECAYS);
    tcase_add_loop_test(tests, spectrum_alone_is_that_of_the_product, 0, DECAYS);
    tcase_add_loop_test(tests, components_are_additive, 0, METHODS);
    tcase_add_loop_test(tests, routes_agree, 0, DECAYS);
    tcase_add_loop_test(tests, each_norm_has_its_winner, 0, DECAYS);
    tcase_add_loop_test(tests, scales_and_input_directions_lose_more, 0, DECAYS);
    tcase_add_loop_test(tests, exact_rank_is_found, 0, METHODS);
    tcase_add_loop_test(tests, ranks_are_nested, 0, METHODS);
    tcase_add_loop_test(tests, bias_keeps_the_mean, 0, DECAYS);
    tcase_add_loop_test(tests, no_mean_is_pca, 0, SHAPES);
    tcase_add_loop_test(tests, input_basis_does_not_matter, 0, SHAPES);
    tcase_add_loop_test(tests, scale_of_inputs_keeps_factors, 0, SHAPES);
    tcase_add_loop_test(tests, asvd_is_a_scaled_svd, 0, SHAPES);
    tcase_add_loop_test(tests, rms_is_whitening_of_independent_channels, 0, SHAPES);
    tcase_add_test(tests, mean_squared_error_is_predicted);
    tcase_add_loop_test(tests, held_out_loss_is_larger, 0, DECAYS);
    tcase_add_loop_test(tests, full_rank_is_the_weight, 0, METHODS);
    suite_add_tcase(suite, tests);
    return suite;
}
