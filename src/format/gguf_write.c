/* GGUF out (ggml's docs/gguf.md): the head is made in memory, tensor data streams behind it. */
#include "format/gguf_write.h"

#include <string.h>

enum { VERSION = 3, ALIGNMENT = 32, MAX_NAME = 63 /* ggml's, with a NUL behind it */ };

/* Bytes that grow. */
typedef struct buffer {
    unsigned char *data;
    size_t size, capacity;
} buffer;

struct lr__gguf_writer {
    buffer keys, tensors;
    uint64_t key_count, tensor_count;
    uint64_t *ends; /* of each tensor's bytes, padding not counted */
    size_t ends_capacity;
    uint64_t declared, written, current; /* bytes of data, padding counted; the tensor at work */
    lr__writer *file;                    /* NULL before begin and after finish */
};

lr_status lr__gguf_new(lr__gguf_writer **out) { return lr__new(out, 1, sizeof **out); }

void lr__gguf_writer_free(lr__gguf_writer *writer) {
    if (!writer) return;
    if (writer->file) lr__writer_abandon(writer->file);
    lr__free(writer->keys.data);
    lr__free(writer->tensors.data);
    lr__free(writer->ends);
    lr__free(writer);
}

static lr_status append(buffer *b, const void *data, size_t bytes) {
    size_t size;
    if (__builtin_add_overflow(b->size, bytes, &size)) return lr__nomem(SIZE_MAX);
    lr_status status = lr__grow(&b->data, &b->capacity, size, 1);
    if (status < 0 || bytes == 0) return status;
    memcpy(b->data + b->size, data, bytes);
    b->size = size;
    return LR_OK;
}

static lr_status append_u32(buffer *b, uint32_t value) { return append(b, &value, sizeof value); }
static lr_status append_u64(buffer *b, uint64_t value) { return append(b, &value, sizeof value); }

static lr_status append_text(buffer *b, lr__text text) {
    lr_status status = append_u64(b, text.size);
    return status < 0 ? status : append(b, text.data, text.size);
}

/* --- keys --- */

static lr_status put_key(lr__gguf_writer *writer, lr__text key, int32_t type) {
    lr_status status = LR_OK;
    LR_FAIL_IF(writer->file, LR_E_INVALID, "GGUF: key \"%.*s\" after begin", (int)key.size,
               key.data);
    LR_TRY(append_text(&writer->keys, key));
    LR_TRY(append_u32(&writer->keys, (uint32_t)type));
    writer->key_count++;
done:
    return status;
}

static lr__text text_of(const char *text) { return (lr__text){text, strlen(text)}; }

lr_status lr__gguf_put_u32(lr__gguf_writer *writer, const char *key, int64_t value) {
    if (value < 0 || value > UINT32_MAX)
        return lr__fail(LR_E_UNSUPPORTED, "GGUF: %s %lld, expected 0 to %u", key, (long long)value,
                        UINT32_MAX);
    lr_status status = put_key(writer, text_of(key), LR__GGUF_U32);
    return status < 0 ? status : append_u32(&writer->keys, (uint32_t)value);
}

lr_status lr__gguf_put_f32(lr__gguf_writer *writer, const char *key, double value) {
    float single = (float)value;
    lr_status status = put_key(writer, text_of(key), LR__GGUF_F32);
    return status < 0 ? status : append(&writer->keys, &single, sizeof single);
}

lr_status lr__gguf_put_bool(lr__gguf_writer *writer, const char *key, int value) {
    unsigned char byte = value != 0;
    lr_status status = put_key(writer, text_of(key), LR__GGUF_BOOL);
    return status < 0 ? status : append(&writer->keys, &byte, 1);
}

lr_status lr__gguf_put_text(lr__gguf_writer *writer, const char *key, lr__text text) {
    lr_status status = put_key(writer, text_of(key), LR__GGUF_STRING);
    return status < 0 ? status : append_text(&writer->keys, text);
}

lr_status lr__gguf_put_array(lr__gguf_writer *writer, const char *key, int32_t element_type,
                             uint64_t count) {
    lr_status status = put_key(writer, text_of(key), LR__GGUF_ARRAY);
    if (status >= 0) status = append_u32(&writer->keys, (uint32_t)element_type);
    return status < 0 ? status : append_u64(&writer->keys, count);
}

lr_status lr__gguf_put_text_element(lr__gguf_writer *writer, lr__text text) {
    return append_text(&writer->keys, text);
}

lr_status lr__gguf_put_i32_element(lr__gguf_writer *writer, int32_t value) {
    return append(&writer->keys, &value, sizeof value);
}

lr_status lr__gguf_put_value(lr__gguf_writer *writer, const lr__gguf_value *value) {
    lr_status status = put_key(writer, value->key, value->type);
    if (status >= 0 && value->type == LR__GGUF_ARRAY) {
        status = append_u32(&writer->keys, (uint32_t)value->element_type);
        if (status >= 0) status = append_u64(&writer->keys, value->count);
    }
    return status < 0 ? status : append(&writer->keys, value->data, lr__gguf_value_bytes(value));
}

/* --- tensors --- */

/* ggml's number of one of our types; -1: none is written. */
static int32_t ggml_type_of(int32_t dtype) {
    switch (dtype) {
    case LR_F32: return 0;
    case LR_F16: return 1;
    case LR_Q8_0: return 8;
    case LR_BF16: return 30;
    default: return -1;
    }
}

static lr_status bytes_of(uint64_t *bytes, const char *name, int32_t dtype, int32_t ndim,
                          const int64_t *shape) {
    int64_t count = 1, block = lr__dtype_block(dtype);
    if (ggml_type_of(dtype) < 0)
        return lr__fail(LR_E_UNSUPPORTED, "tensor \"%s\": GGUF is not written in type %s", name,
                        lr_dtype_name(dtype));
    if (ndim < 1 || ndim > 4)
        return lr__fail(LR_E_SHAPE, "tensor \"%s\": %d dimensions, expected 1 to 4", name, ndim);
    for (int32_t i = 0; i < ndim; i++)
        if (shape[i] < 1 || __builtin_mul_overflow(count, shape[i], &count))
            return lr__fail(LR_E_SHAPE, "tensor \"%s\": dimension %d of %lld elements", name, i,
                            (long long)shape[i]);
    if (shape[ndim - 1] % block)
        return lr__fail(LR_E_SHAPE, "tensor \"%s\": rows of %lld elements, %s has blocks of %lld",
                        name, (long long)shape[ndim - 1], lr_dtype_name(dtype), (long long)block);
    *bytes = lr__dtype_bytes(dtype, count);
    return *bytes ? LR_OK : lr__fail(LR_E_SHAPE, "tensor \"%s\": more bytes than a file", name);
}

static uint64_t padded(uint64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

lr_status lr__gguf_declare(lr__gguf_writer *writer, const char *name, int32_t dtype, int32_t ndim,
                           const int64_t *shape) {
    buffer *table = &writer->tensors;
    uint64_t bytes, end;
    lr_status status;
    LR_FAIL_IF(writer->file, LR_E_INVALID, "tensor \"%s\": declared after begin", name);
    LR_FAIL_IF(!*name || strlen(name) > MAX_NAME, LR_E_INVALID,
               "tensor \"%s\": a name of 1 to %d bytes is expected", name, MAX_NAME);
    LR_TRY(bytes_of(&bytes, name, dtype, ndim, shape));
    LR_FAIL_IF(__builtin_add_overflow(writer->declared, bytes, &end) || end > INT64_MAX - ALIGNMENT,
               LR_E_SHAPE, "tensor \"%s\": more bytes than a file can hold", name);
    LR_TRY(lr__grow(&writer->ends, &writer->ends_capacity, (size_t)writer->tensor_count + 1,
                    sizeof *writer->ends));
    LR_TRY(append_text(table, text_of(name)));
    LR_TRY(append_u32(table, (uint32_t)ndim));
    for (int32_t i = ndim; i-- > 0;) LR_TRY(append_u64(table, (uint64_t)shape[i]));
    LR_TRY(append_u32(table, (uint32_t)ggml_type_of(dtype)));
    LR_TRY(append_u64(table, writer->declared));
    writer->ends[writer->tensor_count++] = end;
    writer->declared = padded(end);
done:
    return status;
}

/* --- the file --- */

static void pad(lr__gguf_writer *writer, uint64_t at) {
    static const unsigned char zeros[ALIGNMENT];
    lr__writer_put(writer->file, zeros, (size_t)(padded(at) - at));
}

lr_status lr__gguf_begin(lr__gguf_writer *writer, const char *path) {
    const uint32_t version = VERSION;
    if (writer->file) return lr__fail(LR_E_INVALID, "%s: begun twice", path);
    lr_status status = lr__writer_open(&writer->file, path);
    if (status < 0) return status;
    lr__writer_put(writer->file, "GGUF", 4);
    lr__writer_put(writer->file, &version, sizeof version);
    lr__writer_put(writer->file, &writer->tensor_count, sizeof writer->tensor_count);
    lr__writer_put(writer->file, &writer->key_count, sizeof writer->key_count);
    lr__writer_put(writer->file, writer->keys.data, writer->keys.size);
    lr__writer_put(writer->file, writer->tensors.data, writer->tensors.size);
    pad(writer, 4 + 4 + 8 + 8 + writer->keys.size + writer->tensors.size);
    return lr__writer_check(writer->file);
}

lr_status lr__gguf_put(lr__gguf_writer *writer, const void *data, size_t bytes) {
    if (!writer->file) return lr__fail(LR_E_INVALID, "GGUF: bytes before begin");
    if (writer->current == writer->tensor_count ||
        bytes > writer->ends[writer->current] - writer->written)
        return lr__fail(LR_E_INVALID, "GGUF: more bytes than tensor %llu of %llu has",
                        (unsigned long long)writer->current,
                        (unsigned long long)writer->tensor_count);
    lr__writer_put(writer->file, data, bytes);
    writer->written += bytes;
    if (writer->written == writer->ends[writer->current]) {
        pad(writer, writer->written);
        writer->written = padded(writer->written);
        writer->current++;
    }
    return lr__writer_check(writer->file);
}

lr_status lr__gguf_finish(lr__gguf_writer *writer) {
    if (!writer->file) return lr__fail(LR_E_INVALID, "GGUF: finished before begin");
    if (writer->current != writer->tensor_count)
        return lr__fail(LR_E_INVALID, "GGUF: %llu tensors declared, %llu came",
                        (unsigned long long)writer->tensor_count,
                        (unsigned long long)writer->current);
    lr_status status = lr__writer_close(writer->file);
    writer->file = NULL;
    return status;
}
