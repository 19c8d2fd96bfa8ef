/* Linear modules from the "lowrank" section of config.json; model/save.h writes it. */
#include "model/structure.h"

#include "tensor/dtype.h"

#include <float.h>
#include <math.h>
#include <string.h>

void lr__param_cache_clear(lr__param_cache *cache) {
    for (size_t i = 0; i < cache->count; i++) lr__param_drop(cache->items[i]);
    lr__free(cache->items);
    memset(cache, 0, sizeof *cache);
}

static lr_status cache_begin(lr__param_cache *cache, const lr__stored_list *list) {
    if (cache->items) return LR_OK;
    lr_status status = lr__new(&cache->items, list->count, sizeof *cache->items);
    if (status >= 0) cache->count = list->count;
    return status;
}

static int is_weight_type(int32_t dtype) {
    int is_float = dtype == LR_F32 || dtype == LR_F16 || dtype == LR_BF16 || dtype == LR_F64;
    return is_float || lr__dtype_block(dtype) > 1;
}

static lr_status attach_scales(lr__param *param, const lr__stored_list *list,
                               const char *scale_name) {
    lr__matrix *m = &param->matrix;
    const lr__stored *scales = lr__stored_find(list, scale_name);
    if (!scales) return lr__fail(LR_E_NOTFOUND, "%s: no tensor of scales", scale_name);
    if (scales->dtype != LR_F16 || scales->ndim != 2 || scales->shape[0] != m->rows ||
        scales->shape[1] != (m->cols + 31) / 32)
        return lr__fail(LR_E_SHAPE, "%s: expected f16 [%lld, %lld]", scale_name, (long long)m->rows,
                        (long long)(m->cols + 31) / 32);
    m->scales = scales->data;
    param->scales_mapping = lr__mapping_keep(scales->mapping);
    return LR_OK;
}

/* Whether the scales it got when it was read first are these. */
static int has_scales(const lr__param *param, const lr__stored_list *list, const char *name) {
    const lr__stored *scales = name ? lr__stored_find(list, name) : NULL;
    return !param->matrix.scales || (scales && scales->data == param->matrix.scales);
}

/* Arithmetic reads binary32 in place, so numbers that lie askew in a file are copied. */
static lr_status align_numbers(lr__param *param, const lr__stored *stored) {
    size_t size = lr_dtype_size(stored->dtype);
    if (size < 2 || (uintptr_t)stored->data % size == 0) return LR_OK;
    lr_status status = lr__new_aligned(&param->owned, stored->bytes, 1);
    if (status < 0) return status;
    memcpy(param->owned, stored->data, stored->bytes);
    param->matrix.data = param->owned;
    return LR_OK;
}

lr_status lr__param_of_stored(lr__param **out, const lr__stored_list *list, const char *name,
                              const char *scale_name, lr__param_cache *cache) {
    lr_status status = LR_OK;
    lr__param *param = NULL;
    *out = NULL;
    const lr__stored *stored = lr__stored_find(list, name);
    if (!stored) return lr__fail(LR_E_NOTFOUND, "%s: no such tensor", name);
    LR_TRY(cache_begin(cache, list));
    lr__param **made = &cache->items[stored - list->items];
    if (*made) {
        LR_FAIL_IF(!has_scales(*made, list, scale_name), LR_E_FORMAT,
                   "%s: named with scales and without, or with others", name);
        *out = lr__param_keep(*made);
        goto done;
    }
    if (!is_weight_type(stored->dtype) && !(stored->dtype == LR_I8 && scale_name))
        return lr__fail(LR_E_UNSUPPORTED, "%s: a tensor type this version does not read (%d)", name,
                        stored->dtype);
    if (stored->ndim < 1 || stored->ndim > 2)
        return lr__fail(LR_E_SHAPE, "%s: %d dimensions, expected 1 or 2", name, stored->ndim);
    lr__matrix matrix = {.dtype = stored->dtype,
                         .rows = stored->shape[0],
                         .cols = stored->ndim == 2 ? stored->shape[1] : 1,
                         .data = stored->data};
    if (matrix.rows < 1 || matrix.cols < 1 || matrix.rows > INT32_MAX || matrix.cols > INT32_MAX)
        return lr__fail(LR_E_SHAPE, "%s: shape [%lld, %lld]", name, (long long)matrix.rows,
                        (long long)matrix.cols);
    LR_TRY(lr__param_mapped(&param, name, &matrix, stored->ndim, stored->mapping));
    LR_TRY(align_numbers(param, stored));
    if (stored->dtype == LR_I8) LR_TRY(attach_scales(param, list, scale_name));
    *made = lr__param_keep(param);
    *out = param;
    param = NULL;
done:
    lr__param_drop(param);
    return status;
}

static lr_status index_of_stored(lr__index **out, const lr__stored_list *list, const char *name,
                                 int64_t limit) {
    const lr__stored *stored = lr__stored_find(list, name);
    if (!stored) return lr__fail(LR_E_NOTFOUND, "%s: no such tensor", name);
    if (stored->dtype != LR_I32 || stored->ndim != 1 || stored->shape[0] > INT32_MAX)
        return lr__fail(LR_E_SHAPE, "%s: expected one dimension of i32", name);
    if ((uintptr_t)stored->data % sizeof(int32_t) == 0)
        return lr__index_new(out, name, stored->data, stored->shape[0], limit);
    lr_status status = LR_OK;
    int32_t *copy = NULL;
    LR_TRY(lr__new(&copy, (size_t)stored->shape[0], sizeof *copy));
    memcpy(copy, stored->data, stored->bytes);
    status = lr__index_new(out, name, copy, stored->shape[0], limit);
done:
    lr__free(copy);
    return status;
}

/* A place that is written twice would be summed by some and overwritten by others. */
static lr_status check_distinct(const lr__index *index, int64_t size) {
    lr_status status = LR_OK;
    unsigned char *seen = NULL;
    LR_TRY(lr__new(&seen, (size_t)size, 1));
    for (int64_t i = 0; i < index->count; i++)
        LR_FAIL_IF(seen[index->values[i]]++, LR_E_FORMAT, "%s: index %d stands twice", index->name,
                   index->values[i]);
done:
    lr__free(seen);
    return status;
}

typedef struct reader {
    const char *module;
    int64_t widest; /* of its inputs and outputs: nothing between needs more, and memory follows */
    const lr__stored_list *list;
    lr__param_cache *cache;
} reader;

/* `size` is what the operator reads. Filled members are owned by the caller. */
static lr_status read_op(lr__op *op, const reader *r, const json_t *json, int64_t size) {
    const char *name, *scale = json_string_value(json_object_get(json, "scale"));
    int64_t wanted = 0;
    lr_status status = LR_OK;
    memset(op, 0, sizeof *op);
    op->in = op->out = size;
    if ((name = json_string_value(json_object_get(json, "matrix")))) {
        op->kind = LR__OP_MATRIX;
        LR_TRY(lr__param_of_stored(&op->param, r->list, name, scale, r->cache));
        op->out = op->param->matrix.rows;
        op->in = op->param->matrix.cols;
    } else if ((name = json_string_value(json_object_get(json, "diagonal")))) {
        op->kind = LR__OP_DIAGONAL;
        LR_TRY(lr__param_of_stored(&op->param, r->list, name, NULL, r->cache));
        LR_FAIL_IF(lr__param_count(op->param) != size, LR_E_SHAPE,
                   "%s: %lld numbers, expected %lld", name, (long long)lr__param_count(op->param),
                   (long long)size);
    } else if ((name = json_string_value(json_object_get(json, "gather")))) {
        op->kind = LR__OP_GATHER;
        LR_TRY(index_of_stored(&op->index, r->list, name, size));
        op->out = op->index->count;
    } else if ((name = json_string_value(json_object_get(json, "scatter")))) {
        op->kind = LR__OP_SCATTER;
        LR_TRY(lr__json_int(json, "size", &wanted, r->module));
        LR_FAIL_IF(wanted < 1 || wanted > r->widest, LR_E_FORMAT,
                   "%s: scatter of size %lld, expected 1 to %lld", r->module, (long long)wanted,
                   (long long)r->widest);
        LR_TRY(index_of_stored(&op->index, r->list, name, wanted));
        LR_FAIL_IF(op->index->count != size, LR_E_SHAPE, "%s: %lld indices, expected %lld", name,
                   (long long)op->index->count, (long long)size);
        LR_TRY(check_distinct(op->index, wanted));
        op->out = wanted;
    } else
        status = lr__fail(
            LR_E_FORMAT, "%s: an operator is none of matrix, diagonal, gather, scatter", r->module);
done:
    return status;
}

enum { OPS_MOST = 16, TERMS_MOST = 16 };

static lr_status read_term(lr_linear *linear, const reader *r, const json_t *json) {
    lr_status status = LR_OK;
    lr__op ops[OPS_MOST];
    double scale = 1;
    const json_t *list = json_object_get(json, "ops");
    size_t count = json_array_size(list), read = 0;
    int64_t size = linear->in;
    lr__axis *rank = NULL;
    LR_TRY(lr__json_real(json, "scale", &scale, r->module));
    LR_FAIL_IF(!(fabs(scale) <= FLT_MAX), LR_E_FORMAT, "%s: scale %g is beyond binary32", r->module,
               scale);
    LR_FAIL_IF(count < 1 || count > OPS_MOST, LR_E_FORMAT,
               "%s: a term of %zu operators, expected "
               "1 to %d",
               r->module, count, OPS_MOST);
    while (read < count) {
        lr__op *op = &ops[count - 1 - read];
        status = read_op(op, r, json_array_get(list, count - 1 - read), size);
        read++; /* its members are released below, also after an error */
        if (status < 0) goto done;
        size = op->out;
    }
    if (count == 2 && ops[0].kind == LR__OP_MATRIX && ops[1].kind == LR__OP_MATRIX) {
        LR_TRY(lr__axis_new(&rank, ops[1].out, "%s.rank", r->module));
        ops[0].in_axis = ops[1].out_axis = rank;
    }
    LR_TRY(lr__linear_add_term(linear, (float)scale, ops, (int32_t)count, NULL));
done:
    for (size_t i = 0; i < read; i++) {
        lr__param_drop(ops[count - 1 - i].param);
        lr__index_drop(ops[count - 1 - i].index);
    }
    lr__axis_drop(rank);
    return status;
}

lr_status lr__structure_read(lr_linear **out, lr_ctx *ctx, const char *name, int64_t outs,
                             int64_t ins, const json_t *json, const lr__stored_list *list,
                             lr__param_cache *cache) {
    lr_status status = LR_OK;
    lr_linear *linear = NULL;
    const reader r = {name, outs > ins ? outs : ins, list, cache};
    const json_t *terms = json_object_get(json, "terms");
    const char *bias = json_string_value(json_object_get(json, "bias"));
    *out = NULL;
    LR_FAIL_IF(
        !json_is_array(terms) || json_array_size(terms) < 1 || json_array_size(terms) > TERMS_MOST,
        LR_E_FORMAT, "%s: \"terms\" is not a list of 1 to %d terms", name, TERMS_MOST);
    LR_TRY(lr__linear_new(&linear, ctx, name, outs, ins));
    for (size_t i = 0; i < json_array_size(terms); i++)
        LR_TRY(read_term(linear, &r, json_array_get(terms, i)));
    if (bias) {
        LR_TRY(lr__param_of_stored(&linear->bias, list, bias, NULL, cache));
        LR_FAIL_IF(lr__param_count(linear->bias) != outs, LR_E_SHAPE,
                   "%s: %lld numbers, expected %lld", bias,
                   (long long)lr__param_count(linear->bias), (long long)outs);
    }
    *out = linear;
    linear = NULL;
done:
    lr_linear_free(linear);
    return status;
}
