/* Attention as items of (span, head, block of queries), each with scratch of its own thread. */
#include "nn/attention.h"

enum { BLOCK_QUERIES = 64 };

typedef struct job {
    const lr__attention *a;
    const lr__kernels *kernels;
    float *scratch;
    int64_t scratch_each, blocks_most;
} job;

static void attend_one_by_one(const job *j, const lr__attention_span *span, int64_t begin,
                              int64_t end, int64_t head, float *scratch) {
    const lr__attention *a = j->a;
    int64_t ldq = (int64_t)a->heads * a->head_size,
            ldk = (int64_t)a->key_value_heads * a->head_size;
    int64_t shared = head / (a->heads / a->key_value_heads) * a->head_size;
    for (int64_t i = begin; i < end; i++) {
        int64_t count = span->first + i + 1;
        int64_t skip = a->window && count > a->window ? count - a->window : 0;
        j->kernels->attend(count - skip, a->head_size, span->q + i * ldq + head * a->head_size,
                           span->keys + skip * ldk + shared, ldk,
                           span->values + skip * ldk + shared, ldk, a->scale, scratch,
                           span->out + i * ldq + head * a->head_size);
    }
}

static void attend_in_block(const job *j, const lr__attention_span *span, int64_t begin,
                            int64_t end, int64_t head, float *scratch) {
    const lr__attention *a = j->a;
    int64_t ldq = (int64_t)a->heads * a->head_size,
            ldk = (int64_t)a->key_value_heads * a->head_size;
    int64_t shared = head / (a->heads / a->key_value_heads) * a->head_size;
    lr__attend_task task = {.queries = end - begin,
                            .first = span->first + begin,
                            .dim = a->head_size,
                            .q = span->q + begin * ldq + head * a->head_size,
                            .ldq = ldq,
                            .keys = span->keys + shared,
                            .ldk = ldk,
                            .values = span->values + shared,
                            .ldv = ldk,
                            .scale = a->scale,
                            .scratch = scratch,
                            .out = span->out + begin * ldq + head * a->head_size,
                            .ldo = ldq};
    j->kernels->attend_block(&task);
}

static void attend_item(void *work, int64_t index, int32_t thread) {
    const job *j = work;
    const lr__attention *a = j->a;
    const lr__attention_span *span = &a->spans[index / (j->blocks_most * a->heads)];
    /* late blocks see most keys: they go first, so that threads end together */
    int64_t block = j->blocks_most - 1 - index / a->heads % j->blocks_most;
    int64_t head = index % a->heads, begin = block * BLOCK_QUERIES, end = begin + BLOCK_QUERIES;
    float *scratch = j->scratch + thread * j->scratch_each;
    if (begin >= span->queries) return;
    if (end > span->queries) end = span->queries;
    int64_t most_keys = span->first + end;
    if (a->batch && (!a->window || most_keys <= a->window))
        attend_in_block(j, span, begin, end, head, scratch);
    else
        attend_one_by_one(j, span, begin, end, head, scratch);
}

lr_status lr__attention_run(const lr__device *device, lr__arena *arena, const lr__attention *a) {
    job j = {.a = a, .kernels = device->kernels, .blocks_most = 1};
    int64_t keys_most = 1;
    for (int32_t i = 0; i < a->span_count; i++) {
        int64_t blocks = (a->spans[i].queries + BLOCK_QUERIES - 1) / BLOCK_QUERIES;
        int64_t keys = a->spans[i].first + a->spans[i].queries;
        if (blocks > j.blocks_most) j.blocks_most = blocks;
        if (keys > keys_most) keys_most = keys;
    }
    j.scratch_each = (a->batch ? BLOCK_QUERIES * keys_most : keys_most) + 16;
    lr__arena_mark mark = lr__arena_here(arena);
    size_t threads = (size_t)lr__pool_threads(device->pool);
    lr_status status =
        lr__arena_take(arena, &j.scratch, threads * (size_t)j.scratch_each, sizeof(float));
    if (status >= 0)
        lr__pool_run(device->pool, j.blocks_most * a->heads * a->span_count, attend_item, &j);
    lr__arena_release(arena, mark);
    return status;
}
