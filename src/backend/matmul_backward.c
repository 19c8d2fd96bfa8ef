/*
 * dX = dY W and dW = dY' X, as products with packed columns: of W as it lies, widened row by row,
 * and of X. The depth is cut so that packed numbers stay a few megabytes.
 */
#include "backend/matmul.h"
#include "backend/panels.h"
#include "tensor/dtype.h"

#include <string.h>

enum { PACK_ROWS = 16, TURN_COLS = 16 };

typedef struct job {
    const lr__matmul_backward *m;
    const lr__kernels *kernels;
    float *scratch; /* [threads][scratch_each] */
    size_t scratch_each;
    float *panels;        /* [depth, cols] */
    float *turned;        /* [rows, depth] of dY' */
    int64_t first, depth; /* of the depth */
    int64_t col, cols;
    int64_t row, rows;
} job;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Row of W that makes output `out`; negative: none does. */
static int64_t row_of(const lr__matmul_backward *m, int64_t out) {
    if (!m->take) return out;
    return m->take[out] < m->take_limit ? m->take[out] : -1;
}

/* ---- dX: the depth are outputs ---- */

static void pack_weights(void *work, int64_t index, int32_t thread) {
    const job *j = work;
    const lr__matmul_backward *m = j->m;
    float *row = j->scratch + (size_t)thread * j->scratch_each;
    int64_t begin = index * PACK_ROWS, end = least(begin + PACK_ROWS, j->depth);
    if (m->w->dtype == LR_F32 && !m->take && m->scale == 1) {
        const float *stored = (const float *)m->w->data + (j->first + begin) * m->w->cols;
        lr__panels_set_rows(j->kernels, stored + j->col, m->w->cols, end - begin, j->cols, j->depth,
                            begin, j->panels);
        return;
    }
    for (int64_t d = begin; d < end; d++) {
        int64_t at = row_of(m, j->first + d);
        if (at < 0)
            memset(row, 0, (size_t)m->in * sizeof *row);
        else
            lr__matrix_widen(j->kernels, m->w, at, 1, m->in, row, m->in);
        if (m->scale != 1) j->kernels->scale(m->in, m->scale, row, row);
        lr__panels_set_rows(j->kernels, row + j->col, 0, 1, j->cols, j->depth, d, j->panels);
    }
}

static void add_to_dx(job *j, const lr__device *device) {
    const lr__matmul_backward *m = j->m;
    for (j->first = 0; j->first < m->out; j->first += LR__SLAB_DEPTH) {
        j->depth = least(m->out - j->first, LR__SLAB_DEPTH);
        lr__pool_run(device->pool, lr__pieces(j->depth, PACK_ROWS), pack_weights, j);
        lr__panel_task task = {.rows = m->tokens,
                               .cols = j->cols,
                               .depth = j->depth,
                               .x = m->dy + j->first,
                               .ldx = m->lddy,
                               .panels = j->panels,
                               .y = m->dx + j->col,
                               .ldy = m->lddx,
                               .add = m->accumulate || j->first > 0};
        lr__panels_multiply(device, &task);
    }
}

static lr_status run_dx(job *j, const lr__device *device, lr__arena *arena) {
    const lr__matmul_backward *m = j->m;
    lr_status status = LR_OK;
    size_t threads = (size_t)lr__pool_threads(device->pool);
    j->scratch_each = (size_t)m->in;
    LR_TRY(lr__arena_take(arena, &j->scratch, threads * j->scratch_each, sizeof(float)));
    LR_TRY(lr__arena_take(
        arena, &j->panels,
        (size_t)lr__panel_numbers(least(m->in, LR__SLAB_COLS), least(m->out, LR__SLAB_DEPTH)),
        sizeof(float)));
    for (j->col = 0; j->col < m->in; j->col += LR__SLAB_COLS) {
        j->cols = least(m->in - j->col, LR__SLAB_COLS);
        add_to_dx(j, device);
    }
done:
    return status;
}

/* ---- dW: the depth are tokens ---- */

static void pack_inputs(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const job *j = work;
    const lr__matmul_backward *m = j->m;
    int64_t begin = index * PACK_ROWS, end = least(begin + PACK_ROWS, j->depth);
    lr__panels_set_rows(j->kernels, m->x + (j->first + begin) * m->ldx + j->col, m->ldx,
                        end - begin, j->cols, j->depth, begin, j->panels);
}

/* Rows of dY' by a few columns of dY each: as they lie, or to where `take` has them from. */
static void turn_outputs(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const job *j = work;
    const lr__matmul_backward *m = j->m;
    int64_t begin = index * TURN_COLS, cols = least(j->rows - begin, TURN_COLS);
    float *to = j->turned + begin * j->depth;
    j->kernels->transpose(j->depth, cols, m->dy + j->first * m->lddy + j->row + begin, m->lddy, to,
                          j->depth);
    if (m->scale != 1) j->kernels->scale(cols * j->depth, m->scale, to, to);
}

/* Outputs that read one row of W meet in it, so one item does them all. */
static void turn_taken(const job *j) {
    const lr__matmul_backward *m = j->m;
    memset(j->turned, 0, (size_t)(j->rows * j->depth) * sizeof *j->turned);
    for (int64_t o = 0; o < m->out; o++) {
        int64_t at = row_of(m, o) - j->row;
        if (row_of(m, o) < 0 || at < 0 || at >= j->rows) continue;
        for (int64_t d = 0; d < j->depth; d++)
            j->turned[at * j->depth + d] += m->scale * m->dy[(j->first + d) * m->lddy + o];
    }
}

static void add_to_dw(job *j, const lr__device *device) {
    const lr__matmul_backward *m = j->m;
    int64_t rows = m->take ? least(m->take_limit, m->w->rows) : m->out;
    lr__pool_run(device->pool, lr__pieces(j->depth, PACK_ROWS), pack_inputs, j);
    for (j->row = 0; j->row < rows; j->row += LR__SLAB_COLS) {
        j->rows = least(rows - j->row, LR__SLAB_COLS);
        if (m->take)
            turn_taken(j);
        else
            lr__pool_run(device->pool, lr__pieces(j->rows, TURN_COLS), turn_outputs, j);
        lr__panel_task task = {.rows = j->rows,
                               .cols = j->cols,
                               .depth = j->depth,
                               .x = j->turned,
                               .ldx = j->depth,
                               .panels = j->panels,
                               .y = m->dw + j->row * m->w->cols + j->col,
                               .ldy = m->w->cols,
                               .add = m->dw_adds || j->first > 0};
        lr__panels_multiply(device, &task);
    }
}

static lr_status run_dw(job *j, const lr__device *device, lr__arena *arena) {
    const lr__matmul_backward *m = j->m;
    lr_status status = LR_OK;
    int64_t depth = least(m->tokens, LR__SLAB_DEPTH);
    LR_TRY(lr__arena_take(arena, &j->panels,
                          (size_t)lr__panel_numbers(least(m->in, LR__SLAB_COLS), depth),
                          sizeof(float)));
    LR_TRY(lr__arena_take(arena, &j->turned, (size_t)(least(m->w->rows, LR__SLAB_COLS) * depth),
                          sizeof(float)));
    for (j->first = 0; j->first < m->tokens; j->first += LR__SLAB_DEPTH) {
        j->depth = least(m->tokens - j->first, LR__SLAB_DEPTH);
        for (j->col = 0; j->col < m->in; j->col += LR__SLAB_COLS) {
            j->cols = least(m->in - j->col, LR__SLAB_COLS);
            add_to_dw(j, device);
        }
    }
done:
    return status;
}

lr_status lr__matmul_backward_run(const lr__device *device, lr__arena *arena,
                                  const lr__matmul_backward *m) {
    job j = {.m = m, .kernels = device->kernels};
    lr_status status = LR_OK;
    lr__arena_mark mark = lr__arena_here(arena);
    if (m->out <= 0 || m->in <= 0 || m->tokens <= 0) return LR_OK;
    if (m->dx) status = run_dx(&j, device, arena);
    lr__arena_release(arena, mark);
    if (status >= 0 && m->dw) status = run_dw(&j, device, arena);
    lr__arena_release(arena, mark);
    return status;
}
