/* Backward of attention as items of (span, key and value head): the query heads that share one go
 * one after the other, so that whoever adds to its derivatives is alone and in a fixed order. */
#include "nn/attention_backward.h"

#include <string.h>

typedef struct job {
    const lr__attention *a;
    const lr__attention_slope *slopes;
    const lr__kernels *kernels;
    float *scratch;
    int64_t scratch_each;
} job;

static void clear_columns(float *x, int64_t rows, int64_t cols, int64_t ld) {
    for (int64_t r = 0; r < rows; r++) memset(x + r * ld, 0, (size_t)cols * sizeof *x);
}

static void turn_head(const job *j, int64_t s, int64_t head, float *scratch) {
    const lr__attention *a = j->a;
    const lr__attention_span *span = &a->spans[s];
    const lr__attention_slope *slope = &j->slopes[s];
    int64_t own = head * a->head_size;
    int64_t shared = head / (a->heads / a->key_value_heads) * a->head_size;
    lr__attend_task of = {.queries = span->queries,
                          .first = span->first,
                          .dim = a->head_size,
                          .q = span->q + own,
                          .ldq = (int64_t)a->heads * a->head_size,
                          .keys = span->keys + shared,
                          .ldk = (int64_t)a->key_value_heads * a->head_size,
                          .values = span->values + shared,
                          .scale = a->scale,
                          .scratch = scratch};
    of.ldv = of.ldk;
    of.ldo = of.ldq;
    lr__attend_backward_task task = {.of = of,
                                     .window = a->window,
                                     .dout = slope->dout + own,
                                     .dq = slope->dq + own,
                                     .dkeys = slope->dkeys + shared,
                                     .dvalues = slope->dvalues + shared};
    j->kernels->attend_backward(&task);
}

static void turn_item(void *work, int64_t index, int32_t thread) {
    const job *j = work;
    const lr__attention *a = j->a;
    int64_t s = index / a->key_value_heads, shared = index % a->key_value_heads;
    int64_t group = a->heads / a->key_value_heads;
    int64_t ld = (int64_t)a->key_value_heads * a->head_size;
    int64_t keys = a->spans[s].first + a->spans[s].queries;
    clear_columns(j->slopes[s].dkeys + shared * a->head_size, keys, a->head_size, ld);
    clear_columns(j->slopes[s].dvalues + shared * a->head_size, keys, a->head_size, ld);
    for (int64_t i = 0; i < group; i++)
        turn_head(j, s, shared * group + i, j->scratch + thread * j->scratch_each);
}

/* Numbers of scratch that any span takes. */
static int64_t most_scratch(const lr__attention *a) {
    int64_t most = 0;
    for (int32_t i = 0; i < a->span_count; i++) {
        const lr__attention_span *span = &a->spans[i];
        int64_t keys = span->first + span->queries;
        if (a->window && keys > a->window + LR__ATTEND_QUERIES - 1)
            keys = a->window + LR__ATTEND_QUERIES - 1;
        int64_t needed = LR__ATTEND_BACKWARD_SCRATCH(span->queries, keys);
        if (needed > most) most = needed;
    }
    return most;
}

lr_status lr__attention_backward(const lr__device *device, lr__arena *arena, const lr__attention *a,
                                 const lr__attention_slope *slopes) {
    job j = {.a = a, .slopes = slopes, .kernels = device->kernels, .scratch_each = most_scratch(a)};
    lr__arena_mark mark = lr__arena_here(arena);
    size_t threads = (size_t)lr__pool_threads(device->pool);
    lr_status status =
        lr__arena_take(arena, &j.scratch, threads * (size_t)j.scratch_each, sizeof(float));
    if (status >= 0)
        lr__pool_run(device->pool, (int64_t)a->span_count * a->key_value_heads, turn_item, &j);
    lr__arena_release(arena, mark);
    return status;
}
