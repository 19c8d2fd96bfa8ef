/* How GGUF lays out a model of the family: names of modules, order of rows. */
#ifndef LR_MODEL_GGUF_LAYOUT_H
#define LR_MODEL_GGUF_LAYOUT_H

#include "nn/linear.h"

#include <stddef.h>

/* "model.layers.3.mlp.up_proj" -> "blk.3.ffn_up"; other names are copied. */
void lr__gguf_module_name(const char *module, char *out, size_t size);

/* llama.cpp's architecture "llama" has q and k rows with the two halves of each head interleaved:
 * usual row -> stored row, or the way back. */
lr_status lr__gguf_head_rows(lr__index **out, const char *name, int32_t heads, int32_t head_size,
                             int inverse);

/* A vector in another order, out[i] = vector[rows[i]]; owned. */
lr_status lr__gguf_order_vector(lr__param **out, const lr__param *vector, const lr__index *rows,
                                const lr__kernels *kernels);

#endif
