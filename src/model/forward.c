/*
 * The blocks of one step. Modules that read one input go through one group call; hooks see each
 * module at its natural place. Decoder of the Llama family (Touvron et al., arXiv 2302.13971):
 * pre-norm, rotary positions, grouped-query attention, SwiGLU.
 */
#include "model/forward.h"

#include "model/rope.h"
#include "model/rows.h"

#include <math.h>
#include <string.h>

/* ---- activations ---- */

static lr_status take(lr__forward *r, float **out, int64_t width) {
    return lr__arena_take(&r->session->arena, out, (size_t)r->step->tokens * (size_t)width,
                          sizeof(float));
}

lr_status lr__forward_activations(lr__forward *r) {
    const lr__config *c = r->config;
    lr_status status = LR_OK;
    LR_TRY(take(r, &r->a.x, c->hidden_size));
    LR_TRY(take(r, &r->a.normed, c->hidden_size));
    r->a.mlp_normed = r->a.normed;
    LR_TRY(take(r, &r->a.out, c->hidden_size));
    LR_TRY(take(r, &r->a.q, r->q_size));
    LR_TRY(take(r, &r->a.mixed, r->q_size));
    LR_TRY(take(r, &r->a.k, r->kv_size));
    LR_TRY(take(r, &r->a.v, r->kv_size));
    LR_TRY(take(r, &r->a.gate, c->intermediate_size));
    LR_TRY(take(r, &r->a.up, c->intermediate_size));
    r->a.act = r->a.up;
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
    const lr__forward *r;
    const float *from, *other, *weight;
    float *to;
    int64_t width, heads, half, cut;
    float epsilon;
    int32_t norms_heads;
} rows_job;

static void for_rows(lr__forward *r, lr__pool_fn fn, rows_job *job) {
    job->kernels = r->step->evaluation.device->kernels;
    job->r = r;
    lr__pool_run(r->step->evaluation.device->pool, lr__rows_items(r->step->tokens), fn, job);
}

static void norm_rows(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const rows_job *j = work;
    LR__EACH_ROW(t, index, j->r->step->tokens)
    j->kernels->rmsnorm(j->width, j->from + t * j->width, j->weight, j->epsilon,
                        j->to + t * j->width);
}

void lr__forward_norm(lr__forward *r, const lr__param *weight, const float *from, float *to) {
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
    LR__EACH_ROW(t, index, j->r->step->tokens)
    for (int64_t h = 0; h < j->heads; h++) {
        float *head = j->to + t * j->width + h * 2 * j->half;
        if (j->norms_heads) j->kernels->rmsnorm(2 * j->half, head, j->weight, j->epsilon, head);
        j->kernels->rope(2 * j->half, j->r->a.cosine + t * j->half, j->r->a.sine + t * j->half,
                         head);
    }
}

static void turn_heads(lr__forward *r, float *x, int32_t heads, const lr__param *head_norm) {
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
    LR__EACH_ROW(t, index, j->r->step->tokens)
    j->kernels->swiglu(j->cut, j->from + t * j->width, j->other + t * j->width,
                       j->to + t * j->width);
}

static void add_rows(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const rows_job *j = work;
    LR__EACH_ROW(t, index, j->r->step->tokens)
    j->kernels->axpy(j->width, 1, j->from + t * j->width, j->to + t * j->width);
}

static void add_to_stream(lr__forward *r) {
    rows_job j = {.from = r->a.out, .to = r->a.x, .width = r->config->hidden_size};
    for_rows(r, add_rows, &j);
}

/* ---- linears ---- */

/* Linears first .. first + count - 1 of a block, which read one input. */
static lr_status run_linears(lr__forward *r, int32_t block, int32_t first, int32_t count,
                             const float *x, float *const *y) {
    lr__step *step = r->step;
    lr_linear *const *linears = step->graph->blocks[block].linears + first;
    int32_t target = block * LR__BLOCK_LINEARS + first;
    int64_t ldy[LR__BLOCK_LINEARS];
    lr_status status = LR_OK;
    lr_hook_event e = {.layer = block,
                       .input_id = lr__next_input_id(),
                       .input = lr__step_view(x, step->tokens, linears[0]->in)};
    e.event = LR_BEFORE_FORWARD;
    for (int32_t i = 0; i < count; i++) {
        ldy[i] = linears[i]->out;
        e.linear = linears[i];
        e.module = linears[i]->name;
        e.output = lr__step_view(NULL, step->tokens, linears[i]->out);
        LR_TRY(lr__step_hooks(step, target + i, &e));
    }
    const lr_linear *const *read = (const lr_linear *const *)linears;
    if (r->tape)
        LR_TRY(lr__linear_forward_kept(&step->evaluation, read, count, x, step->tokens, y, ldy,
                                       &r->tape->groups[first]));
    else
        LR_TRY(lr__linear_forward(&step->evaluation, read, count, x, linears[0]->in, step->tokens,
                                  y, ldy));
    e.event = LR_AFTER_FORWARD;
    for (int32_t i = 0; i < count; i++) {
        e.linear = linears[i];
        e.module = linears[i]->name;
        e.output = lr__step_view(y[i], step->tokens, linears[i]->out);
        LR_TRY(lr__step_hooks(step, target + i, &e));
    }
done:
    return status;
}

/* ---- blocks ---- */

/* Where attention finds keys and values: this step's own, or the row's cache after appending. */
static void place_keys(lr__forward *r, int32_t layer) {
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

lr__attention lr__forward_attention(lr__forward *r, int32_t layer) {
    const lr__config *c = r->config;
    place_keys(r, layer);
    lr__attention attention = {.spans = r->a.spans,
                               .span_count = r->step->count,
                               .heads = c->heads,
                               .key_value_heads = c->key_value_heads,
                               .head_size = c->head_size,
                               .window = layer >= c->first_sliding_layer ? c->sliding_window : 0,
                               .batch = r->step->evaluation.batch,
                               .scale = (float)(1 / sqrt((double)c->head_size))};
    return attention;
}

static void keep(const lr__forward *r, float *to, const float *from, int64_t width) {
    if (to) memcpy(to, from, (size_t)(r->step->tokens * width) * sizeof *to);
}

static lr_status run_attention(lr__forward *r, int32_t layer) {
    const lr__config *c = r->config;
    const lr__block *block = &r->step->graph->blocks[layer];
    float *const qkv[3] = {r->a.q, r->a.k, r->a.v};
    lr_status status = LR_OK;
    lr__forward_norm(r, block->attention_norm, r->a.x, r->a.normed);
    LR_TRY(run_linears(r, layer, LR__Q, 3, r->a.normed, qkv));
    if (r->tape) {
        keep(r, r->tape->raw_q, r->a.q, r->q_size);
        keep(r, r->tape->raw_k, r->a.k, r->kv_size);
    }
    turn_heads(r, r->a.q, c->heads, block->q_norm);
    turn_heads(r, r->a.k, c->key_value_heads, block->k_norm);
    lr__attention attention = lr__forward_attention(r, layer);
    LR_TRY(lr__attention_run(r->step->evaluation.device, &r->session->arena, &attention));
    LR_TRY(run_linears(r, layer, LR__O, 1, r->a.mixed, &r->a.out));
    add_to_stream(r);
done:
    return status;
}

/* Neurons beyond an extent are not computed; whoever looks sees zeros. */
static void clear_beyond(const lr__forward *r, float *x, int64_t cut) {
    int64_t wide = r->config->intermediate_size;
    for (int64_t t = 0; cut < wide && t < r->step->tokens; t++)
        memset(x + t * wide + cut, 0, (size_t)(wide - cut) * sizeof *x);
}

int64_t lr__forward_cut(const lr__forward *r, int32_t layer) {
    const lr_linear *up = r->step->graph->blocks[layer].linears[LR__UP];
    return lr__extent_of(r->step->evaluation.extents, up->terms[0].ops[0].out_axis,
                         r->config->intermediate_size);
}

static lr_status run_mlp(lr__forward *r, int32_t layer) {
    const lr__block *block = &r->step->graph->blocks[layer];
    float *const gate_up[2] = {r->a.gate, r->a.up};
    int64_t wide = r->config->intermediate_size;
    lr_status status = LR_OK;
    rows_job j = {.from = r->a.gate,
                  .other = r->a.up,
                  .to = r->a.act,
                  .width = wide,
                  .cut = lr__forward_cut(r, layer)};
    clear_beyond(r, r->a.gate, j.cut);
    clear_beyond(r, r->a.up, j.cut);
    if (r->a.act != r->a.up) clear_beyond(r, r->a.act, j.cut);
    lr__forward_norm(r, block->mlp_norm, r->a.x, r->a.mlp_normed);
    LR_TRY(run_linears(r, layer, LR__GATE, 2, r->a.mlp_normed, gate_up));
    for_rows(r, gate_rows, &j);
    LR_TRY(run_linears(r, layer, LR__DOWN, 1, r->a.act, &r->a.out));
    add_to_stream(r);
done:
    return status;
}

static lr_status run_block(lr__forward *r, int32_t layer) {
    lr__step *step = r->step;
    const lr_hooks *hooks = r->session->opts.hooks;
    int32_t target = lr__watch_block(step->graph, layer);
    int64_t hidden = r->config->hidden_size;
    lr_status status = LR_OK;
    float *before = NULL;
    lr_hook_event e = {.event = LR_BEFORE_FORWARD,
                       .layer = layer,
                       .module = step->graph->blocks[layer].name,
                       .input_id = lr__next_input_id(),
                       .input = lr__step_view(r->a.x, step->tokens, hidden),
                       .output = lr__step_view(NULL, step->tokens, hidden)};
    LR_TRY(lr__step_hooks(step, target, &e));
    if (r->tape) keep(r, r->tape->x, r->a.x, hidden);
    if (lr__watch_has(&r->session->watch, hooks, target, LR_AFTER_FORWARD, step->hook_kind)) {
        LR_TRY(take(r, &before, hidden));
        memcpy(before, r->a.x, (size_t)(step->tokens * hidden) * sizeof *before);
        e.input.data = before;
    }
    LR_TRY(run_attention(r, layer));
    if (r->tape) keep(r, r->tape->middle, r->a.x, hidden);
    LR_TRY(run_mlp(r, layer));
    e.event = LR_AFTER_FORWARD;
    e.output.data = r->a.x;
    LR_TRY(lr__step_hooks(step, target, &e));
done:
    return status;
}

lr_status lr__forward_block(lr__forward *r, int32_t layer) {
    lr__arena_mark mark = lr__arena_here(&r->session->arena);
    lr_status status = run_block(r, layer);
    lr__arena_release(&r->session->arena, mark);
    return status;
}

static lr_status make_tape(lr__forward *r, int32_t layer, lr__block_tape *tape) {
    const lr__config *c = r->config;
    const lr__block *block = &r->step->graph->blocks[layer];
    lr_status status = LR_OK;
    memset(tape, 0, sizeof *tape);
    tape->a = r->a;
    LR_TRY(take(r, &tape->x, c->hidden_size));
    LR_TRY(take(r, &tape->middle, c->hidden_size));
    LR_TRY(take(r, &tape->a.normed, c->hidden_size));
    LR_TRY(take(r, &tape->a.mlp_normed, c->hidden_size));
    LR_TRY(take(r, &tape->a.q, r->q_size));
    LR_TRY(take(r, &tape->a.mixed, r->q_size));
    LR_TRY(take(r, &tape->a.k, r->kv_size));
    LR_TRY(take(r, &tape->a.v, r->kv_size));
    LR_TRY(take(r, &tape->a.gate, c->intermediate_size));
    LR_TRY(take(r, &tape->a.up, c->intermediate_size));
    LR_TRY(take(r, &tape->a.act, c->intermediate_size));
    if (block->q_norm) LR_TRY(take(r, &tape->raw_q, r->q_size));
    if (block->k_norm) LR_TRY(take(r, &tape->raw_k, r->kv_size));
done:
    return status;
}

lr_status lr__forward_block_kept(lr__forward *r, int32_t layer, lr__block_tape *tape) {
    lr__activations usual = r->a;
    lr_status status = make_tape(r, layer, tape);
    if (status < 0) return status;
    r->a = tape->a;
    r->tape = tape;
    status = run_block(r, layer);
    r->a = usual;
    r->tape = NULL;
    return status;
}

static void embed_row(void *work, int64_t t, int32_t thread) {
    (void)thread;
    const lr__forward *r = work;
    const lr__matrix *m = &r->step->graph->embedding->matrix;
    lr__matrix_widen(r->step->evaluation.device->kernels, m, r->step->ids[t], 1, m->cols,
                     r->a.x + t * m->cols, m->cols);
}

void lr__forward_embed(lr__forward *r) {
    lr__pool_run(r->step->evaluation.device->pool, r->step->tokens, embed_row, r);
}

lr_status lr__forward_blocks(lr__forward *r, int32_t first, int32_t last, const float *x) {
    lr_status status = LR_OK;
    LR_TRY(lr__forward_activations(r));
    if (x)
        keep(r, r->a.x, x, r->config->hidden_size);
    else
        lr__forward_embed(r);
    for (int32_t i = first; i < last; i++) LR_TRY(lr__forward_block(r, i));
done:
    return status;
}
