/* The product of a module's chains, row by row: what densifying and saving read. */
#ifndef LR_NN_LINEAR_ROWS_H
#define LR_NN_LINEAR_ROWS_H

#include "base/arena.h"
#include "nn/linear.h"

/* Rows [row, row + rows) of the base terms' sum, without the bias: dst [rows, in]. Its bits depend
 * on the module alone when the caller goes through it in steps of lr__linear_rows_step(). */
lr_status lr__linear_rows(const lr_linear *linear, lr__arena *arena, int64_t row, int64_t rows,
                          float *dst);
/* How many rows at a time keep the scratch memory to a few MiB, at least 1. */
int64_t lr__linear_rows_step(const lr_linear *linear);

#endif
