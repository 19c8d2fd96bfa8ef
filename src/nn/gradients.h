/*
 * Gradients by parameter. A parameter that has an array here is trained, any other is frozen and
 * costs nothing; whoever shares a parameter adds to one array.
 */
#ifndef LR_NN_GRADIENTS_H
#define LR_NN_GRADIENTS_H

#include "nn/param.h"

typedef struct lr__gradient {
    lr__param *param;
    float *values; /* [rows, cols] of the parameter */
} lr__gradient;

/* Sorted by address; zeroed to begin with. */
typedef struct lr__gradients {
    lr__gradient *items;
    size_t count, capacity;
} lr__gradients;

/* Keeps the parameter; zeros. What has an array already keeps it. */
lr_status lr__gradients_add(lr__gradients *gradients, lr__param *param);
/* Puts an array of the caller's into the room there is, in place of one there was; nothing is kept.
 * For tables that are cleared with their memory. */
void lr__gradients_put(lr__gradients *gradients, lr__param *param, float *values);
/* Frozen again. */
void lr__gradients_remove(lr__gradients *gradients, const lr__param *param);
/* NULL: frozen. */
float *lr__gradient_of(const lr__gradients *gradients, const lr__param *param);
void lr__gradients_zero(lr__gradients *gradients);
void lr__gradients_clear(lr__gradients *gradients);

#endif
