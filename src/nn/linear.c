/* Building linear modules and reading what they are made of. */
#include "nn/linear.h"

#include <string.h>

static void op_drop(lr__op *op) {
    lr__param_drop(op->param);
    lr__index_drop(op->index);
    lr__axis_drop(op->out_axis);
    lr__axis_drop(op->in_axis);
}

static void op_keep(lr__op *op) {
    lr__param_keep(op->param);
    lr__index_keep(op->index);
    lr__axis_keep(op->out_axis);
    lr__axis_keep(op->in_axis);
}

lr_linear *lr__linear_keep(const lr_linear *linear) {
    lr_linear *counted = (lr_linear *)linear; /* the count is the one member that changes */
    __atomic_add_fetch(&counted->references, 1, __ATOMIC_RELAXED);
    return counted;
}

void lr_linear_free(lr_linear *linear) {
    if (!linear || __atomic_sub_fetch(&linear->references, 1, __ATOMIC_ACQ_REL)) return;
    for (int32_t t = 0; t < linear->term_count; t++) {
        for (int32_t i = 0; i < linear->terms[t].count; i++) op_drop(&linear->terms[t].ops[i]);
        lr__free(linear->terms[t].ops);
    }
    lr__free(linear->terms);
    lr__param_drop(linear->bias);
    lr_ctx_free(linear->ctx);
    lr__free(linear->name);
    lr__free(linear);
}

lr_status lr__linear_new(lr_linear **out, lr_ctx *ctx, const char *name, int64_t outs,
                         int64_t ins) {
    lr_status status = LR_OK;
    lr_linear *linear = NULL;
    *out = NULL;
    LR_TRY(lr__new(&linear, 1, sizeof *linear));
    linear->references = 1;
    linear->ctx = lr__ctx_keep(ctx);
    linear->out = outs;
    linear->in = ins;
    LR_TRY(lr__dup(&linear->name, name));
    *out = linear;
    linear = NULL;
done:
    lr_linear_free(linear);
    return status;
}

static lr_status check_chain(const lr_linear *linear, const lr__op *ops, int32_t count) {
    int64_t size = linear->in;
    for (int32_t i = count - 1; i >= 0; i--) {
        if (ops[i].in != size)
            return lr__fail(LR_E_SHAPE, "%s: operator %d reads %lld numbers, expected %lld",
                            linear->name, i, (long long)ops[i].in, (long long)size);
        size = ops[i].out;
    }
    if (size != linear->out)
        return lr__fail(LR_E_SHAPE, "%s: a chain gives %lld outputs, expected %lld", linear->name,
                        (long long)size, (long long)linear->out);
    return LR_OK;
}

lr_status lr__linear_add_term(lr_linear *linear, float scale, const lr__op *ops, int32_t count,
                              const void *overlay) {
    lr_status status = check_chain(linear, ops, count);
    if (status < 0) return status;
    size_t capacity = (size_t)linear->term_count;
    lr__op *copies = NULL;
    LR_TRY(lr__new(&copies, (size_t)count, sizeof *copies));
    LR_TRY(lr__grow(&linear->terms, &capacity, capacity + 1, sizeof *linear->terms));
    memcpy(copies, ops, (size_t)count * sizeof *ops);
    for (int32_t i = 0; i < count; i++) op_keep(&copies[i]);
    lr__term term = {scale, count, copies, overlay};
    linear->terms[linear->term_count++] = term;
    return LR_OK;
done:
    lr__free(copies);
    return status;
}

static lr__op matrix_op(lr__param *param) {
    lr__op op = {
        .kind = LR__OP_MATRIX, .out = param->matrix.rows, .in = param->matrix.cols, .param = param};
    return op;
}

lr_status lr__linear_dense(lr_linear **out, lr_ctx *ctx, const char *name, lr__param *weight,
                           lr__param *bias) {
    lr_status status = LR_OK;
    lr_linear *linear = NULL;
    lr__op op = matrix_op(weight);
    *out = NULL;
    LR_TRY(lr__linear_new(&linear, ctx, name, op.out, op.in));
    LR_TRY(lr__linear_add_term(linear, 1, &op, 1, NULL));
    linear->bias = lr__param_keep(bias);
    *out = linear;
    linear = NULL;
done:
    lr_linear_free(linear);
    return status;
}

lr_status lr__linear_low_rank(lr_linear **out, lr_ctx *ctx, const char *name, lr__param *left,
                              lr__param *right, lr__param *bias) {
    lr_status status = LR_OK;
    lr_linear *linear = NULL;
    lr__axis *rank = NULL;
    lr__op ops[2] = {matrix_op(left), matrix_op(right)};
    *out = NULL;
    LR_TRY(lr__axis_new(&rank, ops[1].out, "%s.rank", name));
    ops[0].in_axis = ops[1].out_axis = rank;
    LR_TRY(lr__linear_new(&linear, ctx, name, ops[0].out, ops[1].in));
    LR_TRY(lr__linear_add_term(linear, 1, ops, 2, NULL));
    linear->bias = lr__param_keep(bias);
    *out = linear;
    linear = NULL;
done:
    lr__axis_drop(rank);
    lr_linear_free(linear);
    return status;
}

lr_status lr__linear_copy(lr_linear **out, const lr_linear *linear, const char *name) {
    lr_status status = LR_OK;
    lr_linear *copy = NULL;
    *out = NULL;
    LR_TRY(lr__linear_new(&copy, linear->ctx, name, linear->out, linear->in));
    for (int32_t t = 0; t < linear->term_count; t++)
        LR_TRY(lr__linear_add_term(copy, linear->terms[t].scale, linear->terms[t].ops,
                                   linear->terms[t].count, linear->terms[t].overlay));
    copy->bias = lr__param_keep(linear->bias);
    *out = copy;
    copy = NULL;
done:
    lr_linear_free(copy);
    return status;
}

lr_status lr__linear_renamed(lr_linear **out, const lr_linear *linear, const char *name) {
    if (lr_linear_kind(linear) != LR_LINEAR_LOW_RANK) return lr__linear_copy(out, linear, name);
    return lr__linear_low_rank(out, linear->ctx, name, linear->terms[0].ops[0].param,
                               linear->terms[0].ops[1].param, linear->bias);
}

void lr__linear_swap(lr_linear *linear, const lr__param *from, lr__param *to) {
    for (int32_t t = 0; t < linear->term_count; t++)
        for (int32_t i = 0; i < linear->terms[t].count; i++)
            lr__param_swap(&linear->terms[t].ops[i].param, from, to);
    lr__param_swap(&linear->bias, from, to);
}

void lr__linear_name_axis(lr_linear *linear, lr__axis *axis, int32_t is_output) {
    for (int32_t t = 0; t < linear->term_count; t++) {
        lr__term *term = &linear->terms[t];
        lr__op *op = &term->ops[is_output ? 0 : term->count - 1];
        lr__axis **slot = is_output ? &op->out_axis : &op->in_axis;
        lr__axis_drop(*slot);
        *slot = lr__axis_keep(axis);
    }
}

const char *lr_linear_name(const lr_linear *linear) { return linear->name; }
int64_t lr_linear_out(const lr_linear *linear) { return linear->out; }
int64_t lr_linear_in(const lr_linear *linear) { return linear->in; }

/* One matrix whose rows may be gathered in another order. */
static int is_one_matrix(const lr_linear *linear) {
    if (linear->term_count != 1 || linear->terms[0].scale != 1.0f) return 0;
    const lr__term *term = &linear->terms[0];
    for (int32_t i = 0; i + 1 < term->count; i++)
        if (term->ops[i].kind != LR__OP_GATHER || term->ops[i].in != term->ops[i].out) return 0;
    return term->ops[term->count - 1].kind == LR__OP_MATRIX;
}

/* `kinds`: the operators of the term, from the left. */
static int is_chain_of(const lr__term *term, const int32_t *kinds, int32_t count) {
    int is_same = term->scale == 1.0f && term->count == count;
    for (int32_t i = 0; i < count && is_same; i++) is_same = term->ops[i].kind == kinds[i];
    return is_same;
}

/* Scattered rows, alone when there are no others, or with combinations of the same rows. */
static int is_pivot_form(const lr_linear *linear) {
    static const int32_t picked[] = {LR__OP_SCATTER, LR__OP_MATRIX};
    static const int32_t mixed[] = {LR__OP_SCATTER, LR__OP_MATRIX, LR__OP_MATRIX};
    const lr__term *terms = linear->terms;
    if (linear->term_count < 1 || linear->term_count > 2 || !is_chain_of(&terms[0], picked, 2))
        return 0;
    int64_t rank = terms[0].ops[1].out;
    if (linear->term_count == 1) return rank == linear->out;
    return is_chain_of(&terms[1], mixed, 3) && terms[1].ops[2].param == terms[0].ops[1].param &&
           terms[1].ops[1].out == linear->out - rank;
}

int32_t lr_linear_kind(const lr_linear *linear) {
    static const int32_t factors[] = {LR__OP_MATRIX, LR__OP_MATRIX};
    if (is_one_matrix(linear)) return LR_LINEAR_DENSE;
    if (linear->term_count == 1 && is_chain_of(linear->terms, factors, 2))
        return LR_LINEAR_LOW_RANK;
    return is_pivot_form(linear) ? LR_LINEAR_PIVOT : LR_LINEAR_CHAIN;
}

static int64_t least_size(const lr__term *term) {
    int64_t least = term->ops[0].out;
    for (int32_t i = 0; i < term->count; i++)
        if (term->ops[i].in < least) least = term->ops[i].in;
    return least;
}

/* The first term that begins, next to x, with the same operator. */
static int32_t first_of_tail(const lr_linear *linear, int32_t term) {
    const lr__op *tail = &linear->terms[term].ops[linear->terms[term].count - 1];
    for (int32_t t = 0; t < term; t++) {
        const lr__op *op = &linear->terms[t].ops[linear->terms[t].count - 1];
        if (op->param == tail->param && op->index == tail->index) return t;
    }
    return term;
}

/* Ranks of sums add, but terms that share the operator next to x span no more than it gives. */
static int64_t rank_allowed(const lr_linear *linear) {
    int64_t sum = 0, most = linear->out < linear->in ? linear->out : linear->in;
    for (int32_t t = 0; t < linear->term_count; t++) {
        int64_t together = 0;
        if (first_of_tail(linear, t) != t) continue;
        for (int32_t u = t; u < linear->term_count; u++)
            if (first_of_tail(linear, u) == t) together += least_size(&linear->terms[u]);
        int64_t given = linear->terms[t].ops[linear->terms[t].count - 1].out;
        sum += together < given ? together : given;
    }
    return sum < most ? sum : most;
}

int64_t lr_linear_rank(const lr_linear *linear) {
    switch (lr_linear_kind(linear)) {
    case LR_LINEAR_DENSE: return linear->out < linear->in ? linear->out : linear->in;
    case LR_LINEAR_LOW_RANK:
    case LR_LINEAR_PIVOT: return linear->terms[0].ops[1].out;
    default: return rank_allowed(linear);
    }
}

static int is_seen_before(const lr_linear *linear, int32_t term, int32_t op) {
    const lr__param *param = linear->terms[term].ops[op].param;
    for (int32_t t = 0; t <= term; t++)
        for (int32_t i = 0; i < linear->terms[t].count && (t < term || i < op); i++)
            if (linear->terms[t].ops[i].param == param) return 1;
    return 0;
}

int64_t lr_linear_param_count(const lr_linear *linear) {
    int64_t count = 0;
    for (int32_t t = 0; t < linear->term_count; t++)
        for (int32_t i = 0; i < linear->terms[t].count; i++)
            if (linear->terms[t].ops[i].param && !is_seen_before(linear, t, i))
                count += lr__param_count(linear->terms[t].ops[i].param);
    return count;
}

void lr__linear_dense_rows(const lr_linear *linear, int64_t row, int64_t rows, float *dst) {
    const lr__term *term = &linear->terms[0];
    const lr__op *matrix = &term->ops[term->count - 1];
    for (int64_t i = 0; i < rows; i++) {
        int64_t stored = row + i;
        for (int32_t map = 0; map + 1 < term->count; map++)
            stored = term->ops[map].index->values[stored];
        lr__matrix_widen(linear->ctx->device.kernels, &matrix->param->matrix, stored, 1, matrix->in,
                         dst + i * linear->in, linear->in);
    }
}
