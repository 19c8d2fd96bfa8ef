/* dot_tile by 3 x 4 register tiles. Whatever the tile, y[r][o] is one vector of eight partial sums
 * over k (the tail masked) joined by one fixed tree: rows and outputs never meet. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx2.h"
#include "backend/cpu/tiles.h"

#if defined(__x86_64__)

enum { MOST_ROWS = 3, MOST_OUTS = 8 };

/* acc += x * w for the eight steps of k from i, or the `left` of them that exist. */
AVX2_INLINE void step(const int rows, const int outs, int64_t left, const float *x, int64_t ldx,
                      const float *const w[MOST_OUTS], int64_t i,
                      __m256 acc[MOST_ROWS][MOST_OUTS]) {
    __m256 a[MOST_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) a[r] = avx2_get(x + r * ldx + i, left);
#pragma GCC unroll 8
    for (int o = 0; o < outs; o++) {
        __m256 b = avx2_hold(avx2_get(w[o] + i, left));
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) acc[r][o] = _mm256_fmadd_ps(a[r], b, acc[r][o]);
    }
}

/* `valid` outputs of a tile; the columns past them repeat the last and are not stored. */
AVX2_INLINE void tile(const int rows, const int outs, int64_t valid, int64_t k, const float *x,
                      int64_t ldx, const float *w, int64_t ldw, float *y, int64_t ldy) {
    __m256 acc[MOST_ROWS][MOST_OUTS];
    const float *row[MOST_OUTS];
#pragma GCC unroll 8
    for (int o = 0; o < outs; o++) row[o] = w + (o < valid ? o : valid - 1) * ldw;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int o = 0; o < outs; o++) acc[r][o] = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + 8 <= k; i += 8) step(rows, outs, 8, x, ldx, row, i, acc);
    if (i < k) step(rows, outs, k - i, x, ldx, row, i, acc);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int o = 0; o < outs; o += 4) {
            __m128 sum = avx2_sum_four(acc[r][o], acc[r][o + 1], acc[r][o + 2], acc[r][o + 3]);
            if (valid >= o + 4)
                _mm_storeu_ps(y + r * ldy + o, sum);
            else
                _mm_maskstore_ps(y + r * ldy + o, _mm256_castsi256_si128(avx2_mask(valid - o)),
                                 sum);
        }
}

/* One row has too few chains for four outputs at a time. */
AVX2_INLINE void strip(const int rows, int64_t outs, int64_t k, const float *x, int64_t ldx,
                       const float *w, int64_t ldw, float *y, int64_t ldy) {
    int64_t o = 0;
    for (; rows == 1 && o + 8 <= outs; o += 8)
        tile(rows, 8, 8, k, x, ldx, w + o * ldw, ldw, y + o, ldy);
    for (; o + 4 <= outs; o += 4) tile(rows, 4, 4, k, x, ldx, w + o * ldw, ldw, y + o, ldy);
    if (o < outs) tile(rows, 4, outs - o, k, x, ldx, w + o * ldw, ldw, y + o, ldy);
}

#define STRIP(rows)                                                                     \
    AVX2 static void strip_##rows(int64_t outs, int64_t k, const float *x, int64_t ldx, \
                                  const float *w, int64_t ldw, float *y, int64_t ldy) { \
        strip(rows, outs, k, x, ldx, w, ldw, y, ldy);                                   \
    }
STRIP(1)
STRIP(2)
STRIP(3)

void lr__dot_tile_avx2(int64_t rows, int64_t outs, int64_t k, const float *x, int64_t ldx,
                       const float *w, int64_t ldw, float *y, int64_t ldy) {
    static const lr__dot_strip strips[] = {NULL, strip_1, strip_2, strip_3};
    lr__dot_rows(strips, MOST_ROWS, rows, outs, k, x, ldx, w, ldw, y, ldy);
}

#endif
