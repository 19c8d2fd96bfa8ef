/*
 * Accumulating second moments: tokens are converted to binary64 a few hundred at a time and folded
 * into the lower triangle by tiles, because binary32 products lose rotated spectra from a
 * condition of 3e8 on.
 */
#include "backend/blas.h"
#include "compress/stats.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

enum { CHUNK_TOKENS = 512, TILE = 384, SMALL_TILE = 192, CHANNELS = 64 };

typedef struct job {
    lr__moments *moments;
    const float *x;
    double *wide;    /* [tokens, size] */
    double *scratch; /* [threads][tile * tile] */
    int64_t tokens, tile;
    double weight;
} job;

static void widen_item(void *work, int64_t t, int32_t thread) {
    (void)thread;
    const job *j = work;
    int64_t n = j->moments->size;
    for (int64_t i = 0; i < n; i++) j->wide[t * n + i] = (double)j->x[t * n + i];
}

/* Tile (row, col) of the lower triangle from its running number. */
static void tile_at(int64_t index, int64_t *row, int64_t *col) {
    *row = 0;
    while (index > *row) index -= ++*row;
    *col = index;
}

static void fold_item(void *work, int64_t index, int32_t thread) {
    const job *j = work;
    int64_t n = j->moments->size, row, col;
    double *tile = j->scratch + (int64_t)thread * j->tile * j->tile;
    tile_at(index, &row, &col);
    row *= j->tile;
    col *= j->tile;
    int64_t rows = n - row < j->tile ? n - row : j->tile;
    int64_t cols = n - col < j->tile ? n - col : j->tile;
    lr__blas_call_begin();
    if (row == col)
        cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, (int)rows, (int)j->tokens, j->weight,
                    j->wide + row, (int)n, 0, tile, (int)cols);
    else
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)rows, (int)cols, (int)j->tokens,
                    j->weight, j->wide + row, (int)n, j->wide + col, (int)n, 0, tile, (int)cols);
    lr__blas_call_end();
    for (int64_t i = 0; i < rows; i++) {
        double *to = j->moments->gram + (row + i) * (row + i + 1) / 2 + col;
        int64_t end = row == col ? i + 1 : cols;
        for (int64_t k = 0; k < end; k++) to[k] += tile[i * cols + k];
    }
}

static void fold_channels(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const job *j = work;
    lr__moments *m = j->moments;
    int64_t begin = index * CHANNELS, end = begin + CHANNELS < m->size ? begin + CHANNELS : m->size;
    for (int64_t t = 0; t < j->tokens; t++)
        for (int64_t i = begin; i < end; i++) {
            double x = j->wide[t * m->size + i], size = fabs(x);
            m->sum[i] += j->weight * x;
            m->absolute[i] += j->weight * size;
            if (size > m->most[i]) m->most[i] = size;
        }
}

static lr_status fold_chunk(job *j, const lr__device *device, lr__arena *arena) {
    lr_status status = LR_OK;
    int64_t n = j->moments->size, threads = lr__pool_threads(device->pool);
    int64_t across = (n + TILE - 1) / TILE;
    j->tile = across * (across + 1) / 2 < 2 * threads ? SMALL_TILE : TILE;
    across = (n + j->tile - 1) / j->tile;
    LR_TRY(lr__arena_take(arena, &j->wide, (size_t)(j->tokens * n), sizeof(double)));
    LR_TRY(
        lr__arena_take(arena, &j->scratch, (size_t)(threads * j->tile * j->tile), sizeof(double)));
    lr__blas_enter();
    lr__pool_run(device->pool, j->tokens, widen_item, j);
    lr__pool_run(device->pool, across * (across + 1) / 2, fold_item, j);
    lr__blas_leave();
    lr__pool_run(device->pool, (n + CHANNELS - 1) / CHANNELS, fold_channels, j);
done:
    return status;
}

lr_status lr__moments_count(lr__moments *moments, const lr__device *device, lr__arena *arena,
                            const float *x, int64_t tokens, double weight) {
    lr__arena_mark mark = lr__arena_here(arena);
    lr_status status = LR_OK;
    for (int64_t t = 0; t < tokens && status >= 0; t += CHUNK_TOKENS) {
        job j = {.moments = moments,
                 .x = x + t * moments->size,
                 .tokens = tokens - t < CHUNK_TOKENS ? tokens - t : CHUNK_TOKENS,
                 .weight = weight};
        status = fold_chunk(&j, device, arena);
        lr__arena_release(arena, mark);
    }
    moments->tokens += tokens;
    moments->weight += weight * (double)tokens;
    return status;
}

void lr__moments_read(const lr__moments *m, double *gram, double *mean) {
    double scale = m->weight > 0 ? 1 / m->weight : 0;
    const double *from = m->gram;
    for (int64_t i = 0; gram && i < m->size; i++)
        for (int64_t k = 0; k <= i; k++)
            gram[i * m->size + k] = gram[k * m->size + i] = scale * *from++;
    for (int64_t i = 0; mean && i < m->size; i++) mean[i] = scale * m->sum[i];
}
