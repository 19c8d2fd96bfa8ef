/* Attention out of the parts of one level: scores, softmax with the maximum taken off, the mean of
 * the values. Many queries go by blocks of rows; keys are transposed panel by panel so that scores
 * run in the same register tiles as the values. */
#include "backend/cpu/tiles.h"

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void lr__mix_transposed(const lr__attend_parts *parts, const lr__mix_task *task) {
    float panel[LR__PANEL * LR__PANEL];
    lr__mix_task mix = *task;
    mix.b = panel;
    mix.ldb = LR__PANEL;
    for (int64_t d = 0; d < task->depth; d += LR__PANEL) {
        mix.depth = least(LR__PANEL, task->depth - d);
        mix.a = task->a + d;
        mix.add = task->add || d > 0;
        parts->transpose(task->cols, mix.depth, task->b + d, task->ldb, panel, LR__PANEL);
        lr__mix_rows(parts->mix, parts->mix_most, &mix);
    }
}

/* Leaves the numerators in x and returns 1 / their sum. */
static float softmax(const lr__attend_parts *parts, int64_t n, float scale, float *x) {
    parts->scale(n, scale, x, x);
    return (float)(1.0 / parts->exp_sum(n, x, parts->max(n, x), x));
}

void lr__attend_one(const lr__attend_parts *parts, const lr__attend_task *task) {
    int64_t count = task->first + 1;
    float *scores = task->scratch;
    parts->dot_tile(1, count, task->dim, task->q, task->dim, task->keys, task->ldk, scores, count);
    float factor = softmax(parts, count, task->scale, scores);
    lr__mix_task mix = {.rows = 1,
                        .cols = task->dim,
                        .depth = count,
                        .a = scores,
                        .lda = count,
                        .b = task->values,
                        .ldb = task->ldv,
                        .y = task->out,
                        .ldy = task->dim};
    parts->mix[1](&mix);
    parts->scale(task->dim, factor, task->out, task->out);
}

/* A block of queries: rows `start` to `start + rows` of the task, scores `ld` apart. */
typedef struct block {
    const lr__attend_parts *parts;
    const lr__attend_task *task;
    int64_t start;
    int64_t rows;
    int64_t ld;
} block;

/* Keys that row r of the block sees. */
static int64_t seen(const block *b, int64_t r) { return b->task->first + b->start + r + 1; }

static void score_panel(const block *b, int64_t key) {
    const lr__attend_task *task = b->task;
    int64_t skip = key >= seen(b, 0) ? key + 1 - seen(b, 0) : 0;
    lr__mix_task mix = {.rows = b->rows - skip,
                        .cols = least(LR__PANEL, b->ld - key),
                        .depth = task->dim,
                        .a = task->q + (b->start + skip) * task->ldq,
                        .lda = task->ldq,
                        .b = task->keys + key * task->ldk,
                        .ldb = task->ldk,
                        .y = task->scratch + skip * b->ld + key,
                        .ldy = b->ld};
    lr__mix_transposed(b->parts, &mix);
}

/* Rows of one strip share the keys that the first of them sees; each later row adds its few more,
 * so a value that a row does not see never reaches it. */
static void mix_strip(const block *b, int64_t r, int64_t rows) {
    const lr__attend_task *task = b->task;
    int64_t common = seen(b, r);
    lr__mix_task mix = {.rows = rows,
                        .cols = task->dim,
                        .depth = common,
                        .a = task->scratch + r * b->ld,
                        .lda = b->ld,
                        .b = task->values,
                        .ldb = task->ldv,
                        .y = task->out + (b->start + r) * task->ldo,
                        .ldy = task->ldo};
    b->parts->mix[rows](&mix);
    mix.rows = mix.add = 1;
    mix.a += common;
    mix.b += common * task->ldv;
    for (int64_t i = 1; i < rows; i++) {
        mix.depth = i;
        mix.a += b->ld;
        mix.y += task->ldo;
        b->parts->mix[1](&mix);
    }
}

static void attend_rows(const block *b) {
    const lr__attend_task *task = b->task;
    float factor[LR__ATTEND_QUERIES];
    for (int64_t key = 0; key < b->ld; key += LR__PANEL) score_panel(b, key);
    for (int64_t r = 0; r < b->rows; r++)
        factor[r] = softmax(b->parts, seen(b, r), task->scale, task->scratch + r * b->ld);
    for (int64_t r = 0; r < b->rows; r += b->parts->mix_most)
        mix_strip(b, r, least(b->parts->mix_most, b->rows - r));
    for (int64_t r = 0; r < b->rows; r++) {
        float *out = task->out + (b->start + r) * task->ldo;
        b->parts->scale(task->dim, factor[r], out, out);
    }
}

void lr__attend_many(const lr__attend_parts *parts, const lr__attend_task *task) {
    for (int64_t start = 0; start < task->queries; start += LR__ATTEND_QUERIES) {
        block b = {.parts = parts, .task = task, .start = start};
        b.rows = least(LR__ATTEND_QUERIES, task->queries - start);
        b.ld = task->first + start + b.rows;
        attend_rows(&b);
    }
}
