/* Binary32 to 16-bit types, sixteen at a time; see narrow_avx2.c. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/avx512.h"
#include "backend/cpu/plain.h"

#include "tensor/dtype.h"

#if defined(__x86_64__)

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
