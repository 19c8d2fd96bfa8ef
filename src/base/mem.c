/* Memory through a replaceable allocator. */
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static void *default_alloc(size_t bytes, void *user) {
    (void)user;
    return malloc(bytes);
}

static void *default_realloc(void *block, size_t bytes, void *user) {
    (void)user;
    return realloc(block, bytes);
}

static void default_free(void *block, void *user) {
    (void)user;
    free(block);
}

static const lr_alloc_ops defaults = {sizeof(lr_alloc_ops), default_alloc, default_realloc,
                                      default_free, NULL};
static lr_alloc_ops ops = {sizeof(lr_alloc_ops), default_alloc, default_realloc, default_free,
                           NULL};

lr_status lr_set_alloc(const lr_alloc_ops *wanted) {
    if (!wanted) wanted = &defaults;
    if (wanted->size < sizeof ops || !wanted->alloc || !wanted->realloc || !wanted->free)
        return lr__fail(LR_E_INVALID, "allocator: size %zu, expected %zu and three functions",
                        wanted->size, sizeof ops);
    ops = *wanted;
    return LR_OK;
}

void *lr__malloc(size_t bytes) { return ops.alloc(bytes ? bytes : 1, ops.user); }

void *lr__calloc(size_t count, size_t bytes) {
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total)) return NULL;
    void *block = lr__malloc(total);
    if (block) memset(block, 0, total);
    return block;
}

void *lr__realloc(void *block, size_t bytes) {
    return ops.realloc(block, bytes ? bytes : 1, ops.user);
}

void lr__free(void *block) {
    if (block) ops.free(block, ops.user);
}

char *lr__strndup(const char *text, size_t length) {
    char *copy = lr__malloc(length + 1);
    if (!copy) return NULL;
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

char *lr__strdup(const char *text) { return lr__strndup(text, strlen(text)); }

void *lr__aligned(size_t count, size_t bytes) {
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total) || total > SIZE_MAX - 128) return NULL;
    char *block = lr__malloc(total + 64 + sizeof(void *));
    if (!block) return NULL;
    uintptr_t start = ((uintptr_t)block + sizeof(void *) + 63) & ~(uintptr_t)63;
    ((void **)start)[-1] = block;
    return (void *)start;
}

void lr__aligned_free(void *block) {
    if (block) lr__free(((void **)block)[-1]);
}

lr_status lr__new(void *out, size_t count, size_t bytes) {
    void *block = lr__calloc(count, bytes);
    memcpy(out, &block, sizeof block);
    return block ? LR_OK : lr__nomem(count * bytes);
}

lr_status lr__new_aligned(void *out, size_t count, size_t bytes) {
    void *block = lr__aligned(count, bytes);
    memcpy(out, &block, sizeof block);
    return block ? LR_OK : lr__nomem(count * bytes);
}

lr_status lr__dup(char **out, const char *text) {
    *out = lr__strdup(text);
    return *out ? LR_OK : lr__nomem(strlen(text) + 1);
}

lr_status lr__grow(void *items, size_t *capacity, size_t needed, size_t bytes) {
    if (needed <= *capacity) return LR_OK;
    size_t wanted = *capacity + *capacity / 2 + 16, total;
    if (wanted < needed) wanted = needed;
    void *block;
    memcpy(&block, items, sizeof block);
    if (__builtin_mul_overflow(wanted, bytes, &total)) return lr__nomem(SIZE_MAX);
    block = lr__realloc(block, total);
    if (!block) return lr__nomem(total);
    memcpy(items, &block, sizeof block);
    *capacity = wanted;
    return LR_OK;
}
