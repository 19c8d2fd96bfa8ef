/*
 * Dense linear algebra in binary64, row-major: a checked layer over CBLAS and the Fortran LAPACK
 * inside OpenBLAS. Sizes are checked against its 32-bit integers, workspace comes from
 * base/mem.h, and what a routine reports becomes LR_E_NUMERIC (it did not converge) or
 * LR_E_BACKEND (it refused its arguments), the routine named. Symmetric matrices are read and
 * written in the lower triangle only; the other one may hold anything.
 */
#ifndef LR_BACKEND_LAPACK_H
#define LR_BACKEND_LAPACK_H

#include "base/mem.h"

/* A matrix in someone else's memory, rows `step` numbers apart. */
typedef struct lr__dview {
    double *at;
    int64_t rows, cols, step;
    int32_t is_transposed; /* rows and cols are those of the transpose, step is as stored */
} lr__dview;

/* A contiguous matrix; arguments a routine only reads may be const. */
lr__dview lr__dview_of(const double *at, int64_t rows, int64_t cols);
lr__dview lr__dview_transpose(lr__dview view);

/* C = alpha A B + beta C; C is not transposed. */
lr_status lr__dgemm(double alpha, lr__dview a, lr__dview b, double beta, lr__dview c);
/* C [rows of A, same] = A A'. */
lr_status lr__dsyrk(lr__dview a, double *c);
/* B [rows, n] = B L, and B = B L^-1, for a lower triangular L [n, n]. */
lr_status lr__dtrmm(int64_t rows, int64_t n, const double *l, double *b);
lr_status lr__dtrsm(int64_t rows, int64_t n, const double *l, double *b);
/* B [n, cols] = L' B, and B = L'^-1 B. */
lr_status lr__dtrmm_left(int64_t n, int64_t cols, const double *l, double *b);
lr_status lr__dtrsm_left(int64_t n, int64_t cols, const double *l, double *b);

/* A [n, n] = L L', L over A. Not positive definite is no error: *failed is then the order of the
 * first leading minor that is not, else 0. */
lr_status lr__dpotrf(int64_t n, double *a, int64_t *failed);

/* Eigenvalues in ascending order; row i of `a` becomes the eigenvector of values[i]. */
lr_status lr__dsyevd(int64_t n, double *a, double *values);
/* The values alone; A is lost. */
lr_status lr__deigenvalues(int64_t n, double *a, double *values);

/* A [m, n] = U diag(s) V' with k = min(m, n): u [m, k], s [k] descending, vt [k, n]. A is lost. */
lr_status lr__dgesdd(int64_t m, int64_t n, double *a, double *s, double *u, double *vt);

/* A [m, n] = Q R, m >= n: Q over A, R [n, n] upper triangular with zeros below. */
lr_status lr__dqr(int64_t m, int64_t n, double *a, double *r);
/* The L [m, m] of A [m, n] = L Q, m <= n, lower triangular with zeros above. A is lost. */
lr_status lr__dlq(int64_t m, int64_t n, double *a, double *l);

/* [A | B] = [L | 0] Q for A [n, n] lower triangular and any B [n, k]: L over A, and what tells Q
 * over B and in t. Then [C | D] Q' over C [m, n] and D [m, k], for the B and t of such a fold.
 * t [n, LR__LQ_BLOCK], work as large, or [m, LR__LQ_BLOCK] to follow. */
enum { LR__LQ_BLOCK = 32 };
lr_status lr__dlq_fold(lr__dview a, lr__dview b, double *t, double *work);
lr_status lr__dlq_follow(lr__dview b, const double *t, lr__dview c, lr__dview d, double *work);

/* The order in which QR with column pivoting of A' takes the rows of A [m, n], m >= n: the first n
 * span the row space well. A is lost. */
lr_status lr__drow_order(int64_t m, int64_t n, double *a, int32_t *order);

/* B [rows, n] = B P^-1 for a general P [n, n], which is lost. LR_E_NUMERIC when P is singular. */
lr_status lr__dsolve(int64_t rows, int64_t n, double *p, double *b);

#endif
