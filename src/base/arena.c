/* A list of chunks; what does not fit goes to the next one. */
#include "base/arena.h"

#include <string.h>

struct lr__arena_chunk {
    lr__arena_chunk *next;
    unsigned char *bytes;
    size_t size, used;
};

enum { LEAST_CHUNK = 1 << 20, ALIGNMENT = 64 };

static lr_status chunk_new(lr__arena_chunk **out, size_t size) {
    lr_status status = LR_OK;
    lr__arena_chunk *chunk = NULL;
    LR_TRY(lr__new(&chunk, 1, sizeof *chunk));
    chunk->size = size < LEAST_CHUNK ? LEAST_CHUNK : size;
    LR_TRY(lr__new_aligned(&chunk->bytes, chunk->size, 1));
    *out = chunk;
    chunk = NULL;
done:
    lr__free(chunk);
    return status;
}

/* Chunks after the current one are empty; one that is too small is replaced. */
static lr_status next_chunk(lr__arena *arena, size_t size) {
    lr__arena_chunk **slot = arena->current ? &arena->current->next : &arena->first;
    lr__arena_chunk *chunk = NULL;
    if (!*slot || (*slot)->size < size) {
        lr_status status = chunk_new(&chunk, size);
        if (status < 0) return status;
        if (*slot) {
            chunk->next = (*slot)->next;
            lr__aligned_free((*slot)->bytes);
            lr__free(*slot);
        }
        *slot = chunk;
    }
    arena->current = *slot;
    arena->current->used = 0;
    return LR_OK;
}

lr_status lr__arena_take(lr__arena *arena, void *out, size_t count, size_t bytes) {
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total) || total > SIZE_MAX - ALIGNMENT)
        return lr__nomem(SIZE_MAX);
    total = (total + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if (!arena->current || arena->current->size - arena->current->used < total) {
        lr_status status = next_chunk(arena, total);
        if (status < 0) return status;
    }
    void *block = arena->current->bytes + arena->current->used;
    arena->current->used += total;
    memcpy(out, &block, sizeof block);
    return LR_OK;
}

lr__arena_mark lr__arena_here(const lr__arena *arena) {
    lr__arena_mark mark = {arena->current, arena->current ? arena->current->used : 0};
    return mark;
}

void lr__arena_release(lr__arena *arena, lr__arena_mark mark) {
    arena->current = mark.chunk;
    if (mark.chunk) mark.chunk->used = mark.used;
}

void lr__arena_clear(lr__arena *arena) {
    for (lr__arena_chunk *chunk = arena->first; chunk;) {
        lr__arena_chunk *next = chunk->next;
        lr__aligned_free(chunk->bytes);
        lr__free(chunk);
        chunk = next;
    }
    memset(arena, 0, sizeof *arena);
}
