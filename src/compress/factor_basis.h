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

/* The M of the norm tr(E M E') that a method minimises; the identity when nothing is set. */
typedef struct lr__factor_norm {
    int64_t in;
    const double *gram;  /* M */
    const double *root;  /* lower triangle L, M = L L' */
    const double *scale; /* M = diag(scale)^2 */
    double *owned;       /* what gram points to, when that is C - mu mu' */
} lr__factor_norm;

/* Orthonormal directions in the output space of a core. */
typedef struct lr__directions {
    double *vectors; /* [rows, rows], a direction in each row */
    double *energy;  /* [rows] u' K C K' u, descending */
    double total;    /* their sum, computed before them */
    int64_t known;   /* leading directions whose energy stands above rounding */
    double damping;  /* share of diag(C) added before the decomposition */
} lr__directions;

/* The H of a problem's outputs; the identity when nothing is set. Borrows from the problem. */
typedef struct lr__factor_side {
    int64_t out;
    const double *scale; /* H = diag(scale) */
    const double *root;  /* lower triangle H */
} lr__factor_side;

struct lr__factor_basis {
    int32_t method;
    int64_t out, in, count; /* count = min(out, in), or less of a sketch */
    double *left;           /* [count, out]: columns of the left factor, one after another */
    double *right;          /* [count, in] */
    double *spectrum;       /* [count] */
    double total;
    double rest;    /* of total, in directions a sketch does not hold */
    double floor;   /* rounding error of a loss: the tolerance when total is smaller */
    double damping; /* of LR__FACTOR_WHITEN; 0 when C was positive definite as it stood */
};

/* factor_problem.c. Messages name what is wrong; the entry points of factor.c name the module. */
lr_status lr__factor_check(const lr__factor_problem *problem, int32_t method);
/* Puts the module before the message. */
lr_status lr__factor_named(lr_status status, const lr__factor_problem *problem);
/* Number `row` of b~ = b + (W - W~) mu, which keeps the mean of the outputs; `e` is that row of
 * W - W~. */
float lr__factor_shifted(const lr__factor_problem *problem, int64_t row, const double *e);
/* W as binary64 [out, in]; aligned, owned. */
lr_status lr__factor_weight(double **out, const lr__factor_problem *problem);
/* H' W as binary64 [out, in]; aligned, owned. */
lr_status lr__factor_turned(double **out, const lr__factor_problem *problem);
/* C - mu mu' [in, in]; aligned, owned. */
lr_status lr__factor_centred(double **out, const lr__factor_problem *problem);
lr_status lr__factor_core_new(lr__factor_core *core, const lr__factor_problem *problem);
void lr__factor_core_clear(lr__factor_core *core);
/* 64 eps tr(H H') |W|_F^2 tr(M): below it a loss is rounding. */
double lr__factor_floor(const lr__factor_problem *problem, int32_t method);

/* factor_side.c. */
lr__factor_side lr__factor_side_of(const lr__factor_problem *problem);
int32_t lr__factor_side_is_identity(const lr__factor_side *side);
lr_status lr__factor_side_check(const lr__factor_problem *problem);
/* tr(H H'), without an H 1. */
double lr__factor_side_trace(const lr__factor_side *side);
/* A [out, cols] becomes H' A, or H'^-1 A. */
lr_status lr__factor_side_turn(const lr__factor_side *side, int64_t cols, double *a);
lr_status lr__factor_side_return(const lr__factor_side *side, int64_t cols, double *a);
/* The same for the transpose: A [rows, out] becomes A H^-1. */
lr_status lr__factor_side_return_rows(const lr__factor_side *side, int64_t rows, double *a);

/* factor_norm.c. The norm borrows from the problem, which was checked for this method. */
lr_status lr__factor_norm_new(lr__factor_norm *norm, const lr__factor_problem *problem,
                              int32_t method);
void lr__factor_norm_clear(lr__factor_norm *norm);
/* tr(E M E') of E [rows, in]; LR_E_NUMERIC when it is not finite. */
lr_status lr__factor_norm_of(double *out, const lr__factor_norm *norm, const double *e,
                             int64_t rows);
/* out [rows, in] = A M. */
lr_status lr__factor_norm_apply(double *out, const lr__factor_norm *norm, const double *a,
                                int64_t rows);
/* g [rows, rows] = K M K', the lower triangle at least. */
lr_status lr__factor_norm_output(double *g, const lr__factor_norm *norm, const double *k,
                                 int64_t rows);

/* factor_pca.c: eigenvectors of K M K'. */
lr_status lr__directions_pca(lr__directions *out, const lr__factor_core *core,
                             const lr__factor_norm *norm, double floor);
/* factor_whiten.c: left singular vectors of K S with S S' = C, S a Cholesky factor or, for
 * `use_eigen`, eigenvectors scaled. */
lr_status lr__directions_whiten(lr__directions *out, const lr__factor_core *core,
                                const double *moment, int32_t use_eigen);
/* The same with S = L as it stands, lower triangular. */
lr_status lr__directions_root(lr__directions *out, const lr__factor_core *core, const double *root);
/* From ascending order to descending; a direction in each row. */
void lr__directions_reverse(double *vectors, double *energy, int64_t count);
/* factor_sketch.c: everything of a basis but what its method and shape say. */
int32_t lr__factor_sketch_applies(const lr__factor_problem *problem, int64_t rank,
                                  const lr__factor_sketch *sketch);
lr_status lr__factor_sketch_fill(lr__factor_basis *basis, const lr__factor_problem *problem,
                                 int64_t rank, const lr__factor_sketch *sketch);
lr_status lr__directions_new(lr__directions *directions, int64_t rows);
void lr__directions_clear(lr__directions *directions);

#endif
