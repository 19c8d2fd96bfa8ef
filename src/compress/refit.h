/*
 * Closed-form updates of one factor given the other, for E = W - left right in a norm tr(E M E')
 * (the alternating least squares of factor models; SVD-LLM, arXiv 2403.07378, section 3.3, takes
 * one of them):
 *
 *     left  += E M right' (right M right')^-1        right += (left' left)^-1 left' E
 *
 * Each is a step from where the factor stands, slightly damped, so it never raises the loss, adds
 * nothing at an optimum, and leaves alone what M says nothing of. Where errors of the outputs are
 * weighted too, by H H', all of this happens to H' W and H' left. Alternated they converge to the
 * optimum, one subspace iteration on W M W' in each round. The second holds for every M.
 */
#ifndef LR_COMPRESS_REFIT_H
#define LR_COMPRESS_REFIT_H

#include "backend/kernels.h"
#include "compress/factor_basis.h"
#include "compress/pivot.h"

typedef struct lr__refit {
    int64_t out, in, rank;
    const double *weight; /* W [out, in] */
    const lr__factor_norm *norm;
    double *left;                /* [out, rank] */
    double *right;               /* [rank, in] */
    const lr__factor_side *side; /* weight and left are those of H' y; NULL: as they are */
} lr__refit;

lr_status lr__refit_left(const lr__refit *r);
lr_status lr__refit_right(const lr__refit *r);
/* tr(E M E'). */
lr_status lr__refit_loss(double *out, const lr__refit *r);

typedef struct lr__refit_opts {
    int32_t method; /* of the norm, as in compress/factor.h */
    int32_t rounds; /* both factors, one after the other */
    int32_t dtype;  /* the type they will be stored in: right is rounded to it, left then updated;
                       LR_F32: neither */
    const lr__kernels *kernels;
} lr__refit_opts;

/* Refits the factors of a problem. *stored is their loss with both in `dtype`; a new bias, of
 * LR__FACTOR_AFM, follows them. LR_E_NUMERIC for numbers beyond `dtype`. */
lr_status lr__refit_factors(lr__factors *factors, const lr__factor_problem *problem,
                            const lr__refit_opts *opts, double *stored);
/* Rounds the rows of a pivot form and updates its mix; the rest as above, `rounds` aside. The bias
 * is that of `factors`. The mix makes up for what the rounded rows lose, where outputs are weighed
 * together, and *stored is the loss of the whole. */
lr_status lr__refit_pivot(lr__pivot *pivot, lr__factors *factors, const lr__factor_problem *problem,
                          const lr__refit_opts *opts, double *stored);

#endif
