/* Products of pairs of BF16 by the instruction for them: two terms of each of sixteen sums at once,
 * rounded to nearest even, subnormals as zeros. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/avx512.h"

#if defined(__x86_64__)

#define MIX_TARGET \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

MIX_TARGET __attribute__((always_inline)) static inline __m512 mix_step(__m512 sum, __m512 factor,
                                                                        __m512 row) {
    return _mm512_dpbf16_ps(sum, (__m512bh)factor, (__m512bh)row);
}

#include "backend/cpu/mix_tiles_avx512.h"

static const lr__mix_strip strips[] = MIX_STRIPS;

void lr__multiply_pairs_avx512bf16(const lr__panel_task *task) {
    lr__mix_panels(strips, MOST_ROWS, COLUMNS, task);
}

#endif
