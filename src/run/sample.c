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

static int32_t likeliest(const lr__sampler *s, const float *logits) {
    float most = s->kernels->max(s->count, logits);
    int32_t i = 0;
    while (i + 1 < s->count && logits[i] != most) i++;
    return i;
}

/* weights = exp((logit - most) / temperature), not yet divided by their sum. */
static void weigh(lr__sampler *s, const float *logits, float most) {
    float scale = (float)(1 / s->temperature);
    s->kernels->scale(s->count, scale, logits, s->weights);
    s->kernels->exp_sum(s->count, s->weights, most * scale, s->weights);
}

static int by_falling_logit(const void *a, const void *b, void *user) {
    const float *logits = user;
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (logits[i] != logits[j]) return logits[i] > logits[j] ? -1 : 1;
    return i < j ? -1 : 1;
}

/* Number of leading candidates in `order` that top_k and top_p leave; weights in that order. */
static int32_t truncate_order(lr__sampler *s, const float *logits, float most) {
    int32_t kept = s->top_k && s->top_k < s->count ? s->top_k : s->count;
    double total = 0, reached = 0;
    for (int32_t i = 0; i < s->count; i++) s->order[i] = i;
    qsort_r(s->order, (size_t)s->count, sizeof *s->order, by_falling_logit, (void *)logits);
    for (int32_t i = 0; i < kept; i++) {
        s->weights[i] = (float)exp(((double)logits[s->order[i]] - most) / s->temperature);
        total += s->weights[i];
    }
    for (int32_t i = 0; i < kept; i++)
        if ((reached += s->weights[i]) >= s->top_p * total) return i + 1;
    return kept;
}

/* Place of the draw among the first `kept` weights. */
static int32_t walk(const lr__sampler *s, int32_t kept, double draw) {
    double total = 0, reached = 0;
    int32_t last = 0;
    for (int32_t i = 0; i < kept; i++) total += s->weights[i];
    for (int32_t i = 0; i < kept; i++) {
        if (s->weights[i] > 0) last = i;
        if ((reached += s->weights[i]) > draw * total) break;
    }
    return last;
}

int32_t lr__sample(lr__sampler *s, const float *logits, double draw) {
    int32_t best = likeliest(s, logits);
    if (s->temperature < 1e-6) return best; /* beyond what binary32 can scale */
    if ((s->top_k && s->top_k < s->count) || s->top_p < 1)
        return s->order[walk(s, truncate_order(s, logits, logits[best]), draw)];
    weigh(s, logits, logits[best]);
    return walk(s, s->count, draw);
}
