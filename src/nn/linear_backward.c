/* Derivatives of a group of linear modules: the forest of its operators from the ends back. */
#include "nn/linear_forest.h"

#include <string.h>

typedef struct gradient {
    const float *values; /* [tokens, out of the node], scaled by `scale`; NULL: nothing yet */
    int64_t step;
    float scale;
    float *own; /* where values were added up; NULL: they are dy itself */
} gradient;

typedef struct pass {
    const lr__linear_tape *f;
    const lr__gradients *gradients;
    float *dx;
    int64_t lddx;
    int32_t dx_begun;
    int32_t is_wanted[LR__NODES_MOST]; /* something at or before the node is */
    gradient of[LR__NODES_MOST];
} pass;

static const lr__kernels *kernels_of(const pass *p) { return p->f->e->device->kernels; }

static int trains(const pass *p, const lr__param *param) {
    return param && lr__gradients_has(p->gradients, param);
}

static int input_is_wanted(const pass *p, const lr__node *n) {
    return n->parent < 0 ? p->dx != NULL : p->is_wanted[n->parent];
}

/* ---- what reaches a node ---- */

static lr_status own_sum(pass *p, int32_t at, float **out) {
    const lr__node *n = &p->f->nodes[at];
    gradient *g = &p->of[at];
    if (!g->own) {
        size_t count = (size_t)(p->f->tokens * n->out);
        lr_status status = lr__arena_take(p->f->e->arena, &g->own, count, sizeof *g->own);
        if (status < 0) return status;
        memset(g->own, 0, count * sizeof *g->own);
        g->values = g->own;
        g->step = n->out;
        g->scale = 1;
    }
    *out = g->own;
    return LR_OK;
}

/* An end that nothing else reads takes dy as it is. */
static lr_status enter_sink(pass *p, const lr__sink *s, const float *dy, int64_t lddy) {
    const lr__node *n = &p->f->nodes[s->node];
    float *sum;
    if (!n->value) {
        p->of[s->node] = (gradient){.values = dy, .step = lddy, .scale = s->scale};
        return LR_OK;
    }
    lr_status status = own_sum(p, s->node, &sum);
    for (int64_t t = 0; status >= 0 && t < p->f->tokens; t++)
        if (!s->rows || s->rows[t])
            kernels_of(p)->axpy(n->out, s->scale, dy + t * lddy, sum + t * n->out);
    return status;
}

/* ---- what leaves it ---- */

/* Where the derivative by a node's input is added up. */
typedef struct target {
    float *to; /* NULL: not wanted */
    int64_t step;
    int32_t adds;
} target;

static lr_status input_target(pass *p, const lr__node *n, target *out) {
    *out = (target){0};
    if (!input_is_wanted(p, n)) return LR_OK;
    if (n->parent < 0) {
        *out = (target){.to = p->dx, .step = p->lddx, .adds = p->dx_begun};
        p->dx_begun = 1;
        return LR_OK;
    }
    out->step = p->f->nodes[n->parent].out;
    out->adds = 1;
    return own_sum(p, n->parent, &out->to);
}

/* Where all of a matrix takes part, the first derivative of a step is written and not added. */
static float *derivative_of(const pass *p, lr__matmul_backward *m, const lr__param *param) {
    int is_whole = !m->take && m->out == m->w->rows && m->in == m->w->cols && m->tokens > 0;
    m->dw_adds = 1;
    return is_whole ? lr__gradient_begin(p->gradients, param, &m->dw_adds)
                    : lr__gradient_of(p->gradients, param);
}

static lr_status leave_matrix(pass *p, const lr__node *n, const gradient *g) {
    lr__matmul_backward m = {
        .out = n->out, .tokens = p->f->tokens, .dy = g->values, .lddy = g->step, .scale = g->scale};
    target input;
    if (n->op->kind == LR__OP_GATHER) {
        m.take = n->op->index->values;
        m.take_limit = n->in;
        n = &p->f->nodes[n->parent];
    }
    lr_status status = input_target(p, n, &input);
    if (status < 0) return status;
    m.w = &n->op->param->matrix;
    m.in = n->in;
    m.x = lr__node_input(p->f, n, &m.ldx);
    m.dx = input.to;
    m.lddx = input.step;
    m.accumulate = input.adds;
    m.dw = derivative_of(p, &m, n->op->param);
    return lr__matmul_backward_run(p->f->e->device, p->f->e->arena, &m);
}

typedef struct map_job {
    const lr__node *n;
    const gradient *g;
    const float *diagonal;
    target input;
} map_job;

static void map_row(void *work, int64_t t, int32_t thread) {
    (void)thread;
    const map_job *j = work;
    const lr__node *n = j->n;
    const float *dy = j->g->values + t * j->g->step;
    float *dx = j->input.to + t * j->input.step, scale = j->g->scale;
    const int32_t *map = n->op->index ? n->op->index->values : NULL;
    if (!j->input.adds) memset(dx, 0, (size_t)n->in * sizeof *dx);
    switch (n->op->kind) {
    case LR__OP_GATHER:
        for (int64_t i = 0; i < n->out; i++)
            if (map[i] < n->in) dx[map[i]] += scale * dy[i];
        break;
    case LR__OP_SCATTER:
        for (int64_t i = 0; i < n->in; i++)
            if (map[i] < n->out) dx[i] += scale * dy[map[i]];
        break;
    default:
        for (int64_t i = 0; i < n->out; i++) dx[i] += scale * (j->diagonal[i] * dy[i]);
    }
}

static void add_diagonal(const pass *p, const lr__node *n, const gradient *g, float *sum) {
    int64_t ldx;
    const float *x = lr__node_input(p->f, n, &ldx);
    for (int64_t t = 0; t < p->f->tokens; t++)
        for (int64_t i = 0; i < n->out; i++)
            sum[i] += g->scale * (g->values[t * g->step + i] * x[t * ldx + i]);
}

static lr_status leave_map(pass *p, const lr__node *n, const gradient *g) {
    map_job j = {.n = n, .g = g};
    lr__arena *arena = p->f->e->arena;
    lr_status status = input_target(p, n, &j.input);
    if (status < 0) return status;
    if (n->op->kind == LR__OP_DIAGONAL) {
        float *sum = lr__gradient_of(p->gradients, n->op->param), *diagonal;
        if (sum) add_diagonal(p, n, g, sum);
        status = lr__arena_take(arena, &diagonal, (size_t)n->op->out, sizeof *diagonal);
        if (status < 0) return status;
        lr__param_widen(kernels_of(p), n->op->param, diagonal);
        j.diagonal = diagonal;
    }
    if (j.input.to) lr__pool_run(p->f->e->device->pool, p->f->tokens, map_row, &j);
    return LR_OK;
}

static int is_product(const pass *p, const lr__node *n) {
    return n->op->kind == LR__OP_MATRIX || (n->parent >= 0 && p->f->nodes[n->parent].is_absorbed);
}

static lr_status leave_node(pass *p, int32_t at) {
    const lr__node *n = &p->f->nodes[at];
    const gradient *g = &p->of[at];
    if (n->is_absorbed || !p->is_wanted[at] || !g->values) return LR_OK;
    return is_product(p, n) ? leave_matrix(p, n, g) : leave_map(p, n, g);
}

/* ---- the pass ---- */

static void mark_wanted(pass *p) {
    for (int32_t i = 0; i < p->f->count; i++)
        p->is_wanted[i] =
            trains(p, p->f->nodes[i].op->param) || input_is_wanted(p, &p->f->nodes[i]);
}

/* Outputs that an extent cuts off have no bias. */
static void add_bias(const pass *p, int32_t module, const float *dy, int64_t lddy) {
    const lr_linear *linear = p->f->modules[module];
    float *sum = linear->bias ? lr__gradient_of(p->gradients, linear->bias) : NULL;
    int64_t outs = linear->out;
    for (int32_t i = 0; i < p->f->sink_count; i++)
        if (p->f->sinks[i].module == module) outs = p->f->nodes[p->f->sinks[i].node].out;
    for (int64_t t = 0; sum && t < p->f->tokens; t++)
        kernels_of(p)->axpy(outs, 1, dy + t * lddy, sum);
}

lr_status lr__linear_backward(const lr__linear_tape *tape, const float *const *dy,
                              const int64_t *lddy, const lr__gradients *gradients, float *dx,
                              int64_t lddx, int32_t accumulate) {
    lr_status status = LR_OK;
    pass p = {.f = tape, .gradients = gradients, .dx = dx, .lddx = lddx, .dx_begun = accumulate};
    lr__arena_mark mark = lr__arena_here(tape->e->arena);
    mark_wanted(&p);
    for (int32_t m = 0; m < tape->module_count; m++) add_bias(&p, m, dy[m], lddy[m]);
    for (int32_t i = 0; i < tape->sink_count; i++) {
        const lr__sink *s = &tape->sinks[i];
        if (p.is_wanted[s->node]) LR_TRY(enter_sink(&p, s, dy[s->module], lddy[s->module]));
    }
    for (int32_t i = tape->count - 1; i >= 0; i--) LR_TRY(leave_node(&p, i));
    for (int64_t t = 0; dx && !p.dx_begun && t < tape->tokens; t++)
        memset(dx + t * lddx, 0, (size_t)tape->modules[0]->in * sizeof *dx);
done:
    lr__arena_release(tape->e->arena, mark);
    return status;
}
