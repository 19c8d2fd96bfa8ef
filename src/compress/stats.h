/* Statistics behind lowrank/stats.h. Sums are weighted; reading divides by the weight. */
#ifndef LR_COMPRESS_STATS_H
#define LR_COMPRESS_STATS_H

#include "model/model.h"

#include <lowrank/stats.h>

/* Moments of one input; modules that read it share them. */
typedef struct lr__moments {
    int64_t size, tokens;
    double weight;          /* sum of the weights of its tokens */
    double *gram;           /* lower triangle by rows, size (size + 1) / 2 weighted sums of x x' */
    double *sum, *absolute; /* weighted sums of x and |x| */
    double *most;           /* largest |x| of each channel */
    int64_t last_input;     /* id of the input counted last */
} lr__moments;

typedef struct lr__observer lr__observer;

struct lr_stats {
    lr_model *model;
    char *pattern;
    int32_t module_count;
    char **modules;      /* names of the watched modules */
    int64_t *sizes;      /* their inputs */
    int32_t *moments_of; /* index into moments, -1 before the first token */
    lr__moments *moments;
    int32_t moments_count;   /* at most module_count; room for that many */
    lr__observer *observers; /* hooks that feed it */
    lr__arena arena;
};

/* -1 when the module is not watched. */
int32_t lr__stats_index(const lr_stats *stats, const char *module);
lr_status lr__stats_find(const lr_stats *stats, const char *module, int32_t *index);
/* LR_E_INVALID while no token of module `index` was counted. */
lr_status lr__stats_check_counted(const lr_stats *stats, int32_t index);
/* A new input of module `index`; its moments are all zero. */
lr_status lr__stats_add_input(lr_stats *stats, int32_t index, int64_t input_id);
/* Counts [tokens, size] binary32 rows, each with `weight`. */
lr_status lr__moments_count(lr__moments *moments, const lr__device *device, lr__arena *arena,
                            const float *x, int64_t tokens, double weight);
/* Full symmetric gram and mean divided by the weight; either may be NULL. */
void lr__moments_read(const lr__moments *moments, double *gram, double *mean);

void lr__observers_free(lr_stats *stats);

#endif
