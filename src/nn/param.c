/* Counted parameters. */
#include "nn/param.h"

#include "tensor/dtype.h"

#include <string.h>

static lr_status param_begin(lr__param **out, const char *name, const lr__matrix *matrix,
                             int32_t ndim) {
    lr_status status = LR_OK;
    lr__param *param = NULL;
    *out = NULL;
    LR_TRY(lr__new(&param, 1, sizeof *param));
    param->references = 1;
    param->matrix = *matrix;
    param->ndim = ndim;
    LR_TRY(lr__dup(&param->name, name));
    *out = param;
    param = NULL;
done:
    lr__param_drop(param);
    return status;
}

lr_status lr__param_mapped(lr__param **out, const char *name, const lr__matrix *matrix,
                           int32_t ndim, lr__mapping *mapping) {
    lr_status status = param_begin(out, name, matrix, ndim);
    if (status >= 0) (*out)->mapping = lr__mapping_keep(mapping);
    return status;
}

lr_status lr__param_new(lr__param **out, const char *name, int64_t rows, int64_t cols,
                        int32_t ndim) {
    lr_status status = LR_OK;
    lr__matrix matrix = {.dtype = LR_F32, .rows = rows, .cols = cols};
    size_t count;
    if (rows < 1 || cols < 1 || __builtin_mul_overflow((size_t)rows, (size_t)cols, &count))
        return lr__fail(LR_E_SHAPE, "%s: shape [%lld, %lld]", name, (long long)rows,
                        (long long)cols);
    LR_TRY(param_begin(out, name, &matrix, ndim));
    LR_TRY(lr__new_aligned(&(*out)->owned, count, sizeof(float)));
    (*out)->matrix.data = (*out)->owned;
    return LR_OK;
done:
    lr__param_drop(*out);
    *out = NULL;
    return status;
}

lr_status lr__param_of_floats(lr__param **out, const char *name, float *numbers, int64_t rows,
                              int64_t cols, int32_t ndim) {
    lr__matrix matrix = {.dtype = LR_F32, .rows = rows, .cols = cols, .data = numbers};
    lr_status status = param_begin(out, name, &matrix, ndim);
    if (status >= 0) (*out)->owned = numbers;
    return status;
}

static lr_status keep_sources(lr__param *param, lr__param *const *sources, int32_t count) {
    lr_status status = lr__new(&param->sources, (size_t)count, sizeof *param->sources);
    for (int32_t i = 0; status >= 0 && i < count; i++)
        param->sources[param->source_count++] = lr__param_keep(sources[i]);
    return status;
}

static void producer_drop(lr__producer *producer) {
    if (!producer || __atomic_sub_fetch(&producer->references, 1, __ATOMIC_ACQ_REL)) return;
    if (producer->free) producer->free(producer->user);
    lr__free(producer);
}

lr_status lr__param_derived(lr__param **out, const char *name, int64_t rows, int64_t cols,
                            int32_t ndim, const lr__producer *producer, lr__param *const *sources) {
    lr_status status = LR_OK;
    lr__param *param = NULL;
    lr__producer *counted;
    *out = NULL;
    LR_TRY(lr__param_new(&param, name, rows, cols, ndim));
    memset(param->owned, 0, lr__param_bytes(param));
    LR_TRY(keep_sources(param, sources, producer->source_count));
    LR_TRY(lr__new(&counted, 1, sizeof *counted));
    *counted = *producer;
    counted->references = 1;
    param->producer = counted;
    *out = param;
    param = NULL;
done:
    lr__param_drop(param);
    return status;
}

lr_status lr__param_rebound(lr__param **out, const lr__param *derived, lr__param *const *sources) {
    const lr__matrix *m = &derived->matrix;
    lr__param *param = NULL;
    lr_status status = LR_OK;
    *out = NULL;
    LR_TRY(lr__param_new(&param, derived->name, m->rows, m->cols, derived->ndim));
    memcpy(param->owned, derived->owned, lr__param_bytes(derived));
    LR_TRY(keep_sources(param, sources, derived->source_count));
    __atomic_add_fetch(&derived->producer->references, 1, __ATOMIC_RELAXED);
    param->producer = derived->producer;
    param->step = derived->step;
    *out = param;
    param = NULL;
done:
    lr__param_drop(param);
    return status;
}

lr__param *lr__param_keep(lr__param *param) {
    if (param) __atomic_add_fetch(&param->references, 1, __ATOMIC_RELAXED);
    return param;
}

void lr__param_drop(lr__param *param) {
    if (!param || __atomic_sub_fetch(&param->references, 1, __ATOMIC_ACQ_REL)) return;
    for (int32_t i = 0; i < param->source_count; i++) lr__param_drop(param->sources[i]);
    lr__free(param->sources);
    producer_drop(param->producer);
    lr__mapping_drop(param->mapping);
    lr__mapping_drop(param->scales_mapping);
    lr__aligned_free(param->owned);
    lr__free(param->name);
    lr__free(param);
}

void lr__param_swap(lr__param **slot, const lr__param *from, lr__param *to) {
    if (*slot != from) return;
    *slot = lr__param_keep(to);
    lr__param_drop((lr__param *)from);
}

float *lr__param_floats(lr__param *param) { return param->owned; }

int64_t lr__param_count(const lr__param *param) { return param->matrix.rows * param->matrix.cols; }

size_t lr__param_bytes(const lr__param *param) {
    const lr__matrix *m = &param->matrix;
    size_t scales = m->scales ? (size_t)(m->rows * ((m->cols + 31) / 32)) * sizeof(uint16_t) : 0;
    return lr__dtype_bytes(m->dtype, m->rows * m->cols) + scales;
}

lr_status lr__param_refresh(lr__param *param, int64_t step) {
    const lr__producer *producer = param->producer;
    if (!producer) return LR_OK;
    param->step = step;
    return producer->refresh(param, param->owned, step, producer->user);
}

void lr__param_release(const lr__param *param) {
    const lr__matrix *m = &param->matrix;
    size_t bytes = lr__dtype_bytes(m->dtype, m->rows * m->cols);
    if (param->mapping) lr__mapping_release(param->mapping, m->data, bytes);
}

void lr__param_widen(const lr__kernels *kernels, const lr__param *vector, float *out) {
    kernels->widen(vector->matrix.dtype, vector->matrix.data, (size_t)lr__param_count(vector), out);
}
