/*
 * Block refinement. The streams of all windows are kept: what enters the block in the dense model,
 * what leaves it there (the target), and what enters it behind the refined blocks below. A block
 * learns on them by lr_session_learn_blocks(), with the loss in hooks, and then moves its stream
 * on.
 */
#include "base/opts.h"
#include "run/batches.h"
#include "run/refine.h"
#include "run/stream_loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const lr_refine_opts cpu = {.size = sizeof cpu,
                                   .pattern = "*",
                                   .epochs = 2,
                                   .batch = 4,
                                   .window = 256,
                                   .learning_rate = 2e-4,
                                   .clip = 1,
                                   .held_out = 0.1};

void lr_refine_opts_init(lr_refine_opts *opts, size_t size) {
    lr__opts_defaults(opts, size, &cpu, sizeof cpu);
}

lr_status lr_refine_opts_preset(lr_refine_opts *opts, const char *name) {
    lr_refine_opts o = cpu;
    lr_status status = LR_OK;
    if (!opts || !name) return lr__fail(LR_E_INVALID, "a preset needs options and a name");
    LR_TRY(lr__opts_merge(&o, sizeof o, opts, "lr_refine_opts"));
    int is_gpu = !strcmp(name, "gpu");
    if (!is_gpu && strcmp(name, "cpu"))
        return lr__fail(LR_E_INVALID, "preset \"%s\", expected cpu or gpu", name);
    o.epochs = is_gpu ? 25 : cpu.epochs;
    o.batch = is_gpu ? 32 : cpu.batch;
    o.learning_rate = is_gpu ? 1e-4 : cpu.learning_rate;
    o.weight_decay = is_gpu ? 0.01 : cpu.weight_decay;
    o.dense_inputs = is_gpu ? 0.5 : cpu.dense_inputs;
    o.look_ahead = is_gpu ? 0.5 : cpu.look_ahead;
    o.patience = is_gpu ? 3 : cpu.patience;
    memcpy(opts, &o, opts->size < sizeof o ? opts->size : sizeof o);
done:
    return status;
}

/* ---- all blocks ---- */

/* The teacher's streams, one block further for each depth. */
static void turn_streams(lr__refining *r) {
    lr__spill *first = r->dense[0];
    for (int32_t d = 0; d < LR__REFINE_DEPTHS; d++)
        if (r->dense[d + 1]) {
            r->dense[d] = r->dense[d + 1];
            r->dense[d + 1] = first;
        }
}

static int32_t depths_ahead(const lr__refining *r) {
    return r->dense[LR__REFINE_DEPTHS] ? LR__REFINE_DEPTHS : 1;
}

static lr_status run_blocks(lr__refining *r, lr_refine_fn fn, void *user) {
    lr_status status = LR_OK;
    int32_t ahead = depths_ahead(r), trained = 0, found = 0;
    for (int32_t d = 0; d < ahead - 1; d++)
        LR_TRY(lr__refine_move(r, r->runner, d, r->dense[d], r->dense[d + 1]));
    for (r->layer = 0; r->layer < r->layers; r->layer++) {
        r->done = r->layer * lr__refine_work(r);
        if (r->layer + ahead <= r->layers)
            LR_TRY(lr__refine_move(r, r->runner, r->layer + ahead - 1, r->dense[ahead - 1],
                                   r->dense[ahead]));
        LR_TRY(lr__refine_block(r, &found));
        trained += found;
        LR_FAIL_IF(found && fn && fn(&r->event, user), LR_E_CANCELLED,
                   "refinement was cancelled at block %d", r->layer);
        if (r->layer + 1 < r->layers)
            LR_TRY(lr__refine_move(r, r->learner, r->layer, r->behind, r->behind));
        turn_streams(r);
        r->done = (r->layer + 1) * lr__refine_work(r);
        LR_TRY(lr__refine_tell(r, 0));
    }
    LR_FAIL_IF(!trained, LR_E_NOTFOUND, "no parameter of a block matches \"%s\"", r->opts.pattern);
done:
    return status;
}

static lr_status check_opts(const lr_refine_opts *o) {
    if (!o->pattern || o->epochs < 1 || o->batch < 1 || o->batch > LR__BATCH_WINDOWS ||
        o->window < 1 || o->loss < LR_STREAM_RELATIVE || o->loss > LR_STREAM_COSINE ||
        o->patience < 0)
        return lr__fail(LR_E_INVALID,
                        "refinement: epochs %d, batch %d of at most %d, window %d, loss %d, "
                        "patience %d",
                        o->epochs, o->batch, LR__BATCH_WINDOWS, o->window, o->loss, o->patience);
    if (!(o->dense_inputs >= 0 && o->dense_inputs <= 1) || !(o->held_out >= 0 && o->held_out < 1) ||
        !(o->look_ahead >= 0) || !isfinite(o->look_ahead))
        return lr__fail(LR_E_INVALID,
                        "refinement: share of dense inputs %g, held out %g, look-ahead %g",
                        o->dense_inputs, o->held_out, o->look_ahead);
    return LR_OK;
}

/* The last windows are held out. */
static lr_status split_windows(lr__refining *r, size_t count) {
    r->windows = (int64_t)(count / (size_t)r->opts.window);
    r->learnt = r->windows - (int64_t)ceil(r->opts.held_out * (double)r->windows);
    if (r->learnt > 0) return LR_OK;
    return lr__fail(LR_E_INVALID,
                    "the text of %zu tokens holds no window of %d to learn on, %lld are held out",
                    count, r->opts.window, (long long)(r->windows - r->learnt));
}

/* Streams go to a file where they would take more than a quarter of the memory allowed. */
static lr_status make_streams(lr__refining *r) {
    lr_status status = LR_OK;
    const char *folder = NULL;
    uint64_t memory = r->draft->ctx->opts.memory;
    size_t bytes;
    LR_FAIL_IF(__builtin_mul_overflow((size_t)r->windows, lr__refine_window_bytes(r), &bytes),
               LR_E_INVALID, "%lld windows are too many", (long long)r->windows);
    if (memory && bytes > memory / 4 / (LR__REFINE_DEPTHS + 2)) {
        folder = getenv("TMPDIR");
        if (!folder) folder = "/tmp";
    }
    LR_TRY(lr__spill_new(&r->behind, bytes, folder));
    for (int32_t d = 0; d <= (r->opts.look_ahead > 0 ? LR__REFINE_DEPTHS : 1); d++)
        LR_TRY(lr__spill_new(&r->dense[d], bytes, folder));
done:
    return status;
}

static lr_status prepare(lr__refining *r) {
    lr_status status = LR_OK;
    size_t numbers = (size_t)r->opts.batch * (size_t)r->opts.window * (size_t)r->hidden;
    LR_TRY(make_streams(r));
    LR_TRY(lr__new(&r->segments, (size_t)r->opts.batch, sizeof *r->segments));
    LR_TRY(lr__new(&r->order, (size_t)r->learnt, sizeof *r->order));
    LR_TRY(lr__new_aligned(&r->x, numbers, sizeof *r->x));
    for (int32_t d = 0; d < LR__REFINE_DEPTHS; d++) {
        lr__comparison *c = &r->compared[d];
        c->r = r;
        c->weight = d ? r->opts.look_ahead : 1;
        if (!r->dense[1 + d]) continue;
        LR_TRY(lr__new_aligned(&c->target, numbers, sizeof *c->target));
        LR_TRY(lr__new_aligned(&c->slope, numbers, sizeof *c->slope));
    }
    LR_TRY(lr_hooks_new(&r->hooks));
    LR_TRY(lr__windows_session(&r->learner, r->draft, r->opts.batch, r->opts.window, r->hooks));
    LR_TRY(lr__windows_session(&r->runner, r->teacher, r->opts.batch, r->opts.window, NULL));
done:
    return status;
}

static void clear(lr__refining *r) {
    lr_session_free(r->learner);
    lr_session_free(r->runner);
    lr_hooks_free(r->hooks);
    lr_optimizer_free(r->optimizer);
    lr__spill_free(r->behind);
    for (int32_t d = 0; d <= LR__REFINE_DEPTHS; d++) lr__spill_free(r->dense[d]);
    for (int32_t d = 0; d < LR__REFINE_DEPTHS; d++) {
        lr__aligned_free(r->compared[d].target);
        lr__aligned_free(r->compared[d].slope);
    }
    lr__aligned_free(r->x);
    lr__free(r->segments);
    lr__free(r->order);
    lr_model_free(r->draft);
}

lr_status lr_refine(lr_model *student, const lr_model *teacher, const int32_t *ids, size_t count,
                    const lr_refine_opts *opts, lr_refine_fn fn, void *user) {
    lr_status status = LR_OK;
    lr__graph *before = NULL, *after = NULL;
    lr__refining r = {.teacher = teacher, .ids = ids, .kept = -1};
    if (!student || !teacher || !ids)
        return lr__fail(LR_E_INVALID, "lr_refine: student, teacher and ids are needed");
    lr_refine_opts_init(&r.opts, sizeof r.opts);
    LR_TRY(lr__opts_merge(&r.opts, sizeof r.opts, opts, "lr_refine_opts"));
    LR_TRY(lr__stream_check(student, teacher));
    r.layers = student->origin->config.layers;
    r.hidden = student->origin->config.hidden_size;
    LR_TRY(check_opts(&r.opts));
    LR_TRY(split_windows(&r, count));
    LR_TRY(lr_model_clone(&r.draft, student));
    before = lr__model_graph(r.draft);
    LR_TRY(prepare(&r));
    LR_TRY(run_blocks(&r, fn, user));
    after = lr__model_graph(r.draft);
    status = lr__model_merge(student, before, after);
done:
    lr__graph_drop(after);
    lr__graph_drop(before);
    clear(&r);
    return status;
}
