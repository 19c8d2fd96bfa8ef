/*
 * Inner loops, one table for each instruction level. The plain C form is the oracle of the tests;
 * each faster form is chosen at run time (cpu/dispatch.c), never above $LOWRANK_MAX_ISA
 * (c | avx2 | avx512). All arithmetic is binary32 in an order that depends on the sizes along the
 * reduced axis only, so the result for one row never depends on how many rows are computed (the
 * payload of a NaN aside). Arrays need no alignment beyond their element's. No kernel writes
 * outside its output or reads outside its input.
 */
#ifndef LR_BACKEND_KERNELS_H
#define LR_BACKEND_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* Consecutive queries of one head: query i, of absolute position first + i, sees the keys and
 * values 0 .. first + i. `scratch` holds LR__ATTEND_SCRATCH(queries, first) numbers. */
typedef struct lr__attend_task {
    int64_t queries;
    int64_t first;
    int64_t dim;
    const float *q; /* [queries][dim], rows ldq apart */
    int64_t ldq;
    const float *keys; /* [first + queries][dim], rows ldk apart */
    int64_t ldk;
    const float *values;
    int64_t ldv;
    float scale;
    float *out; /* [queries][dim], rows ldo apart */
    int64_t ldo;
    float *scratch;
} lr__attend_task;

/* Queries whose scores are held at once, and the numbers that takes. */
#define LR__ATTEND_QUERIES 64
#define LR__ATTEND_SCRATCH(queries, first) \
    (((queries) < LR__ATTEND_QUERIES ? (queries) : LR__ATTEND_QUERIES) * ((first) + (queries)))

/* Derivatives of attention along q, keys and values, of one head: `of` as it went forward (`out` is
 * not read), each derivative with the step of rows of what it belongs to. `of.scratch` holds
 * LR__ATTEND_BACKWARD_SCRATCH(queries, keys) numbers for the `keys` that one block of queries sees:
 * first + queries, or with a window at most window + LR__ATTEND_QUERIES - 1. */
typedef struct lr__attend_backward_task {
    lr__attend_task of;
    int64_t window;    /* query i sees the last `window` of its keys; 0: all */
    const float *dout; /* rows of.ldo apart */
    float *dq;         /* written */
    float *dkeys;      /* added to, as dvalues */
    float *dvalues;
} lr__attend_backward_task;

#define LR__ATTEND_BACKWARD_SCRATCH(queries, keys) \
    (2 * ((queries) < LR__ATTEND_QUERIES ? (queries) : LR__ATTEND_QUERIES) * ((keys) + 32))

/* One row against weights as they are stored, in one of LR_F32, BF16, F16, I8, Q8_0, Q4_1: for few
 * rows memory sets the time, and widening in registers keeps it streaming. */
typedef struct lr__stored_task {
    int32_t dtype;
    int64_t outs;
    int64_t k;      /* a multiple of 32 for the block types */
    const float *x; /* [k] */
    const void *w;  /* [outs] rows, row_bytes apart */
    int64_t row_bytes;
    const int32_t *take; /* [outs] rows of w that make the outputs; NULL: the first ones */
    const void *scales;  /* LR_I8: binary16, one for 32 numbers; rows scale_bytes apart */
    int64_t scale_bytes;
    float *y; /* [outs] */
} lr__stored_task;

/* A product with a packed right side: y = x B, or added to y. B [depth, cols] lies in panels of
 * `panel_columns` columns, one behind the other, each [depth, panel_columns] row-major; the last
 * one is as wide in memory, whatever of it is in use. */
typedef struct lr__panel_task {
    int64_t rows;
    int64_t cols;
    int64_t depth;
    const float *x; /* [rows][depth], rows ldx apart */
    int64_t ldx;
    const float *panels;
    float *y; /* [rows][cols], rows ldy apart */
    int64_t ldy;
    int add;
} lr__panel_task;

typedef void (*lr__panels_fn)(const lr__panel_task *task);

/* A step of AdamW over n numbers w with the running means m of g = scale * gradient and v of g^2:
 * m = beta1 m + fresh1 g, v = beta2 v + fresh2 g^2, w = kept w - rate m / (spread sqrt(v) +
 * epsilon).
 */
typedef struct lr__adamw_task {
    int64_t n;
    float *w, *m, *v;
    const float *gradient;
    float scale;
    float beta1, fresh1, beta2, fresh2;
    float kept, rate, spread, epsilon;
} lr__adamw_task;

/* A step of SGD with g = scale * gradient + decay w: v = momentum v + g, w -= rate v; with g in
 * place of v where v is NULL. */
typedef struct lr__sgd_task {
    int64_t n;
    float *w, *v;
    const float *gradient;
    float scale, decay, momentum, rate;
} lr__sgd_task;

typedef struct lr__kernels {
    const char *name; /* "c", "avx2", "avx512" */

    /* dst[0..n) = src as binary32; src of a floating or block type (lowrank/tensor.h). For block
     * types src is at a block's start; n need not be whole blocks. */
    void (*widen)(int32_t dtype, const void *src, size_t n, float *dst);
    /* The reverse, rounding to nearest even, for LR_F32, F16, BF16. NaN stays NaN; values beyond
     * binary16 become infinities. Other types write nothing, here as in widen. Both give the same
     * bits at every level, and take src and dst of any alignment. */
    void (*narrow)(int32_t dtype, const float *src, size_t n, void *dst);

    /* y[r * ldy + o] = sum over i of x[r * ldx + i] * w[o * ldw + i], for r < rows, o < outs,
     * i < k. Row-invariant: the bits of y[r][o] depend on x[r], w[o] and k alone. */
    void (*dot_tile)(int64_t rows, int64_t outs, int64_t k, const float *x, int64_t ldx,
                     const float *w, int64_t ldw, float *y, int64_t ldy);

    /* The same bits as widen, then dot_tile. */
    void (*dot_stored)(const lr__stored_task *task);

    /* Many rows against weights in panels, few enough that the second-level cache holds them.
     * Row-invariant too, by sums that run up the depth: other bits than dot_tile's. */
    lr__panels_fn multiply_panels;
    /* Panels of W' for W [cols][depth], rows ldw apart: what multiply_panels reads as B. */
    void (*pack)(int64_t cols, int64_t depth, const float *w, int64_t ldw, float *panels);
    int64_t panel_columns;
    /* dst[c * ldd + r] = src[r * lds + c] for r < rows, c < cols. */
    void (*transpose)(int64_t rows, int64_t cols, const float *src, int64_t lds, float *dst,
                      int64_t ldd);

    /* y = x * weight / sqrt(mean(x^2) + epsilon); sum of squares in binary64. x and y may be the
     * same array. */
    void (*rmsnorm)(int64_t n, const float *x, const float *weight, float epsilon, float *y);

    /* dx += the derivative along x of rmsnorm's y, and dweight += the one along weight: dy * x over
     * the root of the mean square. Sums over the row in binary64; dweight may be NULL. dx and
     * dweight are no other array of the call. */
    void (*rmsnorm_backward)(int64_t n, const float *x, const float *weight, float epsilon,
                             const float *dy, float *dx, float *dweight);

    /* Rotates x[0..n) in place, pairs (i, i + n/2), by angles whose cosines and sines are given
     * for i < n/2 (the Hugging Face order). Backward is the rotation by negated sines. */
    void (*rope)(int64_t n, const float *cosine, const float *sine, float *x);

    /* out = silu(gate) * up; out may be gate or up. */
    void (*swiglu)(int64_t n, const float *gate, const float *up, float *out);

    /* Writes the derivatives of swiglu along gate and up, from dout, the one along its output. Each
     * of dgate and dup may be any of gate, up, dout. */
    void (*swiglu_backward)(int64_t n, const float *gate, const float *up, const float *dout,
                            float *dgate, float *dup);

    /* Whether w and v stayed finite. The same bits at every level. */
    int (*adamw)(const lr__adamw_task *task);
    /* Whether w stayed finite; the same bits at every level. */
    int (*sgd)(const lr__sgd_task *task);
    /* Sum of x^2 in binary64, not finite where an x is not; the same bits at every level. */
    double (*squares)(int64_t n, const float *x);

    /* y += scale * x */
    void (*axpy)(int64_t n, float scale, const float *x, float *y);
    /* y = scale * x, and y *= x */
    void (*scale)(int64_t n, float scale, const float *x, float *y);
    void (*multiply)(int64_t n, const float *x, float *y);

    float (*max)(int64_t n, const float *x); /* -inf for n = 0; NaN when any x is NaN */
    /* Writes exp(x - shift) to y (may be x) and returns the sum; exp accurate to 2 ulp, exact 0
     * for arguments below -104. */
    double (*exp_sum)(int64_t n, const float *x, float shift, float *y);

    /* One query of attention against `count` keys and values of one head: scores = scale * q.k,
     * softmax, out = sum of p * v. `scores` is scratch for `count` numbers, count >= 1.
     * Row-invariant. */
    void (*attend)(int64_t count, int64_t dim, const float *q, const float *keys, int64_t ldk,
                   const float *values, int64_t ldv, float scale, float *scores, float *out);

    /* Causal attention for throughput (perplexity, training): scores by tiles. Deterministic, but
     * a query's bits depend on its place in the block. */
    void (*attend_block)(const lr__attend_task *task);
    /* Softmax is made again from the scores. Every number given must be finite: what a query does
     * not see may be multiplied by zeros. */
    void (*attend_backward)(const lr__attend_backward_task *task);
} lr__kernels;

/* The table for this machine and $LOWRANK_MAX_ISA; filled once. */
const lr__kernels *lr__kernels_best(void);
/* multiply_panels where each word of x and of the panels is a pair of BF16 numbers, the earlier one
 * in its lower half: depth, ldx and the panels count words. Sums are binary32, rounded once or
 * twice for each product; row-invariant. NULL where the processor lacks AVX512-BF16 or the level is
 * below avx512; $LOWRANK_BF16 = plain takes a form that every AVX-512 processor runs, for tests. */
lr__panels_fn lr__multiply_pairs_best(void);
/* A level by name, NULL when this machine lacks it: for tests. */
const lr__kernels *lr__kernels_named(const char *name);

/* cpu/kernels_c.c, kernels_avx2.c, kernels_avx512.c: fill the slots they have. */
void lr__kernels_fill_c(lr__kernels *table);
void lr__kernels_fill_avx2(lr__kernels *table);
void lr__kernels_fill_avx512(lr__kernels *table);

#endif
