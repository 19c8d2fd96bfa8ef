/*
 * Whitening: C = S S' and W S = U diag(s) V' (SVD-LLM, arXiv 2403.07378, S a Cholesky factor;
 * SVD-LLM v2, arXiv 2503.12340, S = Q Lambda^1/2). The papers' right factor V_r' S^-1 equals
 * diag(s)^-1 U_r' W wherever S can be inverted, so U is all that is taken from here.
 *
 * Where the inputs' own triangle L is at hand, X = L Q with Q orthonormal, it is S as it stands and
 * nothing was squared (COALA, arXiv 2507.07580).
 *
 * C is scaled to a unit diagonal first, C = D C0 D: outlier channels then cost no accuracy, and a
 * channel without variance is a row of the identity that D removes again. A Gram that is singular
 * to working precision is damped, C0 + lambda I; the energies are reported in the undamped norm,
 * u' W C W' u = s^2 - lambda |u' W D|^2, in which the loss is additive for any orthonormal U.
 */
#include "compress/factor_basis.h"

#include "backend/lapack.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const double damping_first = 1e-12, damping_last = 1e-6;
static const double negative_slack = 1e-6;

/* Lower triangle of C0 + lambda I; scale holds the diagonal of D. */
static void scale_gram(double *root, double *scale, const double *moment, int64_t n,
                       double lambda) {
    for (int64_t i = 0; i < n; i++) scale[i] = sqrt(moment[i * n + i]);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < i; j++)
            root[i * n + j] =
                scale[i] > 0 && scale[j] > 0 ? moment[i * n + j] / scale[i] / scale[j] : 0;
        root[i * n + i] = 1 + lambda;
    }
}

static void scale_columns(double *product, const lr__factor_core *core, const double *scale) {
    for (int64_t i = 0; i < core->rows; i++)
        for (int64_t j = 0; j < core->in; j++)
            product[i * core->in + j] = core->k[i * core->in + j] * scale[j];
}

/* *failed is set when no damping on the ladder helps. */
static lr_status factor_cholesky(double *root, double *scale, const double *moment, int64_t n,
                                 double *lambda, int64_t *failed) {
    for (*lambda = 0;; *lambda = *lambda > 0 ? *lambda * 10 : damping_first) {
        scale_gram(root, scale, moment, n, *lambda);
        lr_status status = lr__dpotrf(n, root, failed);
        if (status < 0 || !*failed || *lambda >= damping_last) return status;
    }
}

/* product [rows, in] = K D Q Lambda^1/2. Eigenvalues that are rounding are set to zero; a fixed
 * share such as 1e-12 would do as well, since nothing is divided by them. */
static lr_status apply_eigen(double *product, const lr__factor_core *core, double *root) {
    lr_status status = LR_OK;
    int64_t n = core->in;
    double *values = NULL, *scaled = NULL;
    LR_TRY(lr__new_aligned(&values, (size_t)n, sizeof *values));
    LR_TRY(lr__new_aligned(&scaled, (size_t)core->rows * (size_t)n, sizeof *scaled));
    LR_TRY(lr__dsyevd(n, root, values));
    LR_FAIL_IF(values[0] < -negative_slack * values[n - 1], LR_E_INVALID,
               "Gram is not positive semidefinite: eigenvalue %g beside %g at unit diagonal",
               values[0], values[n - 1]);
    double noise = DBL_EPSILON * (double)n * values[n - 1];
    for (int64_t i = 0; i < n; i++) {
        double length = values[i] > noise ? sqrt(values[i]) : 0;
        for (int64_t j = 0; j < n; j++) root[i * n + j] *= length;
    }
    memcpy(scaled, product, (size_t)core->rows * (size_t)n * sizeof *scaled);
    LR_TRY(lr__dgemm(1, lr__dview_of(scaled, core->rows, n),
                     lr__dview_transpose(lr__dview_of(root, n, n)), 0,
                     lr__dview_of(product, core->rows, n)));
done:
    lr__aligned_free(scaled);
    lr__aligned_free(values);
    return status;
}

/* product = K S; out->total and out->damping with it. */
static lr_status apply_root(double *product, lr__directions *out, const lr__factor_core *core,
                            const double *moment, int32_t use_eigen) {
    lr_status status = LR_OK;
    int64_t n = core->in, failed = 0, count = core->rows * n;
    double *root = NULL, *scale = NULL;
    LR_TRY(lr__new_aligned(&root, (size_t)n * (size_t)n, sizeof *root));
    LR_TRY(lr__new_aligned(&scale, (size_t)n, sizeof *scale));
    if (!use_eigen) LR_TRY(factor_cholesky(root, scale, moment, n, &out->damping, &failed));
    if (use_eigen || failed) {
        out->damping = 0;
        scale_gram(root, scale, moment, n, 0);
    }
    scale_columns(product, core, scale);
    for (int64_t i = 0; i < count && out->damping > 0; i++)
        out->total -= out->damping * product[i] * product[i];
    if (use_eigen || failed)
        LR_TRY(apply_eigen(product, core, root));
    else
        LR_TRY(lr__dtrmm(core->rows, n, root, product));
    for (int64_t i = 0; i < count; i++) out->total += product[i] * product[i];
done:
    lr__aligned_free(scale);
    lr__aligned_free(root);
    return status;
}

/* Left singular vectors of product [rows, in], rows <= in, and the squares of its values. Only a
 * square triangle is decomposed: product = L Q, and U of L is the V of its transpose. */
static lr_status left_singular(lr__directions *out, double *product, int64_t rows, int64_t in) {
    lr_status status = LR_OK;
    double *l = NULL, *other = NULL;
    size_t count = (size_t)rows * (size_t)rows;
    LR_TRY(lr__new_aligned(&other, count, sizeof *other));
    if (rows < in) {
        LR_TRY(lr__new_aligned(&l, count, sizeof *l));
        LR_TRY(lr__dlq(rows, in, product, l));
        product = l;
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i + 1; j < rows; j++) {
            double kept = product[i * rows + j];
            product[i * rows + j] = product[j * rows + i];
            product[j * rows + i] = kept;
        }
    LR_TRY(lr__dgesdd(rows, rows, product, out->energy, other, out->vectors));
    double noise = DBL_EPSILON * (double)in * out->energy[0];
    while (out->known < rows && out->energy[out->known] > noise) out->known++;
    for (int64_t i = 0; i < rows; i++) out->energy[i] *= out->energy[i];
done:
    lr__aligned_free(other);
    lr__aligned_free(l);
    return status;
}

static void swap_directions(lr__directions *out, int64_t rows, int64_t a, int64_t b) {
    double kept = out->energy[a];
    out->energy[a] = out->energy[b];
    out->energy[b] = kept;
    for (int64_t c = 0; c < rows; c++) {
        kept = out->vectors[a * rows + c];
        out->vectors[a * rows + c] = out->vectors[b * rows + c];
        out->vectors[b * rows + c] = kept;
    }
}

/* From the damped norm to the undamped one; neighbours may change places. */
static lr_status undamp(lr__directions *out, const lr__factor_core *core, const double *moment) {
    lr_status status = LR_OK;
    int64_t rows = core->rows, n = core->in;
    double *right = NULL;
    LR_TRY(lr__new_aligned(&right, (size_t)rows * (size_t)n, sizeof *right));
    LR_TRY(lr__dgemm(1, lr__dview_of(out->vectors, rows, rows), lr__dview_of(core->k, rows, n), 0,
                     lr__dview_of(right, rows, n)));
    for (int64_t i = 0; i < rows; i++) {
        double square = 0;
        for (int64_t j = 0; j < n; j++)
            square += right[i * n + j] * right[i * n + j] * moment[j * n + j];
        out->energy[i] = fmax(out->energy[i] - out->damping * square, 0);
    }
    for (int64_t i = 1; i < rows; i++)
        for (int64_t j = i; j > 0 && out->energy[j] > out->energy[j - 1]; j--)
            swap_directions(out, rows, j, j - 1);
done:
    lr__aligned_free(right);
    return status;
}

lr_status lr__directions_root(lr__directions *out, const lr__factor_core *core,
                              const double *root) {
    lr_status status = LR_OK;
    double *product = NULL;
    size_t count = (size_t)core->rows * (size_t)core->in;
    LR_TRY(lr__directions_new(out, core->rows));
    LR_TRY(lr__new_aligned(&product, count, sizeof *product));
    memcpy(product, core->k, count * sizeof *product);
    LR_TRY(lr__dtrmm(core->rows, core->in, root, product));
    for (size_t i = 0; i < count; i++) out->total += product[i] * product[i];
    status = left_singular(out, product, core->rows, core->in);
done:
    lr__aligned_free(product);
    if (status < 0) lr__directions_clear(out);
    return status;
}

lr_status lr__directions_whiten(lr__directions *out, const lr__factor_core *core,
                                const double *moment, int32_t use_eigen) {
    lr_status status = LR_OK;
    double *product = NULL;
    LR_TRY(lr__directions_new(out, core->rows));
    LR_TRY(lr__new_aligned(&product, (size_t)core->rows * (size_t)core->in, sizeof *product));
    LR_TRY(apply_root(product, out, core, moment, use_eigen));
    LR_TRY(left_singular(out, product, core->rows, core->in));
    if (out->damping > 0) LR_TRY(undamp(out, core, moment));
done:
    lr__aligned_free(product);
    if (status < 0) lr__directions_clear(out);
    return status;
}
