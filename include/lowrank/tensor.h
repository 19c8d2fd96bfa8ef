/**
 * @file tensor.h
 * Views of dense arrays. A view never owns memory.
 */
#ifndef LOWRANK_TENSOR_H
#define LOWRANK_TENSOR_H

#include <lowrank/base.h>

LR_BEGIN

/** Element types. Values are frozen. */
enum {
    LR_F32 = 0,   /**< IEEE binary32 */
    LR_F16 = 1,   /**< IEEE binary16 */
    LR_BF16 = 2,  /**< upper half of binary32 */
    LR_F64 = 3,   /**< IEEE binary64 */
    LR_I8 = 4,    /**< signed 8 bit */
    LR_I32 = 5,   /**< signed 32 bit */
    LR_I64 = 6,   /**< signed 64 bit */
    LR_U8 = 7,    /**< unsigned 8 bit */
    LR_Q8_0 = 16, /**< GGUF block: 32 values, one binary16 scale, 32 signed bytes */
    LR_Q4_1 = 17, /**< GGUF block: 32 values of 4 bits, binary16 scale and minimum */
    LR_Q4_0 = 18, /**< GGUF block: 32 values of 4 bits, binary16 scale */
    LR_Q5_0 = 19, /**< GGUF block: 32 values of 5 bits, binary16 scale */
    LR_Q5_1 = 20, /**< GGUF block: 32 values of 5 bits, binary16 scale and minimum */
    LR_Q4_K = 21, /**< GGUF block: 256 values of 4 bits, 8 scales and minima of 6 bits */
    LR_Q5_K = 22, /**< GGUF block: 256 values of 5 bits, 8 scales and minima of 6 bits */
    LR_Q6_K = 23  /**< GGUF block: 256 values of 6 bits, 16 scales of 8 bits */
};

/** Devices. */
enum {
    LR_HOST = 0, /**< memory of the process */
    LR_CUDA = 1  /**< memory of a CUDA device */
};

/** Most dimensions a view can have. */
#define LR_MAX_DIMS 6

/** A strided view. Its layout is frozen. */
typedef struct lr_tensor {
    void *data;                  /**< first element, borrowed */
    int32_t dtype;               /**< LR_F32, ... */
    int32_t ndim;                /**< dimensions in use, 0 to #LR_MAX_DIMS */
    int32_t device;              /**< LR_HOST or LR_CUDA */
    int32_t device_id;           /**< which device */
    int64_t shape[LR_MAX_DIMS];  /**< elements along each dimension */
    int64_t stride[LR_MAX_DIMS]; /**< step along each dimension, in elements */
} lr_tensor;

/** Bytes of one element; 0 for block types and unknown values. */
LR_API size_t lr_dtype_size(int32_t dtype);

/** Name such as "bf16". @return borrowed; "?" for unknown values */
LR_API const char *lr_dtype_name(int32_t dtype);

/**
 * Writes a contiguous row-major view of the caller's memory.
 * @param out    written
 * @param data   borrowed by the view
 * @param dtype  a type with whole elements
 * @param ndim   0 to #LR_MAX_DIMS
 * @param shape  @p ndim sizes, copied
 */
LR_API lr_status lr_tensor_view(lr_tensor *out, void *data, int32_t dtype, int32_t ndim,
                                const int64_t *shape);

/** Number of elements. */
LR_API int64_t lr_tensor_count(const lr_tensor *tensor);

/** 1 when the view is row-major without gaps, else 0. */
LR_API int32_t lr_tensor_is_contiguous(const lr_tensor *tensor);

LR_END

#endif
