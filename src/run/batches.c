/* Batches of windows. */
#include "run/batches.h"

#include "compress/stats.h"
#include "model/model.h"

enum { STEP_TOKENS = 4096, LESSON_TOKENS = 1024, STEP_BYTES = 256 << 20 };

int32_t lr__windows_at_once(const lr_model *model, int32_t window, int64_t windows) {
    uint64_t memory = model->ctx->opts.memory ? model->ctx->opts.memory : STEP_BYTES;
    uint64_t tokens = memory / lr__token_bytes(model);
    if (tokens > STEP_TOKENS) tokens = STEP_TOKENS;
    int64_t count = (int64_t)tokens / window;
    if (count > windows) count = windows;
    return count < 1 ? 1 : count > LR__BATCH_WINDOWS ? LR__BATCH_WINDOWS : (int32_t)count;
}

int32_t lr__windows_of_lesson(int32_t window) {
    return window < LESSON_TOKENS ? LESSON_TOKENS / window : 1;
}

lr_status lr__windows_session(lr_session **out, const lr_model *model, int32_t rows, int32_t window,
                              lr_hooks *hooks) {
    lr_session_opts opts;
    lr_session_opts_init(&opts, sizeof opts);
    opts.rows = rows;
    opts.positions = window;
    opts.kind = LR_STEP_BATCH;
    opts.no_cache = 1;
    opts.hooks = hooks;
    return lr_session_new(out, model, &opts);
}

int32_t lr__windows_fill(lr_segment *segments, const int32_t *ids, int64_t first, int64_t windows,
                         int32_t rows, int32_t window) {
    int32_t count = windows - first < rows ? (int32_t)(windows - first) : rows;
    for (int32_t r = 0; r < count; r++) {
        lr_segment segment = {r, window, ids + (first + r) * window};
        segments[r] = segment;
    }
    return count;
}

static int64_t windows_of(const lr_text *text) {
    return (int64_t)(text->count / (size_t)text->window);
}

lr_status lr__texts_check(const lr_text *texts, int32_t count) {
    if (!texts || count < 1) return lr__fail(LR_E_INVALID, "%d texts, expected 1 or more", count);
    for (int32_t i = 0; i < count; i++) {
        const lr_text *t = &texts[i];
        if (!t->ids || t->window < 1 || t->count > INT64_MAX / 8)
            return lr__fail(LR_E_INVALID, "text %d: windows of %d tokens", i, t->window);
        if (!lr__stats_weighs(t->weight))
            return lr__fail(LR_E_INVALID, "text %d: weight %g, expected 1e-100 to 1e100", i,
                            t->weight);
        if (windows_of(t) < 1)
            return lr__fail(LR_E_INVALID, "text %d of %zu tokens holds no window of %d", i,
                            t->count, t->window);
    }
    return LR_OK;
}

int64_t lr__texts_tokens(const lr_text *texts, int32_t count) {
    int64_t tokens = 0;
    for (int32_t i = 0; i < count; i++) tokens += windows_of(&texts[i]) * texts[i].window;
    return tokens;
}

int32_t lr__texts_windows(const lr_text *text, int64_t tokens) {
    int64_t windows = tokens / text->window;
    if (windows > windows_of(text)) windows = windows_of(text);
    if (windows > LR__BATCH_WINDOWS) windows = LR__BATCH_WINDOWS;
    return windows < 1 ? 1 : (int32_t)windows;
}

int lr__batch_next(lr__batch *batch, const lr_text *texts, int32_t count, int64_t tokens) {
    batch->first += batch->tokens;
    if (batch->text < count && batch->window == windows_of(&texts[batch->text])) {
        batch->text++;
        batch->window = 0;
    }
    if (batch->text == count) return 0;
    const lr_text *text = &texts[batch->text];
    batch->count = lr__windows_fill(batch->segments, text->ids, batch->window, windows_of(text),
                                    lr__texts_windows(text, tokens), text->window);
    batch->window += batch->count;
    batch->tokens = (int64_t)batch->count * text->window;
    batch->weight = text->weight / (double)(windows_of(text) * text->window);
    return 1;
}
