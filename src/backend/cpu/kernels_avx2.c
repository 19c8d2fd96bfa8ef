/* The kernels on single rows in vectors of eight, and the table of this level. Tails are masked, so
 * a number's bits do not depend on where in its row it stands. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx2.h"

#if defined(__x86_64__)

#include <math.h>

AVX2 static double sum_of_squares(int64_t n, const float *x) {
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = avx2_get(x + i, n - i);
        __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
        __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
        low = _mm256_fmadd_pd(a, a, low);
        high = _mm256_fmadd_pd(b, b, high);
    }
    return avx2_sum_pd(_mm256_add_pd(low, high));
}

AVX2 static void rmsnorm(int64_t n, const float *x, const float *weight, float epsilon, float *y) {
    double mean = sum_of_squares(n, x) / (double)n;
    __m256 factor = _mm256_set1_ps((float)(1.0 / sqrt(mean + (double)epsilon)));
    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_mul_ps(avx2_get(x + i, n - i), factor);
        avx2_put(y + i, n - i, _mm256_mul_ps(v, avx2_get(weight + i, n - i)));
    }
}

AVX2 static void rope(int64_t n, const float *cosine, const float *sine, float *x) {
    int64_t half = n / 2;
    for (int64_t i = 0; i < half; i += 8) {
        int64_t left = half - i;
        __m256 c = avx2_get(cosine + i, left), s = avx2_get(sine + i, left);
        __m256 a = avx2_get(x + i, left), b = avx2_get(x + half + i, left);
        avx2_put(x + i, left, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        avx2_put(x + half + i, left, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
    }
}

AVX2 static void swiglu(int64_t n, const float *gate, const float *up, float *out) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    for (int64_t i = 0; i < n; i += 8) {
        __m256 g = avx2_get(gate + i, n - i);
        __m256 e = avx2_exp(_mm256_or_ps(g, sign));
        __m256 above = _mm256_blendv_ps(g, _mm256_mul_ps(g, e), g);
        __m256 silu = _mm256_div_ps(above, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
        avx2_put(out + i, n - i, _mm256_mul_ps(silu, avx2_get(up + i, n - i)));
    }
}

AVX2 void lr__axpy_avx2(int64_t n, float scale, const float *x, float *y) {
    __m256 factor = _mm256_set1_ps(scale);
    for (int64_t i = 0; i < n; i += 8) {
        __m256 old = avx2_get(y + i, n - i);
        avx2_put(y + i, n - i, _mm256_fmadd_ps(factor, avx2_get(x + i, n - i), old));
    }
}

AVX2 void lr__scale_avx2(int64_t n, float scale, const float *x, float *y) {
    __m256 factor = _mm256_set1_ps(scale);
    for (int64_t i = 0; i < n; i += 8)
        avx2_put(y + i, n - i, _mm256_mul_ps(factor, avx2_get(x + i, n - i)));
}

AVX2 void lr__multiply_avx2(int64_t n, const float *x, float *y) {
    for (int64_t i = 0; i < n; i += 8) {
        __m256 product = _mm256_mul_ps(avx2_get(y + i, n - i), avx2_get(x + i, n - i));
        avx2_put(y + i, n - i, product);
    }
}

AVX2 float lr__max_avx2(int64_t n, const float *x) {
    __m256 most = _mm256_set1_ps(-INFINITY), odd = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = avx2_get(x + i, n - i);
        if (n - i < 8) v = _mm256_blendv_ps(most, v, _mm256_castsi256_ps(avx2_mask(n - i)));
        odd = _mm256_or_ps(odd, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        most = _mm256_max_ps(most, v);
    }
    if (_mm256_movemask_ps(odd)) return NAN;
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

/* Eight numbers of exp_sum, or the `left` that remain. */
AVX2_INLINE void exp_step(const float *x, int64_t left, __m256 shift, float *y, __m256d sum[2]) {
    __m256 e = avx2_exp(_mm256_sub_ps(avx2_get(x, left), shift));
    if (left < 8) e = _mm256_and_ps(e, _mm256_castsi256_ps(avx2_mask(left)));
    avx2_put(y, left, e);
    sum[0] = _mm256_add_pd(sum[0], _mm256_cvtps_pd(_mm256_castps256_ps128(e)));
    sum[1] = _mm256_add_pd(sum[1], _mm256_cvtps_pd(_mm256_extractf128_ps(e, 1)));
}

AVX2 double lr__exp_sum_avx2(int64_t n, const float *x, float shift, float *y) {
    __m256d sum[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    __m256 base = _mm256_set1_ps(shift);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) exp_step(x + i, 8, base, y + i, sum);
    if (i < n) exp_step(x + i, n - i, base, y + i, sum);
    return avx2_sum_pd(_mm256_add_pd(sum[0], sum[1]));
}

void lr__kernels_fill_avx2(lr__kernels *table) {
    table->widen = lr__widen_avx2;
    table->narrow = lr__narrow_avx2;
    table->dot_tile = lr__dot_tile_avx2;
    table->dot_stored = lr__dot_stored_avx2;
    table->multiply_panels = lr__multiply_panels_avx2;
    table->pack = lr__pack_avx2;
    table->panel_columns = 16;
    table->transpose = lr__transpose_avx2;
    table->rmsnorm = rmsnorm;
    table->rmsnorm_backward = lr__rmsnorm_backward_avx2;
    table->rope = rope;
    table->swiglu = swiglu;
    table->swiglu_backward = lr__swiglu_backward_avx2;
    table->adamw = lr__adamw_avx2;
    table->sgd = lr__sgd_avx2;
    table->squares = lr__squares_avx2;
    table->axpy = lr__axpy_avx2;
    table->scale = lr__scale_avx2;
    table->multiply = lr__multiply_avx2;
    table->max = lr__max_avx2;
    table->exp_sum = lr__exp_sum_avx2;
    table->attend = lr__attend_avx2;
    table->attend_block = lr__attend_block_avx2;
    table->attend_backward = lr__attend_backward_avx2;
}

#else

void lr__kernels_fill_avx2(lr__kernels *table) { (void)table; }

#endif
