/* Counter-based random numbers (Philox 4x32-10; Salmon et al., "Parallel random numbers: as easy
 * as 1, 2, 3", SC 2011): a value depends on its key and counter only, never on call order. */
#ifndef LR_BASE_RNG_H
#define LR_BASE_RNG_H

#include <stdint.h>

void lr__philox(uint64_t key, uint64_t counter_high, uint64_t counter_low, uint32_t out[4]);

/* Uniform in [0, 1) with 53 bits, from (seed, stream, index). */
double lr__uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* Standard normal from (seed, stream, index). */
double lr__normal(uint64_t seed, uint64_t stream, uint64_t index);

/* Fisher and Yates: `order` in a new order, from (seed, stream). */
void lr__shuffle(int64_t *order, int64_t count, uint64_t seed, uint64_t stream);

#endif
