/* The rules, each one pass over a chunk's numbers: AdamW (arXiv 1711.05101), SGD with momentum as
 * PyTorch has them, or a function of the host's. */
#include "optim/optimizer.h"

#include <math.h>
#include <string.h>

typedef struct application {
    lr_optimizer *optimizer;
    double share;   /* of every group's learning rate */
    double m_share; /* 1 - beta1^step */
    double v_share; /* 1 - beta2^step */
} application;

int32_t lr__optimizer_state_numbers(const lr_optimizer_opts *opts) {
    switch (opts->rule) {
    case LR_ADAMW: return 2;
    case LR_SGD: return opts->momentum > 0;
    default: return opts->update_state;
    }
}

/* With m and v the running means of g and g^2, freed of their start at zero:
 * w = (1 - rate decay) w - rate m / (sqrt(v) + epsilon). Returns whether all stayed finite. */
static int adamw(const application *a, const lr__group *group, const lr__chunk *c) {
    const lr_optimizer_opts *o = &a->optimizer->opts;
    double learning_rate = a->share * group->learning_rate;
    const lr__adamw_task task = {.n = c->count,
                                 .w = lr__param_floats(c->item->param) + c->first,
                                 .m = c->item->state + c->first,
                                 .v = c->item->state + c->item->count + c->first,
                                 .gradient = c->item->gradient + c->first,
                                 .scale = group->scale,
                                 .beta1 = (float)o->beta1,
                                 .fresh1 = (float)(1 - o->beta1),
                                 .beta2 = (float)o->beta2,
                                 .fresh2 = (float)(1 - o->beta2),
                                 .kept = (float)(1 - learning_rate * group->weight_decay),
                                 .rate = (float)(learning_rate / a->m_share),
                                 .spread = (float)(1 / sqrt(a->v_share)),
                                 .epsilon = (float)o->epsilon};
    return a->optimizer->ctx->device.kernels->adamw(&task);
}

/* g += decay w; v = momentum v + g; w -= rate v. */
static int sgd(const application *a, const lr__group *group, const lr__chunk *c) {
    const lr__sgd_task task = {.n = c->count,
                               .w = lr__param_floats(c->item->param) + c->first,
                               .v = c->item->state ? c->item->state + c->first : NULL,
                               .gradient = c->item->gradient + c->first,
                               .scale = group->scale,
                               .decay = (float)group->weight_decay,
                               .momentum = (float)a->optimizer->opts.momentum,
                               .rate = (float)(a->share * group->learning_rate)};
    return a->optimizer->ctx->device.kernels->sgd(&task);
}

static void apply_chunk(void *work, int64_t index, int32_t thread) {
    const application *a = work;
    lr_optimizer *optimizer = a->optimizer;
    lr__chunk c = lr__optimizer_chunk(optimizer, index);
    const lr__group *group = &optimizer->groups[c.item->group];
    int is_finite = optimizer->opts.rule == LR_ADAMW ? adamw(a, group, &c) : sgd(a, group, &c);
    (void)thread;
    optimizer->found[index] = is_finite;
}

static lr_status apply_chunks(lr_optimizer *optimizer, double share) {
    const lr_optimizer_opts *o = &optimizer->opts;
    double step = (double)(optimizer->step + 1);
    application a = {optimizer, share, 1 - pow(o->beta1, step), 1 - pow(o->beta2, step)};
    lr__pool_run(optimizer->ctx->device.pool, optimizer->chunks, apply_chunk, &a);
    lr__gradients_zero(&optimizer->gradients);
    for (int64_t c = 0; c < optimizer->chunks; c++)
        if (!optimizer->found[c])
            return lr__fail(LR_E_NUMERIC, "%s: left the range of binary32 in step %lld",
                            lr__optimizer_chunk(optimizer, c).item->param->name,
                            (long long)optimizer->step + 1);
    return LR_OK;
}

static lr_status apply_own(const lr_optimizer *optimizer, lr__trained *item, double share) {
    const lr__group *group = &optimizer->groups[item->group];
    lr_update update = {.size = sizeof update,
                        .name = item->param->name,
                        .count = item->count,
                        .values = lr__param_floats(item->param),
                        .gradient = item->gradient,
                        .state = item->state,
                        .step = optimizer->step + 1,
                        .learning_rate = share * group->learning_rate,
                        .weight_decay = group->weight_decay};
    optimizer->ctx->device.kernels->scale(item->count, group->scale, item->gradient,
                                          item->gradient);
    lr_status status = optimizer->opts.update(&update, optimizer->opts.user);
    for (int64_t i = 0; i < item->count && status >= 0; i++)
        if (!isfinite(update.values[i]))
            return lr__fail(LR_E_NUMERIC, "%s: number %lld is %g after step %lld", update.name,
                            (long long)i, update.values[i], (long long)update.step);
    return status;
}

lr_status lr__rule_apply(lr_optimizer *optimizer, double share) {
    lr_status status = LR_OK;
    if (optimizer->opts.rule != LR_OWN_RULE) return apply_chunks(optimizer, share);
    for (size_t i = 0; i < optimizer->count && status >= 0; i++)
        status = apply_own(optimizer, &optimizer->items[i], share);
    if (status >= 0) lr__gradients_zero(&optimizer->gradients);
    return status < 0 ? status : LR_OK;
}
