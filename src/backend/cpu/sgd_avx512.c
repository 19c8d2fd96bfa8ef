/* SGD in vectors of sixteen, without fused products: the bits of sgd_c.c. Squares of binary32 are
 * exact in binary64, so fusing them with their sum changes none either. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/plain.h"
#include "backend/cpu/avx512.h"

#if defined(__x86_64__)

#include <float.h>

/* Lanes that are not finite. */
AVX512_INLINE int beyond(__m512 x) {
    return _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(FLT_MAX), _CMP_NLE_UQ);
}

/* a x + b y */
AVX512_INLINE __m512 mix(__m512 a, __m512 x, __m512 b, __m512 y) {
    return _mm512_add_ps(_mm512_mul_ps(a, x), _mm512_mul_ps(b, y));
}

AVX512 int lr__sgd_avx512(const lr__sgd_task *t) {
    __m512 scale = _mm512_set1_ps(t->scale), decay = _mm512_set1_ps(t->decay);
    __m512 momentum = _mm512_set1_ps(t->momentum), rate = _mm512_set1_ps(t->rate);
    int bad = 0;
    for (int64_t i = 0; i < t->n; i += 16) {
        int64_t left = t->n - i;
        __m512 w = avx512_get(t->w + i, left);
        __m512 g = mix(scale, avx512_get(t->gradient + i, left), decay, w);
        if (t->v) {
            g = _mm512_add_ps(_mm512_mul_ps(momentum, avx512_get(t->v + i, left)), g);
            avx512_put(t->v + i, left, g);
        }
        w = _mm512_sub_ps(w, _mm512_mul_ps(rate, g));
        avx512_put(t->w + i, left, w);
        bad |= beyond(w);
    }
    return !bad;
}

AVX512 double lr__squares_avx512(int64_t n, const float *x) {
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
    double lanes[LR__SQUARE_LANES];
    int64_t i = 0;
    for (; i + LR__SQUARE_LANES <= n; i += LR__SQUARE_LANES) {
        __m512d first = _mm512_cvtps_pd(_mm256_loadu_ps(x + i));
        __m512d second = _mm512_cvtps_pd(_mm256_loadu_ps(x + i + 8));
        low = _mm512_fmadd_pd(first, first, low);
        high = _mm512_fmadd_pd(second, second, high);
    }
    _mm512_storeu_pd(lanes, low);
    _mm512_storeu_pd(lanes + 8, high);
    return lr__squares_end(n - i, x + i, lanes);
}

#endif
