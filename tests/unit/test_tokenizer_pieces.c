/* SentencePiece's BPE: ids and texts of the tokenizers package for the forms of tokenizer.json, ids
 * of sentencepiece for a GGUF, and for other vocabularies a search written without ranks. */
#include "gguf_bytes.h"
#include "tokenizer_fixture.h"

#include <time.h>

static json_t *cases;

static void load_cases(void) { cases = load_golden("sentencepiece/cases.json"); }
static void drop_cases(void) { json_decref(cases); }

static void check_text(const lr_tokenizer *tokenizer, const int32_t *ids, size_t count, int skip,
                       const json_t *expected) {
    char text[8192];
    size_t bytes;
    if (!json_is_string(expected)) return;
    CHECK_OK(lr_tokenizer_decode(tokenizer, ids, count, skip, text, sizeof text, &bytes));
    ck_assert_uint_eq(bytes, json_string_length(expected));
    ck_assert_mem_eq(text, json_string_value(expected), bytes);
    memset(text, '#', 8);
    CHECK_OK(lr_tokenizer_decode(tokenizer, ids, count, skip, text, 3, &bytes));
    ck_assert_uint_eq(bytes, json_string_length(expected));
    if (bytes >= 3) ck_assert_mem_eq(text, json_string_value(expected), 3);
    ck_assert_int_eq(text[3], '#');
}

/* `texts` may be NULL. */
static void check_lists(const lr_tokenizer *tokenizer, const json_t *lists, const json_t *texts) {
    const json_t *strings = json_object_get(cases, "strings");
    ck_assert_uint_ge(json_array_size(strings), 60);
    ck_assert_uint_eq(json_array_size(strings), json_array_size(lists));
    for (size_t i = 0; i < json_array_size(strings); i++) {
        char text[4096];
        int32_t ids[4096];
        size_t bytes = from_hex(json_array_get(strings, i), text);
        size_t count = ids_of(json_array_get(lists, i), ids);
        check_ids(tokenizer, text, bytes, ids, count);
        for (size_t skip = 0; skip < 2; skip++)
            check_text(tokenizer, ids, count, (int)skip,
                       json_array_get(json_array_get(texts, i), skip));
    }
}

START_TEST(golden) {
    const json_t *variants = json_object_get(cases, "variants");
    ck_assert_uint_ge(json_array_size(variants), 15);
    for (size_t v = 0; v < json_array_size(variants); v++) {
        const json_t *variant = json_array_get(variants, v);
        lr_tokenizer *tokenizer = changed_tokenizer(json_object_get(cases, "base"), variant);
        check_lists(tokenizer, json_object_get(variant, "ids"), json_object_get(variant, "texts"));
        lr_tokenizer_free(tokenizer);
    }
}
END_TEST

static lr__gguf *open_tiny(void) {
    lr__gguf *gguf = NULL;
    CHECK_OK(lr__gguf_open(&gguf, golden_file("sentencepiece/tiny.gguf"), 0));
    return gguf;
}

START_TEST(scores_of_a_gguf) {
    lr_tokenizer *tokenizer = NULL;
    lr__gguf *gguf = open_tiny();
    const json_t *legacy = json_array_get(json_object_get(cases, "variants"), 0);
    CHECK_OK(lr__tokenizer_from_gguf(&tokenizer, gguf));
    lr__gguf_free(gguf);
    check_lists(tokenizer, json_object_get(cases, "sentencepiece"),
                json_object_get(legacy, "texts"));
    for (int32_t id = 0; id < lr_tokenizer_size(tokenizer); id++) {
        int is_special = id < 4; /* <unk> <s> </s> <|im|>; then <tool>, which a user defined */
        ck_assert_int_eq(lr_tokenizer_is_special(tokenizer, id), is_special);
    }
    ck_assert_int_eq(lr_tokenizer_find(tokenizer, "<tool>"), 4);
    lr_tokenizer_free(tokenizer);
}
END_TEST

/* What a saved folder gets encodes alike, and has a mark of the beginning in its template. */
START_TEST(files_of_a_gguf) {
    lr_tokenizer *tokenizer = NULL;
    lr__tokenizer_files files;
    lr__gguf *gguf = open_tiny();
    CHECK_OK(lr__tokenizer_files_from_gguf(&files, gguf, 2048));
    lr__gguf_free(gguf);
    CHECK_OK(lr__tokenizer_from_json(&tokenizer, files.tokenizer, "written"));
    check_lists(tokenizer, json_object_get(cases, "sentencepiece"), NULL);
    lr_tokenizer_free(tokenizer);
    const json_t *model = json_object_get(files.tokenizer, "model");
    ck_assert(json_is_true(json_object_get(model, "byte_fallback")));
    ck_assert(json_is_true(json_object_get(model, "fuse_unk")));
    ck_assert_str_eq(json_string_value(json_object_get(model, "unk_token")), "<unk>");
    const json_t *post = json_object_get(files.tokenizer, "post_processor");
    const json_t *first = json_array_get(json_object_get(post, "single"), 0);
    const json_t *mark = json_object_get(first, "SpecialToken");
    ck_assert_str_eq(json_string_value(json_object_get(mark, "id")), "<s>");
    ck_assert_uint_eq(json_array_size(json_object_get(post, "single")), 2);
    lr__tokenizer_files_clear(&files);
}
END_TEST

/* Text that one step at a time gives is the beginning of the whole text. */
START_TEST(grows) {
    static const char text[] = "the \xe4\xb8\xad\xf0\x9f\x98\x80 other";
    lr_tokenizer *tokenizer = NULL;
    lr__gguf *gguf = open_tiny();
    int32_t ids[100];
    char back[100];
    size_t count, bytes, before = 0;
    CHECK_OK(lr__tokenizer_from_gguf(&tokenizer, gguf));
    lr__gguf_free(gguf);
    CHECK_OK(lr_tokenizer_encode(tokenizer, text, sizeof text - 1, ids, 100, &count));
    for (size_t i = 1; i <= count; i++) {
        CHECK_OK(lr_tokenizer_decode(tokenizer, ids, i, 0, back, sizeof back, &bytes));
        ck_assert_uint_ge(bytes, before);
        ck_assert_mem_eq(back, text, bytes);
        before = bytes;
    }
    ck_assert_uint_eq(before, sizeof text - 1);
    lr_tokenizer_free(tokenizer);
}
END_TEST

/* ---- a small vocabulary written into a GGUF, and the plainest way to encode with it ---- */

enum { LETTERS = 3, MOST = 60, LONGEST = 7 };

typedef struct vocabulary {
    char texts[MOST][LONGEST + 1];
    float scores[MOST];
    int32_t types[MOST];
    int32_t count;
} vocabulary;

static uint32_t draw(uint32_t *state, uint32_t below) {
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % below;
}

static int32_t find(const vocabulary *v, const char *text, size_t size) {
    for (int32_t i = 0; i < v->count; i++)
        if (strlen(v->texts[i]) == size && !memcmp(v->texts[i], text, size)) return i;
    return -1;
}

/* <unk>, the letters, and words over them; some scores are equal. */
static void make_vocabulary(vocabulary *v, uint32_t *state) {
    *v = (vocabulary){.texts = {"?", "a", "b", "c"}, .count = 1 + LETTERS, .types = {2, 1, 1, 1}};
    while (v->count < MOST) {
        char word[LONGEST + 1] = "";
        size_t size = 2 + draw(state, LONGEST - 1);
        for (size_t i = 0; i < size; i++) word[i] = (char)('a' + draw(state, i ? LETTERS : 2));
        if (find(v, word, size) >= 0) continue;
        strcpy(v->texts[v->count], word);
        v->types[v->count] = 1;
        v->scores[v->count++] = -(float)draw(state, 40);
    }
}

/* Joins the pair of best score, the leftmost of equals, and looks at everything again. */
static size_t encode_plainly(const vocabulary *v, const char *text, size_t size, int32_t *ids) {
    size_t starts[200], count = size;
    for (size_t i = 0; i <= size; i++) starts[i] = i;
    for (;;) {
        size_t best = count;
        int32_t found = -1;
        for (size_t i = 0; i + 1 < count; i++) {
            int32_t id = find(v, text + starts[i], starts[i + 2] - starts[i]);
            if (id < 0 || (found >= 0 && v->scores[id] <= v->scores[found])) continue;
            best = i;
            found = id;
        }
        if (found < 0) break;
        memmove(starts + best + 1, starts + best + 2, (count - best - 1) * sizeof *starts);
        count--;
    }
    for (size_t i = 0; i < count; i++)
        ids[i] = find(v, text + starts[i], starts[i + 1] - starts[i]);
    return count;
}

static void put_array(const char *key, uint32_t type, int32_t count) {
    put_text(key);
    put_u32(LR__GGUF_ARRAY);
    put_u32(type);
    put_u64((uint64_t)count);
}

static lr_status open_vocabulary(lr_tokenizer **out, const vocabulary *v, int32_t scores) {
    static const unsigned char no = 0;
    put_head();
    put_u64(5);
    put_text("tokenizer.ggml.model");
    put_u32(LR__GGUF_STRING);
    put_text("llama");
    put_text("tokenizer.ggml.add_space_prefix");
    put_u32(LR__GGUF_BOOL);
    put(&no, 1);
    put_array("tokenizer.ggml.tokens", LR__GGUF_STRING, v->count);
    for (int32_t i = 0; i < v->count; i++) put_text(v->texts[i]);
    put_array("tokenizer.ggml.token_type", LR__GGUF_I32, v->count);
    put(v->types, (size_t)v->count * sizeof *v->types);
    put_array("tokenizer.ggml.scores", LR__GGUF_F32, scores);
    put(v->scores, (size_t)scores * sizeof *v->scores);
    lr__gguf *gguf = open_bytes();
    lr_status status = lr__tokenizer_from_gguf(out, gguf);
    lr__gguf_free(gguf);
    return status;
}

/* Short words and those that go through the heap. */
START_TEST(like_a_plain_search) {
    uint32_t state = 3;
    for (int round = 0; round < 12; round++) {
        vocabulary v;
        lr_tokenizer *tokenizer = NULL;
        make_vocabulary(&v, &state);
        CHECK_OK(open_vocabulary(&tokenizer, &v, v.count));
        for (int word = 0; word < 40; word++) {
            char text[120];
            int32_t expected[120];
            size_t size = 1 + draw(&state, word % 2 ? 30 : 110);
            for (size_t i = 0; i < size; i++) text[i] = (char)('a' + draw(&state, LETTERS));
            size_t count = encode_plainly(&v, text, size, expected);
            check_ids(tokenizer, text, size, expected, count);
        }
        lr_tokenizer_free(tokenizer);
    }
}
END_TEST

START_TEST(refused_vocabularies) {
    vocabulary v;
    uint32_t state = 4;
    lr_tokenizer *tokenizer = NULL;
    make_vocabulary(&v, &state);
    ck_assert_int_eq(open_vocabulary(&tokenizer, &v, v.count - 1), LR_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "scores is not an array of 60 F32 numbers"));
    v.scores[7] = (float)(0.0 / 0.0 * (double)state);
    ck_assert_int_eq(open_vocabulary(&tokenizer, &v, v.count), LR_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "score of token 7 is not a number"));
    v.scores[7] = 0;
    strcpy(v.texts[9], "az");
    ck_assert_int_eq(open_vocabulary(&tokenizer, &v, v.count), LR_E_UNSUPPORTED);
    ck_assert_ptr_nonnull(
        strstr(lr_last_error(), "token 9 \"az\" has a character that is no token"));
    v.types[9] = 5; /* unused ones are never made */
    CHECK_OK(open_vocabulary(&tokenizer, &v, v.count));
    lr_tokenizer_free(tokenizer);
}
END_TEST

/* A megabyte that no space cuts takes no quadratic time. */
START_TEST(long_texts) {
    enum { SIZE = 1 << 20 };
    static const char *const units[] = {"a",   "\xe4\xb8\xad",     " ",
                                        "ban", "\xf0\x9f\x98\x80", "\xe2\x96\x81"};
    lr_tokenizer *tokenizer = NULL;
    lr__gguf *gguf = open_tiny();
    char *text = malloc(SIZE);
    CHECK_OK(lr__tokenizer_from_gguf(&tokenizer, gguf));
    lr__gguf_free(gguf);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t unit = strlen(units[u]), size = SIZE / unit * unit, count;
        for (size_t i = 0; i < size; i++) text[i] = units[u][i % unit];
        clock_t before = clock();
        CHECK_OK(lr_tokenizer_encode(tokenizer, text, size, NULL, 0, &count));
        ck_assert_int_lt((clock() - before) / CLOCKS_PER_SEC, 5);
        ck_assert_uint_gt(count, 1000);
    }
    free(text);
    lr_tokenizer_free(tokenizer);
}
END_TEST

Suite *tokenizer_pieces_suite(void);
Suite *tokenizer_pieces_suite(void) {
    Suite *suite = suite_create("tokenizer_pieces");
    TCase *data = tcase_create("golden");
    tcase_set_timeout(data, 60);
    tcase_add_checked_fixture(data, load_cases, drop_cases);
    tcase_add_test(data, golden);
    tcase_add_test(data, scores_of_a_gguf);
    tcase_add_test(data, files_of_a_gguf);
    tcase_add_test(data, grows);
    tcase_add_test(data, long_texts);
    suite_add_tcase(suite, data);
    TCase *plain = tcase_create("plain");
    tcase_set_timeout(plain, 60);
    tcase_add_test(plain, like_a_plain_search);
    tcase_add_test(plain, refused_vocabularies);
    suite_add_tcase(suite, plain);
    return suite;
}
