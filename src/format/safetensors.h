/* safetensors: one file, or a folder's model.safetensors / model.safetensors.index.json. */
#ifndef LR_FORMAT_SAFETENSORS_H
#define LR_FORMAT_SAFETENSORS_H

#include "base/json.h"
#include "format/stored.h"

/* Adds a file's tensors and sorts the list; header size, JSON, types, shapes, offsets and overlaps
 * are checked. A type beyond ours is kept with dtype -1. Data that does not lie aligned for its
 * type is copied. On failure the list holds part of the file and is only good to be cleared.
 * *metadata (may be NULL) receives the "__metadata__" object or NULL; freed by json_decref. */
lr_status lr__safetensors_add(lr__stored_list *list, const char *path, int copy, json_t **metadata);
/* Adds all shards of a Hugging Face folder: model.safetensors, else those that
 * model.safetensors.index.json names (LR_E_NOTFOUND without either). A name in the index must be in
 * the shard it names; shard names with a slash are refused. */
lr_status lr__safetensors_add_folder(lr__stored_list *list, const char *folder, int copy);

/* Name of one of our types in the file, such as "BF16"; NULL for block types. */
const char *lr__safetensors_type(int32_t dtype);

/* Writing: declare every tensor, begin (writes the header), then put the bytes of each in the
 * order of declaration, in pieces of any size, and finish. */
typedef struct lr__safetensors_writer lr__safetensors_writer;
lr_status lr__safetensors_new(lr__safetensors_writer **out);
lr_status lr__safetensors_declare(lr__safetensors_writer *writer, const char *name, int32_t dtype,
                                  int32_t ndim, const int64_t *shape);
/* `metadata` (borrowed, may be NULL) is an object of strings. The data begins on a multiple of 64.
 */
lr_status lr__safetensors_begin(lr__safetensors_writer *writer, const char *path, json_t *metadata);
lr_status lr__safetensors_put(lr__safetensors_writer *writer, const void *data, size_t bytes);
/* Checks that exactly the declared bytes came, syncs and closes. */
lr_status lr__safetensors_finish(lr__safetensors_writer *writer);
void lr__safetensors_free(lr__safetensors_writer *writer);

#endif
