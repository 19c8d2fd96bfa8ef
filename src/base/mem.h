/* The only door to memory: every allocation of the library passes here. */
#ifndef LR_BASE_MEM_H
#define LR_BASE_MEM_H

#include "base/status.h"

void *lr__malloc(size_t bytes);
void *lr__calloc(size_t count, size_t bytes);
void *lr__realloc(void *block, size_t bytes);
void lr__free(void *block);
char *lr__strdup(const char *text);
char *lr__strndup(const char *text, size_t length);

/* 64-byte aligned arrays; freed by lr__aligned_free. NULL on overflow or want of memory. */
void *lr__aligned(size_t count, size_t bytes);
void lr__aligned_free(void *block);

/* Allocates into *(void **)out with a status; count * bytes is checked. Zeroed. */
lr_status lr__new(void *out, size_t count, size_t bytes);
/* The same, 64-byte aligned and not zeroed. */
lr_status lr__new_aligned(void *out, size_t count, size_t bytes);
lr_status lr__dup(char **out, const char *text);

/* Grows *items (elements of `bytes`) so that `needed` fit; *capacity follows. */
lr_status lr__grow(void *items, size_t *capacity, size_t needed, size_t bytes);

#endif
