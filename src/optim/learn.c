/* Backward passes into the gradients of an optimizer. */
#include "model/learn.h"

#include "base/opts.h"
#include "optim/optimizer.h"

#include <lowrank/learn.h>

#include <math.h>
#include <string.h>

lr_status lr_linear_backward(const lr_linear *linear, const lr_tensor *x, const lr_tensor *dy,
                             lr_tensor *dx, lr_optimizer *optimizer) {
    static const lr__gradients nothing;
    if (!linear) return lr__fail(LR_E_INVALID, "lr_linear_backward: linear is needed");
    return lr__linear_apply_backward(linear, x, dy, dx,
                                     optimizer ? lr__optimizer_gradients(optimizer) : &nothing);
}

void lr_learn_opts_init(lr_learn_opts *opts, size_t size) {
    lr_learn_opts defaults = {.size = sizeof defaults, .alpha = 1, .temperature = 1, .scale = 1};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

static lr_status check_opts(const lr_learn_opts *o) {
    if (o->alpha >= 0 && o->alpha <= 1 && o->temperature > 0 && isfinite(o->temperature) &&
        isfinite(o->scale))
        return LR_OK;
    return lr__fail(LR_E_INVALID, "learning: alpha %g, temperature %g, scale %g", o->alpha,
                    o->temperature, o->scale);
}

static void write_result(lr_learn_result *result, const lr__loss_sums *sums) {
    double scored = (double)sums->scored;
    lr_learn_result full = {.size = result->size,
                            .scored = sums->scored,
                            .loss = sums->total / scored,
                            .next_token = sums->next_token / scored,
                            .divergence = sums->divergence / scored};
    memcpy(result, &full, result->size < sizeof full ? result->size : sizeof full);
}

lr_status lr_session_learn(lr_session *session, const lr_segment *segments, int32_t count,
                           lr_optimizer *optimizer, const lr_learn_opts *opts,
                           lr_learn_result *result) {
    lr_status status = LR_OK;
    lr_learn_opts o;
    lr__loss_sums sums;
    lr_learn_opts_init(&o, sizeof o);
    if (!optimizer || (result && result->size < sizeof(size_t)))
        return lr__fail(LR_E_INVALID, "lr_session_learn: optimizer and a sized result are needed");
    LR_TRY(lr__opts_merge(&o, sizeof o, opts, "lr_learn_opts"));
    LR_TRY(check_opts(&o));
    const lr__lesson lesson = {.gradients = lr__optimizer_gradients(optimizer),
                               .teacher = o.teacher,
                               .alpha = o.alpha,
                               .temperature = o.temperature,
                               .scale = o.scale,
                               .keeps_all = o.keeps_all};
    LR_TRY(lr__session_learn(session, segments, count, &lesson, &sums));
    if (result) write_result(result, &sums);
done:
    return status;
}

lr_status lr_session_learn_blocks(lr_session *session, const lr_segment *segments, int32_t count,
                                  int32_t first, int32_t last, float *x, float *dx,
                                  lr_optimizer *optimizer) {
    const lr__block_lesson lesson = {
        .gradients = optimizer ? lr__optimizer_gradients(optimizer) : NULL,
        .first = first,
        .last = last,
        .x = x,
        .dx = dx};
    if (!optimizer || !x)
        return lr__fail(LR_E_INVALID, "lr_session_learn_blocks: x and optimizer are needed");
    return lr__session_learn_blocks(session, segments, count, &lesson);
}
