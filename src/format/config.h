/* What a model is, from config.json or from GGUF metadata. */
#ifndef LR_FORMAT_CONFIG_H
#define LR_FORMAT_CONFIG_H

#include "base/json.h"
#include "format/gguf.h"

enum { LR__ARCH_LLAMA, LR__ARCH_MISTRAL, LR__ARCH_QWEN2, LR__ARCH_QWEN3 };
enum { LR__ROPE_DEFAULT, LR__ROPE_LINEAR, LR__ROPE_LLAMA3, LR__ROPE_YARN };

typedef struct lr__rope_config {
    int32_t type;
    double theta, factor;
    double low_factor, high_factor; /* llama3 */
    double beta_fast, beta_slow;    /* yarn */
    double attention_factor;        /* yarn; 0: from factor */
    double mscale, mscale_all;      /* yarn; 0: not given */
    int32_t truncate;               /* yarn: round the correction range */
    int64_t original_context;
} lr__rope_config;

typedef struct lr__config {
    int32_t architecture;
    int32_t layers, hidden_size, intermediate_size, heads, key_value_heads, head_size;
    int32_t vocabulary_size, context_length;
    int32_t sliding_window;      /* 0: none */
    int32_t first_sliding_layer; /* layers below attend to everything */
    int32_t is_tied, attention_bias, output_bias, mlp_bias, has_qk_norm;
    double norm_epsilon;
    lr__rope_config rope;
    json_t *json; /* Hugging Face keys, what was not understood carried along; owned */
} lr__config;

/* Every value is checked against the others and against sane bounds. `json` is kept. */
lr_status lr__config_from_json(lr__config *out, json_t *json, const char *where);
lr_status lr__config_from_gguf(lr__config *out, const lr__gguf *gguf);
void lr__config_clear(lr__config *config);

#endif
