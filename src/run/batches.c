/* Batches of windows. */
#include "run/batches.h"

#include "base/status.h"

#include <math.h>

static int64_t windows_of(const lr_text *text) {
    return (int64_t)(text->count / (size_t)text->window);
}

lr_status lr__texts_check(const lr_text *texts, int32_t count) {
    if (!texts || count < 1) return lr__fail(LR_E_INVALID, "%d texts, expected 1 or more", count);
    for (int32_t i = 0; i < count; i++) {
        const lr_text *t = &texts[i];
        if (!t->ids || t->window < 1 || t->count > INT64_MAX / 8)
            return lr__fail(LR_E_INVALID, "text %d: windows of %d tokens", i, t->window);
        if (!(t->weight > 0) || !isfinite(t->weight))
            return lr__fail(LR_E_INVALID, "text %d: weight %g, expected above 0", i, t->weight);
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
    int64_t left = windows_of(text) - batch->window, now = lr__texts_windows(text, tokens);
    batch->count = (int32_t)(left < now ? left : now);
    for (int32_t i = 0; i < batch->count; i++) {
        lr_segment segment = {i, text->window, text->ids + (batch->window + i) * text->window};
        batch->segments[i] = segment;
    }
    batch->window += batch->count;
    batch->tokens = (int64_t)batch->count * text->window;
    batch->weight = text->weight / (double)(windows_of(text) * text->window);
    return 1;
}
