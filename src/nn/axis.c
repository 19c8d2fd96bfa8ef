/* Named axes, extents and index maps. */
#include "nn/linear.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

lr_status lr__axis_new(lr__axis **out, int64_t size, const char *format, ...) {
    lr_status status = LR_OK;
    lr__axis *axis = NULL;
    char name[512];
    *out = NULL;
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    LR_TRY(lr__new(&axis, 1, sizeof *axis));
    axis->references = 1;
    axis->size = size;
    LR_TRY(lr__dup(&axis->name, name));
    *out = axis;
    axis = NULL;
done:
    lr__axis_drop(axis);
    return status;
}

lr__axis *lr__axis_keep(lr__axis *axis) {
    if (axis) __atomic_add_fetch(&axis->references, 1, __ATOMIC_RELAXED);
    return axis;
}

void lr__axis_drop(lr__axis *axis) {
    if (!axis || __atomic_sub_fetch(&axis->references, 1, __ATOMIC_ACQ_REL)) return;
    lr__free(axis->name);
    lr__free(axis);
}

int64_t lr__extent_of(const lr__extents *extents, const lr__axis *axis, int64_t size) {
    if (!extents || !axis) return size;
    for (size_t i = 0; i < extents->count; i++)
        if (!strcmp(extents->items[i].axis, axis->name) && extents->items[i].extent < size)
            return extents->items[i].extent;
    return size;
}

lr_status lr__index_new(lr__index **out, const char *name, const int32_t *values, int64_t count,
                        int64_t limit) {
    lr_status status = LR_OK;
    lr__index *index = NULL;
    *out = NULL;
    for (int64_t i = 0; i < count; i++)
        if (values[i] < 0 || values[i] >= limit)
            return lr__fail(LR_E_FORMAT, "%s: index %d at %lld, expected 0 to %lld", name,
                            values[i], (long long)i, (long long)limit - 1);
    LR_TRY(lr__new(&index, 1, sizeof *index));
    index->references = 1;
    index->count = count;
    LR_TRY(lr__dup(&index->name, name));
    LR_TRY(lr__new(&index->values, (size_t)count, sizeof *index->values));
    memcpy(index->values, values, (size_t)count * sizeof *values);
    *out = index;
    index = NULL;
done:
    lr__index_drop(index);
    return status;
}

lr__index *lr__index_keep(lr__index *index) {
    if (index) __atomic_add_fetch(&index->references, 1, __ATOMIC_RELAXED);
    return index;
}

void lr__index_drop(lr__index *index) {
    if (!index || __atomic_sub_fetch(&index->references, 1, __ATOMIC_ACQ_REL)) return;
    lr__free(index->values);
    lr__free(index->name);
    lr__free(index);
}
