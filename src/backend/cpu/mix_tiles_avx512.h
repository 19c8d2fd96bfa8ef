/* Products in tiles of 6 rows x 4 vectors; see mix_avx2.c. Compiled once for each form of
 * mix_step(sum, factor, row), sums of sixteen columns with one more term of the depth, which the
 * file that includes this one defines before, as it does MIX_TARGET. What a and b hold is moved as
 * words of 32 bits: only mix_step knows what they mean. */
#ifndef LR_BACKEND_CPU_MIX_TILES_AVX512_H
#define LR_BACKEND_CPU_MIX_TILES_AVX512_H

#include "backend/cpu/avx512.h"
#include "backend/cpu/tiles.h"

#define MIX_INLINE MIX_TARGET __attribute__((always_inline)) static inline

enum { MOST_ROWS = LR__MIX_MOST, MOST_VECTORS = 4, COLUMNS = 64 };

/* Columns c .. of all rows of the task; `last` masks the last of the vectors. */
MIX_INLINE void tile(const int rows, const int vectors, const lr__mix_task *task, int64_t c,
                     __mmask16 last) {
    __m512 acc[MOST_ROWS][MOST_VECTORS];
    __mmask16 mask[MOST_VECTORS];
    float *y = task->y + c;
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) mask[v] = v + 1 < vectors ? (__mmask16)0xffff : last;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            acc[r][v] = task->add ? _mm512_maskz_loadu_ps(mask[v], y + r * task->ldy + 16 * v)
                                  : _mm512_setzero_ps();
    const float *a = task->a, *b = task->b + c;
    int64_t lda = task->lda, ldb = task->ldb, depth = task->depth;
    for (int64_t p = 0; p < depth; p++, b += ldb) {
        __m512 row[MOST_VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            row[v] = avx512_hold(_mm512_maskz_loadu_ps(mask[v], b + 16 * v));
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            __m512 factor = avx512_hold(_mm512_set1_ps(a[r * lda + p]));
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) acc[r][v] = mix_step(acc[r][v], factor, row[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            _mm512_mask_storeu_ps(y + r * task->ldy + 16 * v, mask[v], acc[r][v]);
}

MIX_INLINE void strip(const int rows, const lr__mix_task *task) {
    int64_t c = 0;
    for (; c + COLUMNS <= task->cols; c += COLUMNS) tile(rows, 4, task, c, 0xffff);
    int64_t left = task->cols - c;
    __mmask16 last = avx512_mask((left + 15) % 16 + 1);
    if (left > 48)
        tile(rows, 4, task, c, last);
    else if (left > 32)
        tile(rows, 3, task, c, last);
    else if (left > 16)
        tile(rows, 2, task, c, last);
    else if (left > 0)
        tile(rows, 1, task, c, last);
}

MIX_TARGET static void strip_1(const lr__mix_task *task) { strip(1, task); }
MIX_TARGET static void strip_2(const lr__mix_task *task) { strip(2, task); }
MIX_TARGET static void strip_3(const lr__mix_task *task) { strip(3, task); }
MIX_TARGET static void strip_4(const lr__mix_task *task) { strip(4, task); }
MIX_TARGET static void strip_5(const lr__mix_task *task) { strip(5, task); }
MIX_TARGET static void strip_6(const lr__mix_task *task) { strip(6, task); }

#define MIX_STRIPS \
    { NULL, strip_1, strip_2, strip_3, strip_4, strip_5, strip_6 }

#endif
