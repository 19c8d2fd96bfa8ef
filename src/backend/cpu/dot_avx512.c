/* dot_tile by 6 x 4 register tiles; see dot_avx2.c. One vector of sixteen partial sums for each
 * y[r][o], joined by one fixed tree. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/avx512.h"
#include "backend/cpu/tiles.h"

#if defined(__x86_64__)

enum { MOST_ROWS = 6, MOST_OUTS = 8 };

/* acc += x * w for the sixteen steps of k from i, or the `left` of them that exist. */
AVX512_INLINE void step(const int rows, const int outs, int64_t left, const float *x, int64_t ldx,
                        const float *const w[MOST_OUTS], int64_t i,
                        __m512 acc[MOST_ROWS][MOST_OUTS]) {
    __m512 b[MOST_OUTS];
#pragma GCC unroll 8
    for (int o = 0; o < outs; o++) b[o] = avx512_hold(avx512_get(w[o] + i, left));
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        __m512 a = avx512_get(x + r * ldx + i, left);
#pragma GCC unroll 8
        for (int o = 0; o < outs; o++) acc[r][o] = _mm512_fmadd_ps(a, b[o], acc[r][o]);
    }
}

/* `valid` outputs of a tile; the columns past them repeat the last and are not stored. */
AVX512_INLINE void tile(const int rows, const int outs, int64_t valid, int64_t k, const float *x,
                        int64_t ldx, const float *w, int64_t ldw, float *y, int64_t ldy) {
    __m512 acc[MOST_ROWS][MOST_OUTS];
    const float *row[MOST_OUTS];
#pragma GCC unroll 8
    for (int o = 0; o < outs; o++) row[o] = w + (o < valid ? o : valid - 1) * ldw;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int o = 0; o < outs; o++) acc[r][o] = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + 16 <= k; i += 16) step(rows, outs, 16, x, ldx, row, i, acc);
    if (i < k) step(rows, outs, k - i, x, ldx, row, i, acc);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int o = 0; o < outs; o += 4) {
            __m128 sum = avx512_sum_four(acc[r][o], acc[r][o + 1], acc[r][o + 2], acc[r][o + 3]);
            __mmask8 keep = (__mmask8)avx512_mask(valid - o < 4 ? valid - o : 4);
            _mm_mask_storeu_ps(y + r * ldy + o, keep, sum);
        }
}

/* Two rows have too few chains for four outputs at a time; one row waits for the cache, which
 * serves few streams better. */
AVX512_INLINE void strip(const int rows, int64_t outs, int64_t k, const float *x, int64_t ldx,
                         const float *w, int64_t ldw, float *y, int64_t ldy) {
    int64_t o = 0;
    for (; rows == 2 && o + 8 <= outs; o += 8)
        tile(rows, 8, 8, k, x, ldx, w + o * ldw, ldw, y + o, ldy);
    for (; o + 4 <= outs; o += 4) tile(rows, 4, 4, k, x, ldx, w + o * ldw, ldw, y + o, ldy);
    if (o < outs) tile(rows, 4, outs - o, k, x, ldx, w + o * ldw, ldw, y + o, ldy);
}

#define STRIP(rows)                                                                       \
    AVX512 static void strip_##rows(int64_t outs, int64_t k, const float *x, int64_t ldx, \
                                    const float *w, int64_t ldw, float *y, int64_t ldy) { \
        strip(rows, outs, k, x, ldx, w, ldw, y, ldy);                                     \
    }
STRIP(1)
STRIP(2)
STRIP(3)
STRIP(4)
STRIP(5)
STRIP(6)

void lr__dot_tile_avx512(int64_t rows, int64_t outs, int64_t k, const float *x, int64_t ldx,
                         const float *w, int64_t ldw, float *y, int64_t ldy) {
    static const lr__dot_strip strips[] = {NULL,    strip_1, strip_2, strip_3,
                                           strip_4, strip_5, strip_6};
    lr__dot_rows(strips, MOST_ROWS, rows, outs, k, x, ldx, w, ldw, y, ldy);
}

#endif
