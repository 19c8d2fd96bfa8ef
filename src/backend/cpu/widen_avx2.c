/* Stored types to binary32 and back, eight at a time; what does not fill a vector or a block goes
 * through the plain C form, whose bits are the same. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx2.h"
#include "backend/cpu/plain.h"

#include "tensor/dtype.h"

#if defined(__x86_64__)

/* Each returns how many numbers it has done. */

AVX2 static size_t widen_f16(const unsigned char *src, size_t n, float *dst) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(src + 2 * i))));
    return i;
}

AVX2 static size_t widen_bf16(const unsigned char *src, size_t n, float *dst) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(src + 2 * i)));
        _mm256_storeu_ps(dst + i, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
    }
    return i;
}

AVX2 static size_t widen_f64(const unsigned char *src, size_t n, float *dst) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        _mm_storeu_ps(dst + i, _mm256_cvtpd_ps(_mm256_loadu_pd((const void *)(src + 8 * i))));
    return i;
}

AVX2_INLINE __m256 block_half(const unsigned char *at) {
    return _mm256_cvtph_ps(_mm_set1_epi16((short)(at[0] | at[1] << 8)));
}

AVX2 static size_t widen_q8_0(const unsigned char *src, size_t n, float *dst) {
    size_t i = 0;
    for (; i + LR__BLOCK <= n; i += LR__BLOCK, src += LR__Q8_0_BYTES) {
        __m256 scale = block_half(src);
        for (int j = 0; j < LR__BLOCK; j += 8) {
            __m256i level = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(src + 2 + j)));
            _mm256_storeu_ps(dst + i + j, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(level)));
        }
    }
    return i;
}

AVX2_INLINE void put_q4_1(float *dst, __m128i level, __m256 scale, __m256 least) {
    __m256 first = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(level));
    __m256 second = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(level, 8)));
    _mm256_storeu_ps(dst, _mm256_add_ps(_mm256_mul_ps(scale, first), least));
    _mm256_storeu_ps(dst + 8, _mm256_add_ps(_mm256_mul_ps(scale, second), least));
}

AVX2 static size_t widen_q4_1(const unsigned char *src, size_t n, float *dst) {
    __m128i low = _mm_set1_epi8(15);
    size_t i = 0;
    for (; i + LR__BLOCK <= n; i += LR__BLOCK, src += LR__Q4_1_BYTES) {
        __m256 scale = block_half(src), least = block_half(src + 2);
        __m128i bytes = _mm_loadu_si128((const void *)(src + 4));
        put_q4_1(dst + i, _mm_and_si128(bytes, low), scale, least);
        put_q4_1(dst + i + 16, _mm_and_si128(_mm_srli_epi16(bytes, 4), low), scale, least);
    }
    return i;
}

void lr__widen_avx2(int32_t dtype, const void *src, size_t n, float *dst) {
    const unsigned char *bytes = src;
    size_t done = 0;
    switch (dtype) {
    case LR_F16: done = widen_f16(bytes, n, dst); break;
    case LR_BF16: done = widen_bf16(bytes, n, dst); break;
    case LR_F64: done = widen_f64(bytes, n, dst); break;
    case LR_Q8_0: done = widen_q8_0(bytes, n, dst); break;
    case LR_Q4_1: done = widen_q4_1(bytes, n, dst); break;
    default: break;
    }
    if (done < n)
        lr__widen_c(dtype, bytes + lr__dtype_bytes(dtype, (int64_t)done), n - done, dst + done);
}

/* Bits and a rounding increment, half of the last place less one, plus one when it is odd. */
AVX2_INLINE __m256i bf16_bits(__m256 value) {
    __m256i bits = _mm256_castps_si256(value);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
}

AVX2 static size_t narrow_bf16(const float *src, size_t n, unsigned char *dst) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i wide = bf16_bits(_mm256_loadu_ps(src + i));
        __m128i packed =
            _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storeu_si128((void *)(dst + 2 * i), packed);
    }
    return i;
}

AVX2 static size_t narrow_f16(const float *src, size_t n, unsigned char *dst) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((void *)(dst + 2 * i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(src + i), AVX2_NEAREST));
    return i;
}

void lr__narrow_avx2(int32_t dtype, const float *src, size_t n, void *dst) {
    unsigned char *bytes = dst;
    size_t done = 0;
    if (dtype == LR_F16) done = narrow_f16(src, n, bytes);
    if (dtype == LR_BF16) done = narrow_bf16(src, n, bytes);
    if (done < n) lr__narrow_c(dtype, src + done, n - done, bytes + 2 * done);
}

#endif
