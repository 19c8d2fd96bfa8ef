/*
 * How far the inputs of a module have moved in a partly compressed model, and the weight that makes
 * up for it. With x the input of the dense model and z that of the same token in the compressed
 * one, S = E[z z'] and D = E[(x - z) z'], the weight
 *
 *     W* = W + b W D (S + ridge)^-1
 *
 * minimises E|W z + b W (x - z) - W* z|^2 + ridge, the ridge pulling towards W. What remains for
 * any factorisation is |(W* - W~) z|, so the best factors of W* for S are the best factors for the
 * blended target (1 - b) W z + b W x (SAES-SVD and MPIFA; anchored for b = 1).
 */
#ifndef LR_COMPRESS_DRIFT_H
#define LR_COMPRESS_DRIFT_H

#include "backend/device.h"
#include "base/arena.h"

typedef struct lr__drift {
    int64_t size;
    double weight; /* sum of the weights of the tokens */
    double *cross; /* [size, size] weighted sums of (x - z) z' */
    double *ratio; /* [size, size] D (S + ridge)^-1, once solved */
} lr__drift;

lr_status lr__drift_new(lr__drift *drift, int64_t size);
void lr__drift_clear(lr__drift *drift);
/* Counts [tokens, size] rows of both models, each with `weight`; `dense` is lost. */
lr_status lr__drift_count(lr__drift *drift, const lr__device *device, lr__arena *arena,
                          float *dense, const float *compressed, int64_t tokens, double weight);
/* `gram` is S [size, size], and is lost; the ridge is `ridge` of its diagonal. */
lr_status lr__drift_solve(lr__drift *drift, double *gram, double ridge);
/* weight [rows, size] becomes W*. */
lr_status lr__drift_correct(const lr__drift *drift, double blend, int64_t rows, float *weight);

#endif
