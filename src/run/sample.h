/* Choosing the next token from logits. */
#ifndef LR_RUN_SAMPLE_H
#define LR_RUN_SAMPLE_H

#include "backend/kernels.h"
#include "base/mem.h"

typedef struct lr__sampler {
    const lr__kernels *kernels;
    double temperature; /* 0: greedy */
    double top_p;
    int32_t top_k;  /* 0: all */
    int32_t count;  /* logits */
    int32_t *order; /* scratch of `count`, kept between calls */
    float *weights;
} lr__sampler;

/* Takes scratch for `count` logits; the other members are the caller's to set. */
lr_status lr__sampler_begin(lr__sampler *sampler, int32_t count);
void lr__sampler_end(lr__sampler *sampler);

/* The token of a uniform draw in [0, 1). Candidates are ordered by falling logit, lower id first
 * on ties; a fixed order, so the result depends on logits and draw only. */
int32_t lr__sample(lr__sampler *sampler, const float *logits, double draw);

#endif
