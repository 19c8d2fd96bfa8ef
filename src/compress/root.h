/* The triangular factor of the inputs, accumulated without squaring them. */
#ifndef LR_COMPRESS_ROOT_H
#define LR_COMPRESS_ROOT_H

#include "backend/device.h"
#include "base/arena.h"

/* root [size, size], lower triangular with zeros above, becomes the triangle of [root | rows];
 * rows [size, tokens] holds one channel in each row and is lost. */
lr_status lr__root_fold(double *root, int64_t size, double *rows, int64_t tokens,
                        const lr__device *device, lr__arena *arena);

#endif
