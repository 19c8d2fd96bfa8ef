/* Rotary position tables (Su et al., "RoFormer", arXiv 2104.09864) with the scalings in use. */
#ifndef LR_MODEL_ROPE_H
#define LR_MODEL_ROPE_H

#include "format/config.h"

/* Angle of one step of position for each of head_size / 2 pairs. */
void lr__rope_frequencies(const lr__config *config, float *frequencies);
/* What Llama 3's bands divide the plain frequencies by: GGUF's "rope_freqs". */
void lr__rope_factors(const lr__config *config, float *factors);
/* What YaRN multiplies cosines and sines by; 1 otherwise. */
float lr__rope_magnitude(const lr__config *config);
/* cosine and sine [count, head_size / 2] for the positions. */
void lr__rope_table(const lr__config *config, const float *frequencies, const int32_t *positions,
                    int64_t count, float *cosine, float *sine);

#endif
