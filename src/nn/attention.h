/* Causal attention of query heads over grouped key and value heads. */
#ifndef LR_NN_ATTENTION_H
#define LR_NN_ATTENTION_H

#include "backend/device.h"
#include "base/arena.h"

/* Consecutive queries of one row: query i stands at position `first + i` and sees the keys at
 * positions up to its own, the last `window` of them when window is not 0. */
typedef struct lr__attention_span {
    int64_t queries, first;
    const float *q;             /* [queries, heads * head_size] */
    const float *keys, *values; /* [first + queries, key_value_heads * head_size] */
    float *out;                 /* [queries, heads * head_size] */
} lr__attention_span;

typedef struct lr__attention {
    const lr__attention_span *spans;
    int32_t span_count;
    int32_t heads, key_value_heads, head_size, window;
    int32_t batch; /* blocked form; else one query at a time, row-invariant */
    float scale;
} lr__attention;

lr_status lr__attention_run(const lr__device *device, lr__arena *arena, const lr__attention *a);

#endif
