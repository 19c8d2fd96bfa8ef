/*
 * Compression block by block: the residual streams of the calibration texts go through the model
 * one block at a time, and each block's statistics are made, used and dropped before the next.
 * With "shift" and "anchored" a second stream runs behind the compressed blocks, and each group of
 * modules with one input is fitted when all before it, in its own block too, are compressed
 * (SVD-LLM, arXiv 2403.07378; AA-SVD, arXiv 2604.02119).
 */
#include "run/blocks.h"

#include "base/opts.h"
#include "compress/drift.h"
#include "compress/factor.h"
#include "compress/stats.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PATTERN_SIZE = 1024, PASSES = LR__GROUPS + 1 };

/* Share of its own size that each channel of S is raised by before it divides. */
static const double ridge = 1e-3;

const struct lr__group lr__groups[LR__GROUPS] = {
    {LR__Q, 3}, {LR__O, 1}, {LR__GATE, 2}, {LR__DOWN, 1}};

int32_t lr__blocks_planned(const lr__blocks *b, int32_t layer, int32_t first, int32_t last) {
    int32_t count = 0;
    for (int32_t g = first; g < last; g++)
        for (int32_t i = 0; i < lr__groups[g].count; i++)
            count += lr__blocks_item(b, layer, lr__groups[g].first + i) >= 0;
    return count;
}

/* The name in the event lives no longer than the event. */
lr_status lr__blocks_note(lr__blocks *b, const lr_compress_event *event) {
    lr_compress_event *kept = &b->events[b->event_count++];
    *kept = *event;
    kept->module = b->plan->modules[lr__plan_find(b->plan, event->module)];
    if (!b->fn || !b->fn(event, b->user)) return LR_OK;
    return lr__fail(LR_E_CANCELLED, "compress: cancelled at %s", event->module);
}

static lr_status report(const lr__blocks *b, int64_t tokens) {
    int64_t passes = b->sequential ? PASSES : 1, pass = b->pass < passes ? b->pass : passes - 1;
    return lr__progress(b->model->ctx, "compress", (b->layer * passes + pass) * b->tokens + tokens,
                        lr__blocks_layers(b) * passes * b->tokens);
}

/* --- one pass over a stream --- */

/* Who watches a block, and what for: the statistics of some groups, or, where there are none, their
 * inputs alone. */
typedef struct watcher {
    lr__blocks *b;
    const lr_stats *modules; /* those watched */
    lr_stats *stats;
    lr__drift *drift;
    lr__arena arena;
    double weight;
    int64_t last_input;
    int32_t expected, calls, stops; /* stops: nothing behind the last of them is wanted */
} watcher;

static lr_status see(watcher *w, const lr_hook_event *event) {
    const lr_tensor *x = &event->input;
    int32_t is_new = w->last_input != event->input_id;
    lr_status status = LR_OK;
    w->last_input = event->input_id;
    if (!w->stats) {
        if (is_new)
            memcpy(w->b->seen, x->data, (size_t)(x->shape[0] * x->shape[1]) * sizeof(float));
        return LR_OK;
    }
    status = lr__stats_observe(w->stats, event, w->weight);
    if (status < 0 || !w->drift || !is_new) return status;
    return lr__drift_count(w->drift, &w->b->model->ctx->device, &w->arena, w->b->seen, x->data,
                           x->shape[0], w->weight);
}

static lr_status watch(const lr_hook_event *event, void *user) {
    watcher *w = user;
    if (lr__stats_index(w->modules, event->module) < 0) return LR_OK;
    lr_status status = see(w, event);
    if (status < 0) return status;
    return ++w->calls == w->expected && w->stops ? LR_E_CANCELLED : LR_OK;
}

/* A session of batches; `w` NULL: nobody watches. */
typedef struct runner {
    lr_session *session;
    lr_hooks *hooks;
    watcher *watcher;
    lr__spill *stream;
    int32_t moves; /* the stream goes on behind the block */
} runner;

static void runner_clear(runner *r) {
    lr_session_free(r->session);
    lr_hooks_free(r->hooks);
    if (r->watcher) lr__arena_clear(&r->watcher->arena);
}

static lr_status runner_new(runner *r, const lr__blocks *b, const lr_model *model) {
    lr_status status = LR_OK;
    int32_t longest = 1;
    for (int32_t i = 0; i < b->text_count; i++)
        if (b->texts[i].window > longest) longest = b->texts[i].window;
    if (r->watcher) {
        LR_TRY(lr_hooks_new(&r->hooks));
        LR_TRY(lr_hook_add(r->hooks, r->watcher->modules->pattern, LR_BEFORE_FORWARD, watch,
                           r->watcher, NULL));
    }
    status = lr__windows_session(&r->session, model, LR__BATCH_WINDOWS, longest, r->hooks);
done:
    return status;
}

static lr_status run_batch(runner *r, lr__blocks *b, const lr__batch *batch) {
    lr_status status = LR_OK;
    size_t token = (size_t)b->model->origin->config.hidden_size * sizeof(float);
    size_t at = (size_t)batch->first * token, bytes = (size_t)batch->tokens * token;
    watcher *w = r->watcher;
    if (b->layer) LR_TRY(lr__spill_read(r->stream, at, b->rows, bytes));
    if (w) {
        w->calls = 0;
        w->weight = batch->weight;
    }
    status = lr_session_blocks(r->session, batch->segments, batch->count, b->layer, b->layer + 1,
                               b->rows);
    if (w && w->stops && w->calls == w->expected) return LR_OK;
    if (status >= 0 && r->moves) status = lr__spill_write(r->stream, at, b->rows, bytes);
done:
    return status;
}

static lr_status run_batches(lr__blocks *b, runner *runners, int32_t count) {
    lr__batch batch = {0};
    while (lr__batch_next(&batch, b->texts, b->text_count, b->batch)) {
        for (int32_t i = 0; i < count; i++) {
            lr_status status = run_batch(&runners[i], b, &batch);
            if (status < 0) return status;
        }
        lr_status status = report(b, batch.first + batch.tokens);
        if (status < 0) return status;
    }
    b->pass++;
    return LR_OK;
}

/* --- statistics and factors of some groups --- */

static lr_status stats_for(lr_stats **out, const lr__blocks *b, int32_t layer, int32_t first,
                           int32_t last) {
    char pattern[PATTERN_SIZE] = "{";
    size_t at = 1;
    lr_stats_opts opts;
    for (int32_t g = first; g < last; g++)
        for (int32_t i = 0; i < lr__groups[g].count; i++) {
            int32_t item = lr__blocks_item(b, layer, lr__groups[g].first + i);
            if (item < 0) continue;
            at += (size_t)snprintf(pattern + at, sizeof pattern - at, "%s%s", at > 1 ? "," : "",
                                   b->plan->modules[item]);
        }
    snprintf(pattern + at, sizeof pattern - at, "}");
    lr_stats_opts_init(&opts, sizeof opts);
    opts.pattern = pattern;
    opts.exact = b->exact;
    return lr_stats_new(out, b->model, &opts);
}

/* Runs what the statistics need, and moves the dense stream on when nothing else will. */
static lr_status collect(lr__blocks *b, lr_stats *stats, lr__drift *drift, int32_t is_last) {
    lr_status status = LR_OK;
    watcher dense = {.b = b, .modules = stats, .expected = stats->module_count};
    watcher behind = dense;
    runner runners[2] = {{.stream = b->dense}, {.stream = b->behind}};
    runner *first = b->dense ? &runners[0] : &runners[1];
    runners[0].watcher = &dense;
    runners[1].watcher = &behind;
    runners[0].moves = is_last;
    dense.stops = !is_last;
    behind.stops = 1;
    if (b->behind)
        behind.stats = stats;
    else
        dense.stats = stats;
    behind.drift = drift;
    if (b->dense) LR_TRY(runner_new(&runners[0], b, b->model));
    if (b->behind) LR_TRY(runner_new(&runners[1], b, b->draft));
    status = run_batches(b, first, (b->dense != NULL) + (b->behind != NULL));
done:
    for (int i = 0; i < 2; i++) runner_clear(&runners[i]);
    return status;
}

static lr_status correct_module(lr__blocks *b, const lr__drift *drift, const char *name) {
    lr_status status = LR_OK;
    lr_linear *linear = NULL, *made = NULL;
    lr__param *param = NULL;
    float *weight = NULL;
    char full[320];
    LR_TRY(lr_model_find_linear(b->draft, name, &linear));
    LR_TRY(lr__new_aligned(&weight, (size_t)linear->out * (size_t)linear->in, sizeof *weight));
    lr__linear_dense_rows(linear, 0, linear->out, weight);
    status = lr__drift_correct(drift, b->opts.blend, linear->out, weight);
    if (status < 0) lr__fail_in(status, "%s", name);
    LR_TRY(status);
    snprintf(full, sizeof full, "%s.weight", name);
    LR_TRY(lr__param_of_floats(&param, full, weight, linear->out, linear->in, 2));
    weight = NULL;
    LR_TRY(lr__linear_dense(&made, linear->ctx, name, param, linear->bias));
    LR_TRY(lr_model_set_linear(b->draft, name, made));
done:
    lr__aligned_free(weight);
    lr__param_drop(param);
    lr_linear_free(made);
    lr_linear_free(linear);
    return status;
}

/* Modules of one group get the weights that make up for the drift of their input. */
static lr_status correct(lr__blocks *b, const lr_stats *stats, lr__drift *drift) {
    lr_status status = LR_OK;
    double *gram = NULL;
    LR_TRY(lr__new_aligned(&gram, (size_t)drift->size * (size_t)drift->size, sizeof *gram));
    LR_TRY(lr_stats_read(stats, stats->modules[0], gram, NULL));
    status = lr__drift_solve(drift, gram, ridge);
    if (status < 0) lr__fail_in(status, "%s", stats->modules[0]);
    lr__aligned_free(gram);
    gram = NULL;
    for (int32_t i = 0; i < stats->module_count && status >= 0; i++)
        status = correct_module(b, drift, stats->modules[i]);
done:
    lr__aligned_free(gram);
    return status;
}

static int32_t note(const lr_compress_event *event, void *user) {
    return lr__blocks_note(user, event) < 0;
}

/* The plan's ranks for the modules of the statistics. */
static lr_status factorise(lr__blocks *b, const lr_stats *stats, uint64_t memory) {
    lr_status status = LR_OK;
    lr_plan part = *b->plan;
    part.items = NULL;
    LR_TRY(lr__new(&part.items, (size_t)part.count, sizeof *part.items));
    for (int32_t i = 0; i < part.count; i++) {
        part.items[i] = b->plan->items[i];
        if (lr__stats_index(stats, part.modules[i]) < 0) part.items[i].rank = 0;
    }
    status = lr__compress_part(b->draft, &part, stats, &b->opts, memory, note, b);
done:
    lr__free(part.items);
    return status;
}

/* Groups first .. last - 1 of a block, of which some are planned. */
static lr_status compress_groups(lr__blocks *b, int32_t first, int32_t last, int32_t is_last) {
    lr_status status = LR_OK;
    lr_stats *stats = NULL;
    lr__drift drift = {0};
    int32_t is_anchored = b->sequential == LR__SEQUENTIAL_ANCHORED;
    LR_TRY(stats_for(&stats, b, b->layer, first, last));
    if (is_anchored) LR_TRY(lr__drift_new(&drift, stats->sizes[0]));
    LR_TRY(collect(b, stats, is_anchored ? &drift : NULL, is_last));
    if (is_anchored) LR_TRY(correct(b, stats, &drift));
    lr__drift_clear(&drift);
    LR_TRY(factorise(b, stats, lr__blocks_spare(b, b->layer, first, last)));
done:
    lr__drift_clear(&drift);
    lr_stats_free(stats);
    return status;
}

/* --- blocks --- */

/* Moves the streams that are still before the block. */
static lr_status move_on(lr__blocks *b, int32_t is_dense_moved) {
    lr_status status = LR_OK;
    int32_t count = 0;
    runner runners[2] = {{.stream = NULL}};
    if (b->layer + 1 == lr__blocks_layers(b)) return LR_OK;
    if (b->dense && !is_dense_moved) {
        runners[count] = (runner){.stream = b->dense, .moves = 1};
        LR_TRY(runner_new(&runners[count++], b, b->model));
    }
    if (b->behind) {
        runners[count] = (runner){.stream = b->behind, .moves = 1};
        LR_TRY(runner_new(&runners[count++], b, b->draft));
    }
    if (count) status = run_batches(b, runners, count);
done:
    for (int i = 0; i < 2; i++) runner_clear(&runners[i]);
    return status;
}

static void release_param(const lr__param *param, int32_t is_bias, void *user) {
    (void)is_bias;
    (void)user;
    lr__param_release(param);
}

/* The block is not read again before the model is saved. */
static void release_block(const lr_model *model, int32_t layer) {
    lr__graph *graph = lr__model_graph(model);
    for (int i = 0; i < LR__BLOCK_LINEARS; i++)
        lr__linear_each_param(graph->blocks[layer].linears[i], release_param, NULL);
    lr__graph_drop(graph);
}

static lr_status compress_block(lr__blocks *b) {
    lr_status status = LR_OK;
    int32_t found = 0, layer = b->layer, is_moved = 0;
    b->event_count = b->pass = 0;
    LR_TRY(lr__work_load(b, layer, &found));
    for (int32_t g = 0, next; g < LR__GROUPS && !found; g = next) {
        next = lr__blocks_fitting(b, layer, g);
        if (!lr__blocks_planned(b, layer, g, next)) continue;
        is_moved = !lr__blocks_planned(b, layer, next, LR__GROUPS);
        LR_TRY(compress_groups(b, g, next, is_moved));
    }
    LR_TRY(move_on(b, is_moved));
    if (!found) LR_TRY(lr__work_save(b, layer));
    release_block(b->model, layer);
    release_block(b->draft, layer);
done:
    return status;
}

/* --- the whole --- */

static const char *const sequentials[] = {
    [LR__SEQUENTIAL_NONE] = "none",
    [LR__SEQUENTIAL_SHIFT] = "shift",
    [LR__SEQUENTIAL_ANCHORED] = "anchored",
};

static lr_status find_sequential(const char *name, int32_t *sequential) {
    for (int32_t i = 0; name && i < (int32_t)(sizeof sequentials / sizeof *sequentials); i++)
        if (!strcmp(sequentials[i], name)) {
            *sequential = i;
            return LR_OK;
        }
    return lr__fail(LR_E_INVALID, "sequential \"%s\", expected none, shift or anchored",
                    name ? name : "");
}

static lr_status check_opts(lr__blocks *b) {
    int32_t method = 0, gradients = 0;
    const lr_compress_opts *o = &b->opts;
    lr_status status = find_sequential(o->sequential, &b->sequential);
    if (status >= 0) status = lr__compress_method(o->method, &method, &gradients);
    if (status < 0) return status;
    if (method == LR__FACTOR_SVD && !o->refits)
        return lr__fail(LR_E_INVALID, "method svd looks at no inputs and needs no texts");
    if (gradients)
        return lr__fail(LR_E_UNSUPPORTED,
                        "method %s needs gradients, which no block has alone; lr_stats_collect() "
                        "and lr_compress() are expected",
                        o->method);
    b->exact = method == LR__FACTOR_QR;
    if (method == LR__FACTOR_AFM && b->sequential == LR__SEQUENTIAL_ANCHORED)
        return lr__fail(LR_E_UNSUPPORTED, "method afm cannot be anchored, its means would shift");
    if (!(o->blend >= 0 && o->blend <= 1))
        return lr__fail(LR_E_INVALID, "blend %g, expected 0 to 1", o->blend);
    return LR_OK;
}

/* Which linears the plan replaces. Only those of blocks can be. */
static lr_status find_items(lr__blocks *b) {
    lr_status status = LR_OK;
    lr__graph *graph = b->graph;
    int32_t count = lr__graph_linear_count(graph);
    LR_TRY(lr__new(&b->items, (size_t)count, sizeof *b->items));
    for (int32_t i = 0; i < count; i++) b->items[i] = -1;
    for (int32_t i = 0; i < b->plan->count; i++) {
        const char *name = b->plan->modules[i];
        if (!b->plan->items[i].rank) continue;
        int32_t at = lr__graph_find_linear(graph, name);
        LR_FAIL_IF(at < 0, LR_E_NOTFOUND, "%s: the model has no such linear module", name);
        LR_FAIL_IF(at + 1 == count, LR_E_UNSUPPORTED, "%s: stands behind the blocks", name);
        LR_FAIL_IF(lr_linear_kind(*lr__graph_linear(graph, at)) != LR_LINEAR_DENSE,
                   LR_E_UNSUPPORTED, "%s: already factorised", name);
        b->items[at] = i;
    }
done:
    return status;
}

static void blocks_clear(lr__blocks *b) {
    lr__spill_free(b->dense);
    lr__spill_free(b->behind);
    lr__aligned_free(b->rows);
    lr__aligned_free(b->seen);
    lr__free(b->items);
    lr__graph_drop(b->graph);
    lr_model_free(b->draft);
}

lr_status lr_compress_texts(lr_model *model, const lr_plan *plan, const lr_text *texts,
                            int32_t count, const lr_compress_opts *opts, lr_compress_fn fn,
                            void *user) {
    lr_status status = LR_OK;
    lr__graph *after = NULL;
    lr__blocks b = {
        .model = model, .plan = plan, .texts = texts, .text_count = count, .fn = fn, .user = user};
    if (!model || !plan)
        return lr__fail(LR_E_INVALID, "lr_compress_texts: model and plan are needed");
    lr_compress_opts_init(&b.opts, sizeof b.opts);
    LR_TRY(lr__opts_merge(&b.opts, sizeof b.opts, opts, "lr_compress_opts"));
    LR_TRY(check_opts(&b));
    LR_TRY(lr__texts_check(texts, count));
    LR_TRY(lr_model_clone(&b.draft, model));
    b.graph = lr__model_graph(b.draft);
    LR_TRY(find_items(&b));
    LR_TRY(lr__blocks_allot(&b));
    LR_TRY(lr__work_begin(&b));
    LR_TRY(lr__blocks_make(&b));
    for (; b.layer < lr__blocks_layers(&b); b.layer++) LR_TRY(compress_block(&b));
    after = lr__model_graph(b.draft);
    LR_TRY(lr__model_merge(model, b.graph, after));
done:
    lr__graph_drop(after);
    blocks_clear(&b);
    return status;
}
