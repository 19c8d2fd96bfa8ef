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
    double *root;           /* instead of gram: [size, size] lower triangular, root root' is gram */
    double *sum, *absolute; /* weighted sums of x and |x| */
    double *most;           /* largest |x| of each channel */
    int64_t last_input;     /* id of the input counted last */
    int32_t missing;        /* LR__MISSING_... of which some tokens' share is not known */
} lr__moments;

enum { LR__MISSING_ABSOLUTE = 1, LR__MISSING_MOST = 2 };

/* Statistics of single channels. */
enum { LR__CHANNEL_MEAN, LR__CHANNEL_MAX, LR__CHANNEL_RMS };

typedef struct lr__observer lr__observer;

struct lr_stats {
    lr_model *model;
    char *pattern;
    int32_t is_exact; /* inputs keep roots, not grams */
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
/* The counted moments of a module's input; LR_E_SHAPE when its size is not that of the module. */
lr_status lr__stats_moments_of(const lr__moments **out, const lr_stats *stats,
                               const lr_linear *linear);
/* A new input of module `index`; its moments are all zero. */
lr_status lr__stats_add_input(lr_stats *stats, int32_t index, int64_t input_id);
/* Counts [tokens, size] binary32 rows, each with `weight`. */
lr_status lr__moments_count(lr__moments *moments, const lr__device *device, lr__arena *arena,
                            const float *x, int64_t tokens, double weight);
/* Adds what `from` counted, with `weight` in all. Both keep grams, or both roots. */
lr_status lr__moments_add(lr__moments *moments, const lr__moments *from, const lr__device *device,
                          lr__arena *arena, double weight);
/* Full symmetric gram and mean divided by the weight; either may be NULL. */
lr_status lr__moments_read(const lr__moments *moments, double *gram, double *mean);
/* The root divided by that of the weight, full with zeros above; only where roots are kept. */
void lr__moments_read_root(const lr__moments *moments, double *root);
/* scale[j] = (mean |x_j|, max |x_j| or root of the mean x_j^2) ^ alpha. LR_E_NOTFOUND when the
 * moments came from a file without that statistic. */
lr_status lr__moments_scale(const lr__moments *moments, int32_t statistic, double alpha,
                            double *scale);

/* Counts the input an event shows, once for all modules that read it. Modules the statistics do not
 * watch are passed over. */
lr_status lr__stats_observe(lr_stats *stats, const lr_hook_event *event, double weight);
void lr__observers_free(lr_stats *stats);

#endif
