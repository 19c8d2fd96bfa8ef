/* Tensors as they lie in files: name, type, shape and a pointer into a mapping. */
#ifndef LR_FORMAT_STORED_H
#define LR_FORMAT_STORED_H

#include "base/file.h"
#include "tensor/dtype.h"

typedef struct lr__stored {
    char *name;
    int32_t dtype; /* LR_...; negative: a type we do not read, kept by name only */
    int32_t ndim;
    int64_t shape[LR_MAX_DIMS]; /* row-major: the last index runs fastest */
    const void *data;           /* aligned for the type; `bytes` lie inside `mapping`, checked */
    size_t bytes;
    lr__mapping *mapping; /* borrowed from the list's owner */
} lr__stored;

/* Tensors of one or several files, found by name; owns names and mappings. */
typedef struct lr__stored_list {
    lr__stored *items; /* sorted by name after lr__stored_list_sort */
    size_t count, capacity;
    lr__mapping **mappings;
    size_t mapping_count, mapping_capacity;
} lr__stored_list;

/* Takes its own reference to mapping and its own copy of the name. */
lr_status lr__stored_list_add(lr__stored_list *list, const lr__stored *item, size_t name_length);
lr_status lr__stored_list_keep(lr__stored_list *list, lr__mapping *mapping);
/* Sorts by name; a name that stands twice is LR_E_FORMAT. */
lr_status lr__stored_list_sort(lr__stored_list *list);
const lr__stored *lr__stored_find(const lr__stored_list *list, const char *name);
void lr__stored_list_clear(lr__stored_list *list);

#endif
