/* What the tests of the tokenizer share: a small tokenizer.json and short calls. */
#ifndef TESTS_TOKENIZER_FIXTURE_H
#define TESTS_TOKENIZER_FIXTURE_H

#include "format/tokenizer.h"
#include "scratch.h"

#define CHECK_OK(call) ck_assert_msg((call) >= 0, "%s", lr_last_error())

/* ids: a b Ġ ab abab c, and <s> added. */
#define SMALL                                                                                   \
    "{\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true,\"normalized\":false}]," \
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false," \
    "\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\","     \
    "\"vocab\":{\"a\":0,\"b\":1,\"\xc4\xa0\":2,\"ab\":3,\"abab\":4,\"c\":5},"                   \
    "\"merges\":[\"a b\",[\"ab\",\"ab\"]]}}"

static inline json_t *parse(const char *text) {
    json_t *root = json_loads(text, JSON_DECODE_ANY, NULL);
    ck_assert_ptr_nonnull(root);
    return root;
}

static inline lr_tokenizer *small_tokenizer(void) {
    lr_tokenizer *tokenizer = NULL;
    json_t *root = parse(SMALL);
    CHECK_OK(lr__tokenizer_from_json(&tokenizer, root, "small"));
    json_decref(root);
    return tokenizer;
}

/* The path of a file of tests/golden. */
static inline const char *golden_file(const char *name) {
    static char path[600];
    const char *folder = getenv("LR_GOLDEN");
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "tests/golden", name);
    return path;
}

static inline json_t *load_golden(const char *name) {
    json_t *root = json_load_file(golden_file(name), 0, NULL);
    ck_assert_msg(root != NULL, "%s cannot be read", golden_file(name));
    return root;
}

/* A tokenizer.json with the changes of a variant: members of the whole and of its model. */
static inline lr_tokenizer *changed_tokenizer(const json_t *base, const json_t *variant) {
    lr_tokenizer *tokenizer = NULL;
    json_t *whole = json_deep_copy(base);
    json_t *change = json_deep_copy(json_object_get(variant, "change"));
    json_object_update(json_object_get(whole, "model"), json_object_get(change, "model"));
    json_object_del(change, "model");
    json_object_update(whole, change);
    CHECK_OK(lr__tokenizer_from_json(&tokenizer, whole,
                                     json_string_value(json_object_get(variant, "name"))));
    json_decref(whole);
    json_decref(change);
    return tokenizer;
}

static inline size_t from_hex(const json_t *value, char *bytes) {
    const char *hex = json_string_value(value);
    size_t size = strlen(hex) / 2;
    for (size_t i = 0; i < size; i++) {
        unsigned byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        bytes[i] = (char)byte;
    }
    return size;
}

static inline size_t ids_of(const json_t *list, int32_t *ids) {
    size_t count = json_array_size(list);
    for (size_t i = 0; i < count; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return count;
}

/* Encodes and compares with `count` ids. */
static inline void check_ids(const lr_tokenizer *tokenizer, const char *text, size_t bytes,
                             const int32_t *expected, size_t count) {
    int32_t ids[4096];
    size_t found = 0;
    CHECK_OK(lr_tokenizer_encode(tokenizer, text, bytes, ids, 4096, &found));
    ck_assert_uint_eq(found, count);
    if (count) ck_assert_mem_eq(ids, expected, count * sizeof *ids);
}

#define CHECK_IDS(tokenizer, text, ...)                                          \
    check_ids(tokenizer, text, sizeof(text) - 1, (const int32_t[]){__VA_ARGS__}, \
              sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

#endif
