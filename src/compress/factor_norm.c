/* The norms the methods minimise: tr(E M E') with M the identity, a diagonal, a Gram or L L'. */
#include "compress/factor_basis.h"

#include "backend/lapack.h"

#include <math.h>
#include <string.h>

lr_status lr__factor_norm_new(lr__factor_norm *norm, const lr__factor_problem *problem,
                              int32_t method) {
    *norm = (lr__factor_norm){.in = problem->in};
    switch (method) {
    case LR__FACTOR_SVD: return LR_OK;
    case LR__FACTOR_ASVD: norm->scale = problem->scale; return LR_OK;
    case LR__FACTOR_QR: norm->root = problem->root; return LR_OK;
    case LR__FACTOR_AFM: break;
    default: norm->gram = problem->gram; return LR_OK;
    }
    lr_status status = lr__factor_centred(&norm->owned, problem);
    norm->gram = norm->owned;
    return status;
}

void lr__factor_norm_clear(lr__factor_norm *norm) {
    lr__aligned_free(norm->owned);
    memset(norm, 0, sizeof *norm);
}

/* out [rows, in] = A S with S S' = M, for an M that is no Gram. */
static lr_status apply_half(double *out, const lr__factor_norm *norm, const double *a,
                            int64_t rows) {
    int64_t n = norm->in;
    if (out != a) memcpy(out, a, (size_t)rows * (size_t)n * sizeof *out);
    if (norm->root) return lr__dtrmm(rows, n, norm->root, out);
    for (int64_t i = 0; i < rows && norm->scale; i++)
        for (int64_t j = 0; j < n; j++) out[i * n + j] *= norm->scale[j];
    return LR_OK;
}

lr_status lr__factor_norm_apply(double *out, const lr__factor_norm *norm, const double *a,
                                int64_t rows) {
    lr_status status = LR_OK;
    int64_t n = norm->in;
    double *half = NULL;
    lr__dview to = lr__dview_of(out, rows, n);
    if (norm->gram)
        return lr__dgemm(1, lr__dview_of(a, rows, n), lr__dview_of(norm->gram, n, n), 0, to);
    if (!norm->root) {
        LR_TRY(apply_half(out, norm, a, rows));
        LR_TRY(apply_half(out, norm, out, rows));
        goto done;
    }
    LR_TRY(lr__new_aligned(&half, (size_t)rows * (size_t)n, sizeof *half));
    LR_TRY(apply_half(half, norm, a, rows));
    LR_TRY(lr__dgemm(1, lr__dview_of(half, rows, n),
                     lr__dview_transpose(lr__dview_of(norm->root, n, n)), 0, to));
done:
    lr__aligned_free(half);
    return status;
}

lr_status lr__factor_norm_output(double *g, const lr__factor_norm *norm, const double *k,
                                 int64_t rows) {
    lr_status status = LR_OK;
    int64_t n = norm->in;
    double *product = NULL;
    LR_TRY(lr__new_aligned(&product, (size_t)rows * (size_t)n, sizeof *product));
    lr__dview view = lr__dview_of(product, rows, n);
    if (norm->gram) {
        LR_TRY(lr__factor_norm_apply(product, norm, k, rows));
        status = lr__dgemm(1, view, lr__dview_transpose(lr__dview_of(k, rows, n)), 0,
                           lr__dview_of(g, rows, rows));
    } else {
        LR_TRY(apply_half(product, norm, k, rows));
        status = lr__dsyrk(view, g);
    }
done:
    lr__aligned_free(product);
    return status;
}

/* <E'E, C>: half the work of E C. */
static lr_status gram_norm(double *out, const double *gram, const double *e, int64_t m, int64_t n) {
    lr_status status = LR_OK;
    double *square = NULL, sum = 0;
    LR_TRY(lr__new_aligned(&square, (size_t)n * (size_t)n, sizeof *square));
    LR_TRY(lr__dsyrk(lr__dview_transpose(lr__dview_of(e, m, n)), square));
    for (int64_t i = 0; i < n; i++) {
        double off = 0;
        for (int64_t j = 0; j < i; j++) off += square[i * n + j] * gram[i * n + j];
        sum += 2 * off + square[i * n + i] * gram[i * n + i];
    }
    *out = fmax(sum, 0);
    LR_FAIL_IF(!isfinite(sum), LR_E_NUMERIC, "loss is %g", sum);
done:
    lr__aligned_free(square);
    return status;
}

lr_status lr__factor_norm_of(double *out, const lr__factor_norm *norm, const double *e,
                             int64_t rows) {
    lr_status status = LR_OK;
    double *half = NULL, sum = 0;
    int64_t count = rows * norm->in;
    if (norm->gram) return gram_norm(out, norm->gram, e, rows, norm->in);
    if (norm->root || norm->scale) {
        LR_TRY(lr__new_aligned(&half, (size_t)count, sizeof *half));
        LR_TRY(apply_half(half, norm, e, rows));
        e = half;
    }
    for (int64_t i = 0; i < count; i++) sum += e[i] * e[i];
    *out = sum;
    LR_FAIL_IF(!isfinite(sum), LR_E_NUMERIC, "loss is %g", sum);
done:
    lr__aligned_free(half);
    return status;
}
