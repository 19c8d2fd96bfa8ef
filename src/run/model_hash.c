/* What a model is, in 32 digits, so that what was computed for one is not taken for another. */
#include "run/model_hash.h"

#define XXH_INLINE_ALL
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

static void hash_param(const lr__param *param, int32_t is_bias, void *user) {
    (void)is_bias;
    const lr__matrix *m = &param->matrix;
    int64_t head[3] = {m->dtype, m->rows, m->cols};
    size_t scales = m->scales ? (size_t)(m->rows * ((m->cols + 31) / 32)) * 2 : 0;
    XXH3_128bits_update(user, param->name, strlen(param->name));
    XXH3_128bits_update(user, head, sizeof head);
    XXH3_128bits_update(user, m->data, lr__param_bytes(param) - scales);
    if (scales) XXH3_128bits_update(user, m->scales, scales);
}

static void hash_structure(const lr_linear *linear, XXH3_state_t *state) {
    for (int32_t t = 0; t < linear->term_count; t++) {
        const lr__term *term = &linear->terms[t];
        XXH3_128bits_update(state, &term->scale, sizeof term->scale);
        for (int32_t o = 0; o < term->count; o++) {
            const lr__op *op = &term->ops[o];
            int64_t head[4] = {t, op->kind, op->out, op->in};
            XXH3_128bits_update(state, head, sizeof head);
            if (op->index)
                XXH3_128bits_update(state, op->index->values,
                                    (size_t)op->index->count * sizeof *op->index->values);
        }
    }
}

void lr__model_hash(const lr_model *model, char out[LR__HASH_SIZE]) {
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, model->config_text, strlen(model->config_text));
    lr__graph *graph = lr__model_graph(model);
    lr__graph_each_param(graph, hash_param, &state);
    for (int32_t i = 0; i < lr__graph_linear_count(graph); i++)
        hash_structure(*lr__graph_linear(graph, i), &state);
    lr__graph_drop(graph);
    XXH128_hash_t hash = XXH3_128bits_digest(&state);
    snprintf(out, LR__HASH_SIZE, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
}
