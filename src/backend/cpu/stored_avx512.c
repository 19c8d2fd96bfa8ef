/* dot_stored in vectors of sixteen; see stored_avx2.c. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/avx512.h"
#include "backend/cpu/plain.h"

#include "tensor/dtype.h"

#if defined(__x86_64__)

enum { OUTS = 4, PARTS = LR__BLOCK / 16 };

AVX512_INLINE __m512 half_of(const void *at) {
    const unsigned char *bytes = at;
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)(bytes[0] | bytes[1] << 8)));
}

AVX512_INLINE __m512 levels(__m128i bytes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

/* Numbers i + 16 part .. of a row, as widen gives them; `left` of them exist, all in block types.
 */
AVX512_INLINE __m512 load(const int dtype, const int part, const unsigned char *row,
                          const unsigned char *scales, int64_t i, int64_t left) {
    int64_t at = i + 16 * part;
    if (dtype == LR_F32) return avx512_get((const float *)(const void *)row + at, left);
    if (dtype == LR_BF16 || dtype == LR_F16) {
        __m256i narrow = _mm256_maskz_loadu_epi16(avx512_mask(left), row + 2 * at);
        if (dtype == LR_F16) return _mm512_cvtph_ps(narrow);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
    }
    if (dtype == LR_I8) {
        __m512 value = levels(_mm_maskz_loadu_epi8(avx512_mask(left), row + at));
        return _mm512_mul_ps(half_of(scales + i / LR__BLOCK * 2), value);
    }
    if (dtype == LR_Q8_0) {
        const unsigned char *block = row + i / LR__BLOCK * LR__Q8_0_BYTES;
        __m512 value = levels(_mm_loadu_si128((const void *)(block + 2 + 16 * part)));
        return _mm512_mul_ps(half_of(block), value);
    }
    const unsigned char *block = row + i / LR__BLOCK * LR__Q4_1_BYTES;
    __m128i bytes = _mm_loadu_si128((const void *)(block + 4));
    __m128i nibbles = _mm_and_si128(part ? _mm_srli_epi16(bytes, 4) : bytes, _mm_set1_epi8(15));
    __m512 value = _mm512_mul_ps(half_of(block), levels(nibbles));
    return _mm512_add_ps(value, half_of(block + 2));
}

/* The sum of one output, before its lanes are joined. */
AVX512_INLINE __m512 sum_row(const int dtype, const lr__stored_task *task, int64_t out) {
    const unsigned char *row = (const unsigned char *)task->w + out * task->row_bytes;
    const unsigned char *scales =
        dtype == LR_I8 ? (const unsigned char *)task->scales + out * task->scale_bytes : NULL;
    __m512 acc = _mm512_setzero_ps();
    int64_t i = 0, k = task->k;
    for (; i + LR__BLOCK <= k; i += LR__BLOCK) {
        lr__ask_ahead(dtype, row, i);
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++)
            acc = _mm512_fmadd_ps(avx512_get(task->x + i + 16 * part, 16),
                                  load(dtype, part, row, scales, i, 16), acc);
    }
#pragma GCC unroll 4
    for (int part = 0; part < PARTS; part++) {
        int64_t left = k - i - 16 * part;
        if (left > 0)
            acc = _mm512_fmadd_ps(avx512_get(task->x + i + 16 * part, left),
                                  load(dtype, part, row, scales, i, left), acc);
    }
    return acc;
}

/* Row after row, the order in which memory is read fastest; those past the last output repeat it
 * and are not stored. */
AVX512_INLINE void tile(const int dtype, const lr__stored_task *task, int64_t out) {
    int64_t valid = task->outs - out < OUTS ? task->outs - out : OUTS;
    __m512 acc[OUTS];
#pragma GCC unroll 4
    for (int o = 0; o < OUTS; o++)
        acc[o] = avx512_hold(sum_row(dtype, task, out + (o < valid ? o : valid - 1)));
    __m128 sum = avx512_sum_four(acc[0], acc[1], acc[2], acc[3]);
    _mm_mask_storeu_ps(task->y + out, (__mmask8)avx512_mask(valid), sum);
}

#define RUN(dtype)                                                                \
    AVX512 static void run_##dtype(const lr__stored_task *task) {                 \
        for (int64_t o = 0; o < task->outs; o += OUTS) tile(LR_##dtype, task, o); \
    }
RUN(F32)
RUN(BF16)
RUN(F16)
RUN(I8)
RUN(Q8_0)
RUN(Q4_1)

void lr__dot_stored_avx512(const lr__stored_task *task) {
    switch (task->dtype) {
    case LR_F32: run_F32(task); break;
    case LR_BF16: run_BF16(task); break;
    case LR_F16: run_F16(task); break;
    case LR_I8: run_I8(task); break;
    case LR_Q8_0: run_Q8_0(task); break;
    default: run_Q4_1(task); break;
    }
}

#endif
