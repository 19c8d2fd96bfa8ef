/*
 * A budget of bytes. The files of weights hold a header, the tensors that are not planned, and the
 * planned modules; the first two are taken off. The tensors are listed by what writes them. The
 * header is counted with the longest numbers it can hold, a few hundred bytes too many.
 */
#include "compress/plan.h"
#include "model/save.h"

#include <stdio.h>
#include <string.h>

static const struct {
    int32_t dtype, width;
} widths[] = {{LR_F32, 4}, {LR_F16, 2}, {LR_BF16, 2}, {LR_Q8_0, 1}};

static lr_status width_of(int32_t dtype, int32_t *width) {
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (widths[i].dtype == dtype) {
            *width = widths[i].width;
            return LR_OK;
        }
    return lr__fail(LR_E_INVALID, "plan: no models are written in type %s", lr_dtype_name(dtype));
}

static int64_t digits_of(int64_t number) { return snprintf(NULL, 0, "%lld", (long long)number); }

/* Of the header: `"name":{"dtype":"BF16","shape":[r,c],"data_offsets":[a,b]},`. */
static int64_t entry_bytes(int64_t name_bytes, int64_t rows, int64_t cols, int64_t most) {
    static const char frame[] = "\"\":{\"dtype\":\"BF16\",\"shape\":[,],\"data_offsets\":[,]},";
    return (int64_t)sizeof frame - 1 + name_bytes + digits_of(rows) + digits_of(cols) +
           2 * digits_of(most);
}

/* The tensors that a factorised module becomes: two matrices, or four with the index maps of the
 * pivot form, and the scales of Q8_0; less the one it was, whose entry may be shorter. */
static int64_t more_entries(const lr_plan *plan, int32_t index, int32_t is_split, int64_t most) {
    enum { PART_BYTES = sizeof ".pivot.weight" - 1, LONGER_BYTES = 16 };
    const lr__rank_item *item = &plan->items[index];
    int64_t name = (int64_t)strlen(plan->modules[index]) + PART_BYTES;
    int64_t larger = item->out > item->in ? item->out : item->in;
    int64_t count = 2 + 2 * is_split + (plan->storage == LR__STORAGE_PIVOT ? 2 : 0);
    return (count - 1) * entry_bytes(name, larger, larger, most) + LONGER_BYTES;
}

static int64_t tensor_bytes(const lr__outgoing *item) {
    return item->shape[0] * item->shape[1] * (int64_t)lr_dtype_size(item->dtype);
}

lr_status lr__plan_bytes_budget(int64_t *budget, lr_plan *plan, const lr_model *model,
                                int64_t keep_bytes, int32_t dtype) {
    enum { FRAME_BYTES = 128 }; /* length, metadata, braces and alignment */
    static const int64_t bytes_limit = (int64_t)1 << 52;
    lr_status status = LR_OK;
    lr__save_plan files = {0};
    lr__graph *graph = lr__model_graph(model);
    int32_t width = 0;
    int64_t planned = 0, others = FRAME_BYTES;
    LR_TRY(width_of(dtype, &width));
    if (keep_bytes > bytes_limit) keep_bytes = bytes_limit;
    for (int32_t i = 0; i < plan->count; i++) plan->items[i].width = width;
    LR_TRY(lr__ranks_dense(&planned, plan->items, plan->count));
    LR_TRY(lr__save_plan_make(&files, graph, dtype, 0));
    for (size_t i = 0; i < files.tensors.count; i++) {
        const lr__outgoing *item = &files.tensors.items[i];
        others += tensor_bytes(item) + entry_bytes((int64_t)strlen(item->name), item->shape[0],
                                                   item->shape[1], keep_bytes);
    }
    for (int32_t i = 0; i < plan->count; i++)
        others += more_entries(plan, i, dtype == LR_Q8_0, keep_bytes);
    others -= planned;
    LR_FAIL_IF(keep_bytes <= others, LR_E_INVALID,
               "keep-bytes %lld: what is not matched alone takes %lld", (long long)keep_bytes,
               (long long)others);
    *budget = keep_bytes - others;
done:
    lr__save_plan_clear(&files);
    lr__graph_drop(graph);
    return status;
}
