/* Vectors of eight: what every AVX2 file needs. Each function is marked, so files compile with the
 * common flags and run only where dispatch.c allows. */
#ifndef LR_BACKEND_CPU_AVX2_H
#define LR_BACKEND_CPU_AVX2_H

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdint.h>

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define AVX2_INLINE AVX2 __attribute__((always_inline)) static inline

/* Nearest even, no exceptions. */
enum { AVX2_NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };

/* The first `left` lanes. */
AVX2_INLINE __m256i avx2_mask(int64_t left) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(left < 8 ? (int)left : 8), lane);
}

/* Eight numbers, or the `left` that remain and zeros. */
AVX2_INLINE __m256 avx2_get(const float *from, int64_t left) {
    if (left >= 8) return _mm256_loadu_ps(from);
    return _mm256_maskload_ps(from, avx2_mask(left));
}

AVX2_INLINE void avx2_put(float *to, int64_t left, __m256 value) {
    if (left >= 8)
        _mm256_storeu_ps(to, value);
    else
        _mm256_maskstore_ps(to, avx2_mask(left), value);
}

/* Keeps a value in its register: compilers otherwise load it again at each use. */
AVX2_INLINE __m256 avx2_hold(__m256 value) {
    __asm__("" : "+x"(value));
    return value;
}

/* Lane sums of four vectors. */
AVX2_INLINE __m128 avx2_sum_four(__m256 a, __m256 b, __m256 c, __m256 d) {
    __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    __m256d ab_pairs = _mm256_castps_pd(ab), cd_pairs = _mm256_castps_pd(cd);
    __m256 low = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_pairs, cd_pairs));
    __m256 high = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_pairs, cd_pairs));
    __m256 sum = _mm256_add_ps(low, high);
    return _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
}

AVX2_INLINE double avx2_sum_pd(__m256d a) {
    __m128d half = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

/* 2^n for integral n in [-126, 127]. */
AVX2_INLINE __m256 avx2_power(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2: the polynomial of Cephes' expf (Moshier), in pairs to
 * shorten the chain. */
AVX2_INLINE __m256 avx2_exp_tail(__m256 r, __m256 rr) {
    __m256 a =
        _mm256_fmadd_ps(r, _mm256_set1_ps(1.9875691500e-4f), _mm256_set1_ps(1.3981999507e-3f));
    __m256 b =
        _mm256_fmadd_ps(r, _mm256_set1_ps(8.3334519073e-3f), _mm256_set1_ps(4.1665795894e-2f));
    __m256 c =
        _mm256_fmadd_ps(r, _mm256_set1_ps(1.6666665459e-1f), _mm256_set1_ps(5.0000001201e-1f));
    return _mm256_fmadd_ps(_mm256_fmadd_ps(a, rr, b), rr, c);
}

/* e^x = 2^n e^r. Adding 1.5 * 2^23 rounds to the integer n, left in the low bits; ln(2) is taken
 * off in two parts; 2^n is applied in two steps, the first of them exact, so that a subnormal
 * result is rounded once. Arguments out of range are put right at the end. */
AVX2_INLINE __m256 avx2_exp(__m256 x) {
    __m256 rounder = _mm256_set1_ps(0x1.8p23f);
    __m256 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(1.44269504f), rounder);
    __m256 n = _mm256_sub_ps(shifted, rounder);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 rr = _mm256_mul_ps(r, r);
    __m256 e = _mm256_add_ps(_mm256_fmadd_ps(avx2_exp_tail(r, rr), rr, r), _mm256_set1_ps(1.0f));
    __m256i whole = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_castps_si256(rounder));
    __m256i part = _mm256_srai_epi32(whole, 1);
    e = _mm256_mul_ps(e, avx2_power(part));
    e = _mm256_mul_ps(e, avx2_power(_mm256_sub_epi32(whole, part)));
    __m256 infinity = _mm256_set1_ps(__builtin_inff());
    e = _mm256_blendv_ps(e, infinity, _mm256_cmp_ps(x, _mm256_set1_ps(89.0f), _CMP_GT_OQ));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(-104.0f), _CMP_LT_OQ), e);
}

#endif
#endif
