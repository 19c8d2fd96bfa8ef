/* What the plain C kernels lend to the faster forms: conversions for the ends of arrays. */
#ifndef LR_BACKEND_CPU_PLAIN_H
#define LR_BACKEND_CPU_PLAIN_H

#include "backend/kernels.h"
#include "tensor/dtype.h"

enum {
    LR__BLOCK = 32,      /* values of a GGUF block */
    LR__Q8_0_BYTES = 34, /* binary16 scale, 32 signed bytes */
    LR__Q4_1_BYTES = 20  /* binary16 scale and minimum, 16 bytes of nibbles */
};

/* Bytes of a row that are asked for before they are read: processors lose a stream at the end of a
 * page. */
enum { LR__AHEAD = 2048 };

/* Before numbers i .. i + 31 of a row are read. An address past the end does no harm. */
static inline __attribute__((always_inline)) void lr__ask_ahead(int dtype, const unsigned char *row,
                                                                int64_t i) {
    const unsigned char *at = row + LR__AHEAD;
    switch (dtype) {
    case LR_F32:
        __builtin_prefetch(at + 4 * i);
        __builtin_prefetch(at + 4 * i + 64);
        break;
    case LR_I8: __builtin_prefetch(at + i); break;
    case LR_Q8_0: __builtin_prefetch(at + i / LR__BLOCK * LR__Q8_0_BYTES); break;
    case LR_Q4_1: __builtin_prefetch(at + i / LR__BLOCK * LR__Q4_1_BYTES); break;
    default: __builtin_prefetch(at + 2 * i); break;
    }
}

float lr__half_widen(uint16_t half);
uint16_t lr__half_narrow(float value);

void lr__widen_c(int32_t dtype, const void *src, size_t n, float *dst);
/* The block types that no level has a faster form for; widen_blocks.c. */
void lr__widen_blocks(int32_t dtype, const unsigned char *block, size_t n, float *dst);
void lr__narrow_c(int32_t dtype, const float *src, size_t n, void *dst);

int lr__adamw_c(const lr__adamw_task *task);
int lr__sgd_c(const lr__sgd_task *task);
double lr__squares_c(int64_t n, const float *x);

/* The lanes that squares are summed in, at every level, so that all give the same bits. */
enum { LR__SQUARE_LANES = 16 };
/* What is left of x behind the whole vectors, then the lanes in their order. */
static inline double lr__squares_end(int64_t left, const float *x, const double *lanes) {
    double sum = 0;
    for (int64_t i = 0; i < left; i++) sum += (double)x[i] * x[i];
    for (int k = 0; k < LR__SQUARE_LANES; k++) sum += lanes[k];
    return sum;
}

void lr__rmsnorm_backward_c(int64_t n, const float *x, const float *weight, float epsilon,
                            const float *dy, float *dx, float *dweight);
void lr__swiglu_backward_c(int64_t n, const float *gate, const float *up, const float *dout,
                           float *dgate, float *dup);
void lr__attend_backward_c(const lr__attend_backward_task *task);

#endif
