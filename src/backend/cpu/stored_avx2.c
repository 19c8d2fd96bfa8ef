/* dot_stored in vectors of eight. Each number is widened by the arithmetic of widen and joins its
 * sum in the order of dot_tile, so that the bits are theirs. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx2.h"
#include "backend/cpu/plain.h"

#include "tensor/dtype.h"

#if defined(__x86_64__)

#include <string.h>

enum { OUTS = 4, PARTS = LR__BLOCK / 8 };

AVX2_INLINE __m256 half_of(const void *at) {
    const unsigned char *bytes = at;
    return _mm256_cvtph_ps(_mm_set1_epi16((short)(bytes[0] | bytes[1] << 8)));
}

AVX2_INLINE __m256 levels(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }

/* Eight numbers of `size` bytes, or the `left` that exist and zeros. */
AVX2_INLINE __m128i get_narrow(const unsigned char *from, int64_t size, int64_t left) {
    unsigned char rest[16] = {0};
    if (left >= 8)
        return size == 2 ? _mm_loadu_si128((const void *)from)
                         : _mm_loadl_epi64((const void *)from);
    memcpy(rest, from, (size_t)(left * size));
    return _mm_loadu_si128((const void *)rest);
}

/* Numbers i + 8 part .. of a row, as widen gives them; `left` of them exist, all in block types. */
AVX2_INLINE __m256 load(const int dtype, const int part, const unsigned char *row,
                        const unsigned char *scales, int64_t i, int64_t left) {
    int64_t at = i + 8 * part;
    if (dtype == LR_F32) return avx2_get((const float *)(const void *)row + at, left);
    if (dtype == LR_BF16 || dtype == LR_F16) {
        __m128i narrow = get_narrow(row + 2 * at, 2, left);
        if (dtype == LR_F16) return _mm256_cvtph_ps(narrow);
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
    }
    if (dtype == LR_I8)
        return _mm256_mul_ps(half_of(scales + i / LR__BLOCK * 2),
                             levels(get_narrow(row + at, 1, left)));
    if (dtype == LR_Q8_0) {
        const unsigned char *block = row + i / LR__BLOCK * LR__Q8_0_BYTES;
        __m128i bytes = _mm_loadl_epi64((const void *)(block + 2 + 8 * part));
        return _mm256_mul_ps(half_of(block), levels(bytes));
    }
    const unsigned char *block = row + i / LR__BLOCK * LR__Q4_1_BYTES;
    __m128i bytes = _mm_loadl_epi64((const void *)(block + 4 + 8 * (part % 2)));
    __m128i nibbles = _mm_and_si128(part / 2 ? _mm_srli_epi16(bytes, 4) : bytes, _mm_set1_epi8(15));
    return _mm256_add_ps(_mm256_mul_ps(half_of(block), levels(nibbles)), half_of(block + 2));
}

/* The sum of one output, before its lanes are joined. */
AVX2_INLINE __m256 sum_row(const int dtype, const lr__stored_task *task, int64_t out) {
    const unsigned char *row = (const unsigned char *)task->w + out * task->row_bytes;
    const unsigned char *scales =
        dtype == LR_I8 ? (const unsigned char *)task->scales + out * task->scale_bytes : NULL;
    __m256 acc = _mm256_setzero_ps();
    int64_t i = 0, k = task->k;
    for (; i + LR__BLOCK <= k; i += LR__BLOCK) {
        lr__ask_ahead(dtype, row, i);
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++)
            acc = _mm256_fmadd_ps(avx2_get(task->x + i + 8 * part, 8),
                                  load(dtype, part, row, scales, i, 8), acc);
    }
#pragma GCC unroll 4
    for (int part = 0; part < PARTS; part++) {
        int64_t left = k - i - 8 * part;
        if (left > 0)
            acc = _mm256_fmadd_ps(avx2_get(task->x + i + 8 * part, left),
                                  load(dtype, part, row, scales, i, left), acc);
    }
    return acc;
}

/* Row after row, the order in which memory is read fastest; those past the last output repeat it
 * and are not stored. */
AVX2_INLINE void tile(const int dtype, const lr__stored_task *task, int64_t out) {
    int64_t valid = task->outs - out < OUTS ? task->outs - out : OUTS;
    __m256 acc[OUTS];
#pragma GCC unroll 4
    for (int o = 0; o < OUTS; o++)
        acc[o] = avx2_hold(sum_row(dtype, task, out + (o < valid ? o : valid - 1)));
    __m128 sum = avx2_sum_four(acc[0], acc[1], acc[2], acc[3]);
    _mm_maskstore_ps(task->y + out, _mm256_castsi256_si128(avx2_mask(valid)), sum);
}

#define RUN(dtype)                                                                \
    AVX2 static void run_##dtype(const lr__stored_task *task) {                   \
        for (int64_t o = 0; o < task->outs; o += OUTS) tile(LR_##dtype, task, o); \
    }
RUN(F32)
RUN(BF16)
RUN(F16)
RUN(I8)
RUN(Q8_0)
RUN(Q4_1)

void lr__dot_stored_avx2(const lr__stored_task *task) {
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
