/*
 * Hidden states as a teacher (FitNets, Romero et al., arXiv 1412.6550), by the public hooks alone:
 * the teacher's blocks leave their streams, the model's blocks turn these into derivatives where
 * they lie, and the backward pass adds them to what comes from above. A token's distance is taken
 * relative to its size, for the few tokens that attention uses as sinks are larger than the others
 * by orders of magnitude (Sun et al., arXiv 2402.17762).
 */
#include "run/hidden.h"

#include "base/mem.h"
#include "model/model.h"
#include "run/stream_loss.h"

#include <lowrank/refine.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

struct lr__hidden {
    lr_hooks *model, *teacher;
    const lr__kernels *kernels;
    int32_t blocks;
    int64_t width, room; /* of a stream: numbers of a token, tokens */
    float *rows;         /* [blocks][room][width]: the teacher's streams, then derivatives */
    double weight, sum;
    int64_t tokens; /* of this pass, over all blocks */
};

static float *rows_of(const lr__hidden *h, int32_t layer) {
    return h->rows + (int64_t)layer * h->room * h->width;
}

static lr_status keep_stream(const lr_hook_event *event, void *user) {
    lr__hidden *h = user;
    size_t count = (size_t)(event->output.shape[0] * h->width);
    memcpy(rows_of(h, event->layer), event->output.data, count * sizeof(float));
    return LR_OK;
}

static lr_status compare_streams(const lr_hook_event *event, void *user) {
    lr__hidden *h = user;
    int64_t tokens = event->output.shape[0];
    const float *x = event->output.data;
    float *rows = rows_of(h, event->layer);
    double share = h->weight / ((double)h->blocks * (double)tokens);
    for (int64_t t = 0; t < tokens; t++) {
        int64_t at = t * h->width;
        double found =
            lr__stream_loss(LR_STREAM_RELATIVE, 1, h->width, x + at, rows + at, share, rows + at);
        if (!isfinite(found))
            return lr__fail(LR_E_NUMERIC, "%s: the loss of hidden states is %g at position %d",
                            event->module, found, event->positions[t]);
        h->sum += found;
    }
    h->tokens += tokens;
    return LR_OK;
}

static lr_status add_derivative(const lr_hook_event *event, void *user) {
    const lr__hidden *h = user;
    h->kernels->axpy(event->output.shape[0] * h->width, 1, rows_of(h, event->layer),
                     event->output.data);
    return LR_OK;
}

static lr_status watch_blocks(lr__hidden *h) {
    char name[40];
    lr_status status = LR_OK;
    for (int32_t i = 0; i < h->blocks; i++) {
        snprintf(name, sizeof name, "model.layers.%d", i);
        LR_TRY(lr_hook_add(h->teacher, name, LR_AFTER_FORWARD, keep_stream, h, NULL));
        LR_TRY(lr_hook_add(h->model, name, LR_AFTER_FORWARD, compare_streams, h, NULL));
        LR_TRY(lr_hook_add(h->model, name, LR_BEFORE_BACKWARD | LR_HOOK_CHANGES, add_derivative, h,
                           NULL));
    }
done:
    return status;
}

lr_status lr__hidden_new(lr__hidden **out, const lr_model *model, const lr_model *teacher,
                         int64_t tokens) {
    const lr__config *config = &model->origin->config;
    lr__hidden *h = NULL;
    lr_status status = LR_OK;
    size_t count;
    LR_TRY(lr__stream_check(model, teacher));
    LR_TRY(lr__new(&h, 1, sizeof *h));
    h->kernels = model->ctx->device.kernels;
    h->blocks = config->layers;
    h->width = config->hidden_size;
    h->room = tokens;
    LR_FAIL_IF(__builtin_mul_overflow((size_t)h->blocks * (size_t)h->width, (size_t)tokens, &count),
               LR_E_INVALID, "hidden states of %lld tokens cannot be held", (long long)tokens);
    LR_TRY(lr__new_aligned(&h->rows, count, sizeof *h->rows));
    LR_TRY(lr_hooks_new(&h->model));
    LR_TRY(lr_hooks_new(&h->teacher));
    LR_TRY(watch_blocks(h));
    *out = h;
    h = NULL;
done:
    lr__hidden_free(h);
    return status;
}

void lr__hidden_free(lr__hidden *hidden) {
    if (!hidden) return;
    lr_hooks_free(hidden->model);
    lr_hooks_free(hidden->teacher);
    lr__aligned_free(hidden->rows);
    lr__free(hidden);
}

lr_hooks *lr__hidden_teacher_hooks(const lr__hidden *hidden) {
    return hidden ? hidden->teacher : NULL;
}

lr_hooks *lr__hidden_model_hooks(const lr__hidden *hidden) { return hidden ? hidden->model : NULL; }

void lr__hidden_begin(lr__hidden *hidden, double weight) {
    hidden->weight = weight;
    hidden->sum = 0;
    hidden->tokens = 0;
}

double lr__hidden_loss(const lr__hidden *hidden) {
    return hidden->tokens ? hidden->sum / (double)hidden->tokens : 0;
}
