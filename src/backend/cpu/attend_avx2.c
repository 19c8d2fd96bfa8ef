/* Attention out of the tiles of mix_avx2.c and dot_avx2.c. */
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/tiles.h"

#if defined(__x86_64__)

static const lr__attend_parts parts = {.mix = lr__mix_strips_avx2,
                                       .mix_most = LR__MIX_MOST,
                                       .transpose = lr__transpose_avx2,
                                       .dot_tile = lr__dot_tile_avx2,
                                       .scale = lr__scale_avx2,
                                       .axpy = lr__axpy_avx2,
                                       .multiply = lr__multiply_avx2,
                                       .max = lr__max_avx2,
                                       .exp_sum = lr__exp_sum_avx2};

void lr__attend_avx2(int64_t count, int64_t dim, const float *q, const float *keys, int64_t ldk,
                     const float *values, int64_t ldv, float scale, float *scores, float *out) {
    lr__attend_task task = {.queries = 1,
                            .first = count - 1,
                            .dim = dim,
                            .q = q,
                            .keys = keys,
                            .ldk = ldk,
                            .values = values,
                            .ldv = ldv,
                            .scale = scale,
                            .out = out,
                            .scratch = scores};
    lr__attend_one(&parts, &task);
}

void lr__attend_block_avx2(const lr__attend_task *task) { lr__attend_many(&parts, task); }

void lr__attend_backward_avx2(const lr__attend_backward_task *task) {
    lr__attend_many_backward(&parts, task);
}

#endif
