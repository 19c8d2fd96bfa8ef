/* GGUF version 3 out: keys first, then the tensors' table, then their bytes, which stream. */
#ifndef LR_FORMAT_GGUF_WRITE_H
#define LR_FORMAT_GGUF_WRITE_H

#include "format/config.h"

typedef struct lr__gguf_writer lr__gguf_writer;
lr_status lr__gguf_new(lr__gguf_writer **out);
void lr__gguf_writer_free(lr__gguf_writer *writer);

/* Keys, before begin; each once. */
lr_status lr__gguf_put_u32(lr__gguf_writer *writer, const char *key, int64_t value);
lr_status lr__gguf_put_f32(lr__gguf_writer *writer, const char *key, double value);
lr_status lr__gguf_put_bool(lr__gguf_writer *writer, const char *key, int value);
lr_status lr__gguf_put_text(lr__gguf_writer *writer, const char *key, lr__text text);
/* A value of another file, as it stands there. */
lr_status lr__gguf_put_value(lr__gguf_writer *writer, const lr__gguf_value *value);
/* An array of texts, or of LR__GGUF_I32: begin, then each element. */
lr_status lr__gguf_put_array(lr__gguf_writer *writer, const char *key, int32_t element_type,
                             uint64_t count);
lr_status lr__gguf_put_text_element(lr__gguf_writer *writer, lr__text text);
lr_status lr__gguf_put_i32_element(lr__gguf_writer *writer, int32_t value);

/* Declare every tensor, begin, then put the bytes of each in the order of declaration, in pieces
 * that do not reach beyond a tensor, and finish. */
lr_status lr__gguf_declare(lr__gguf_writer *writer, const char *name, int32_t dtype, int32_t ndim,
                           const int64_t *shape);
lr_status lr__gguf_begin(lr__gguf_writer *writer, const char *path);
lr_status lr__gguf_put(lr__gguf_writer *writer, const void *data, size_t bytes);
/* Checks that exactly the declared bytes came, syncs and closes. */
lr_status lr__gguf_finish(lr__gguf_writer *writer);

/* The keys of a model of one of our architectures, `general.architecture` among them (Mistral is
 * "llama" to GGUF). LR_E_UNSUPPORTED for a rotary scaling GGUF has no keys for. */
lr_status lr__config_to_gguf(lr__gguf_writer *writer, const lr__config *config);
/* "llama", "qwen2" or "qwen3". */
const char *lr__gguf_architecture(const lr__config *config);
/* Positions the model has in GGUF, where every layer attends to everything: the context length, or
 * the sliding window where one that is shorter is in use. */
int32_t lr__gguf_context(const lr__config *config);

/* The keys of the tokenizer of a Hugging Face folder, chat template included. `vocabulary_size` is
 * the model's: ids without a token get a placeholder. LR_E_NOTFOUND without a tokenizer.json,
 * LR_E_UNSUPPORTED for one that GGUF or this version cannot hold; then nothing was put. */
lr_status lr__tokenizer_to_gguf(lr__gguf_writer *writer, const char *folder,
                                const lr__config *config);

#endif
