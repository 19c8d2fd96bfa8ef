/* Derivatives of one block, module by module in the reverse order of the forward. */
#include "model/backward.h"

#include "model/rows.h"
#include "nn/attention_backward.h"

#include <string.h>

static lr_status take(lr__backward *b, float **out, int64_t width) {
    return lr__arena_take(&b->r->session->arena, out, (size_t)b->r->step->tokens * (size_t)width,
                          sizeof(float));
}

lr_status lr__backward_new(lr__backward *b, lr__forward *r, const lr__gradients *gradients) {
    const lr__config *c = r->config;
    lr_status status = LR_OK;
    memset(b, 0, sizeof *b);
    b->r = r;
    b->gradients = gradients;
    LR_TRY(take(b, &b->dx, c->hidden_size));
    LR_TRY(take(b, &b->dout, c->hidden_size));
    LR_TRY(take(b, &b->dnormed, c->hidden_size));
    LR_TRY(take(b, &b->dq, r->q_size));
    LR_TRY(take(b, &b->dmixed, r->q_size));
    LR_TRY(take(b, &b->dk, r->kv_size));
    LR_TRY(take(b, &b->dv, r->kv_size));
    LR_TRY(take(b, &b->dgate, c->intermediate_size));
    LR_TRY(take(b, &b->dup, c->intermediate_size));
    LR_TRY(take(b, &b->dact, c->intermediate_size));
    LR_TRY(take(b, &b->minus_sine, c->head_size / 2));
    for (int64_t i = 0; i < r->step->tokens * (c->head_size / 2); i++)
        b->minus_sine[i] = -r->a.sine[i];
done:
    return status;
}

/* ---- elementwise work, a few rows an item ---- */

typedef struct rows_job {
    const lr__kernels *kernels;
    const lr__backward *b;
    const lr__activations *a;
    const float *x, *dy, *weight;
    float *dx, *sums; /* [items, width]: of the weight's derivative, NULL: not wanted */
    int64_t rows, width, heads, half, cut;
    float epsilon;
} rows_job;

static void for_rows(lr__backward *b, lr__pool_fn fn, rows_job *j) {
    j->b = b;
    j->kernels = b->r->step->evaluation.device->kernels;
    lr__pool_run(b->r->step->evaluation.device->pool, lr__rows_items(j->rows), fn, j);
}

static void norm_rows(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const rows_job *j = work;
    LR__EACH_ROW(t, index, j->rows)
    j->kernels->rmsnorm_backward(j->width, j->x + t * j->width, j->weight, j->epsilon,
                                 j->dy + t * j->width, j->dx + t * j->width,
                                 j->sums ? j->sums + index * j->width : NULL);
}

lr_status lr__backward_norm(lr__backward *b, const lr__param *weight, int64_t rows, int64_t width,
                            const float *x, const float *dy, float *dx) {
    lr__arena *arena = &b->r->session->arena;
    lr__arena_mark mark = lr__arena_here(arena);
    float *gradient = lr__gradient_of(b->gradients, weight), *values;
    lr_status status = LR_OK;
    rows_job j = {.x = x, .dy = dy, .dx = dx, .rows = rows, .width = width};
    j.epsilon = (float)b->r->config->norm_epsilon;
    LR_TRY(lr__arena_take(arena, &values, (size_t)width, sizeof *values));
    lr__param_widen(b->r->step->evaluation.device->kernels, weight, values);
    j.weight = values;
    if (gradient) {
        size_t count = (size_t)(lr__rows_items(rows) * width);
        LR_TRY(lr__arena_take(arena, &j.sums, count, sizeof *j.sums));
        memset(j.sums, 0, count * sizeof *j.sums);
    }
    for_rows(b, norm_rows, &j);
    for (int64_t i = 0; gradient && i < lr__rows_items(rows); i++)
        j.kernels->axpy(width, 1, j.sums + i * width, gradient);
done:
    lr__arena_release(arena, mark);
    return status;
}

static void turn_rows(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const rows_job *j = work;
    LR__EACH_ROW(t, index, j->rows)
    for (int64_t h = 0; h < j->heads; h++)
        j->kernels->rope(2 * j->half, j->a->cosine + t * j->half, j->b->minus_sine + t * j->half,
                         j->dx + (t * j->heads + h) * 2 * j->half);
}

/* From the derivative by turned heads to that by what the projection gave. */
static lr_status turn_back(lr__backward *b, const lr__activations *a, int32_t heads,
                           const lr__param *head_norm, const float *raw, float *d) {
    int64_t tokens = b->r->step->tokens, size = b->r->config->head_size;
    rows_job j = {.a = a, .dx = d, .rows = tokens, .heads = heads, .half = size / 2};
    for_rows(b, turn_rows, &j);
    if (!head_norm) return LR_OK;
    lr__arena *arena = &b->r->session->arena;
    lr__arena_mark mark = lr__arena_here(arena);
    size_t count = (size_t)(tokens * heads * size);
    float *dy;
    lr_status status = lr__arena_take(arena, &dy, count, sizeof *dy);
    if (status >= 0) {
        memcpy(dy, d, count * sizeof *dy);
        memset(d, 0, count * sizeof *d);
        status = lr__backward_norm(b, head_norm, tokens * heads, size, raw, dy, d);
    }
    lr__arena_release(arena, mark);
    return status;
}

static void gate_rows(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const rows_job *j = work;
    LR__EACH_ROW(t, index, j->rows) {
        int64_t at = t * j->width;
        size_t rest = (size_t)(j->width - j->cut) * sizeof(float);
        j->kernels->swiglu_backward(j->cut, j->a->gate + at, j->a->up + at, j->b->dact + at,
                                    j->b->dgate + at, j->b->dup + at);
        memset(j->b->dgate + at + j->cut, 0, rest);
        memset(j->b->dup + at + j->cut, 0, rest);
    }
}

/* ---- linears ---- */

/* The group of linears that begins with `first`; dx NULL: not wanted. */
static lr_status leave_linears(lr__backward *b, int32_t layer, const lr__block_tape *tape,
                               int32_t first, int32_t count, const float *x, float *const *dy,
                               float *dx) {
    lr__step *step = b->r->step;
    lr_linear *const *linears = step->graph->blocks[layer].linears + first;
    int32_t target = layer * LR__BLOCK_LINEARS + first;
    int64_t lddy[LR__BLOCK_LINEARS];
    lr_status status = LR_OK;
    lr_hook_event e = {.layer = layer, .input_id = lr__next_input_id()};
    for (int32_t pass = 0; pass < 2; pass++) {
        e.event = pass ? LR_AFTER_BACKWARD : LR_BEFORE_BACKWARD;
        e.input = lr__step_view(pass ? dx : x, step->tokens, linears[0]->in);
        for (int32_t i = 0; i < count; i++) {
            lddy[i] = linears[i]->out;
            e.linear = linears[i];
            e.module = linears[i]->name;
            e.output = lr__step_view(dy[i], step->tokens, linears[i]->out);
            LR_TRY(lr__step_hooks(step, target + i, &e));
        }
        if (!pass)
            LR_TRY(lr__linear_backward(tape->groups[first], (const float *const *)dy, lddy,
                                       b->gradients, dx, linears[0]->in, 0));
    }
done:
    return status;
}

/* A linear whose output is added to the stream; the stream's own derivative stays what it is. */
static lr_status leave_branch(lr__backward *b, int32_t layer, const lr__block_tape *tape,
                              int32_t linear, const float *x, float *dx) {
    size_t numbers = (size_t)(b->r->step->tokens * b->r->config->hidden_size);
    memcpy(b->dout, b->dx, numbers * sizeof *b->dout);
    return leave_linears(b, layer, tape, linear, 1, x, &b->dout, dx);
}

/* ---- where a block ends ---- */

/* What holds parameters, in the order of the forward. The backward pass of the lowest block ends
 * at the first of them that is trained; below it nothing is wanted. */
enum { AT_ATTENTION_NORM, AT_QKV, AT_HEAD_NORMS, AT_O, AT_MLP_NORM, AT_GATE_UP, AT_DOWN };

static int trains(const lr__backward *b, const lr__param *param) {
    return param && lr__gradients_has(b->gradients, param);
}

typedef struct search {
    const lr__gradients *gradients;
    int found;
} search;

static void look(const lr__param *param, int32_t is_bias, void *user) {
    search *s = user;
    (void)is_bias;
    if (lr__gradients_has(s->gradients, param)) s->found = 1;
}

static int trains_linears(const lr__backward *b, const lr__block *block, int32_t first,
                          int32_t count) {
    search s = {.gradients = b->gradients};
    for (int32_t i = first; i < first + count; i++) {
        lr__linear_each_param(block->linears[i], look, &s);
        if (trains(b, block->linears[i]->bias)) s.found = 1;
    }
    return s.found;
}

static int32_t end_of_block(const lr__backward *b, const lr__block *block, int goes_on) {
    if (goes_on || trains(b, block->attention_norm)) return AT_ATTENTION_NORM;
    if (trains_linears(b, block, LR__Q, 3)) return AT_QKV;
    if (trains(b, block->q_norm) || trains(b, block->k_norm)) return AT_HEAD_NORMS;
    if (trains_linears(b, block, LR__O, 1)) return AT_O;
    if (trains(b, block->mlp_norm)) return AT_MLP_NORM;
    return trains_linears(b, block, LR__GATE, 2) ? AT_GATE_UP : AT_DOWN;
}

/* ---- the block ---- */

static lr_status leave_mlp(lr__backward *b, int32_t layer, lr__block_tape *tape, int32_t end) {
    const lr__config *c = b->r->config;
    const lr__block *block = &b->r->step->graph->blocks[layer];
    float *const gate_up[2] = {b->dgate, b->dup};
    lr_status status = LR_OK;
    rows_job j = {.a = &tape->a,
                  .rows = b->r->step->tokens,
                  .width = c->intermediate_size,
                  .cut = lr__forward_cut(b->r, layer)};
    LR_TRY(leave_branch(b, layer, tape, LR__DOWN, tape->a.act, end < AT_DOWN ? b->dact : NULL));
    if (end == AT_DOWN) goto done;
    for_rows(b, gate_rows, &j);
    LR_TRY(leave_linears(b, layer, tape, LR__GATE, 2, tape->a.mlp_normed, gate_up,
                         end < AT_GATE_UP ? b->dnormed : NULL));
    if (end == AT_GATE_UP) goto done;
    status = lr__backward_norm(b, block->mlp_norm, b->r->step->tokens, c->hidden_size, tape->middle,
                               b->dnormed, b->dx);
done:
    return status;
}

static lr_status leave_mixing(lr__backward *b, int32_t layer) {
    lr__arena *arena = &b->r->session->arena;
    lr__attention attention = lr__forward_attention(b->r, layer);
    lr__attention_slope *slopes;
    int64_t at = 0, q = b->r->q_size, kv = b->r->kv_size;
    lr__arena_mark mark = lr__arena_here(arena);
    lr_status status = lr__arena_take(arena, &slopes, (size_t)attention.span_count, sizeof *slopes);
    for (int32_t s = 0; status >= 0 && s < attention.span_count; s++) {
        slopes[s] = (lr__attention_slope){.dout = b->dmixed + at * q,
                                          .dq = b->dq + at * q,
                                          .dkeys = b->dk + at * kv,
                                          .dvalues = b->dv + at * kv};
        at += attention.spans[s].queries;
    }
    if (status >= 0)
        status = lr__attention_backward(b->r->step->evaluation.device, arena, &attention, slopes);
    lr__arena_release(arena, mark);
    return status;
}

static lr_status leave_attention(lr__backward *b, int32_t layer, lr__block_tape *tape,
                                 int32_t end) {
    const lr__config *c = b->r->config;
    const lr__block *block = &b->r->step->graph->blocks[layer];
    float *const qkv[3] = {b->dq, b->dk, b->dv};
    lr_status status = LR_OK;
    LR_TRY(leave_branch(b, layer, tape, LR__O, tape->a.mixed, end < AT_O ? b->dmixed : NULL));
    if (end == AT_O) goto done;
    LR_TRY(leave_mixing(b, layer));
    LR_TRY(turn_back(b, &tape->a, c->heads, block->q_norm, tape->raw_q, b->dq));
    LR_TRY(turn_back(b, &tape->a, c->key_value_heads, block->k_norm, tape->raw_k, b->dk));
    if (end == AT_HEAD_NORMS) goto done;
    LR_TRY(leave_linears(b, layer, tape, LR__Q, 3, tape->a.normed, qkv,
                         end < AT_QKV ? b->dnormed : NULL));
    if (end == AT_QKV) goto done;
    status = lr__backward_norm(b, block->attention_norm, b->r->step->tokens, c->hidden_size,
                               tape->x, b->dnormed, b->dx);
done:
    return status;
}

lr_status lr__backward_block(lr__backward *b, int32_t layer, lr__block_tape *tape, int goes_on) {
    lr__step *step = b->r->step;
    int32_t target = lr__watch_block(step->graph, layer);
    int32_t end = end_of_block(b, &step->graph->blocks[layer], goes_on);
    lr__activations usual = b->r->a;
    int64_t hidden = b->r->config->hidden_size;
    lr_status status = LR_OK;
    lr_hook_event e = {.event = LR_BEFORE_BACKWARD,
                       .layer = layer,
                       .module = step->graph->blocks[layer].name,
                       .input_id = lr__next_input_id(),
                       .input = lr__step_view(tape->x, step->tokens, hidden),
                       .output = lr__step_view(b->dx, step->tokens, hidden)};
    b->r->a = tape->a;
    LR_TRY(lr__step_hooks(step, target, &e));
    LR_TRY(leave_mlp(b, layer, tape, end));
    if (end < AT_MLP_NORM) LR_TRY(leave_attention(b, layer, tape, end));
    e.event = LR_AFTER_BACKWARD;
    e.input = lr__step_view(goes_on ? b->dx : NULL, step->tokens, hidden);
    e.output = lr__step_view(NULL, step->tokens, hidden);
    status = lr__step_hooks(step, target, &e);
done:
    b->r->a = usual;
    return status;
}

/* ---- below the blocks ---- */

typedef struct embed_job {
    const lr__backward *b;
    float *gradient;
} embed_job;

enum { COLS_EACH = 64 };

/* A few columns for all tokens, so that tokens of one id meet in order. */
static void embed_cols(void *work, int64_t index, int32_t thread) {
    (void)thread;
    const embed_job *j = work;
    const lr__step *step = j->b->r->step;
    int64_t hidden = j->b->r->config->hidden_size, first = index * COLS_EACH;
    int64_t count = hidden - first < COLS_EACH ? hidden - first : COLS_EACH;
    for (int64_t t = 0; t < step->tokens; t++)
        step->evaluation.device->kernels->axpy(count, 1, j->b->dx + t * hidden + first,
                                               j->gradient + step->ids[t] * hidden + first);
}

void lr__backward_embed(lr__backward *b) {
    const lr__step *step = b->r->step;
    embed_job j = {.b = b, .gradient = lr__gradient_of(b->gradients, step->graph->embedding)};
    int64_t items = (b->r->config->hidden_size + COLS_EACH - 1) / COLS_EACH;
    if (j.gradient) lr__pool_run(step->evaluation.device->pool, items, embed_cols, &j);
}

int32_t lr__backward_lowest(const lr__graph *graph, const lr__gradients *gradients, int32_t first) {
    search s = {.gradients = gradients};
    if (!first) look(graph->embedding, 0, &s);
    if (s.found) return 0;
    for (int32_t i = first; i < graph->block_count; i++) {
        lr__block_each_param(&graph->blocks[i], look, &s);
        if (s.found) return i;
    }
    return graph->block_count;
}
