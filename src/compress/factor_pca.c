/*
 * Principal components of the outputs: U diagonalises G = W C W', the second moments of y = W x.
 * W~ = U_r U_r' W is then the best rank r for |(W - W~) X|_F, at a loss of the smaller eigenvalues
 * (AFM: Yu & Wu, AAAI 2023; Swift-SVD: arXiv 2604.01609). The wide side is never decomposed: with
 * out > in, W = Q K and G = Q (K C K') Q'. With the identity for C it is the plain SVD, with a
 * diagonal it is ASVD (arXiv 2312.05821), whose U is that of W diag(s).
 */
#include "compress/factor_basis.h"

#include "backend/blas.h"
#include "backend/lapack.h"

#include <float.h>
#include <math.h>

/* Rounding errors of G and C aside, a Gram has no eigenvalue below zero. */
static const double negative_slack = 1e-6;

/* LAPACK's order is ascending. */
void lr__directions_reverse(double *vectors, double *energy, int64_t count) {
    for (int64_t i = 0, j = count - 1; i < j; i++, j--) {
        double *a = vectors + i * count, *b = vectors + j * count, first = energy[i];
        energy[i] = energy[j];
        energy[j] = first;
        for (int64_t c = 0; c < count; c++) {
            double kept = a[c];
            a[c] = b[c];
            b[c] = kept;
        }
    }
}

lr_status lr__directions_pca(lr__directions *out, const lr__factor_core *core,
                             const lr__factor_norm *norm, double floor) {
    lr_status status = LR_OK;
    int64_t count = core->rows;
    LR_TRY(lr__directions_new(out, count));
    LR_TRY(lr__factor_norm_output(out->vectors, norm, core->k, count));
    for (int64_t i = 0; i < count; i++) out->total += out->vectors[i * count + i];
    LR_TRY(lr__dsyevd(count, out->vectors, out->energy));
    lr__directions_reverse(out->vectors, out->energy, count);
    double largest = out->energy[0], least = out->energy[count - 1];
    LR_FAIL_IF(least < -negative_slack * largest - floor, LR_E_INVALID,
               "Gram is not positive semidefinite: output moment %g beside %g", least, largest);
    double noise = DBL_EPSILON * (double)core->in * largest;
    while (out->known < count && out->energy[out->known] > noise) out->known++;
done:
    if (status < 0) lr__directions_clear(out);
    return status;
}

lr_status lr__factor_spectrum(double *out, const lr__factor_problem *problem) {
    lr_status status = LR_OK;
    lr__factor_core core = {0};
    lr__factor_norm norm = {0};
    double *moments = NULL;
    int32_t method = problem->gram ? LR__FACTOR_PCA : LR__FACTOR_SVD;
    lr__blas_enter();
    LR_TRY(lr__factor_check(problem, method));
    LR_TRY(lr__factor_core_new(&core, problem));
    LR_TRY(lr__new_aligned(&moments, (size_t)core.rows * (size_t)core.rows, sizeof *moments));
    LR_TRY(lr__factor_norm_new(&norm, problem, method));
    LR_TRY(lr__factor_norm_output(moments, &norm, core.k, core.rows));
    LR_TRY(lr__deigenvalues(core.rows, moments, out));
    for (int64_t i = 0, j = core.rows - 1; i <= j; i++, j--) {
        double least = fmax(out[i], 0);
        out[i] = fmax(out[j], 0);
        out[j] = least;
    }
done:
    lr__blas_leave();
    lr__aligned_free(moments);
    lr__factor_norm_clear(&norm);
    lr__factor_core_clear(&core);
    return lr__factor_named(status, problem);
}
