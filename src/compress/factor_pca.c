/*
 * Principal components of the outputs: U diagonalises G = W C W', the second moments of y = W x.
 * W~ = U_r U_r' W is then the best rank r for |(W - W~) X|_F, at a loss of the smaller eigenvalues
 * (AFM: Yu & Wu, AAAI 2023; Swift-SVD: arXiv 2604.01609). The wide side is never decomposed: with
 * out > in, W = Q K and G = Q (K C K') Q'. With the identity for C it is the plain SVD.
 */
#include "compress/factor_basis.h"

#include "backend/lapack.h"

#include <float.h>

/* Rounding errors of G and C aside, a Gram has no eigenvalue below zero. */
static const double negative_slack = 1e-6;

static lr_status output_moments(double *g, const lr__factor_core *core, const double *moment) {
    lr_status status = LR_OK;
    double *p = NULL;
    lr__dview k = lr__dview_of(core->k, core->rows, core->in);
    if (!moment) return lr__dsyrk(k, g);
    LR_TRY(lr__new_aligned(&p, (size_t)core->rows * (size_t)core->in, sizeof *p));
    lr__dview product = lr__dview_of(p, core->rows, core->in);
    LR_TRY(lr__dgemm(1, k, lr__dview_of(moment, core->in, core->in), 0, product));
    LR_TRY(
        lr__dgemm(1, product, lr__dview_transpose(k), 0, lr__dview_of(g, core->rows, core->rows)));
done:
    lr__aligned_free(p);
    return status;
}

/* LAPACK's order is ascending. */
static void reverse(lr__directions *directions, int64_t count) {
    for (int64_t i = 0, j = count - 1; i < j; i++, j--) {
        double *a = directions->vectors + i * count, *b = directions->vectors + j * count;
        double energy = directions->energy[i];
        directions->energy[i] = directions->energy[j];
        directions->energy[j] = energy;
        for (int64_t c = 0; c < count; c++) {
            double kept = a[c];
            a[c] = b[c];
            b[c] = kept;
        }
    }
}

lr_status lr__directions_pca(lr__directions *out, const lr__factor_core *core, const double *moment,
                             double floor) {
    lr_status status = LR_OK;
    int64_t count = core->rows;
    LR_TRY(lr__directions_new(out, count));
    LR_TRY(output_moments(out->vectors, core, moment));
    for (int64_t i = 0; i < count; i++) out->total += out->vectors[i * count + i];
    LR_TRY(lr__dsyevd(count, out->vectors, out->energy));
    reverse(out, count);
    double largest = out->energy[0], least = out->energy[count - 1];
    LR_FAIL_IF(least < -negative_slack * largest - floor, LR_E_INVALID,
               "Gram is not positive semidefinite: output moment %g beside %g", least, largest);
    double noise = DBL_EPSILON * (double)core->in * largest;
    while (out->known < count && out->energy[out->known] > noise) out->known++;
done:
    if (status < 0) lr__directions_clear(out);
    return status;
}
