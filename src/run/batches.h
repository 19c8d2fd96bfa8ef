/* Calibration texts as batches of windows, in the one order in which their tokens are counted. */
#ifndef LR_RUN_BATCHES_H
#define LR_RUN_BATCHES_H

#include <lowrank/compress.h>
#include <lowrank/session.h>

enum { LR__BATCH_WINDOWS = 64 };

typedef struct lr__batch {
    lr_segment segments[LR__BATCH_WINDOWS];
    int32_t count;
    int64_t first, tokens; /* of all texts' tokens */
    double weight;         /* of each token */
    int32_t text;          /* where the next batch begins */
    int64_t window;
} lr__batch;

/* Refuses texts that hold no window or have no weight. */
lr_status lr__texts_check(const lr_text *texts, int32_t count);
/* Tokens of all whole windows. */
int64_t lr__texts_tokens(const lr_text *texts, int32_t count);
/* Windows of a text in a batch of about `tokens`. */
int32_t lr__texts_windows(const lr_text *text, int64_t tokens);
/* The next batch, from one zeroed on; 0 behind the last. */
int lr__batch_next(lr__batch *batch, const lr_text *texts, int32_t count, int64_t tokens);

#endif
