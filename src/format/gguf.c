/* GGUF: header, metadata and tensor table, read in place from the mapping (ggml, docs/gguf.md).
 * Nothing is copied but the names of tensors; an array of strings is only walked, so a vocabulary
 * costs no memory. */
#include "format/gguf.h"

#include <stdlib.h>
#include <string.h>

enum {
    MIN_VALUE_BYTES = 8 + 1 + 4 + 1,      /* key length, key, type, value */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8, /* name length, name, dimensions, type, offset */
    GGML_DIMS = 4,
    MAX_KEY = 65535,
    MAX_NAME = 1024,
    DEFAULT_ALIGNMENT = 32,
    MAX_ALIGNMENT = 1 << 20
};

/* --- types --- */

typedef struct ggml_type {
    const char *name;
    uint16_t block, bytes; /* elements and bytes of a block */
} ggml_type;

static const ggml_type types[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},      [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},
    [8] = {"Q8_0", 32, 34},      [10] = {"Q2_K", 256, 84},    [11] = {"Q3_K", 256, 110},
    [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},   [14] = {"Q6_K", 256, 210},
    [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66}, [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},   [20] = {"IQ4_NL", 32, 18},
    [21] = {"IQ3_S", 256, 110},  [22] = {"IQ2_S", 256, 82},   [23] = {"IQ4_XS", 256, 136},
    [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},        [26] = {"I32", 1, 4},
    [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},        [29] = {"IQ1_M", 256, 56},
    [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},   [35] = {"TQ2_0", 256, 66},
    [39] = {"MXFP4", 32, 17},    [40] = {"NVFP4", 64, 36},    [41] = {"Q1_0", 128, 18},
};

static const ggml_type *type_of(int64_t type) {
    int64_t count = (int64_t)(sizeof types / sizeof types[0]);
    return type >= 0 && type < count && types[type].name ? &types[type] : NULL;
}

const char *lr__gguf_type_name(int32_t type) {
    const ggml_type *info = type_of(type);
    return info ? info->name : "?";
}

static int32_t dtype_of(uint32_t type) {
    switch (type) {
    case 0: return LR_F32;
    case 1: return LR_F16;
    case 2: return LR_Q4_0;
    case 3: return LR_Q4_1;
    case 6: return LR_Q5_0;
    case 7: return LR_Q5_1;
    case 8: return LR_Q8_0;
    case 12: return LR_Q4_K;
    case 13: return LR_Q5_K;
    case 14: return LR_Q6_K;
    case 24: return LR_I8;
    case 26: return LR_I32;
    case 27: return LR_I64;
    case 28: return LR_F64;
    case 30: return LR_BF16;
    default: return -1 - (int32_t)type;
    }
}

/* --- reading within bounds --- */

typedef struct reader {
    const unsigned char *data;
    size_t size, at;
    const char *path;
} reader;

static lr_status cut_short(const reader *r, const char *what) {
    return lr__fail(LR_E_FORMAT, "%s: ends at byte %zu inside %s", r->path, r->size, what);
}

static lr_status take(reader *r, const unsigned char **out, uint64_t bytes, const char *what) {
    if (bytes > r->size - r->at) return cut_short(r, what);
    *out = r->data + r->at;
    r->at += (size_t)bytes;
    return LR_OK;
}

static lr_status take_u32(reader *r, uint32_t *out, const char *what) {
    const unsigned char *bytes = NULL;
    lr_status status = take(r, &bytes, sizeof *out, what);
    if (status >= 0) memcpy(out, bytes, sizeof *out);
    return status;
}

static lr_status take_u64(reader *r, uint64_t *out, const char *what) {
    const unsigned char *bytes = NULL;
    lr_status status = take(r, &bytes, sizeof *out, what);
    if (status >= 0) memcpy(out, bytes, sizeof *out);
    return status;
}

/* A name: not empty, no NUL, not longer than `limit`. */
static lr_status take_name(reader *r, lr__text *out, size_t limit, const char *what) {
    const unsigned char *bytes = NULL;
    uint64_t size;
    lr_status status = take_u64(r, &size, what);
    if (status < 0) return status;
    if (size == 0 || size > limit)
        return lr__fail(LR_E_FORMAT, "%s: %s of %llu bytes at byte %zu, expected 1 to %zu", r->path,
                        what, (unsigned long long)size, r->at - 8, limit);
    status = take(r, &bytes, size, what);
    if (status < 0) return status;
    if (memchr(bytes, 0, (size_t)size))
        return lr__fail(LR_E_FORMAT, "%s: %s at byte %zu holds a NUL", r->path, what,
                        r->at - (size_t)size);
    *out = (lr__text){(const char *)bytes, (size_t)size};
    return LR_OK;
}

/* --- metadata --- */

static lr_status skip_strings(reader *r, uint64_t count, const char *what) {
    for (uint64_t i = 0; i < count; i++) {
        uint64_t size;
        if (r->size - r->at < sizeof size) return cut_short(r, what);
        memcpy(&size, r->data + r->at, sizeof size);
        r->at += sizeof size;
        if (size > r->size - r->at) return cut_short(r, what);
        r->at += (size_t)size;
    }
    return LR_OK;
}

static lr_status fail_value(const reader *r, const lr__gguf_value *value, lr_status status,
                            const char *problem, uint32_t number) {
    return lr__fail(status, "%s: key \"%.*s\": %s %u", r->path, (int)value->key.size,
                    value->key.data, problem, number);
}

static lr_status take_array_head(reader *r, lr__gguf_value *value) {
    uint32_t element_type;
    lr_status status;
    LR_TRY(take_u32(r, &element_type, "an array"));
    LR_TRY(take_u64(r, &value->count, "an array"));
    value->element_type = (int32_t)element_type;
    if (element_type == LR__GGUF_ARRAY)
        status = fail_value(r, value, LR_E_UNSUPPORTED, "an array of arrays, type", element_type);
    else if (element_type > LR__GGUF_F64)
        status = fail_value(r, value, LR_E_FORMAT, "unknown element type", element_type);
done:
    return status;
}

static lr_status take_value(reader *r, lr__gguf_value *value) {
    uint32_t type;
    lr_status status;
    LR_TRY(take_name(r, &value->key, MAX_KEY, "a key"));
    LR_TRY(take_u32(r, &type, "a value"));
    value->type = (int32_t)type;
    value->count = 1;
    if (type == LR__GGUF_ARRAY) {
        LR_TRY(take_array_head(r, value));
        type = (uint32_t)value->element_type;
    } else if (type > LR__GGUF_F64) {
        status = fail_value(r, value, LR_E_FORMAT, "unknown value type", type);
        goto done;
    }
    value->data = r->data + r->at;
    if (type == LR__GGUF_STRING) {
        LR_TRY(skip_strings(r, value->count, "a string"));
    } else {
        const unsigned char *first;
        uint64_t bytes;
        if (__builtin_mul_overflow(value->count, lr__gguf_scalar_bytes(type), &bytes))
            bytes = UINT64_MAX;
        LR_TRY(take(r, &first, bytes, "a value"));
    }
    if (value->type == LR__GGUF_BOOL && value->data[0] > 1)
        status = fail_value(r, value, LR_E_FORMAT, "a bool of", value->data[0]);
done:
    return status;
}

static int by_key(const void *a, const void *b) {
    const lr__text *one = &(*(lr__gguf_value *const *)a)->key;
    const lr__text *two = &(*(lr__gguf_value *const *)b)->key;
    if (one->size != two->size) return one->size < two->size ? -1 : 1;
    return memcmp(one->data, two->data, one->size);
}

static lr_status check_keys(const lr__gguf *gguf) {
    const lr__gguf_value **order = NULL;
    lr_status status;
    LR_TRY(lr__new(&order, gguf->value_count + 1, sizeof *order));
    for (size_t i = 0; i < gguf->value_count; i++) order[i] = &gguf->values[i];
    qsort(order, gguf->value_count, sizeof *order, by_key);
    for (size_t i = 1; i < gguf->value_count; i++) {
        LR_FAIL_IF(by_key(&order[i - 1], &order[i]) == 0, LR_E_FORMAT,
                   "%s: key \"%.*s\" stands twice", gguf->mapping->path, (int)order[i]->key.size,
                   order[i]->key.data);
    }
done:
    lr__free(order);
    return status;
}

static lr_status read_values(lr__gguf *gguf, reader *r, uint64_t count) {
    lr_status status;
    LR_FAIL_IF(count > (r->size - r->at) / MIN_VALUE_BYTES, LR_E_FORMAT,
               "%s: %llu keys announced, the file has room for %zu", r->path,
               (unsigned long long)count, (r->size - r->at) / MIN_VALUE_BYTES);
    LR_TRY(lr__new(&gguf->values, (size_t)count + 1, sizeof *gguf->values));
    for (uint64_t i = 0; i < count; i++) {
        LR_TRY(take_value(r, &gguf->values[i]));
        gguf->value_count++;
    }
    LR_TRY(check_keys(gguf));
done:
    return status;
}

static lr_status read_alignment(const lr__gguf *gguf, size_t *out) {
    int64_t alignment = DEFAULT_ALIGNMENT;
    lr_status status = lr__gguf_int(gguf, "general.alignment", &alignment);
    if (status < 0) return status;
    if (alignment < 8 || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)))
        return lr__fail(LR_E_FORMAT, "%s: general.alignment %lld, expected a power of two from 8",
                        gguf->mapping->path, (long long)alignment);
    *out = (size_t)alignment;
    return LR_OK;
}

/* --- tensors --- */

typedef struct tensor_info {
    lr__text name;
    uint32_t type;
    uint64_t offset;
    lr__stored stored; /* without name and data */
} tensor_info;

static lr_status fail_tensor(const reader *r, const tensor_info *info, const char *problem,
                             uint64_t found, uint64_t expected) {
    return lr__fail(LR_E_FORMAT, "%s: tensor \"%.*s\": %s %llu, expected %llu", r->path,
                    (int)info->name.size, info->name.data, problem, (unsigned long long)found,
                    (unsigned long long)expected);
}

/* GGUF lists the fastest dimension first. */
static lr_status take_shape(reader *r, tensor_info *info, int64_t *elements) {
    uint32_t ndim;
    lr_status status;
    *elements = 1;
    LR_TRY(take_u32(r, &ndim, "a tensor's shape"));
    if (ndim > GGML_DIMS) {
        status = fail_tensor(r, info, "number of dimensions", ndim, GGML_DIMS);
        goto done;
    }
    info->stored.ndim = (int32_t)ndim;
    for (uint32_t i = 0; i < ndim; i++) {
        uint64_t extent;
        LR_TRY(take_u64(r, &extent, "a tensor's shape"));
        LR_FAIL_IF(extent == 0 || extent > INT64_MAX ||
                       __builtin_mul_overflow(*elements, (int64_t)extent, elements),
                   LR_E_FORMAT, "%s: tensor \"%.*s\": dimension %u of %llu elements", r->path,
                   (int)info->name.size, info->name.data, i, (unsigned long long)extent);
        info->stored.shape[ndim - 1 - i] = (int64_t)extent;
    }
done:
    return status;
}

static lr_status size_tensor(const reader *r, tensor_info *info, int64_t elements) {
    const ggml_type *type = type_of(info->type);
    int64_t row = info->stored.ndim ? info->stored.shape[info->stored.ndim - 1] : 1;
    uint64_t bytes = 0;
    if (info->type > INT16_MAX)
        return fail_tensor(r, info, "type number above the known:", info->type, INT16_MAX);
    info->stored.dtype = dtype_of(info->type);
    if (!type) return LR_OK;
    if (row % type->block) return fail_tensor(r, info, "a row of", (uint64_t)row, type->block);
    if (__builtin_mul_overflow((uint64_t)(elements / type->block), type->bytes, &bytes) ||
        bytes > PTRDIFF_MAX)
        return fail_tensor(r, info, "more bytes than the file: blocks",
                           (uint64_t)(elements / type->block), r->size / type->bytes);
    info->stored.bytes = (size_t)bytes;
    return LR_OK;
}

static lr_status take_tensor(reader *r, tensor_info *info) {
    int64_t elements;
    lr_status status;
    memset(info, 0, sizeof *info);
    LR_TRY(take_name(r, &info->name, MAX_NAME, "a tensor's name"));
    LR_TRY(take_shape(r, info, &elements));
    LR_TRY(take_u32(r, &info->type, "a tensor's type"));
    LR_TRY(take_u64(r, &info->offset, "a tensor's offset"));
    LR_TRY(size_tensor(r, info, elements));
done:
    return status;
}

/* Where the tensor data lies, and how far the tensors placed so far reach. */
typedef struct region {
    size_t start, size, alignment, used;
} region;

static lr_status place_tensor(lr__gguf *gguf, const reader *r, tensor_info *info, region *data) {
    lr__stored *stored = &info->stored;
    if (info->offset % data->alignment)
        return fail_tensor(r, info, "offset not a multiple of the alignment:", info->offset,
                           data->alignment);
    if (info->offset < data->used)
        return fail_tensor(r, info, "overlaps the tensor before it: offset", info->offset,
                           data->used);
    if (info->offset > data->size || stored->bytes > data->size - info->offset)
        return lr__fail(LR_E_FORMAT,
                        "%s: tensor \"%.*s\": %zu bytes at offset %llu, the data has only %zu",
                        r->path, (int)info->name.size, info->name.data, stored->bytes,
                        (unsigned long long)info->offset, data->size);
    data->used = (size_t)info->offset + stored->bytes;
    stored->name = (char *)info->name.data;
    stored->data = r->data + data->start + info->offset;
    stored->mapping = gguf->mapping;
    return lr__stored_list_add(&gguf->tensors, stored, info->name.size);
}

/* The table is walked twice: where the data begins is known only behind it. */
static lr_status read_tensors(lr__gguf *gguf, reader *r, uint64_t count) {
    reader again = *r;
    tensor_info info;
    region data = {0};
    lr_status status;
    LR_FAIL_IF(count > (r->size - r->at) / MIN_TENSOR_BYTES, LR_E_FORMAT,
               "%s: %llu tensors announced, the file has room for %zu", r->path,
               (unsigned long long)count, (r->size - r->at) / MIN_TENSOR_BYTES);
    LR_TRY(read_alignment(gguf, &data.alignment));
    for (uint64_t i = 0; i < count; i++) LR_TRY(take_tensor(r, &info));
    data.start = (r->at + data.alignment - 1) & ~(data.alignment - 1);
    if (data.start > r->size) data.start = r->size & ~(data.alignment - 1);
    data.size = r->size - data.start;
    for (uint64_t i = 0; i < count; i++) {
        LR_TRY(take_tensor(&again, &info));
        LR_TRY(place_tensor(gguf, r, &info, &data));
    }
    LR_TRY(lr__stored_list_sort(&gguf->tensors));
done:
    return status;
}

/* --- the file --- */

static lr_status read_head(reader *r, uint64_t *tensors, uint64_t *values) {
    const unsigned char *magic = NULL;
    uint32_t version;
    lr_status status;
    LR_TRY(take(r, &magic, 4, "the header"));
    LR_FAIL_IF(memcmp(magic, "FUGG", 4) == 0, LR_E_UNSUPPORTED, "%s: a big-endian GGUF", r->path);
    LR_FAIL_IF(memcmp(magic, "GGUF", 4) != 0, LR_E_FORMAT,
               "%s: begins with %02x %02x %02x %02x, expected \"GGUF\"", r->path, magic[0],
               magic[1], magic[2], magic[3]);
    LR_TRY(take_u32(r, &version, "the header"));
    LR_FAIL_IF(version && (version & 0xFFFF) == 0, LR_E_UNSUPPORTED, "%s: a big-endian GGUF",
               r->path);
    LR_FAIL_IF(version != 2 && version != 3, LR_E_UNSUPPORTED,
               "%s: GGUF version %u, expected 2 or 3", r->path, version);
    LR_TRY(take_u64(r, tensors, "the header"));
    LR_TRY(take_u64(r, values, "the header"));
done:
    return status;
}

lr_status lr__gguf_open(lr__gguf **out, const char *path, int copy) {
    lr__gguf *gguf = NULL;
    uint64_t tensors, values;
    lr_status status;
    *out = NULL;
    LR_TRY(lr__new(&gguf, 1, sizeof *gguf));
    LR_TRY(lr__mapping_open(&gguf->mapping, path, copy));
    reader r = {gguf->mapping->data, gguf->mapping->size, 0, path};
    LR_TRY(read_head(&r, &tensors, &values));
    LR_TRY(read_values(gguf, &r, values));
    LR_TRY(read_tensors(gguf, &r, tensors));
    *out = gguf;
    gguf = NULL;
done:
    lr__gguf_free(gguf);
    return status;
}

void lr__gguf_free(lr__gguf *gguf) {
    if (!gguf) return;
    lr__stored_list_clear(&gguf->tensors);
    lr__mapping_drop(gguf->mapping);
    lr__free(gguf->values);
    lr__free(gguf);
}
