/* Derivatives of the kernels on single rows in vectors of eight; see backward_c.c. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx2.h"

#if defined(__x86_64__)

#include <math.h>

/* a += the products of x and y, in two vectors of four. */
AVX2_INLINE void add_products(__m256 x, __m256 y, __m256d a[2]) {
    __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(y));
    __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(y, 1));
    a[0] = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(x)), low, a[0]);
    a[1] = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)), high, a[1]);
}

AVX2 void lr__rmsnorm_backward_avx2(int64_t n, const float *x, const float *weight, float epsilon,
                                    const float *dy, float *dx, float *dweight) {
    __m256d squares[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    __m256d products[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = avx2_get(x + i, n - i);
        __m256 g = _mm256_mul_ps(avx2_get(weight + i, n - i), avx2_get(dy + i, n - i));
        add_products(v, v, squares);
        add_products(g, v, products);
    }
    double square = avx2_sum_pd(_mm256_add_pd(squares[0], squares[1])) / (double)n;
    double product = avx2_sum_pd(_mm256_add_pd(products[0], products[1])) / (double)n;
    double exact = 1.0 / sqrt(square + (double)epsilon);
    __m256 factor = _mm256_set1_ps((float)exact), mean = _mm256_set1_ps((float)(exact * product));
    for (int64_t i = 0; i < n; i += 8) {
        int64_t left = n - i;
        __m256 d = avx2_get(dy + i, left);
        __m256 z = _mm256_mul_ps(avx2_get(x + i, left), factor);
        __m256 g = _mm256_mul_ps(avx2_get(weight + i, left), d);
        __m256 along = _mm256_fnmadd_ps(z, mean, g);
        avx2_put(dx + i, left, _mm256_fmadd_ps(factor, along, avx2_get(dx + i, left)));
        if (dweight)
            avx2_put(dweight + i, left, _mm256_fmadd_ps(d, z, avx2_get(dweight + i, left)));
    }
}

AVX2 void lr__swiglu_backward_avx2(int64_t n, const float *gate, const float *up, const float *dout,
                                   float *dgate, float *dup) {
    __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    for (int64_t i = 0; i < n; i += 8) {
        int64_t left = n - i;
        __m256 g = avx2_get(gate + i, left), d = avx2_get(dout + i, left);
        __m256 du = _mm256_mul_ps(d, avx2_get(up + i, left));
        __m256 e = avx2_exp(_mm256_or_ps(g, sign));
        __m256 large = _mm256_div_ps(one, _mm256_add_ps(one, e)), small = _mm256_mul_ps(e, large);
        __m256 s = _mm256_blendv_ps(large, small, g), rest = _mm256_blendv_ps(small, large, g);
        __m256 silu = _mm256_mul_ps(_mm256_blendv_ps(g, _mm256_mul_ps(g, e), g), large);
        avx2_put(dgate + i, left, _mm256_mul_ps(du, _mm256_fmadd_ps(silu, rest, s)));
        avx2_put(dup + i, left, _mm256_mul_ps(d, silu));
    }
}

#endif
