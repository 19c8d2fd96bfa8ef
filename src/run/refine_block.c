/* One block of a refinement: the loss in hooks, epochs over its streams, the best state kept. */
#include "base/file.h"
#include "base/rng.h"
#include "optim/values.h"
#include "run/batches.h"
#include "run/refine.h"
#include "run/stream_loss.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NAME_SIZE = 96 };

static const double warm_up_share = 0.1, final_share = 0.1;

/* ---- the loss, in hooks ---- */

static lr_status compare(const lr_hook_event *event, void *user) {
    lr__comparison *c = user;
    c->loss += c->weight * lr__stream_loss(c->r->opts.loss, event->output.shape[0], c->r->hidden,
                                           event->output.data, c->target, c->scale,
                                           c->scale != 0 ? c->slope : NULL);
    return LR_OK;
}

static lr_status push(const lr_hook_event *event, void *user) {
    const lr__comparison *c = user;
    c->r->draft->ctx->device.kernels->axpy(event->output.shape[0] * c->r->hidden, 1, c->slope,
                                           event->output.data);
    return LR_OK;
}

static void unwatch(lr__refining *r) {
    for (int32_t d = 0; d < LR__REFINE_DEPTHS; d++)
        for (int32_t i = 0; i < 2; i++) {
            if (r->compared[d].hooks[i]) lr_hook_remove(r->hooks, r->compared[d].hooks[i]);
            r->compared[d].hooks[i] = 0;
        }
}

static lr_status watch(lr__refining *r) {
    lr_status status = LR_OK;
    char name[NAME_SIZE];
    for (int32_t d = 0; d < r->depths; d++) {
        lr__comparison *c = &r->compared[d];
        snprintf(name, sizeof name, "model.layers.%d", r->layer + d);
        LR_TRY(lr_hook_add(r->hooks, name, LR_AFTER_FORWARD, compare, c, &c->hooks[0]));
        LR_TRY(lr_hook_add(r->hooks, name, LR_BEFORE_BACKWARD | LR_HOOK_CHANGES, push, c,
                           &c->hooks[1]));
    }
done:
    return status;
}

/* ---- streams ---- */

size_t lr__refine_window_bytes(const lr__refining *r) {
    return (size_t)r->opts.window * (size_t)r->hidden * sizeof(float);
}

/* The streams move twice; a window that is learnt takes a forward and a backward of twice that. */
int64_t lr__refine_work(const lr__refining *r) {
    int64_t judged = r->learnt < r->windows ? r->windows - r->learnt : r->windows;
    return 2 * r->windows + (r->opts.epochs + 1) * judged + 3 * r->opts.epochs * r->learnt;
}

lr_status lr__refine_tell(lr__refining *r, int64_t windows) {
    r->done += windows;
    return lr__progress(r->draft->ctx, "refine", r->done, r->layers * lr__refine_work(r));
}

static float *window_of(const lr__refining *r, float *rows, int32_t index) {
    return rows + (size_t)index * (size_t)r->opts.window * (size_t)r->hidden;
}

lr_status lr__refine_move(lr__refining *r, lr_session *session, int32_t layer,
                          const lr__spill *from, lr__spill *to) {
    lr_status status = LR_OK;
    size_t bytes = lr__refine_window_bytes(r);
    for (int64_t w = 0; w < r->windows; w += r->opts.batch) {
        int32_t count =
            lr__windows_fill(r->segments, r->ids, w, r->windows, r->opts.batch, r->opts.window);
        if (layer) LR_TRY(lr__spill_read(from, (size_t)w * bytes, r->x, (size_t)count * bytes));
        LR_TRY(lr_session_blocks(session, r->segments, count, layer, layer + 1, r->x));
        LR_TRY(lr__spill_write(to, (size_t)w * bytes, r->x, (size_t)count * bytes));
        LR_TRY(lr__refine_tell(r, count));
    }
done:
    return status;
}

/* Some windows of the stream that enters, and their targets. */
static lr_status take_windows(lr__refining *r, const lr__spill *stream, const int64_t *windows,
                              int32_t count) {
    lr_status status = LR_OK;
    size_t bytes = lr__refine_window_bytes(r);
    for (int32_t i = 0; i < count; i++) {
        size_t at = (size_t)windows[i] * bytes;
        r->segments[i] =
            (lr_segment){i, r->opts.window, r->ids + windows[i] * (int64_t)r->opts.window};
        if (r->layer) LR_TRY(lr__spill_read(stream, at, window_of(r, r->x, i), bytes));
        for (int32_t d = 0; d < r->depths; d++)
            LR_TRY(
                lr__spill_read(r->dense[1 + d], at, window_of(r, r->compared[d].target, i), bytes));
    }
done:
    return status;
}

/* ---- a block ---- */

static int64_t steps_of(const lr__refining *r) {
    return (r->learnt + r->opts.batch - 1) / r->opts.batch;
}

static double take_loss(lr__refining *r) {
    double loss = 0;
    for (int32_t d = 0; d < r->depths; d++) {
        loss += r->compared[d].loss;
        r->compared[d].loss = 0;
    }
    return loss;
}

/* Mean loss on the windows held out, or on those learnt from, behind the refined blocks. */
static lr_status judge(lr__refining *r, double *loss) {
    lr_status status = LR_OK;
    int64_t first = r->learnt < r->windows ? r->learnt : 0, judged = r->windows - first;
    double sum = 0;
    for (int32_t d = 0; d < r->depths; d++) r->compared[d].scale = 0;
    for (int64_t w = first; w < r->windows; w += r->opts.batch) {
        int64_t windows[LR__BATCH_WINDOWS];
        int32_t count = r->windows - w < r->opts.batch ? (int32_t)(r->windows - w) : r->opts.batch;
        for (int32_t i = 0; i < count; i++) windows[i] = w + i;
        LR_TRY(take_windows(r, r->behind, windows, count));
        LR_TRY(lr_session_blocks(r->learner, r->segments, count, r->layer, r->layer + r->depths,
                                 r->x));
        sum += take_loss(r);
        LR_TRY(lr__refine_tell(r, count));
    }
    *loss = sum / ((double)judged * r->opts.window);
    LR_FAIL_IF(!isfinite(*loss), LR_E_NUMERIC, "the loss is not finite");
done:
    return status;
}

/* Adds the gradients of some windows of one stream, which has `share` of the loss. */
static lr_status learn_windows(lr__refining *r, const lr__spill *stream, const int64_t *windows,
                               int32_t count, double share) {
    lr_status status = LR_OK;
    double each = share / ((double)count * r->opts.window);
    if (share == 0) return LR_OK;
    for (int32_t d = 0; d < r->depths; d++) r->compared[d].scale = each * r->compared[d].weight;
    LR_TRY(take_windows(r, stream, windows, count));
    LR_TRY(lr_session_learn_blocks(r->learner, r->segments, count, r->layer, r->layer + r->depths,
                                   r->x, NULL, r->optimizer));
    double loss = take_loss(r);
    LR_FAIL_IF(!isfinite(loss), LR_E_NUMERIC, "the loss is not finite");
done:
    return status;
}

static lr_status run_epoch(lr__refining *r, int32_t epoch) {
    lr_status status = LR_OK;
    for (int64_t i = 0; i < r->learnt; i++) r->order[i] = i;
    lr__shuffle(r->order, r->learnt, r->opts.seed, (uint64_t)r->layer << 32 | (uint64_t)epoch);
    for (int64_t w = 0; w < r->learnt; w += r->opts.batch) {
        int32_t count = r->learnt - w < r->opts.batch ? (int32_t)(r->learnt - w) : r->opts.batch;
        LR_TRY(learn_windows(r, r->behind, r->order + w, count, 1 - r->opts.dense_inputs));
        LR_TRY(learn_windows(r, r->dense[0], r->order + w, count, r->opts.dense_inputs));
        LR_TRY(lr_optimizer_step(r->optimizer, NULL));
        LR_TRY(lr__refine_tell(r, 3 * (int64_t)count));
    }
done:
    return status;
}

/* Epochs until the last or until nothing is won; the best values are put back. */
static lr_status run_epochs(lr__refining *r) {
    lr_status status = LR_OK;
    lr_refine_event *e = &r->event;
    float *best = NULL;
    int32_t since = 0;
    LR_TRY(lr__values_new(&best, r->optimizer));
    LR_TRY(judge(r, &e->before));
    e->after = e->before;
    for (int32_t epoch = 0; epoch < r->opts.epochs; epoch++) {
        double loss;
        LR_TRY(run_epoch(r, epoch));
        LR_TRY(judge(r, &loss));
        e->epochs = epoch + 1;
        since = loss < e->after ? 0 : since + 1;
        if (!since) lr__values_read(best, r->optimizer);
        e->after = fmin(e->after, loss);
        if (r->opts.patience && since >= r->opts.patience) break;
    }
    e->steps = lr_optimizer_steps(r->optimizer);
    if (since) lr__values_write(r->optimizer, best);
done:
    lr__free(best);
    return status;
}

/* Whether something of the block is there to learn. */
static lr_status make_optimizer(lr__refining *r, int32_t *found) {
    lr_status status = LR_OK;
    lr_optimizer_opts opts;
    char *pattern = NULL;
    size_t size = strlen(r->opts.pattern) + NAME_SIZE;
    lr_optimizer_opts_init(&opts, sizeof opts);
    opts.schedule = LR_COSINE;
    opts.learning_rate = r->opts.learning_rate;
    opts.weight_decay = r->opts.weight_decay;
    opts.steps = steps_of(r) * r->opts.epochs;
    opts.warm_up = (int64_t)(warm_up_share * (double)opts.steps);
    opts.final_share = final_share;
    opts.clip = r->opts.clip;
    LR_TRY(lr__new(&pattern, size, 1));
    LR_TRY(lr_optimizer_new(&r->optimizer, r->draft->ctx, &opts));
    snprintf(pattern, size, "model.layers.%d.%s", r->layer, r->opts.pattern);
    status = lr_optimizer_add_model(r->optimizer, r->draft, pattern, NULL, NULL);
    *found = status >= 0;
    if (status == LR_E_NOTFOUND) status = LR_OK;
done:
    lr__free(pattern);
    return status;
}

/* Takes up the block as an interrupted run left it, or runs the epochs and keeps it. */
static lr_status finish_block(lr__refining *r) {
    lr_status status = LR_OK;
    char *path = NULL, name[NAME_SIZE];
    if (!r->opts.work) return run_epochs(r);
    snprintf(name, sizeof name, "block-%d.safetensors", r->layer);
    LR_TRY(lr__path_join(&path, r->opts.work, name));
    if (lr__path_exists(path)) {
        LR_TRY(lr_optimizer_restore(r->optimizer, path));
        r->event.steps = lr_optimizer_steps(r->optimizer);
        LR_TRY(judge(r, &r->event.after));
        r->event.before = r->event.after;
    } else {
        LR_TRY(run_epochs(r));
        LR_TRY(lr_optimizer_save(r->optimizer, path, 1));
    }
    r->kept = r->layer;
done:
    lr__free(path);
    return status;
}

/* Which block and step, and what an earlier run or this one has kept. */
static void explain(const lr__refining *r) {
    lr__fail_in(LR_E_NUMERIC, "block %d, step %lld", r->layer,
                (long long)lr_optimizer_steps(r->optimizer) + 1);
    if (r->kept < 0)
        lr__fail(LR_E_NUMERIC, "%s; there is no checkpoint", lr_last_error());
    else
        lr__fail(LR_E_NUMERIC, "%s; the last good checkpoint is %s/block-%d.safetensors",
                 lr_last_error(), r->opts.work, r->kept);
}

lr_status lr__refine_block(lr__refining *r, int32_t *found) {
    lr_status status = LR_OK;
    double begin = lr__seconds();
    r->event = (lr_refine_event){.size = sizeof r->event, .layer = r->layer};
    r->depths = r->opts.look_ahead > 0 && r->layer + 1 < r->layers ? LR__REFINE_DEPTHS : 1;
    LR_TRY(make_optimizer(r, found));
    LR_TRY(watch(r));
    if (*found) {
        status = finish_block(r);
        if (status == LR_E_NUMERIC) explain(r);
        LR_TRY(status);
    }
    unwatch(r);
    lr_optimizer_free(r->optimizer);
    r->optimizer = NULL;
    r->event.seconds = lr__seconds() - begin;
done:
    return status;
}
