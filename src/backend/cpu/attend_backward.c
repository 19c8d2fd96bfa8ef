/*
 * Backward of blocked attention. For each block of queries the softmax P is made again, and dP =
 * dout V'; with D the sums of P * dP along rows, dS = scale * P * (dP - D), dq = dS K, and dkeys +=
 * dS' q, dvalues += P' dout. P and dS of one block are all that is held. Source of the formulas:
 * Dao et al., "FlashAttention", arXiv 2205.14135, appendix B.2; D is summed from P and dP, so the
 * output of the forward is not needed.
 */
#include "backend/cpu/tiles.h"

#include <string.h>

/* A block of queries: rows `start` to `start + rows` of the task against keys `low` to `low +
 * keys`, which are those that any of the rows sees. */
typedef struct block {
    const lr__attend_parts *parts;
    const lr__attend_backward_task *task;
    int64_t start, rows;
    int64_t low, keys;
    int64_t ld;
    float *p, *ds; /* [rows][keys], rows ld apart */
} block;

/* Keys of the block, from `key` on, and the rows that see one of them. */
typedef struct panel {
    int64_t key, keys;
    int64_t top, rows;
} panel;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Row r sees the keys first_seen to end_seen - 1 of the block. */
static int64_t end_seen(const block *b, int64_t r) {
    return b->task->of.first + b->start + r + 1 - b->low;
}

static int64_t first_seen(const block *b, int64_t r) {
    int64_t window = b->task->window, end = end_seen(b, r);
    return window && end > window ? end - window : 0;
}

static panel panel_at(const block *b, int64_t key) {
    panel at = {.key = key, .keys = least(LR__PANEL, b->keys - key)};
    at.top = key >= end_seen(b, 0) ? key + 1 - end_seen(b, 0) : 0;
    int64_t bottom = b->rows;
    while (bottom > at.top && first_seen(b, bottom - 1) >= key + at.keys) bottom--;
    at.rows = bottom - at.top;
    return at;
}

/* y = x w' for the rows and keys of a panel: scores, and dP. */
static void dot_panel(const block *b, const panel *at, const float *x, int64_t ldx, const float *w,
                      int64_t ldw, float *y) {
    lr__mix_task mix = {.rows = at->rows,
                        .cols = at->keys,
                        .depth = b->task->of.dim,
                        .a = x + (b->start + at->top) * ldx,
                        .lda = ldx,
                        .b = w + (b->low + at->key) * ldw,
                        .ldb = ldw,
                        .y = y + at->top * b->ld + at->key,
                        .ldy = b->ld};
    lr__mix_transposed(b->parts, &mix);
}

static void clear_unseen(const block *b, int64_t begin, int64_t end, float *row) {
    memset(row, 0, (size_t)begin * sizeof *row);
    memset(row + end, 0, (size_t)(b->keys - end) * sizeof *row);
}

/* Scores and dP of row r become P and dS; what the row does not see becomes zero. */
static void turn_row(const block *b, int64_t r) {
    const lr__attend_parts *parts = b->parts;
    float scale = b->task->of.scale, mean;
    int64_t begin = first_seen(b, r), end = end_seen(b, r), n = end - begin;
    float *p = b->p + r * b->ld, *ds = b->ds + r * b->ld;
    clear_unseen(b, begin, end, p);
    clear_unseen(b, begin, end, ds);
    p += begin;
    ds += begin;
    parts->scale(n, scale, p, p);
    double sum = parts->exp_sum(n, p, parts->max(n, p), p);
    parts->scale(n, (float)(1.0 / sum), p, p);
    parts->dot_tile(1, 1, n, p, n, ds, n, &mean, 1);
    parts->multiply(n, p, ds);
    parts->scale(n, scale, ds, ds);
    parts->axpy(n, -scale * mean, p, ds);
}

/* dq of the panel's rows += dS K. */
static void add_to_queries(const block *b, const panel *at) {
    const lr__attend_task *of = &b->task->of;
    lr__mix_task mix = {.rows = at->rows,
                        .cols = of->dim,
                        .depth = at->keys,
                        .a = b->ds + at->top * b->ld + at->key,
                        .lda = b->ld,
                        .b = of->keys + (b->low + at->key) * of->ldk,
                        .ldb = of->ldk,
                        .y = b->task->dq + (b->start + at->top) * of->ldq,
                        .ldy = of->ldq,
                        .add = 1};
    lr__mix_rows(b->parts->mix, b->parts->mix_most, &mix);
}

/* y of the panel's keys += s' x, for s = P or dS. */
static void add_to_keys(const block *b, const panel *at, const float *s, const float *x,
                        int64_t ldx, float *y, int64_t ldy) {
    float turned[LR__PANEL * LR__ATTEND_QUERIES];
    lr__mix_task mix = {.rows = at->keys,
                        .cols = b->task->of.dim,
                        .depth = at->rows,
                        .a = turned,
                        .lda = LR__ATTEND_QUERIES,
                        .b = x + (b->start + at->top) * ldx,
                        .ldb = ldx,
                        .y = y + (b->low + at->key) * ldy,
                        .ldy = ldy,
                        .add = 1};
    b->parts->transpose(at->rows, at->keys, s + at->top * b->ld + at->key, b->ld, turned,
                        LR__ATTEND_QUERIES);
    lr__mix_rows(b->parts->mix, b->parts->mix_most, &mix);
}

static void turn_block(const block *b) {
    const lr__attend_backward_task *task = b->task;
    const lr__attend_task *of = &task->of;
    for (int64_t key = 0; key < b->keys; key += LR__PANEL) {
        panel at = panel_at(b, key);
        dot_panel(b, &at, of->q, of->ldq, of->keys, of->ldk, b->p);
        dot_panel(b, &at, task->dout, of->ldo, of->values, of->ldv, b->ds);
    }
    for (int64_t r = 0; r < b->rows; r++) {
        turn_row(b, r);
        memset(task->dq + (b->start + r) * of->ldq, 0, (size_t)of->dim * sizeof(float));
    }
    for (int64_t key = 0; key < b->keys; key += LR__PANEL) {
        panel at = panel_at(b, key);
        add_to_queries(b, &at);
        add_to_keys(b, &at, b->ds, of->q, of->ldq, task->dkeys, of->ldk);
        add_to_keys(b, &at, b->p, task->dout, of->ldo, task->dvalues, of->ldv);
    }
}

void lr__attend_many_backward(const lr__attend_parts *parts, const lr__attend_backward_task *task) {
    const lr__attend_task *of = &task->of;
    for (int64_t start = 0; start < of->queries; start += LR__ATTEND_QUERIES) {
        block b = {.parts = parts, .task = task, .start = start};
        int64_t seen = of->first + start + 1;
        b.rows = least(LR__ATTEND_QUERIES, of->queries - start);
        b.low = task->window && seen > task->window ? seen - task->window : 0;
        b.keys = seen + b.rows - 1 - b.low;
        b.ld = ((b.keys + 15) / 16 | 1) * 16; /* odd lines: rows spread over the cache's sets */
        b.p = of->scratch;
        b.ds = b.p + b.rows * b.ld;
        turn_block(&b);
    }
}
