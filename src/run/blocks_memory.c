/* What one run of lr_compress_texts() may hold: lr_ctx_opts.memory shared out among streams,
 * batches, statistics and the matrices that are factorised at once. */
#include "run/blocks.h"

#include <stdlib.h>

enum {
    SHARE_OF_STREAMS = 4,
    SHARE_OF_BATCH = 8,
    BATCH_TOKENS = 4096,
    PANEL_OUTS = 1536,    /* of a weight that is widened at once */
    CHUNK_TOKENS = 512,   /* that are converted at once for the moments */
    TILE_BYTES = 3 << 19, /* of products, for each thread */
    SMALL_THINGS = 4 << 20
};

/* Width of the input of a group. */
static int64_t width_of(const lr__blocks *b, int32_t group) {
    const lr__config *c = &b->model->origin->config;
    if (group == 1) return (int64_t)c->heads * c->head_size;
    return group == 3 ? c->intermediate_size : c->hidden_size;
}

static int64_t widest(const lr__blocks *b) {
    int64_t most = 0;
    for (int32_t g = 0; g < LR__GROUPS; g++)
        if (width_of(b, g) > most) most = width_of(b, g);
    return most;
}

static uint64_t stats_bytes(const lr__blocks *b, int32_t layer, int32_t first, int32_t last) {
    uint64_t bytes = 0;
    for (int32_t g = first; g < last; g++) {
        uint64_t n = (uint64_t)width_of(b, g);
        if (!lr__blocks_planned(b, layer, g, g + 1)) continue;
        bytes += (n * (n + 1) / 2 + 3 * n + CHUNK_TOKENS * n) * sizeof(double);
        if (b->sequential == LR__SEQUENTIAL_ANCHORED) bytes += n * n * sizeof(double);
    }
    return bytes + TILE_BYTES * (uint64_t)lr_ctx_threads(b->model->ctx);
}

/* The least beside the statistics: one matrix, or one batch. */
static uint64_t least_work(const lr__blocks *b, int32_t layer, int32_t first, int32_t last) {
    uint64_t most = (uint64_t)b->batch * lr__token_bytes(b->model) +
                    PANEL_OUTS * (uint64_t)widest(b) * sizeof(float);
    for (int32_t g = first; g < last; g++) {
        uint64_t corrected = 0, largest = 0, n = (uint64_t)width_of(b, g);
        for (int32_t i = lr__groups[g].first; i < lr__groups[g].first + lr__groups[g].count; i++) {
            int32_t at = lr__blocks_item(b, layer, i);
            if (at < 0) continue;
            uint64_t bytes = lr__compress_bytes(b->plan, at);
            if (bytes > largest) largest = bytes;
            corrected += (uint64_t)b->plan->items[at].out * n * sizeof(float);
        }
        if (b->sequential == LR__SEQUENTIAL_ANCHORED) largest += corrected;
        if (largest > most) most = largest;
    }
    return most;
}

static uint64_t needed(const lr__blocks *b, int32_t layer, int32_t first, int32_t last) {
    return b->held + stats_bytes(b, layer, first, last) + least_work(b, layer, first, last);
}

int32_t lr__blocks_fitting(const lr__blocks *b, int32_t layer, int32_t first) {
    int32_t last = first + 1;
    if (b->sequential != LR__SEQUENTIAL_NONE) return last;
    while (last < LR__GROUPS && (!b->memory || needed(b, layer, first, last + 1) <= b->memory))
        last++;
    return last;
}

uint64_t lr__blocks_spare(const lr__blocks *b, int32_t layer, int32_t first, int32_t last) {
    if (!b->memory) return 0;
    uint64_t used = needed(b, layer, first, last) - least_work(b, layer, first, last);
    return used < b->memory ? b->memory - used : 1;
}

/* The most that any pass needs. */
static uint64_t least_memory(const lr__blocks *b, int32_t *layer, int32_t *group) {
    uint64_t most = 0;
    for (int32_t l = 0; l < lr__blocks_layers(b); l++)
        for (int32_t g = 0; g < LR__GROUPS; g++) {
            uint64_t bytes = needed(b, l, g, g + 1);
            if (bytes <= most) continue;
            most = bytes;
            *layer = l;
            *group = g;
        }
    return most;
}

/* About `tokens` in a batch, the longest window at least, and the buffers for them. */
static void size_batch(lr__blocks *b, uint64_t tokens, uint64_t buffers) {
    int64_t most = 0, cap = tokens < BATCH_TOKENS ? (int64_t)tokens : BATCH_TOKENS;
    for (int32_t i = 0; i < b->text_count; i++) {
        const lr_text *t = &b->texts[i];
        int64_t now = (int64_t)lr__texts_windows(t, cap) * t->window;
        if (now > most) most = now;
    }
    b->batch = most;
    b->held = (uint64_t)most * buffers + SMALL_THINGS;
}

static lr_status too_little(const lr__blocks *b, uint64_t least, int32_t layer, int32_t group) {
    return lr__fail(
        LR_E_INVALID,
        "memory of %.1f MB is too little: %s.%s needs %.1f MB beside the model, with batches of "
        "%lld tokens",
        (double)b->memory / 1e6, b->graph->blocks[layer].name,
        lr__linear_suffix[lr__groups[group].first], (double)least / 1e6, (long long)b->batch);
}

/* Streams in memory when that leaves enough, else in files. */
static lr_status place_streams(lr__blocks *b) {
    int32_t layer = 0, group = 0,
            count =
                (b->sequential != LR__SEQUENTIAL_SHIFT) + (b->sequential != LR__SEQUENTIAL_NONE);
    uint64_t both = b->stream * (uint64_t)count;
    b->held += both;
    if (!b->memory ||
        (both <= b->memory / SHARE_OF_STREAMS && least_memory(b, &layer, &group) <= b->memory))
        return LR_OK;
    b->held -= both;
    uint64_t least = least_memory(b, &layer, &group);
    if (least > b->memory) return too_little(b, least, layer, group);
    b->folder = b->opts.work ? b->opts.work : getenv("TMPDIR");
    if (!b->folder) b->folder = "/tmp";
    return LR_OK;
}

/* Numbers of a token that the buffer of inputs holds. */
static uint64_t seen_width(const lr__blocks *b) {
    return b->sequential == LR__SEQUENTIAL_ANCHORED ? (uint64_t)widest(b) : 0;
}

lr_status lr__blocks_allot(lr__blocks *b) {
    uint64_t hidden = (uint64_t)b->model->origin->config.hidden_size;
    uint64_t buffers = (hidden + seen_width(b)) * sizeof(float);
    uint64_t each = lr__token_bytes(b->model) + buffers;
    int32_t layer = 0, group = 0;
    b->memory = b->model->ctx->opts.memory;
    b->tokens = lr__texts_tokens(b->texts, b->text_count);
    size_batch(b, b->memory ? b->memory / SHARE_OF_BATCH / each : BATCH_TOKENS, buffers);
    if (b->memory && least_memory(b, &layer, &group) > b->memory) size_batch(b, 0, buffers);
    if (__builtin_mul_overflow((uint64_t)b->tokens, hidden * sizeof(float), &b->stream))
        return lr__fail(LR_E_INVALID, "%lld tokens are too many", (long long)b->tokens);
    return place_streams(b);
}

lr_status lr__blocks_make(lr__blocks *b) {
    lr_status status = LR_OK;
    size_t hidden = (size_t)b->model->origin->config.hidden_size, seen = (size_t)seen_width(b);
    if (b->sequential != LR__SEQUENTIAL_SHIFT)
        LR_TRY(lr__spill_new(&b->dense, b->stream, b->folder));
    if (b->sequential != LR__SEQUENTIAL_NONE)
        LR_TRY(lr__spill_new(&b->behind, b->stream, b->folder));
    LR_TRY(lr__new_aligned(&b->rows, (size_t)b->batch * hidden, sizeof *b->rows));
    if (seen) LR_TRY(lr__new_aligned(&b->seen, (size_t)b->batch * seen, sizeof *b->seen));
done:
    return status;
}
