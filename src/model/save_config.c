/* config.json: the source's own, so that what we do not understand is carried along. */
#include "model/graph.h"
#include "model/save.h"

#include <stdio.h>

static const struct {
    const char *model_type, *class_name;
} bases[] = {[LR__ARCH_LLAMA] = {"llama", "Llama"},
             [LR__ARCH_MISTRAL] = {"mistral", "Mistral"},
             [LR__ARCH_QWEN2] = {"qwen2", "Qwen2"},
             [LR__ARCH_QWEN3] = {"qwen3", "Qwen3"}};

/* The type transformers computes in. Q8 weights are widened as it runs, and the vectors beside
 * them are F32. */
static const char *type_name(int32_t dtype) {
    return dtype == LR_F16 ? "float16" : dtype == LR_BF16 ? "bfloat16" : "float32";
}

static lr_status set_plain(json_t *config, const char *model_type, const char *class_name) {
    lr_status status = LR_OK;
    LR_TRY(lr__json_set(config, "model_type", json_string(model_type)));
    LR_TRY(lr__json_set(config, "architectures", json_pack("[s+]", class_name, "ForCausalLM")));
done:
    return status;
}

/* The classes of modeling_lowrank.py. */
static lr_status set_lowrank(json_t *config, const char *model_type, const char *class_name,
                             json_t *modules) {
    static const char file[] = "modeling_lowrank.LowRank";
    lr_status status = LR_OK;
    LR_TRY(lr__json_set(config, "model_type", json_pack("s+", "lowrank_", model_type)));
    LR_TRY(lr__json_set(config, "architectures",
                        json_pack("[s++]", "LowRank", class_name, "ForCausalLM")));
    LR_TRY(lr__json_set(config, "auto_map",
                        json_pack("{s:s++, s:s++}", "AutoConfig", file, class_name, "Config",
                                  "AutoModelForCausalLM", file, class_name, "ForCausalLM")));
    LR_TRY(lr__json_set(config, "lowrank",
                        json_pack("{s:i, s:s, s:O}", "version", 1, "base_model_type", model_type,
                                  "modules", modules)));
done:
    return status;
}

lr_status lr__save_config(json_t **out, const lr__graph *graph, const lr__save_plan *plan) {
    const lr__config *c = &graph->origin->config;
    const char *type = type_name(plan->tensors.dtype);
    const char *model_type = bases[c->architecture].model_type;
    const char *class_name = bases[c->architecture].class_name;
    lr_status status = LR_OK;
    json_t *config = json_deep_copy(c->json);
    *out = NULL;
    LR_FAIL_IF(!config, LR_E_NOMEM, "out of memory for JSON");
    json_object_del(config, "lowrank");
    json_object_del(config, "auto_map");
    LR_TRY(json_object_size(plan->modules)
               ? set_lowrank(config, model_type, class_name, plan->modules)
               : set_plain(config, model_type, class_name));
    LR_TRY(lr__json_set(config, "dtype", json_string(type)));
    LR_TRY(lr__json_set(config, "torch_dtype", json_string(type)));
    LR_TRY(lr__json_set(config, "tie_word_embeddings", json_boolean(plan->is_tied)));
    if (plan->attention_bias != c->attention_bias)
        LR_TRY(lr__json_set(config, "attention_bias", json_boolean(plan->attention_bias)));
    if (plan->mlp_bias != c->mlp_bias)
        LR_TRY(lr__json_set(config, "mlp_bias", json_boolean(plan->mlp_bias)));
    *out = config;
    config = NULL;
done:
    json_decref(config);
    return status;
}
