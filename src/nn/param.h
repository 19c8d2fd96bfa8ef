/*
 * Parameters: stored numbers, or numbers a producer derives from other parameters before each
 * forward. A parameter is its address: whoever shares it shares its gradient, its count and its
 * bytes.
 */
#ifndef LR_NN_PARAM_H
#define LR_NN_PARAM_H

#include "backend/matmul.h"
#include "base/file.h"

typedef struct lr__param lr__param;

/* How values are derived from param->sources. Both functions are pure in the sources, the step and
 * `user`, which they do not change: a parameter over other sources shares it. */
typedef struct lr__producer {
    size_t size;
    /* Writes the values, [rows, cols] binary32. */
    lr_status (*refresh)(const lr__param *param, float *values, int64_t step, void *user);
    /* Given the derivative of a loss by the values of param->step, adds those by the sources to
     * gradients[i], NULL for a source that wants none. NULL: none of them learns by this. */
    lr_status (*backward)(const lr__param *param, const float *gradient, float *const *gradients,
                          void *user);
    void (*free)(void *user);
    void *user;
    int32_t source_count;
    int32_t references; /* atomic, set by lr__param_derived */
} lr__producer;

struct lr__param {
    int32_t references;                    /* atomic */
    char *name;                            /* tensor name in files */
    lr__matrix matrix;                     /* a vector is [n, 1]; shape and where the numbers are */
    int32_t ndim;                          /* 1 or 2: how it is written to files */
    void *owned;                           /* memory of its own, or */
    lr__mapping *mapping, *scales_mapping; /* the files its numbers lie in */
    lr__producer *producer;                /* counted; NULL: stored */
    lr__param **sources;                   /* stored or derived, kept */
    int32_t source_count;
    int64_t step; /* that derived values are of; 0 before any */
};

/* Numbers inside a mapping, of which it takes a reference; rows x cols elements are there. */
lr_status lr__param_mapped(lr__param **out, const char *name, const lr__matrix *matrix,
                           int32_t ndim, lr__mapping *mapping);
/* Memory of its own, uninitialised, to be filled through lr__param_floats by its maker. */
lr_status lr__param_new(lr__param **out, const char *name, int64_t rows, int64_t cols,
                        int32_t ndim);
/* Takes over aligned numbers (lr__new_aligned) on success. */
lr_status lr__param_of_floats(lr__param **out, const char *name, float *numbers, int64_t rows,
                              int64_t cols, int32_t ndim);
/* A derived parameter of binary32 values, zeros until it is refreshed; takes over producer->user on
 * success and keeps the sources. */
lr_status lr__param_derived(lr__param **out, const char *name, int64_t rows, int64_t cols,
                            int32_t ndim, const lr__producer *producer, lr__param *const *sources);
/* The same over other sources of the same shapes, with the values it has now. */
lr_status lr__param_rebound(lr__param **out, const lr__param *derived, lr__param *const *sources);
lr__param *lr__param_keep(lr__param *param);
void lr__param_drop(lr__param *param);
/* Where *slot is `from`, of which the caller holds a reference of his own, it becomes `to`. */
void lr__param_swap(lr__param **slot, const lr__param *from, lr__param *to);

float *lr__param_floats(lr__param *param);
int64_t lr__param_count(const lr__param *param);
size_t lr__param_bytes(const lr__param *param);
/* All numbers of a vector as binary32. */
void lr__param_widen(const lr__kernels *kernels, const lr__param *vector, float *out);
/* Sources come first: nn/derived.h does that for all of a module or graph. Stored: nothing. */
lr_status lr__param_refresh(lr__param *param, int64_t step);
/* Gives back the memory of numbers that lie in a file and are not read again soon. */
void lr__param_release(const lr__param *param);

#endif
