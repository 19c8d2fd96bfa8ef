/* safetensors in: eight bytes of header length, a JSON header, the data. As strict as the reference
 * implementation: the tensors cover the data without holes, overlaps or a rest, and every shape
 * fits its bytes (huggingface/safetensors, README "Format"). */
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER = 100000000, MAX_INDEX = 1 << 26 };

typedef struct type_info {
    const char *name;
    int32_t dtype;
    int32_t bits; /* of one element */
} type_info;

static const type_info types[] = {
    {"F32", LR_F32, 32}, {"F16", LR_F16, 16}, {"BF16", LR_BF16, 16}, {"F64", LR_F64, 64},
    {"I8", LR_I8, 8},    {"I32", LR_I32, 32}, {"I64", LR_I64, 64},   {"U8", LR_U8, 8},
    {"BOOL", -1, 8},     {"I16", -1, 16},     {"U16", -1, 16},       {"U32", -1, 32},
    {"U64", -1, 64},     {"C64", -1, 64},     {"F8_E5M2", -1, 8},    {"F8_E4M3", -1, 8},
    {"F8_E8M0", -1, 8},  {"F4", -1, 4},       {"F6_E2M3", -1, 6},    {"F6_E3M2", -1, 6},
};

enum { TYPES = sizeof types / sizeof types[0] };

static const type_info *type_of(const char *name) {
    for (int i = 0; i < TYPES; i++)
        if (strcmp(types[i].name, name) == 0) return &types[i];
    return NULL;
}

const char *lr__safetensors_type(int32_t dtype) {
    for (int i = 0; i < TYPES; i++)
        if (types[i].dtype == dtype && dtype >= 0) return types[i].name;
    return NULL;
}

/* What one file's tensors are checked against. */
typedef struct file {
    lr__mapping *mapping;
    const unsigned char *data; /* behind the header */
    size_t size;
    const char *path;
} file;

typedef struct entry {
    const char *name;
    size_t begin, end;
    lr__stored stored;
} entry;

static lr_status fail_entry(const file *f, const char *name, const char *problem) {
    return lr__fail(LR_E_FORMAT, "%s: tensor \"%s\": %s", f->path, name, problem);
}

/* --- one tensor --- */

static lr_status read_shape(const file *f, entry *e, const json_t *shape, int64_t *elements) {
    size_t count = json_array_size(shape);
    *elements = 1;
    if (!json_is_array(shape)) return fail_entry(f, e->name, "\"shape\" is not an array");
    if (count > LR_MAX_DIMS)
        return lr__fail(LR_E_UNSUPPORTED, "%s: tensor \"%s\": %zu dimensions, at most %d", f->path,
                        e->name, count, LR_MAX_DIMS);
    e->stored.ndim = (int32_t)count;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(shape, i);
        if (!json_is_integer(item) || json_integer_value(item) < 0)
            return fail_entry(f, e->name, "\"shape\" holds something else than sizes");
        e->stored.shape[i] = json_integer_value(item);
        if (__builtin_mul_overflow(*elements, e->stored.shape[i], elements))
            return fail_entry(f, e->name, "more elements than can be counted");
    }
    return LR_OK;
}

static lr_status read_offsets(const file *f, entry *e, const json_t *offsets) {
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return fail_entry(f, e->name, "\"data_offsets\" is not a pair of integers");
    json_int_t from = json_integer_value(begin), to = json_integer_value(end);
    if (from < 0 || to < from || (uint64_t)to > f->size)
        return lr__fail(LR_E_FORMAT, "%s: tensor \"%s\": bytes %lld to %lld of %zu", f->path,
                        e->name, (long long)from, (long long)to, f->size);
    e->begin = (size_t)from;
    e->end = (size_t)to;
    return LR_OK;
}

static lr_status check_bytes(const file *f, const entry *e, const type_info *type,
                             int64_t elements) {
    uint64_t bits;
    size_t found = e->end - e->begin;
    if (!type) return LR_OK;
    if (__builtin_mul_overflow((uint64_t)elements, (uint64_t)type->bits, &bits) || bits % 8)
        return fail_entry(f, e->name, "its elements do not fill whole bytes");
    if (bits / 8 != found)
        return lr__fail(LR_E_FORMAT, "%s: tensor \"%s\": %zu bytes, its shape needs %llu", f->path,
                        e->name, found, (unsigned long long)(bits / 8));
    return LR_OK;
}

static lr_status read_entry(const file *f, entry *e, const char *name, const json_t *value) {
    const char *type_name = json_string_value(json_object_get(value, "dtype"));
    int64_t elements;
    lr_status status;
    e->name = name;
    LR_FAIL_IF(*name == '\0', LR_E_FORMAT, "%s: a tensor without a name", f->path);
    LR_FAIL_IF(!type_name, LR_E_FORMAT, "%s: tensor \"%s\": no \"dtype\"", f->path, name);
    const type_info *type = type_of(type_name);
    e->stored.dtype = type ? type->dtype : -1;
    LR_TRY(read_shape(f, e, json_object_get(value, "shape"), &elements));
    LR_TRY(read_offsets(f, e, json_object_get(value, "data_offsets")));
    LR_TRY(check_bytes(f, e, type, elements));
    e->stored.bytes = e->end - e->begin;
    e->stored.data = f->data + e->begin;
done:
    return status;
}

/* --- all of them --- */

static int by_place(const void *a, const void *b) {
    const entry *one = a, *two = b;
    if (one->begin != two->begin) return one->begin < two->begin ? -1 : 1;
    return (one->end > two->end) - (one->end < two->end);
}

static lr_status check_cover(const file *f, entry *entries, size_t count) {
    size_t used = 0;
    qsort(entries, count, sizeof *entries, by_place);
    for (size_t i = 0; i < count; i++) {
        if (entries[i].begin != used)
            return lr__fail(LR_E_FORMAT, "%s: tensor \"%s\" begins at byte %zu, expected %zu",
                            f->path, entries[i].name, entries[i].begin, used);
        used = entries[i].end;
    }
    if (used != f->size)
        return lr__fail(LR_E_FORMAT, "%s: %zu bytes of data, the tensors use %zu", f->path, f->size,
                        used);
    return LR_OK;
}

/* Headers need not end on a multiple of the element size; then the tensor moves to memory. */
static lr_status add_entry(lr__stored_list *list, const file *f, entry *e) {
    lr__mapping *mapping = lr__mapping_keep(f->mapping);
    size_t size = lr_dtype_size(e->stored.dtype);
    lr_status status;
    e->stored.name = (char *)e->name;
    if (size > 1 && e->stored.bytes > 0 && (uintptr_t)e->stored.data % size) {
        lr__mapping_drop(mapping);
        LR_TRY(lr__mapping_copy(&mapping, f->path, e->stored.data, e->stored.bytes));
        e->stored.data = mapping->data;
    }
    e->stored.mapping = mapping;
    LR_TRY(lr__stored_list_add(list, &e->stored, strlen(e->name)));
done:
    lr__mapping_drop(mapping);
    return status;
}

static lr_status check_metadata(const file *f, const json_t *metadata) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return lr__fail(LR_E_FORMAT, "%s: \"__metadata__\" is not an object", f->path);
    json_object_foreach((json_t *)metadata, key, value) {
        if (!json_is_string(value))
            return lr__fail(LR_E_FORMAT, "%s: \"__metadata__\": \"%s\" is not a string", f->path,
                            key);
    }
    return LR_OK;
}

static lr_status add_entries(lr__stored_list *list, const file *f, json_t *header) {
    entry *entries = NULL;
    size_t count = 0;
    const char *name;
    json_t *value;
    lr_status status;
    LR_TRY(lr__new(&entries, json_object_size(header) + 1, sizeof *entries));
    json_object_foreach(header, name, value) {
        if (strcmp(name, "__metadata__") == 0)
            LR_TRY(check_metadata(f, value));
        else
            LR_TRY(read_entry(f, &entries[count++], name, value));
    }
    LR_TRY(check_cover(f, entries, count));
    for (size_t i = 0; i < count; i++) LR_TRY(add_entry(list, f, &entries[i]));
    LR_TRY(lr__stored_list_sort(list));
done:
    lr__free(entries);
    return status;
}

static lr_status read_header(json_t **header, file *f) {
    uint64_t length;
    lr_status status;
    LR_FAIL_IF(f->mapping->size < sizeof length, LR_E_FORMAT,
               "%s: %zu bytes, a safetensors file has at least 8", f->path, f->mapping->size);
    memcpy(&length, f->mapping->data, sizeof length);
    size_t room = f->mapping->size - sizeof length;
    LR_FAIL_IF(length > MAX_HEADER || length > room, LR_E_FORMAT,
               "%s: a header of %llu bytes in a file of %zu (at most %d)", f->path,
               (unsigned long long)length, f->mapping->size, MAX_HEADER);
    const char *text = (const char *)f->mapping->data + sizeof length;
    LR_FAIL_IF(length == 0 || text[0] != '{', LR_E_FORMAT,
               "%s: the header does not begin with \"{\"", f->path);
    LR_TRY(lr__json_parse(header, text, (size_t)length, f->path));
    f->data = f->mapping->data + sizeof length + length;
    f->size = room - (size_t)length;
done:
    return status;
}

lr_status lr__safetensors_add(lr__stored_list *list, const char *path, int copy,
                              json_t **metadata) {
    file f = {.path = path};
    json_t *header = NULL;
    lr_status status;
    if (metadata) *metadata = NULL;
    LR_TRY(lr__mapping_open(&f.mapping, path, copy));
    LR_TRY(read_header(&header, &f));
    LR_TRY(add_entries(list, &f, header));
    if (metadata) *metadata = json_incref(json_object_get(header, "__metadata__"));
done:
    json_decref(header);
    lr__mapping_drop(f.mapping);
    return status;
}

/* --- folders --- */

static lr_status add_shard(lr__stored_list *list, json_t *seen, const char *folder,
                           const char *shard, int copy) {
    char *path = NULL;
    lr_status status = LR_OK;
    if (json_object_get(seen, shard)) return LR_OK;
    LR_FAIL_IF(strchr(shard, '/') || *shard == '.' || *shard == '\0', LR_E_FORMAT,
               "%s: the index names the shard \"%s\", expected a file beside it", folder, shard);
    if (json_object_set_new(seen, shard, json_true())) return lr__nomem(strlen(shard));
    LR_TRY(lr__path_join(&path, folder, shard));
    LR_TRY(lr__safetensors_add(list, path, copy, NULL));
done:
    lr__free(path);
    return status;
}

static int lies_in(const lr__stored *stored, const char *shard) {
    const char *slash = strrchr(stored->mapping->path, '/');
    return strcmp(slash ? slash + 1 : stored->mapping->path, shard) == 0;
}

static lr_status add_shards(lr__stored_list *list, const char *folder, const char *index_path,
                            json_t *map, int copy) {
    json_t *value, *seen = json_object();
    const char *name;
    lr_status status = LR_OK;
    if (!seen) return lr__nomem(sizeof *seen);
    LR_FAIL_IF(json_object_size(map) == 0, LR_E_FORMAT, "%s: no \"weight_map\"", index_path);
    json_object_foreach(map, name, value) {
        LR_FAIL_IF(!json_is_string(value), LR_E_FORMAT, "%s: \"%s\" is not given a file name",
                   index_path, name);
        LR_TRY(add_shard(list, seen, folder, json_string_value(value), copy));
    }
    json_object_foreach(map, name, value) {
        const lr__stored *stored = lr__stored_find(list, name);
        LR_FAIL_IF(!stored || !lies_in(stored, json_string_value(value)), LR_E_FORMAT,
                   "%s: tensor \"%s\" is not in %s", index_path, name, json_string_value(value));
    }
done:
    json_decref(seen);
    return status;
}

static lr_status add_index(lr__stored_list *list, const char *folder, const char *path, int copy) {
    json_t *index = NULL;
    lr_status status;
    LR_TRY(lr__json_read(&index, path, MAX_INDEX));
    LR_TRY(add_shards(list, folder, path, json_object_get(index, "weight_map"), copy));
done:
    json_decref(index);
    return status;
}

lr_status lr__safetensors_add_folder(lr__stored_list *list, const char *folder, int copy) {
    char *single = NULL, *index = NULL;
    lr_status status;
    LR_TRY(lr__path_join(&single, folder, "model.safetensors"));
    LR_TRY(lr__path_join(&index, folder, "model.safetensors.index.json"));
    if (lr__path_exists(single))
        LR_TRY(lr__safetensors_add(list, single, copy, NULL));
    else if (lr__path_exists(index))
        LR_TRY(add_index(list, folder, index, copy));
    else
        status = lr__fail(LR_E_NOTFOUND,
                          "%s: holds neither model.safetensors nor model.safetensors.index.json",
                          folder);
done:
    lr__free(single);
    lr__free(index);
    return status;
}
