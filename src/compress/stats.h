/* Statistics behind lowrank/stats.h. Sums are weighted; reading divides by the weight. */
#ifndef LR_COMPRESS_STATS_H
#define LR_COMPRESS_STATS_H

#include "compress/slopes.h"
#include "model/model.h"

#include <lowrank/stats.h>

typedef struct lr__observer lr__observer;

struct lr_stats {
    lr_model *model;
    char *pattern;
    int32_t is_exact; /* inputs keep roots, not grams */
    int32_t module_count;
    char **modules;      /* names of the watched modules */
    int64_t *sizes;      /* their inputs */
    int64_t *outs;       /* their outputs */
    int32_t *moments_of; /* index into moments, -1 before the first token */
    lr__moments *moments;
    int32_t moments_count;   /* at most module_count; room for that many */
    lr__slopes *slopes;      /* of each module; NULL: not wanted */
    lr__observer *observers; /* hooks that feed it */
    lr__arena arena;
};

/* Whether a weight is one by which sums neither overflow nor vanish. */
int lr__stats_weighs(double weight);

/* -1 when the module is not watched. */
int32_t lr__stats_index(const lr_stats *stats, const char *module);
lr_status lr__stats_find(const lr_stats *stats, const char *module, int32_t *index);
/* LR_E_INVALID while no token of module `index` was counted. */
lr_status lr__stats_check_counted(const lr_stats *stats, int32_t index);
/* The counted moments of a module's input; LR_E_SHAPE when its size is not that of the module. */
lr_status lr__stats_moments_of(const lr__moments **out, const lr_stats *stats,
                               const lr_linear *linear);
/* The counted derivatives of a module. */
lr_status lr__stats_slopes_of(const lr__slopes **out, const lr_stats *stats,
                              const lr_linear *linear);
/* A new input of module `index`; its moments are all zero. */
lr_status lr__stats_add_input(lr_stats *stats, int32_t index, int64_t input_id);
/* Counts the input an event shows, once for all modules that read it. Modules the statistics do not
 * watch are passed over. */
lr_status lr__stats_observe(lr_stats *stats, const lr_hook_event *event, double weight);
void lr__observers_free(lr_stats *stats);

#endif
