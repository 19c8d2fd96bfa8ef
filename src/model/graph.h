/*
 * The Llama graph: immutable, counted, shared by any number of sessions. An edit copies the table
 * of modules (never their numbers) and changes the copy.
 */
#ifndef LR_MODEL_GRAPH_H
#define LR_MODEL_GRAPH_H

#include "format/config.h"
#include "format/tokenizer.h"
#include "nn/linear.h"

#include <pthread.h>

/* Linears of a block, in the order of computation. */
enum { LR__Q, LR__K, LR__V, LR__O, LR__GATE, LR__UP, LR__DOWN, LR__BLOCK_LINEARS };

/* "self_attn.q_proj", ... */
extern const char *const lr__linear_suffix[LR__BLOCK_LINEARS];
/* The pattern that matches them in every block, and nothing else. */
extern const char lr__block_linears[];

/* Where a model came from: what is the same in all versions of its graph. */
typedef struct lr__origin {
    int32_t references; /* atomic */
    char *path;
    lr__config config;
    lr__gguf *gguf;         /* one of gguf ... */
    lr__stored_list stored; /* ... and the tensors of a folder */
    pthread_mutex_t tokenizer_lock;
    lr_tokenizer *tokenizer; /* built on first use */
} lr__origin;

lr__origin *lr__origin_keep(lr__origin *origin);
void lr__origin_drop(lr__origin *origin);

typedef struct lr__block {
    char *name; /* "model.layers.3" */
    lr_linear *linears[LR__BLOCK_LINEARS];
    lr__param *attention_norm, *mlp_norm;
    lr__param *q_norm, *k_norm; /* Qwen3, else NULL */
} lr__block;

typedef struct lr__graph {
    int32_t references; /* atomic */
    int64_t version;    /* of all graphs of the process, never used twice */
    lr_ctx *ctx;
    lr__origin *origin;
    int32_t block_count;
    lr__block *blocks;
    lr__param *embedding, *final_norm;
    lr_linear *head; /* "lm_head"; shares the embedding's parameter when tied */
} lr__graph;

/* Empty blocks with their names. */
lr_status lr__graph_new(lr__graph **out, lr_ctx *ctx, lr__origin *origin);
lr_status lr__graph_copy(lr__graph **out, const lr__graph *graph);
lr__graph *lr__graph_keep(lr__graph *graph);
void lr__graph_drop(lr__graph *graph);

/* Linear modules by index, blocks first, the head last. */
int32_t lr__graph_linear_count(const lr__graph *graph);
lr_linear **lr__graph_linear(const lr__graph *graph, int32_t index);
/* Parameters beside the linears by index: the embedding, norms of the blocks in the order of
 * computation, the final norm. A slot may be empty. */
int32_t lr__graph_vector_count(const lr__graph *graph);
lr__param **lr__graph_vector(const lr__graph *graph, int32_t index);
/* -1 when there is none. */
int32_t lr__graph_find_linear(const lr__graph *graph, const char *name);

/* The first linear of the graph that reads the same input as this one. */
int32_t lr__graph_first_reader(const lr__graph *graph, int32_t index);

/* Calls fn for every parameter, shared ones once each time they occur. */
typedef void (*lr__param_fn)(const lr__param *param, int32_t is_bias, void *user);
/* Without the bias. */
void lr__linear_each_param(const lr_linear *linear, lr__param_fn fn, void *user);
void lr__block_each_param(const lr__block *block, lr__param_fn fn, void *user);
void lr__graph_each_param(const lr__graph *graph, lr__param_fn fn, void *user);

/* Opens the files of `path` and makes the first version of the graph. */
lr_status lr__graph_open(lr__graph **out, lr_ctx *ctx, const char *path, int copy);

#endif
