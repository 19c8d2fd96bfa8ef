/*
 * One step: embedding, blocks, final norm. Modules that read one input go through one group call;
 * hooks see each module at its natural place. Decoder of the Llama family (Touvron et al., arXiv
 * 2302.13971): pre-norm, rotary positions, grouped-query attention, SwiGLU.
 */
#include "model/rope.h"
#include "model/session.h"
#include "nn/attention.h"

#include <math.h>
#include <string.h>
#include <time.h>

typedef struct activations {
    float *x;                 /* residual stream [tokens, hidden] */
    float *normed;            /* [tokens, hidden] */
    float *q, *k, *v, *mixed; /* attention */
    float *gate, *up;         /* MLP */
    float *out;               /* what a block adds to the stream */
    float *cosine, *sine;
    float *norm_weight;
    lr__attention_span *spans;
} activations;

typedef struct run {
    lr__step *step;
    lr_session *session;
    const lr__config *config;
    activations a;
    int64_t q_size, kv_size;
} run;

/* Unique in the process, so that observers of several sessions never confuse inputs. */
static int64_t next_input_id(void) {
    static int64_t last;
    return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

double lr__seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the step's tokens ---- */

static lr_status check_segment(const lr_session *session, const lr_segment *segment,
                               int32_t vocabulary) {
    const lr_session_opts *o = &session->opts;
    if (segment->row < 0 || segment->row >= o->rows)
        return lr__fail(LR_E_INVALID, "row %d, expected 0 to %d", segment->row, o->rows - 1);
    if (segment->count < 1 || !segment->tokens)
        return lr__fail(LR_E_INVALID, "row %d: a segment of %d tokens", segment->row,
                        segment->count);
    int32_t length = o->no_cache ? 0 : session->rows[segment->row].length;
    if (segment->count > o->positions - length)
        return lr__fail(LR_E_INVALID, "row %d: %d tokens after %d exceed its %d positions",
                        segment->row, segment->count, length, o->positions);
    for (int32_t i = 0; i < segment->count; i++)
        if (segment->tokens[i] < 0 || segment->tokens[i] >= vocabulary)
            return lr__fail(LR_E_INVALID, "row %d: token %d at %d, expected 0 to %d", segment->row,
                            segment->tokens[i], i, vocabulary - 1);
    return LR_OK;
}

static lr_status check_segments(lr__step *step) {
    const lr__config *config = &step->graph->origin->config;
    unsigned char *seen;
    lr_session *session = step->session;
    lr_status status = lr__arena_take(&session->arena, &seen, (size_t)session->opts.rows, 1);
    if (status < 0) return status;
    memset(seen, 0, (size_t)session->opts.rows);
    if (!step->segments || step->count < 1)
        return lr__fail(LR_E_INVALID, "a step of %d segments", step->count);
    for (int32_t s = 0; s < step->count; s++) {
        const lr_segment *segment = &step->segments[s];
        status = check_segment(session, segment, config->vocabulary_size);
        if (status < 0) return status;
        if (seen[segment->row]++)
            return lr__fail(LR_E_INVALID, "row %d has two segments in one step", segment->row);
        step->tokens += segment->count;
    }
    if (step->tokens > INT32_MAX)
        return lr__fail(LR_E_INVALID, "a step of %lld tokens, at most %d", (long long)step->tokens,
                        INT32_MAX);
    return LR_OK;
}

static lr_status place_tokens(lr__step *step) {
    lr_session *session = step->session;
    lr_status status = LR_OK;
    int64_t at = 0;
    LR_TRY(lr__arena_take(&session->arena, &step->ids, (size_t)step->tokens, sizeof(int32_t)));
    LR_TRY(
        lr__arena_take(&session->arena, &step->positions, (size_t)step->tokens, sizeof(int32_t)));
    for (int32_t s = 0; s < step->count; s++) {
        const lr_segment *segment = &step->segments[s];
        int32_t first = session->opts.no_cache ? 0 : session->rows[segment->row].length;
        for (int32_t i = 0; i < segment->count; i++, at++) {
            step->ids[at] = segment->tokens[i];
            step->positions[at] = first + i;
        }
    }
done:
    return status;
}

static lr_status make_caches(lr__step *step) {
    lr_session *session = step->session;
    const lr__config *c = &step->graph->origin->config;
    lr_status status = LR_OK;
    size_t count = (size_t)c->layers * (size_t)(c->key_value_heads * c->head_size);
    LR_FAIL_IF(__builtin_mul_overflow(count, (size_t)session->opts.positions, &count), LR_E_INVALID,
               "session: a cache of %d positions cannot be held", session->opts.positions);
    for (int32_t s = 0; s < step->count && !session->opts.no_cache; s++) {
        lr__row *row = &session->rows[step->segments[s].row];
        if (!row->keys) LR_TRY(lr__new_aligned(&row->keys, count, sizeof(float)));
        if (!row->values) LR_TRY(lr__new_aligned(&row->values, count, sizeof(float)));
    }
done:
    return status;
}

/* ---- activations ---- */

static lr_status take(run *r, float **out, int64_t width) {
    return lr__arena_take(&r->session->arena, out, (size_t)r->step->tokens * (size_t)width,
                          sizeof(float));
}

static lr_status make_activations(run *r) {
    const lr__config *c = r->config;
    lr_status status = LR_OK;
    LR_TRY(take(r, &r->a.x, c->hidden_size));
    LR_TRY(take(r, &r->a.normed, c->hidden_size));
    LR_TRY(take(r, &r->a.out, c->hidden_size));
    LR_TRY(take(r, &r->a.q, r->q_size));
    LR_TRY(take(r, &r->a.mixed, r->q_size));
    LR_TRY(take(r, &r->a.k, r->kv_size));
    LR_TRY(take(r, &r->a.v, r->kv_size));
    LR_TRY(take(r, &r->a.gate, c->intermediate_size));
    LR_TRY(take(r, &r->a.up, c->intermediate_size));
    LR_TRY(take(r, &r->a.cosine, c->head_size / 2));
    LR_TRY(take(r, &r->a.sine, c->head_size / 2));
    int64_t widest = c->hidden_size > c->head_size ? c->hidden_size : c->head_size;
    LR_TRY(lr__arena_take(&r->session->arena, &r->a.norm_weight, (size_t)widest, sizeof(float)));
    LR_TRY(lr__arena_take(&r->session->arena, &r->a.spans, (size_t)r->step->count,
                          sizeof *r->a.spans));
    lr__rope_table(c, r->session->frequencies, r->step->positions, r->step->tokens, r->a.cosine,
                   r->a.sine);
done:
    return status;
}

/* ---- elementwise work, one token an item ---- */

typedef struct rows_job {
    const lr__kernels *kernels;
    const run *r;
    const float *from, *weight;
    float *to;
    int64_t width, heads, half, cut;
    float epsilon;
    int32_t norms_heads;
} rows_job;

enum { ROWS_EACH = 16 };

static void for_rows(run *r, lr__pool_fn fn, rows_job *job) {
    job->kernels = r->step->evaluation.device->kernels;
    job->r = r;
    lr__pool_run(r->step->evaluation.device->pool, (r->step->tokens + ROWS_EACH - 1) / ROWS_EACH,
                 fn, job);
}

#define EACH_ROW(t, index, tokens) \
    for (int64_t t = (index)*ROWS_EACH; t < ((index) + 1) * ROWS_EACH && t < (tokens); t++)

static void norm_rows(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const rows_job *j = work;
    EACH_ROW(t, index, j->r->step->tokens)
    j->kernels->rmsnorm(j->width, j->from + t * j->width, j->weight, j->epsilon,
                        j->to + t * j->width);
}

static void norm(run *r, const lr__param *weight, const float *from, float *to) {
    rows_job j = {.from = from,
                  .to = to,
                  .weight = r->a.norm_weight,
                  .width = r->config->hidden_size,
                  .epsilon = (float)r->config->norm_epsilon};
    lr__param_widen(r->step->evaluation.device->kernels, weight, r->a.norm_weight);
    for_rows(r, norm_rows, &j);
}

static void turn_rows(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const rows_job *j = work;
    EACH_ROW(t, index, j->r->step->tokens)
    for (int64_t h = 0; h < j->heads; h++) {
        float *head = j->to + t * j->width + h * 2 * j->half;
        if (j->norms_heads) j->kernels->rmsnorm(2 * j->half, head, j->weight, j->epsilon, head);
        j->kernels->rope(2 * j->half, j->r->a.cosine + t * j->half, j->r->a.sine + t * j->half,
                         head);
    }
}

static void turn_heads(run *r, float *x, int32_t heads, const lr__param *head_norm) {
    int64_t half = r->config->head_size / 2;
    rows_job j = {.to = x,
                  .width = 2 * half * heads,
                  .heads = heads,
                  .half = half,
                  .norms_heads = head_norm != NULL,
                  .weight = r->a.norm_weight,
                  .epsilon = (float)r->config->norm_epsilon};
    if (head_norm)
        lr__param_widen(r->step->evaluation.device->kernels, head_norm, r->a.norm_weight);
    for_rows(r, turn_rows, &j);
}

static void gate_rows(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const rows_job *j = work;
    EACH_ROW(t, index, j->r->step->tokens)
    j->kernels->swiglu(j->cut, j->from + t * j->width, j->to + t * j->width, j->to + t * j->width);
}

static void add_rows(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const rows_job *j = work;
    EACH_ROW(t, index, j->r->step->tokens)
    j->kernels->axpy(j->width, 1, j->from + t * j->width, j->to + t * j->width);
}

static void add_to_stream(run *r) {
    rows_job j = {.from = r->a.out, .to = r->a.x, .width = r->config->hidden_size};
    for_rows(r, add_rows, &j);
}

/* ---- hooks and linears ---- */

static lr_tensor view(const float *data, int64_t tokens, int64_t width) {
    lr_tensor tensor = {.data = (void *)data,
                        .dtype = LR_F32,
                        .ndim = 2,
                        .device = LR_HOST,
                        .shape = {tokens, width},
                        .stride = {width, 1}};
    return tensor;
}

/* Completes the event; its tokens are the step's unless it brings its own. */
static lr_status call_hooks(lr__step *step, int32_t target, const lr_hook_event *given) {
    lr_session *session = step->session;
    lr_hook_event event = *given;
    if (!lr__watch_has(&session->watch, session->opts.hooks, target, event.event)) return LR_OK;
    event.size = sizeof event;
    event.step = session->step;
    if (!event.tokens) {
        event.tokens = step->ids;
        event.positions = step->positions;
    }
    return lr__watch_call(&session->watch, session->opts.hooks, target, &event);
}

/* Linears first .. first + count - 1 of a block, which read one input. */
static lr_status run_linears(run *r, int32_t block, int32_t first, int32_t count, const float *x,
                             float *const *y) {
    lr__step *step = r->step;
    lr_linear *const *linears = step->graph->blocks[block].linears + first;
    int32_t target = block * LR__BLOCK_LINEARS + first;
    int64_t ldy[LR__BLOCK_LINEARS];
    lr_status status = LR_OK;
    lr_hook_event e = {.layer = block,
                       .input_id = next_input_id(),
                       .input = view(x, step->tokens, linears[0]->in)};
    e.event = LR_BEFORE_FORWARD;
    for (int32_t i = 0; i < count; i++) {
        ldy[i] = linears[i]->out;
        e.linear = linears[i];
        e.module = linears[i]->name;
        e.output = view(NULL, step->tokens, linears[i]->out);
        LR_TRY(call_hooks(step, target + i, &e));
    }
    LR_TRY(lr__linear_forward(&step->evaluation, (const lr_linear *const *)linears, count, x,
                              linears[0]->in, step->tokens, y, ldy));
    e.event = LR_AFTER_FORWARD;
    for (int32_t i = 0; i < count; i++) {
        e.linear = linears[i];
        e.module = linears[i]->name;
        e.output = view(y[i], step->tokens, linears[i]->out);
        LR_TRY(call_hooks(step, target + i, &e));
    }
done:
    return status;
}

/* ---- blocks ---- */

/* Where attention finds keys and values: this step's own, or the row's cache after appending. */
static void place_keys(run *r, int32_t layer) {
    lr__step *step = r->step;
    int64_t at = 0, kv = r->kv_size, positions = r->session->opts.positions;
    for (int32_t s = 0; s < step->count; s++) {
        const lr_segment *segment = &step->segments[s];
        lr__attention_span *span = &r->a.spans[s];
        const lr__row *row = &r->session->rows[segment->row];
        span->queries = segment->count;
        span->first = step->positions[at];
        span->q = r->a.q + at * r->q_size;
        span->out = r->a.mixed + at * r->q_size;
        span->keys = r->a.k + at * kv;
        span->values = r->a.v + at * kv;
        if (!r->session->opts.no_cache) {
            int64_t base = (int64_t)layer * positions * kv, to = base + span->first * kv;
            size_t bytes = (size_t)(segment->count * kv) * sizeof(float);
            memcpy(row->keys + to, span->keys, bytes);
            memcpy(row->values + to, span->values, bytes);
            span->keys = row->keys + base;
            span->values = row->values + base;
        }
        at += segment->count;
    }
}

static lr_status run_attention(run *r, int32_t layer) {
    const lr__config *c = r->config;
    const lr__block *block = &r->step->graph->blocks[layer];
    float *const qkv[3] = {r->a.q, r->a.k, r->a.v};
    lr_status status = LR_OK;
    norm(r, block->attention_norm, r->a.x, r->a.normed);
    LR_TRY(run_linears(r, layer, LR__Q, 3, r->a.normed, qkv));
    turn_heads(r, r->a.q, c->heads, block->q_norm);
    turn_heads(r, r->a.k, c->key_value_heads, block->k_norm);
    place_keys(r, layer);
    lr__attention attention = {.spans = r->a.spans,
                               .span_count = r->step->count,
                               .heads = c->heads,
                               .key_value_heads = c->key_value_heads,
                               .head_size = c->head_size,
                               .window = layer >= c->first_sliding_layer ? c->sliding_window : 0,
                               .batch = r->step->evaluation.batch,
                               .scale = (float)(1 / sqrt((double)c->head_size))};
    LR_TRY(lr__attention_run(r->step->evaluation.device, &r->session->arena, &attention));
    LR_TRY(run_linears(r, layer, LR__O, 1, r->a.mixed, &r->a.out));
    add_to_stream(r);
done:
    return status;
}

/* Neurons beyond an extent are not computed; whoever looks sees zeros. */
static void clear_beyond(const run *r, float *x, int64_t cut) {
    int64_t wide = r->config->intermediate_size;
    for (int64_t t = 0; cut < wide && t < r->step->tokens; t++)
        memset(x + t * wide + cut, 0, (size_t)(wide - cut) * sizeof *x);
}

static lr_status run_mlp(run *r, int32_t layer) {
    const lr__block *block = &r->step->graph->blocks[layer];
    float *const gate_up[2] = {r->a.gate, r->a.up};
    int64_t wide = r->config->intermediate_size;
    lr_status status = LR_OK;
    rows_job j = {.from = r->a.gate,
                  .to = r->a.up,
                  .width = wide,
                  .cut = lr__extent_of(r->step->evaluation.extents,
                                       block->linears[LR__UP]->terms[0].ops[0].out_axis, wide)};
    clear_beyond(r, r->a.gate, j.cut);
    clear_beyond(r, r->a.up, j.cut);
    norm(r, block->mlp_norm, r->a.x, r->a.normed);
    LR_TRY(run_linears(r, layer, LR__GATE, 2, r->a.normed, gate_up));
    for_rows(r, gate_rows, &j);
    LR_TRY(run_linears(r, layer, LR__DOWN, 1, r->a.up, &r->a.out));
    add_to_stream(r);
done:
    return status;
}

static lr_status run_block(run *r, int32_t layer) {
    lr__step *step = r->step;
    int32_t target = lr__watch_block(step->graph, layer);
    int64_t hidden = r->config->hidden_size;
    lr_status status = LR_OK;
    float *before = NULL;
    lr__arena_mark mark = lr__arena_here(&r->session->arena);
    lr_hook_event e = {.event = LR_BEFORE_FORWARD,
                       .layer = layer,
                       .module = step->graph->blocks[layer].name,
                       .input_id = next_input_id(),
                       .input = view(r->a.x, step->tokens, hidden),
                       .output = view(NULL, step->tokens, hidden)};
    LR_TRY(call_hooks(step, target, &e));
    if (lr__watch_has(&r->session->watch, r->session->opts.hooks, target, LR_AFTER_FORWARD)) {
        LR_TRY(take(r, &before, hidden));
        memcpy(before, r->a.x, (size_t)(step->tokens * hidden) * sizeof *before);
        e.input.data = before;
    }
    LR_TRY(run_attention(r, layer));
    LR_TRY(run_mlp(r, layer));
    e.event = LR_AFTER_FORWARD;
    e.output.data = r->a.x;
    LR_TRY(call_hooks(step, target, &e));
done:
    lr__arena_release(&r->session->arena, mark);
    return status;
}

static void embed_row(void *work, int64_t t, int32_t thread) {
    (void)thread;
    const run *r = work;
    const lr__matrix *m = &r->step->graph->embedding->matrix;
    lr__matrix_widen(r->step->evaluation.device->kernels, m, r->step->ids[t], 1, m->cols,
                     r->a.x + t * m->cols, m->cols);
}

static void refresh_param(const lr__param *param, int32_t is_bias, void *user) {
    (void)is_bias;
    lr__step *step = user;
    if (step->status < 0 || !param->producer.refresh) return;
    step->status = lr__param_refresh((lr__param *)param, step->session->step);
}

/* Blocks first .. last - 1 on the stream; `x` is what enters block `first`, NULL: the embedding. */
static lr_status run_blocks(run *r, int32_t first, int32_t last, const float *x) {
    lr__step *step = r->step;
    lr_status status = LR_OK;
    LR_TRY(make_activations(r));
    if (x)
        memcpy(r->a.x, x, (size_t)step->tokens * (size_t)r->config->hidden_size * sizeof *r->a.x);
    else
        lr__pool_run(step->evaluation.device->pool, step->tokens, embed_row, r);
    for (int32_t i = first; i < last; i++) LR_TRY(run_block(r, i));
done:
    return status;
}

static lr_status step_begin(lr__step *step, lr_session *session, const lr_segment *segments,
                            int32_t count) {
    memset(step, 0, sizeof *step);
    if (!session) return lr__fail(LR_E_INVALID, "session is NULL");
    if (session->is_running)
        return lr__fail(LR_E_INVALID, "a forward of this session is under way");
    step->session = session;
    step->graph = lr__model_graph(session->model);
    step->segments = segments;
    step->count = count;
    step->mark = lr__arena_here(&session->arena);
    session->is_running = 1;
    lr_status status = lr__session_resolve_extents(session, step->graph);
    if (status >= 0) status = lr__watch_update(&session->watch, session->opts.hooks, step->graph);
    lr__evaluation evaluation = {.device = &session->model->ctx->device,
                                 .arena = &session->arena,
                                 .extents = &session->extents,
                                 .batch = session->opts.kind == LR_STEP_BATCH};
    step->evaluation = evaluation;
    return status;
}

/* Everything before the blocks. */
static lr_status step_prepare(run *r, lr__step *step) {
    lr_status status = LR_OK;
    r->step = step;
    r->session = step->session;
    r->config = &step->graph->origin->config;
    r->q_size = (int64_t)r->config->heads * r->config->head_size;
    r->kv_size = (int64_t)r->config->key_value_heads * r->config->head_size;
    LR_TRY(check_segments(step));
    LR_TRY(place_tokens(step));
    LR_TRY(make_caches(step));
    lr__graph_each_param(step->graph, refresh_param, step);
    status = step->status;
done:
    return status;
}

lr_status lr__step_run(lr__step *step, lr_session *session, const lr_segment *segments,
                       int32_t count) {
    double begin = lr__seconds();
    run r = {0};
    lr_status status = step_begin(step, session, segments, count);
    if (!step->session) return status;
    LR_TRY(status);
    LR_TRY(step_prepare(&r, step));
    lr__pool_hold(step->evaluation.device->pool);
    status = run_blocks(&r, 0, step->graph->block_count, NULL);
    if (status >= 0) norm(&r, step->graph->final_norm, r.a.x, r.a.normed);
    lr__pool_release(step->evaluation.device->pool);
    step->hidden = r.a.normed;
    step->head_input = next_input_id();
done:
    session->seconds += lr__seconds() - begin;
    if (status < 0) lr__step_end(step, 0);
    return status;
}

lr_status lr_session_blocks(lr_session *session, const lr_segment *segments, int32_t count,
                            int32_t first, int32_t last, float *x) {
    double begin = lr__seconds();
    lr__step step;
    run r = {0};
    if (!x) return lr__fail(LR_E_INVALID, "lr_session_blocks: x is NULL");
    lr_status status = step_begin(&step, session, segments, count);
    if (!step.session) return status;
    LR_TRY(status);
    LR_FAIL_IF(!session->opts.no_cache, LR_E_INVALID,
               "lr_session_blocks: the session keeps caches, expected one of no_cache");
    LR_FAIL_IF(first < 0 || last < first || last > step.graph->block_count, LR_E_INVALID,
               "blocks %d to %d, expected a part of 0 to %d", first, last, step.graph->block_count);
    LR_TRY(step_prepare(&r, &step));
    lr__pool_hold(step.evaluation.device->pool);
    status = run_blocks(&r, first, last, first ? x : NULL);
    lr__pool_release(step.evaluation.device->pool);
    if (status >= 0)
        memcpy(x, r.a.x, (size_t)step.tokens * (size_t)r.config->hidden_size * sizeof *x);
done:
    session->seconds += lr__seconds() - begin;
    lr__step_end(&step, status >= 0);
    return status;
}

lr__head_rows lr__step_all(const lr__step *step) {
    lr__head_rows all = {step->hidden, step->ids, step->positions, step->tokens};
    return all;
}

lr_status lr__step_pick(const lr__step *step, int32_t scored, lr__head_rows *rows) {
    lr__arena *arena = &step->session->arena;
    size_t width = (size_t)step->graph->origin->config.hidden_size;
    size_t count = (size_t)(scored ? step->tokens - step->count : step->count);
    lr_status status = LR_OK;
    int64_t at = 0, to = 0;
    LR_TRY(lr__arena_take(arena, &rows->hidden, count * width, sizeof(float)));
    LR_TRY(lr__arena_take(arena, &rows->ids, count, sizeof(int32_t)));
    LR_TRY(lr__arena_take(arena, &rows->positions, count, sizeof(int32_t)));
    for (int32_t s = 0; s < step->count; s++) {
        int64_t all = step->segments[s].count, from = at + (scored ? 0 : all - 1);
        size_t some = scored ? (size_t)all - 1 : 1;
        memcpy(rows->hidden + (size_t)to * width, step->hidden + (size_t)from * width,
               some * width * sizeof(float));
        memcpy(rows->ids + to, step->ids + from, some * sizeof(int32_t));
        memcpy(rows->positions + to, step->positions + from, some * sizeof(int32_t));
        at += all;
        to += (int64_t)some;
    }
    rows->count = to;
done:
    return status;
}

lr_status lr__step_head_hooks(lr__step *step, int32_t event, const lr__head_rows *rows,
                              float *logits) {
    const lr_linear *head = step->graph->head;
    const lr_hook_event e = {.event = event,
                             .layer = -1,
                             .module = head->name,
                             .linear = head,
                             .input_id = step->head_input,
                             .input = view(rows->hidden, rows->count, head->in),
                             .output = view(logits, rows->count, head->out),
                             .tokens = rows->ids,
                             .positions = rows->positions};
    return call_hooks(step, lr__graph_linear_count(step->graph) - 1, &e);
}

lr_status lr__step_logits(lr__step *step, const lr__head_rows *rows, float *logits) {
    const lr_linear *head = step->graph->head;
    double begin = lr__seconds();
    lr_status status = LR_OK;
    LR_TRY(lr__step_head_hooks(step, LR_BEFORE_FORWARD, rows, NULL));
    LR_TRY(lr__linear_forward(&step->evaluation, &head, 1, rows->hidden, head->in, rows->count,
                              &logits, &head->out));
    LR_TRY(lr__step_head_hooks(step, LR_AFTER_FORWARD, rows, logits));
done:
    step->session->seconds += lr__seconds() - begin;
    return status;
}

void lr__step_end(lr__step *step, int32_t accept) {
    lr_session *session = step->session;
    if (!session) return;
    for (int32_t s = 0; accept && !session->opts.no_cache && s < step->count; s++)
        session->rows[step->segments[s].row].length += step->segments[s].count;
    if (accept) session->step++;
    lr__arena_release(&session->arena, step->mark);
    lr__graph_drop(step->graph);
    session->is_running = 0;
    step->session = NULL;
}
