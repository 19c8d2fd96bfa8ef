/* Stored types to binary32 and back, sixteen at a time; see widen_avx2.c. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/avx512.h"
#include "backend/cpu/plain.h"

#include "tensor/dtype.h"

#if defined(__x86_64__)

/* Each returns how many numbers it has done. */

AVX512 static size_t widen_f16(const unsigned char *src, size_t n, float *dst) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256i half = _mm256_loadu_si256((const void *)(src + 2 * i));
        _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(half));
    }
    return i;
}

AVX512 static size_t widen_bf16(const unsigned char *src, size_t n, float *dst) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(src + 2 * i)));
        _mm512_storeu_ps(dst + i, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
    }
    return i;
}

AVX512 static size_t widen_f64(const unsigned char *src, size_t n, float *dst) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm512_cvtpd_ps(_mm512_loadu_pd(src + 8 * i)));
    return i;
}

AVX512_INLINE __m512 block_half(const unsigned char *at) {
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)(at[0] | at[1] << 8)));
}

AVX512_INLINE __m512 levels(__m128i bytes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

AVX512 static size_t widen_q8_0(const unsigned char *src, size_t n, float *dst) {
    size_t i = 0;
    for (; i + LR__BLOCK <= n; i += LR__BLOCK, src += LR__Q8_0_BYTES) {
        __m512 scale = block_half(src);
        __m512 first = levels(_mm_loadu_si128((const void *)(src + 2)));
        __m512 second = levels(_mm_loadu_si128((const void *)(src + 18)));
        _mm512_storeu_ps(dst + i, _mm512_mul_ps(scale, first));
        _mm512_storeu_ps(dst + i + 16, _mm512_mul_ps(scale, second));
    }
    return i;
}

AVX512 static size_t widen_q4_1(const unsigned char *src, size_t n, float *dst) {
    __m128i low = _mm_set1_epi8(15);
    size_t i = 0;
    for (; i + LR__BLOCK <= n; i += LR__BLOCK, src += LR__Q4_1_BYTES) {
        __m512 scale = block_half(src), least = block_half(src + 2);
        __m128i bytes = _mm_loadu_si128((const void *)(src + 4));
        __m512 first = levels(_mm_and_si128(bytes, low));
        __m512 second = levels(_mm_and_si128(_mm_srli_epi16(bytes, 4), low));
        _mm512_storeu_ps(dst + i, _mm512_add_ps(_mm512_mul_ps(scale, first), least));
        _mm512_storeu_ps(dst + i + 16, _mm512_add_ps(_mm512_mul_ps(scale, second), least));
    }
    return i;
}

void lr__widen_avx512(int32_t dtype, const void *src, size_t n, float *dst) {
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

/* The BF16 instructions of newer processors flush subnormals, so this stays integral. */
AVX512_INLINE __m512i bf16_bits(__m512 value) {
    __m512i bits = _mm512_castps_si512(value);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    return _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, is_nan, quiet), 16);
}

AVX512 static size_t narrow_bf16(const float *src, size_t n, unsigned char *dst) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i wide = bf16_bits(_mm512_loadu_ps(src + i));
        _mm256_storeu_si256((void *)(dst + 2 * i), _mm512_cvtepi32_epi16(wide));
    }
    return i;
}

AVX512 static size_t narrow_f16(const float *src, size_t n, unsigned char *dst) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256i half = _mm512_cvtps_ph(_mm512_loadu_ps(src + i), AVX512_NEAREST);
        _mm256_storeu_si256((void *)(dst + 2 * i), half);
    }
    return i;
}

void lr__narrow_avx512(int32_t dtype, const float *src, size_t n, void *dst) {
    unsigned char *bytes = dst;
    size_t done = 0;
    if (dtype == LR_F16) done = narrow_f16(src, n, bytes);
    if (dtype == LR_BF16) done = narrow_bf16(src, n, bytes);
    if (done < n) lr__narrow_c(dtype, src + done, n - done, bytes + 2 * done);
}

#endif
