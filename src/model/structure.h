/* The structure of linear modules as JSON: config.json's "lowrank" section. */
#ifndef LR_MODEL_STRUCTURE_H
#define LR_MODEL_STRUCTURE_H

#include "base/json.h"
#include "format/stored.h"
#include "nn/linear.h"

/* Parameters already made from the tensors of one list, so that tensors named twice are shared. */
typedef struct lr__param_cache {
    lr__param **items; /* beside the list's; NULL until made */
    size_t count;
} lr__param_cache;

void lr__param_cache_clear(lr__param_cache *cache);
/* A parameter over a stored tensor of 1 or 2 dimensions; owned reference. `scale_name` is the
 * tensor of binary16 scales of an I8 matrix, else NULL. */
lr_status lr__param_of_stored(lr__param **out, const lr__stored_list *list, const char *name,
                              const char *scale_name, lr__param_cache *cache);

/* Makes a module of known sizes from its JSON,
 * {"bias": name or null, "terms": [{"scale": s, "ops": [{"matrix": name}, ...]}]}. */
lr_status lr__structure_read(lr_linear **out, lr_ctx *ctx, const char *name, int64_t outs,
                             int64_t ins, const json_t *json, const lr__stored_list *list,
                             lr__param_cache *cache);

#endif
