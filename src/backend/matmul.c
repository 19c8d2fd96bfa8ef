/*
 * Matrix products over stored weights. The row-invariant form gives each thread a block of outputs
 * and runs all rows over it; the batch form widens a panel of outputs once and hands tiles of it
 * to the library's GEMM. Tiles follow docs/threads.md and depend on sizes and thread count only.
 */
#include "backend/matmul.h"

#include "backend/blas.h"
#include "tensor/dtype.h"

enum {
    ROW_OUTS = 32,     /* outputs of one item of the row-invariant form */
    ROW_TOKENS = 64,   /* rows that share a widened block while it is in the cache */
    PANEL_OUTS = 1536, /* outputs of one panel of the batch form */
    HEAD_OUTS = 1024,  /* the same where more panels than one are needed */
    MOST_TILE_TOKENS = 1024,
    LEAST_TILE_TOKENS = 128,
    LEAST_TILE_OUTS = 192
};

static size_t row_bytes(const lr__matrix *w) { return lr__dtype_bytes(w->dtype, w->cols); }

lr__matrix lr__matrix_rows(const lr__matrix *w, int64_t row, int64_t rows) {
    lr__matrix part = *w;
    part.rows = rows;
    part.data = (const char *)w->data + (size_t)row * row_bytes(w);
    if (w->scales) part.scales = (const uint16_t *)w->scales + row * ((w->cols + 31) / 32);
    return part;
}

static void widen_split_row(const lr__kernels *kernels, const lr__matrix *w, int64_t row,
                            int64_t cols, float *dst) {
    int64_t blocks = (w->cols + 31) / 32;
    const int8_t *values = (const int8_t *)w->data + row * w->cols;
    const uint16_t *scales = (const uint16_t *)w->scales + row * blocks;
    for (int64_t block = 0; block * 32 < cols; block++) {
        float scale;
        kernels->widen(LR_F16, scales + block, 1, &scale);
        for (int64_t j = block * 32; j < cols && j < block * 32 + 32; j++)
            dst[j] = scale * (float)values[j];
    }
}

void lr__matrix_widen(const lr__kernels *kernels, const lr__matrix *w, int64_t row, int64_t rows,
                      int64_t cols, float *dst, int64_t ld) {
    size_t bytes = row_bytes(w);
    for (int64_t i = 0; i < rows; i++) {
        if (w->dtype == LR_I8)
            widen_split_row(kernels, w, row + i, cols, dst + i * ld);
        else
            kernels->widen(w->dtype, (const char *)w->data + (size_t)(row + i) * bytes,
                           (size_t)cols, dst + i * ld);
    }
}

typedef struct job {
    const lr__matmul *m;
    const lr__kernels *kernels;
    float *scratch; /* row form: [threads][ROW_OUTS * (in + ROW_TOKENS)]; batch form: the panel */
    int64_t panel, panel_outs, tile_tokens, tile_outs, tiles_across;
} job;

static const float *stored_floats(const lr__matmul *m, int64_t row) {
    return (const float *)m->w->data + row * m->w->cols;
}

static void store_tile(const lr__matmul *m, int64_t token, int64_t tokens, int64_t out,
                       int64_t outs, const float *tile) {
    for (int64_t t = 0; t < tokens; t++) {
        float *y = m->y + (token + t) * m->ldy + out;
        const float *from = tile + t * ROW_OUTS;
        if (m->accumulate)
            for (int64_t o = 0; o < outs; o++) y[o] += m->scale * from[o];
        else
            for (int64_t o = 0; o < outs; o++) y[o] = m->scale * from[o];
    }
}

static void run_row_item(void *work, int64_t index, int32_t thread) {
    const job *j = work;
    const lr__matmul *m = j->m;
    int64_t out = index * ROW_OUTS;
    int64_t outs = m->out - out < ROW_OUTS ? m->out - out : ROW_OUTS;
    float *tile = j->scratch + (int64_t)thread * ROW_OUTS * (m->in + ROW_TOKENS);
    float *block = tile + ROW_OUTS * ROW_TOKENS;
    const float *w = block;
    int64_t ldw = m->in;
    if (m->w->dtype == LR_F32) {
        w = stored_floats(m, out);
        ldw = m->w->cols;
    } else
        lr__matrix_widen(j->kernels, m->w, out, outs, m->in, block, m->in);
    if (m->scale == 1 && !m->accumulate) {
        j->kernels->dot_tile(m->tokens, outs, m->in, m->x, m->ldx, w, ldw, m->y + out, m->ldy);
        return;
    }
    for (int64_t t = 0; t < m->tokens; t += ROW_TOKENS) {
        int64_t tokens = m->tokens - t < ROW_TOKENS ? m->tokens - t : ROW_TOKENS;
        j->kernels->dot_tile(tokens, outs, m->in, m->x + t * m->ldx, m->ldx, w, ldw, tile,
                             ROW_OUTS);
        store_tile(m, t, tokens, out, outs, tile);
    }
}

static lr_status run_rows(const lr__device *device, lr__arena *arena, const lr__matmul *m) {
    job j = {.m = m, .kernels = device->kernels};
    size_t each = ROW_OUTS * (size_t)(m->in + ROW_TOKENS);
    lr_status status = lr__arena_take(arena, &j.scratch,
                                      each * (size_t)lr__pool_threads(device->pool), sizeof(float));
    if (status < 0) return status;
    lr__pool_run(device->pool, (m->out + ROW_OUTS - 1) / ROW_OUTS, run_row_item, &j);
    return LR_OK;
}

static void widen_item(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const job *j = work;
    int64_t row = index * ROW_OUTS;
    int64_t rows = j->panel_outs - row < ROW_OUTS ? j->panel_outs - row : ROW_OUTS;
    lr__matrix_widen(j->kernels, j->m->w, j->panel + row, rows, j->m->in,
                     j->scratch + row * j->m->in, j->m->in);
}

static void gemm_item(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const job *j = work;
    const lr__matmul *m = j->m;
    int64_t t = index / j->tiles_across * j->tile_tokens;
    int64_t o = index % j->tiles_across * j->tile_outs;
    int64_t tokens = m->tokens - t < j->tile_tokens ? m->tokens - t : j->tile_tokens;
    int64_t outs = j->panel_outs - o < j->tile_outs ? j->panel_outs - o : j->tile_outs;
    int is_stored = m->w->dtype == LR_F32;
    const float *w = is_stored ? stored_floats(m, j->panel + o) : j->scratch + o * m->in;
    lr__blas_nt(tokens, outs, m->in, m->scale, m->x + t * m->ldx, m->ldx, w,
                is_stored ? m->w->cols : m->in, m->accumulate ? 1.0f : 0.0f,
                m->y + t * m->ldy + j->panel + o, m->ldy);
}

static int64_t pieces(int64_t whole, int64_t piece) { return (whole + piece - 1) / piece; }

/* Tall tiles, because each packs its part of W anew, but two for each thread where there are rows
 * enough, so that the slower core does not set the time. */
static void choose_tiles(job *j, int64_t threads) {
    int64_t tokens = j->m->tokens, wanted = threads == 1 ? 1 : 2 * threads;
    j->tile_tokens = pieces(tokens, wanted);
    if (j->tile_tokens < LEAST_TILE_TOKENS) j->tile_tokens = LEAST_TILE_TOKENS;
    if (j->tile_tokens > MOST_TILE_TOKENS) j->tile_tokens = MOST_TILE_TOKENS;
    j->tile_outs = j->panel_outs;
    while (pieces(tokens, j->tile_tokens) * pieces(j->panel_outs, j->tile_outs) < wanted &&
           j->tile_outs / 2 >= LEAST_TILE_OUTS)
        j->tile_outs = (j->tile_outs + 1) / 2;
    j->tiles_across = pieces(j->panel_outs, j->tile_outs);
}

static lr_status run_batch(const lr__device *device, lr__arena *arena, const lr__matmul *m) {
    job j = {.m = m, .kernels = device->kernels};
    int64_t step = m->out <= PANEL_OUTS ? PANEL_OUTS : HEAD_OUTS;
    if (m->w->dtype != LR_F32) {
        size_t outs = (size_t)(m->out < step ? m->out : step);
        lr_status status = lr__arena_take(arena, &j.scratch, outs * (size_t)m->in, sizeof(float));
        if (status < 0) return status;
    }
    lr__blas_enter();
    for (j.panel = 0; j.panel < m->out; j.panel += step) {
        j.panel_outs = m->out - j.panel < step ? m->out - j.panel : step;
        choose_tiles(&j, lr__pool_threads(device->pool));
        if (j.scratch) lr__pool_run(device->pool, pieces(j.panel_outs, ROW_OUTS), widen_item, &j);
        lr__pool_run(device->pool, pieces(m->tokens, j.tile_tokens) * j.tiles_across, gemm_item,
                     &j);
    }
    lr__blas_leave();
    return LR_OK;
}

lr_status lr__matmul_run(const lr__device *device, lr__arena *arena, const lr__matmul *m) {
    if (m->out <= 0 || m->tokens <= 0) return LR_OK;
    lr__arena_mark mark = lr__arena_here(arena);
    lr_status status = m->batch ? run_batch(device, arena, m) : run_rows(device, arena, m);
    lr__arena_release(arena, mark);
    return status;
}
