/*
 * Low-rank factors of one matrix W [out, in] from the second moments of its input: pure
 * mathematics on arrays in binary64. C is the uncentred Gram of the inputs divided by the number
 * of tokens, mu their mean. left [out, rank] times right [rank, in] approximates W.
 *
 *   LR__FACTOR_SVD         min |W - W~|_F                     plain truncated SVD
 *   LR__FACTOR_WHITEN      min |(W - W~) X|_F, C = L L'       SVD-LLM, arXiv 2403.07378
 *   LR__FACTOR_WHITEN_EIG  the same through eigenvectors of C SVD-LLM v2, arXiv 2503.12340
 *   LR__FACTOR_PCA         the same through output moments    AFM uncentred; Swift-SVD 2604.01609
 *   LR__FACTOR_AFM         centred, with a new bias           Yu & Wu, AAAI 2023
 *   LR__FACTOR_ASVD        min |(W - W~) diag(s)|_F           ASVD, arXiv 2312.05821
 *   LR__FACTOR_QR          min |(W - W~) L|_F, C = L L', from the inputs' own triangle L without
 *                          squaring them                      COALA, arXiv 2507.07580
 *
 * All of them give W~ = U_r U_r' W with orthonormal U and differ in the moments U diagonalises and
 * in the way there, so nothing is ever inverted, U_r is nested in r, and rank min(out, in) is W
 * itself, whatever C is. What a factor costs and saves is exact for any orthonormal U:
 * loss(r) = total - sum over i < r of u_i' W C W' u_i.
 * PCA, AFM and QR have left = U_r; the others split each component evenly, |left column| = |right
 * row|.
 *
 * A problem may weigh errors of the outputs too, tr(H H' E M E') for a method of norm tr(E M E')
 * (two-sided: FWSVD and IWSVD by diagonals, KFAC-SVD, LEMS ICML 2026). It is then the one-sided
 * problem of Z = H' W, and W~ = H'^-1 U_r U_r' H' W: the same nested U_r, full rank is W again, and
 * all said here holds for Z. H has to be invertible and well conditioned, which shrinkage and
 * floors see to; factors are split evenly.
 *
 * Any number of threads may work on different problems or on different ranks of one basis.
 */
#ifndef LR_COMPRESS_FACTOR_H
#define LR_COMPRESS_FACTOR_H

#include "base/mem.h"

enum {
    LR__FACTOR_SVD,
    LR__FACTOR_WHITEN,
    LR__FACTOR_WHITEN_EIG,
    LR__FACTOR_PCA,
    LR__FACTOR_AFM,
    LR__FACTOR_ASVD,
    LR__FACTOR_QR
};

typedef struct lr__factor_problem {
    int64_t out, in;
    const float *weight;     /* [out, in] row-major */
    const double *gram;      /* C [in, in], full and symmetric; not for SVD, ASVD and QR */
    const double *mean;      /* mu [in]; LR__FACTOR_AFM only */
    const float *bias;       /* [out] or NULL; LR__FACTOR_AFM only */
    const char *name;        /* module, for messages */
    const double *scale;     /* s [in], 0 or more; LR__FACTOR_ASVD only */
    const double *root;      /* L [in, in], zero above the diagonal; LR__FACTOR_QR only */
    const double *out_scale; /* H = diag(out_scale) [out], above 0; not for AFM. NULL: none */
    const double *out_root;  /* or H [out, out], zero above a positive diagonal */
} lr__factor_problem;

/* One decomposition serves every rank: `basis` holds all directions in descending order of the
 * loss they save. Those that C knows nothing of come last, ordered by the weight they carry. It
 * keeps no pointer into the problem and (out + in) min(out, in) numbers. */
typedef struct lr__factor_basis lr__factor_basis;

typedef struct lr__factors {
    int64_t rank;
    float *left;      /* [out, rank] aligned, owned */
    float *right;     /* [rank, in] aligned, owned */
    float *bias;      /* [out] aligned, owned; NULL unless LR__FACTOR_AFM */
    double predicted; /* loss from the tail of the spectrum; in the norm the method minimises,
                         centred for LR__FACTOR_AFM, never damped */
    double measured;  /* the same norm recomputed from E = W - left*right in binary64, before
                         rounding to binary32 */
    double total;     /* loss of rank 0: tr(W C W'), or what the method has for C */
} lr__factors;

/* LR_E_NUMERIC for a number that is not finite; LR_E_INVALID for a Gram that is not symmetric and
 * positive semidefinite, or a mean that does not belong to it. */
lr_status lr__factor_basis_new(lr__factor_basis **out, const lr__factor_problem *problem,
                               int32_t method);
/* Randomised truncation: subspace iteration from columns that depend on the seed and the shape. */
enum { LR__SKETCH_FROM = 8192, LR__SKETCH_ROUNDS = 4 };
typedef struct lr__factor_sketch {
    int32_t use; /* 1: wherever the rank is small enough for it, 0: from min(out, in) =
                    LR__SKETCH_FROM on, -1: never */
    uint64_t seed;
} lr__factor_sketch;
/* The same for cuts up to `rank` only, by a sketch where `sketch` says so: fewer directions, near
 * the best ones. */
lr_status lr__factor_basis_sketch(lr__factor_basis **out, const lr__factor_problem *problem,
                                  int32_t method, int64_t rank, const lr__factor_sketch *sketch);
void lr__factor_basis_free(lr__factor_basis *basis);
/* Energy saved by each further rank, descending, min(out, in) numbers; borrowed. */
const double *lr__factor_basis_spectrum(const lr__factor_basis *basis, int64_t *count);
/* The same for LR__FACTOR_PCA, or without a Gram for LR__FACTOR_SVD, from the eigenvalues alone;
 * room for min(out, in) numbers. */
lr_status lr__factor_spectrum(double *out, const lr__factor_problem *problem);
/* Cuts at `rank` (1 .. min(out, in)). |predicted - measured| > 1e-6 total is LR_E_NUMERIC, but
 * for a total that is itself lost in the rounding of |W|_F^2 tr(C). */
lr_status lr__factor_basis_cut(lr__factors *out, const lr__factor_basis *basis,
                               const lr__factor_problem *problem, int64_t rank);
void lr__factors_clear(lr__factors *factors);

/* Whether left has orthonormal columns, without an H; else each component is split evenly. */
int32_t lr__factor_is_orthonormal(int32_t method);

/* tr((W - W~) C (W - W~)') for W~ = left*right, in binary64; with a mean C - mu mu' takes its
 * place; without C L L', diag(s)^2 or the identity, whichever is there; with H H' before it. */
lr_status lr__factor_loss(double *out, const lr__factor_problem *problem, int64_t rank,
                          const float *left, const float *right);

#endif
