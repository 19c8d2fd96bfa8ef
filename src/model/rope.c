/*
 * Frequencies of rotary positions: plain, linear interpolation (arXiv 2306.15595), Llama 3's
 * bands, and YaRN (arXiv 2309.00071, section 3). Angles are binary32, as models were trained.
 */
#include "model/rope.h"

#include <math.h>

static const double two_pi = 6.283185307179586;

static double llama3_band(const lr__rope_config *r, double frequency) {
    double wavelength = two_pi / frequency, original = (double)r->original_context;
    if (wavelength > original / r->low_factor) return frequency / r->factor;
    if (wavelength < original / r->high_factor) return frequency;
    double smooth = (original / wavelength - r->low_factor) / (r->high_factor - r->low_factor);
    return (1 - smooth) * frequency / r->factor + smooth * frequency;
}

/* Pair whose wave turns `rotations` times within the original context. */
static double yarn_pair(const lr__rope_config *r, double rotations, int32_t head_size) {
    return head_size * log((double)r->original_context / (rotations * two_pi)) /
           (2 * log(r->theta));
}

static double yarn_band(const lr__rope_config *r, double frequency, int32_t pair,
                        int32_t head_size) {
    double low = yarn_pair(r, r->beta_fast, head_size);
    double high = yarn_pair(r, r->beta_slow, head_size);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, head_size - 1);
    if (low == high) high += 0.001;
    double interpolated = fmin(fmax((pair - low) / (high - low), 0), 1);
    return frequency / r->factor * interpolated + frequency * (1 - interpolated);
}

static double plain_frequency(const lr__config *config, int32_t pair) {
    return 1 / pow(config->rope.theta, 2.0 * pair / config->head_size);
}

void lr__rope_factors(const lr__config *config, float *factors) {
    for (int32_t i = 0; i < config->head_size / 2; i++) {
        double frequency = plain_frequency(config, i);
        factors[i] = (float)(frequency / llama3_band(&config->rope, frequency));
    }
}

void lr__rope_frequencies(const lr__config *config, float *frequencies) {
    const lr__rope_config *r = &config->rope;
    for (int32_t i = 0; i < config->head_size / 2; i++) {
        double frequency = plain_frequency(config, i);
        switch (r->type) {
        case LR__ROPE_LINEAR: frequency /= r->factor; break;
        case LR__ROPE_LLAMA3: frequency = llama3_band(r, frequency); break;
        case LR__ROPE_YARN: frequency = yarn_band(r, frequency, i, config->head_size); break;
        default: break;
        }
        frequencies[i] = (float)frequency;
    }
}

static double yarn_magnitude(double factor, double scale) {
    return factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1;
}

float lr__rope_magnitude(const lr__config *config) {
    const lr__rope_config *r = &config->rope;
    if (r->type != LR__ROPE_YARN) return 1;
    if (r->attention_factor > 0) return (float)r->attention_factor;
    if (r->mscale > 0 && r->mscale_all > 0)
        return (float)(yarn_magnitude(r->factor, r->mscale) /
                       yarn_magnitude(r->factor, r->mscale_all));
    return (float)yarn_magnitude(r->factor, 1);
}

void lr__rope_table(const lr__config *config, const float *frequencies, const int32_t *positions,
                    int64_t count, float *cosine, float *sine) {
    int32_t half = config->head_size / 2;
    float magnitude = lr__rope_magnitude(config);
    for (int64_t t = 0; t < count; t++)
        for (int32_t i = 0; i < half; i++) {
            float angle = (float)positions[t] * frequencies[i];
            cosine[t * half + i] = cosf(angle) * magnitude;
            sine[t * half + i] = sinf(angle) * magnitude;
        }
}
