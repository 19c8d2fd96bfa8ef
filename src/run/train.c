/*
 * Training: windows at random places of the ids, by steps of the optimizer. The windows of a step
 * depend on the seed and the step's number alone, so that a checkpoint needs the optimizer's state
 * and nothing else.
 */
#include "base/file.h"
#include "base/opts.h"
#include "base/rng.h"
#include "run/batches.h"

#include <lowrank/train.h>

#include <string.h>

enum { PASS_TOKENS = 1024 };

void lr_train_opts_init(lr_train_opts *opts, size_t size) {
    lr_train_opts defaults = {.size = sizeof defaults,
                              .steps = 100,
                              .batch = 4,
                              .window = 256,
                              .alpha = 1,
                              .temperature = 1,
                              .checkpoint_every = 50};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

typedef struct training {
    lr_optimizer *optimizer;
    lr_train_opts opts;
    const int32_t *ids;
    size_t count;
    lr_session *session, *teacher;
    lr_segment *segments; /* [at_once] */
    int64_t saved;        /* step of the last checkpoint */
} training;

static lr_status check_opts(training *t) {
    lr_train_opts *o = &t->opts;
    if (o->steps < 1 || o->batch < 1 || o->window < 2 || o->at_once < 0 || o->checkpoint_every < 1)
        return lr__fail(LR_E_INVALID,
                        "training: steps %lld, batch %d, window %d, at once %d, "
                        "a checkpoint every %lld",
                        (long long)o->steps, o->batch, o->window, o->at_once,
                        (long long)o->checkpoint_every);
    if (t->count < (size_t)o->window)
        return lr__fail(LR_E_INVALID, "the text of %zu tokens holds no window of %d", t->count,
                        o->window);
    if (!o->at_once) o->at_once = o->window < PASS_TOKENS ? PASS_TOKENS / o->window : 1;
    if (o->at_once > o->batch) o->at_once = o->batch;
    return LR_OK;
}

/* ---- a step ---- */

static void draw_windows(training *t, int64_t step, int32_t first, int32_t count) {
    uint64_t places = (uint64_t)(t->count - (size_t)t->opts.window + 1);
    for (int32_t i = 0; i < count; i++) {
        double u = lr__uniform(t->opts.seed, (uint64_t)step, (uint64_t)(first + i));
        size_t place = (size_t)(u * (double)places);
        t->segments[i] = (lr_segment){.row = i, .count = t->opts.window, .tokens = t->ids + place};
    }
}

/* Forward and backward of all windows of a step; the event gets means over them. */
static lr_status run_passes(training *t, lr_train_event *e) {
    lr_learn_opts learn;
    lr_status status = LR_OK;
    lr_learn_opts_init(&learn, sizeof learn);
    learn.teacher = t->teacher;
    learn.alpha = t->opts.alpha;
    learn.temperature = t->opts.temperature;
    learn.keeps_all = t->opts.keeps_all;
    for (int32_t first = 0; first < t->opts.batch; first += t->opts.at_once) {
        lr_learn_result found = {.size = sizeof found};
        int32_t rest = t->opts.batch - first;
        int32_t count = rest < t->opts.at_once ? rest : t->opts.at_once;
        learn.scale = (double)count / t->opts.batch;
        draw_windows(t, e->step, first, count);
        LR_TRY(lr_session_learn(t->session, t->segments, count, t->optimizer, &learn, &found));
        e->loss += learn.scale * found.loss;
        e->next_token += learn.scale * found.next_token;
        e->divergence += learn.scale * found.divergence;
    }
done:
    return status;
}

static lr_status run_step(training *t, lr_train_event *e) {
    lr_step_result result = {.size = sizeof result};
    double begin = lr__seconds();
    lr_status status = LR_OK;
    *e = (lr_train_event){.size = sizeof *e,
                          .step = lr_optimizer_steps(t->optimizer) + 1,
                          .tokens = (int64_t)t->opts.batch * t->opts.window};
    LR_TRY(run_passes(t, e));
    LR_TRY(lr_optimizer_step(t->optimizer, &result));
    e->norm = result.norm;
    e->learning_rate = result.learning_rate;
    e->seconds = lr__seconds() - begin;
    return LR_OK;
done:
    lr_optimizer_zero(t->optimizer);
    return lr__fail(status, "step %lld: %s", (long long)e->step, lr_last_error());
}

/* ---- all steps ---- */

static lr_status save(training *t) {
    int64_t step = lr_optimizer_steps(t->optimizer);
    if (!t->opts.checkpoint || t->saved == step) return LR_OK;
    t->saved = step;
    return lr_optimizer_save(t->optimizer, t->opts.checkpoint, 1);
}

static lr_status resume(training *t) {
    lr_status status = LR_OK;
    if (!t->opts.checkpoint || !lr__path_exists(t->opts.checkpoint)) return LR_OK;
    LR_TRY(lr_optimizer_restore(t->optimizer, t->opts.checkpoint));
    t->saved = lr_optimizer_steps(t->optimizer);
done:
    return status;
}

static lr_status run_steps(training *t, lr_ctx *ctx, lr_train_fn fn, void *user) {
    lr_status status = LR_OK;
    lr_train_event event;
    while (lr_optimizer_steps(t->optimizer) < t->opts.steps) {
        LR_TRY(run_step(t, &event));
        int32_t is_cancelled = fn && fn(&event, user);
        if (is_cancelled || event.step % t->opts.checkpoint_every == 0) LR_TRY(save(t));
        LR_FAIL_IF(is_cancelled, LR_E_CANCELLED, "training was cancelled at step %lld",
                   (long long)event.step);
        LR_TRY(lr__progress(ctx, "train", event.step, t->opts.steps));
    }
    status = save(t);
done:
    return status;
}

lr_status lr_train(lr_model *model, lr_optimizer *optimizer, const int32_t *ids, size_t count,
                   const lr_train_opts *opts, lr_train_fn fn, void *user) {
    lr_status status = LR_OK;
    training t = {.optimizer = optimizer, .ids = ids, .count = count, .saved = -1};
    lr_train_opts_init(&t.opts, sizeof t.opts);
    if (!model || !optimizer || !ids)
        return lr__fail(LR_E_INVALID, "lr_train: model, optimizer and ids are needed");
    LR_TRY(lr__opts_merge(&t.opts, sizeof t.opts, opts, "lr_train_opts"));
    LR_TRY(check_opts(&t));
    LR_TRY(lr__new(&t.segments, (size_t)t.opts.at_once, sizeof *t.segments));
    LR_TRY(lr__windows_session(&t.session, model, t.opts.at_once, t.opts.window, NULL));
    if (t.opts.teacher)
        LR_TRY(
            lr__windows_session(&t.teacher, t.opts.teacher, t.opts.at_once, t.opts.window, NULL));
    LR_TRY(resume(&t));
    status = run_steps(&t, model->ctx, fn, user);
done:
    lr__free(t.segments);
    lr_session_free(t.session);
    lr_session_free(t.teacher);
    return status;
}
