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
