/* Products in tiles of 6 rows x 2 vectors, y = a b, where b is used by rows as it lies: scores and
 * values of attention, and packed weights. Each sum runs up the depth alone, so that neither the
 * neighbours of a row nor a cut of the depth changes its bits. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx2.h"
#include "backend/cpu/tiles.h"

#if defined(__x86_64__)

enum { MOST_ROWS = LR__MIX_MOST, MOST_VECTORS = 8, COLUMNS = 16 };

/* Columns c .. of all rows of the task: `vectors` whole ones, or one with `left` columns. */
AVX2_INLINE void tile(const int rows, const int vectors, const lr__mix_task *task, int64_t c,
                      int64_t left) {
    __m256 acc[MOST_ROWS][MOST_VECTORS];
    float *y = task->y + c;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            acc[r][v] = task->add ? avx2_get(y + r * task->ldy + 8 * v, left) : _mm256_setzero_ps();
    const float *a = task->a, *b = task->b + c;
    int64_t lda = task->lda, ldb = task->ldb, depth = task->depth;
    for (int64_t p = 0; p < depth; p++, b += ldb) {
        __m256 row[MOST_VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) row[v] = avx2_hold(avx2_get(b + 8 * v, left));
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            __m256 factor = _mm256_broadcast_ss(a + r * lda + p);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++)
                acc[r][v] = _mm256_fmadd_ps(factor, row[v], acc[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) avx2_put(y + r * task->ldy + 8 * v, left, acc[r][v]);
}

/* One row alone needs more chains than two. */
AVX2_INLINE void strip(const int rows, const lr__mix_task *task) {
    int64_t c = 0;
    for (; rows == 1 && c + 64 <= task->cols; c += 64) tile(rows, 8, task, c, 8);
    for (; c + 16 <= task->cols; c += 16) tile(rows, 2, task, c, 8);
    for (; c < task->cols; c += 8) tile(rows, 1, task, c, task->cols - c);
}

AVX2 static void strip_1(const lr__mix_task *task) { strip(1, task); }
AVX2 static void strip_2(const lr__mix_task *task) { strip(2, task); }
AVX2 static void strip_3(const lr__mix_task *task) { strip(3, task); }
AVX2 static void strip_4(const lr__mix_task *task) { strip(4, task); }
AVX2 static void strip_5(const lr__mix_task *task) { strip(5, task); }
AVX2 static void strip_6(const lr__mix_task *task) { strip(6, task); }

/* Rows r and r + 4 of a column of four, side by side. */
AVX2_INLINE __m256 row_pair(const float *src, int64_t lds, int64_t r) {
    __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(src + r * lds));
    return _mm256_insertf128_ps(low, _mm_loadu_ps(src + (r + 4) * lds), 1);
}

/* Four columns of eight rows become four rows. */
AVX2_INLINE void turn(const float *src, int64_t lds, float *dst, int64_t ldd) {
    __m256 a = row_pair(src, lds, 0), b = row_pair(src, lds, 1);
    __m256 c = row_pair(src, lds, 2), d = row_pair(src, lds, 3);
    __m256d ab = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
    __m256d cd = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
    __m256d ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
    __m256d cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
    _mm256_storeu_ps(dst, _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)));
    _mm256_storeu_ps(dst + ldd, _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)));
    _mm256_storeu_ps(dst + 2 * ldd, _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high)));
    _mm256_storeu_ps(dst + 3 * ldd, _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high)));
}

AVX2 void lr__transpose_avx2(int64_t rows, int64_t cols, const float *src, int64_t lds, float *dst,
                             int64_t ldd) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8) {
        int64_t c = 0;
        for (; c + 4 <= cols; c += 4) turn(src + r * lds + c, lds, dst + c * ldd + r, ldd);
        for (; c < cols; c++)
            for (int64_t i = r; i < r + 8; i++) dst[c * ldd + i] = src[i * lds + c];
    }
    for (; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) dst[c * ldd + r] = src[r * lds + c];
}

const lr__mix_strip lr__mix_strips_avx2[] = {NULL,    strip_1, strip_2, strip_3,
                                             strip_4, strip_5, strip_6};

void lr__multiply_panels_avx2(const lr__panel_task *task) {
    lr__mix_panels(lr__mix_strips_avx2, MOST_ROWS, COLUMNS, task);
}

void lr__pack_avx2(int64_t cols, int64_t depth, const float *w, int64_t ldw, float *panels) {
    lr__pack_panels(lr__transpose_avx2, COLUMNS, cols, depth, w, ldw, panels);
}

#endif
