/*
 * Matrix products over stored weights. The dot form gives each thread a block of outputs and runs
 * all rows over it: few rows, as in decoding. The batch form widens and packs a slab of outputs
 * once and runs tiles of rows over it: many rows, as in evaluation and training. In both the bits
 * of a row depend on that row alone; tiles follow docs/threads.md.
 */
#include "backend/matmul.h"
#include "backend/panels.h"

#include "tensor/dtype.h"

#include <string.h>

enum {
    BLOCK_OUTS = 32, /* outputs of one item of the dot form */
    BLOCK_ROWS = 64  /* rows that share a widened block while it is in the cache */
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
    float *scratch; /* for each thread: a block of widened weights and, in the dot form, a tile */
    size_t scratch_each;
    float *slab; /* [slab_outs, in] in panels */
    int64_t first, slab_outs;
    int64_t words; /* of a row as pairs of BF16; 0: the product is one of binary32 */
    float *pairs;  /* [tokens, words] */
} job;

static int is_as_stored(const lr__matmul *m) { return m->w->dtype == LR_F32 && !m->take; }

static const float *stored_floats(const lr__matmul *m, int64_t row) {
    return (const float *)m->w->data + row * m->w->cols;
}

/* Outputs [out, out + outs) of the matrix as binary32, rows m->in apart. */
static void widen_outputs(const job *j, int64_t out, int64_t outs, float *block) {
    const lr__matmul *m = j->m;
    if (!m->take) {
        lr__matrix_widen(j->kernels, m->w, out, outs, m->in, block, m->in);
        return;
    }
    for (int64_t o = 0; o < outs; o++) {
        int64_t row = m->take[out + o];
        if (row < m->take_limit)
            lr__matrix_widen(j->kernels, m->w, row, 1, m->in, block + o * m->in, m->in);
        else
            memset(block + o * m->in, 0, (size_t)m->in * sizeof *block);
    }
}

static void store_tile(const lr__matmul *m, int64_t token, int64_t tokens, int64_t out,
                       int64_t outs, const float *tile) {
    for (int64_t t = 0; t < tokens; t++) {
        float *y = m->y + (token + t) * m->ldy + out;
        const float *from = tile + t * BLOCK_OUTS;
        if (m->accumulate)
            for (int64_t o = 0; o < outs; o++) y[o] += m->scale * from[o];
        else
            for (int64_t o = 0; o < outs; o++) y[o] = m->scale * from[o];
    }
}

static int is_widened_in_registers(const job *j) {
    const lr__matmul *m = j->m;
    if (m->tokens != 1 || m->scale != 1 || m->accumulate) return 0;
    if (m->take && m->take_limit < m->w->rows) return 0;
    switch (m->w->dtype) {
    case LR_F32:
    case LR_BF16:
    case LR_F16:
    case LR_I8: return 1;
    case LR_Q8_0:
    case LR_Q4_1: return m->in % 32 == 0;
    default: return 0;
    }
}

static void stored_item(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const job *j = work;
    const lr__matmul *m = j->m;
    int64_t out = index * BLOCK_OUTS;
    int64_t outs = m->out - out < BLOCK_OUTS ? m->out - out : BLOCK_OUTS;
    lr__matrix part = m->take ? *m->w : lr__matrix_rows(m->w, out, outs);
    lr__stored_task task = {.dtype = part.dtype,
                            .outs = outs,
                            .k = m->in,
                            .x = m->x,
                            .w = part.data,
                            .row_bytes = (int64_t)row_bytes(m->w),
                            .take = m->take ? m->take + out : NULL,
                            .scales = part.scales,
                            .scale_bytes = lr__pieces(m->w->cols, 32) * (int64_t)sizeof(uint16_t),
                            .y = m->y + out};
    j->kernels->dot_stored(&task);
}

static void dot_item(void *work, int64_t index, int32_t thread) {
    const job *j = work;
    const lr__matmul *m = j->m;
    int64_t out = index * BLOCK_OUTS;
    int64_t outs = m->out - out < BLOCK_OUTS ? m->out - out : BLOCK_OUTS;
    float *tile = j->scratch + (size_t)thread * j->scratch_each;
    float *block = tile + BLOCK_OUTS * BLOCK_ROWS;
    const float *w = block;
    int64_t ldw = m->in;
    if (is_as_stored(m)) {
        w = stored_floats(m, out);
        ldw = m->w->cols;
    } else
        widen_outputs(j, out, outs, block);
    if (m->scale == 1 && !m->accumulate) {
        j->kernels->dot_tile(m->tokens, outs, m->in, m->x, m->ldx, w, ldw, m->y + out, m->ldy);
        return;
    }
    for (int64_t t = 0; t < m->tokens; t += BLOCK_ROWS) {
        int64_t tokens = m->tokens - t < BLOCK_ROWS ? m->tokens - t : BLOCK_ROWS;
        j->kernels->dot_tile(tokens, outs, m->in, m->x + t * m->ldx, m->ldx, w, ldw, tile,
                             BLOCK_OUTS);
        store_tile(m, t, tokens, out, outs, tile);
    }
}

static lr_status take_scratch(job *j, const lr__device *device, lr__arena *arena, size_t each) {
    j->scratch_each = each;
    return lr__arena_take(arena, &j->scratch, each * (size_t)lr__pool_threads(device->pool),
                          sizeof(float));
}

static lr_status run_dots(const lr__device *device, lr__arena *arena, const lr__matmul *m) {
    job j = {.m = m, .kernels = device->kernels};
    int64_t items = lr__pieces(m->out, BLOCK_OUTS);
    if (is_widened_in_registers(&j)) {
        lr__pool_run(device->pool, items, stored_item, &j);
        return LR_OK;
    }
    lr_status status = take_scratch(&j, device, arena, BLOCK_OUTS * (size_t)(m->in + BLOCK_ROWS));
    if (status < 0) return status;
    lr__pool_run(device->pool, items, dot_item, &j);
    return LR_OK;
}

/* Rows of binary32 as pairs of BF16; behind an odd row comes a zero. */
static void round_rows(const job *j, int64_t rows, const float *from, int64_t ld, float *to) {
    const lr__matmul *m = j->m;
    for (int64_t r = 0; r < rows; r++) {
        uint16_t *row = (uint16_t *)(to + r * j->words);
        j->kernels->narrow(LR_BF16, from + r * ld, (size_t)m->in, row);
        if (m->in % 2) row[m->in] = 0;
    }
}

static void round_item(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const job *j = work;
    const lr__matmul *m = j->m;
    int64_t row = index * BLOCK_ROWS;
    int64_t rows = m->tokens - row < BLOCK_ROWS ? m->tokens - row : BLOCK_ROWS;
    round_rows(j, rows, m->x + row * m->ldx, m->ldx, j->pairs + row * j->words);
}

static void pack_item(void *work, int64_t index, int32_t thread) {
    const job *j = work;
    const lr__matmul *m = j->m;
    int64_t out = index * LR__PACK_COLS;
    int64_t outs = j->slab_outs - out < LR__PACK_COLS ? j->slab_outs - out : LR__PACK_COLS;
    float *panels = j->slab + out * (j->words ? j->words : m->in);
    if (is_as_stored(m) && m->scale == 1) {
        j->kernels->pack(outs, m->in, stored_floats(m, j->first + out), m->w->cols, panels);
        return;
    }
    float *block = j->scratch + (size_t)thread * j->scratch_each;
    widen_outputs(j, j->first + out, outs, block);
    if (m->scale != 1) j->kernels->scale(outs * m->in, m->scale, block, block);
    if (j->words) {
        float *rounded = block + LR__PACK_COLS * m->in;
        round_rows(j, outs, block, m->in, rounded);
        j->kernels->pack(outs, j->words, rounded, j->words, panels);
    } else
        j->kernels->pack(outs, m->in, block, m->in, panels);
}

static lr_status take_batch(job *j, const lr__device *device, lr__arena *arena) {
    const lr__matmul *m = j->m;
    int64_t most = m->out < LR__SLAB_COLS ? m->out : LR__SLAB_COLS;
    size_t slab = (size_t)lr__panel_numbers(most, j->words ? j->words : m->in);
    lr_status status = lr__arena_take(arena, &j->slab, slab, sizeof(float));
    if (status >= 0 && j->words)
        status = lr__arena_take(arena, &j->pairs, (size_t)(m->tokens * j->words), sizeof(float));
    if (status >= 0 && !(is_as_stored(m) && m->scale == 1))
        status = take_scratch(j, device, arena, LR__PACK_COLS * (size_t)(m->in + j->words));
    return status;
}

static void multiply_slab(const job *j, const lr__device *device) {
    const lr__matmul *m = j->m;
    lr__panel_task task = {.rows = m->tokens,
                           .cols = j->slab_outs,
                           .depth = m->in,
                           .x = m->x,
                           .ldx = m->ldx,
                           .panels = j->slab,
                           .y = m->y + j->first,
                           .ldy = m->ldy,
                           .add = m->accumulate};
    if (!j->words) {
        lr__panels_multiply(device, &task);
        return;
    }
    task.depth = task.ldx = j->words;
    task.x = j->pairs;
    lr__panels_multiply_pairs(device, &task);
}

static lr_status run_batch(const lr__device *device, lr__arena *arena, const lr__matmul *m) {
    job j = {.m = m, .kernels = device->kernels};
    if (device->multiply_pairs && m->w->dtype != LR_F32) j.words = lr__pieces(m->in, 2);
    lr_status status = take_batch(&j, device, arena);
    if (status < 0) return status;
    if (j.words) lr__pool_run(device->pool, lr__pieces(m->tokens, BLOCK_ROWS), round_item, &j);
    for (j.first = 0; j.first < m->out; j.first += LR__SLAB_COLS) {
        j.slab_outs = m->out - j.first < LR__SLAB_COLS ? m->out - j.first : LR__SLAB_COLS;
        lr__pool_run(device->pool, lr__pieces(j.slab_outs, LR__PACK_COLS), pack_item, &j);
        multiply_slab(&j, device);
    }
    return LR_OK;
}

lr_status lr__matmul_run(const lr__device *device, lr__arena *arena, const lr__matmul *m) {
    if (m->out <= 0 || m->tokens <= 0) return LR_OK;
    lr__arena_mark mark = lr__arena_here(arena);
    lr_status status = m->batch ? run_batch(device, arena, m) : run_dots(device, arena, m);
    lr__arena_release(arena, mark);
    return status;
}
