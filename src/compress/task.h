/* One matrix on its way: modules and the moments of their input go in, factors come out. */
#ifndef LR_COMPRESS_TASK_H
#define LR_COMPRESS_TASK_H

#include "compress/factor.h"
#include "compress/pivot.h"
#include "compress/ranks.h"
#include "compress/stats.h"

/* What of the derivatives weighs the errors; `method` is then LR__FACTOR_ASVD, for the first two,
 * or LR__FACTOR_PCA. */
enum {
    LR__GRADIENTS_NONE,
    LR__GRADIENTS_FISHER,     /* of the inputs */
    LR__GRADIENTS_IMPORTANCE, /* of inputs and outputs */
    LR__GRADIENTS_KFAC        /* moments of inputs and of the derivatives by the outputs */
};

/* How all matrices are factorised. */
typedef struct lr__recipe {
    int32_t method, statistic; /* LR__FACTOR_..., LR__CHANNEL_... */
    int32_t gradients;         /* LR__GRADIENTS_... */
    int32_t refits;            /* rounds on the norm of the outputs */
    int32_t dtype;             /* the refit against rounded factors; LR_F32: none */
    double alpha;
    double in_shrinkage, out_shrinkage; /* of both moments */
    lr__factor_sketch sketch;
} lr__recipe;

enum { LR__TASK_MESSAGE = 512 };

typedef struct lr__task {
    const lr__recipe *how;
    const lr_linear *linears[LR__GROUP_MOST]; /* one, or those that share the right factor */
    int32_t count;
    int64_t out;                /* of all of them */
    const lr__moments *moments; /* NULL for plain SVD */
    lr__slope_stack slopes;     /* of the same modules, where gradients are used */
    int64_t rank;
    int32_t is_pivot;
    lr__factors factors;
    lr__pivot pivot; /* of the factors, for that storage */
    double stored;   /* loss after refits, with the numbers rounded */
    double *spectrum;
    int64_t spectrum_count;
    lr_status status;
    char message[LR__TASK_MESSAGE];
} lr__task;

/* Fills factors and pivot, or status and message: it runs on threads of the pool. */
void lr__task_run(lr__task *task);
/* Frees what it made; the modules are the caller's. */
void lr__task_clear(lr__task *task);

#endif
