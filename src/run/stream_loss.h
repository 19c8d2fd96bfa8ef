/* How far a residual stream is from the one it should be; LR_STREAM_... of lowrank/refine.h. */
#ifndef LR_RUN_STREAM_LOSS_H
#define LR_RUN_STREAM_LOSS_H

#include "model/model.h"

/* The sum over rows of `width` numbers; slope[i] is set to `scale` times its derivative by y[i],
 * unless it is NULL. It may be the target itself. */
double lr__stream_loss(int32_t kind, int64_t rows, int64_t width, const float *y,
                       const float *target, double scale, float *slope);

/* LR_E_SHAPE unless both models have as many blocks of the same width. */
lr_status lr__stream_check(const lr_model *model, const lr_model *teacher);

#endif
