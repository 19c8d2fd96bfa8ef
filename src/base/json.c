/* JSON in: bounded in size, depth and number of values, strict about duplicates. JSON out: reals in
 * the fewest digits that read back as the same number, with a point in every locale. */
#include "base/json.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64, MAX_VALUES = 1 << 24, MAX_BYTES = 1 << 28 };

/* Nesting of brackets and number of values, outside strings, counted only as far as the limits:
 * a value of two bytes in a file is fifty in memory. */
static lr_status check_extent(const char *text, size_t size, const char *where) {
    int depth = 0, in_string = 0, values = 1;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = 0;
            continue;
        }
        in_string = c == '"';
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        values += c == ',' || c == '{' || c == '[';
        if (depth > MAX_DEPTH)
            return lr__fail(LR_E_FORMAT, "%s: JSON nested deeper than %d", where, MAX_DEPTH);
        if (values > MAX_VALUES)
            return lr__fail(LR_E_FORMAT, "%s: JSON of more than %d values", where, MAX_VALUES);
    }
    return LR_OK;
}

lr_status lr__json_parse(json_t **out, const char *text, size_t size, const char *where) {
    *out = NULL;
    if (size > MAX_BYTES)
        return lr__fail(LR_E_FORMAT, "%s: JSON of %zu bytes, at most %d are read", where, size,
                        MAX_BYTES);
    lr_status status = check_extent(text, size, where);
    if (status < 0) return status;
    json_error_t error;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (*out) return LR_OK;
    /* Its lexer says nothing when memory is out. */
    if (json_error_code(&error) == json_error_out_of_memory || error.line < 0)
        return lr__nomem(size);
    return lr__fail(LR_E_FORMAT, "%s: line %d, column %d: %s", where, error.line, error.column,
                    error.text);
}

lr_status lr__json_read(json_t **out, const char *path, size_t limit) {
    char *text = NULL;
    size_t size = 0;
    lr_status status;
    *out = NULL;
    LR_TRY(lr__file_read(&text, &size, path, limit));
    LR_TRY(lr__json_parse(out, text, size, path));
done:
    lr__free(text);
    return status;
}

typedef struct buffer {
    char *data;
    size_t size, capacity;
} buffer;

static int put(const char *data, size_t bytes, void *user) {
    buffer *b = user;
    if (lr__grow(&b->data, &b->capacity, b->size + bytes + 1, 1) < 0) return -1;
    memcpy(b->data + b->size, data, bytes);
    b->size += bytes;
    b->data[b->size] = '\0';
    return 0;
}

static int put_text(buffer *b, const char *text) { return put(text, strlen(text), b); }

static int put_real(buffer *b, double value) {
    char digits[40], text[48];
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value) break;
    }
    size_t used = 0;
    int has_mark = 0;
    for (const char *c = digits; *c; c++) {
        if (strchr("0123456789+-e", *c)) {
            has_mark |= *c == 'e';
            text[used++] = *c;
        } else if (used > 0 && text[used - 1] != '.') { /* a locale's point may be several bytes */
            has_mark = 1;
            text[used++] = '.';
        }
    }
    if (!has_mark) {
        text[used++] = '.';
        text[used++] = '0';
    }
    return put(text, used, b);
}

static int put_break(buffer *b, int indent, int depth) {
    if (indent == 0) return 0;
    if (put_text(b, "\n")) return -1;
    for (int i = 0; i < indent * depth; i++)
        if (put_text(b, " ")) return -1;
    return 0;
}

static int put_value(buffer *b, const json_t *value, int indent, int depth);

static int put_array(buffer *b, const json_t *value, int indent, int depth) {
    size_t count = json_array_size(value);
    if (put_text(b, "[")) return -1;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && put_text(b, ",")) return -1;
        if (put_break(b, indent, depth + 1)) return -1;
        if (put_value(b, json_array_get(value, i), indent, depth + 1)) return -1;
    }
    if (count > 0 && put_break(b, indent, depth)) return -1;
    return put_text(b, "]");
}

static int put_key(buffer *b, const char *key, int indent) {
    json_t *text = json_string_nocheck(key);
    int failed = !text || json_dump_callback(text, put, b, JSON_ENCODE_ANY);
    json_decref(text);
    return failed ? -1 : put_text(b, indent ? ": " : ":");
}

static int put_object(buffer *b, const json_t *value, int indent, int depth) {
    json_t *object = (json_t *)value; /* jansson's iterators take no const */
    size_t count = 0;
    const char *key;
    json_t *member;
    if (put_text(b, "{")) return -1;
    json_object_foreach(object, key, member) {
        if (count++ > 0 && put_text(b, ",")) return -1;
        if (put_break(b, indent, depth + 1) || put_key(b, key, indent)) return -1;
        if (put_value(b, member, indent, depth + 1)) return -1;
    }
    if (count > 0 && put_break(b, indent, depth)) return -1;
    return put_text(b, "}");
}

static int put_value(buffer *b, const json_t *value, int indent, int depth) {
    if (depth > MAX_DEPTH) return -1;
    if (json_is_object(value)) return put_object(b, value, indent, depth);
    if (json_is_array(value)) return put_array(b, value, indent, depth);
    if (json_is_real(value)) return put_real(b, json_real_value(value));
    return json_dump_callback(value, put, b, JSON_ENCODE_ANY);
}

lr_status lr__json_text(char **out, const json_t *value, int indent) {
    buffer b = {0};
    *out = NULL;
    if (!value || put_value(&b, value, indent, 0)) {
        size_t size = b.size;
        lr__free(b.data);
        return lr__fail(LR_E_NOMEM,
                        "JSON text stops after %zu bytes: no memory, or a value that "
                        "JSON cannot hold",
                        size);
    }
    *out = b.data;
    return LR_OK;
}

lr_status lr__json_write(const char *path, const json_t *value, int indent) {
    char *text;
    lr_status status = lr__json_text(&text, value, indent);
    if (status < 0) return status;
    status = lr__file_write(path, text, strlen(text));
    lr__free(text);
    return status;
}

lr_status lr__json_save(const char *path, const json_t *value, int indent, int force) {
    lr_status status = LR_OK;
    lr__output output = {0};
    LR_TRY(lr__output_begin(&output, path, 0, force));
    LR_TRY(lr__json_write(output.staging, value, indent));
    LR_TRY(lr__output_commit(&output));
done:
    lr__output_end(&output);
    return status;
}

static lr_status taken(int failed) {
    return failed ? lr__fail(LR_E_NOMEM, "out of memory for JSON") : LR_OK;
}

lr_status lr__json_set(json_t *object, const char *key, json_t *value) {
    return taken(json_object_set_new(object, key, value));
}

lr_status lr__json_append(json_t *array, json_t *value) {
    return taken(json_array_append_new(array, value));
}

static const char *type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    default: return "a boolean";
    }
}

/* NULL when absent; null counts as absent, as the configurations of transformers mean it. */
static const json_t *member_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value) ? value : NULL;
}

static lr_status wrong_type(const json_t *value, const char *key, const char *where,
                            const char *expected) {
    return lr__fail(LR_E_FORMAT, "%s: \"%s\" is %s, expected %s", where, key, type_name(value),
                    expected);
}

lr_status lr__json_int(const json_t *object, const char *key, int64_t *out, const char *where) {
    const json_t *value = member_of(object, key);
    if (!value) return LR_OK;
    if (!json_is_integer(value)) return wrong_type(value, key, where, "an integer");
    *out = json_integer_value(value);
    return LR_OK;
}

lr_status lr__json_real(const json_t *object, const char *key, double *out, const char *where) {
    const json_t *value = member_of(object, key);
    if (!value) return LR_OK;
    if (!json_is_number(value)) return wrong_type(value, key, where, "a number");
    *out = json_number_value(value);
    return LR_OK;
}

lr_status lr__json_bool(const json_t *object, const char *key, int32_t *out, const char *where) {
    const json_t *value = member_of(object, key);
    if (!value) return LR_OK;
    if (!json_is_boolean(value)) return wrong_type(value, key, where, "true or false");
    *out = json_is_true(value);
    return LR_OK;
}
