/* AdamW in vectors of eight, without fused products: the bits of adamw_c.c. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx2.h"

#if defined(__x86_64__)

#include <float.h>

/* a x + b y */
AVX2_INLINE __m256 mix(float a, __m256 x, float b, __m256 y) {
    return _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(a), x), _mm256_mul_ps(_mm256_set1_ps(b), y));
}

/* Lanes that are not finite. */
AVX2_INLINE int beyond(__m256 x) {
    __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    return _mm256_movemask_ps(_mm256_cmp_ps(size, _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ));
}

AVX2 int lr__adamw_avx2(const lr__adamw_task *t) {
    __m256 scale = _mm256_set1_ps(t->scale), kept = _mm256_set1_ps(t->kept);
    __m256 rate = _mm256_set1_ps(t->rate), spread = _mm256_set1_ps(t->spread);
    __m256 epsilon = _mm256_set1_ps(t->epsilon);
    int bad = 0;
    for (int64_t i = 0; i < t->n; i += 8) {
        int64_t left = t->n - i;
        __m256 g = _mm256_mul_ps(avx2_get(t->gradient + i, left), scale);
        __m256 m = mix(t->beta1, avx2_get(t->m + i, left), t->fresh1, g);
        __m256 v = mix(t->beta2, avx2_get(t->v + i, left), t->fresh2, _mm256_mul_ps(g, g));
        __m256 root = _mm256_add_ps(_mm256_mul_ps(_mm256_sqrt_ps(v), spread), epsilon);
        __m256 change = _mm256_mul_ps(rate, _mm256_div_ps(m, root));
        __m256 w = _mm256_sub_ps(_mm256_mul_ps(kept, avx2_get(t->w + i, left)), change);
        avx2_put(t->m + i, left, m);
        avx2_put(t->v + i, left, v);
        avx2_put(t->w + i, left, w);
        bad |= beyond(w) | beyond(v);
    }
    return !bad;
}

#endif
