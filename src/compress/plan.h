/* The plan behind lowrank/plan.h. */
#ifndef LR_COMPRESS_PLAN_H
#define LR_COMPRESS_PLAN_H

#include "compress/ranks.h"
#include "model/model.h"

#include <lowrank/plan.h>

struct lr_plan {
    int32_t storage; /* asked for: LR__STORAGE_... */
    int32_t count;
    char **modules;
    lr__rank_item *items; /* shape and rank of each module */
};

#endif
