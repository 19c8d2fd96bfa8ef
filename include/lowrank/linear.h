/**
 * @file linear.h
 * LowRankLinear: a linear module as a sum of chains of operators,
 *
 *     y = bias + sum over terms t of  scale_t * F_t1 * F_t2 * ... * x
 *
 * where every F is a stored matrix, a diagonal or an index map. A dense layer is one term of one
 * matrix; the low-rank form is one term `left` [out, rank] times `right` [rank, in].
 */
#ifndef LOWRANK_LINEAR_H
#define LOWRANK_LINEAR_H

#include <lowrank/context.h>
#include <lowrank/tensor.h>

LR_BEGIN

/** A linear module, opaque and immutable but for the optimizer that trains it: any number of
 * threads may read it, while no such optimizer is told to add or to step. */
typedef struct lr_linear lr_linear;

/** What a module is made of. */
enum {
    LR_LINEAR_DENSE = 0,    /**< one matrix, index maps around it allowed */
    LR_LINEAR_LOW_RANK = 1, /**< one term of two factors */
    LR_LINEAR_CHAIN = 2,    /**< any other sum of chains */
    LR_LINEAR_PIVOT = 3     /**< pivot form (arXiv 2501.19090): stored rows of the product, and its
                                 other rows as combinations of them */
};

/** How lr_linear_from_weight() chooses the rank: exactly one of the first three is set. */
typedef struct lr_linear_opts {
    size_t size;       /**< set by lr_linear_opts_init() */
    int64_t rank;      /**< this rank; 0: not set */
    double energy;     /**< least rank that keeps this share of the squared Frobenius norm */
    double error;      /**< least rank with |W - W~| <= error |W| (Frobenius) */
    const char *name;  /**< module name, copied; NULL: "linear" */
    const float *bias; /**< [out], copied; NULL: none */
} lr_linear_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_linear_opts_init(lr_linear_opts *opts, size_t size);

/**
 * Truncated singular value decomposition of a weight (Eckart and Young, 1936), the square root of
 * the singular values on each factor.
 * @param out    owned
 * @param ctx    kept alive by the module
 * @param weight [out, in], LR_F32, contiguous, copied as needed
 * @param opts   rank, energy or error; copied
 * @return LR_E_INVALID for a rank outside 1 .. min(out, in); LR_E_NUMERIC for NaN or infinity
 */
LR_API lr_status lr_linear_from_weight(lr_linear **out, lr_ctx *ctx, const lr_tensor *weight,
                                       const lr_linear_opts *opts);

/**
 * A module of two factors.
 * @param out   owned
 * @param ctx   kept alive by the module
 * @param left  [out, rank], LR_F32, F16 or BF16, contiguous, copied
 * @param right [rank, in], the same
 * @param bias  [out] LR_F32, copied; NULL: none
 * @param name  copied; NULL: "linear"
 */
LR_API lr_status lr_linear_from_factors(lr_linear **out, lr_ctx *ctx, const lr_tensor *left,
                                        const lr_tensor *right, const lr_tensor *bias,
                                        const char *name);

/** Frees a module the caller owns; NULL is allowed, a borrowed one is not. */
LR_API void lr_linear_free(lr_linear *linear);

/** Module name, for example "model.layers.3.mlp.up_proj". @return borrowed */
LR_API const char *lr_linear_name(const lr_linear *linear);
/** LR_LINEAR_DENSE, LR_LINEAR_LOW_RANK, LR_LINEAR_PIVOT or LR_LINEAR_CHAIN. */
LR_API int32_t lr_linear_kind(const lr_linear *linear);
/** Outputs. */
LR_API int64_t lr_linear_out(const lr_linear *linear);
/** Inputs. */
LR_API int64_t lr_linear_in(const lr_linear *linear);
/** Columns of the left factor, rows a pivot form stores, min(out, in) of a dense module; of any
 *  other chain the largest rank its shapes allow the product. */
LR_API int64_t lr_linear_rank(const lr_linear *linear);
/** Stored numbers: factors and diagonals, without biases and indices. */
LR_API int64_t lr_linear_param_count(const lr_linear *linear);

/**
 * Reads the two factors as binary32.
 * @param linear a module of kind LR_LINEAR_LOW_RANK
 * @param left   room for out * rank numbers, or NULL
 * @param right  room for rank * in numbers, or NULL
 * @return LR_E_INVALID for another kind
 */
LR_API lr_status lr_linear_factors(const lr_linear *linear, float *left, float *right);

/** Reads the bias; zeros when there is none. @param linear any @param bias room for out numbers */
LR_API lr_status lr_linear_bias(const lr_linear *linear, float *bias);

/**
 * Y = X W' + bias for the caller's rows.
 * @param linear any module
 * @param x      [rows, in], LR_F32, contiguous
 * @param y      [rows, out], LR_F32, contiguous, written
 */
LR_API lr_status lr_linear_apply(const lr_linear *linear, const lr_tensor *x, lr_tensor *y);

/** The product as a dense matrix. @param linear any @param weight room for out * in numbers */
LR_API lr_status lr_linear_densify(const lr_linear *linear, float *weight);

/**
 * Saves one module as a safetensors file of tensors `<name>.left.weight` and so on, whose metadata
 * holds the structure. The file appears whole or not at all.
 * @param linear any
 * @param path   of the file
 * @param dtype  LR_F32, LR_F16 or LR_BF16
 * @param force  1 replaces an existing file
 */
LR_API lr_status lr_linear_save(const lr_linear *linear, const char *path, int32_t dtype,
                                int32_t force);

/** Opens what lr_linear_save() wrote. @param out owned @param ctx kept alive @param path a file */
LR_API lr_status lr_linear_open(lr_linear **out, lr_ctx *ctx, const char *path);

LR_END

#endif
