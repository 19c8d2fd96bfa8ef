/* Loops around the register tiles, the same for every instruction level. A strip is a few rows (its
 * count is compiled in) against any number of outputs; strips[R] takes R rows. */
#ifndef LR_BACKEND_CPU_TILES_H
#define LR_BACKEND_CPU_TILES_H

#include "backend/kernels.h"

/* dot_tile of one strip. */
typedef void (*lr__dot_strip)(int64_t outs, int64_t k, const float *x, int64_t ldx, const float *w,
                              int64_t ldw, float *y, int64_t ldy);

/* y[r][c] = sum over p of a[r][p] * b[p][c], p upwards; added to y where `add` is set. */
typedef struct lr__mix_task {
    int64_t rows;
    int64_t cols;
    int64_t depth;
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb;
    float *y;
    int64_t ldy;
    int add;
} lr__mix_task;

typedef void (*lr__mix_strip)(const lr__mix_task *task);

void lr__dot_rows(const lr__dot_strip *strips, int64_t most, int64_t rows, int64_t outs, int64_t k,
                  const float *x, int64_t ldx, const float *w, int64_t ldw, float *y, int64_t ldy);
void lr__mix_rows(const lr__mix_strip *strips, int64_t most, const lr__mix_task *task);

/* The tiles of a level: strips[R] takes R rows, up to `most`. */
extern const lr__mix_strip lr__mix_strips_avx2[];
extern const lr__mix_strip lr__mix_strips_avx512[];
enum { LR__MIX_MOST = 6 };

/* lr__kernels.multiply_panels by these tiles, with panels of `width` columns. */
void lr__mix_panels(const lr__mix_strip *strips, int64_t most, int64_t width,
                    const lr__panel_task *task);

/* dst[c][r] = src[r][c] for r < rows, c < cols. */
typedef void (*lr__transpose_fn)(int64_t rows, int64_t cols, const float *src, int64_t lds,
                                 float *dst, int64_t ldd);

/* lr__kernels.pack by this transpose. */
void lr__pack_panels(lr__transpose_fn transpose, int64_t width, int64_t cols, int64_t depth,
                     const float *w, int64_t ldw, float *panels);

/* What attention is made of at one level: the slots filled so far, and its own tiles. */
typedef struct lr__attend_parts {
    const lr__mix_strip *mix; /* [mix_most + 1] */
    int64_t mix_most;
    lr__transpose_fn transpose;
    void (*dot_tile)(int64_t rows, int64_t outs, int64_t k, const float *x, int64_t ldx,
                     const float *w, int64_t ldw, float *y, int64_t ldy);
    void (*scale)(int64_t n, float scale, const float *x, float *y);
    void (*axpy)(int64_t n, float scale, const float *x, float *y);
    void (*multiply)(int64_t n, const float *x, float *y);
    float (*max)(int64_t n, const float *x);
    double (*exp_sum)(int64_t n, const float *x, float shift, float *y);
} lr__attend_parts;

enum { LR__PANEL = 64 }; /* keys, and dimensions, of a panel */

/* lr__mix_rows against b [cols][depth], for at most LR__PANEL columns. */
void lr__mix_transposed(const lr__attend_parts *parts, const lr__mix_task *task);

void lr__attend_one(const lr__attend_parts *parts, const lr__attend_task *task);
void lr__attend_many(const lr__attend_parts *parts, const lr__attend_task *task);
void lr__attend_many_backward(const lr__attend_parts *parts, const lr__attend_backward_task *task);

#endif
