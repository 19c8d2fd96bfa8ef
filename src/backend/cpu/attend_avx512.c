/* Attention out of the tiles of mix_avx512.c and dot_avx512.c. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/tiles.h"

#if defined(__x86_64__)

static const lr__attend_parts parts = {.mix = lr__mix_strips_avx512,
                                       .mix_most = LR__MIX_MOST,
                                       .transpose = lr__transpose_avx2,
                                       .dot_tile = lr__dot_tile_avx512,
                                       .scale = lr__scale_avx512,
                                       .axpy = lr__axpy_avx512,
                                       .multiply = lr__multiply_avx512,
                                       .max = lr__max_avx512,
                                       .exp_sum = lr__exp_sum_avx512};

void lr__attend_avx512(int64_t count, int64_t dim, const float *q, const float *keys, int64_t ldk,
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

void lr__attend_block_avx512(const lr__attend_task *task) { lr__attend_many(&parts, task); }

void lr__attend_backward_avx512(const lr__attend_backward_task *task) {
    lr__attend_many_backward(&parts, task);
}

#endif
