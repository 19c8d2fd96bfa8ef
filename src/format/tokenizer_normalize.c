/* Normalisation in the terms of tokenizer.json: NFC, a text put before, texts replaced. What is
 * not known exactly is refused. */
#include "format/tokenizer_parts.h"

static lr_status copy_text(char **out, size_t *size, const json_t *value) {
    *size = json_string_length(value);
    *out = lr__strndup(json_string_value(value), *size);
    return *out ? LR_OK : lr__nomem(*size + 1);
}

static lr_status read_prepend(lr__normal *item, const json_t *value, const char *where) {
    const json_t *text = json_object_get(value, "prepend");
    item->kind = LR__NORMAL_PREPEND;
    if (!json_is_string(text))
        return lr__fail(LR_E_FORMAT, "%s: normalizer Prepend without a text", where);
    return copy_text(&item->to, &item->to_size, text);
}

static lr_status read_replace(lr__normal *item, const json_t *value, const char *where) {
    const json_t *from = json_object_get(json_object_get(value, "pattern"), "String");
    const json_t *to = json_object_get(value, "content");
    item->kind = LR__NORMAL_REPLACE;
    if (!json_string_length(from) || !json_is_string(to))
        return lr__fail(LR_E_UNSUPPORTED,
                        "%s: normalizer Replace, expected a String pattern and a content", where);
    lr_status status = copy_text(&item->from, &item->from_size, from);
    return status < 0 ? status : copy_text(&item->to, &item->to_size, to);
}

static lr_status read_one(lr__normals *normals, const json_t *value, const char *type,
                          const char *where) {
    if (normals->count == LR__MAX_NORMALS)
        return lr__fail(LR_E_UNSUPPORTED, "%s: more than %d normalizers", where,
                        (int)LR__MAX_NORMALS);
    lr__normal *item = &normals->items[normals->count++];
    if (!strcmp(type, "Prepend")) return read_prepend(item, value, where);
    if (!strcmp(type, "Replace")) return read_replace(item, value, where);
    item->kind = LR__NORMAL_NFC;
    return LR_OK;
}

static lr_status read_part(void *into, const json_t *part, const char *type, const char *where) {
    if (!part || json_is_null(part)) return LR_OK;
    if (!strcmp(type, "NFC") || !strcmp(type, "Prepend") || !strcmp(type, "Replace"))
        return read_one(into, part, type, where);
    return LR__PART_UNKNOWN;
}

lr_status lr__normals_from_json(lr__normals *normals, const json_t *normalizer, const char *where) {
    const lr__sequence sequence = {.what = "normalizer",
                                   .members = "normalizers",
                                   .known = "null, NFC, Prepend, Replace",
                                   .read = read_part,
                                   .into = normals,
                                   .where = where};
    return lr__sequence_read(&sequence, normalizer);
}

static lr_status append(char **buffer, size_t *capacity, size_t *used, lr__text text) {
    lr_status status = lr__grow(buffer, capacity, *used + text.size + 1, 1);
    if (status < 0) return status;
    if (text.size) memcpy(*buffer + *used, text.data, text.size);
    *used += text.size;
    return LR_OK;
}

lr_status lr__replace(char **buffer, size_t *capacity, size_t *used, lr__text text, lr__text from,
                      lr__text to) {
    lr_status status = LR_OK;
    size_t at = 0;
    while (status >= 0 && at < text.size) {
        const char *rest = text.data + at;
        const char *hit = from.size == 1 ? memchr(rest, from.data[0], text.size - at)
                                         : memmem(rest, text.size - at, from.data, from.size);
        size_t before = hit ? (size_t)(hit - rest) : text.size - at;
        status = append(buffer, capacity, used, (lr__text){rest, before});
        if (hit && status >= 0) status = append(buffer, capacity, used, to);
        at += before + (hit ? from.size : 0);
    }
    return status;
}

static lr_status apply(const lr__normal *item, lr__text *text, char **buffer, size_t *capacity) {
    size_t used = 0;
    lr__text to = {item->to, item->to_size};
    lr_status status;
    if (item->kind == LR__NORMAL_NFC) return lr__nfc(text, buffer, capacity, *text);
    if (item->kind == LR__NORMAL_PREPEND) {
        status = append(buffer, capacity, &used, to);
        if (status >= 0) status = append(buffer, capacity, &used, *text);
    } else {
        status = lr__replace(buffer, capacity, &used, *text,
                             (lr__text){item->from, item->from_size}, to);
    }
    if (status >= 0) *text = (lr__text){*buffer, used};
    return status;
}

lr_status lr__normalize(lr__text *out, lr__buffers *buffers, const lr__normals *normals,
                        lr__text text) {
    for (size_t i = 0; i < normals->count && text.size; i++) {
        int into = text.data == buffers->data[0];
        lr_status status =
            apply(&normals->items[i], &text, &buffers->data[into], &buffers->capacity[into]);
        if (status < 0) return status;
    }
    *out = text;
    return LR_OK;
}

void lr__normals_clear(lr__normals *normals) {
    for (size_t i = 0; i < normals->count; i++) {
        lr__free(normals->items[i].from);
        lr__free(normals->items[i].to);
    }
}

void lr__buffers_clear(lr__buffers *buffers) {
    lr__free(buffers->data[0]);
    lr__free(buffers->data[1]);
}
