/* Gradients by parameter. */
#include "nn/gradients.h"

#include "base/mem.h"

#include <string.h>

/* Where the parameter is, or belongs. */
static size_t place_of(const lr__gradients *gradients, const lr__param *param) {
    size_t low = 0, high = gradients->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uintptr_t)gradients->items[middle].param < (uintptr_t)param)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int is_at(const lr__gradients *gradients, size_t place, const lr__param *param) {
    return place < gradients->count && gradients->items[place].param == param;
}

void lr__gradients_put(lr__gradients *gradients, lr__param *param, float *values) {
    size_t place = place_of(gradients, param);
    if (!is_at(gradients, place, param)) {
        memmove(gradients->items + place + 1, gradients->items + place,
                (gradients->count - place) * sizeof *gradients->items);
        gradients->count++;
    }
    gradients->items[place] = (lr__gradient){.param = param, .values = values};
}

lr_status lr__gradients_add(lr__gradients *gradients, lr__param *param) {
    lr_status status = LR_OK;
    size_t count = (size_t)lr__param_count(param);
    float *values = NULL;
    if (lr__gradients_has(gradients, param)) return LR_OK;
    LR_TRY(lr__new_aligned(&values, count, sizeof *values));
    memset(values, 0, count * sizeof *values);
    LR_TRY(lr__grow(&gradients->items, &gradients->capacity, gradients->count + 1,
                    sizeof *gradients->items));
    lr__gradients_put(gradients, lr__param_keep(param), values);
    values = NULL;
done:
    lr__aligned_free(values);
    return status;
}

void lr__gradients_remove(lr__gradients *gradients, const lr__param *param) {
    size_t place = place_of(gradients, param);
    if (!is_at(gradients, place, param)) return;
    lr__param_drop(gradients->items[place].param);
    lr__aligned_free(gradients->items[place].values);
    gradients->count--;
    memmove(gradients->items + place, gradients->items + place + 1,
            (gradients->count - place) * sizeof *gradients->items);
}

static lr__gradient *find(const lr__gradients *gradients, const lr__param *param) {
    size_t place = place_of(gradients, param);
    return is_at(gradients, place, param) ? &gradients->items[place] : NULL;
}

static void settle(lr__gradient *gradient) {
    if (!gradient->is_blank) return;
    memset(gradient->values, 0, (size_t)lr__param_count(gradient->param) * sizeof(float));
    gradient->is_blank = 0;
}

int lr__gradients_has(const lr__gradients *gradients, const lr__param *param) {
    return find(gradients, param) != NULL;
}

float *lr__gradient_of(const lr__gradients *gradients, const lr__param *param) {
    lr__gradient *found = find(gradients, param);
    if (!found) return NULL;
    settle(found);
    return found->values;
}

float *lr__gradient_begin(const lr__gradients *gradients, const lr__param *param, int32_t *adds) {
    lr__gradient *found = find(gradients, param);
    if (!found) return NULL;
    *adds = !found->is_blank;
    found->is_blank = 0;
    return found->values;
}

void lr__gradients_zero(lr__gradients *gradients) {
    for (size_t i = 0; i < gradients->count; i++) gradients->items[i].is_blank = 1;
}

void lr__gradients_settle(const lr__gradients *gradients) {
    for (size_t i = 0; i < gradients->count; i++) settle(&gradients->items[i]);
}

void lr__gradients_clear(lr__gradients *gradients) {
    for (size_t i = 0; i < gradients->count; i++) {
        lr__param_drop(gradients->items[i].param);
        lr__aligned_free(gradients->items[i].values);
    }
    lr__free(gradients->items);
    *gradients = (lr__gradients){0};
}
