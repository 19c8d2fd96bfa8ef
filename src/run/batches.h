/* Windows of texts in batch steps: those of one text, and calibration texts in the one order in
 * which their tokens are counted. */
#ifndef LR_RUN_BATCHES_H
#define LR_RUN_BATCHES_H

#include "model/session.h"

#include <lowrank/compress.h>

enum { LR__BATCH_WINDOWS = 64 };

typedef struct lr__batch {
    lr_segment segments[LR__BATCH_WINDOWS];
    int32_t count;
    int64_t first, tokens; /* of all texts' tokens */
    double weight;         /* of each token */
    int32_t text;          /* where the next batch begins */
    int64_t window;
} lr__batch;

/* Windows to run in one batch step: about 4,096 tokens, fewer where their activations would take
 * more than lr_ctx_opts.memory or, where that is 0, 256 MiB. */
int32_t lr__windows_at_once(const lr_model *model, int32_t window, int64_t windows);
/* Windows of one backward pass: 1,024 tokens, or a longer window. */
int32_t lr__windows_of_lesson(int32_t window);
/* A session for such steps, without caches; hooks may be NULL. */
lr_status lr__windows_session(lr_session **out, const lr_model *model, int32_t rows, int32_t window,
                              lr_hooks *hooks);
/* Windows `first` on, `rows` of them or as many as there are: that is returned. */
int32_t lr__windows_fill(lr_segment *segments, const int32_t *ids, int64_t first, int64_t windows,
                         int32_t rows, int32_t window);

/* Refuses texts that hold no window or have no weight. */
lr_status lr__texts_check(const lr_text *texts, int32_t count);
/* Tokens of all whole windows. */
int64_t lr__texts_tokens(const lr_text *texts, int32_t count);
/* Windows of a text in a batch of about `tokens`. */
int32_t lr__texts_windows(const lr_text *text, int64_t tokens);
/* The next batch, from one zeroed on; 0 behind the last. */
int lr__batch_next(lr__batch *batch, const lr_text *texts, int32_t count, int64_t tokens);

#endif
