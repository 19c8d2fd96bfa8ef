/*
 * Files out. The tensors of a folder or of one module are listed first, with the JSON that names
 * them, and then streamed, a block of rows at a time.
 *
 * Types: matrices and vectors are written in the chosen type. LR_Q8_0 writes matrices as I8
 * [out, in] with binary16 scales [out, ceil(in / 32)] (largest magnitude of 32 columns over 127, at
 * the small end of binary16 the next with which 127 levels reach it) and vectors as F32; the
 * embedding is such a matrix too, under "model.embed_tokens". Index maps are I32. In GGUF, LR_Q8_0
 * is blocks of a scale and 32 levels, F16 where rows are not whole blocks, and vectors are always
 * F32.
 */
#ifndef LR_MODEL_SAVE_H
#define LR_MODEL_SAVE_H

#include "base/json.h"
#include "nn/linear.h"

#include <lowrank/model.h>

/* One tensor to write; where its numbers come from: at most one of param, linear and index, none
 * means zeros. */
typedef struct lr__outgoing {
    char *name;
    int32_t dtype; /* in the file; LR_I8 and its LR_F16 scales are made from the same source */
    int32_t ndim, is_scales;
    int64_t shape[2];
    const lr__param *param; /* borrowed from the graph or the module that is saved */
    lr_linear *linear;      /* owned: rows of its product */
    const lr__index *index; /* borrowed */
} lr__outgoing;

typedef struct lr__outgoing_list {
    lr_ctx *ctx;
    int32_t dtype; /* LR_F32, LR_F16, LR_BF16 or LR_Q8_0 */
    int32_t is_gguf;
    lr__outgoing *items;
    size_t count, capacity;
} lr__outgoing_list;

void lr__outgoing_clear(lr__outgoing_list *list);
/* NULL when the parameter or index is not listed yet. */
const lr__outgoing *lr__outgoing_find(const lr__outgoing_list *list, const void *source);

/* Each adds the tensor `<module>.<part>`, a matrix of LR_Q8_0 also its scales; the part of a
 * matrix ends in "weight". */
lr_status lr__outgoing_matrix(lr__outgoing_list *list, const char *module, const char *part,
                              const lr__param *param);
lr_status lr__outgoing_rows(lr__outgoing_list *list, const char *module, const char *part,
                            const lr_linear *linear);
/* A vector; `param` NULL: zeros. */
lr_status lr__outgoing_vector(lr__outgoing_list *list, const char *module, const char *part,
                              const lr__param *param, int64_t count);
lr_status lr__outgoing_index(lr__outgoing_list *list, const char *module, const char *part,
                             const lr__index *index);

/* What an operator of a module of this kind is called in tensor names, before ".weight". */
enum { LR__STEM_SIZE = 24 };
void lr__save_stem(char stem[LR__STEM_SIZE], int32_t kind, int32_t term, int32_t op);

/* The module without the terms of adapters; owned. */
lr_status lr__save_base(lr_linear **out, const lr_linear *linear);

/* Adds the tensors of a module's base terms that are not listed yet, and makes the JSON of
 * config.json's "modules" that names them. `densify` multiplies the chains out. */
lr_status lr__outgoing_linear(json_t **structure, lr__outgoing_list *list, const lr_linear *linear,
                              int densify);
/* Bytes and columns in the file. */
size_t lr__outgoing_bytes(const lr__outgoing *item);
int64_t lr__outgoing_cols(const lr__outgoing *item);
/* Gives the bytes of items [first, first + count) to `put`, in pieces. LR_E_NUMERIC, the tensor
 * named, for a number that is not finite or that the type cannot hold. */
typedef lr_status (*lr__outgoing_put)(void *file, const void *data, size_t bytes);
lr_status lr__outgoing_stream(const lr__outgoing_list *list, size_t first, size_t count,
                              lr__outgoing_put put, void *file);
/* Makes a matrix [rows, cols] what the file will hold of it: the numbers of `dtype`, widened again.
 * Rounding twice changes nothing, blocks with a subnormal scale aside. What the type cannot hold
 * becomes infinity or NaN. */
void lr__save_round(const lr__kernels *kernels, int32_t dtype, int64_t rows, int64_t cols,
                    float *numbers);
/* Writes items [first, first + count) as one safetensors file. */
lr_status lr__outgoing_write(const lr__outgoing_list *list, size_t first, size_t count,
                             const char *path, json_t *metadata);
/* model.safetensors, or shards of at most `most` bytes (but for a larger tensor) with an index. */
lr_status lr__outgoing_write_folder(const lr__outgoing_list *list, const char *folder,
                                    uint64_t most);

struct lr__graph;
/* The head reads the embedding as it is stored. */
int lr__is_head_tied(const struct lr__graph *graph);

/* How a folder is going to look, decided module by module. */
typedef struct lr__save_plan {
    lr__outgoing_list tensors;
    json_t *modules; /* of the "lowrank" section; empty: a plain model */
    int32_t is_tied, attention_bias, output_bias, mlp_bias;
} lr__save_plan;

lr_status lr__save_plan_make(lr__save_plan *plan, const struct lr__graph *graph, int32_t dtype,
                             int densify);
void lr__save_plan_clear(lr__save_plan *plan);

/* The options of a call that saves, checked and complete. */
lr_status lr__save_check(lr_save_opts *out, const char *function, const lr_model *model,
                         const char *path, const lr_save_opts *opts);

/* config.json: the source's, with the type, and the "lowrank" section where there is one. */
lr_status lr__save_config(json_t **out, const struct lr__graph *graph, const lr__save_plan *plan);
/* Tokenizer, chat template, generation config and licences of the source. */
lr_status lr__save_companions(const struct lr__graph *graph, const char *folder);

#endif
