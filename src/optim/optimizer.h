/*
 * The optimizer behind lowrank/optimizer.h. What it trains are masters: binary32 copies of its own,
 * put in the place of the numbers they were made from. All work on numbers goes by chunks of a
 * fixed size, so that sums and results do not depend on the number of threads.
 */
#ifndef LR_OPTIM_OPTIMIZER_H
#define LR_OPTIM_OPTIMIZER_H

#include "ctx/ctx.h"
#include "nn/gradients.h"

#include <lowrank/optimizer.h>

enum { LR__CHUNK = 1 << 14 }; /* numbers of a parameter that one item of work covers */

typedef struct lr__trained {
    lr__param *param;  /* the master, kept by the gradients */
    lr__param *source; /* what it replaced in a module of the caller, kept; NULL in a model */
    float *gradient;   /* of the gradients */
    float *state;      /* [state_numbers][count]; NULL: none */
    int64_t count;
    int64_t first_chunk;
    size_t group;
} lr__trained;

/* What a derived parameter of a caller's module became over masters; both kept. */
typedef struct lr__rebound {
    lr__param *from, *to;
} lr__rebound;

typedef struct lr__group {
    double learning_rate, weight_decay; /* its own or the optimizer's */
    double clip;
    double squares; /* of the gradients in this step, their sum */
    float scale;    /* of the gradients in this step, by all clipping */
} lr__group;

struct lr_optimizer {
    lr_ctx *ctx;
    lr_optimizer_opts opts;
    lr__gradients gradients;
    lr__trained *items; /* in the order of adding */
    size_t count, capacity;
    lr__group *groups; /* one for each call that added something */
    size_t group_count, group_capacity;
    lr__rebound *rebound;
    size_t rebound_count, rebound_capacity;
    int64_t chunks;
    double *found; /* [chunks] what each chunk had to tell */
    size_t found_capacity;
    int64_t step; /* steps made */
};

/* What backward passes add to. */
lr__gradients *lr__optimizer_gradients(lr_optimizer *optimizer);
/* Numbers of state for each number of a parameter. */
int32_t lr__optimizer_state_numbers(const lr_optimizer_opts *opts);

/* Numbers [first, first + count) of an item. */
typedef struct lr__chunk {
    const lr__trained *item;
    int64_t first, count;
} lr__chunk;

lr__chunk lr__optimizer_chunk(const lr_optimizer *optimizer, int64_t index);
/* Drops all items from `count` on; cannot fail. */
void lr__optimizer_truncate(lr_optimizer *optimizer, size_t count);

/* Share of the learning rate behind `made` steps. */
double lr__schedule_share(const lr_optimizer_opts *opts, int64_t made);
/* Norm of all gradients, and the scale of each group; LR_E_NUMERIC where one is not finite. */
lr_status lr__clip_measure(lr_optimizer *optimizer, double *norm);
/* Changes the parameters, in step number optimizer->step + 1. */
lr_status lr__rule_apply(lr_optimizer *optimizer, double share);

#endif
