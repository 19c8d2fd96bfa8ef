/* Numbers on their way into a file: rows are widened, converted, checked and put. */
#include "model/graph.h"
#include "model/save.h"
#include "nn/linear_rows.h"
#include "tensor/dtype.h"

#include <math.h>
#include <string.h>

enum { BLOCK_NUMBERS = 1 << 20, BLOCK = 32 };

typedef struct stream {
    const lr__outgoing_list *list;
    lr__outgoing_put put;
    void *file;
    lr__arena *arena;
    const lr__outgoing *item;
    int64_t rows, cols, step; /* a vector is one row */
    float *numbers;           /* [step, cols] */
    void *converted;
} stream;

static int64_t blocks_of(int64_t cols) { return (cols + BLOCK - 1) / BLOCK; }

int64_t lr__outgoing_cols(const lr__outgoing *item) {
    return item->is_scales ? blocks_of(item->shape[1]) : item->shape[1];
}

static size_t bytes_of(const lr__outgoing *item, int64_t rows, int64_t cols) {
    if (item->is_scales) return (size_t)(rows * blocks_of(cols)) * sizeof(uint16_t);
    return lr__dtype_bytes(item->dtype, rows * cols);
}

size_t lr__outgoing_bytes(const lr__outgoing *item) {
    return bytes_of(item, item->shape[0], item->shape[1]);
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

/* The scale as it is stored: the binary16 nearest to the largest magnitude of a block over 127, or
 * where the subnormal ones lie far apart the next above, so that every level fits; 0 for a block of
 * zeros. *bad is the first number that is not finite or too large, or -1. */
static float block_scale(const lr__kernels *kernels, const float *x, int64_t count, uint16_t *half,
                         int64_t *bad) {
    static const float reach = 127.25f; /* levels; normal scales are within 127 (1 + 2^-11) */
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
    if (*bad >= 0 || kept * reach >= most) return kept;
    ++*half;
    kernels->widen(LR_F16, half, 1, &kept);
    return kept;
}

static void quantise(const float *x, int64_t count, float scale, int8_t *levels) {
    float inverse = scale != 0 ? 1 / scale : 0;
    for (int64_t i = 0; i < count; i++) levels[i] = (int8_t)roundf(x[i] * inverse);
}

/* Scales alone, levels alone, or blocks that hold both. */
static lr_status convert_blocks(const stream *s, int64_t row, int64_t rows) {
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
            if (s->item->is_scales) {
                *scales++ = half;
                continue;
            }
            if (s->item->dtype == LR_Q8_0) levels = mempcpy(levels, &half, sizeof half);
            quantise(s->numbers + at, count, scale, levels);
            levels += count;
        }
    return LR_OK;
}

static void round_block(const lr__kernels *kernels, float *x, int64_t count) {
    int8_t levels[BLOCK];
    uint16_t half;
    int64_t bad;
    float scale = block_scale(kernels, x, count, &half, &bad);
    if (bad < 0) quantise(x, count, scale, levels);
    for (int64_t i = 0; i < count; i++) x[i] = bad >= 0 ? NAN : scale * (float)levels[i];
}

void lr__save_round(const lr__kernels *kernels, int32_t dtype, int64_t rows, int64_t cols,
                    float *numbers) {
    uint16_t piece[BLOCK];
    for (int64_t r = 0; r < rows; r++)
        for (int64_t at = 0; at < cols; at += BLOCK) {
            float *x = numbers + r * cols + at;
            int64_t count = cols - at < BLOCK ? cols - at : BLOCK;
            if (dtype == LR_Q8_0) {
                round_block(kernels, x, count);
            } else if (dtype != LR_F32) {
                kernels->narrow(dtype, x, (size_t)count, piece);
                kernels->widen(dtype, piece, (size_t)count, x);
            }
        }
}

static int is_quantised(const lr__outgoing *item) {
    return item->is_scales || item->dtype == LR_I8 || item->dtype == LR_Q8_0;
}

static lr_status put_rows(const stream *s, int64_t row, int64_t rows) {
    lr_status status = LR_OK;
    LR_TRY(read_rows(s, row, rows));
    LR_TRY(is_quantised(s->item) ? convert_blocks(s, row, rows)
                                 : convert_plain(s, row, (size_t)(rows * s->cols)));
    LR_TRY(s->put(s->file, s->converted, bytes_of(s->item, rows, s->cols)));
done:
    return status;
}

static void release_param(const lr__param *param, int32_t is_bias, void *user) {
    (void)is_bias;
    (void)user;
    lr__param_release(param);
}

static lr_status put_item(stream *s, const lr__outgoing *item) {
    lr_status status = LR_OK;
    lr__arena_mark mark = lr__arena_here(s->arena);
    if (item->index) return s->put(s->file, item->index->values, lr__outgoing_bytes(item));
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
    if (item->param) lr__param_release(item->param);
    if (item->linear) lr__linear_each_param(item->linear, release_param, NULL);
done:
    lr__arena_release(s->arena, mark);
    return status;
}

lr_status lr__outgoing_stream(const lr__outgoing_list *list, size_t first, size_t count,
                              lr__outgoing_put put, void *file) {
    lr_status status = LR_OK;
    lr__arena arena = {0};
    stream s = {.list = list, .put = put, .file = file, .arena = &arena};
    for (size_t i = first; i < first + count; i++) {
        LR_TRY(lr__progress(list->ctx, "save", (int64_t)i, (int64_t)list->count));
        LR_TRY(put_item(&s, &list->items[i]));
    }
done:
    lr__arena_clear(&arena);
    return status;
}
