/* Y = scale * X W' for a stored W of any type, widened block by block, and its derivatives. */
#ifndef LR_BACKEND_MATMUL_H
#define LR_BACKEND_MATMUL_H

#include "backend/device.h"
#include "base/arena.h"

/* A matrix as it is stored, row-major. */
typedef struct lr__matrix {
    int32_t dtype; /* lowrank/tensor.h; LR_I8 needs scales */
    int64_t rows, cols;
    const void *data;
    const void *scales; /* binary16 [rows, ceil(cols / 32)] for LR_I8, else NULL */
} lr__matrix;

/* Rows [row, row + rows) as a matrix of their own. */
lr__matrix lr__matrix_rows(const lr__matrix *w, int64_t row, int64_t rows);

/* dst[i * ld + j] = W[row + i][j] for i < rows, j < cols. */
void lr__matrix_widen(const lr__kernels *kernels, const lr__matrix *w, int64_t row, int64_t rows,
                      int64_t cols, float *dst, int64_t ld);

typedef struct lr__matmul {
    const lr__matrix *w;
    int64_t out, in;     /* extents in use: the leading part of w */
    const int32_t *take; /* rows of w that make the outputs; NULL: the first `out` */
    int64_t take_limit;  /* rows from here on count as zeros */
    int64_t tokens;
    const float *x; /* [tokens, in], step ldx */
    int64_t ldx;
    float *y; /* [tokens, out], step ldy */
    int64_t ldy;
    float scale;
    int32_t accumulate; /* adds to y */
    int32_t batch;      /* packed panels, for many rows; else dot products over w as it lies */
} lr__matmul;

lr_status lr__matmul_run(const lr__device *device, lr__arena *arena, const lr__matmul *m);

/* Of a loss by X and by W, given dY, its derivative by Y; sizes, take and scale as forward. */
typedef struct lr__matmul_backward {
    const lr__matrix *w;
    int64_t out, in;
    const int32_t *take;
    int64_t take_limit;
    int64_t tokens;
    const float *x; /* needed for dw alone */
    int64_t ldx;
    const float *dy; /* [tokens, out], step lddy */
    int64_t lddy;
    float scale;
    float *dx; /* [tokens, in], step lddx; NULL: not wanted */
    int64_t lddx;
    int32_t accumulate; /* adds to dx */
    float *dw;          /* [rows, cols] of w; NULL: not wanted */
    int32_t dw_adds;    /* adds to dw; else all of w takes part and dw is written */
} lr__matmul_backward;

/* Each sum runs up its axis in the same order whatever the threads. */
lr_status lr__matmul_backward_run(const lr__device *device, lr__arena *arena,
                                  const lr__matmul_backward *m);

#endif
