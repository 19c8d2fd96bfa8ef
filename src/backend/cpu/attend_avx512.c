/* The tiles of attention: 6 rows x 4 vectors; see attend_avx2.c. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx512.h"
#include "backend/cpu/tiles.h"

#if defined(__x86_64__)

enum { MOST_ROWS = 6, MOST_VECTORS = 4 };

/* Columns c .. of all rows of the task: `vectors` whole ones, or one with `left` columns. */
AVX512_INLINE void tile(const int rows, const int vectors, const lr__mix_task *task, int64_t c,
                        int64_t left) {
    __m512 acc[MOST_ROWS][MOST_VECTORS];
    float *y = task->y + c;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            acc[r][v] =
                task->add ? avx512_get(y + r * task->ldy + 16 * v, left) : _mm512_setzero_ps();
    const float *a = task->a, *b = task->b + c;
    int64_t lda = task->lda, ldb = task->ldb, depth = task->depth;
    for (int64_t p = 0; p < depth; p++, b += ldb) {
        __m512 row[MOST_VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) row[v] = avx512_hold(avx512_get(b + 16 * v, left));
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            __m512 factor = _mm512_set1_ps(a[r * lda + p]);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++)
                acc[r][v] = _mm512_fmadd_ps(factor, row[v], acc[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) avx512_put(y + r * task->ldy + 16 * v, left, acc[r][v]);
}

AVX512_INLINE void strip(const int rows, const lr__mix_task *task) {
    int64_t c = 0;
    for (; c + 64 <= task->cols; c += 64) tile(rows, 4, task, c, 16);
    for (; c < task->cols; c += 16) tile(rows, 1, task, c, task->cols - c);
}

AVX512 static void strip_1(const lr__mix_task *task) { strip(1, task); }
AVX512 static void strip_2(const lr__mix_task *task) { strip(2, task); }
AVX512 static void strip_3(const lr__mix_task *task) { strip(3, task); }
AVX512 static void strip_4(const lr__mix_task *task) { strip(4, task); }
AVX512 static void strip_5(const lr__mix_task *task) { strip(5, task); }
AVX512 static void strip_6(const lr__mix_task *task) { strip(6, task); }

static const lr__mix_strip strips[] = {NULL, strip_1, strip_2, strip_3, strip_4, strip_5, strip_6};

static const lr__attend_parts parts = {.mix = strips,
                                       .mix_most = MOST_ROWS,
                                       .transpose = lr__transpose_avx2,
                                       .dot_tile = lr__dot_tile_avx512,
                                       .scale = lr__scale_avx512,
                                       .max = lr__max_avx512,
                                       .exp_sum = lr__exp_sum_avx512};

void lr__attend_avx512(int64_t count, int64_t dim, const float *q, const float *keys, int64_t ldk,
                       const float *values, int64_t ldv, float scale, float *scores, float *out) {
    lr__attend_task task = {.queries = 1,
                            .first = count - 1,
                            .dim = dim,
                            .q = q,
                            .keys = keys,
                            .ldk = ldk,
                            .values = values,
                            .ldv = ldv,
                            .scale = scale,
                            .out = out,
                            .scratch = scores};
    lr__attend_one(&parts, &task);
}

void lr__attend_block_avx512(const lr__attend_task *task) { lr__attend_many(&parts, task); }

#endif
