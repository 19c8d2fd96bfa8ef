/* Opening: tensors of a folder or a GGUF become the parameters of a graph. */
#include "format/safetensors.h"
#include "model/gguf_layout.h"
#include "model/gguf_rope.h"
#include "model/graph.h"
#include "model/structure.h"

#include <stdio.h>
#include <string.h>

enum { NAME_SIZE = 256, CONFIG_MOST = 64 << 20 };

typedef struct loader {
    lr_ctx *ctx;
    lr__origin *origin;
    const lr__config *config;
    const lr__stored_list *list;
    const json_t *modules; /* of the "lowrank" section, or NULL */
    lr__param_cache cache;
    lr__index *q_rows, *k_rows; /* GGUF: usual row -> stored row */
} loader;

static lr_status check_gguf_type(const loader *l, const char *name) {
    const lr__stored *stored = l->origin->gguf ? lr__stored_find(l->list, name) : NULL;
    if (!stored || stored->dtype >= 0) return LR_OK;
    return lr__fail(
        LR_E_UNSUPPORTED,
        "%s: type %s, expected F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K",
        name, lr__gguf_type_name(-1 - stored->dtype));
}

/* The tensor `<module>.<kind>` as it is stored, renamed to its usual name, of the wanted shape
 * (cols 0: one dimension). */
static lr_status load_param(loader *l, const char *module, const char *kind, int64_t rows,
                            int64_t cols, lr__param **out) {
    char stored_module[NAME_SIZE], stored[NAME_SIZE + 16], usual[NAME_SIZE + 16];
    lr_status status = LR_OK;
    if (l->origin->gguf)
        lr__gguf_module_name(module, stored_module, sizeof stored_module);
    else
        snprintf(stored_module, sizeof stored_module, "%s", module);
    snprintf(stored, sizeof stored, "%s.%s", stored_module, kind);
    snprintf(usual, sizeof usual, "%s.%s", module, kind);
    LR_TRY(check_gguf_type(l, stored));
    LR_TRY(lr__param_of_stored(out, l->list, stored, NULL, &l->cache));
    const lr__matrix *m = &(*out)->matrix;
    LR_FAIL_IF((*out)->ndim != (cols ? 2 : 1) || m->rows != rows || m->cols != (cols ? cols : 1),
               LR_E_SHAPE, "%s: shape [%lld%s%.0lld], expected [%lld%s%.0lld]", stored,
               (long long)m->rows, (*out)->ndim == 2 ? ", " : "",
               (long long)((*out)->ndim == 2 ? m->cols : 0), (long long)rows, cols ? ", " : "",
               (long long)cols);
    if (strcmp((*out)->name, usual)) {
        char *name;
        LR_TRY(lr__dup(&name, usual));
        lr__free((*out)->name);
        (*out)->name = name;
    }
done:
    if (status < 0) {
        lr__param_drop(*out);
        *out = NULL;
    }
    return status;
}

static lr_status order_bias(lr__param **bias, const lr__index *rows, const lr_ctx *ctx) {
    lr__param *usual;
    lr_status status = lr__gguf_order_vector(&usual, *bias, rows, ctx->device.kernels);
    if (status < 0) return status;
    lr__param_drop(*bias);
    *bias = usual;
    return LR_OK;
}

static lr_status dense_linear(loader *l, const char *module, int64_t outs, int64_t ins,
                              int32_t has_bias, lr__index *rows, lr_linear **out) {
    lr_status status = LR_OK;
    lr__param *weight = NULL, *bias = NULL;
    lr_linear *linear = NULL;
    LR_TRY(load_param(l, module, "weight", outs, ins, &weight));
    if (has_bias) LR_TRY(load_param(l, module, "bias", outs, 0, &bias));
    if (bias && rows) LR_TRY(order_bias(&bias, rows, l->ctx));
    lr__op ops[2] = {{.kind = LR__OP_GATHER, .out = outs, .in = outs, .index = rows},
                     {.kind = LR__OP_MATRIX, .out = outs, .in = ins, .param = weight}};
    LR_TRY(lr__linear_new(&linear, l->ctx, module, outs, ins));
    linear->bias = lr__param_keep(bias);
    LR_TRY(lr__linear_add_term(linear, 1, rows ? ops : ops + 1, rows ? 2 : 1, NULL));
    *out = linear;
    linear = NULL;
done:
    lr_linear_free(linear);
    lr__param_drop(weight);
    lr__param_drop(bias);
    return status;
}

static lr_status load_linear(loader *l, const char *module, int64_t outs, int64_t ins,
                             int32_t has_bias, lr__index *rows, lr_linear **out) {
    const json_t *structure = json_object_get(l->modules, module);
    if (structure)
        return lr__structure_read(out, l->ctx, module, outs, ins, structure, l->list, &l->cache);
    return dense_linear(l, module, outs, ins, has_bias, rows, out);
}

/* Extents of the MLP: gate and up write the axis, down reads it. */
static lr_status name_intermediate_axis(lr__block *block, int64_t size) {
    lr__axis *axis;
    lr_status status = lr__axis_new(&axis, size, "%s.intermediate", block->name);
    if (status < 0) return status;
    for (int i = LR__GATE; i <= LR__DOWN; i++)
        lr__linear_name_axis(block->linears[i], axis, i != LR__DOWN);
    lr__axis_drop(axis);
    return LR_OK;
}

static lr_status load_norm(loader *l, const char *block, const char *part, int64_t size,
                           lr__param **out) {
    char module[NAME_SIZE];
    snprintf(module, sizeof module, "%s.%s", block, part);
    return load_param(l, module, "weight", size, 0, out);
}

static lr_status load_block(loader *l, lr__block *block) {
    const lr__config *c = l->config;
    lr_status status = LR_OK;
    int64_t hidden = c->hidden_size, wide = c->intermediate_size;
    int64_t q = (int64_t)c->heads * c->head_size, kv = (int64_t)c->key_value_heads * c->head_size;
    const struct {
        int64_t outs, ins;
        int32_t has_bias;
        lr__index *rows;
    } of[LR__BLOCK_LINEARS] = {
        {q, hidden, c->attention_bias, l->q_rows}, {kv, hidden, c->attention_bias, l->k_rows},
        {kv, hidden, c->attention_bias, NULL},     {hidden, q, c->output_bias, NULL},
        {wide, hidden, c->mlp_bias, NULL},         {wide, hidden, c->mlp_bias, NULL},
        {hidden, wide, c->mlp_bias, NULL},
    };
    for (int i = 0; i < LR__BLOCK_LINEARS; i++) {
        char module[NAME_SIZE];
        snprintf(module, sizeof module, "%s.%s", block->name, lr__linear_suffix[i]);
        LR_TRY(load_linear(l, module, of[i].outs, of[i].ins, of[i].has_bias, of[i].rows,
                           &block->linears[i]));
    }
    LR_TRY(name_intermediate_axis(block, wide));
    LR_TRY(load_norm(l, block->name, "input_layernorm", hidden, &block->attention_norm));
    LR_TRY(load_norm(l, block->name, "post_attention_layernorm", hidden, &block->mlp_norm));
    if (!c->has_qk_norm) goto done;
    LR_TRY(load_norm(l, block->name, "self_attn.q_norm", c->head_size, &block->q_norm));
    LR_TRY(load_norm(l, block->name, "self_attn.k_norm", c->head_size, &block->k_norm));
done:
    return status;
}

/* Described only when it is quantised: then it is one matrix with scales. */
static lr_status load_embedding(loader *l, lr__param **out) {
    static const char module[] = "model.embed_tokens";
    int64_t rows = l->config->vocabulary_size, cols = l->config->hidden_size;
    const json_t *structure = json_object_get(l->modules, module);
    lr_linear *linear = NULL;
    lr_status status = LR_OK;
    if (!structure) return load_param(l, module, "weight", rows, cols, out);
    LR_TRY(lr__structure_read(&linear, l->ctx, module, rows, cols, structure, l->list, &l->cache));
    LR_FAIL_IF(
        lr_linear_kind(linear) != LR_LINEAR_DENSE || linear->terms[0].count != 1 || linear->bias,
        LR_E_UNSUPPORTED, "%s: a chain, expected one matrix", module);
    *out = lr__param_keep(linear->terms[0].ops[0].param);
done:
    lr_linear_free(linear);
    return status;
}

static lr_status load_graph(loader *l, lr__graph *graph) {
    const lr__config *c = l->config;
    lr_status status = LR_OK;
    if (l->origin->gguf && (c->architecture == LR__ARCH_LLAMA)) {
        LR_TRY(lr__gguf_head_rows(&l->q_rows, "q rows", c->heads, c->head_size, 0));
        LR_TRY(lr__gguf_head_rows(&l->k_rows, "k rows", c->key_value_heads, c->head_size, 0));
    }
    LR_TRY(load_embedding(l, &graph->embedding));
    for (int32_t i = 0; i < graph->block_count; i++) LR_TRY(load_block(l, &graph->blocks[i]));
    LR_TRY(load_param(l, "model.norm", "weight", c->hidden_size, 0, &graph->final_norm));
    if (c->is_tied && !json_object_get(l->modules, "lm_head"))
        LR_TRY(lr__linear_dense(&graph->head, l->ctx, "lm_head", graph->embedding, NULL));
    else
        LR_TRY(
            load_linear(l, "lm_head", c->vocabulary_size, c->hidden_size, 0, NULL, &graph->head));
done:
    return status;
}

static lr_status open_gguf(lr__origin *origin, const char *path, int copy) {
    lr_status status = lr__gguf_open(&origin->gguf, path, copy);
    if (status < 0) return status;
    status = lr__config_from_gguf(&origin->config, origin->gguf);
    return status < 0 ? status : lr__gguf_read_factors(&origin->config, origin->gguf);
}

static lr_status open_folder(lr__origin *origin, const char *path, int copy) {
    lr_status status = LR_OK;
    char *file = NULL;
    json_t *json = NULL;
    LR_TRY(lr__path_join(&file, path, "config.json"));
    LR_TRY(lr__json_read(&json, file, CONFIG_MOST));
    LR_TRY(lr__config_from_json(&origin->config, json, file));
    LR_FAIL_IF(json_is_object(json_object_get(json, "quantization_config")), LR_E_UNSUPPORTED,
               "%s: quantization_config: quantised folders are not read by this version", file);
    LR_TRY(lr__safetensors_add_folder(&origin->stored, path, copy));
done:
    json_decref(json);
    lr__free(file);
    return status;
}

static lr_status lowrank_section(loader *l, const json_t *json) {
    int64_t version = 0;
    const json_t *section = json_object_get(json, "lowrank");
    if (!section) return LR_OK;
    lr_status status = lr__json_int(section, "version", &version, l->origin->path);
    if (status < 0) return status;
    l->modules = json_object_get(section, "modules");
    if (version != 1 || !json_is_object(l->modules))
        return lr__fail(LR_E_UNSUPPORTED, "%s: \"lowrank\" section of version %lld, expected 1",
                        l->origin->path, (long long)version);
    return LR_OK;
}

static lr_status origin_open(lr__origin **out, const char *path, int copy) {
    lr_status status = LR_OK;
    lr__origin *origin = NULL;
    LR_TRY(lr__new(&origin, 1, sizeof *origin));
    origin->references = 1;
    pthread_mutex_init(&origin->tokenizer_lock, NULL);
    LR_TRY(lr__dup(&origin->path, path));
    LR_TRY(lr__path_is_dir(path) ? open_folder(origin, path, copy) : open_gguf(origin, path, copy));
    *out = origin;
    origin = NULL;
done:
    lr__origin_drop(origin);
    return status;
}

lr_status lr__graph_open(lr__graph **out, lr_ctx *ctx, const char *path, int copy) {
    lr_status status = LR_OK;
    lr__origin *origin = NULL;
    lr__graph *graph = NULL;
    loader l = {.ctx = ctx};
    *out = NULL;
    LR_TRY(origin_open(&origin, path, copy));
    l.origin = origin;
    l.config = &origin->config;
    l.list = origin->gguf ? &origin->gguf->tensors : &origin->stored;
    LR_TRY(lowrank_section(&l, origin->config.json));
    LR_TRY(lr__graph_new(&graph, ctx, origin));
    LR_TRY(load_graph(&l, graph));
    *out = graph;
    graph = NULL;
done:
    lr__index_drop(l.q_rows);
    lr__index_drop(l.k_rows);
    lr__param_cache_clear(&l.cache);
    lr__graph_drop(graph);
    lr__origin_drop(origin);
    return status;
}
