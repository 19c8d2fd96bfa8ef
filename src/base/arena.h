/* Scratch memory that is taken in order and given back to a mark. */
#ifndef LR_BASE_ARENA_H
#define LR_BASE_ARENA_H

#include "base/mem.h"

typedef struct lr__arena_chunk lr__arena_chunk;

/* Zeroed is empty and ready; one thread at a time. Chunks are kept for the next use. */
typedef struct lr__arena {
    lr__arena_chunk *first, *current;
} lr__arena;

typedef struct lr__arena_mark {
    lr__arena_chunk *chunk;
    size_t used;
} lr__arena_mark;

/* 64-byte aligned, not zeroed, valid until the mark is released. */
lr_status lr__arena_take(lr__arena *arena, void *out, size_t count, size_t bytes);
lr__arena_mark lr__arena_here(const lr__arena *arena);
void lr__arena_release(lr__arena *arena, lr__arena_mark mark);
void lr__arena_clear(lr__arena *arena);

#endif
