/* Values of a GGUF: found by key, and read as what the caller expects. */
#include "format/gguf.h"

#include <string.h>

size_t lr__gguf_scalar_bytes(uint32_t type) {
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof bytes ? bytes[type] : 0;
}

const lr__gguf_value *lr__gguf_find(const lr__gguf *gguf, const char *key) {
    size_t size = strlen(key);
    for (size_t i = 0; i < gguf->value_count; i++) {
        const lr__text *name = &gguf->values[i].key;
        if (name->size == size && memcmp(name->data, key, size) == 0) return &gguf->values[i];
    }
    return NULL;
}

#define LR__LOAD(type)                         \
    do {                                       \
        type loaded;                           \
        memcpy(&loaded, bytes, sizeof loaded); \
        *out = (int64_t)loaded;                \
        return 1;                              \
    } while (0)

/* 0 when the type is no integer, or the number does not fit. */
static int load_int(int64_t *out, int32_t type, const unsigned char *bytes) {
    uint64_t wide;
    switch (type) {
    case LR__GGUF_U8:
    case LR__GGUF_BOOL: LR__LOAD(uint8_t);
    case LR__GGUF_I8: LR__LOAD(int8_t);
    case LR__GGUF_U16: LR__LOAD(uint16_t);
    case LR__GGUF_I16: LR__LOAD(int16_t);
    case LR__GGUF_U32: LR__LOAD(uint32_t);
    case LR__GGUF_I32: LR__LOAD(int32_t);
    case LR__GGUF_I64: LR__LOAD(int64_t);
    case LR__GGUF_U64:
        memcpy(&wide, bytes, sizeof wide);
        *out = (int64_t)(wide <= INT64_MAX ? wide : 0);
        return wide <= INT64_MAX;
    default: return 0;
    }
}

static lr_status wrong_kind(const lr__gguf *gguf, const char *key, const char *expected) {
    return lr__fail(LR_E_FORMAT, "%s: key \"%s\" is not %s", gguf->mapping->path, key, expected);
}

lr_status lr__gguf_int(const lr__gguf *gguf, const char *key, int64_t *out) {
    const lr__gguf_value *value = lr__gguf_find(gguf, key);
    if (!value) return LR_OK;
    if (!load_int(out, value->type, value->data))
        return wrong_kind(gguf, key, "an integer of 64 bits");
    return LR_OK;
}

lr_status lr__gguf_real(const lr__gguf *gguf, const char *key, double *out) {
    const lr__gguf_value *value = lr__gguf_find(gguf, key);
    int64_t integer;
    float single;
    if (!value) return LR_OK;
    if (value->type == LR__GGUF_F64) {
        memcpy(out, value->data, sizeof *out);
    } else if (value->type == LR__GGUF_F32) {
        memcpy(&single, value->data, sizeof single);
        *out = (double)single;
    } else if (value->type != LR__GGUF_BOOL && load_int(&integer, value->type, value->data)) {
        *out = (double)integer;
    } else {
        return wrong_kind(gguf, key, "a number");
    }
    return LR_OK;
}

lr_status lr__gguf_text(const lr__gguf *gguf, const char *key, lr__text *out) {
    const lr__gguf_value *value = lr__gguf_find(gguf, key);
    if (!value) return LR_OK;
    if (value->type != LR__GGUF_STRING) return wrong_kind(gguf, key, "a string");
    const unsigned char *cursor = value->data;
    *out = lr__gguf_next_text(&cursor);
    return LR_OK;
}

lr__text lr__gguf_next_text(const unsigned char **cursor) {
    uint64_t size;
    memcpy(&size, *cursor, sizeof size);
    lr__text text = {(const char *)*cursor + sizeof size, (size_t)size};
    *cursor += sizeof size + (size_t)size;
    return text;
}

size_t lr__gguf_value_bytes(const lr__gguf_value *value) {
    int32_t type = value->type == LR__GGUF_ARRAY ? value->element_type : value->type;
    const unsigned char *cursor = value->data;
    if (type != LR__GGUF_STRING)
        return (size_t)value->count * lr__gguf_scalar_bytes((uint32_t)type);
    for (uint64_t i = 0; i < value->count; i++) lr__gguf_next_text(&cursor);
    return (size_t)(cursor - value->data);
}

int64_t lr__gguf_element(const lr__gguf_value *value, uint64_t index) {
    int64_t element = 0;
    size_t bytes = lr__gguf_scalar_bytes((uint32_t)value->element_type);
    if (value->type != LR__GGUF_ARRAY || index >= value->count || bytes == 0) return 0;
    load_int(&element, value->element_type, value->data + index * bytes);
    return element;
}
