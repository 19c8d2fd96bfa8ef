/* Products of binary32 in tiles, for attention and packed weights. */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/level_avx2.h"
#include "backend/cpu/avx512.h"

#if defined(__x86_64__)

#define MIX_TARGET AVX512

AVX512_INLINE __m512 mix_step(__m512 sum, __m512 factor, __m512 row) {
    return _mm512_fmadd_ps(factor, row, sum);
}

#include "backend/cpu/mix_tiles_avx512.h"

const lr__mix_strip lr__mix_strips_avx512[] = MIX_STRIPS;

void lr__multiply_panels_avx512(const lr__panel_task *task) {
    lr__mix_panels(lr__mix_strips_avx512, MOST_ROWS, COLUMNS, task);
}

void lr__pack_avx512(int64_t cols, int64_t depth, const float *w, int64_t ldw, float *panels) {
    lr__pack_panels(lr__transpose_avx2, COLUMNS, cols, depth, w, ldw, panels);
}

#endif
