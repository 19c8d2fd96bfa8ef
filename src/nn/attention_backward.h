/* Derivatives of causal attention along queries, keys and values. */
#ifndef LR_NN_ATTENTION_BACKWARD_H
#define LR_NN_ATTENTION_BACKWARD_H

#include "nn/attention.h"

/* Of one span, in the shapes of what they belong to. None of the arrays written is any other array
 * of the call, of another span either. */
typedef struct lr__attention_slope {
    const float *dout;      /* the derivative along `out` */
    float *dq;              /* written, as the others */
    float *dkeys, *dvalues; /* for all first + queries positions */
} lr__attention_slope;

/* slopes: one for each span of a, whose `out` and `batch` are not read. The bits do not depend on
 * the number of threads. */
lr_status lr__attention_backward(const lr__device *device, lr__arena *arena, const lr__attention *a,
                                 const lr__attention_slope *slopes);

#endif
