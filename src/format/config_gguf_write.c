/* A configuration as GGUF metadata: the counterpart of config_gguf.c. */
#include "format/gguf_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { KEY_SIZE = 96 };

const char *lr__gguf_architecture(const lr__config *config) {
    switch (config->architecture) {
    case LR__ARCH_QWEN2: return "qwen2";
    case LR__ARCH_QWEN3: return "qwen3";
    default: return "llama";
    }
}

int32_t lr__gguf_context(const lr__config *config) {
    int is_used = config->sliding_window && config->first_sliding_layer < config->layers;
    return is_used && config->sliding_window < config->context_length ? config->sliding_window
                                                                      : config->context_length;
}

/* Where keys go, below the architecture's name. */
typedef struct keys {
    lr__gguf_writer *writer;
    const char *architecture;
} keys;

static const char *key_of(char out[KEY_SIZE], const keys *k, const char *name) {
    snprintf(out, KEY_SIZE, "%s.%s", k->architecture, name);
    return out;
}

static lr_status put_int(const keys *k, const char *name, int64_t value) {
    char key[KEY_SIZE];
    return lr__gguf_put_u32(k->writer, key_of(key, k, name), value);
}

static lr_status put_real(const keys *k, const char *name, double value) {
    char key[KEY_SIZE];
    return lr__gguf_put_f32(k->writer, key_of(key, k, name), value);
}

static lr_status put_type(const keys *k, const char *type) {
    char key[KEY_SIZE];
    return lr__gguf_put_text(k->writer, key_of(key, k, "rope.scaling.type"),
                             (lr__text){type, strlen(type)});
}

/* GGUF's readers make the magnitude of YaRN from the factor alone, and round its range. */
static lr_status check_yarn(const lr__rope_config *r) {
    double usual = r->factor <= 1 ? 1 : 0.1 * log(r->factor) + 1;
    int is_usual = r->attention_factor > 0 ? fabs(r->attention_factor - usual) < 1e-6 * usual
                                           : !(r->mscale > 0 && r->mscale_all > 0);
    if (is_usual && r->truncate) return LR_OK;
    return lr__fail(LR_E_UNSUPPORTED,
                    "rope_scaling: YaRN with %s, for which GGUF has no key; save a folder instead",
                    is_usual ? "\"truncate\" false" : "a magnitude of its own");
}

static lr_status put_yarn(const keys *k, const lr__rope_config *r) {
    lr_status status = LR_OK;
    LR_TRY(check_yarn(r));
    LR_TRY(put_type(k, "yarn"));
    LR_TRY(put_real(k, "rope.scaling.factor", r->factor));
    LR_TRY(put_int(k, "rope.scaling.original_context_length", r->original_context));
    LR_TRY(put_real(k, "rope.scaling.yarn_beta_fast", r->beta_fast));
    LR_TRY(put_real(k, "rope.scaling.yarn_beta_slow", r->beta_slow));
done:
    return status;
}

static lr_status put_rope(const keys *k, const lr__config *c) {
    lr_status status = LR_OK;
    LR_TRY(put_int(k, "rope.dimension_count", c->head_size));
    LR_TRY(put_real(k, "rope.freq_base", c->rope.theta));
    switch (c->rope.type) {
    case LR__ROPE_LINEAR:
        LR_TRY(put_type(k, "linear"));
        LR_TRY(put_real(k, "rope.scaling.factor", c->rope.factor));
        break;
    case LR__ROPE_YARN: LR_TRY(put_yarn(k, &c->rope)); break;
    case LR__ROPE_LLAMA3: /* its factors are a tensor */
        LR_TRY(put_int(k, "rope.scaling.original_context_length", c->rope.original_context));
        break;
    default: break;
    }
done:
    return status;
}

lr_status lr__config_to_gguf(lr__gguf_writer *writer, const lr__config *c) {
    const keys k = {writer, lr__gguf_architecture(c)};
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {
        {"vocab_size", c->vocabulary_size},
        {"context_length", lr__gguf_context(c)},
        {"embedding_length", c->hidden_size},
        {"block_count", c->layers},
        {"feed_forward_length", c->intermediate_size},
        {"attention.head_count", c->heads},
        {"attention.head_count_kv", c->key_value_heads},
        {"attention.key_length", c->head_size},
        {"attention.value_length", c->head_size},
    };
    lr_status status = LR_OK;
    LR_TRY(lr__gguf_put_text(writer, "general.architecture",
                             (lr__text){k.architecture, strlen(k.architecture)}));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        LR_TRY(put_int(&k, sizes[i].name, sizes[i].value));
    LR_TRY(put_real(&k, "attention.layer_norm_rms_epsilon", c->norm_epsilon));
    LR_TRY(put_rope(&k, c));
done:
    return status;
}
