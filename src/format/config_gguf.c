/* The same configuration from GGUF metadata, in Hugging Face keys. */
#include "format/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static lr_status architecture_of(const lr__gguf *gguf, char *out, size_t size) {
    lr__text text = {NULL, 0};
    lr_status status = lr__gguf_text(gguf, "general.architecture", &text);
    if (status < 0) return status;
    if (!text.data || text.size >= size)
        return lr__fail(LR_E_FORMAT, "%s: no general.architecture", gguf->mapping->path);
    memcpy(out, text.data, text.size);
    out[text.size] = '\0';
    if (strcmp(out, "llama") && strcmp(out, "qwen2") && strcmp(out, "qwen3"))
        return lr__fail(LR_E_UNSUPPORTED,
                        "%s: general.architecture \"%s\", expected llama, qwen2 or qwen3",
                        gguf->mapping->path, out);
    return LR_OK;
}

static lr_status put_int(json_t *json, const char *key, const lr__gguf *gguf, const char *arch,
                         const char *gguf_key) {
    char name[128];
    int64_t value = 0;
    snprintf(name, sizeof name, "%s.%s", arch, gguf_key);
    if (!lr__gguf_find(gguf, name)) return LR_OK;
    lr_status status = lr__gguf_int(gguf, name, &value);
    if (status < 0) return status;
    if (json_object_set_new(json, key, json_integer(value))) return lr__nomem(64);
    return LR_OK;
}

static lr_status put_real(json_t *json, const char *key, const lr__gguf *gguf, const char *arch,
                          const char *gguf_key) {
    char name[128];
    double value = 0;
    snprintf(name, sizeof name, "%s.%s", arch, gguf_key);
    if (!lr__gguf_find(gguf, name)) return LR_OK;
    lr_status status = lr__gguf_real(gguf, name, &value);
    if (status < 0) return status;
    if (!isfinite(value))
        return lr__fail(LR_E_FORMAT, "%s: %s is not finite", gguf->mapping->path, name);
    char
        text[32]; /* the shortest decimal that gives the same binary32: 1e-05, not 9.99999975e-06 */
    snprintf(text, sizeof text, "%.7g", value);
    double shorter = strtod(text, NULL);
    if ((float)shorter != (float)value) shorter = value;
    if (json_object_set_new(json, key, json_real(shorter))) return lr__nomem(64);
    return LR_OK;
}

/* Factors that Hugging Face's keys have no place for. */
static lr_status refuse_factor(const lr__gguf *gguf, const char *arch, const char *gguf_key) {
    char name[128];
    double value = 1;
    snprintf(name, sizeof name, "%s.%s", arch, gguf_key);
    lr_status status = lr__gguf_real(gguf, name, &value);
    if (status < 0 || value == 1) return status;
    return lr__fail(LR_E_UNSUPPORTED, "%s: %s %g, expected 1", gguf->mapping->path, name, value);
}

static lr_status put_rope(json_t *json, const lr__gguf *gguf, const char *arch) {
    char name[128];
    lr__text type = {NULL, 0};
    lr_status status = LR_OK;
    json_t *rope = NULL;
    snprintf(name, sizeof name, "%s.rope.scaling.type", arch);
    LR_TRY(lr__gguf_text(gguf, name, &type));
    if (!type.data || (type.size == 4 && !memcmp(type.data, "none", 4))) return LR_OK;
    LR_FAIL_IF(!(rope = json_object()), LR_E_NOMEM, "out of memory");
    for (size_t i = 0; i < type.size; i++)
        LR_FAIL_IF(type.data[i] < ' ' || type.data[i] > '~', LR_E_FORMAT, "%s: %s is not a name",
                   gguf->mapping->path, name);
    LR_FAIL_IF(json_object_set_new(rope, "rope_type", json_stringn(type.data, type.size)),
               LR_E_NOMEM, "out of memory");
    LR_TRY(put_real(rope, "factor", gguf, arch, "rope.scaling.factor"));
    LR_TRY(put_int(rope, "original_max_position_embeddings", gguf, arch,
                   "rope.scaling.original_context_length"));
    LR_TRY(put_real(rope, "beta_fast", gguf, arch, "rope.scaling.yarn_beta_fast"));
    LR_TRY(put_real(rope, "beta_slow", gguf, arch, "rope.scaling.yarn_beta_slow"));
    LR_TRY(refuse_factor(gguf, arch, "rope.scaling.attn_factor"));
    LR_TRY(refuse_factor(gguf, arch, "rope.scaling.yarn_attn_factor"));
    LR_FAIL_IF(json_object_set(json, "rope_scaling", rope), LR_E_NOMEM, "out of memory");
done:
    json_decref(rope);
    return status;
}

static lr_status put_token(json_t *json, const char *key, const lr__gguf *gguf,
                           const char *gguf_key) {
    int64_t id = -1;
    lr_status status = lr__gguf_int(gguf, gguf_key, &id);
    if (status >= 0 && id >= 0 && json_object_set_new(json, key, json_integer(id)))
        return lr__nomem(64);
    return status;
}

static lr_status put_sizes(json_t *json, const lr__gguf *gguf, const char *arch) {
    static const struct {
        const char *key, *gguf_key;
    } sizes[] = {
        {"num_hidden_layers", "block_count"},
        {"hidden_size", "embedding_length"},
        {"intermediate_size", "feed_forward_length"},
        {"num_attention_heads", "attention.head_count"},
        {"num_key_value_heads", "attention.head_count_kv"},
        {"head_dim", "attention.key_length"},
        {"max_position_embeddings", "context_length"},
        {"sliding_window", "attention.sliding_window"},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        lr_status status = put_int(json, sizes[i].key, gguf, arch, sizes[i].gguf_key);
        if (status < 0) return status;
    }
    return LR_OK;
}

/* What GGUF leaves to the tensors: vocabulary, tied head, biases. */
static lr_status put_facts_of_tensors(json_t *json, const lr__gguf *gguf, const char *arch) {
    const lr__stored *embedding = lr__stored_find(&gguf->tensors, "token_embd.weight");
    int failed = 0;
    if (!embedding || embedding->ndim != 2)
        return lr__fail(LR_E_NOTFOUND, "%s: no matrix token_embd.weight", gguf->mapping->path);
    failed |= json_object_set_new(json, "vocab_size", json_integer(embedding->shape[0]));
    failed |= json_object_set_new(json, "tie_word_embeddings",
                                  json_boolean(!lr__stored_find(&gguf->tensors, "output.weight")));
    if (!strcmp(arch, "llama")) {
        failed |= json_object_set_new(
            json, "attention_bias",
            json_boolean(lr__stored_find(&gguf->tensors, "blk.0.attn_q.bias") != NULL));
        failed |= json_object_set_new(
            json, "mlp_bias",
            json_boolean(lr__stored_find(&gguf->tensors, "blk.0.ffn_up.bias") != NULL));
    }
    return failed ? lr__nomem(64) : LR_OK;
}

static lr_status check_rotary_size(const lr__gguf *gguf, const char *arch, int32_t head_size) {
    char name[128];
    int64_t size = head_size;
    snprintf(name, sizeof name, "%s.rope.dimension_count", arch);
    lr_status status = lr__gguf_int(gguf, name, &size);
    if (status < 0 || size == head_size) return status;
    return lr__fail(LR_E_UNSUPPORTED, "%s: %s %lld, expected the head size %d", gguf->mapping->path,
                    name, (long long)size, head_size);
}

static const char *class_name(const char *arch) {
    return !strcmp(arch, "qwen2")   ? "Qwen2ForCausalLM"
           : !strcmp(arch, "qwen3") ? "Qwen3ForCausalLM"
                                    : "LlamaForCausalLM";
}

lr_status lr__config_from_gguf(lr__config *out, const lr__gguf *gguf) {
    lr_status status = LR_OK;
    char arch[32];
    json_t *json = NULL;
    memset(out, 0, sizeof *out);
    LR_TRY(architecture_of(gguf, arch, sizeof arch));
    json = json_pack("{s:[s], s:s, s:s, s:f}", "architectures", class_name(arch), "model_type",
                     arch, "hidden_act", "silu", "initializer_range", 0.02);
    LR_FAIL_IF(!json, LR_E_NOMEM, "out of memory");
    LR_TRY(put_sizes(json, gguf, arch));
    LR_TRY(put_real(json, "rms_norm_eps", gguf, arch, "attention.layer_norm_rms_epsilon"));
    LR_TRY(put_real(json, "rope_theta", gguf, arch, "rope.freq_base"));
    LR_TRY(put_rope(json, gguf, arch));
    LR_TRY(put_facts_of_tensors(json, gguf, arch));
    LR_TRY(put_token(json, "bos_token_id", gguf, "tokenizer.ggml.bos_token_id"));
    LR_TRY(put_token(json, "eos_token_id", gguf, "tokenizer.ggml.eos_token_id"));
    LR_TRY(put_token(json, "pad_token_id", gguf, "tokenizer.ggml.padding_token_id"));
    LR_TRY(lr__config_from_json(out, json, gguf->mapping->path));
    LR_TRY(check_rotary_size(gguf, arch, out->head_size));
done:
    if (status < 0) lr__config_clear(out);
    json_decref(json);
    return status;
}
