/* All values one after the other, in the order of adding. */
#include "optim/values.h"

#include <string.h>

static float *values_of(const lr__trained *item) { return lr__param_floats(item->param); }

lr_status lr__values_new(float **out, const lr_optimizer *optimizer) {
    lr_status status = lr__new(out, (size_t)lr_optimizer_numbers(optimizer), sizeof **out);
    if (status >= 0) lr__values_read(*out, optimizer);
    return status;
}

void lr__values_read(float *values, const lr_optimizer *optimizer) {
    for (size_t i = 0; i < optimizer->count; i++) {
        const lr__trained *item = &optimizer->items[i];
        memcpy(values, values_of(item), (size_t)item->count * sizeof *values);
        values += item->count;
    }
}

void lr__values_write(const lr_optimizer *optimizer, const float *values) {
    for (size_t i = 0; i < optimizer->count; i++) {
        const lr__trained *item = &optimizer->items[i];
        memcpy(values_of(item), values, (size_t)item->count * sizeof *values);
        values += item->count;
    }
}
