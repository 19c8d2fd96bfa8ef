/* AdamW, SGD and sums of squares in vectors of sixteen. Squares of binary32 are exact in binary64,
 * so fusing them with their sum changes no bit. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/avx512.h"
#include "backend/cpu/plain.h"

#if defined(__x86_64__)

#include <float.h>

#define LEVEL_INLINE AVX512_INLINE
#define VECTOR __m512
#define LANES 16
#define get avx512_get
#define put avx512_put
#define every _mm512_set1_ps
#define add _mm512_add_ps
#define subtract _mm512_sub_ps
#define multiply _mm512_mul_ps
#define divide _mm512_div_ps
#define root _mm512_sqrt_ps

AVX512_INLINE int beyond(__m512 x) {
    return _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(FLT_MAX), _CMP_NLE_UQ);
}

#include "backend/cpu/steps.h"

AVX512 int lr__adamw_avx512(const lr__adamw_task *task) { return adamw(task); }

AVX512 int lr__sgd_avx512(const lr__sgd_task *task) { return sgd(task); }

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
