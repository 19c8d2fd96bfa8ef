/* AdamW in vectors of sixteen, without fused products: the bits of adamw_c.c. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/avx512.h"

#if defined(__x86_64__)

#include <float.h>

/* a x + b y */
AVX512_INLINE __m512 mix(float a, __m512 x, float b, __m512 y) {
    return _mm512_add_ps(_mm512_mul_ps(_mm512_set1_ps(a), x), _mm512_mul_ps(_mm512_set1_ps(b), y));
}

/* Lanes that are not finite. */
AVX512_INLINE int beyond(__m512 x) {
    return _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(FLT_MAX), _CMP_NLE_UQ);
}

AVX512 int lr__adamw_avx512(const lr__adamw_task *t) {
    __m512 scale = _mm512_set1_ps(t->scale), kept = _mm512_set1_ps(t->kept);
    __m512 rate = _mm512_set1_ps(t->rate), spread = _mm512_set1_ps(t->spread);
    __m512 epsilon = _mm512_set1_ps(t->epsilon);
    int bad = 0;
    for (int64_t i = 0; i < t->n; i += 16) {
        int64_t left = t->n - i;
        __m512 g = _mm512_mul_ps(avx512_get(t->gradient + i, left), scale);
        __m512 m = mix(t->beta1, avx512_get(t->m + i, left), t->fresh1, g);
        __m512 v = mix(t->beta2, avx512_get(t->v + i, left), t->fresh2, _mm512_mul_ps(g, g));
        __m512 root = _mm512_add_ps(_mm512_mul_ps(_mm512_sqrt_ps(v), spread), epsilon);
        __m512 change = _mm512_mul_ps(rate, _mm512_div_ps(m, root));
        __m512 w = _mm512_sub_ps(_mm512_mul_ps(kept, avx512_get(t->w + i, left)), change);
        avx512_put(t->m + i, left, m);
        avx512_put(t->v + i, left, v);
        avx512_put(t->w + i, left, w);
        bad |= beyond(w) | beyond(v);
    }
    return !bad;
}

#endif
