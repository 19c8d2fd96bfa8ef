/* Products of pairs of BF16 without the instruction for them, so that all around it can be tested
 * on any machine with AVX-512. Of its arithmetic nothing but the flushing of subnormals is missing.
 */
#include "backend/cpu/level_avx512.h"
#include "backend/cpu/avx512.h"

#if defined(__x86_64__)

#define MIX_TARGET AVX512

AVX512_INLINE __m512 upper(__m512 pairs) {
    return _mm512_and_ps(pairs, _mm512_castsi512_ps(_mm512_set1_epi32((int)0xffff0000u)));
}

AVX512_INLINE __m512 lower(__m512 pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
}

/* The upper halves first, as the instruction does. */
AVX512_INLINE __m512 mix_step(__m512 sum, __m512 factor, __m512 row) {
    sum = _mm512_fmadd_ps(upper(factor), upper(row), sum);
    return _mm512_fmadd_ps(lower(factor), lower(row), sum);
}

#include "backend/cpu/mix_tiles_avx512.h"

static const lr__mix_strip strips[] = MIX_STRIPS;

void lr__multiply_pairs_avx512(const lr__panel_task *task) {
    lr__mix_panels(strips, MOST_ROWS, COLUMNS, task);
}

#endif
