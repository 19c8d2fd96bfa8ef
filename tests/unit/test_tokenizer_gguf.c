/* Tokenizers inside GGUF files, true and damaged, and the Hugging Face files made from them. */
#include "gguf_bytes.h"
#include "tokenizer_fixture.h"

static uint64_t members;

static void begin(void) {
    members = 0;
    put_head();
    put_u64(0);
}

static void member(const char *key, uint32_t type) {
    members++;
    put_text(key);
    put_u32(type);
}

static void text_member(const char *key, const char *text) {
    member(key, LR__GGUF_STRING);
    put_text(text);
}

static void int_member(const char *key, uint32_t value) {
    member(key, LR__GGUF_U32);
    put_u32(value);
}

/* Texts up to a NULL. */
static void texts_member(const char *key, const char *const *texts) {
    uint64_t count = 0;
    while (texts[count]) count++;
    member(key, LR__GGUF_ARRAY);
    put_u32(LR__GGUF_STRING);
    put_u64(count);
    for (uint64_t i = 0; i < count; i++) put_text(texts[i]);
}

static void ints_member(const char *key, const int32_t *values, uint64_t count) {
    member(key, LR__GGUF_ARRAY);
    put_u32(LR__GGUF_I32);
    put_u64(count);
    put(values, count * sizeof *values);
}

static lr__gguf *finish(void) {
    memcpy(file.bytes + 16, &members, 8);
    return open_bytes();
}

/* 0-2 markers, 3 "<tool>" user-defined, 4 unused, then letters and what they make. */
static const char *const tokens[] = {"<end>", "<start>", "<none>", "<tool>", "[PAD]",
                                     "a",     "b",       "1",      "2",      "\xc4\xa0",
                                     "ab",    "12",      "abab",   NULL};
static const int32_t types[] = {3, 3, 2, 4, 5, 1, 1, 1, 1, 1, 1, 1, 1};
static const char *const merges[] = {"a b", "1 2", "ab ab", NULL};
enum { TOKENS = sizeof types / sizeof *types };
static const char text[] = "abab12 <start>ab<tool><none>[PAD]<end>12ab \xff";

/* Any part may be left out or replaced before finish(). */
static void begin_named(const char *model, const char *pre) {
    begin();
    if (model) text_member("tokenizer.ggml.model", model);
    if (pre) text_member("tokenizer.ggml.pre", pre);
}

static lr__gguf *small_gguf(const char *pre) {
    begin_named("gpt2", pre);
    texts_member("tokenizer.ggml.tokens", tokens);
    ints_member("tokenizer.ggml.token_type", types, TOKENS);
    texts_member("tokenizer.ggml.merges", merges);
    int_member("tokenizer.ggml.bos_token_id", 1);
    int_member("tokenizer.ggml.eos_token_id", 0);
    int_member("tokenizer.ggml.unknown_token_id", 2);
    int_member("tokenizer.ggml.padding_token_id", 99);
    text_member("tokenizer.chat_template", "{{ messages }}\n\xc3\xa9");
    return finish();
}

START_TEST(reads) {
    lr_tokenizer *tokenizer = NULL;
    lr__gguf *gguf = small_gguf("smollm");
    CHECK_OK(lr__tokenizer_from_gguf(&tokenizer, gguf));
    lr__gguf_free(gguf);
    ck_assert_int_eq(lr_tokenizer_size(tokenizer), TOKENS);
    /* Brackets and letters of [PAD] are in no token, the digits stay apart. */
    CHECK_IDS(tokenizer, "abab12 <start>ab<tool><none>[PAD]<end>12ab \xff", 12, 7, 8, 9, 1, 10, 3,
              2, 0, 7, 8, 10, 9);
    for (int32_t id = 0; id < TOKENS; id++)
        ck_assert_int_eq(lr_tokenizer_is_special(tokenizer, id), id < 3);
    ck_assert_int_eq(lr_tokenizer_find(tokenizer, "<tool>"), 3);
    ck_assert_int_eq(lr_tokenizer_find(tokenizer, "[PAD]"), 4);
    lr_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(opens_by_its_first_bytes) {
    lr_tokenizer *tokenizer = NULL;
    lr__gguf_free(small_gguf("gpt-2"));
    scratch_make();
    CHECK_OK(lr_tokenizer_open(&tokenizer, scratch_write("any.bin", file.bytes, file.size)));
    CHECK_IDS(tokenizer, "12", 11);
    lr_tokenizer_free(tokenizer);
    scratch_remove();
}
END_TEST

/* Without types only what opens and closes a text is special; an id that is none is passed over. */
START_TEST(without_types) {
    lr_tokenizer *tokenizer = NULL;
    begin_named("gpt2", "gpt2");
    texts_member("tokenizer.ggml.tokens", tokens);
    texts_member("tokenizer.ggml.merges", merges);
    int_member("tokenizer.ggml.bos_token_id", 1);
    int_member("tokenizer.ggml.eos_token_id", 4000000000u);
    lr__gguf *gguf = finish();
    CHECK_OK(lr__tokenizer_from_gguf(&tokenizer, gguf));
    lr__gguf_free(gguf);
    CHECK_IDS(tokenizer, "<start><end>a", 1, 5);
    lr_tokenizer_free(tokenizer);
}
END_TEST

static void check_refused(lr_status wanted, const char *message) {
    lr_tokenizer *tokenizer = NULL;
    lr__tokenizer_files files;
    lr__gguf *gguf = finish();
    lr_status status = lr__tokenizer_from_gguf(&tokenizer, gguf);
    ck_assert_msg(status == wanted && strstr(lr_last_error(), message), "%s: %d, %s", message,
                  status, status < 0 ? lr_last_error() : "");
    ck_assert_ptr_null(tokenizer);
    ck_assert_int_eq(lr__tokenizer_files_from_gguf(&files, gguf, 8), wanted);
    ck_assert_ptr_null(files.tokenizer);
    lr__gguf_free(gguf);
}

START_TEST(refused_names) {
    begin_named("bert", "smollm");
    check_refused(LR_E_UNSUPPORTED, "tokenizer.ggml.model is \"bert\", expected gpt2 or llama");
    begin_named(NULL, "smollm");
    check_refused(LR_E_UNSUPPORTED, "tokenizer.ggml.model is \"\"");
    begin_named("gpt2", "chameleon");
    check_refused(LR_E_UNSUPPORTED, "\"chameleon\" is not known, expected one of gpt-2, ");
    begin_named("gpt2", NULL);
    check_refused(LR_E_UNSUPPORTED, "\"\" is not known");
    begin();
    int_member("tokenizer.ggml.model", 5);
    check_refused(LR_E_FORMAT, "tokenizer.ggml.model");
}
END_TEST

static void tokens_then(const char *const *list) {
    begin_named("gpt2", "gpt-2");
    texts_member("tokenizer.ggml.tokens", list);
}

START_TEST(refused_arrays) {
    static const char *const none[] = {NULL}, *const twice[] = {"a", "b", "a", NULL};
    static const char *const broken[] = {"a", "\xc3", NULL}, *const spaceless[] = {"ab", NULL};
    static const char *const absent[] = {"a z", NULL}, *const joined[] = {"b a", NULL};
    static const char *const empty[] = {"", "a", NULL}, *const spaces[] = {"a b ab", NULL};
    static const int32_t marks[] = {3, 1};
    begin_named("gpt2", "gpt-2");
    check_refused(LR_E_FORMAT, "tokenizer.ggml.tokens");
    begin_named("gpt2", "gpt-2");
    ints_member("tokenizer.ggml.tokens", types, TOKENS);
    check_refused(LR_E_FORMAT, "tokenizer.ggml.tokens");
    tokens_then(none);
    check_refused(LR_E_FORMAT, "0 tokens");
    tokens_then(twice);
    check_refused(LR_E_FORMAT, "\"a\" is both token 0 and token 2");
    tokens_then(broken);
    check_refused(LR_E_FORMAT, "token 1 is not UTF-8");
    tokens_then(tokens);
    check_refused(LR_E_FORMAT, "tokenizer.ggml.merges");
    static const char *const *const bad[] = {spaceless, absent, joined, spaces};
    static const char *const messages[] = {"merge 0", "\"z\" is not", "make no token", "merge 0"};
    for (int i = 0; i < 4; i++) {
        tokens_then(tokens);
        texts_member("tokenizer.ggml.merges", bad[i]);
        check_refused(LR_E_FORMAT, messages[i]);
    }
    tokens_then(tokens);
    texts_member("tokenizer.ggml.merges", merges);
    ints_member("tokenizer.ggml.token_type", types, TOKENS - 1);
    check_refused(LR_E_FORMAT, "token_type is not an array of 13 integers");
    tokens_then(tokens);
    texts_member("tokenizer.ggml.merges", merges);
    texts_member("tokenizer.ggml.token_type", tokens);
    check_refused(LR_E_FORMAT, "token_type");
    tokens_then(empty);
    texts_member("tokenizer.ggml.merges", none);
    ints_member("tokenizer.ggml.token_type", marks, 2);
    check_refused(LR_E_FORMAT, "added token 0 is empty");
}
END_TEST

/* What is written reads back as the same tokenizer, for every name. */
START_TEST(files_read_back) {
    static const char *const names[] = {"gpt-2",  "gpt2",     "smollm", "llama-bpe",
                                        "llama3", "llama-v3", "qwen2",  "tekken"};
    const char *name = names[_i];
    lr_tokenizer *first = NULL, *second = NULL;
    lr__tokenizer_files files;
    int32_t ids[100];
    size_t count;
    lr__gguf *gguf = small_gguf(name);
    CHECK_OK(lr__tokenizer_from_gguf(&first, gguf));
    CHECK_OK(lr__tokenizer_files_from_gguf(&files, gguf, 2048));
    CHECK_OK(lr__tokenizer_from_json(&second, files.tokenizer, name));
    CHECK_OK(lr_tokenizer_encode(first, text, sizeof text - 1, ids, 100, &count));
    ck_assert_uint_ge(count, 11);
    check_ids(second, text, sizeof text - 1, ids, count);
    ck_assert_int_eq(lr_tokenizer_size(second), TOKENS);
    for (int32_t id = 0; id < TOKENS; id++)
        ck_assert_int_eq(lr_tokenizer_is_special(second, id), id < 3);
    lr__tokenizer_files_clear(&files);
    lr__gguf_free(gguf);
    lr_tokenizer_free(first);
    lr_tokenizer_free(second);
}
END_TEST

static const char *member_of(const json_t *object, const char *key) {
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "(none)";
}

START_TEST(files_say) {
    lr__tokenizer_files files;
    lr__gguf *gguf = small_gguf("smollm");
    CHECK_OK(lr__tokenizer_files_from_gguf(&files, gguf, 2048));
    lr__gguf_free(gguf);
    const json_t *config = files.tokenizer_config;
    ck_assert_str_eq(member_of(config, "bos_token"), "<start>");
    ck_assert_str_eq(member_of(config, "eos_token"), "<end>");
    ck_assert_str_eq(member_of(config, "unk_token"), "<none>");
    ck_assert_ptr_null(json_object_get(config, "pad_token"));
    ck_assert_str_eq(member_of(config, "chat_template"), "{{ messages }}\n\xc3\xa9");
    ck_assert_int_eq(json_integer_value(json_object_get(config, "model_max_length")), 2048);
    ck_assert(json_is_false(json_object_get(config, "clean_up_tokenization_spaces")));
    const json_t *named = json_object_get(files.special_tokens_map, "eos_token");
    ck_assert_str_eq(member_of(named, "content"), "<end>");
    const json_t *generation = files.generation_config;
    ck_assert_int_eq(json_integer_value(json_object_get(generation, "bos_token_id")), 1);
    ck_assert(json_is_integer(json_object_get(generation, "eos_token_id")));
    ck_assert_ptr_null(json_object_get(generation, "pad_token_id"));
    ck_assert_uint_eq(json_array_size(json_object_get(files.tokenizer, "added_tokens")), 4);
    ck_assert(json_is_null(json_object_get(files.tokenizer, "post_processor")));
    lr__tokenizer_files_clear(&files);
    lr__tokenizer_files_clear(&files);
}
END_TEST

/* Several ends of a text, and a tokenizer that adds marks of its own elsewhere. */
START_TEST(files_ends_and_marks) {
    lr__tokenizer_files files;
    begin_named("gpt2", "llama3");
    texts_member("tokenizer.ggml.tokens", tokens);
    ints_member("tokenizer.ggml.token_type", types, TOKENS);
    texts_member("tokenizer.ggml.merges", merges);
    int_member("tokenizer.ggml.bos_token_id", 1);
    int_member("tokenizer.ggml.eos_token_id", 0);
    int_member("tokenizer.ggml.eot_token_id", 2);
    int_member("tokenizer.ggml.eom_token_id", 0);
    member("tokenizer.ggml.add_eos_token", LR__GGUF_BOOL);
    put("\1", 1);
    lr__gguf *gguf = finish();
    CHECK_OK(lr__tokenizer_files_from_gguf(&files, gguf, 0));
    lr__gguf_free(gguf);
    const json_t *ends = json_object_get(files.generation_config, "eos_token_id");
    ck_assert_uint_eq(json_array_size(ends), 2);
    ck_assert_int_eq(json_integer_value(json_array_get(ends, 0)), 0);
    ck_assert_int_eq(json_integer_value(json_array_get(ends, 1)), 2);
    ck_assert_ptr_null(json_object_get(files.tokenizer_config, "model_max_length"));
    ck_assert_ptr_null(json_object_get(files.tokenizer_config, "chat_template"));
    const json_t *post = json_object_get(files.tokenizer, "post_processor");
    ck_assert_str_eq(member_of(post, "type"), "TemplateProcessing");
    ck_assert_uint_eq(json_array_size(json_object_get(post, "single")), 3);
    ck_assert_uint_eq(json_array_size(json_object_get(post, "pair")), 6);
    ck_assert_uint_eq(json_object_size(json_object_get(post, "special_tokens")), 2);
    lr__tokenizer_files_clear(&files);
}
END_TEST

Suite *tokenizer_gguf_suite(void);
Suite *tokenizer_gguf_suite(void) {
    Suite *suite = suite_create("tokenizer_gguf");
    TCase *reading = tcase_create("reading");
    tcase_add_test(reading, reads);
    tcase_add_test(reading, opens_by_its_first_bytes);
    tcase_add_test(reading, without_types);
    tcase_add_test(reading, refused_names);
    tcase_add_test(reading, refused_arrays);
    suite_add_tcase(suite, reading);
    TCase *writing = tcase_create("writing");
    tcase_add_loop_test(writing, files_read_back, 0, 7);
    tcase_add_test(writing, files_say);
    tcase_add_test(writing, files_ends_and_marks);
    suite_add_tcase(suite, writing);
    return suite;
}
