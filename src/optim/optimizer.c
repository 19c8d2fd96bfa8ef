/* The handle of an optimizer: options, what it holds, one step. */
#include "optim/optimizer.h"

#include "base/opts.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { MOST_STATE = 64 };

void lr_optimizer_opts_init(lr_optimizer_opts *opts, size_t size) {
    lr_optimizer_opts defaults = {.size = sizeof defaults,
                                  .learning_rate = 1e-4,
                                  .beta1 = 0.9,
                                  .beta2 = 0.999,
                                  .epsilon = 1e-8};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

void lr_group_opts_init(lr_group_opts *opts, size_t size) {
    lr_group_opts defaults = {.size = sizeof defaults, .learning_rate = -1, .weight_decay = -1};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

typedef struct range {
    const char *name;
    double value, least, below; /* least <= value < below */
} range;

static lr_status check_ranges(const lr_optimizer_opts *o) {
    const range ranges[] = {{"learning_rate", o->learning_rate, 0, FLT_MAX},
                            {"weight_decay", o->weight_decay, 0, FLT_MAX},
                            {"beta1", o->beta1, 0, 1},
                            {"beta2", o->beta2, 0, 1},
                            {"epsilon", o->epsilon, FLT_MIN, FLT_MAX},
                            {"momentum", o->momentum, 0, 1},
                            {"final_share", o->final_share, 0, nextafter(1, 2)},
                            {"clip", o->clip, 0, FLT_MAX}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (!(ranges[i].value >= ranges[i].least && ranges[i].value < ranges[i].below))
            return lr__fail(LR_E_INVALID, "lr_optimizer_opts: %s is %g, expected %g to %g",
                            ranges[i].name, ranges[i].value, ranges[i].least, ranges[i].below);
    return LR_OK;
}

static lr_status check_opts(const lr_optimizer_opts *o) {
    if (o->rule < LR_ADAMW || o->rule > LR_OWN_RULE)
        return lr__fail(LR_E_INVALID, "lr_optimizer_opts: rule %d, expected 0 to %d", o->rule,
                        LR_OWN_RULE);
    if (o->schedule < LR_CONSTANT || o->schedule > LR_COSINE)
        return lr__fail(LR_E_INVALID, "lr_optimizer_opts: schedule %d, expected 0 to %d",
                        o->schedule, LR_COSINE);
    if (o->warm_up < 0 || (o->schedule != LR_CONSTANT && o->steps <= o->warm_up))
        return lr__fail(LR_E_INVALID,
                        "lr_optimizer_opts: a schedule of %lld steps, %lld of them warm-up",
                        (long long)o->steps, (long long)o->warm_up);
    if (o->rule == LR_OWN_RULE && !o->update)
        return lr__fail(LR_E_INVALID, "lr_optimizer_opts: LR_OWN_RULE without update");
    if (o->update_state < 0 || o->update_state > MOST_STATE)
        return lr__fail(LR_E_INVALID, "lr_optimizer_opts: update_state %d, expected 0 to %d",
                        o->update_state, MOST_STATE);
    return check_ranges(o);
}

lr_status lr_optimizer_new(lr_optimizer **out, lr_ctx *ctx, const lr_optimizer_opts *opts) {
    lr_status status = LR_OK;
    lr_optimizer *optimizer = NULL;
    if (!out || !ctx) return lr__fail(LR_E_INVALID, "lr_optimizer_new: out and ctx are needed");
    *out = NULL;
    LR_TRY(lr__new(&optimizer, 1, sizeof *optimizer));
    optimizer->ctx = lr__ctx_keep(ctx);
    lr_optimizer_opts_init(&optimizer->opts, sizeof optimizer->opts);
    LR_TRY(lr__opts_merge(&optimizer->opts, sizeof optimizer->opts, opts, "lr_optimizer_opts"));
    LR_TRY(check_opts(&optimizer->opts));
    *out = optimizer;
    optimizer = NULL;
done:
    lr_optimizer_free(optimizer);
    return status;
}

void lr__optimizer_truncate(lr_optimizer *optimizer, size_t count) {
    while (optimizer->count > count) {
        lr__trained *item = &optimizer->items[--optimizer->count];
        optimizer->chunks = item->first_chunk;
        lr__param_drop(item->source);
        lr__aligned_free(item->state);
        lr__gradients_remove(&optimizer->gradients, item->param);
    }
}

void lr_optimizer_free(lr_optimizer *optimizer) {
    if (!optimizer) return;
    lr__optimizer_truncate(optimizer, 0);
    lr__gradients_clear(&optimizer->gradients);
    for (size_t i = 0; i < optimizer->rebound_count; i++) {
        lr__param_drop(optimizer->rebound[i].from);
        lr__param_drop(optimizer->rebound[i].to);
    }
    lr__free(optimizer->rebound);
    lr__free(optimizer->items);
    lr__free(optimizer->groups);
    lr__free(optimizer->found);
    lr_ctx_free(optimizer->ctx);
    lr__free(optimizer);
}

lr__gradients *lr__optimizer_gradients(lr_optimizer *optimizer) { return &optimizer->gradients; }

lr__chunk lr__optimizer_chunk(const lr_optimizer *optimizer, int64_t index) {
    size_t low = 0, high = optimizer->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (optimizer->items[middle].first_chunk <= index)
            low = middle;
        else
            high = middle;
    }
    const lr__trained *item = &optimizer->items[low];
    int64_t first = (index - item->first_chunk) * LR__CHUNK, left = item->count - first;
    return (lr__chunk){item, first, left < LR__CHUNK ? left : LR__CHUNK};
}

/* --- reading --- */

int32_t lr_optimizer_count(const lr_optimizer *optimizer) { return (int32_t)optimizer->count; }

int64_t lr_optimizer_numbers(const lr_optimizer *optimizer) {
    int64_t numbers = 0;
    for (size_t i = 0; i < optimizer->count; i++) numbers += optimizer->items[i].count;
    return numbers;
}

static const lr__trained *item_at(const lr_optimizer *optimizer, int32_t index) {
    return index >= 0 && (size_t)index < optimizer->count ? &optimizer->items[index] : NULL;
}

const char *lr_optimizer_name(const lr_optimizer *optimizer, int32_t index) {
    const lr__trained *item = item_at(optimizer, index);
    return item ? item->param->name : NULL;
}

int64_t lr_optimizer_size(const lr_optimizer *optimizer, int32_t index) {
    const lr__trained *item = item_at(optimizer, index);
    return item ? item->count : 0;
}

lr_status lr_optimizer_gradient(const lr_optimizer *optimizer, int32_t index, float *gradient) {
    if (!optimizer || !gradient)
        return lr__fail(LR_E_INVALID, "lr_optimizer_gradient: optimizer and gradient are needed");
    const lr__trained *item = item_at(optimizer, index);
    if (!item)
        return lr__fail(LR_E_INVALID, "lr_optimizer_gradient: parameter %d of %zu", index,
                        optimizer->count);
    lr__gradients_settle(&optimizer->gradients);
    memcpy(gradient, item->gradient, (size_t)item->count * sizeof *gradient);
    return LR_OK;
}

int64_t lr_optimizer_steps(const lr_optimizer *optimizer) { return optimizer->step; }

/* --- one step --- */

void lr_optimizer_zero(lr_optimizer *optimizer) { lr__gradients_zero(&optimizer->gradients); }

lr_status lr_optimizer_step(lr_optimizer *optimizer, lr_step_result *result) {
    lr_status status = LR_OK;
    double norm = 0;
    if (!optimizer || (result && result->size < sizeof(size_t)))
        return lr__fail(LR_E_INVALID,
                        "lr_optimizer_step: optimizer and a result with its size are needed");
    if (!optimizer->count)
        return lr__fail(LR_E_INVALID, "lr_optimizer_step: no parameters were added");
    double share = lr__schedule_share(&optimizer->opts, optimizer->step);
    lr__gradients_settle(&optimizer->gradients);
    LR_TRY(lr__clip_measure(optimizer, &norm));
    LR_TRY(lr__rule_apply(optimizer, share));
    optimizer->step++;
    if (!result) goto done;
    lr_step_result full = {.size = result->size,
                           .step = optimizer->step,
                           .norm = norm,
                           .learning_rate = share * optimizer->opts.learning_rate};
    memcpy(result, &full, result->size < sizeof full ? result->size : sizeof full);
done:
    return status;
}
