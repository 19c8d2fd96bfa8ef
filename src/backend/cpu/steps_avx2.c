/* AdamW, SGD and sums of squares in vectors of eight. Squares of binary32 are exact in binary64,
 * so fusing them with their sum changes no bit. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx2.h"
#include "backend/cpu/plain.h"

#if defined(__x86_64__)

#include <float.h>

#define LEVEL_INLINE AVX2_INLINE
#define VECTOR __m256
#define LANES 8
#define get avx2_get
#define put avx2_put
#define every _mm256_set1_ps
#define add _mm256_add_ps
#define subtract _mm256_sub_ps
#define multiply _mm256_mul_ps
#define divide _mm256_div_ps
#define root _mm256_sqrt_ps

AVX2_INLINE int beyond(__m256 x) {
    __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    return _mm256_movemask_ps(_mm256_cmp_ps(size, _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ));
}

#include "backend/cpu/steps.h"

AVX2 int lr__adamw_avx2(const lr__adamw_task *task) { return adamw(task); }

AVX2 int lr__sgd_avx2(const lr__sgd_task *task) { return sgd(task); }

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
