/* The public LowRankLinear handle: made from factors, read, applied, multiplied out. */
#include "base/opts.h"
#include "nn/derived.h"
#include "nn/linear_rows.h"
#include "tensor/dtype.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { APPLY_ROWS = 4096, CHECK_NUMBERS = 4096 };

void lr_linear_opts_init(lr_linear_opts *opts, size_t size) {
    lr_linear_opts defaults = {.size = sizeof defaults};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

static void describe(const lr_tensor *t, char *out, size_t room) {
    size_t used = (size_t)snprintf(out, room, "%s [", lr_dtype_name(t->dtype));
    for (int32_t i = 0; i < t->ndim && i < LR_MAX_DIMS && used < room; i++)
        used += (size_t)snprintf(out + used, room - used, "%s%lld", i ? ", " : "",
                                 (long long)t->shape[i]);
    if (used < room) snprintf(out + used, room - used, "]");
}

/* Host memory, contiguous, `ndim` dimensions of 1 .. 2^31 - 1 elements; only the first may be
 * empty, and only where `may_be_empty`. */
static lr_status check_tensor(const lr_tensor *t, int32_t ndim, int may_be_empty, const char *name,
                              const char *what) {
    char found[160];
    if (!t) return lr__fail(LR_E_INVALID, "%s: no %s", name, what);
    describe(t, found, sizeof found);
    if (t->ndim != ndim)
        return lr__fail(LR_E_SHAPE, "%s: %s is %s, expected %d dimensions", name, what, found,
                        ndim);
    for (int32_t i = 0; i < ndim; i++)
        if (t->shape[i] < (may_be_empty && i == 0 ? 0 : 1) || t->shape[i] > INT32_MAX)
            return lr__fail(LR_E_SHAPE, "%s: %s is %s, a dimension is out of range", name, what,
                            found);
    if (t->device != LR_HOST || !lr_tensor_is_contiguous(t))
        return lr__fail(LR_E_INVALID, "%s: %s is %s, expected contiguous host memory", name, what,
                        found);
    if (!t->data && t->shape[0] > 0)
        return lr__fail(LR_E_INVALID, "%s: %s has no data", name, what);
    return LR_OK;
}

static lr_status check_floats(const lr_tensor *t, const char *name, const char *what) {
    if (t->dtype == LR_F32) return LR_OK;
    return lr__fail(LR_E_INVALID, "%s: %s of type %s, expected f32", name, what,
                    lr_dtype_name(t->dtype));
}

static lr_status check_finite(const lr_ctx *ctx, const lr_tensor *t, const char *name,
                              const char *what) {
    float numbers[CHECK_NUMBERS];
    int64_t count = lr_tensor_count(t), size = (int64_t)lr_dtype_size(t->dtype);
    for (int64_t at = 0; at < count; at += CHECK_NUMBERS) {
        int64_t part = count - at < CHECK_NUMBERS ? count - at : CHECK_NUMBERS;
        ctx->device.kernels->widen(t->dtype, (const char *)t->data + at * size, (size_t)part,
                                   numbers);
        for (int64_t i = 0; i < part; i++)
            if (!isfinite(numbers[i]))
                return lr__fail(LR_E_NUMERIC, "%s: %s: number %lld is %g", name, what,
                                (long long)(at + i), numbers[i]);
    }
    return LR_OK;
}

/* The tensor's numbers in their own type, as the parameter `<name>.<suffix>`. */
static lr_status copy_param(lr__param **out, const lr_tensor *t, const char *name,
                            const char *suffix) {
    lr_status status = LR_OK;
    char *full = NULL;
    lr__mapping *copy = NULL;
    size_t room = strlen(name) + strlen(suffix) + 2;
    lr__matrix m = {.dtype = t->dtype, .rows = t->shape[0], .cols = 1};
    if (t->ndim == 2) m.cols = t->shape[1];
    LR_TRY(lr__new(&full, room, 1));
    snprintf(full, room, "%s.%s", name, suffix);
    LR_TRY(lr__mapping_copy(&copy, full, t->data, lr__dtype_bytes(t->dtype, m.rows * m.cols)));
    m.data = copy->data;
    LR_TRY(lr__param_mapped(out, full, &m, t->ndim, copy));
done:
    lr__mapping_drop(copy);
    lr__free(full);
    return status;
}

static lr_status check_factor(const lr_ctx *ctx, const lr_tensor *t, const char *name,
                              const char *what) {
    lr_status status = check_tensor(t, 2, 0, name, what);
    if (status < 0) return status;
    if (t->dtype != LR_F32 && t->dtype != LR_F16 && t->dtype != LR_BF16)
        return lr__fail(LR_E_INVALID, "%s: %s of type %s, expected f32, f16 or bf16", name, what,
                        lr_dtype_name(t->dtype));
    return check_finite(ctx, t, name, what);
}

static lr_status check_bias(const lr_ctx *ctx, const lr_tensor *bias, int64_t out,
                            const char *name) {
    lr_status status = check_tensor(bias, 1, 0, name, "bias");
    if (status >= 0) status = check_floats(bias, name, "bias");
    if (status < 0) return status;
    if (bias->shape[0] != out)
        return lr__fail(LR_E_SHAPE, "%s: bias of %lld numbers, expected %lld", name,
                        (long long)bias->shape[0], (long long)out);
    return check_finite(ctx, bias, name, "bias");
}

lr_status lr_linear_from_factors(lr_linear **out, lr_ctx *ctx, const lr_tensor *left,
                                 const lr_tensor *right, const lr_tensor *bias, const char *name) {
    lr_status status = LR_OK;
    lr__param *l = NULL, *r = NULL, *b = NULL;
    if (!out || !ctx)
        return lr__fail(LR_E_INVALID, "lr_linear_from_factors: out and ctx are needed");
    *out = NULL;
    if (!name) name = "linear";
    LR_TRY(check_factor(ctx, left, name, "left"));
    LR_TRY(check_factor(ctx, right, name, "right"));
    LR_FAIL_IF(left->shape[1] != right->shape[0], LR_E_SHAPE,
               "%s: left is [%lld, %lld] and right [%lld, %lld], their ranks differ", name,
               (long long)left->shape[0], (long long)left->shape[1], (long long)right->shape[0],
               (long long)right->shape[1]);
    if (bias) LR_TRY(check_bias(ctx, bias, left->shape[0], name));
    LR_TRY(copy_param(&l, left, name, "left.weight"));
    LR_TRY(copy_param(&r, right, name, "right.weight"));
    if (bias) LR_TRY(copy_param(&b, bias, name, "bias"));
    LR_TRY(lr__linear_low_rank(out, ctx, name, l, r, b));
done:
    lr__param_drop(l);
    lr__param_drop(r);
    lr__param_drop(b);
    return status;
}

static void read_matrix(const lr_linear *linear, const lr__param *param, float *out) {
    const lr__matrix *m = &param->matrix;
    lr__matrix_widen(linear->ctx->device.kernels, m, 0, m->rows, m->cols, out, m->cols);
}

lr_status lr_linear_factors(const lr_linear *linear, float *left, float *right) {
    if (!linear) return lr__fail(LR_E_INVALID, "lr_linear_factors: linear is needed");
    if (lr_linear_kind(linear) != LR_LINEAR_LOW_RANK)
        return lr__fail(LR_E_INVALID, "%s: not a module of two factors", linear->name);
    lr_status status = lr__linear_follow(linear);
    if (status < 0) return status;
    if (left) read_matrix(linear, linear->terms[0].ops[0].param, left);
    if (right) read_matrix(linear, linear->terms[0].ops[1].param, right);
    return LR_OK;
}

lr_status lr_linear_bias(const lr_linear *linear, float *bias) {
    if (!linear || !bias)
        return lr__fail(LR_E_INVALID, "lr_linear_bias: linear and bias are needed");
    lr_status status = lr__linear_follow(linear);
    if (status < 0) return status;
    if (linear->bias)
        lr__param_widen(linear->ctx->device.kernels, linear->bias, bias);
    else
        memset(bias, 0, (size_t)linear->out * sizeof *bias);
    return LR_OK;
}

static lr_status check_rows(const lr_linear *linear, const lr_tensor *t, int64_t cols,
                            const char *what) {
    lr_status status = check_tensor(t, 2, 1, linear->name, what);
    if (status >= 0) status = check_floats(t, linear->name, what);
    if (status < 0) return status;
    if (t->shape[1] != cols)
        return lr__fail(LR_E_SHAPE, "%s: %s is [%lld, %lld], expected [rows, %lld]", linear->name,
                        what, (long long)t->shape[0], (long long)t->shape[1], (long long)cols);
    return LR_OK;
}

lr_status lr_linear_apply(const lr_linear *linear, const lr_tensor *x, lr_tensor *y) {
    lr_status status = LR_OK;
    lr__arena arena = {0};
    if (!linear) return lr__fail(LR_E_INVALID, "lr_linear_apply: linear is needed");
    LR_TRY(check_rows(linear, x, linear->in, "x"));
    LR_TRY(check_rows(linear, y, linear->out, "y"));
    LR_FAIL_IF(x->shape[0] != y->shape[0], LR_E_SHAPE, "%s: x has %lld rows and y %lld",
               linear->name, (long long)x->shape[0], (long long)y->shape[0]);
    LR_TRY(lr__linear_follow(linear));
    lr__evaluation e = {.device = &linear->ctx->device, .arena = &arena, .batch = 1};
    for (int64_t row = 0; row < x->shape[0]; row += APPLY_ROWS) {
        int64_t rows = x->shape[0] - row < APPLY_ROWS ? x->shape[0] - row : APPLY_ROWS;
        float *part = (float *)y->data + row * linear->out;
        LR_TRY(lr__linear_forward(&e, &linear, 1, (const float *)x->data + row * linear->in,
                                  linear->in, rows, &part, &linear->out));
    }
done:
    lr__arena_clear(&arena);
    return status;
}

lr_status lr_linear_densify(const lr_linear *linear, float *weight) {
    lr__arena arena = {0};
    if (!linear || !weight)
        return lr__fail(LR_E_INVALID, "lr_linear_densify: linear and weight are needed");
    lr_status status = lr__linear_follow(linear);
    int64_t step = lr__linear_rows_step(linear);
    for (int64_t row = 0; row < linear->out && status >= 0; row += step)
        status = lr__linear_rows(linear, &arena, row,
                                 linear->out - row < step ? linear->out - row : step,
                                 weight + row * linear->in);
    lr__arena_clear(&arena);
    return status;
}

static lr_status backward_rows(const lr__evaluation *e, const lr_linear *linear, const float *x,
                               const float *dy, float *dx, int64_t rows,
                               const lr__gradients *gradients) {
    lr__arena_mark mark = lr__arena_here(e->arena);
    lr__linear_tape *tape;
    float *y;
    lr_status status = LR_OK;
    LR_TRY(lr__arena_take(e->arena, &y, (size_t)(rows * linear->out), sizeof *y));
    LR_TRY(lr__linear_forward_kept(e, &linear, 1, x, rows, &y, &linear->out, &tape));
    status = lr__linear_backward(tape, &dy, &linear->out, gradients, dx, linear->in, 0);
done:
    lr__arena_release(e->arena, mark);
    return status;
}

lr_status lr__linear_apply_backward(const lr_linear *linear, const lr_tensor *x,
                                    const lr_tensor *dy, lr_tensor *dx,
                                    const lr__gradients *gradients) {
    lr_status status = LR_OK;
    lr__arena arena = {0};
    lr__derived derived = {0};
    lr__derived_pass pass;
    LR_TRY(check_rows(linear, x, linear->in, "x"));
    LR_TRY(check_rows(linear, dy, linear->out, "dy"));
    if (dx) LR_TRY(check_rows(linear, dx, linear->in, "dx"));
    LR_FAIL_IF(x->shape[0] != dy->shape[0] || (dx && dx->shape[0] != x->shape[0]), LR_E_SHAPE,
               "%s: x has %lld rows, dy %lld, dx %lld", linear->name, (long long)x->shape[0],
               (long long)dy->shape[0], (long long)(dx ? dx->shape[0] : x->shape[0]));
    LR_TRY(lr__derived_add_linear(&derived, linear));
    LR_TRY(lr__derived_follow(&derived));
    LR_TRY(lr__derived_begin(&pass, &derived, gradients, &arena));
    lr__evaluation e = {.device = &linear->ctx->device, .arena = &arena, .batch = 1};
    for (int64_t row = 0; row < x->shape[0]; row += APPLY_ROWS) {
        int64_t rows = x->shape[0] - row < APPLY_ROWS ? x->shape[0] - row : APPLY_ROWS;
        LR_TRY(backward_rows(&e, linear, (const float *)x->data + row * linear->in,
                             (const float *)dy->data + row * linear->out,
                             dx ? (float *)dx->data + row * linear->in : NULL, rows,
                             &pass.gradients));
    }
    status = lr__derived_end(&pass);
done:
    lr__derived_clear(&derived);
    lr__arena_clear(&arena);
    return status;
}
