/* The kernels on single rows in vectors of sixteen, and the table of this level; see
 * kernels_avx2.c. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/avx512.h"

#if defined(__x86_64__)

#include <math.h>

AVX512_INLINE __m512d low_half(__m512 v) { return _mm512_cvtps_pd(_mm512_castps512_ps256(v)); }

AVX512_INLINE __m512d high_half(__m512 v) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)); }

AVX512 static double sum_of_squares(int64_t n, const float *x) {
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
    for (int64_t i = 0; i < n; i += 16) {
        __m512 v = avx512_get(x + i, n - i);
        __m512d a = low_half(v), b = high_half(v);
        low = _mm512_fmadd_pd(a, a, low);
        high = _mm512_fmadd_pd(b, b, high);
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
}

AVX512 static void rmsnorm(int64_t n, const float *x, const float *weight, float epsilon,
                           float *y) {
    double mean = sum_of_squares(n, x) / (double)n;
    __m512 factor = _mm512_set1_ps((float)(1.0 / sqrt(mean + (double)epsilon)));
    for (int64_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_mul_ps(avx512_get(x + i, n - i), factor);
        avx512_put(y + i, n - i, _mm512_mul_ps(v, avx512_get(weight + i, n - i)));
    }
}

AVX512 static void rope(int64_t n, const float *cosine, const float *sine, float *x) {
    int64_t half = n / 2;
    for (int64_t i = 0; i < half; i += 16) {
        int64_t left = half - i;
        __m512 c = avx512_get(cosine + i, left), s = avx512_get(sine + i, left);
        __m512 a = avx512_get(x + i, left), b = avx512_get(x + half + i, left);
        avx512_put(x + i, left, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        avx512_put(x + half + i, left, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    }
}

AVX512 static void swiglu(int64_t n, const float *gate, const float *up, float *out) {
    __m512 sign = _mm512_set1_ps(-0.0f);
    for (int64_t i = 0; i < n; i += 16) {
        __m512 g = avx512_get(gate + i, n - i);
        __m512 e = avx512_exp(_mm512_or_ps(g, sign));
        __mmask16 below = _mm512_movepi32_mask(_mm512_castps_si512(g));
        __m512 above = _mm512_mask_mul_ps(g, below, g, e);
        __m512 silu = _mm512_div_ps(above, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
        avx512_put(out + i, n - i, _mm512_mul_ps(silu, avx512_get(up + i, n - i)));
    }
}

AVX512 void lr__axpy_avx512(int64_t n, float scale, const float *x, float *y) {
    __m512 factor = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < n; i += 16) {
        __m512 old = avx512_get(y + i, n - i);
        avx512_put(y + i, n - i, _mm512_fmadd_ps(factor, avx512_get(x + i, n - i), old));
    }
}

AVX512 void lr__scale_avx512(int64_t n, float scale, const float *x, float *y) {
    __m512 factor = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < n; i += 16)
        avx512_put(y + i, n - i, _mm512_mul_ps(factor, avx512_get(x + i, n - i)));
}

AVX512 void lr__multiply_avx512(int64_t n, const float *x, float *y) {
    for (int64_t i = 0; i < n; i += 16) {
        __m512 product = _mm512_mul_ps(avx512_get(y + i, n - i), avx512_get(x + i, n - i));
        avx512_put(y + i, n - i, product);
    }
}

AVX512 float lr__max_avx512(int64_t n, const float *x) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    __mmask16 odd = 0;
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 here = avx512_mask(n - i);
        __m512 v = avx512_get(x + i, n - i);
        odd |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        most = _mm512_mask_max_ps(most, here, most, v);
    }
    return odd ? NAN : _mm512_reduce_max_ps(most);
}

/* Sixteen numbers of exp_sum, or the `left` that remain. */
AVX512_INLINE void exp_step(const float *x, int64_t left, __m512 shift, float *y, __m512d sum[2]) {
    __m512 e = avx512_exp(_mm512_sub_ps(avx512_get(x, left), shift));
    e = _mm512_maskz_mov_ps(avx512_mask(left), e);
    avx512_put(y, left, e);
    sum[0] = _mm512_add_pd(sum[0], low_half(e));
    sum[1] = _mm512_add_pd(sum[1], high_half(e));
}

AVX512 double lr__exp_sum_avx512(int64_t n, const float *x, float shift, float *y) {
    __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    __m512 base = _mm512_set1_ps(shift);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) exp_step(x + i, 16, base, y + i, sum);
    if (i < n) exp_step(x + i, n - i, base, y + i, sum);
    return _mm512_reduce_add_pd(_mm512_add_pd(sum[0], sum[1]));
}

void lr__kernels_fill_avx512(lr__kernels *table) {
    table->widen = lr__widen_avx512;
    table->narrow = lr__narrow_avx512;
    table->dot_tile = lr__dot_tile_avx512;
    table->dot_stored = lr__dot_stored_avx512;
    table->multiply_panels = lr__multiply_panels_avx512;
    table->pack = lr__pack_avx512;
    table->panel_columns = 64;
    table->rmsnorm = rmsnorm;
    table->rmsnorm_backward = lr__rmsnorm_backward_avx512;
    table->rope = rope;
    table->swiglu = swiglu;
    table->swiglu_backward = lr__swiglu_backward_avx512;
    table->adamw = lr__adamw_avx512;
    table->sgd = lr__sgd_avx512;
    table->squares = lr__squares_avx512;
    table->axpy = lr__axpy_avx512;
    table->scale = lr__scale_avx512;
    table->multiply = lr__multiply_avx512;
    table->max = lr__max_avx512;
    table->exp_sum = lr__exp_sum_avx512;
    table->attend = lr__attend_avx512;
    table->attend_block = lr__attend_block_avx512;
    table->attend_backward = lr__attend_backward_avx512;
}

#else

void lr__kernels_fill_avx512(lr__kernels *table) { (void)table; }

#endif
