/* Streaming tensors into safetensors: rows are widened, converted, checked and put. */
#include "format/safetensors.h"
#include "model/save.h"
#include "nn/linear_rows.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK_NUMBERS = 1 << 20, BLOCK = 32, FILE_NAME_SIZE = 64 };

typedef struct stream {
    const lr__outgoing_list *list;
    lr__safetensors_writer *file;
    lr__arena *arena;
    const lr__outgoing *item;
    int64_t rows, cols, step; /* a vector is one row */
    float *numbers;           /* [step, cols] */
    void *converted;
} stream;

static int64_t blocks_of(int64_t cols) { return (cols + BLOCK - 1) / BLOCK; }

static size_t item_bytes(const lr__outgoing *item) {
    size_t rows = (size_t)item->shape[0];
    if (item->is_scales) return rows * (size_t)blocks_of(item->shape[1]) * sizeof(uint16_t);
    return rows * (size_t)item->shape[1] * lr_dtype_size(item->dtype);
}

static lr_status declare(lr__safetensors_writer *file, const lr__outgoing *item) {
    int64_t shape[2] = {item->shape[0], item->shape[1]};
    if (item->is_scales) shape[1] = blocks_of(shape[1]);
    return lr__safetensors_declare(file, item->name, item->dtype, item->ndim, shape);
}

static lr_status read_rows(const stream *s, int64_t row, int64_t rows) {
    const lr__kernels *kernels = s->list->ctx->device.kernels;
    const lr__outgoing *item = s->item;
    if (item->linear) return lr__linear_rows(item->linear, s->arena, row, rows, s->numbers);
    if (!item->param)
        memset(s->numbers, 0, (size_t)(rows * s->cols) * sizeof *s->numbers);
    else if (item->ndim == 1)
        lr__param_widen(kernels, item->param, s->numbers);
    else
        lr__matrix_widen(kernels, &item->param->matrix, row, rows, s->cols, s->numbers, s->cols);
    return LR_OK;
}

static lr_status not_held(const stream *s, int64_t row, int64_t at) {
    int64_t col = at % s->cols;
    float value = s->numbers[at];
    row += at / s->cols;
    if (isfinite(value))
        return lr__fail(LR_E_NUMERIC, "%s: %g at [%lld, %lld] is beyond %s", s->item->name, value,
                        (long long)row, (long long)col, lr_dtype_name(s->list->dtype));
    return lr__fail(LR_E_NUMERIC, "%s: %g at [%lld, %lld]", s->item->name, value, (long long)row,
                    (long long)col);
}

/* Infinity or NaN by its bits. */
static int is_finite_half(uint16_t bits, int32_t dtype) {
    uint16_t exponent = dtype == LR_F16 ? 0x7c00 : 0x7f80;
    return (bits & exponent) != exponent;
}

static lr_status convert_plain(const stream *s, int64_t row, size_t count) {
    const uint16_t *half = s->converted;
    s->list->ctx->device.kernels->narrow(s->item->dtype, s->numbers, count, s->converted);
    for (size_t i = 0; i < count; i++)
        if (s->item->dtype == LR_F32 ? !isfinite(s->numbers[i])
                                     : !is_finite_half(half[i], s->item->dtype))
            return not_held(s, row, (int64_t)i);
    return LR_OK;
}

/* The largest magnitude of a block over 127; 0 where binary16 has nothing that small. *bad is the
 * first number that is not finite or too large, or -1. */
static float block_scale(const lr__kernels *kernels, const float *x, int64_t count, uint16_t *half,
                         int64_t *bad) {
    float most = 0, scale, kept;
    int64_t at = 0;
    *bad = -1;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(x[i]) && *bad < 0) *bad = i;
        if (fabsf(x[i]) > most) most = fabsf(x[at = i]);
    }
    scale = most / 127;
    kernels->narrow(LR_F16, &scale, 1, half);
    if (*bad < 0 && !is_finite_half(*half, LR_F16)) *bad = at;
    kernels->widen(LR_F16, half, 1, &kept);
    return kept == 0 ? 0 : scale;
}

static lr_status convert_split(const stream *s, int64_t row, int64_t rows) {
    const lr__kernels *kernels = s->list->ctx->device.kernels;
    int8_t *levels = s->converted;
    uint16_t *scales = s->converted, half;
    int64_t bad;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t b = 0; b < blocks_of(s->cols); b++) {
            int64_t at = r * s->cols + b * BLOCK, left = s->cols - b * BLOCK;
            int64_t count = left < BLOCK ? left : BLOCK;
            float scale = block_scale(kernels, s->numbers + at, count, &half, &bad);
            if (bad >= 0) return not_held(s, row, at + bad);
            if (s->item->is_scales)
                *scales++ = half;
            else {
                float inverse = scale != 0 ? 1 / scale : 0;
                for (int64_t i = 0; i < count; i++)
                    levels[at + i] = (int8_t)roundf(s->numbers[at + i] * inverse);
            }
        }
    return LR_OK;
}

static lr_status put_rows(const stream *s, int64_t row, int64_t rows) {
    lr_status status = LR_OK;
    size_t count = (size_t)(rows * s->cols);
    LR_TRY(read_rows(s, row, rows));
    if (s->item->is_scales || s->item->dtype == LR_I8) {
        LR_TRY(convert_split(s, row, rows));
        if (s->item->is_scales) count = (size_t)(rows * blocks_of(s->cols));
    } else
        LR_TRY(convert_plain(s, row, count));
    LR_TRY(lr__safetensors_put(s->file, s->converted, count * lr_dtype_size(s->item->dtype)));
done:
    return status;
}

static lr_status put_item(stream *s, const lr__outgoing *item) {
    lr_status status = LR_OK;
    lr__arena_mark mark = lr__arena_here(s->arena);
    if (item->index) return lr__safetensors_put(s->file, item->index->values, item_bytes(item));
    s->item = item;
    s->rows = item->ndim == 1 ? 1 : item->shape[0];
    s->cols = item->ndim == 1 ? item->shape[0] : item->shape[1];
    s->step = item->linear ? lr__linear_rows_step(item->linear) : BLOCK_NUMBERS / s->cols;
    if (s->step < 1) s->step = 1;
    if (s->step > s->rows) s->step = s->rows;
    size_t numbers = (size_t)(s->step * s->cols);
    LR_TRY(lr__arena_take(s->arena, &s->numbers, numbers, sizeof *s->numbers));
    LR_TRY(lr__arena_take(s->arena, &s->converted, numbers, sizeof *s->numbers));
    for (int64_t row = 0; row < s->rows; row += s->step)
        LR_TRY(put_rows(s, row, s->rows - row < s->step ? s->rows - row : s->step));
done:
    lr__arena_release(s->arena, mark);
    return status;
}

lr_status lr__outgoing_write(const lr__outgoing_list *list, size_t first, size_t count,
                             const char *path, json_t *metadata) {
    lr_status status = LR_OK;
    lr__arena arena = {0};
    stream s = {.list = list, .arena = &arena};
    LR_TRY(lr__safetensors_new(&s.file));
    for (size_t i = 0; i < count; i++) LR_TRY(declare(s.file, &list->items[first + i]));
    LR_TRY(lr__safetensors_begin(s.file, path, metadata));
    for (size_t i = first; i < first + count; i++) {
        LR_TRY(lr__progress(list->ctx, "save", (int64_t)i, (int64_t)list->count));
        LR_TRY(put_item(&s, &list->items[i]));
    }
    LR_TRY(lr__safetensors_finish(s.file));
done:
    lr__safetensors_free(s.file);
    lr__arena_clear(&arena);
    return status;
}

/* --- folders --- */

/* End of the shard that begins with item `first`. */
static size_t shard_end(const lr__outgoing_list *list, size_t first, uint64_t most) {
    uint64_t bytes = item_bytes(&list->items[first]);
    size_t end = first + 1;
    while (end < list->count && bytes + item_bytes(&list->items[end]) <= most)
        bytes += item_bytes(&list->items[end++]);
    return end;
}

static size_t shard_count(const lr__outgoing_list *list, uint64_t most) {
    size_t shards = 0;
    for (size_t at = 0; at < list->count; at = shard_end(list, at, most)) shards++;
    return shards;
}

static void shard_name(char *out, size_t which, size_t count) {
    if (count == 1)
        snprintf(out, FILE_NAME_SIZE, "model.safetensors");
    else
        snprintf(out, FILE_NAME_SIZE, "model-%05zu-of-%05zu.safetensors", which + 1, count);
}

static lr_status write_index(const lr__outgoing_list *list, const char *folder, uint64_t most) {
    lr_status status = LR_OK;
    char name[FILE_NAME_SIZE], *path = NULL, *text = NULL;
    json_t *map = json_object(), *index = NULL;
    size_t at = 0, shards = shard_count(list, most);
    uint64_t total = 0;
    for (size_t shard = 0; shard < shards; shard++) {
        shard_name(name, shard, shards);
        for (size_t end = shard_end(list, at, most); at < end; at++) {
            total += item_bytes(&list->items[at]);
            LR_FAIL_IF(json_object_set_new(map, list->items[at].name, json_string(name)),
                       LR_E_NOMEM, "out of memory for JSON");
        }
    }
    index =
        json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    LR_FAIL_IF(!index, LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(lr__json_text(&text, index, 2));
    LR_TRY(lr__path_join(&path, folder, "model.safetensors.index.json"));
    LR_TRY(lr__file_write(path, text, strlen(text)));
done:
    json_decref(map);
    json_decref(index);
    lr__free(text);
    lr__free(path);
    return status;
}

lr_status lr__outgoing_write_folder(const lr__outgoing_list *list, const char *folder,
                                    uint64_t most) {
    lr_status status = LR_OK;
    char name[FILE_NAME_SIZE], *path = NULL;
    size_t at = 0, shards = shard_count(list, most);
    json_t *metadata = json_pack("{s:s}", "format", "pt");
    LR_FAIL_IF(!metadata, LR_E_NOMEM, "out of memory for JSON");
    for (size_t shard = 0; shard < shards; shard++) {
        size_t end = shard_end(list, at, most);
        shard_name(name, shard, shards);
        LR_TRY(lr__path_join(&path, folder, name));
        LR_TRY(lr__outgoing_write(list, at, end - at, path, metadata));
        lr__free(path);
        path = NULL;
        at = end;
    }
    if (shards > 1) LR_TRY(write_index(list, folder, most));
    LR_TRY(lr__progress(list->ctx, "save", (int64_t)list->count, (int64_t)list->count));
done:
    json_decref(metadata);
    lr__free(path);
    return status;
}
