/*
 * Low-rank feature mimicking through the public hooks: sessions of teacher and student run the same
 * windows one block at a time, side by side, and what passes through a module trains its factors.
 * Which of the two run, and whose hooks train, is all that the three streams differ in.
 */
#include "run/distill.h"

#include "base/file.h"
#include "base/opts.h"
#include "base/rng.h"
#include "run/batches.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

enum { TEACHER, STUDENT, SIDES };
enum { STREAM_TEACHER, STREAM_SHIFT, STREAM_ANCHORED };
static const char *const streams[] = {"teacher", "shift", "anchored"};

void lr_distill_opts_init(lr_distill_opts *opts, size_t size) {
    lr_distill_opts defaults = {.size = sizeof defaults,
                                .steps = 100,
                                .batch = 4,
                                .window = 256,
                                .learning_rate = 8.6e-5,
                                .weight_decay = 0.01,
                                .clip = 2,
                                .stream = "teacher",
                                .log_every = 8,
                                .check_every = 10,
                                .held_out = -1,
                                .checkpoint_every = 25};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

typedef struct distillation {
    lr_distill_opts opts;
    int32_t stream;
    lr_model *student;
    const lr_model *teacher;
    const int32_t *ids;
    int64_t windows, total; /* to learn from, and with those held out behind them */
    int64_t *order, next;   /* [windows], the next of this round */
    uint64_t round;
    lr__pupil *pupils;
    int32_t count, layers; /* layers: blocks up to the last that is trained */
    lr_hooks *hooks[SIDES];
    lr_session *sessions[SIDES]; /* NULL: does not run */
    float *x[SIDES];             /* residual rows */
    lr__arena arena;
    lr_segment segments[LR__BATCH_WINDOWS];
    int64_t saved; /* step of the last checkpoint, -1: none */
    int32_t is_measuring;
    lr_distill_fn fn;
    void *user;
} distillation;

/* ---- what is asked for ---- */

static lr_status find_stream(distillation *d) {
    const char *name = d->opts.stream ? d->opts.stream : "";
    for (d->stream = 0; d->stream < (int32_t)(sizeof streams / sizeof *streams); d->stream++)
        if (!strcmp(name, streams[d->stream])) return LR_OK;
    return lr__fail(LR_E_INVALID, "stream \"%s\", expected teacher, shift or anchored", name);
}

static lr_status check_opts(distillation *d) {
    const lr_distill_opts *o = &d->opts;
    if (o->steps < 1 || o->batch < 1 || o->batch > LR__BATCH_WINDOWS || o->window < 1)
        return lr__fail(LR_E_INVALID,
                        "distillation: steps %lld, batch %d, window %d, expected 1 "
                        "or more, and batches of at most %d windows",
                        (long long)o->steps, o->batch, o->window, LR__BATCH_WINDOWS);
    if (o->log_every < 1 || o->check_every < 1 || o->held_out < -1 || o->patience < 0 ||
        o->checkpoint_every < 1)
        return lr__fail(LR_E_INVALID,
                        "distillation: log_every %d, check_every %d, held_out %d, patience %d, a "
                        "checkpoint every %lld",
                        o->log_every, o->check_every, o->held_out, o->patience,
                        (long long)o->checkpoint_every);
    return find_stream(d);
}

static lr_status share_windows(distillation *d, size_t count) {
    lr_status status = LR_OK;
    d->total = (int64_t)(count / (size_t)d->opts.window);
    int64_t held = d->opts.held_out < 0 ? d->total / 10 : d->opts.held_out;
    d->windows = d->total - held;
    if (d->windows < 1)
        return lr__fail(LR_E_INVALID,
                        "the text of %zu tokens holds %lld windows of %d, expected one beside %lld "
                        "held out",
                        count, (long long)d->total, d->opts.window, (long long)held);
    if (d->opts.batch > d->windows) d->opts.batch = (int32_t)d->windows;
    LR_TRY(lr__new(&d->order, (size_t)d->windows, sizeof *d->order));
    for (int64_t i = 0; i < d->windows; i++) d->order[i] = i;
    d->next = d->windows;
done:
    return status;
}

static lr_status check_models(const distillation *d) {
    const lr__config *s = &d->student->origin->config, *t = &d->teacher->origin->config;
    if (s->layers == t->layers && s->hidden_size == t->hidden_size &&
        s->vocabulary_size == t->vocabulary_size)
        return LR_OK;
    return lr__fail(LR_E_SHAPE,
                    "the student has %d blocks, width %d and %d tokens, the teacher %d, %d and %d",
                    s->layers, s->hidden_size, s->vocabulary_size, t->layers, t->hidden_size,
                    t->vocabulary_size);
}

/* ---- the modules ---- */

static int is_wanted(const lr_linear *linear, const char *pattern) {
    return lr_linear_kind(linear) != LR_LINEAR_DENSE &&
           (!pattern || lr_name_matches(pattern, linear->name));
}

/* All are checked before the first is changed. */
static lr_status check_modules(const lr__graph *graph, const char *pattern) {
    lr_status status = LR_OK;
    int32_t count = lr__graph_linear_count(graph), found = 0;
    for (int32_t i = 0; i < count; i++) {
        const lr_linear *linear = *lr__graph_linear(graph, i);
        if (!is_wanted(linear, pattern)) continue;
        LR_FAIL_IF(i + 1 == count, LR_E_UNSUPPORTED, "%s: stands behind the blocks", linear->name);
        LR_TRY(lr__pupil_check(graph, i));
        found++;
    }
    LR_FAIL_IF(!found, LR_E_NOTFOUND, "no factorised module of the student matches \"%s\"",
               pattern ? pattern : "*");
done:
    return status;
}

static lr_status take_modules(distillation *d, const char *pattern) {
    lr_status status = LR_OK;
    lr__graph *graph = lr__model_graph(d->student); /* with no masters in it */
    int32_t count = lr__graph_linear_count(graph);
    LR_TRY(check_modules(graph, pattern));
    LR_TRY(lr__new(&d->pupils, (size_t)count, sizeof *d->pupils));
    for (int32_t i = 0; i < count; i++) {
        const lr_linear *linear = *lr__graph_linear(graph, i);
        if (!is_wanted(linear, pattern)) continue;
        lr__pupil *p = &d->pupils[d->count++];
        LR_TRY(lr__pupil_begin(p, d->student, d->teacher, linear->name, &d->opts));
        p->owner = d;
        d->layers = i / LR__BLOCK_LINEARS + 1;
    }
done:
    lr__graph_drop(graph);
    return status;
}

/* ---- hooks ---- */

static lr_status notify(const distillation *d, const lr__pupil *p, int32_t is_last) {
    lr_distill_event e = {.size = sizeof e,
                          .module = lr_linear_name(p->linear),
                          .index = (int32_t)(p - d->pupils),
                          .count = d->count,
                          .is_last = is_last,
                          .step = (int64_t)p->calls,
                          .loss = p->losses[p->calls - 1],
                          .energy = p->energy,
                          .held_out = p->held,
                          .best = p->least,
                          .best_step = p->best_step,
                          .start = p->start,
                          .losses = p->losses};
    if (!d->fn || !d->fn(&e, d->user)) return LR_OK;
    return lr__fail(LR_E_CANCELLED, "distillation was cancelled at %s", e.module);
}

/* Behind the loss of a call, before its step. */
static lr_status due(lr__pupil *p) {
    const distillation *d = p->owner;
    int64_t calls = (int64_t)p->calls;
    int32_t every = d->opts.check_every;
    if (d->total == d->windows && (calls % every == 0 || calls == d->opts.steps))
        lr__pupil_judge(p, lr__pupil_mean(p, every), d->opts.patience);
    return (calls - 1) % d->opts.log_every ? LR_OK : notify(d, p, 0);
}

static lr_status teach(lr__pupil *p, const lr_tensor *x, const float *target) {
    distillation *d = p->owner;
    lr__example example = {.arena = &d->arena, .x = x->data, .target = target, .rows = x->shape[0]};
    return d->is_measuring ? lr__pupil_measure(p, &example) : lr__pupil_learn(p, &example, due);
}

static lr_status behind_teacher(const lr_hook_event *event, void *user) {
    lr__pupil *p = user;
    distillation *d = p->owner;
    const lr_tensor *y = &event->output;
    lr_status status = LR_OK;
    if (p->is_done) return LR_OK;
    if (d->stream == STREAM_TEACHER) return teach(p, &event->input, y->data);
    size_t count = (size_t)(y->shape[0] * y->shape[1]);
    LR_TRY(lr__arena_take(&d->arena, &p->kept, count, sizeof *p->kept));
    memcpy(p->kept, y->data, count * sizeof *p->kept);
done:
    return status;
}

static lr_status behind_student(const lr_hook_event *event, void *user) {
    lr__pupil *p = user;
    distillation *d = p->owner;
    int64_t shape[2] = {event->output.shape[0], event->output.shape[1]};
    lr__arena_mark mark = lr__arena_here(&d->arena);
    lr_status status = LR_OK;
    lr_tensor view;
    float *target;
    if (p->is_done) return LR_OK;
    if (d->stream == STREAM_ANCHORED) return teach(p, &event->input, p->kept);
    LR_TRY(lr__arena_take(&d->arena, &target, (size_t)(shape[0] * shape[1]), sizeof *target));
    LR_TRY(lr_tensor_view(&view, target, LR_F32, 2, shape));
    LR_TRY(lr_linear_apply(p->target, &event->input, &view));
    status = teach(p, &event->input, target);
done:
    lr__arena_release(&d->arena, mark);
    return status;
}

/* A side runs when its inputs or its outputs are wanted. */
static lr_status make_sessions(distillation *d) {
    static const lr_hook_fn behind[SIDES] = {behind_teacher, behind_student};
    const lr_model *models[SIDES] = {d->teacher, d->student};
    const int32_t runs[SIDES] = {d->stream != STREAM_SHIFT, d->stream != STREAM_TEACHER};
    lr_status status = LR_OK;
    size_t rows = (size_t)d->opts.batch * (size_t)d->opts.window;
    size_t width = (size_t)d->student->origin->config.hidden_size;
    for (int side = 0; side < SIDES; side++) {
        if (!runs[side]) continue;
        LR_TRY(lr_hooks_new(&d->hooks[side]));
        for (int32_t i = 0; i < d->count; i++)
            LR_TRY(lr_hook_add(d->hooks[side], lr_linear_name(d->pupils[i].linear),
                               LR_AFTER_FORWARD, behind[side], &d->pupils[i], NULL));
        LR_TRY(lr__windows_session(&d->sessions[side], models[side], d->opts.batch, d->opts.window,
                                   d->hooks[side]));
        LR_TRY(lr__new_aligned(&d->x[side], rows, width * sizeof *d->x[side]));
    }
done:
    return status;
}

/* ---- passes ---- */

static lr_status run_block(distillation *d, int32_t count, int32_t layer) {
    lr__arena_mark mark = lr__arena_here(&d->arena);
    lr_status status = LR_OK;
    for (int side = 0; side < SIDES && status >= 0; side++)
        if (d->sessions[side])
            status = lr_session_blocks(d->sessions[side], d->segments, count, layer, layer + 1,
                                       d->x[side]);
    lr__arena_release(&d->arena, mark);
    return status;
}

static lr_status run_pass(distillation *d, int32_t count) {
    lr_status status = LR_OK;
    for (int32_t layer = 0; layer < d->layers && status >= 0; layer++)
        status = run_block(d, count, layer);
    return status;
}

static void begin_round(distillation *d) {
    lr__shuffle(d->order, d->windows, d->opts.seed, d->round++);
    d->next = 0;
}

static void deal(distillation *d) {
    for (int32_t i = 0; i < d->opts.batch; i++) {
        if (d->next == d->windows) begin_round(d);
        const int32_t *tokens = d->ids + d->order[d->next++] * d->opts.window;
        d->segments[i] = (lr_segment){.row = i, .count = d->opts.window, .tokens = tokens};
    }
}

static int is_anyone_left(const distillation *d) {
    for (int32_t i = 0; i < d->count; i++)
        if (!d->pupils[i].is_done) return 1;
    return 0;
}

/* Held-out losses of all that still learn. */
static lr_status measure(distillation *d) {
    lr_status status = LR_OK;
    for (int32_t i = 0; i < d->count; i++) d->pupils[i].sum = d->pupils[i].numbers = 0;
    d->is_measuring = 1;
    for (int64_t at = d->windows; at < d->total && status >= 0; at += d->opts.batch) {
        int32_t count =
            lr__windows_fill(d->segments, d->ids, at, d->total, d->opts.batch, d->opts.window);
        status = run_pass(d, count);
    }
    d->is_measuring = 0;
    for (int32_t i = 0; i < d->count && status >= 0; i++) {
        lr__pupil *p = &d->pupils[i];
        if (p->is_done) continue;
        p->held = p->sum / p->numbers;
        if (p->start < 0) p->start = p->held;
        lr__pupil_judge(p, p->held, d->opts.patience);
    }
    return status;
}

static lr_status run_step(distillation *d, int64_t step) {
    int32_t has_held = d->total > d->windows, every = d->opts.check_every;
    lr_status status;
    deal(d);
    status = run_pass(d, d->opts.batch);
    if (status >= 0 && has_held && (step % every == 0 || step == d->opts.steps))
        status = measure(d);
    return status;
}

static lr_status save(distillation *d, int64_t step) {
    lr_status status = LR_OK;
    if (!d->opts.checkpoint || d->saved == step) return LR_OK;
    LR_TRY(lr__pupils_save(d->pupils, d->count, step, d->opts.checkpoint));
    d->saved = step;
done:
    return status;
}

/* The windows of the steps that were made are dealt again. */
static lr_status resume(distillation *d, int64_t *step) {
    lr_status status = LR_OK;
    if (!d->opts.checkpoint || !lr__path_exists(d->opts.checkpoint)) return LR_OK;
    LR_TRY(lr__pupils_restore(d->pupils, d->count, d->opts.steps, step, d->opts.checkpoint));
    for (int64_t i = 0; i < *step; i++) deal(d);
    d->saved = *step;
done:
    return status;
}

static lr_status explain(const distillation *d, int64_t step, lr_status why) {
    lr__fail_in(why, "step %lld", (long long)step);
    if (why != LR_E_NUMERIC || d->saved < 0) return why;
    return lr__fail(why, "%s; the last checkpoint is %s of step %lld", lr_last_error(),
                    d->opts.checkpoint, (long long)d->saved);
}

static lr_status run_steps(distillation *d) {
    lr_status status = LR_OK;
    int64_t step = 0, steps = d->opts.steps;
    LR_TRY(resume(d, &step));
    if (!step && d->total > d->windows) LR_TRY(measure(d));
    while (step < steps && is_anyone_left(d)) {
        LR_TRY(run_step(d, ++step));
        if (step % d->opts.checkpoint_every == 0) LR_TRY(save(d, step));
        LR_TRY(lr__progress(d->student->ctx, "distill", step, steps));
    }
    LR_TRY(save(d, step));
done:
    return status == LR_E_CANCELLED || status >= 0 ? status : explain(d, step, status);
}

/* ---- the end ---- */

static lr_status make_folder(const char *folder) {
    if (!mkdir(folder, 0777) || errno == EEXIST) return LR_OK;
    return lr__fail_errno(folder, "create");
}

static lr_status tell_all(const distillation *d) {
    lr_status status = LR_OK;
    for (int32_t i = 0; i < d->count && status >= 0; i++) {
        if (d->opts.folder) status = lr__pupil_save(&d->pupils[i], d->opts.folder);
        if (status >= 0) status = notify(d, &d->pupils[i], 1);
    }
    return status;
}

static void distillation_clear(distillation *d) {
    for (int side = 0; side < SIDES; side++) {
        lr_session_free(d->sessions[side]);
        lr_hooks_free(d->hooks[side]);
        lr__aligned_free(d->x[side]);
    }
    for (int32_t i = 0; i < d->count; i++) lr__pupil_clear(&d->pupils[i]);
    lr__free(d->pupils);
    lr__free(d->order);
    lr__arena_clear(&d->arena);
}

lr_status lr_distill(lr_model *student, const lr_model *teacher, const char *pattern,
                     const int32_t *ids, size_t count, const lr_distill_opts *opts,
                     lr_distill_fn fn, void *user) {
    lr_status status = LR_OK;
    distillation d = {
        .student = student, .teacher = teacher, .ids = ids, .saved = -1, .fn = fn, .user = user};
    lr_distill_opts_init(&d.opts, sizeof d.opts);
    if (!student || !teacher || !ids)
        return lr__fail(LR_E_INVALID, "lr_distill: student, teacher and ids are needed");
    if (student == teacher)
        return lr__fail(LR_E_INVALID, "lr_distill: the student is the teacher, expected a clone");
    LR_TRY(lr__opts_merge(&d.opts, sizeof d.opts, opts, "lr_distill_opts"));
    LR_TRY(check_opts(&d));
    LR_TRY(check_models(&d));
    LR_TRY(share_windows(&d, count));
    if (d.opts.folder) LR_TRY(make_folder(d.opts.folder));
    LR_TRY(take_modules(&d, pattern));
    LR_TRY(make_sessions(&d));
    status = run_steps(&d);
    for (int32_t i = 0; i < d.count; i++) lr__pupil_restore(&d.pupils[i]);
    if (status >= 0) status = tell_all(&d);
done:
    distillation_clear(&d);
    return status;
}
