/* safetensors out: the header is known before the first byte of data, so data streams through. */
#include "format/safetensors.h"
#include "format/tokenizer_parts.h"

#include <string.h>

enum { ALIGNMENT = 64, MAX_HEADER = 100000000 };

struct lr__safetensors_writer {
    json_t *tensors;
    uint64_t declared, written;
    lr__writer *file; /* NULL before begin and after finish */
};

void lr__safetensors_free(lr__safetensors_writer *writer) {
    if (!writer) return;
    if (writer->file) lr__writer_abandon(writer->file);
    json_decref(writer->tensors);
    lr__free(writer);
}

lr_status lr__safetensors_new(lr__safetensors_writer **out) {
    lr__safetensors_writer *writer = NULL;
    lr_status status;
    *out = NULL;
    LR_TRY(lr__new(&writer, 1, sizeof *writer));
    writer->tensors = json_object();
    if (!writer->tensors) {
        status = lr__nomem(sizeof(json_t));
        goto done;
    }
    *out = writer;
    writer = NULL;
done:
    lr__safetensors_free(writer);
    return status;
}

static lr_status count_bytes(uint64_t *bytes, const char *name, int32_t dtype, int32_t ndim,
                             const int64_t *shape) {
    *bytes = lr_dtype_size(dtype);
    if (!lr__safetensors_type(dtype))
        return lr__fail(LR_E_UNSUPPORTED, "tensor \"%s\": safetensors has no type %s", name,
                        lr_dtype_name(dtype));
    if (ndim < 0 || ndim > LR_MAX_DIMS)
        return lr__fail(LR_E_SHAPE, "tensor \"%s\": %d dimensions, at most %d", name, ndim,
                        LR_MAX_DIMS);
    for (int32_t i = 0; i < ndim; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(*bytes, (uint64_t)shape[i], bytes) ||
            *bytes > INT64_MAX)
            return lr__fail(LR_E_SHAPE, "tensor \"%s\": dimension %d of %lld elements", name, i,
                            (long long)shape[i]);
    return LR_OK;
}

static json_t *describe(int32_t dtype, int32_t ndim, const int64_t *shape, uint64_t begin,
                        uint64_t end) {
    json_t *sizes = json_array();
    for (int32_t i = 0; i < ndim; i++) json_array_append_new(sizes, json_integer(shape[i]));
    if (json_array_size(sizes) != (size_t)ndim) {
        json_decref(sizes);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", lr__safetensors_type(dtype), "shape", sizes,
                     "data_offsets", (json_int_t)begin, (json_int_t)end);
}

lr_status lr__safetensors_declare(lr__safetensors_writer *writer, const char *name, int32_t dtype,
                                  int32_t ndim, const int64_t *shape) {
    uint64_t bytes, end;
    lr_status status = count_bytes(&bytes, name, dtype, ndim, shape);
    if (status < 0) return status;
    if (writer->file) return lr__fail(LR_E_INVALID, "tensor \"%s\": declared after begin", name);
    if (*name == '\0' || strcmp(name, "__metadata__") == 0 ||
        json_object_get(writer->tensors, name))
        return lr__fail(LR_E_INVALID, "tensor \"%s\": the name is taken or reserved", name);
    if (__builtin_add_overflow(writer->declared, bytes, &end) || end > INT64_MAX)
        return lr__fail(LR_E_SHAPE, "tensor \"%s\": more bytes than a file can hold", name);
    if (!lr__utf8_is_valid(name, strlen(name)))
        return lr__fail(LR_E_INVALID, "tensor \"%s\": the name is not UTF-8", name);
    json_t *item = describe(dtype, ndim, shape, writer->declared, end);
    if (!item || json_object_set_new(writer->tensors, name, item)) return lr__nomem(strlen(name));
    writer->declared = end;
    return LR_OK;
}

static lr_status build_header(char **out, const lr__safetensors_writer *writer, json_t *metadata) {
    json_t *value, *header = json_object();
    const char *key;
    lr_status status = LR_OK;
    int failed = !header;
    if (metadata) {
        json_object_foreach(metadata, key, value) {
            LR_FAIL_IF(!json_is_string(value), LR_E_INVALID,
                       "safetensors metadata: \"%s\" is not a string", key);
        }
        failed |= json_object_set(header, "__metadata__", metadata);
    }
    failed |= json_object_update(header, writer->tensors);
    LR_FAIL_IF(failed, LR_E_NOMEM, "out of memory: a header of %zu tensors",
               json_object_size(writer->tensors));
    LR_TRY(lr__json_text(out, header, 0));
done:
    json_decref(header);
    return status;
}

lr_status lr__safetensors_begin(lr__safetensors_writer *writer, const char *path,
                                json_t *metadata) {
    static const char spaces[ALIGNMENT + 1] =
        "                                                                ";
    char *header = NULL;
    lr_status status;
    LR_FAIL_IF(writer->file, LR_E_INVALID, "%s: begun twice", path);
    LR_TRY(build_header(&header, writer, metadata));
    size_t used = strlen(header);
    size_t padding = (ALIGNMENT - (used + sizeof(uint64_t)) % ALIGNMENT) % ALIGNMENT;
    uint64_t length = used + padding;
    LR_FAIL_IF(length > MAX_HEADER, LR_E_UNSUPPORTED,
               "%s: a header of %llu bytes, safetensors allows %d", path,
               (unsigned long long)length, MAX_HEADER);
    LR_TRY(lr__writer_open(&writer->file, path));
    lr__writer_put(writer->file, &length, sizeof length);
    lr__writer_put(writer->file, header, used);
    lr__writer_put(writer->file, spaces, padding);
    writer->written = 0;
done:
    lr__free(header);
    return status;
}

lr_status lr__safetensors_put(lr__safetensors_writer *writer, const void *data, size_t bytes) {
    if (!writer->file) return lr__fail(LR_E_INVALID, "safetensors: bytes before begin");
    if (bytes > writer->declared - writer->written)
        return lr__fail(LR_E_INVALID, "safetensors: %llu bytes declared, more came",
                        (unsigned long long)writer->declared);
    lr__writer_put(writer->file, data, bytes);
    writer->written += bytes;
    return lr__writer_check(writer->file);
}

lr_status lr__safetensors_finish(lr__safetensors_writer *writer) {
    if (!writer->file) return lr__fail(LR_E_INVALID, "safetensors: finished before begin");
    if (writer->written != writer->declared)
        return lr__fail(LR_E_INVALID, "safetensors: %llu bytes declared, %llu came",
                        (unsigned long long)writer->declared, (unsigned long long)writer->written);
    lr_status status = lr__writer_close(writer->file);
    writer->file = NULL;
    return status;
}
