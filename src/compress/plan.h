/* The plan behind lowrank/plan.h. */
#ifndef LR_COMPRESS_PLAN_H
#define LR_COMPRESS_PLAN_H

#include "base/json.h"
#include "compress/ranks.h"
#include "model/model.h"

#include <lowrank/plan.h>

struct lr_plan {
    int32_t storage; /* asked for: LR__STORAGE_... */
    int32_t count;
    char **modules;
    lr__rank_item *items; /* shape and rank of each module */
    json_t *about;        /* how it came about, an object; NULL: nothing is known */
    char *about_text;     /* the same, for lr_plan_about */
};

const char *lr__plan_storage_name(int32_t storage);
lr_status lr__plan_find_storage(const char *name, int32_t *storage);
lr_status lr__plan_set_rank(lr_plan *plan, int32_t which, int64_t rank);
/* Index of a module, -1 when the plan does not name it. */
int32_t lr__plan_find(const lr_plan *plan, const char *module);

/* All modules that match, dense. */
lr_status lr__plan_of_modules(lr_plan **out, const lr_model *model, const char *pattern,
                              int32_t storage);
/* Adds the members of an object, copied; one of the same name is replaced. */
lr_status lr__plan_add_about(lr_plan *plan, const json_t *members);

/* What the items of the plan may take of `keep_bytes` of files of weights, headers included, that
 * lr_model_save() writes in `dtype`; from here on the items cost bytes. */
lr_status lr__plan_bytes_budget(int64_t *budget, lr_plan *plan, const lr_model *model,
                                int64_t keep_bytes, int32_t dtype);

#endif
