/* Products of many rows with packed columns, cut into tiles over the threads. */
#ifndef LR_BACKEND_PANELS_H
#define LR_BACKEND_PANELS_H

#include "backend/device.h"

enum {
    LR__PACK_COLS = 64,   /* columns of one item of packing; whole panels at every level */
    LR__SLAB_COLS = 1536, /* columns packed at once */
    LR__SLAB_DEPTH = 1024 /* rows packed at once, where the depth is cut */
};

int64_t lr__pieces(int64_t whole, int64_t piece);
/* Numbers that `cols` columns of `depth` take in panels. */
int64_t lr__panel_numbers(int64_t cols, int64_t depth);

/* All of the task, with tiles as docs/threads.md says. */
void lr__panels_multiply(const lr__device *device, const lr__panel_task *task);
/* The same by device->multiply_pairs, which is set. */
void lr__panels_multiply_pairs(const lr__device *device, const lr__panel_task *task);

/* Rows of panels [depth, cols], from the first on; those given lie `ld` apart. */
void lr__panels_set_rows(const lr__kernels *kernels, const float *from, int64_t ld, int64_t rows,
                         int64_t cols, int64_t depth, int64_t first, float *panels);

#endif
