/* Derivatives of the kernels on single rows in vectors of sixteen; see backward_c.c. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/avx512.h"

#if defined(__x86_64__)

#include <math.h>

/* a += the products of x and y, in two vectors of eight. */
AVX512_INLINE void add_products(__m512 x, __m512 y, __m512d a[2]) {
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(y));
    __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(y, 1));
    a[0] = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(x)), low, a[0]);
    a[1] = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)), high, a[1]);
}

AVX512 void lr__rmsnorm_backward_avx512(int64_t n, const float *x, const float *weight,
                                        float epsilon, const float *dy, float *dx, float *dweight) {
    __m512d squares[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    __m512d products[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    for (int64_t i = 0; i < n; i += 16) {
        __m512 v = avx512_get(x + i, n - i);
        __m512 g = _mm512_mul_ps(avx512_get(weight + i, n - i), avx512_get(dy + i, n - i));
        add_products(v, v, squares);
        add_products(g, v, products);
    }
    double square = _mm512_reduce_add_pd(_mm512_add_pd(squares[0], squares[1])) / (double)n;
    double product = _mm512_reduce_add_pd(_mm512_add_pd(products[0], products[1])) / (double)n;
    double exact = 1.0 / sqrt(square + (double)epsilon);
    __m512 factor = _mm512_set1_ps((float)exact), mean = _mm512_set1_ps((float)(exact * product));
    for (int64_t i = 0; i < n; i += 16) {
        int64_t left = n - i;
        __m512 d = avx512_get(dy + i, left);
        __m512 z = _mm512_mul_ps(avx512_get(x + i, left), factor);
        __m512 g = _mm512_mul_ps(avx512_get(weight + i, left), d);
        __m512 along = _mm512_fnmadd_ps(z, mean, g);
        avx512_put(dx + i, left, _mm512_fmadd_ps(factor, along, avx512_get(dx + i, left)));
        if (dweight)
            avx512_put(dweight + i, left, _mm512_fmadd_ps(d, z, avx512_get(dweight + i, left)));
    }
}

AVX512 void lr__swiglu_backward_avx512(int64_t n, const float *gate, const float *up,
                                       const float *dout, float *dgate, float *dup) {
    __m512 sign = _mm512_set1_ps(-0.0f), one = _mm512_set1_ps(1.0f);
    for (int64_t i = 0; i < n; i += 16) {
        int64_t left = n - i;
        __m512 g = avx512_get(gate + i, left), d = avx512_get(dout + i, left);
        __m512 du = _mm512_mul_ps(d, avx512_get(up + i, left));
        __m512 e = avx512_exp(_mm512_or_ps(g, sign));
        __mmask16 below = _mm512_movepi32_mask(_mm512_castps_si512(g));
        __m512 large = _mm512_div_ps(one, _mm512_add_ps(one, e)), small = _mm512_mul_ps(e, large);
        __m512 s = _mm512_mask_mov_ps(large, below, small);
        __m512 rest = _mm512_mask_mov_ps(small, below, large);
        __m512 silu = _mm512_mul_ps(_mm512_mask_mul_ps(g, below, g, e), large);
        avx512_put(dgate + i, left, _mm512_mul_ps(du, _mm512_fmadd_ps(silu, rest, s)));
        avx512_put(dup + i, left, _mm512_mul_ps(d, silu));
    }
}

#endif
