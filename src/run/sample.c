/*
 * Greedy and sampled choice; nucleus by Holtzman et al., arXiv 1904.09751. With no truncation the
 * draw walks the ids in their own order, so nothing is sorted.
 */
#include "run/sample.h"

#include <math.h>
#include <stdlib.h>

lr_status lr__sampler_begin(lr__sampler *sampler, int32_t count) {
    lr_status status = LR_OK;
    sampler->count = count;
    LR_TRY(lr__new(&sampler->order, (size_t)count, sizeof *sampler->order));
    LR_TRY(lr__new(&sampler->weights, (size_t)count, sizeof *sampler->weights));
done:
    return status;
}

void lr__sampler_end(lr__sampler *sampler) {
    lr__free(sampler->order);
    lr__free(sampler->weights);
    sampler->order = NULL;
    sampler->weights = NULL;
}

static int32_t likeliest(const float *logits, int32_t count) {
    int32_t best = 0;
    for (int32_t i = 1; i < count; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static int by_falling_logit(const void *a, const void *b, void *user) {
    const float *logits = user;
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (logits[i] != logits[j]) return logits[i] > logits[j] ? -1 : 1;
    return i < j ? -1 : 1;
}

/* Number of leading candidates in `order` that top_k and top_p leave. */
static int32_t truncate_order(lr__sampler *s, const float *logits, float most) {
    int32_t kept = s->top_k && s->top_k < s->count ? s->top_k : s->count;
    double total = 0, reached = 0;
    for (int32_t i = 0; i < s->count; i++) s->order[i] = i;
    qsort_r(s->order, (size_t)s->count, sizeof *s->order, by_falling_logit, (void *)logits);
    for (int32_t i = 0; i < kept; i++) {
        s->weights[i] = exp(((double)logits[s->order[i]] - most) / s->temperature);
        total += s->weights[i];
    }
    for (int32_t i = 0; i < kept; i++)
        if ((reached += s->weights[i]) >= s->top_p * total) return i + 1;
    return kept;
}

static int32_t walk(const lr__sampler *s, int32_t kept, double draw, int32_t is_ordered) {
    double total = 0, reached = 0;
    int32_t last = 0;
    for (int32_t i = 0; i < kept; i++) total += s->weights[i];
    for (int32_t i = 0; i < kept; i++) {
        if (s->weights[i] > 0) last = i;
        if ((reached += s->weights[i]) > draw * total) break;
    }
    return is_ordered ? s->order[last] : last;
}

int32_t lr__sample(lr__sampler *s, const float *logits, double draw) {
    int32_t best = likeliest(logits, s->count);
    float most = logits[best];
    if (s->temperature <= 0) return best;
    if ((s->top_k && s->top_k < s->count) || s->top_p < 1)
        return walk(s, truncate_order(s, logits, most), draw, 1);
    for (int32_t i = 0; i < s->count; i++)
        s->weights[i] = exp(((double)logits[i] - most) / s->temperature);
    return walk(s, s->count, draw, 0);
}
