/* GGUF version 2 and 3, little endian (ggml's docs/gguf.md). */
#ifndef LR_FORMAT_GGUF_H
#define LR_FORMAT_GGUF_H

#include "format/stored.h"

enum {
    LR__GGUF_U8,
    LR__GGUF_I8,
    LR__GGUF_U16,
    LR__GGUF_I16,
    LR__GGUF_U32,
    LR__GGUF_I32,
    LR__GGUF_F32,
    LR__GGUF_BOOL,
    LR__GGUF_STRING,
    LR__GGUF_ARRAY,
    LR__GGUF_U64,
    LR__GGUF_I64,
    LR__GGUF_F64
};

/* Bytes inside the file; not NUL-terminated. */
typedef struct lr__text {
    const char *data;
    size_t size;
} lr__text;

typedef struct lr__gguf_value {
    lr__text key;
    int32_t type;              /* LR__GGUF_... */
    int32_t element_type;      /* of an array */
    uint64_t count;            /* of an array, else 1 */
    const unsigned char *data; /* first element; strings are length-prefixed; all inside the file */
} lr__gguf_value;

typedef struct lr__gguf {
    lr__mapping *mapping;
    lr__gguf_value *values;
    size_t value_count;
    lr__stored_list tensors; /* shapes already row-major: a [out, in] matrix has shape {out, in} */
} lr__gguf;

/* Every length, offset, alignment, type and shape is checked against the file. A tensor of a type
 * beyond ours is kept with dtype -1 - ggml_type, so that the reader can name it; of a type unknown
 * here its `bytes` are 0. */
lr_status lr__gguf_open(lr__gguf **out, const char *path, int copy);
void lr__gguf_free(lr__gguf *gguf);

/* "Q6_K" for 14; "?" for unknown numbers. */
const char *lr__gguf_type_name(int32_t ggml_type);

/* Of a type LR__GGUF_...; 0 for strings, arrays and unknown types. */
size_t lr__gguf_scalar_bytes(uint32_t type);

/* NULL when absent. */
const lr__gguf_value *lr__gguf_find(const lr__gguf *gguf, const char *key);
/* An absent key leaves *out as it was; a value of another kind is LR_E_FORMAT. Any integer type
 * and bool serve as integer, any float or integer as real. */
lr_status lr__gguf_int(const lr__gguf *gguf, const char *key, int64_t *out);
lr_status lr__gguf_real(const lr__gguf *gguf, const char *key, double *out);
lr_status lr__gguf_text(const lr__gguf *gguf, const char *key, lr__text *out);

/* Walks an array of strings: start with *cursor = value->data, call value->count times. */
lr__text lr__gguf_next_text(const unsigned char **cursor);
/* From value->data to the value's end. */
size_t lr__gguf_value_bytes(const lr__gguf_value *value);
/* Element `index` of an array of integers or bools; 0 beyond its end and for other arrays. */
int64_t lr__gguf_element(const lr__gguf_value *value, uint64_t index);

#endif
