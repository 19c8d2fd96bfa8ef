/* SGD in vectors of eight, without fused products: the bits of sgd_c.c. Squares of binary32 are
 * exact in binary64, so fusing them with their sum changes none either. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/plain.h"
#include "backend/cpu/avx2.h"

#if defined(__x86_64__)

#include <float.h>

/* Lanes that are not finite. */
AVX2_INLINE int beyond(__m256 x) {
    __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    return _mm256_movemask_ps(_mm256_cmp_ps(size, _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ));
}

/* a x + b y */
AVX2_INLINE __m256 mix(__m256 a, __m256 x, __m256 b, __m256 y) {
    return _mm256_add_ps(_mm256_mul_ps(a, x), _mm256_mul_ps(b, y));
}

AVX2 int lr__sgd_avx2(const lr__sgd_task *t) {
    __m256 scale = _mm256_set1_ps(t->scale), decay = _mm256_set1_ps(t->decay);
    __m256 momentum = _mm256_set1_ps(t->momentum), rate = _mm256_set1_ps(t->rate);
    int bad = 0;
    for (int64_t i = 0; i < t->n; i += 8) {
        int64_t left = t->n - i;
        __m256 w = avx2_get(t->w + i, left);
        __m256 g = mix(scale, avx2_get(t->gradient + i, left), decay, w);
        if (t->v) {
            g = _mm256_add_ps(_mm256_mul_ps(momentum, avx2_get(t->v + i, left)), g);
            avx2_put(t->v + i, left, g);
        }
        w = _mm256_sub_ps(w, _mm256_mul_ps(rate, g));
        avx2_put(t->w + i, left, w);
        bad |= beyond(w);
    }
    return !bad;
}

AVX2 double lr__squares_avx2(int64_t n, const float *x) {
    __m256d sums[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                       _mm256_setzero_pd()};
    double lanes[LR__SQUARE_LANES];
    int64_t i = 0;
    for (; i + LR__SQUARE_LANES <= n; i += LR__SQUARE_LANES)
        for (int k = 0; k < 4; k++) {
            __m256d wide = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * k));
            sums[k] = _mm256_fmadd_pd(wide, wide, sums[k]);
        }
    for (int k = 0; k < 4; k++) _mm256_storeu_pd(lanes + 4 * k, sums[k]);
    return lr__squares_end(n - i, x + i, lanes);
}

#endif
