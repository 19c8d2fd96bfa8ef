/*
 * llama.cpp keeps Llama 3's rotary bands as the quotients of plain and scaled frequencies alone.
 * The largest quotient is the factor; the edges of the bands are those every model of the family
 * has, and the original context stands in a key or is the family's. What they give must be what
 * the file holds.
 */
#include "model/gguf_rope.h"

#include "model/rope.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double low_edge = 1, high_edge = 4, usual_context = 8192, tolerance = 1e-4;

static double largest(const float *numbers, int64_t count) {
    double most = 0;
    for (int64_t i = 0; i < count; i++)
        if (numbers[i] > most) most = (double)numbers[i];
    return most;
}

static lr_status original_context(int64_t *out, const lr__gguf *gguf, const lr__config *config) {
    char key[96];
    const char *type = json_string_value(json_object_get(config->json, "model_type"));
    snprintf(key, sizeof key, "%s.rope.scaling.original_context_length", type ? type : "");
    *out = (int64_t)usual_context;
    return lr__gguf_int(gguf, key, out);
}

/* The configuration with the bands that `factors` would come from. */
static lr_status with_bands(lr__config *out, const lr__config *config, const lr__gguf *gguf,
                            const float *factors) {
    int64_t original;
    lr_status status = original_context(&original, gguf, config);
    if (status < 0) return status;
    double factor = largest(factors, config->head_size / 2);
    json_t *json = json_deep_copy(config->json);
    json_t *rope =
        json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor",
                  isfinite(factor) ? factor : 0, "low_freq_factor", low_edge, "high_freq_factor",
                  high_edge, "original_max_position_embeddings", (json_int_t)original);
    if (!json || json_object_set_new(json, "rope_scaling", rope))
        status = lr__fail(LR_E_NOMEM, "out of memory for JSON");
    else
        status = lr__config_from_json(out, json, gguf->mapping->path);
    json_decref(json);
    return status;
}

static int are_near(const float *one, const float *two, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)one[i] - (double)two[i]) <= tolerance * fabs((double)two[i]))) return 0;
    return 1;
}

lr_status lr__gguf_read_factors(lr__config *config, const lr__gguf *gguf) {
    static const char name[] = "rope_freqs.weight";
    const lr__stored *stored = lr__stored_find(&gguf->tensors, name);
    int64_t count = config->head_size / 2;
    lr__config banded = {0};
    float *expected = NULL;
    lr_status status = LR_OK;
    if (!stored) return LR_OK;
    LR_FAIL_IF(stored->dtype != LR_F32 || stored->ndim != 1 || stored->shape[0] != count ||
                   config->rope.type != LR__ROPE_DEFAULT,
               LR_E_UNSUPPORTED, "%s: %s: expected %lld numbers of F32 and no other scaling",
               gguf->mapping->path, name, (long long)count);
    LR_TRY(with_bands(&banded, config, gguf, stored->data));
    LR_TRY(lr__new(&expected, (size_t)count, sizeof *expected));
    lr__rope_factors(&banded, expected);
    LR_FAIL_IF(!are_near(stored->data, expected, count), LR_E_UNSUPPORTED,
               "%s: %s: frequency factors that are not Llama 3's", gguf->mapping->path, name);
    lr__config_clear(config);
    *config = banded;
    banded = (lr__config){0};
done:
    lr__config_clear(&banded);
    lr__free(expected);
    return status;
}
