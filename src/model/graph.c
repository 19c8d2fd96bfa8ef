/* Versions of a graph: counted tables of modules. */
#include "model/graph.h"

#include <stdio.h>
#include <string.h>

const char *const lr__linear_suffix[LR__BLOCK_LINEARS] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

const char lr__block_linears[] =
    "model.layers.*.{self_attn.{q,k,v,o}_proj,mlp.{gate,up,down}_proj}";

lr__origin *lr__origin_keep(lr__origin *origin) {
    __atomic_add_fetch(&origin->references, 1, __ATOMIC_RELAXED);
    return origin;
}

void lr__origin_drop(lr__origin *origin) {
    if (!origin || __atomic_sub_fetch(&origin->references, 1, __ATOMIC_ACQ_REL)) return;
    lr_tokenizer_free(origin->tokenizer);
    lr__config_clear(&origin->config);
    lr__gguf_free(origin->gguf);
    lr__stored_list_clear(&origin->stored);
    pthread_mutex_destroy(&origin->tokenizer_lock);
    lr__free(origin->path);
    lr__free(origin);
}

static void block_clear(lr__block *block) {
    for (int i = 0; i < LR__BLOCK_LINEARS; i++) lr_linear_free(block->linears[i]);
    lr__param_drop(block->attention_norm);
    lr__param_drop(block->mlp_norm);
    lr__param_drop(block->q_norm);
    lr__param_drop(block->k_norm);
    lr__free(block->name);
}

static int64_t last_version; /* atomic */

lr_status lr__graph_new(lr__graph **out, lr_ctx *ctx, lr__origin *origin) {
    lr_status status = LR_OK;
    lr__graph *graph = NULL;
    char name[64];
    *out = NULL;
    LR_TRY(lr__new(&graph, 1, sizeof *graph));
    graph->references = 1;
    graph->version = __atomic_add_fetch(&last_version, 1, __ATOMIC_RELAXED);
    graph->ctx = lr__ctx_keep(ctx);
    graph->origin = lr__origin_keep(origin);
    LR_TRY(lr__new(&graph->blocks, (size_t)origin->config.layers, sizeof *graph->blocks));
    graph->block_count = origin->config.layers;
    for (int32_t i = 0; i < graph->block_count; i++) {
        snprintf(name, sizeof name, "model.layers.%d", i);
        LR_TRY(lr__dup(&graph->blocks[i].name, name));
    }
    *out = graph;
    graph = NULL;
done:
    lr__graph_drop(graph);
    return status;
}

static void block_copy(lr__block *to, const lr__block *from) {
    for (int i = 0; i < LR__BLOCK_LINEARS; i++) to->linears[i] = lr__linear_keep(from->linears[i]);
    to->attention_norm = lr__param_keep(from->attention_norm);
    to->mlp_norm = lr__param_keep(from->mlp_norm);
    to->q_norm = lr__param_keep(from->q_norm);
    to->k_norm = lr__param_keep(from->k_norm);
}

lr_status lr__graph_copy(lr__graph **out, const lr__graph *graph) {
    lr_status status = lr__graph_new(out, graph->ctx, graph->origin);
    if (status < 0) return status;
    for (int32_t i = 0; i < graph->block_count; i++)
        block_copy(&(*out)->blocks[i], &graph->blocks[i]);
    (*out)->embedding = lr__param_keep(graph->embedding);
    (*out)->final_norm = lr__param_keep(graph->final_norm);
    (*out)->head = lr__linear_keep(graph->head);
    return LR_OK;
}

lr__graph *lr__graph_keep(lr__graph *graph) {
    __atomic_add_fetch(&graph->references, 1, __ATOMIC_RELAXED);
    return graph;
}

void lr__graph_drop(lr__graph *graph) {
    if (!graph || __atomic_sub_fetch(&graph->references, 1, __ATOMIC_ACQ_REL)) return;
    for (int32_t i = 0; i < graph->block_count; i++) block_clear(&graph->blocks[i]);
    lr__free(graph->blocks);
    lr__param_drop(graph->embedding);
    lr__param_drop(graph->final_norm);
    lr_linear_free(graph->head);
    lr__origin_drop(graph->origin);
    lr_ctx_free(graph->ctx);
    lr__free(graph);
}

int32_t lr__graph_linear_count(const lr__graph *graph) {
    return graph->block_count * LR__BLOCK_LINEARS + 1;
}

lr_linear **lr__graph_linear(const lr__graph *graph, int32_t index) {
    int32_t block = index / LR__BLOCK_LINEARS;
    if (block == graph->block_count) return (lr_linear **)&graph->head;
    return &graph->blocks[block].linears[index % LR__BLOCK_LINEARS];
}

enum { BLOCK_VECTORS = 4 };

int32_t lr__graph_vector_count(const lr__graph *graph) {
    return graph->block_count * BLOCK_VECTORS + 2;
}

lr__param **lr__graph_vector(const lr__graph *graph, int32_t index) {
    lr__graph *slots = (lr__graph *)graph;
    if (!index) return &slots->embedding;
    if (index == lr__graph_vector_count(graph) - 1) return &slots->final_norm;
    lr__block *block = &slots->blocks[(index - 1) / BLOCK_VECTORS];
    lr__param **const of[BLOCK_VECTORS] = {&block->attention_norm, &block->q_norm, &block->k_norm,
                                           &block->mlp_norm};
    return of[(index - 1) % BLOCK_VECTORS];
}

int32_t lr__graph_find_linear(const lr__graph *graph, const char *name) {
    for (int32_t i = 0; i < lr__graph_linear_count(graph); i++)
        if (!strcmp((*lr__graph_linear(graph, i))->name, name)) return i;
    return -1;
}

int32_t lr__graph_first_reader(const lr__graph *graph, int32_t index) {
    static const int32_t first[LR__BLOCK_LINEARS] = {
        [LR__Q] = LR__Q,       [LR__K] = LR__Q,     [LR__V] = LR__Q,      [LR__O] = LR__O,
        [LR__GATE] = LR__GATE, [LR__UP] = LR__GATE, [LR__DOWN] = LR__DOWN};
    int32_t which = index % LR__BLOCK_LINEARS;
    if (index / LR__BLOCK_LINEARS == graph->block_count) return index;
    return index - which + first[which];
}

void lr__linear_each_param(const lr_linear *linear, lr__param_fn fn, void *user) {
    for (int32_t t = 0; t < linear->term_count; t++)
        for (int32_t i = 0; i < linear->terms[t].count; i++)
            if (linear->terms[t].ops[i].param) fn(linear->terms[t].ops[i].param, 0, user);
}

static void each_of_linear(const lr_linear *linear, lr__param_fn fn, void *user) {
    lr__linear_each_param(linear, fn, user);
    if (linear->bias) fn(linear->bias, 1, user);
}

void lr__block_each_param(const lr__block *block, lr__param_fn fn, void *user) {
    fn(block->attention_norm, 0, user);
    if (block->q_norm) fn(block->q_norm, 0, user);
    if (block->k_norm) fn(block->k_norm, 0, user);
    for (int j = 0; j < LR__BLOCK_LINEARS; j++) each_of_linear(block->linears[j], fn, user);
    fn(block->mlp_norm, 0, user);
}

void lr__graph_each_param(const lr__graph *graph, lr__param_fn fn, void *user) {
    fn(graph->embedding, 0, user);
    for (int32_t i = 0; i < graph->block_count; i++)
        lr__block_each_param(&graph->blocks[i], fn, user);
    fn(graph->final_norm, 0, user);
    each_of_linear(graph->head, fn, user);
}
