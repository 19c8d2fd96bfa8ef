/*
 * Gradients by parameter. A parameter that has an array here is trained, any other is frozen and
 * costs nothing; whoever shares a parameter adds to one array.
 */
#ifndef LR_NN_GRADIENTS_H
#define LR_NN_GRADIENTS_H

#include "nn/param.h"

typedef struct lr__gradient {
    lr__param *param;
    float *values;    /* [rows, cols] of the parameter */
    int32_t is_blank; /* counts as zeros, whatever the numbers are */
} lr__gradient;

/* Sorted by address; zeros to begin with. */
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
/* Not frozen. */
int lr__gradients_has(const lr__gradients *gradients, const lr__param *param);
/* What can be read and added to; NULL: frozen. */
float *lr__gradient_of(const lr__gradients *gradients, const lr__param *param);
/* For who gives all of its numbers: *adds is 0 where they are to be written, 1 where they are added
 * to what is there. */
float *lr__gradient_begin(const lr__gradients *gradients, const lr__param *param, int32_t *adds);
/* Blank from here on. */
void lr__gradients_zero(lr__gradients *gradients);
/* Numbers are what they count as from here on. */
void lr__gradients_settle(const lr__gradients *gradients);
void lr__gradients_clear(lr__gradients *gradients);

#endif
