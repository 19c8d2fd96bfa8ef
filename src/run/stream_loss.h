/* How far a residual stream is from the one it should be; LR_STREAM_... of lowrank/refine.h. */
#ifndef LR_RUN_STREAM_LOSS_H
#define LR_RUN_STREAM_LOSS_H

#include <stdint.h>

/* The sum over rows of `width` numbers; slope[i] is set to `scale` times its derivative by y[i],
 * unless it is NULL. It may be the target itself. */
double lr__stream_loss(int32_t kind, int64_t rows, int64_t width, const float *y,
                       const float *target, double scale, float *slope);

#endif
