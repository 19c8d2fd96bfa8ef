/* The list of stored tensors: owned names, counted mappings, lookup by name. */
#include "format/stored.h"

#include <stdlib.h>
#include <string.h>

lr_status lr__stored_list_keep(lr__stored_list *list, lr__mapping *mapping) {
    if (list->mapping_count > 0 && list->mappings[list->mapping_count - 1] == mapping) return LR_OK;
    lr_status status = lr__grow(&list->mappings, &list->mapping_capacity, list->mapping_count + 1,
                                sizeof(lr__mapping *));
    if (status < 0) return status;
    list->mappings[list->mapping_count++] = lr__mapping_keep(mapping);
    return LR_OK;
}

lr_status lr__stored_list_add(lr__stored_list *list, const lr__stored *item, size_t name_length) {
    char *name = NULL;
    lr_status status;
    LR_TRY(lr__stored_list_keep(list, item->mapping));
    LR_TRY(lr__grow(&list->items, &list->capacity, list->count + 1, sizeof(lr__stored)));
    name = lr__strndup(item->name, name_length);
    if (!name) {
        status = lr__nomem(name_length + 1);
        goto done;
    }
    list->items[list->count] = *item;
    list->items[list->count++].name = name;
done:
    return status;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const lr__stored *)a)->name, ((const lr__stored *)b)->name);
}

lr_status lr__stored_list_sort(lr__stored_list *list) {
    if (list->count < 2) return LR_OK;
    qsort(list->items, list->count, sizeof(lr__stored), by_name);
    for (size_t i = 1; i < list->count; i++) {
        const lr__stored *one = &list->items[i - 1], *two = &list->items[i];
        if (strcmp(one->name, two->name) != 0) continue;
        if (one->mapping == two->mapping)
            return lr__fail(LR_E_FORMAT, "%s: tensor \"%s\" stands twice", one->mapping->path,
                            one->name);
        return lr__fail(LR_E_FORMAT, "%s: tensor \"%s\" stands also in %s", one->mapping->path,
                        one->name, two->mapping->path);
    }
    return LR_OK;
}

const lr__stored *lr__stored_find(const lr__stored_list *list, const char *name) {
    if (list->count == 0) return NULL;
    lr__stored key = {.name = (char *)name};
    return bsearch(&key, list->items, list->count, sizeof key, by_name);
}

void lr__stored_list_clear(lr__stored_list *list) {
    for (size_t i = 0; i < list->count; i++) lr__free(list->items[i].name);
    for (size_t i = 0; i < list->mapping_count; i++) lr__mapping_drop(list->mappings[i]);
    lr__free(list->items);
    lr__free(list->mappings);
    memset(list, 0, sizeof *list);
}
