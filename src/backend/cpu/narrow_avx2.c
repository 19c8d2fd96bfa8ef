/* Binary32 to 16-bit types, eight at a time; what fills no vector goes through the plain C form,
 * whose bits are the same. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx2.h"
#include "backend/cpu/plain.h"

#include "tensor/dtype.h"

#if defined(__x86_64__)

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
