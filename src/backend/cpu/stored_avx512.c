/* Stored types to binary32 in vectors of sixteen; see stored_avx2.c. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/avx512.h"
#include "backend/cpu/plain.h"

#include "tensor/dtype.h"

#if defined(__x86_64__)

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

AVX512_INLINE void put_four(float *to, int64_t valid, __m128 sum) {
    _mm_mask_storeu_ps(to, (__mmask8)avx512_mask(valid), sum);
}

/* Returns how many numbers it has done. */
AVX512 static size_t widen_f64(const unsigned char *src, size_t n, float *dst) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm512_cvtpd_ps(_mm512_loadu_pd(src + 8 * i)));
    return i;
}

#define LEVEL AVX512
#define LEVEL_INLINE AVX512_INLINE
#define VECTOR __m512
#define LANES 16
#define zero _mm512_setzero_ps
#define get avx512_get
#define put avx512_put
#define hold avx512_hold
#define multiply_add _mm512_fmadd_ps
#define sum_four avx512_sum_four
#include "backend/cpu/stored_rows.h"

void lr__dot_stored_avx512(const lr__stored_task *task) { dot_stored(task); }

void lr__widen_avx512(int32_t dtype, const void *src, size_t n, float *dst) {
    widen(dtype, src, n, dst);
}

#endif
