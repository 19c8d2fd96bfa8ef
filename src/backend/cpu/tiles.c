/* Cache blocking around the register tiles: a block of weights stays in the second-level cache
 * while all strips of rows pass over it, and a strip stays in the first while it meets the block.
 */
#include "backend/cpu/tiles.h"

enum {
    BLOCK_NUMBERS = 1 << 16, /* 256 KiB of weights */
    MOST_DEPTH = 1024        /* so that a strip of rows stays in the first-level cache */
};

/* First row of strip `index` when `rows` are cut evenly into `strips`: no strip is left small. */
static int64_t strip_start(int64_t rows, int64_t strips, int64_t index) {
    return rows / strips * index + (rows % strips * index) / strips;
}

static int64_t block_of_outs(int64_t k) {
    int64_t outs = k > 0 ? BLOCK_NUMBERS / k / 8 * 8 : BLOCK_NUMBERS;
    return outs < 8 ? 8 : outs;
}

void lr__dot_rows(const lr__dot_strip *strips, int64_t most, int64_t rows, int64_t outs, int64_t k,
                  const float *x, int64_t ldx, const float *w, int64_t ldw, float *y, int64_t ldy) {
    int64_t count = (rows + most - 1) / most;
    int64_t block = block_of_outs(k);
    for (int64_t o = 0; o < outs; o += block) {
        int64_t here = outs - o < block ? outs - o : block;
        for (int64_t i = 0; i < count; i++) {
            int64_t r = strip_start(rows, count, i);
            int64_t height = strip_start(rows, count, i + 1) - r;
            strips[height](here, k, x + r * ldx, ldx, w + o * ldw, ldw, y + r * ldy + o, ldy);
        }
    }
}

void lr__mix_rows(const lr__mix_strip *strips, int64_t most, const lr__mix_task *task) {
    int64_t count = (task->rows + most - 1) / most;
    for (int64_t i = 0; i < count; i++) {
        int64_t r = strip_start(task->rows, count, i);
        lr__mix_task strip = *task;
        strip.rows = strip_start(task->rows, count, i + 1) - r;
        strip.a += r * task->lda;
        strip.y += r * task->ldy;
        strips[strip.rows](&strip);
    }
}

/* The part of the depth that starts at `from`. */
static void mix_part(const lr__mix_strip *strips, int64_t most, int64_t width,
                     const lr__panel_task *task, int64_t from, int64_t depth) {
    int64_t count = (task->rows + most - 1) / most;
    for (int64_t i = 0; i < count; i++) {
        int64_t r = strip_start(task->rows, count, i);
        lr__mix_task mix = {.rows = strip_start(task->rows, count, i + 1) - r,
                            .depth = depth,
                            .a = task->x + r * task->ldx + from,
                            .lda = task->ldx,
                            .ldb = width,
                            .ldy = task->ldy,
                            .add = task->add || from > 0};
        for (int64_t c = 0; c < task->cols; c += width) {
            mix.cols = task->cols - c < width ? task->cols - c : width;
            mix.b = task->panels + c * task->depth + from * width;
            mix.y = task->y + r * task->ldy + c;
            strips[mix.rows](&mix);
        }
    }
}

void lr__mix_panels(const lr__mix_strip *strips, int64_t most, int64_t width,
                    const lr__panel_task *task) {
    int64_t parts = (task->depth + MOST_DEPTH - 1) / MOST_DEPTH;
    for (int64_t part = 0; part < parts; part++) {
        int64_t from = strip_start(task->depth, parts, part);
        mix_part(strips, most, width, task, from, strip_start(task->depth, parts, part + 1) - from);
    }
}

void lr__pack_panels(lr__transpose_fn transpose, int64_t width, int64_t cols, int64_t depth,
                     const float *w, int64_t ldw, float *panels) {
    for (int64_t c = 0; c < cols; c += width)
        transpose(cols - c < width ? cols - c : width, depth, w + c * ldw, ldw, panels + c * depth,
                  width);
}
