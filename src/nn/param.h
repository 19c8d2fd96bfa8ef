/*
 * Parameters: stored numbers, or numbers a producer derives before each forward. A parameter is
 * its address: whoever shares it shares its count and its bytes.
 */
#ifndef LR_NN_PARAM_H
#define LR_NN_PARAM_H

#include "backend/matmul.h"
#include "base/file.h"

typedef struct lr__param lr__param;

/* Derives a parameter's values: writes them to `values`, [rows, cols] binary32. */
typedef struct lr__producer {
    size_t size;
    lr_status (*refresh)(const lr__param *param, float *values, int64_t step, void *user);
    void (*free)(void *user);
    void *user;
} lr__producer;

struct lr__param {
    int32_t references;                    /* atomic */
    char *name;                            /* tensor name in files */
    lr__matrix matrix;                     /* a vector is [n, 1]; shape and where the numbers are */
    int32_t ndim;                          /* 1 or 2: how it is written to files */
    void *owned;                           /* memory of its own, or */
    lr__mapping *mapping, *scales_mapping; /* the files its numbers lie in */
    lr__producer producer;                 /* refresh NULL: stored */
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
/* A derived parameter of binary32 values; takes over `producer`. */
lr_status lr__param_derived(lr__param **out, const char *name, int64_t rows, int64_t cols,
                            int32_t ndim, const lr__producer *producer);
lr__param *lr__param_keep(lr__param *param);
void lr__param_drop(lr__param *param);
/* Where *slot is `from`, of which the caller holds a reference of his own, it becomes `to`. */
void lr__param_swap(lr__param **slot, const lr__param *from, lr__param *to);

float *lr__param_floats(lr__param *param);
int64_t lr__param_count(const lr__param *param);
size_t lr__param_bytes(const lr__param *param);
/* All numbers of a vector as binary32. */
void lr__param_widen(const lr__kernels *kernels, const lr__param *vector, float *out);
lr_status lr__param_refresh(lr__param *param, int64_t step);
/* Gives back the memory of numbers that lie in a file and are not read again soon. */
void lr__param_release(const lr__param *param);

#endif
