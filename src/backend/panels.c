/* Tiles of products with packed columns; see docs/threads.md. */
#include "backend/panels.h"

#include <string.h>

enum {
    TILE_ROWS = 516, /* whole strips of six */
    LEAST_TILE_ROWS = 96,
    TILE_NUMBERS = 1 << 17 /* packed numbers of a tile: half a second-level cache of 1 MiB */
};

int64_t lr__pieces(int64_t whole, int64_t piece) { return (whole + piece - 1) / piece; }

int64_t lr__panel_numbers(int64_t cols, int64_t depth) {
    return lr__pieces(cols, LR__PACK_COLS) * LR__PACK_COLS * depth;
}

typedef struct job {
    const lr__panel_task *whole;
    lr__panels_fn multiply;
    int64_t tile_rows, tile_cols, tiles_across;
} job;

/* Rows by even parts, two for each thread where there are enough; columns by what the cache holds,
 * which leaves so many tiles that the slower core does not set the time. */
static void choose_tiles(job *j, int64_t threads) {
    int64_t rows = j->whole->rows, parts = lr__pieces(rows, TILE_ROWS);
    while (parts < 2 * threads && lr__pieces(rows, parts + 1) >= LEAST_TILE_ROWS) parts++;
    j->tile_rows = lr__pieces(lr__pieces(rows, parts), 6) * 6;
    int64_t depth = j->whole->depth > 0 ? j->whole->depth : 1;
    j->tile_cols = TILE_NUMBERS / depth / LR__PACK_COLS * LR__PACK_COLS;
    if (j->tile_cols < LR__PACK_COLS) j->tile_cols = LR__PACK_COLS;
    j->tiles_across = lr__pieces(j->whole->cols, j->tile_cols);
}

static void tile_item(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const job *j = work;
    lr__panel_task tile = *j->whole;
    int64_t row = index / j->tiles_across * j->tile_rows;
    int64_t col = index % j->tiles_across * j->tile_cols;
    if (tile.rows - row < j->tile_rows)
        tile.rows -= row;
    else
        tile.rows = j->tile_rows;
    tile.cols = tile.cols - col < j->tile_cols ? tile.cols - col : j->tile_cols;
    tile.x += row * tile.ldx;
    tile.panels += col * tile.depth;
    tile.y += row * tile.ldy + col;
    j->multiply(&tile);
}

static void multiply_by(lr__panels_fn multiply, lr__pool *pool, const lr__panel_task *task) {
    job j = {.whole = task, .multiply = multiply};
    if (task->rows <= 0 || task->cols <= 0) return;
    choose_tiles(&j, lr__pool_threads(pool));
    lr__pool_run(pool, lr__pieces(task->rows, j.tile_rows) * j.tiles_across, tile_item, &j);
}

void lr__panels_multiply(const lr__device *device, const lr__panel_task *task) {
    multiply_by(device->kernels->multiply_panels, device->pool, task);
}

void lr__panels_multiply_pairs(const lr__device *device, const lr__panel_task *task) {
    multiply_by(device->multiply_pairs, device->pool, task);
}

/* A line of the cache at a time, without a call. */
static void copy_lines(const float *from, int64_t count, float *to) {
    enum { LINE = 16 };
    int64_t i = 0;
    for (; i + LINE <= count; i += LINE) memcpy(to + i, from + i, LINE * sizeof *from);
    for (; i < count; i++) to[i] = from[i];
}

/* Panel by panel, so that what is written lies together. */
void lr__panels_set_rows(const lr__kernels *kernels, const float *from, int64_t ld, int64_t rows,
                         int64_t cols, int64_t depth, int64_t first, float *panels) {
    int64_t width = kernels->panel_columns;
    for (int64_t c = 0; c < cols; c += width) {
        int64_t here = cols - c < width ? cols - c : width;
        float *to = panels + c * depth + first * width;
        for (int64_t r = 0; r < rows; r++) copy_lines(from + r * ld + c, here, to + r * width);
    }
}
