/* What the plain C kernels lend to the faster forms: conversions for the ends of arrays. */
#ifndef LR_BACKEND_CPU_PLAIN_H
#define LR_BACKEND_CPU_PLAIN_H

#include "backend/kernels.h"

enum {
    LR__BLOCK = 32,      /* values of a GGUF block */
    LR__Q8_0_BYTES = 34, /* binary16 scale, 32 signed bytes */
    LR__Q4_1_BYTES = 20  /* binary16 scale and minimum, 16 bytes of nibbles */
};

float lr__half_widen(uint16_t half);
uint16_t lr__half_narrow(float value);

void lr__widen_c(int32_t dtype, const void *src, size_t n, float *dst);
/* The block types that no level has a faster form for; widen_blocks.c. */
void lr__widen_blocks(int32_t dtype, const unsigned char *block, size_t n, float *dst);
void lr__narrow_c(int32_t dtype, const float *src, size_t n, void *dst);

#endif
