/* Linear modules as sums of chains of operators (docs/design.md, "The one idea"). */
#ifndef LR_NN_LINEAR_H
#define LR_NN_LINEAR_H

#include "ctx/ctx.h"
#include "nn/gradients.h"
#include "nn/param.h"

#include <lowrank/linear.h>

/* A named axis whose extent a session holds; an axis is its name. */
typedef struct lr__axis {
    int32_t references; /* atomic */
    int64_t size;
    char *name;
} lr__axis;

lr_status lr__axis_new(lr__axis **out, int64_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
lr__axis *lr__axis_keep(lr__axis *axis);
void lr__axis_drop(lr__axis *axis);

/* Extents below the full size. An axis that is not listed has its full size. */
typedef struct lr__extent {
    char *axis;
    int64_t extent;
} lr__extent;

typedef struct lr__extents {
    lr__extent *items;
    size_t count, capacity;
} lr__extents;

int64_t lr__extent_of(const lr__extents *extents, const lr__axis *axis, int64_t size);

/* Integers of an index map, counted. */
typedef struct lr__index {
    int32_t references; /* atomic */
    int64_t count;
    int32_t *values;
    char *name; /* tensor name in files */
} lr__index;

/* values copied; each must be in [0, limit). */
lr_status lr__index_new(lr__index **out, const char *name, const int32_t *values, int64_t count,
                        int64_t limit);
lr__index *lr__index_keep(lr__index *index);
void lr__index_drop(lr__index *index);

enum {
    LR__OP_MATRIX,   /* y = W x */
    LR__OP_DIAGONAL, /* y = d * x, elementwise */
    LR__OP_GATHER,   /* y[i] = x[index[i]] */
    LR__OP_SCATTER   /* y[index[i]] = x[i], zero elsewhere */
};

typedef struct lr__op {
    int32_t kind;
    int64_t out, in;
    lr__param *param;             /* MATRIX [out, in], DIAGONAL [out, 1] */
    lr__index *index;             /* GATHER of `out` values, SCATTER of `in` distinct values */
    lr__axis *out_axis, *in_axis; /* NULL: always full */
} lr__op;

/* scale * ops[0] * ... * ops[count - 1] * x */
typedef struct lr__term {
    float scale;
    int32_t count;
    lr__op *ops;
    const void *overlay; /* identity of the adapter it belongs to; NULL: base */
} lr__term;

struct lr_linear {
    int32_t references; /* atomic */
    lr_ctx *ctx;
    char *name;
    int64_t out, in;
    lr__param *bias; /* NULL: none */
    lr__term *terms;
    int32_t term_count;
};

/* Building: an empty module, then terms of operators. Everything given is kept by reference. */
lr_status lr__linear_new(lr_linear **out, lr_ctx *ctx, const char *name, int64_t outs, int64_t ins);
/* Appends a term; sizes of neighbours and of the module must fit. */
lr_status lr__linear_add_term(lr_linear *linear, float scale, const lr__op *ops, int32_t count,
                              const void *overlay);
/* One term of one matrix. */
lr_status lr__linear_dense(lr_linear **out, lr_ctx *ctx, const char *name, lr__param *weight,
                           lr__param *bias);
/* One term left * right, the rank axis named "<name>.rank". */
lr_status lr__linear_low_rank(lr_linear **out, lr_ctx *ctx, const char *name, lr__param *left,
                              lr__param *right, lr__param *bias);
/* The same terms under another name (a module put into a model takes the model's name). */
lr_status lr__linear_renamed(lr_linear **out, const lr_linear *linear, const char *name);
/* The same terms with the same axes; parameters stay shared. */
lr_status lr__linear_copy(lr_linear **out, const lr_linear *linear, const char *name);
/* Puts `to`, of the same shape, in the place of `from` wherever that stands. The caller holds a
 * reference to `from`. */
void lr__linear_swap(lr_linear *linear, const lr__param *from, lr__param *to);
/* Names the output (or input) axis of every term, index maps of the whole axis left out. Only
 * while the module is being built. */
void lr__linear_name_axis(lr_linear *linear, lr__axis *axis, int32_t is_output);
lr_linear *lr__linear_keep(const lr_linear *linear);

/* Rows [row, row + rows) of the weight of an LR_LINEAR_DENSE module in the usual order. */
void lr__linear_dense_rows(const lr_linear *linear, int64_t row, int64_t rows, float *dst);

/* Which overlays are active: for each, a mask over token rows or NULL for all rows. */
typedef struct lr__overlay_use {
    const void *overlay;
    const unsigned char *rows;
} lr__overlay_use;

/* What an evaluation needs besides modules and inputs. */
typedef struct lr__evaluation {
    const lr__device *device;
    lr__arena *arena;
    const lr__extents *extents;      /* NULL: all full */
    const lr__overlay_use *overlays; /* NULL: base only */
    int32_t overlay_count;
    int32_t batch; /* library GEMM; else the row-invariant kernel */
} lr__evaluation;

enum { LR__GROUP_MOST = 8 };

/* Evaluates modules that read one input, x [tokens, in] with step ldx; operators at the tail of
 * several chains are computed once. y[i] is [tokens, out of module i], step ldy[i]. An output
 * that an extent cuts short keeps its full step; what lies beyond the extent is not written. */
lr_status lr__linear_forward(const lr__evaluation *e, const lr_linear *const *modules,
                             int32_t count, const float *x, int64_t ldx, int64_t tokens,
                             float *const *y, const int64_t *ldy);

/* What a backward pass needs of a forward, in the evaluation's arena: it and everything it was
 * given must stay until then, x [tokens, in] and the array of modules too. */
typedef struct lr__linear_tape lr__linear_tape;
lr_status lr__linear_forward_kept(const lr__evaluation *e, const lr_linear *const *modules,
                                  int32_t count, const float *x, int64_t tokens, float *const *y,
                                  const int64_t *ldy, lr__linear_tape **tape);

/* The derivatives of a loss, given those by y[i], dy[i] with step lddy[i]: added to `gradients` of
 * the parameters that have one, and written, or added where `accumulate`, to dx [tokens, in] with
 * step lddx; dx NULL: not wanted. What leads to nothing wanted is not computed. Sums run in one
 * order whatever the threads. */
lr_status lr__linear_backward(const lr__linear_tape *tape, const float *const *dy,
                              const int64_t *lddy, const lr__gradients *gradients, float *dx,
                              int64_t lddx, int32_t accumulate);
/* Derivatives through lr_linear_apply(); dx may be NULL. */
lr_status lr__linear_apply_backward(const lr_linear *linear, const lr_tensor *x,
                                    const lr_tensor *dy, lr_tensor *dx,
                                    const lr__gradients *gradients);

#endif
