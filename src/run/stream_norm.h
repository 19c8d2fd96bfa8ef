/*
 * How far a change of the residual stream moves the predictions. With g the derivative of a
 * window's summed loss of the next token by what leaves a block, t, the KL that a change e of t
 * causes is to second order half of E[(g' e)^2], where the tokens are the model's own draws. Few
 * tokens of a window, which attention uses as sinks, are hundreds of times larger than the others
 * and their g as much smaller, so both are taken relative to |t|: the norm of e / |t| is that of
 * the moments of |t| g, counted as those of modules are (compress/slopes.h).
 */
#ifndef LR_RUN_STREAM_NORM_H
#define LR_RUN_STREAM_NORM_H

#include "base/arena.h"
#include "model/model.h"

/* *out is [layers][width, width], symmetric, what leaves each block by windows of `ids`. Freed with
 * lr__aligned_free(). */
lr_status lr__stream_norms(float **out, const lr_model *model, const int32_t *ids, int64_t windows,
                           int32_t window);

/* *loss is the sum over rows of e' norm e / 2 with e = (y - target) / |target|; slope as in
 * lr__stream_loss(). */
lr_status lr__stream_fisher(const lr__device *device, lr__arena *arena, const float *norm,
                            int64_t rows, int64_t width, const float *y, const float *target,
                            double scale, float *slope, double *loss);

#endif
