/* Strided views of the caller's memory. */
#include "base/status.h"
#include "tensor/dtype.h"

#include <string.h>

static lr_status check_view(const lr_tensor *out, int32_t dtype, int32_t ndim,
                            const int64_t *shape) {
    if (!out || (ndim > 0 && !shape)) return lr__fail(LR_E_INVALID, "tensor view: null argument");
    if (lr_dtype_size(dtype) == 0)
        return lr__fail(LR_E_INVALID, "tensor view: type %d (%s) has no whole elements", dtype,
                        lr_dtype_name(dtype));
    if (ndim < 0 || ndim > LR_MAX_DIMS)
        return lr__fail(LR_E_SHAPE, "tensor view: %d dimensions, expected 0 to %d", ndim,
                        LR_MAX_DIMS);
    for (int32_t i = 0; i < ndim; i++)
        if (shape[i] < 0)
            return lr__fail(LR_E_SHAPE, "tensor view: dimension %d is %lld", i,
                            (long long)shape[i]);
    return LR_OK;
}

lr_status lr_tensor_view(lr_tensor *out, void *data, int32_t dtype, int32_t ndim,
                         const int64_t *shape) {
    lr_status status = check_view(out, dtype, ndim, shape);
    if (status < 0) return status;
    lr_tensor view = {.data = data, .dtype = dtype, .ndim = ndim, .device = LR_HOST};
    int64_t step = 1, bytes;
    for (int32_t i = ndim; i-- > 0;) {
        view.shape[i] = shape[i];
        view.stride[i] = step;
        /* An empty dimension must not hide an overflow in the strides of the others. */
        if (__builtin_mul_overflow(step, shape[i] > 0 ? shape[i] : 1, &step))
            return lr__fail(LR_E_SHAPE, "tensor view: more elements than can be counted");
    }
    if (__builtin_mul_overflow(step, (int64_t)lr_dtype_size(dtype), &bytes))
        return lr__fail(LR_E_SHAPE, "tensor view: more bytes than can be counted");
    if (!data && lr_tensor_count(&view) > 0)
        return lr__fail(LR_E_INVALID, "tensor view: no data for %lld elements",
                        (long long)lr_tensor_count(&view));
    *out = view;
    return LR_OK;
}

static int is_sane(const lr_tensor *tensor) {
    return tensor && tensor->ndim >= 0 && tensor->ndim <= LR_MAX_DIMS;
}

/* A struct filled by hand may hold anything: no count is better than an overflow. */
int64_t lr_tensor_count(const lr_tensor *tensor) {
    int64_t count = 1;
    if (!is_sane(tensor)) return 0;
    for (int32_t i = 0; i < tensor->ndim; i++)
        if (tensor->shape[i] <= 0) return 0;
    for (int32_t i = 0; i < tensor->ndim; i++)
        if (__builtin_mul_overflow(count, tensor->shape[i], &count)) return 0;
    return count;
}

int32_t lr_tensor_is_contiguous(const lr_tensor *tensor) {
    int64_t step = 1;
    if (!is_sane(tensor)) return 0;
    if (lr_tensor_count(tensor) == 0) return 1;
    for (int32_t i = tensor->ndim; i-- > 0;) {
        if (tensor->shape[i] != 1 && tensor->stride[i] != step) return 0;
        step *= tensor->shape[i];
    }
    return 1;
}
