/* What the files of compress/factor_*.c share: the problem in binary64 and the directions in it. */
#ifndef LR_COMPRESS_FACTOR_BASIS_H
#define LR_COMPRESS_FACTOR_BASIS_H

#include "compress/factor.h"

/* W = lift K with orthonormal columns in lift: what remains to be decomposed is the smaller side
 * of W. U of W is lift times U of K. */
typedef struct lr__factor_core {
    int64_t rows, in; /* rows = min(out, in) */
    double *k;        /* [rows, in] */
    double *lift;     /* [out, rows]; NULL is the identity, when out <= in */
} lr__factor_core;

/* Orthonormal directions in the output space of a core. */
typedef struct lr__directions {
    double *vectors; /* [rows, rows], a direction in each row */
    double *energy;  /* [rows] u' K C K' u, descending */
    double total;    /* their sum, computed before them */
    int64_t known;   /* leading directions whose energy stands above rounding */
    double damping;  /* share of diag(C) added before the decomposition */
} lr__directions;

struct lr__factor_basis {
    int32_t method;
    int64_t out, in, count; /* count = min(out, in) */
    double *left;           /* [count, out]: columns of the left factor, one after another */
    double *right;          /* [count, in] */
    double *spectrum;       /* [count] */
    double total;
    double floor;   /* rounding error of a loss: the tolerance when total is smaller */
    double damping; /* of LR__FACTOR_WHITEN; 0 when C was positive definite as it stood */
};

/* factor_problem.c. Messages name what is wrong; the entry points of factor.c name the module. */
lr_status lr__factor_check(const lr__factor_problem *problem, int32_t method);
/* W as binary64 [out, in]; aligned, owned. */
lr_status lr__factor_weight(double **out, const lr__factor_problem *problem);
/* C - mu mu' [in, in]; aligned, owned. */
lr_status lr__factor_centred(double **out, const lr__factor_problem *problem);
lr_status lr__factor_core_new(lr__factor_core *core, const lr__factor_problem *problem);
void lr__factor_core_clear(lr__factor_core *core);
/* 64 eps |W|_F^2 tr(C): below it a loss is rounding. */
double lr__factor_floor(const lr__factor_problem *problem, int32_t method);

/* factor_pca.c: eigenvectors of K C K'; moment NULL is the identity. */
lr_status lr__directions_pca(lr__directions *out, const lr__factor_core *core, const double *moment,
                             double floor);
/* factor_whiten.c: left singular vectors of K S with S S' = C, S a Cholesky factor or, for
 * `use_eigen`, eigenvectors scaled. */
lr_status lr__directions_whiten(lr__directions *out, const lr__factor_core *core,
                                const double *moment, int32_t use_eigen);
lr_status lr__directions_new(lr__directions *directions, int64_t rows);
void lr__directions_clear(lr__directions *directions);

#endif
