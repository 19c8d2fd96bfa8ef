/*
 * Evaluation of linear modules: one rule for dense, low-rank, adapted and reordered modules. The
 * chains of a group form a forest whose roots read the input: chains that end in the same
 * operators share the nodes of that tail, so it is computed once.
 */
#include "nn/linear_forest.h"

#include <string.h>

typedef lr__linear_tape forest;
typedef lr__node node;
typedef lr__sink sink;

static const lr__overlay_use *overlay_use(const lr__evaluation *e, const void *overlay) {
    for (int32_t i = 0; i < e->overlay_count; i++)
        if (e->overlays[i].overlay == overlay) return &e->overlays[i];
    return NULL;
}

static int is_same_op(const lr__op *a, const lr__op *b) {
    return a->kind == b->kind && a->param == b->param && a->index == b->index && a->in == b->in &&
           a->out == b->out;
}

static lr_status add_node(forest *f, const lr__op *op, int32_t parent, int32_t *at) {
    int64_t out = lr__extent_of(f->e->extents, op->out_axis, op->out);
    int64_t in = lr__extent_of(f->e->extents, op->in_axis, op->in);
    for (int32_t i = 0; i < f->count; i++) {
        const node *n = &f->nodes[i];
        if (n->parent == parent && n->out == out && n->in == in && is_same_op(n->op, op)) {
            *at = i;
            return LR_OK;
        }
    }
    if (f->count == LR__NODES_MOST)
        return lr__fail(LR_E_UNSUPPORTED, "a group of modules with more than %d operators",
                        LR__NODES_MOST);
    node made = {.op = op, .parent = parent, .out = out, .in = in};
    if (op->kind == LR__OP_DIAGONAL && made.in < made.out) made.out = made.in;
    f->nodes[f->count] = made;
    if (parent >= 0) f->nodes[parent].uses++;
    *at = f->count++;
    return LR_OK;
}

/* Last node of a term, its operators entered from the input on. */
static lr_status add_term(forest *f, const lr__term *term, int32_t *last) {
    *last = -1;
    for (int32_t i = term->count - 1; i >= 0; i--) {
        lr_status status = add_node(f, &term->ops[i], *last, last);
        if (status < 0) return status;
    }
    f->nodes[*last].uses++;
    return LR_OK;
}

const float *lr__node_input(const forest *f, const node *n, int64_t *step) {
    if (n->parent < 0) {
        *step = f->ldx;
        return f->x;
    }
    *step = f->nodes[n->parent].out;
    return f->nodes[n->parent].value;
}

/* The matrix of node n; or, where n is a gather of one, that matrix with its rows in the order of
 * the gather, which costs nothing while the rows are widened. */
static lr_status run_matrix(const forest *f, const node *n, float *y, int64_t ldy, float scale,
                            int32_t accumulate) {
    lr__matmul m = {.out = n->out,
                    .tokens = f->tokens,
                    .y = y,
                    .ldy = ldy,
                    .scale = scale,
                    .accumulate = accumulate,
                    .batch = f->e->batch};
    if (n->op->kind == LR__OP_GATHER) {
        m.take = n->op->index->values;
        m.take_limit = n->in;
        n = &f->nodes[n->parent];
    }
    m.w = &n->op->param->matrix;
    m.in = n->in;
    m.x = lr__node_input(f, n, &m.ldx);
    return lr__matmul_run(f->e->device, f->e->arena, &m);
}

typedef struct map_job {
    const forest *f;
    const node *n;
    const float *x, *diagonal;
    float *y;
    int64_t ldx, ldy;
    float scale;
    int32_t accumulate;
} map_job;

static void map_row(void *work, int64_t t, int32_t thread) {
    (void)thread;
    const map_job *j = work;
    const node *n = j->n;
    const float *x = j->x + t * j->ldx;
    float *y = j->y + t * j->ldy;
    const int32_t *map = n->op->index ? n->op->index->values : NULL;
    int32_t adds = j->accumulate;
    switch (n->op->kind) {
    case LR__OP_GATHER:
        for (int64_t i = 0; i < n->out; i++)
            y[i] = (adds ? y[i] : 0) + j->scale * (map[i] < n->in ? x[map[i]] : 0);
        break;
    case LR__OP_SCATTER:
        if (!adds) memset(y, 0, (size_t)n->out * sizeof *y);
        for (int64_t i = 0; i < n->in; i++)
            if (map[i] < n->out) y[map[i]] += j->scale * x[i];
        break;
    default:
        for (int64_t i = 0; i < n->out; i++)
            y[i] = (adds ? y[i] : 0) + j->scale * (j->diagonal[i] * x[i]);
    }
}

static lr_status run_map(const forest *f, const node *n, float *y, int64_t ldy, float scale,
                         int32_t accumulate) {
    map_job j = {.f = f, .n = n, .y = y, .ldy = ldy, .scale = scale, .accumulate = accumulate};
    j.x = lr__node_input(f, n, &j.ldx);
    if (n->op->kind == LR__OP_DIAGONAL) {
        float *diagonal;
        lr_status status =
            lr__arena_take(f->e->arena, &diagonal, (size_t)n->op->out, sizeof(float));
        if (status < 0) return status;
        lr__param_widen(f->e->device->kernels, n->op->param, diagonal);
        j.diagonal = diagonal;
    }
    lr__pool_run(f->e->device->pool, f->tokens, map_row, &j);
    return LR_OK;
}

static lr_status run_node(const forest *f, const node *n, float *y, int64_t ldy, float scale,
                          int32_t accumulate) {
    int is_product =
        n->op->kind == LR__OP_MATRIX || (n->parent >= 0 && f->nodes[n->parent].is_absorbed);
    return is_product ? run_matrix(f, n, y, ldy, scale, accumulate)
                      : run_map(f, n, y, ldy, scale, accumulate);
}

static void absorb_gathered(forest *f) {
    for (int32_t i = 0; i < f->count; i++) {
        const node *n = &f->nodes[i];
        if (n->op->kind != LR__OP_GATHER || n->parent < 0) continue;
        node *matrix = &f->nodes[n->parent];
        matrix->is_absorbed =
            matrix->op->kind == LR__OP_MATRIX && matrix->uses == 1 && !matrix->is_end;
    }
}

/* Values that more than the one term at the chain's end reads, and all that lead there. */
static lr_status compute_inner_nodes(forest *f) {
    for (int32_t i = 0; i < f->count; i++) {
        node *n = &f->nodes[i];
        if (n->is_absorbed || (n->is_end && n->uses == 1)) continue;
        lr_status status =
            lr__arena_take(f->e->arena, &n->value, (size_t)(f->tokens * n->out), sizeof(float));
        if (status >= 0) status = run_node(f, n, n->value, n->out, 1, 0);
        if (status < 0) return status;
    }
    return LR_OK;
}

static void add_rows(const forest *f, const node *n, float scale, const unsigned char *rows,
                     float *y, int64_t ldy) {
    for (int64_t t = 0; t < f->tokens; t++)
        if (!rows || rows[t])
            f->e->device->kernels->axpy(n->out, scale, n->value + t * n->out, y + t * ldy);
}

static void fill_rows(float *y, int64_t ldy, int64_t tokens, int64_t count) {
    for (int64_t t = 0; t < tokens; t++) memset(y + t * ldy, 0, (size_t)count * sizeof *y);
}

static lr_status add_bias(const forest *f, const lr_linear *module, int64_t out, float *y,
                          int64_t ldy) {
    float *bias;
    lr_status status = lr__arena_take(f->e->arena, &bias, (size_t)module->out, sizeof(float));
    if (status < 0) return status;
    lr__param_widen(f->e->device->kernels, module->bias, bias);
    for (int64_t t = 0; t < f->tokens; t++) f->e->device->kernels->axpy(out, 1, bias, y + t * ldy);
    return LR_OK;
}

static lr_status run_sink(const forest *f, const sink *s, float *y, int64_t ldy, int32_t first) {
    const node *n = &f->nodes[s->node];
    if (!n->value) return run_node(f, n, y, ldy, s->scale, !first);
    if (first) fill_rows(y, ldy, f->tokens, n->out);
    add_rows(f, n, s->scale, s->rows, y, ldy);
    return LR_OK;
}

static lr_status collect_sinks(forest *f) {
    for (int32_t m = 0; m < f->module_count; m++)
        for (int32_t t = 0; t < f->modules[m]->term_count; t++) {
            const lr__term *term = &f->modules[m]->terms[t];
            const lr__overlay_use *use = NULL;
            if (term->overlay && !(use = overlay_use(f->e, term->overlay))) continue;
            sink *s = &f->sinks[f->sink_count];
            lr_status status = add_term(f, term, &s->node);
            if (status < 0) return status;
            s->module = m;
            s->scale = term->scale;
            s->rows = use ? use->rows : NULL;
            if (s->rows) f->nodes[s->node].uses++; /* masked rows are added from a value */
            f->nodes[s->node].is_end = 1;
            if (++f->sink_count == LR__NODES_MOST)
                return lr__fail(LR_E_UNSUPPORTED, "a group of modules with %d terms",
                                LR__NODES_MOST);
        }
    return LR_OK;
}

static lr_status run_forest(forest *f, float *const *y, const int64_t *ldy) {
    lr_status status = LR_OK;
    int64_t outs[LR__GROUP_MOST] = {0}; /* extent written so far; 0: nothing yet */
    LR_TRY(collect_sinks(f));
    absorb_gathered(f);
    LR_TRY(compute_inner_nodes(f));
    for (int32_t i = 0; i < f->sink_count; i++) {
        int32_t m = f->sinks[i].module;
        LR_TRY(run_sink(f, &f->sinks[i], y[m], ldy[m], !outs[m]));
        outs[m] = f->nodes[f->sinks[i].node].out;
    }
    for (int32_t m = 0; m < f->module_count; m++) {
        const lr_linear *module = f->modules[m];
        if (!outs[m]) fill_rows(y[m], ldy[m], f->tokens, outs[m] = module->out);
        if (module->bias) LR_TRY(add_bias(f, module, outs[m], y[m], ldy[m]));
    }
done:
    return status;
}

lr_status lr__linear_forward(const lr__evaluation *e, const lr_linear *const *modules,
                             int32_t count, const float *x, int64_t ldx, int64_t tokens,
                             float *const *y, const int64_t *ldy) {
    forest f = {
        .e = e, .modules = modules, .module_count = count, .x = x, .ldx = ldx, .tokens = tokens};
    lr__arena_mark mark = lr__arena_here(e->arena);
    lr_status status = run_forest(&f, y, ldy);
    lr__arena_release(e->arena, mark);
    return status;
}

lr_status lr__linear_forward_kept(const lr__evaluation *e, const lr_linear *const *modules,
                                  int32_t count, const float *x, int64_t tokens, float *const *y,
                                  const int64_t *ldy, lr__linear_tape **tape) {
    forest *f;
    lr_status status = lr__arena_take(e->arena, &f, 1, sizeof *f);
    if (status < 0) return status;
    *f = (forest){.e = e,
                  .modules = modules,
                  .module_count = count,
                  .x = x,
                  .ldx = modules[0]->in,
                  .tokens = tokens};
    *tape = f;
    return run_forest(f, y, ldy);
}
