/* The list of tensors to write, and the JSON of the modules they belong to. */
#include "model/save.h"
#include "nn/derived.h"
#include "tensor/dtype.h"

#include <stdio.h>
#include <string.h>

enum { PART_SIZE = 48 };

void lr__outgoing_clear(lr__outgoing_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        lr__free(list->items[i].name);
        lr_linear_free(list->items[i].linear);
    }
    lr__free(list->items);
    list->items = NULL;
    list->count = list->capacity = 0;
}

const lr__outgoing *lr__outgoing_find(const lr__outgoing_list *list, const void *source) {
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].param == source || list->items[i].index == source)
            return &list->items[i];
    return NULL;
}

/* Takes over the reference to item->linear, also after an error. */
static lr_status add(lr__outgoing_list *list, const lr__outgoing *item, const char *module,
                     const char *part) {
    lr_status status = LR_OK;
    lr__outgoing full = *item;
    size_t room = strlen(module) + strlen(part) + 2;
    LR_TRY(full.linear ? lr__linear_follow(full.linear) : lr__param_follow(full.param));
    LR_TRY(lr__grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items));
    LR_TRY(lr__new(&full.name, room, 1));
    snprintf(full.name, room, "%s.%s", module, part);
    list->items[list->count++] = full;
    return LR_OK;
done:
    lr_linear_free(full.linear);
    return status;
}

/* "left.weight" -> "left.scale" */
static void scale_part(char *out, const char *part) {
    int stem = (int)(strlen(part) - strlen("weight"));
    snprintf(out, PART_SIZE, "%.*sscale", stem, part);
}

static lr_status add_matrix(lr__outgoing_list *list, lr__outgoing *item, const char *module,
                            const char *part) {
    char scales[PART_SIZE];
    int is_split = list->dtype == LR_Q8_0 && !list->is_gguf;
    int is_cut = list->is_gguf && item->shape[1] % lr__dtype_block(list->dtype);
    item->ndim = 2;
    item->dtype = is_split ? LR_I8 : is_cut ? LR_F16 : list->dtype;
    lr_linear *again = is_split && item->linear ? lr__linear_keep(item->linear) : NULL;
    lr_status status = add(list, item, module, part);
    if (status < 0 || !is_split) {
        lr_linear_free(again);
        return status;
    }
    scale_part(scales, part);
    item->linear = again;
    item->dtype = LR_F16;
    item->is_scales = 1;
    return add(list, item, module, scales);
}

lr_status lr__outgoing_matrix(lr__outgoing_list *list, const char *module, const char *part,
                              const lr__param *param) {
    lr__outgoing item = {.param = param, .shape = {param->matrix.rows, param->matrix.cols}};
    return add_matrix(list, &item, module, part);
}

lr_status lr__outgoing_rows(lr__outgoing_list *list, const char *module, const char *part,
                            const lr_linear *linear) {
    lr__outgoing item = {.linear = lr__linear_keep(linear), .shape = {linear->out, linear->in}};
    return add_matrix(list, &item, module, part);
}

lr_status lr__outgoing_vector(lr__outgoing_list *list, const char *module, const char *part,
                              const lr__param *param, int64_t count) {
    lr__outgoing item = {.param = param,
                         .dtype = list->is_gguf || list->dtype == LR_Q8_0 ? LR_F32 : list->dtype,
                         .ndim = 1,
                         .shape = {count, 1}};
    return add(list, &item, module, part);
}

lr_status lr__outgoing_index(lr__outgoing_list *list, const char *module, const char *part,
                             const lr__index *index) {
    lr__outgoing item = {.index = index, .dtype = LR_I32, .ndim = 1, .shape = {index->count, 1}};
    return add(list, &item, module, part);
}

/* --- JSON --- */

static json_t *tensor_json(const char *kind, const lr__outgoing *item) {
    json_int_t rows = item->shape[0], cols = item->shape[1];
    if (item->ndim == 1) return json_pack("{s:s, s:[I]}", kind, item->name, "shape", rows);
    json_t *json = json_pack("{s:s, s:[I, I]}", kind, item->name, "shape", rows, cols);
    /* The scales follow their matrix in the list. */
    if (json && item->dtype == LR_I8 &&
        json_object_set_new(json, "scale", json_string(item[1].name))) {
        json_decref(json);
        return NULL;
    }
    return json;
}

/* Lists what the operator reads under its name, unless a sharer already has. */
static lr_status list_op(lr__outgoing_list *list, const char *module, const char *stem,
                         const lr__op *op) {
    char part[PART_SIZE];
    if (lr__outgoing_find(list, op->param ? (const void *)op->param : op->index)) return LR_OK;
    switch (op->kind) {
    case LR__OP_MATRIX:
        snprintf(part, sizeof part, "%s.weight", stem);
        return lr__outgoing_matrix(list, module, part, op->param);
    case LR__OP_DIAGONAL:
        snprintf(part, sizeof part, "%s.diagonal", stem);
        return lr__outgoing_vector(list, module, part, op->param, op->out);
    default:
        snprintf(part, sizeof part, "%s.index", stem);
        return lr__outgoing_index(list, module, part, op->index);
    }
}

static lr_status add_op(json_t *ops, lr__outgoing_list *list, const char *module, const char *stem,
                        const lr__op *op) {
    static const char *const kinds[] = {[LR__OP_MATRIX] = "matrix",
                                        [LR__OP_DIAGONAL] = "diagonal",
                                        [LR__OP_GATHER] = "gather",
                                        [LR__OP_SCATTER] = "scatter"};
    lr_status status = list_op(list, module, stem, op);
    if (status < 0) return status;
    json_t *json = tensor_json(
        kinds[op->kind], lr__outgoing_find(list, op->param ? (const void *)op->param : op->index));
    if (json && op->kind == LR__OP_SCATTER &&
        json_object_set_new(json, "size", json_integer(op->out))) {
        json_decref(json);
        json = NULL;
    }
    return lr__json_append(ops, json);
}

void lr__save_stem(char stem[LR__STEM_SIZE], int32_t kind, int32_t term, int32_t op) {
    if (kind == LR_LINEAR_LOW_RANK)
        snprintf(stem, LR__STEM_SIZE, op ? "right" : "left");
    else if (kind == LR_LINEAR_PIVOT)
        snprintf(stem, LR__STEM_SIZE, term ? "mix" : "pivot");
    else
        snprintf(stem, LR__STEM_SIZE, "chain.%d.%d", term, op);
}

static lr_status add_term(json_t *terms, lr__outgoing_list *list, const lr_linear *linear,
                          int32_t which, int32_t kind) {
    const lr__term *term = &linear->terms[which];
    lr_status status = LR_OK;
    char stem[LR__STEM_SIZE];
    json_t *ops = json_array();
    LR_FAIL_IF(!ops, LR_E_NOMEM, "out of memory for JSON");
    for (int32_t i = 0; i < term->count; i++) {
        lr__save_stem(stem, kind, which, i);
        LR_TRY(add_op(ops, list, linear->name, stem, &term->ops[i]));
    }
    LR_TRY(
        lr__json_append(terms, json_pack("{s:f, s:O}", "scale", (double)term->scale, "ops", ops)));
done:
    json_decref(ops);
    return status;
}

lr_status lr__save_base(lr_linear **out, const lr_linear *linear) {
    lr_status status = LR_OK;
    int32_t overlays = 0;
    lr_linear *base = NULL;
    for (int32_t t = 0; t < linear->term_count; t++) overlays += linear->terms[t].overlay != NULL;
    if (!overlays) {
        *out = lr__linear_keep(linear);
        return LR_OK;
    }
    *out = NULL;
    LR_TRY(lr__linear_new(&base, linear->ctx, linear->name, linear->out, linear->in));
    for (int32_t t = 0; t < linear->term_count; t++)
        if (!linear->terms[t].overlay)
            LR_TRY(lr__linear_add_term(base, linear->terms[t].scale, linear->terms[t].ops,
                                       linear->terms[t].count, NULL));
    LR_FAIL_IF(!base->term_count, LR_E_UNSUPPORTED, "%s: only adapters, no base to save",
               linear->name);
    base->bias = lr__param_keep(linear->bias);
    *out = base;
    base = NULL;
done:
    lr_linear_free(base);
    return status;
}

/* One matrix: the parameter itself, or rows read through index maps or a product. */
static lr_status add_one_matrix(json_t *terms, lr__outgoing_list *list, const lr_linear *linear) {
    lr_status status = LR_OK;
    const lr__op *op = linear->terms[0].ops;
    int is_stored = lr_linear_kind(linear) == LR_LINEAR_DENSE && linear->terms[0].count == 1;
    size_t at = list->count;
    if (is_stored && lr__outgoing_find(list, op->param))
        at = (size_t)(lr__outgoing_find(list, op->param) - list->items);
    else
        LR_TRY(is_stored ? lr__outgoing_matrix(list, linear->name, "weight", op->param)
                         : lr__outgoing_rows(list, linear->name, "weight", linear));
    LR_TRY(lr__json_append(terms, json_pack("{s:f, s:[o]}", "scale", 1.0, "ops",
                                            tensor_json("matrix", &list->items[at]))));
done:
    return status;
}

lr_status lr__outgoing_linear(json_t **structure, lr__outgoing_list *list, const lr_linear *linear,
                              int densify) {
    lr_status status = LR_OK;
    const char *bias = NULL;
    lr_linear *base = NULL;
    json_t *terms = json_array();
    *structure = NULL;
    LR_FAIL_IF(!terms, LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(lr__save_base(&base, linear));
    int32_t kind = lr_linear_kind(base);
    if (densify || kind == LR_LINEAR_DENSE)
        LR_TRY(add_one_matrix(terms, list, base));
    else
        for (int32_t t = 0; t < base->term_count; t++) LR_TRY(add_term(terms, list, base, t, kind));
    if (base->bias) {
        if (!lr__outgoing_find(list, base->bias))
            LR_TRY(lr__outgoing_vector(list, base->name, "bias", base->bias, base->out));
        bias = lr__outgoing_find(list, base->bias)->name;
    }
    *structure = json_pack("{s:s?, s:O}", "bias", bias, "terms", terms);
    LR_FAIL_IF(!*structure, LR_E_NOMEM, "out of memory for JSON");
done:
    json_decref(terms);
    lr_linear_free(base);
    return status;
}
