/* Stored types to binary32 in vectors of eight, into memory or straight into products. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx2.h"
#include "backend/cpu/plain.h"

#include "tensor/dtype.h"

#if defined(__x86_64__)

#include <string.h>

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

AVX2_INLINE void put_four(float *to, int64_t valid, __m128 sum) {
    _mm_maskstore_ps(to, _mm256_castsi256_si128(avx2_mask(valid)), sum);
}

/* Returns how many numbers it has done. */
AVX2 static size_t widen_f64(const unsigned char *src, size_t n, float *dst) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        _mm_storeu_ps(dst + i, _mm256_cvtpd_ps(_mm256_loadu_pd((const void *)(src + 8 * i))));
    return i;
}

#define LEVEL AVX2
#define LEVEL_INLINE AVX2_INLINE
#define VECTOR __m256
#define LANES 8
#define zero _mm256_setzero_ps
#define get avx2_get
#define put avx2_put
#define hold avx2_hold
#define multiply_add _mm256_fmadd_ps
#define sum_four avx2_sum_four
#include "backend/cpu/stored_rows.h"

void lr__dot_stored_avx2(const lr__stored_task *task) { dot_stored(task); }

void lr__widen_avx2(int32_t dtype, const void *src, size_t n, float *dst) {
    widen(dtype, src, n, dst);
}

#endif
