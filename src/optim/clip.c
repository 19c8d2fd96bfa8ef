/* Clipping by norm (arXiv 1211.5063): of each group, then of all. Squares are summed in binary64,
 * chunk by chunk and then over the chunks in their order, so threads do not change a bit; a
 * gradient that is not finite makes its sum so. */
#include "optim/optimizer.h"

#include <math.h>

static void measure_chunk(void *work, int64_t index, int32_t thread) {
    lr_optimizer *optimizer = work;
    lr__chunk chunk = lr__optimizer_chunk(optimizer, index);
    (void)thread;
    optimizer->found[index] =
        optimizer->ctx->device.kernels->squares(chunk.count, chunk.item->gradient + chunk.first);
}

static lr_status check_finite(const lr_optimizer *optimizer) {
    for (int64_t c = 0; c < optimizer->chunks; c++) {
        if (isfinite(optimizer->found[c])) continue;
        lr__chunk chunk = lr__optimizer_chunk(optimizer, c);
        int64_t at = chunk.first;
        while (isfinite(chunk.item->gradient[at])) at++;
        return lr__fail(LR_E_NUMERIC, "%s: number %lld of the gradient is %g",
                        chunk.item->param->name, (long long)at, chunk.item->gradient[at]);
    }
    return LR_OK;
}

static int64_t chunks_of(const lr__trained *item) {
    return (item->count + LR__CHUNK - 1) / LR__CHUNK;
}

static void sum_groups(lr_optimizer *optimizer) {
    for (size_t g = 0; g < optimizer->group_count; g++) optimizer->groups[g].squares = 0;
    for (size_t i = 0; i < optimizer->count; i++) {
        const lr__trained *item = &optimizer->items[i];
        const double *found = optimizer->found + item->first_chunk;
        for (int64_t c = 0; c < chunks_of(item); c++)
            optimizer->groups[item->group].squares += found[c];
    }
}

static double scale_to(double clip, double norm) {
    return clip > 0 && norm > clip ? clip / norm : 1;
}

lr_status lr__clip_measure(lr_optimizer *optimizer, double *norm) {
    double before = 0, after = 0, scale;
    lr__pool_run(optimizer->ctx->device.pool, optimizer->chunks, measure_chunk, optimizer);
    lr_status status = check_finite(optimizer);
    if (status < 0) return status;
    sum_groups(optimizer);
    for (size_t g = 0; g < optimizer->group_count; g++) {
        lr__group *group = &optimizer->groups[g];
        scale = scale_to(group->clip, sqrt(group->squares));
        group->scale = (float)scale;
        before += group->squares;
        after += group->squares * scale * scale;
    }
    *norm = sqrt(before);
    scale = scale_to(optimizer->opts.clip, sqrt(after));
    for (size_t g = 0; g < optimizer->group_count; g++)
        optimizer->groups[g].scale = (float)(optimizer->groups[g].scale * scale);
    return LR_OK;
}
