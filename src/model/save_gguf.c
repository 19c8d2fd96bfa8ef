/* lr_model_save_gguf: the graph as tensors in GGUF's names and order, the keys around them. */
#include "format/gguf_write.h"
#include "model/gguf_layout.h"
#include "model/model.h"
#include "model/rope.h"
#include "model/save.h"

#include <stdio.h>
#include <string.h>

enum { NAME_SIZE = 256, QUANTIZATION_VERSION = 2 };

typedef struct gguf_plan {
    const lr__graph *graph;
    int32_t densify;
    lr__outgoing_list tensors;
    lr__index *q_rows, *k_rows; /* stored row -> usual row; NULL: the same */
    int32_t attention_bias, mlp_bias;
    lr__param **owned; /* vectors made for the file */
    size_t owned_count, owned_capacity;
} gguf_plan;

static void plan_clear(gguf_plan *p) {
    lr__outgoing_clear(&p->tensors);
    lr__index_drop(p->q_rows);
    lr__index_drop(p->k_rows);
    for (size_t i = 0; i < p->owned_count; i++) lr__param_drop(p->owned[i]);
    lr__free(p->owned);
}

/* Takes over the vector, also after an error. */
static lr_status own(gguf_plan *p, lr__param *vector) {
    lr_status status =
        lr__grow(&p->owned, &p->owned_capacity, p->owned_count + 1, sizeof(lr__param *));
    if (status < 0)
        lr__param_drop(vector);
    else
        p->owned[p->owned_count++] = vector;
    return status;
}

static lr__index *rows_of(const gguf_plan *p, int which) {
    return which == LR__Q ? p->q_rows : which == LR__K ? p->k_rows : NULL;
}

/* --- biases --- */

/* What llama.cpp's graph of the architecture adds. */
static int has_bias_place(const gguf_plan *p, int which) {
    switch (p->graph->origin->config.architecture) {
    case LR__ARCH_QWEN2: return which <= LR__V;
    case LR__ARCH_QWEN3: return 0;
    default: return 1;
    }
}

/* Biases come for the whole model or not at all: readers look at the first block. */
static lr_status find_biases(gguf_plan *p) {
    p->attention_bias = p->graph->origin->config.architecture == LR__ARCH_QWEN2;
    for (int32_t b = 0; b < p->graph->block_count; b++)
        for (int i = 0; i < LR__BLOCK_LINEARS; i++) {
            const lr_linear *linear = p->graph->blocks[b].linears[i];
            if (!linear->bias) continue;
            if (!has_bias_place(p, i))
                return lr__fail(LR_E_UNSUPPORTED,
                                "%s: has a bias, for which GGUF's architecture %s has no place; "
                                "save a folder instead",
                                linear->name, lr__gguf_architecture(&p->graph->origin->config));
            *(i <= LR__O ? &p->attention_bias : &p->mlp_bias) = 1;
        }
    if (p->graph->head->bias)
        return lr__fail(LR_E_UNSUPPORTED,
                        "lm_head: has a bias, for which GGUF has no place; save a folder instead");
    return LR_OK;
}

static lr_status add_bias(gguf_plan *p, const char *module, const lr_linear *linear, int which) {
    const lr__param *bias = linear->bias;
    const lr__index *rows = rows_of(p, which);
    lr_status status = LR_OK;
    if (!has_bias_place(p, which) || !(which <= LR__O ? p->attention_bias : p->mlp_bias))
        return LR_OK;
    if (bias && rows) {
        lr__param *ordered;
        LR_TRY(lr__gguf_order_vector(&ordered, bias, rows, p->graph->ctx->device.kernels));
        LR_TRY(own(p, ordered));
        bias = ordered;
    }
    status = lr__outgoing_vector(&p->tensors, module, "bias", bias, linear->out);
done:
    return status;
}

/* --- tensors --- */

/* The module with its outputs in another order. */
static lr_status ordered(lr_linear **out, const lr_linear *linear, lr__index *rows) {
    lr_status status = LR_OK;
    lr_linear *copy = NULL;
    lr__op *ops = NULL;
    LR_TRY(lr__linear_new(&copy, linear->ctx, linear->name, linear->out, linear->in));
    for (int32_t t = 0; t < linear->term_count; t++) {
        const lr__term *term = &linear->terms[t];
        LR_TRY(lr__new(&ops, (size_t)term->count + 1, sizeof *ops));
        ops[0] =
            (lr__op){.kind = LR__OP_GATHER, .out = linear->out, .in = linear->out, .index = rows};
        memcpy(ops + 1, term->ops, (size_t)term->count * sizeof *ops);
        LR_TRY(lr__linear_add_term(copy, term->scale, ops, term->count + 1, NULL));
        lr__free(ops);
        ops = NULL;
    }
    *out = copy;
    copy = NULL;
done:
    lr__free(ops);
    lr_linear_free(copy);
    return status;
}

static lr_status add_weight(gguf_plan *p, const char *module, const lr_linear *linear,
                            lr__index *rows) {
    lr_status status = LR_OK;
    lr_linear *base = NULL, *in_order = NULL;
    LR_TRY(lr__save_base(&base, linear));
    LR_FAIL_IF(!p->densify && lr_linear_kind(base) != LR_LINEAR_DENSE, LR_E_UNSUPPORTED,
               "%s: is factorised, and GGUF holds plain matrices: multiply the factors out "
               "(densify), or save a folder",
               linear->name);
    if (rows) LR_TRY(ordered(&in_order, base, rows));
    LR_TRY(lr__outgoing_rows(&p->tensors, module, "weight", rows ? in_order : base));
done:
    lr_linear_free(base);
    lr_linear_free(in_order);
    return status;
}

static lr_status add_norm(gguf_plan *p, const char *block, const char *part,
                          const lr__param *norm) {
    char usual[NAME_SIZE], module[NAME_SIZE];
    if (!norm) return LR_OK;
    snprintf(usual, sizeof usual, "%s.%s", block, part);
    lr__gguf_module_name(usual, module, sizeof module);
    return lr__outgoing_vector(&p->tensors, module, "weight", norm, lr__param_count(norm));
}

static lr_status add_block(gguf_plan *p, const lr__block *block) {
    char usual[NAME_SIZE], module[NAME_SIZE];
    lr_status status = LR_OK;
    LR_TRY(add_norm(p, block->name, "input_layernorm", block->attention_norm));
    LR_TRY(add_norm(p, block->name, "self_attn.q_norm", block->q_norm));
    LR_TRY(add_norm(p, block->name, "self_attn.k_norm", block->k_norm));
    LR_TRY(add_norm(p, block->name, "post_attention_layernorm", block->mlp_norm));
    for (int i = 0; i < LR__BLOCK_LINEARS; i++) {
        snprintf(usual, sizeof usual, "%s.%s", block->name, lr__linear_suffix[i]);
        lr__gguf_module_name(usual, module, sizeof module);
        LR_TRY(add_weight(p, module, block->linears[i], rows_of(p, i)));
        LR_TRY(add_bias(p, module, block->linears[i], i));
    }
done:
    return status;
}

static lr_status add_rope_factors(gguf_plan *p) {
    const lr__config *c = &p->graph->origin->config;
    lr__param *factors = NULL;
    if (c->rope.type != LR__ROPE_LLAMA3) return LR_OK;
    lr_status status = lr__param_new(&factors, "rope_freqs.weight", c->head_size / 2, 1, 1);
    if (status < 0) return status;
    lr__rope_factors(c, lr__param_floats(factors));
    status = own(p, factors);
    if (status < 0) return status;
    return lr__outgoing_vector(&p->tensors, "rope_freqs", "weight", factors, c->head_size / 2);
}

static lr_status plan_make(gguf_plan *p) {
    const lr__graph *graph = p->graph;
    const lr__config *c = &graph->origin->config;
    lr_status status = LR_OK;
    if (c->architecture == LR__ARCH_LLAMA || c->architecture == LR__ARCH_MISTRAL) {
        LR_TRY(lr__gguf_head_rows(&p->q_rows, "q rows", c->heads, c->head_size, 1));
        LR_TRY(lr__gguf_head_rows(&p->k_rows, "k rows", c->key_value_heads, c->head_size, 1));
    }
    LR_TRY(find_biases(p));
    LR_TRY(lr__outgoing_matrix(&p->tensors, "token_embd", "weight", graph->embedding));
    LR_TRY(add_rope_factors(p));
    for (int32_t i = 0; i < graph->block_count; i++) LR_TRY(add_block(p, &graph->blocks[i]));
    LR_TRY(add_norm(p, "model", "norm", graph->final_norm));
    if (!lr__is_head_tied(graph)) LR_TRY(add_weight(p, "output", graph->head, NULL));
done:
    return status;
}

/* --- keys --- */

static int begins(lr__text text, const char *prefix) {
    size_t size = strlen(prefix);
    return text.size >= size && !memcmp(text.data, prefix, size);
}

/* Of the source's general keys those that stay true. */
static int is_carried(lr__text key) {
    static const char *const ours[] = {"general.architecture", "general.file_type",
                                       "general.quantization_version", "general.alignment",
                                       "general.quantized_by"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (key.size == strlen(ours[i]) && begins(key, ours[i])) return 0;
    return begins(key, "general.") || begins(key, "tokenizer.");
}

static lr_status put_keys_of_gguf(lr__gguf_writer *writer, const lr__gguf *gguf) {
    for (size_t i = 0; i < gguf->value_count; i++) {
        if (!is_carried(gguf->values[i].key)) continue;
        lr_status status = lr__gguf_put_value(writer, &gguf->values[i]);
        if (status < 0) return status;
    }
    return LR_OK;
}

/* "models/SmolLM2-135M/" -> "SmolLM2-135M" */
static lr__text last_part(const char *path) {
    size_t end = strlen(path), start;
    while (end > 1 && path[end - 1] == '/') end--;
    for (start = end; start > 0 && path[start - 1] != '/'; start--) continue;
    return (lr__text){path + start, end - start};
}

static lr_status put_keys_of_folder(lr__gguf_writer *writer, const lr__graph *graph) {
    const lr__origin *origin = graph->origin;
    const char *name = json_string_value(json_object_get(origin->config.json, "_name_or_path"));
    lr_status status = LR_OK;
    LR_TRY(lr__gguf_put_text(writer, "general.type", (lr__text){"model", 5}));
    LR_TRY(
        lr__gguf_put_text(writer, "general.name", last_part(name && *name ? name : origin->path)));
    status = lr__tokenizer_to_gguf(writer, origin->path, &origin->config);
    if (status != LR_E_UNSUPPORTED && status != LR_E_NOTFOUND) goto done;
    /* A tokenizer beyond this version must not keep the weights from being saved. */
    lr__log(graph->ctx, LR_LOG_WARNING, "no tokenizer is written: %s", lr_last_error());
    status = lr__gguf_put_text(writer, "tokenizer.ggml.model", (lr__text){"none", 4});
done:
    return status;
}

/* ggml's number for files that are mostly of a type. */
static int32_t file_type(int32_t dtype) {
    return dtype == LR_F32 ? 0 : dtype == LR_F16 ? 1 : dtype == LR_Q8_0 ? 7 : 32;
}

static lr_status put_keys(lr__gguf_writer *writer, const lr__graph *graph, int32_t dtype) {
    const lr__origin *origin = graph->origin;
    lr_status status = LR_OK;
    LR_TRY(lr__config_to_gguf(writer, &origin->config));
    LR_TRY(lr__gguf_put_u32(writer, "general.quantization_version", QUANTIZATION_VERSION));
    LR_TRY(lr__gguf_put_u32(writer, "general.file_type", file_type(dtype)));
    LR_TRY(origin->gguf ? put_keys_of_gguf(writer, origin->gguf)
                        : put_keys_of_folder(writer, graph));
    if (lr__gguf_context(&origin->config) < origin->config.context_length)
        lr__log(graph->ctx, LR_LOG_WARNING,
                "GGUF has no sliding window: a context length of %d is written, not %d",
                lr__gguf_context(&origin->config), origin->config.context_length);
done:
    return status;
}

/* --- the file --- */

static lr_status put_bytes(void *file, const void *data, size_t bytes) {
    return lr__gguf_put(file, data, bytes);
}

static lr_status write_file(const lr__outgoing_list *list, lr__gguf_writer *writer,
                            const char *path) {
    lr_status status = LR_OK;
    for (size_t i = 0; i < list->count; i++) {
        const lr__outgoing *item = &list->items[i];
        LR_TRY(lr__gguf_declare(writer, item->name, item->dtype, item->ndim, item->shape));
    }
    LR_TRY(lr__gguf_begin(writer, path));
    LR_TRY(lr__outgoing_stream(list, 0, list->count, put_bytes, writer));
    LR_TRY(lr__gguf_finish(writer));
    LR_TRY(lr__progress(list->ctx, "save", (int64_t)list->count, (int64_t)list->count));
done:
    return status;
}

static lr_status save_graph(const lr__graph *graph, const char *path, const lr_save_opts *o) {
    lr_status status = LR_OK;
    lr__output output = {0};
    lr__gguf_writer *writer = NULL;
    gguf_plan plan = {.graph = graph,
                      .densify = o->densify,
                      .tensors = {.ctx = graph->ctx, .dtype = o->dtype, .is_gguf = 1}};
    LR_TRY(lr__output_begin(&output, path, 0, o->force));
    LR_TRY(plan_make(&plan));
    LR_TRY(lr__gguf_new(&writer));
    LR_TRY(put_keys(writer, graph, o->dtype));
    LR_TRY(write_file(&plan.tensors, writer, output.staging));
    LR_TRY(lr__output_commit(&output));
done:
    lr__gguf_writer_free(writer);
    plan_clear(&plan);
    lr__output_end(&output);
    return status;
}

lr_status lr_model_save_gguf(const lr_model *model, const char *path, const lr_save_opts *opts) {
    lr_save_opts o;
    lr_status status = lr__save_check(&o, "lr_model_save_gguf", model, path, opts);
    if (status < 0) return status;
    lr__graph *graph = lr__model_graph(model);
    status = save_graph(graph, path, &o);
    lr__graph_drop(graph);
    return status;
}
