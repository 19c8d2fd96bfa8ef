/* Which allocations there are, and the ranks that one of them gives the modules of a plan. */
#ifndef LR_COMPRESS_ALLOCATION_H
#define LR_COMPRESS_ALLOCATION_H

#include "compress/plan.h"
#include "compress/stats.h"

enum {
    LR__ALLOCATION_UNIFORM,
    LR__ALLOCATION_ENERGY,
    LR__ALLOCATION_NORMALISED,
    LR__ALLOCATION_SENSITIVITY,
    LR__ALLOCATION_EFFECTIVE_RANK,
    LR__ALLOCATION_FIRST_ORDER
};

typedef struct lr__allocation {
    int32_t kind;
    int32_t reserved;
    double floor;          /* least rank, as a share of the uniform one */
    const lr_stats *stats; /* whose spectra; NULL: those of the weights */
    const double *weights; /* of each module of the plan, on its energy; NULL: 1 */
    const int8_t *fixed;   /* 1: a module of the plan keeps the rank it has */
} lr__allocation;

lr_status lr__allocation_find(const char *name, int32_t *kind);
const char *lr__allocation_name(int32_t kind);
/* The floor where none is given. */
double lr__allocation_floor(int32_t kind);

/* Sets the ranks of the modules that are not fixed; `budget` is for all, in what items cost. */
lr_status lr__allocate(lr_plan *plan, const lr_model *model, const lr__allocation *how,
                       int64_t budget);

#endif
