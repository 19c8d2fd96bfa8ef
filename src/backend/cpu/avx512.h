/* Vectors of sixteen: what every AVX-512 file needs; see avx2.h. */
#ifndef LR_BACKEND_CPU_AVX512_H
#define LR_BACKEND_CPU_AVX512_H

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdint.h>

#define AVX512 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")))
#define AVX512_INLINE AVX512 __attribute__((always_inline)) static inline

/* Nearest even, no exceptions. */
enum { AVX512_NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };

/* The first `left` lanes. */
AVX512_INLINE __mmask16 avx512_mask(int64_t left) {
    return left >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1u);
}

/* Sixteen numbers, or the `left` that remain and zeros. */
AVX512_INLINE __m512 avx512_get(const float *from, int64_t left) {
    if (left >= 16) return _mm512_loadu_ps(from);
    return _mm512_maskz_loadu_ps(avx512_mask(left), from);
}

AVX512_INLINE void avx512_put(float *to, int64_t left, __m512 value) {
    if (left >= 16)
        _mm512_storeu_ps(to, value);
    else
        _mm512_mask_storeu_ps(to, avx512_mask(left), value);
}

/* Keeps a value in its register: compilers otherwise load it again at each use. */
AVX512_INLINE __m512 avx512_hold(__m512 value) {
    __asm__("" : "+v"(value));
    return value;
}

/* Lane sums of four vectors. */
AVX512_INLINE __m128 avx512_sum_four(__m512 a, __m512 b, __m512 c, __m512 d) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d ab_pairs = _mm512_castps_pd(ab), cd_pairs = _mm512_castps_pd(cd);
    __m512 low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_pairs, cd_pairs));
    __m512 high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_pairs, cd_pairs));
    __m512 sum = _mm512_add_ps(low, high);
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps(sum, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* As avx2_exp_tail. */
AVX512_INLINE __m512 avx512_exp_tail(__m512 r, __m512 rr) {
    __m512 a =
        _mm512_fmadd_ps(r, _mm512_set1_ps(1.9875691500e-4f), _mm512_set1_ps(1.3981999507e-3f));
    __m512 b =
        _mm512_fmadd_ps(r, _mm512_set1_ps(8.3334519073e-3f), _mm512_set1_ps(4.1665795894e-2f));
    __m512 c =
        _mm512_fmadd_ps(r, _mm512_set1_ps(1.6666665459e-1f), _mm512_set1_ps(5.0000001201e-1f));
    return _mm512_fmadd_ps(_mm512_fmadd_ps(a, rr, b), rr, c);
}

/* As avx2_exp; one instruction applies 2^n, rounding once. */
AVX512_INLINE __m512 avx512_exp(__m512 x) {
    __m512 rounder = _mm512_set1_ps(0x1.8p23f);
    __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, _mm512_set1_ps(1.44269504f), rounder), rounder);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 rr = _mm512_mul_ps(r, r);
    __m512 e = _mm512_add_ps(_mm512_fmadd_ps(avx512_exp_tail(r, rr), rr, r), _mm512_set1_ps(1.0f));
    __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(89.0f), _CMP_GT_OQ);
    __mmask16 stays = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-104.0f), _CMP_NLT_UQ);
    e = _mm512_maskz_scalef_ps(stays, e, n);
    return _mm512_mask_mov_ps(e, above, _mm512_set1_ps(__builtin_inff()));
}

#endif
#endif
