/*
 * Accumulating second moments: tokens are converted to binary64 a few hundred at a time and folded
 * into the lower triangle by tiles, because binary32 products lose rotated spectra from a
 * condition of 3e8 on; or into the root of that triangle (root.c), which no condition spoils.
 */
#include "backend/blas.h"
#include "backend/lapack.h"
#include "compress/moments.h"
#include "compress/root.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

enum { CHUNK_TOKENS = 512, TILE = 384, SMALL_TILE = 192, CHANNELS = 64 };

typedef struct job {
    lr__moments *moments;
    const float *x;
    double *wide;    /* [tokens, size] */
    double *rows;    /* [size, tokens] times the root of the weight, for roots */
    double *scratch; /* [threads][tile * tile] */
    int64_t tokens, tile;
    double weight;
} job;

lr_status lr__moments_new(lr__moments *m, int64_t size, int32_t is_exact) {
    lr_status status = LR_OK;
    size_t n = (size_t)size, numbers = is_exact ? n * n : n * (n + 1) / 2;
    double **second = is_exact ? &m->root : &m->gram;
    memset(m, 0, sizeof *m);
    m->size = size;
    LR_TRY(lr__new_aligned(second, numbers, sizeof(double)));
    memset(*second, 0, numbers * sizeof(double));
    LR_TRY(lr__new(&m->sum, n, sizeof(double)));
    LR_TRY(lr__new(&m->absolute, n, sizeof(double)));
    LR_TRY(lr__new(&m->most, n, sizeof(double)));
    return LR_OK;
done:
    lr__moments_clear(m);
    return status;
}

void lr__moments_clear(lr__moments *m) {
    lr__aligned_free(m->gram);
    lr__aligned_free(m->root);
    lr__free(m->sum);
    lr__free(m->absolute);
    lr__free(m->most);
    memset(m, 0, sizeof *m);
}

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

static lr_status fold_gram(job *j, const lr__device *device, lr__arena *arena) {
    lr_status status = LR_OK;
    int64_t n = j->moments->size, threads = lr__pool_threads(device->pool);
    int64_t across = (n + TILE - 1) / TILE;
    j->tile = across * (across + 1) / 2 < 2 * threads ? SMALL_TILE : TILE;
    across = (n + j->tile - 1) / j->tile;
    LR_TRY(
        lr__arena_take(arena, &j->scratch, (size_t)(threads * j->tile * j->tile), sizeof(double)));
    lr__blas_enter();
    lr__pool_run(device->pool, across * (across + 1) / 2, fold_item, j);
    lr__blas_leave();
done:
    return status;
}

static void turn_item(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const job *j = work;
    int64_t n = j->moments->size, begin = index * CHANNELS;
    int64_t end = begin + CHANNELS < n ? begin + CHANNELS : n;
    double share = sqrt(j->weight);
    for (int64_t t = 0; t < j->tokens; t++)
        for (int64_t i = begin; i < end; i++)
            j->rows[i * j->tokens + t] = share * j->wide[t * n + i];
}

static lr_status fold_root(job *j, const lr__device *device, lr__arena *arena) {
    lr_status status = LR_OK;
    int64_t n = j->moments->size;
    LR_TRY(lr__arena_take(arena, &j->rows, (size_t)(j->tokens * n), sizeof(double)));
    lr__pool_run(device->pool, (n + CHANNELS - 1) / CHANNELS, turn_item, j);
    status = lr__root_fold(j->moments->root, n, j->rows, j->tokens, device, arena);
done:
    return status;
}

static lr_status fold_chunk(job *j, const lr__device *device, lr__arena *arena) {
    lr_status status = LR_OK;
    int64_t n = j->moments->size;
    LR_TRY(lr__arena_take(arena, &j->wide, (size_t)(j->tokens * n), sizeof(double)));
    lr__pool_run(device->pool, j->tokens, widen_item, j);
    LR_TRY((j->moments->root ? fold_root : fold_gram)(j, device, arena));
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

/* The columns of the other root are inputs with the same gram. */
static lr_status add_root(lr__moments *to, const lr__moments *from, const lr__device *device,
                          lr__arena *arena, double scale) {
    lr_status status = LR_OK;
    lr__arena_mark mark = lr__arena_here(arena);
    int64_t n = to->size;
    double *rows, share = sqrt(scale);
    LR_TRY(lr__arena_take(arena, &rows, (size_t)(n * n), sizeof *rows));
    for (int64_t i = 0; i < n * n; i++) rows[i] = share * from->root[i];
    status = lr__root_fold(to->root, n, rows, n, device, arena);
done:
    lr__arena_release(arena, mark);
    return status;
}

lr_status lr__moments_add(lr__moments *to, const lr__moments *from, const lr__device *device,
                          lr__arena *arena, double weight) {
    double scale = weight / from->weight;
    int64_t size = to->size, packed = size * (size + 1) / 2;
    lr_status status = to->root ? add_root(to, from, device, arena, scale) : LR_OK;
    if (status < 0) return status;
    for (int64_t i = 0; i < packed && to->gram; i++) to->gram[i] += scale * from->gram[i];
    for (int64_t i = 0; i < size; i++) {
        to->sum[i] += scale * from->sum[i];
        to->absolute[i] += scale * from->absolute[i];
        if (from->most[i] > to->most[i]) to->most[i] = from->most[i];
    }
    to->missing |= from->missing;
    to->tokens += from->tokens;
    to->weight += weight;
    return LR_OK;
}

/* 1 / weight, 0 before the first token. */
static double scale_of(const lr__moments *m) { return m->weight > 0 ? 1 / m->weight : 0; }

static lr_status read_gram(const lr__moments *m, double *gram) {
    int64_t n = m->size;
    double scale = scale_of(m);
    const double *from = m->gram;
    if (m->root) {
        lr__blas_enter();
        lr_status status = lr__dsyrk(lr__dview_of(m->root, n, n), gram);
        lr__blas_leave();
        if (status < 0) return status;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k <= i; k++)
            gram[i * n + k] = gram[k * n + i] = scale * (from ? *from++ : gram[i * n + k]);
    return LR_OK;
}

lr_status lr__moments_read(const lr__moments *m, double *gram, double *mean) {
    lr_status status = gram ? read_gram(m, gram) : LR_OK;
    for (int64_t i = 0; mean && i < m->size; i++) mean[i] = scale_of(m) * m->sum[i];
    return status;
}

void lr__moments_read_root(const lr__moments *m, double *root) {
    double share = sqrt(scale_of(m));
    for (int64_t i = 0; i < m->size * m->size; i++) root[i] = share * m->root[i];
}

/* The weighted sum of x_i^2. */
static double square_of(const lr__moments *m, int64_t i) {
    double sum = 0;
    if (m->gram) return m->gram[i * (i + 1) / 2 + i];
    for (int64_t k = 0; k <= i; k++) sum += m->root[i * m->size + k] * m->root[i * m->size + k];
    return sum;
}

lr_status lr__moments_scale(const lr__moments *m, int32_t statistic, double alpha, double *scale) {
    static const char *const names[] = {"mean |x|", "max |x|"};
    static const int32_t needed[] = {LR__MISSING_ABSOLUTE, LR__MISSING_MOST, 0};
    if (m->missing & needed[statistic])
        return lr__fail(LR_E_NOTFOUND,
                        "the statistics hold no %s of the channels; collect them anew, or take rms",
                        names[statistic]);
    for (int64_t i = 0; i < m->size; i++) {
        double value = statistic == LR__CHANNEL_MAX    ? m->most[i]
                       : statistic == LR__CHANNEL_MEAN ? m->absolute[i] * scale_of(m)
                                                       : sqrt(square_of(m, i) * scale_of(m));
        scale[i] = pow(value, alpha);
    }
    return LR_OK;
}
