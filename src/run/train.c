/*
 * Training: windows at random places of the ids, by steps of the optimizer. The windows of a step
 * depend on the seed and the step's number alone, so that a checkpoint needs the optimizer's state
 * and nothing else.
 */
#include "base/file.h"
#include "base/opts.h"
#include "base/rng.h"
#include "run/batches.h"
#include "run/hidden.h"
#include "run/not_finite.h"

#include <lowrank/train.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

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
    lr_model *model;
    lr_optimizer *optimizer;
    lr_train_opts opts;
    const int32_t *ids;
    size_t count;
    lr_session *session, *teacher;
    lr__hidden *hidden;   /* NULL: not in the loss */
    lr_segment *segments; /* [at_once] */
    int64_t saved;        /* step of the last checkpoint, -1: none */
    int32_t is_due;       /* a checkpoint waits for the next loss */
} training;

static lr_status check_opts(training *t) {
    lr_train_opts *o = &t->opts;
    if (o->steps < 1 || o->batch < 1 || o->window < 2 || o->at_once < 0 || o->checkpoint_every < 1)
        return lr__fail(LR_E_INVALID,
                        "training: steps %lld, batch %d, window %d, at once %d, "
                        "a checkpoint every %lld",
                        (long long)o->steps, o->batch, o->window, o->at_once,
                        (long long)o->checkpoint_every);
    if (!(o->hidden >= 0 && isfinite(o->hidden)) || (o->hidden > 0 && !o->teacher))
        return lr__fail(LR_E_INVALID, "training: hidden states of weight %g, %s teacher", o->hidden,
                        o->teacher ? "with a" : "without a");
    if (t->count < (size_t)o->window)
        return lr__fail(LR_E_INVALID, "the text of %zu tokens holds no window of %d", t->count,
                        o->window);
    if (!o->at_once) o->at_once = lr__windows_of_lesson(o->window);
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

static int32_t pass_windows(const training *t, int32_t first) {
    int32_t rest = t->opts.batch - first;
    return rest < t->opts.at_once ? rest : t->opts.at_once;
}

/* Forward and backward of some windows; the event gets their share of the means. */
static lr_status run_pass(training *t, lr_train_event *e, lr_learn_opts *learn, int32_t count) {
    lr_learn_result found = {.size = sizeof found};
    lr_status status = LR_OK;
    learn->scale = (double)count / t->opts.batch;
    if (t->hidden) lr__hidden_begin(t->hidden, t->opts.hidden * learn->scale);
    LR_TRY(lr_session_learn(t->session, t->segments, count, t->optimizer, learn, &found));
    double hidden = t->hidden ? lr__hidden_loss(t->hidden) : 0;
    e->loss += learn->scale * (found.loss + t->opts.hidden * hidden);
    e->next_token += learn->scale * found.next_token;
    e->divergence += learn->scale * found.divergence;
    e->hidden += learn->scale * hidden;
done:
    return status;
}

static lr_status run_passes(training *t, lr_train_event *e) {
    lr_learn_opts learn;
    lr_status status = LR_OK;
    lr_learn_opts_init(&learn, sizeof learn);
    learn.teacher = t->teacher;
    learn.alpha = t->opts.alpha;
    learn.temperature = t->opts.temperature;
    learn.keeps_all = t->opts.keeps_all;
    for (int32_t first = 0; first < t->opts.batch; first += t->opts.at_once) {
        int32_t count = pass_windows(t, first);
        draw_windows(t, e->step, first, count);
        LR_TRY(run_pass(t, e, &learn, count));
    }
done:
    return status;
}

static lr_status save(training *t) {
    int64_t step = lr_optimizer_steps(t->optimizer);
    lr_status status = LR_OK;
    t->is_due = 0;
    if (!t->opts.checkpoint || t->saved == step) return LR_OK;
    LR_TRY(lr_optimizer_save(t->optimizer, t->opts.checkpoint, 1));
    t->saved = step;
done:
    return status;
}

static lr_status make_step(training *t, lr_train_event *e) {
    lr_step_result result = {.size = sizeof result};
    double begin = lr__seconds(), saving = 0;
    lr_status status = LR_OK;
    LR_TRY(run_passes(t, e));
    if (t->is_due) {
        saving = lr__seconds();
        LR_TRY(save(t));
        saving = lr__seconds() - saving;
    }
    LR_TRY(lr_optimizer_step(t->optimizer, &result));
    e->norm = result.norm;
    e->learning_rate = result.learning_rate;
    e->seconds = lr__seconds() - begin - saving;
done:
    return status;
}

/* ---- a step that failed ---- */

/* The lowest module of the model, or else of the teacher, where a window of the step is not finite.
 * That it is not found, or that looking fails, is no news beside the error itself. */
static void find_culprit(training *t, int64_t step, char found[LR__FOUND_ROOM]) {
    found[0] = '\0';
    for (int32_t i = 0; i < 2 && !found[0]; i++) {
        const lr_model *model = i ? t->opts.teacher : t->model;
        for (int32_t first = 0; model && first < t->opts.batch && !found[0];
             first += t->opts.at_once) {
            int32_t count = pass_windows(t, first);
            draw_windows(t, step, first, count);
            if (lr__find_not_finite(model, t->segments, count, found) < 0) found[0] = '\0';
        }
        if (i && found[0]) strncat(found, " of the teacher", LR__FOUND_ROOM - strlen(found) - 1);
    }
}

static lr_status explain(training *t, int64_t step, lr_status why) {
    char cause[512], found[LR__FOUND_ROOM];
    if (why != LR_E_NUMERIC) return lr__fail_in(why, "step %lld", (long long)step);
    snprintf(cause, sizeof cause, "step %lld: %s", (long long)step, lr_last_error());
    find_culprit(t, step, found);
    lr__fail(why, "%s; %s%s", cause, found[0] ? found : "all blocks are finite going forward",
             found[0] ? " is the lowest that is not finite" : "");
    if (t->saved < 0) return lr__fail(why, "%s; there is no checkpoint", lr_last_error());
    return lr__fail(why, "%s; the last good checkpoint is %s of step %lld", lr_last_error(),
                    t->opts.checkpoint, (long long)t->saved);
}

static lr_status run_step(training *t, lr_train_event *e) {
    *e = (lr_train_event){.size = sizeof *e,
                          .step = lr_optimizer_steps(t->optimizer) + 1,
                          .tokens = (int64_t)t->opts.batch * t->opts.window};
    lr_status status = make_step(t, e);
    if (status >= 0) return LR_OK;
    lr_optimizer_zero(t->optimizer);
    return explain(t, e->step, status);
}

/* ---- all steps ---- */

static lr_status resume(training *t) {
    lr_status status = LR_OK;
    if (!t->opts.checkpoint || !lr__path_exists(t->opts.checkpoint)) return LR_OK;
    LR_TRY(lr_optimizer_restore(t->optimizer, t->opts.checkpoint));
    t->saved = lr_optimizer_steps(t->optimizer);
done:
    return status;
}

static lr_status run_steps(training *t, lr_train_fn fn, void *user) {
    lr_status status = LR_OK;
    lr_train_event event;
    while (lr_optimizer_steps(t->optimizer) < t->opts.steps) {
        LR_TRY(run_step(t, &event));
        int32_t is_cancelled = fn && fn(&event, user);
        if (event.step % t->opts.checkpoint_every == 0) t->is_due = 1;
        if (is_cancelled) LR_TRY(save(t));
        LR_FAIL_IF(is_cancelled, LR_E_CANCELLED, "training was cancelled at step %lld",
                   (long long)event.step);
        lr_status told = lr__progress(t->model->ctx, "train", event.step, t->opts.steps);
        if (told < 0 && t->is_due) LR_TRY(save(t));
        LR_TRY(told);
    }
    status = save(t);
done:
    return status;
}

static lr_status open_sessions(training *t) {
    const lr_train_opts *o = &t->opts;
    lr_status status = LR_OK;
    if (o->hidden > 0)
        LR_TRY(lr__hidden_new(&t->hidden, t->model, o->teacher, (int64_t)o->at_once * o->window));
    LR_TRY(lr__windows_session(&t->session, t->model, o->at_once, o->window,
                               lr__hidden_model_hooks(t->hidden)));
    if (o->teacher)
        LR_TRY(lr__windows_session(&t->teacher, o->teacher, o->at_once, o->window,
                                   lr__hidden_teacher_hooks(t->hidden)));
done:
    return status;
}

lr_status lr_train(lr_model *model, lr_optimizer *optimizer, const int32_t *ids, size_t count,
                   const lr_train_opts *opts, lr_train_fn fn, void *user) {
    lr_status status = LR_OK;
    training t = {.model = model, .optimizer = optimizer, .ids = ids, .count = count, .saved = -1};
    lr_train_opts_init(&t.opts, sizeof t.opts);
    if (!model || !optimizer || !ids)
        return lr__fail(LR_E_INVALID, "lr_train: model, optimizer and ids are needed");
    LR_TRY(lr__opts_merge(&t.opts, sizeof t.opts, opts, "lr_train_opts"));
    LR_TRY(check_opts(&t));
    LR_TRY(lr__new(&t.segments, (size_t)t.opts.at_once, sizeof *t.segments));
    LR_TRY(open_sessions(&t));
    LR_TRY(resume(&t));
    status = run_steps(&t, fn, user);
done:
    lr__free(t.segments);
    lr_session_free(t.session);
    lr_session_free(t.teacher);
    lr__hidden_free(t.hidden);
    return status;
}
