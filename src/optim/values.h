/* Copies of the values an optimizer trains, to go back to. */
#ifndef LR_OPTIM_VALUES_H
#define LR_OPTIM_VALUES_H

#include "optim/optimizer.h"

/* Room for all values, with those of now. Freed with lr__free(). */
lr_status lr__values_new(float **out, const lr_optimizer *optimizer);
void lr__values_read(float *values, const lr_optimizer *optimizer);
void lr__values_write(const lr_optimizer *optimizer, const float *values);

#endif
