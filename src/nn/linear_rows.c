/*
 * Rows of the product F_1 F_2 ... F_k, evaluated from the left: e_r F_1, then times F_2, and so on.
 * Up to the first matrix such a row has at most one number that is not zero (a place and a factor),
 * so what stands before it costs nothing and stays exact; from there on rows are full and matrices
 * are widened panel by panel.
 */
#include "nn/linear_rows.h"

#include "backend/blas.h"

#include <string.h>

enum { STEP_NUMBERS = 1 << 20, STEP_MOST = 512, PANEL_ROWS = 256, WIDEN_ROWS = 32, TILE = 512 };

int64_t lr__linear_rows_step(const lr_linear *linear) {
    int64_t widest = linear->in;
    for (int32_t t = 0; t < linear->term_count; t++)
        for (int32_t i = 0; i < linear->terms[t].count; i++) {
            const lr__op *op = &linear->terms[t].ops[i];
            if (i > 0 && op->out > widest) widest = op->out;
            if (op->in > widest) widest = op->in;
        }
    int64_t step = STEP_NUMBERS / widest;
    return step < 1 ? 1 : step > STEP_MOST ? STEP_MOST : step;
}

/* Rows on their way through a chain. */
typedef struct walk {
    const lr__device *device;
    lr__arena *arena;
    int64_t rows, width;
    int32_t *place; /* while values is NULL: column of the one number, -1: none */
    float *factor;
    float *values; /* [rows, width] */
} walk;

/* --- before the first matrix --- */

static lr_status unscatter_places(walk *w, const lr__op *op) {
    int32_t *from;
    lr_status status = lr__arena_take(w->arena, &from, (size_t)op->out, sizeof *from);
    if (status < 0) return status;
    for (int64_t i = 0; i < op->out; i++) from[i] = -1;
    for (int64_t i = 0; i < op->in; i++) from[op->index->values[i]] = (int32_t)i;
    for (int64_t r = 0; r < w->rows; r++)
        if (w->place[r] >= 0) w->place[r] = from[w->place[r]];
    return LR_OK;
}

static lr_status scale_places(walk *w, const lr__op *op) {
    float *diagonal;
    lr_status status = lr__arena_take(w->arena, &diagonal, (size_t)op->out, sizeof *diagonal);
    if (status < 0) return status;
    lr__param_widen(w->device->kernels, op->param, diagonal);
    for (int64_t r = 0; r < w->rows; r++)
        if (w->place[r] >= 0) w->factor[r] *= diagonal[w->place[r]];
    return LR_OK;
}

static lr_status pick_rows(walk *w, const lr__op *op) {
    lr_status status =
        lr__arena_take(w->arena, &w->values, (size_t)(w->rows * op->in), sizeof *w->values);
    for (int64_t r = 0; status >= 0 && r < w->rows; r++) {
        float *row = w->values + r * op->in;
        memset(row, 0, (size_t)op->in * sizeof *row);
        if (w->place[r] < 0) continue;
        lr__matrix_widen(w->device->kernels, &op->param->matrix, w->place[r], 1, op->in, row,
                         op->in);
        if (w->factor[r] != 1.0f) w->device->kernels->scale(op->in, w->factor[r], row, row);
    }
    return status;
}

static lr_status step_places(walk *w, const lr__op *op) {
    switch (op->kind) {
    case LR__OP_GATHER:
        for (int64_t r = 0; r < w->rows; r++)
            if (w->place[r] >= 0) w->place[r] = op->index->values[w->place[r]];
        return LR_OK;
    case LR__OP_SCATTER: return unscatter_places(w, op);
    case LR__OP_DIAGONAL: return scale_places(w, op);
    default: return pick_rows(w, op);
    }
}

/* --- from the first matrix on --- */

typedef struct panel {
    const walk *w;
    const lr__matrix *matrix;
    int64_t first, rows;
    const float *numbers; /* [rows, cols of the matrix] */
    float *widened, *out;
} panel;

static void widen_item(void *work, int64_t index, int32_t thread) {
    const panel *p = work;
    int64_t row = index * WIDEN_ROWS, cols = p->matrix->cols;
    int64_t rows = p->rows - row < WIDEN_ROWS ? p->rows - row : WIDEN_ROWS;
    (void)thread;
    lr__matrix_widen(p->w->device->kernels, p->matrix, p->first + row, rows, cols,
                     p->widened + row * cols, cols);
}

static void multiply_item(void *work, int64_t index, int32_t thread) {
    const panel *p = work;
    int64_t col = index * TILE, cols = p->matrix->cols;
    (void)thread;
    lr__blas_nn(p->w->rows, cols - col < TILE ? cols - col : TILE, p->rows, p->w->values + p->first,
                p->w->width, p->numbers + col, cols, p->out + col, cols);
}

static lr_status times_matrix(walk *w, const lr__op *op) {
    const lr__matrix *m = &op->param->matrix;
    panel p = {.w = w, .matrix = m};
    lr_status status = LR_OK;
    size_t numbers = (size_t)(w->rows * m->cols);
    LR_TRY(lr__arena_take(w->arena, &p.out, numbers, sizeof *p.out));
    if (m->dtype != LR_F32)
        LR_TRY(lr__arena_take(w->arena, &p.widened, PANEL_ROWS * (size_t)m->cols, sizeof(float)));
    memset(p.out, 0, numbers * sizeof *p.out);
    lr__blas_enter();
    for (; p.first < m->rows; p.first += PANEL_ROWS) {
        p.rows = m->rows - p.first < PANEL_ROWS ? m->rows - p.first : PANEL_ROWS;
        p.numbers = p.widened ? p.widened : (const float *)m->data + p.first * m->cols;
        if (p.widened)
            lr__pool_run(w->device->pool, (p.rows + WIDEN_ROWS - 1) / WIDEN_ROWS, widen_item, &p);
        lr__pool_run(w->device->pool, (m->cols + TILE - 1) / TILE, multiply_item, &p);
    }
    lr__blas_leave();
    w->values = p.out;
done:
    return status;
}

static lr_status times_diagonal(walk *w, const lr__op *op) {
    float *diagonal;
    lr_status status = lr__arena_take(w->arena, &diagonal, (size_t)op->out, sizeof *diagonal);
    if (status < 0) return status;
    lr__param_widen(w->device->kernels, op->param, diagonal);
    for (int64_t r = 0; r < w->rows; r++)
        w->device->kernels->multiply(op->out, diagonal, w->values + r * op->out);
    return LR_OK;
}

static lr_status times_map(walk *w, const lr__op *op) {
    const int32_t *map = op->index->values;
    float *out;
    size_t numbers = (size_t)(w->rows * op->in);
    lr_status status = lr__arena_take(w->arena, &out, numbers, sizeof *out);
    if (status < 0) return status;
    memset(out, 0, numbers * sizeof *out);
    for (int64_t r = 0; r < w->rows; r++) {
        const float *from = w->values + r * op->out;
        float *to = out + r * op->in;
        if (op->kind == LR__OP_GATHER)
            for (int64_t i = 0; i < op->out; i++) to[map[i]] += from[i];
        else
            for (int64_t i = 0; i < op->in; i++) to[i] = from[map[i]];
    }
    w->values = out;
    return LR_OK;
}

static lr_status step_values(walk *w, const lr__op *op) {
    switch (op->kind) {
    case LR__OP_MATRIX: return times_matrix(w, op);
    case LR__OP_DIAGONAL: return times_diagonal(w, op);
    default: return times_map(w, op);
    }
}

static void add_walk(const walk *w, float scale, float *dst) {
    if (w->values) {
        w->device->kernels->axpy(w->rows * w->width, scale, w->values, dst);
        return;
    }
    for (int64_t r = 0; r < w->rows; r++)
        if (w->place[r] >= 0) dst[r * w->width + w->place[r]] += scale * w->factor[r];
}

static lr_status add_term(const lr_linear *linear, lr__arena *arena, const lr__term *term,
                          int64_t row, int64_t rows, float *dst) {
    lr_status status = LR_OK;
    walk w = {.device = &linear->ctx->device, .arena = arena, .rows = rows, .width = linear->out};
    LR_TRY(lr__arena_take(arena, &w.place, (size_t)rows, sizeof *w.place));
    LR_TRY(lr__arena_take(arena, &w.factor, (size_t)rows, sizeof *w.factor));
    for (int64_t r = 0; r < rows; r++) {
        w.place[r] = (int32_t)(row + r);
        w.factor[r] = 1;
    }
    for (int32_t i = 0; i < term->count; i++) {
        LR_TRY(w.values ? step_values(&w, &term->ops[i]) : step_places(&w, &term->ops[i]));
        w.width = term->ops[i].in;
    }
    add_walk(&w, term->scale, dst);
done:
    return status;
}

lr_status lr__linear_rows(const lr_linear *linear, lr__arena *arena, int64_t row, int64_t rows,
                          float *dst) {
    lr_status status = LR_OK;
    if (lr_linear_kind(linear) == LR_LINEAR_DENSE) {
        lr__linear_dense_rows(linear, row, rows, dst);
        return LR_OK;
    }
    lr__arena_mark mark = lr__arena_here(arena);
    memset(dst, 0, (size_t)(rows * linear->in) * sizeof *dst);
    for (int32_t t = 0; t < linear->term_count && status >= 0; t++) {
        if (linear->terms[t].overlay) continue;
        status = add_term(linear, arena, &linear->terms[t], row, rows, dst);
        lr__arena_release(arena, mark);
    }
    return status;
}
