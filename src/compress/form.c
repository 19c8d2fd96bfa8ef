/* Building linear modules out of factors. */
#include "compress/form.h"

#include <stdio.h>
#include <string.h>

enum { NAME_SIZE = 320 };

/* Takes the numbers over into a parameter. */
static lr_status param_of(lr__param **out, const char *module, const char *part, float **numbers,
                          int64_t rows, int64_t cols, int32_t ndim) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s.%s", module, part);
    lr_status status = lr__param_of_floats(out, name, *numbers, rows, cols, ndim);
    if (status >= 0) *numbers = NULL;
    return status;
}

static lr_status bias_of(lr__param **out, const lr_linear *linear, lr__factors *f) {
    if (f->bias) return param_of(out, linear->name, "bias", &f->bias, linear->out, 1, 1);
    *out = lr__param_keep(linear->bias);
    return LR_OK;
}

/* Copies the factors' rows [first, first + out) of the module; NULL stays NULL. */
static lr_status part_of(lr__factors *part, const lr__factors *f, int64_t first, int64_t out) {
    lr_status status = LR_OK;
    size_t numbers = (size_t)(out * f->rank);
    *part = (lr__factors){.rank = f->rank};
    LR_TRY(lr__new_aligned(&part->left, numbers, sizeof *part->left));
    memcpy(part->left, f->left + first * f->rank, numbers * sizeof *part->left);
    if (!f->bias) goto done;
    LR_TRY(lr__new_aligned(&part->bias, (size_t)out, sizeof *part->bias));
    memcpy(part->bias, f->bias + first, (size_t)out * sizeof *part->bias);
done:
    return status;
}

static lr_status left_with(lr_linear **out, const lr_linear *linear, lr__factors *f,
                           lr__param *right) {
    lr_status status = LR_OK;
    lr__param *left = NULL, *bias = NULL;
    LR_TRY(param_of(&left, linear->name, "left.weight", &f->left, linear->out, f->rank, 2));
    LR_TRY(bias_of(&bias, linear, f));
    LR_TRY(lr__linear_low_rank(out, linear->ctx, linear->name, left, right, bias));
done:
    lr__param_drop(left);
    lr__param_drop(bias);
    return status;
}

lr_status lr__form_two_factor(lr_linear **out, const lr_linear *const *linears, int32_t count,
                              lr__factors *f) {
    lr_status status = LR_OK;
    lr__param *right = NULL;
    lr__factors part = {0};
    int64_t first = 0;
    int32_t made = 0;
    LR_TRY(
        param_of(&right, linears[0]->name, "right.weight", &f->right, f->rank, linears[0]->in, 2));
    for (; made < count; made++) {
        LR_TRY(part_of(&part, f, first, linears[made]->out));
        LR_TRY(left_with(&out[made], linears[made], &part, right));
        lr__factors_clear(&part);
        first += linears[made]->out;
    }
done:
    while (status < 0 && made > 0) {
        lr_linear_free(out[--made]);
        out[made] = NULL;
    }
    lr__factors_clear(&part);
    lr__param_drop(right);
    return status;
}

static lr_status index_of(lr__index **out, const char *module, const char *part,
                          const int32_t *values, int64_t count, int64_t limit) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s.%s", module, part);
    return lr__index_new(out, name, values, count, limit);
}

typedef struct pivot_parts {
    lr__param *rows, *mix, *bias;
    lr__index *picked, *rest;
} pivot_parts;

/* Both terms end in `rows`, so it is applied once. */
static lr_status add_pivot_terms(lr_linear *linear, const pivot_parts *parts, int64_t rank) {
    int64_t out = linear->out, in = linear->in;
    lr__op rows = {.kind = LR__OP_MATRIX, .out = rank, .in = in, .param = parts->rows};
    lr__op picked[2] = {{.kind = LR__OP_SCATTER, .out = out, .in = rank, .index = parts->picked},
                        rows};
    lr_status status = lr__linear_add_term(linear, 1, picked, 2, NULL);
    if (status < 0 || !parts->mix) return status;
    lr__op rest[3] = {{.kind = LR__OP_SCATTER, .out = out, .in = out - rank, .index = parts->rest},
                      {.kind = LR__OP_MATRIX, .out = out - rank, .in = rank, .param = parts->mix},
                      rows};
    return lr__linear_add_term(linear, 1, rest, 3, NULL);
}

lr_status lr__form_pivot(lr_linear **out, const lr_linear *linear, lr__pivot *p, lr__factors *f) {
    lr_status status = LR_OK;
    pivot_parts parts = {0};
    lr_linear *made = NULL;
    int64_t rest = p->out - p->rank;
    const char *name = linear->name;
    LR_TRY(param_of(&parts.rows, name, "pivot.weight", &p->rows, p->rank, p->in, 2));
    LR_TRY(index_of(&parts.picked, name, "pivot.index", p->picked, p->rank, p->out));
    if (rest) {
        LR_TRY(param_of(&parts.mix, name, "mix.weight", &p->mix, rest, p->rank, 2));
        LR_TRY(index_of(&parts.rest, name, "mix.index", p->rest, rest, p->out));
    }
    LR_TRY(bias_of(&parts.bias, linear, f));
    LR_TRY(lr__linear_new(&made, linear->ctx, name, linear->out, linear->in));
    made->bias = lr__param_keep(parts.bias);
    LR_TRY(add_pivot_terms(made, &parts, p->rank));
    *out = made;
    made = NULL;
done:
    lr_linear_free(made);
    lr__param_drop(parts.rows);
    lr__param_drop(parts.mix);
    lr__param_drop(parts.bias);
    lr__index_drop(parts.picked);
    lr__index_drop(parts.rest);
    return status;
}
