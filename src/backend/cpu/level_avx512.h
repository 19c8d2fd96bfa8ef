/* The AVX-512 forms that have files of their own. */
#ifndef LR_BACKEND_CPU_LEVEL_AVX512_H
#define LR_BACKEND_CPU_LEVEL_AVX512_H

#include "backend/kernels.h"

void lr__widen_avx512(int32_t dtype, const void *src, size_t n, float *dst);
void lr__narrow_avx512(int32_t dtype, const float *src, size_t n, void *dst);

void lr__dot_tile_avx512(int64_t rows, int64_t outs, int64_t k, const float *x, int64_t ldx,
                         const float *w, int64_t ldw, float *y, int64_t ldy);

void lr__dot_stored_avx512(const lr__stored_task *task);
void lr__multiply_panels_avx512(const lr__panel_task *task);
void lr__multiply_pairs_avx512(const lr__panel_task *task);
void lr__multiply_pairs_avx512bf16(const lr__panel_task *task);
void lr__pack_avx512(int64_t cols, int64_t depth, const float *w, int64_t ldw, float *panels);

void lr__scale_avx512(int64_t n, float scale, const float *x, float *y);
void lr__axpy_avx512(int64_t n, float scale, const float *x, float *y);
void lr__multiply_avx512(int64_t n, const float *x, float *y);
float lr__max_avx512(int64_t n, const float *x);
double lr__exp_sum_avx512(int64_t n, const float *x, float shift, float *y);

int lr__adamw_avx512(const lr__adamw_task *task);
int lr__sgd_avx512(const lr__sgd_task *task);
double lr__squares_avx512(int64_t n, const float *x);

void lr__rmsnorm_backward_avx512(int64_t n, const float *x, const float *weight, float epsilon,
                                 const float *dy, float *dx, float *dweight);
void lr__swiglu_backward_avx512(int64_t n, const float *gate, const float *up, const float *dout,
                                float *dgate, float *dup);

void lr__attend_avx512(int64_t count, int64_t dim, const float *q, const float *keys, int64_t ldk,
                       const float *values, int64_t ldv, float scale, float *scores, float *out);
void lr__attend_block_avx512(const lr__attend_task *task);
void lr__attend_backward_avx512(const lr__attend_backward_task *task);

#endif
