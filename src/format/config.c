/* config.json of the Llama family, in the keys of transformers 4 and 5. */
#include "format/config.h"

#include <math.h>
#include <string.h>

enum { MAX_WINDOW_LAYERS = 28 }; /* what transformers assumes for Qwen */

typedef struct architecture {
    const char *model_type;
    int32_t id;
    int32_t attention_bias, has_qk_norm;
} architecture;

static const architecture architectures[] = {
    {"llama", LR__ARCH_LLAMA, 0, 0},
    {"mistral", LR__ARCH_MISTRAL, 0, 0},
    {"qwen2", LR__ARCH_QWEN2, 1, 0},
    {"qwen3", LR__ARCH_QWEN3, 0, 1},
};

static lr_status find_architecture(const architecture **out, const json_t *json,
                                   const char *where) {
    const char *type = json_string_value(json_object_get(json, "model_type"));
    const json_t *base = json_object_get(json_object_get(json, "lowrank"), "base_model_type");
    if (json_is_string(base)) type = json_string_value(base);
    if (!type) return lr__fail(LR_E_FORMAT, "%s: no \"model_type\"", where);
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (!strcmp(type, architectures[i].model_type)) {
            *out = &architectures[i];
            return LR_OK;
        }
    return lr__fail(LR_E_UNSUPPORTED,
                    "%s: model_type \"%s\", expected llama, mistral, qwen2 or qwen3", where, type);
}

/* Member as a positive int32; `fallback` when absent, an error when that is 0. */
static lr_status read_size(const json_t *json, const char *key, int32_t fallback, int64_t most,
                           int32_t *out, const char *where) {
    int64_t value = fallback;
    lr_status status = lr__json_int(json, key, &value, where);
    if (status < 0) return status;
    if (value < 1 || value > most)
        return lr__fail(LR_E_FORMAT, "%s: %s %lld, expected 1 to %lld", where, key,
                        (long long)value, (long long)most);
    *out = (int32_t)value;
    return LR_OK;
}

static lr_status read_sizes(lr__config *c, const json_t *json, const char *where) {
    lr_status status = LR_OK;
    LR_TRY(read_size(json, "num_hidden_layers", 0, 4096, &c->layers, where));
    LR_TRY(read_size(json, "hidden_size", 0, 1 << 20, &c->hidden_size, where));
    LR_TRY(read_size(json, "intermediate_size", 0, 1 << 22, &c->intermediate_size, where));
    LR_TRY(read_size(json, "num_attention_heads", 0, 65536, &c->heads, where));
    LR_TRY(read_size(json, "num_key_value_heads", c->heads, 65536, &c->key_value_heads, where));
    LR_TRY(read_size(json, "vocab_size", 0, 1 << 24, &c->vocabulary_size, where));
    LR_TRY(read_size(json, "max_position_embeddings", 2048, INT32_MAX, &c->context_length, where));
    if (!json_object_get(json, "head_dim") || json_is_null(json_object_get(json, "head_dim"))) {
        LR_FAIL_IF(c->hidden_size % c->heads, LR_E_FORMAT,
                   "%s: hidden_size %d is not a multiple of num_attention_heads %d", where,
                   c->hidden_size, c->heads);
        c->head_size = c->hidden_size / c->heads;
    } else
        LR_TRY(read_size(json, "head_dim", 0, 65536, &c->head_size, where));
    LR_FAIL_IF(c->head_size % 2, LR_E_FORMAT,
               "%s: head size %d is odd; rotary positions need pairs", where, c->head_size);
    LR_FAIL_IF(c->heads % c->key_value_heads, LR_E_FORMAT,
               "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d", where,
               c->heads, c->key_value_heads);
    LR_FAIL_IF((int64_t)c->heads * c->head_size > 1 << 22, LR_E_FORMAT,
               "%s: %d heads of %d numbers are beyond any model", where, c->heads, c->head_size);
done:
    return status;
}

static lr_status check_positive(double value, const char *key, const char *where) {
    if (value > 0 && isfinite(value)) return LR_OK;
    return lr__fail(LR_E_FORMAT, "%s: %s %g, expected a positive number", where, key, value);
}

static lr_status rope_type_of(const json_t *rope, int32_t *type, const char *where) {
    static const struct {
        const char *name;
        int32_t type;
    } types[] = {
        {"default", LR__ROPE_DEFAULT},
        {"linear", LR__ROPE_LINEAR},
        {"llama3", LR__ROPE_LLAMA3},
        {"yarn", LR__ROPE_YARN},
    };
    const json_t *value = json_object_get(rope, "rope_type");
    if (!value) value = json_object_get(rope, "type");
    const char *name = value ? json_string_value(value) : "default";
    for (size_t i = 0; name && i < sizeof types / sizeof *types; i++)
        if (!strcmp(name, types[i].name)) {
            *type = types[i].type;
            return LR_OK;
        }
    return lr__fail(LR_E_UNSUPPORTED,
                    "%s: rope type \"%s\", expected default, linear, llama3 or yarn", where,
                    name ? name : "(not text)");
}

static lr_status check_rope(const lr__rope_config *r, const char *where) {
    lr_status status = LR_OK;
    LR_TRY(check_positive(r->theta, "rope_theta", where));
    LR_TRY(check_positive(r->factor, "rope factor", where));
    LR_TRY(check_positive((double)r->original_context, "original_max_position_embeddings", where));
    LR_TRY(check_positive(r->low_factor, "low_freq_factor", where));
    LR_TRY(check_positive(r->beta_fast, "beta_fast", where));
    LR_TRY(check_positive(r->beta_slow, "beta_slow", where));
    LR_FAIL_IF(r->type == LR__ROPE_LLAMA3 && !(r->high_factor > r->low_factor), LR_E_FORMAT,
               "%s: high_freq_factor %g, expected more than low_freq_factor %g", where,
               r->high_factor, r->low_factor);
    LR_FAIL_IF(r->type == LR__ROPE_YARN && !(r->theta > 1), LR_E_FORMAT,
               "%s: rope_theta %g, expected more than 1 with yarn", where, r->theta);
    LR_FAIL_IF(!(r->attention_factor >= 0), LR_E_FORMAT,
               "%s: attention_factor %g, expected a positive number", where, r->attention_factor);
done:
    return status;
}

static lr_status read_rope(lr__config *c, const json_t *json, const char *where) {
    lr_status status = LR_OK;
    lr__rope_config *r = &c->rope;
    const json_t *rope = json_object_get(json, "rope_parameters");
    if (!json_is_object(rope)) rope = json_object_get(json, "rope_scaling");
    r->theta = 10000;
    r->factor = r->low_factor = r->beta_slow = 1;
    r->high_factor = 4;
    r->beta_fast = 32;
    r->truncate = 1;
    r->original_context = c->context_length;
    LR_TRY(lr__json_real(json, "rope_theta", &r->theta, where));
    if (json_is_object(rope)) {
        LR_TRY(rope_type_of(rope, &r->type, where));
        LR_FAIL_IF(r->type != LR__ROPE_DEFAULT && !json_is_number(json_object_get(rope, "factor")),
                   LR_E_FORMAT, "%s: rope scaling without a \"factor\"", where);
        LR_TRY(lr__json_real(rope, "rope_theta", &r->theta, where));
        LR_TRY(lr__json_real(rope, "factor", &r->factor, where));
        LR_TRY(lr__json_real(rope, "low_freq_factor", &r->low_factor, where));
        LR_TRY(lr__json_real(rope, "high_freq_factor", &r->high_factor, where));
        LR_TRY(lr__json_real(rope, "beta_fast", &r->beta_fast, where));
        LR_TRY(lr__json_real(rope, "beta_slow", &r->beta_slow, where));
        LR_TRY(lr__json_real(rope, "attention_factor", &r->attention_factor, where));
        LR_TRY(lr__json_real(rope, "mscale", &r->mscale, where));
        LR_TRY(lr__json_real(rope, "mscale_all_dim", &r->mscale_all, where));
        LR_TRY(lr__json_bool(rope, "truncate", &r->truncate, where));
        LR_TRY(lr__json_int(rope, "original_max_position_embeddings", &r->original_context, where));
    }
    LR_TRY(check_rope(r, where));
done:
    return status;
}

/* Layers from some layer on attend within the window: the one pattern these families have. */
static lr_status first_sliding(lr__config *c, const json_t *json, const char *where) {
    int64_t first = c->architecture == LR__ARCH_MISTRAL ? 0 : MAX_WINDOW_LAYERS;
    const json_t *types = json_object_get(json, "layer_types");
    lr_status status = LR_OK;
    if (c->architecture != LR__ARCH_MISTRAL)
        LR_TRY(lr__json_int(json, "max_window_layers", &first, where));
    first = first < 0 ? 0 : first > c->layers ? c->layers : first;
    LR_FAIL_IF(json_is_array(types) && json_array_size(types) != (size_t)c->layers, LR_E_FORMAT,
               "%s: layer_types of %zu layers, expected %d", where, json_array_size(types),
               c->layers);
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        const char *expected = (int64_t)i < first ? "full_attention" : "sliding_attention";
        LR_FAIL_IF(!type || strcmp(type, expected), LR_E_UNSUPPORTED,
                   "%s: layer_types: \"%s\" at %zu, expected \"%s\"", where,
                   type ? type : "(not text)", i, expected);
    }
    c->first_sliding_layer = (int32_t)first;
done:
    return status;
}

static lr_status read_window(lr__config *c, const json_t *json, const char *where) {
    int64_t window = 0;
    int32_t in_use = c->architecture == LR__ARCH_MISTRAL;
    lr_status status = LR_OK;
    const json_t *value = json_object_get(json, "sliding_window");
    if (c->architecture == LR__ARCH_LLAMA || !value || json_is_null(value)) return LR_OK;
    LR_TRY(lr__json_int(json, "sliding_window", &window, where));
    LR_TRY(lr__json_bool(json, "use_sliding_window", &in_use, where));
    if (!in_use) return LR_OK;
    LR_FAIL_IF(window < 1 || window > INT32_MAX, LR_E_FORMAT,
               "%s: sliding_window %lld, expected 1 to %d", where, (long long)window, INT32_MAX);
    c->sliding_window = (int32_t)window;
    status = first_sliding(c, json, where);
done:
    return status;
}

lr_status lr__config_from_json(lr__config *out, json_t *json, const char *where) {
    lr_status status = LR_OK;
    const architecture *arch = NULL;
    const json_t *activation = json_object_get(json, "hidden_act");
    memset(out, 0, sizeof *out);
    LR_TRY(find_architecture(&arch, json, where));
    out->architecture = arch->id;
    out->attention_bias = arch->attention_bias;
    out->has_qk_norm = arch->has_qk_norm;
    LR_FAIL_IF(json_is_string(activation) && strcmp(json_string_value(activation), "silu"),
               LR_E_UNSUPPORTED, "%s: hidden_act \"%s\", expected \"silu\"", where,
               json_string_value(activation));
    LR_TRY(read_sizes(out, json, where));
    out->norm_epsilon = 1e-6;
    LR_TRY(lr__json_real(json, "rms_norm_eps", &out->norm_epsilon, where));
    LR_TRY(check_positive(out->norm_epsilon, "rms_norm_eps", where));
    LR_TRY(lr__json_bool(json, "tie_word_embeddings", &out->is_tied, where));
    if (arch->id != LR__ARCH_QWEN2) {
        LR_TRY(lr__json_bool(json, "attention_bias", &out->attention_bias, where));
        out->output_bias = out->attention_bias;
    }
    if (arch->id == LR__ARCH_LLAMA) LR_TRY(lr__json_bool(json, "mlp_bias", &out->mlp_bias, where));
    LR_TRY(read_rope(out, json, where));
    LR_TRY(read_window(out, json, where));
    out->json = json_incref(json);
done:
    return status;
}

void lr__config_clear(lr__config *config) {
    json_decref(config->json);
    memset(config, 0, sizeof *config);
}
