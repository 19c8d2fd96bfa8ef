/* tokenizer.json files that lie, ask for what is not done, or run out of memory. */
#include "faults.h"
#include "tokenizer_fixture.h"

#define NFC "{\"type\":\"NFC\"}"
#define NINE_NFC NFC "," NFC "," NFC "," NFC "," NFC "," NFC "," NFC "," NFC "," NFC
#define METASPACE(more) "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\"" more "}"
#define PIECES                                                                        \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" " \
    "\"},{\"type\":"                                                                  \
    "\"ByteFallback\"},{\"type\":\"Fuse\"}"

/* A member of SMALL replaced (NULL: removed), and what must come of it. */
static const struct {
    const char *path, *value;
    lr_status status;
    const char *message;
} damages[] = {
    {"model", NULL, LR_E_FORMAT, "no model"},
    {"model", "[]", LR_E_FORMAT, "no model"},
    {"model.type", "\"Unigram\"", LR_E_UNSUPPORTED, "model \"Unigram\""},
    {"model.type", "7", LR_E_UNSUPPORTED, "expected BPE"},
    {"model.byte_fallback", "true", LR_E_UNSUPPORTED, "byte_fallback behind ByteLevel"},
    {"model.byte_fallback", "\"yes\"", LR_E_FORMAT, "byte_fallback"},
    {"model.dropout", "0.5", LR_E_UNSUPPORTED, "dropout"},
    {"model.continuing_subword_prefix", "\"##\"", LR_E_UNSUPPORTED, "continuing_subword_prefix"},
    {"model.end_of_word_suffix", "3", LR_E_UNSUPPORTED, "end_of_word_suffix"},
    {"model.unk_token", "\"nowhere\"", LR_E_FORMAT, "nowhere"},
    {"model.unk_token", "5", LR_E_FORMAT, "unk_token"},
    {"model.ignore_merges", "\"yes\"", LR_E_FORMAT, "ignore_merges"},
    {"model.vocab", NULL, LR_E_FORMAT, "vocab"},
    {"model.vocab", "[1]", LR_E_FORMAT, "vocab"},
    {"model.vocab", "{}", LR_E_FORMAT, "not in the vocabulary"},
    {"model.vocab.a", "\"0\"", LR_E_FORMAT, "id of \"a\""},
    {"model.vocab.a", "-1", LR_E_FORMAT, "id of \"a\""},
    {"model.vocab.a", "0.5", LR_E_FORMAT, "id of \"a\""},
    {"model.vocab.a", "1", LR_E_FORMAT, "id 1 is both"},
    {"model.vocab.a", "6", LR_E_FORMAT, "id 6 is both"},
    {"model.vocab.a", "2147483647", LR_E_FORMAT, "id of \"a\""},
    {"model.vocab.a", "2147483646", LR_E_FORMAT, "id 2147483646 among 7 tokens"},
    {"model.vocab.a", "9223372036854775807", LR_E_FORMAT, "id of \"a\""},
    {"model.vocab.a", NULL, LR_E_FORMAT, "\"a\" is not in the vocabulary"},
    {"model.vocab.b", NULL, LR_E_FORMAT, "\"b\" is not in the vocabulary"},
    {"model.vocab.abab", NULL, LR_E_FORMAT, "make no token"},
    {"model.merges", NULL, LR_E_FORMAT, "merges"},
    {"model.merges", "{}", LR_E_FORMAT, "merges"},
    {"model.merges", "[\"ab\"]", LR_E_FORMAT, "merge 0"},
    {"model.merges", "[\"a b c\"]", LR_E_FORMAT, "merge 0"},
    {"model.merges", "[[\"a\"]]", LR_E_FORMAT, "merge 0"},
    {"model.merges", "[[\"a\",\"b\",\"c\"]]", LR_E_FORMAT, "merge 0"},
    {"model.merges", "[[\"a\",5]]", LR_E_FORMAT, "merge 0"},
    {"model.merges", "[7]", LR_E_FORMAT, "merge 0"},
    {"model.merges", "[\"abab abab\"]", LR_E_FORMAT, "make no token"},
    {"normalizer", "{\"type\":\"Lowercase\"}", LR_E_UNSUPPORTED, "Lowercase"},
    {"normalizer", "5", LR_E_UNSUPPORTED, "normalizer"},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"}]}",
     LR_E_UNSUPPORTED, "NFKC"},
    {"normalizer", "{\"type\":\"Sequence\"}", LR_E_UNSUPPORTED, "Sequence"},
    {"normalizer", "{\"type\":\"Prepend\"}", LR_E_FORMAT, "Prepend without a text"},
    {"normalizer", "{\"type\":\"Replace\",\"content\":\"a\"}", LR_E_UNSUPPORTED, "Replace"},
    {"normalizer", "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},\"content\":\"a\"}",
     LR_E_UNSUPPORTED, "Replace"},
    {"normalizer", "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"a\"}",
     LR_E_UNSUPPORTED, "Replace"},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[" NINE_NFC "]}", LR_E_UNSUPPORTED,
     "more than 8 normalizers"},
    {"pre_tokenizer", NULL, LR_E_UNSUPPORTED, "pre-tokenizer"},
    {"pre_tokenizer", "null", LR_E_UNSUPPORTED, "pre-tokenizer"},
    {"pre_tokenizer.type", "\"Metaspace\"", LR_E_UNSUPPORTED, "Metaspace with replacement \"\""},
    {"pre_tokenizer", METASPACE(""), LR_E_UNSUPPORTED, "without ByteLevel and a decoder with it"},
    {"pre_tokenizer", METASPACE(",\"split\":0"), LR_E_UNSUPPORTED, "split"},
    {"pre_tokenizer", METASPACE(",\"prepend_scheme\":\"last\""), LR_E_UNSUPPORTED, "scheme"},
    {"pre_tokenizer", METASPACE(",\"prepend_scheme\":5"), LR_E_UNSUPPORTED, "scheme"},
    {"pre_tokenizer", METASPACE(",\"prepend_scheme\":\"first\",\"add_prefix_space\":false"),
     LR_E_UNSUPPORTED, "scheme"},
    {"pre_tokenizer",
     "{\"type\":\"Sequence\",\"pretokenizers\":[" METASPACE("") "," METASPACE("") "]}",
     LR_E_UNSUPPORTED, "Metaspace twice"},
    {"pre_tokenizer",
     "{\"type\":\"Sequence\",\"pretokenizers\":[" METASPACE(
         "") ",{\"type\":\"ByteLevel\",\"add_prefix_space\":false}]}",
     LR_E_UNSUPPORTED, "ByteLevel behind Metaspace"},
    {"pre_tokenizer.add_prefix_space", NULL, LR_E_FORMAT, "add_prefix_space"},
    {"pre_tokenizer.use_regex", "1", LR_E_FORMAT, "use_regex"},
    {"pre_tokenizer", "{\"type\":\"Digits\",\"individual_digits\":true}", LR_E_UNSUPPORTED,
     "without ByteLevel"},
    {"decoder", "{\"type\":\"Sequence\",\"decoders\":[]}", LR_E_UNSUPPORTED, "decoder Sequence"},
    {"decoder", "{\"type\":\"Sequence\",\"decoders\":[" PIECES ",{\"type\":\"Strip\"}]}",
     LR_E_UNSUPPORTED, "decoder Sequence"},
    {"decoder",
     "{\"type\":\"Sequence\",\"decoders\":[" PIECES
     ",{\"type\":\"Strip\",\"content\":\" \",\"start\":-1,\"stop\":0}]}",
     LR_E_UNSUPPORTED, "decoder Sequence"},
    {"decoder", "{\"type\":\"Sequence\",\"decoders\":[" PIECES "]}", LR_E_UNSUPPORTED,
     "with ByteLevel and a decoder without it"},
    {"pre_tokenizer", "{\"type\":\"Digits\"}", LR_E_FORMAT, "individual_digits"},
    {"decoder", NULL, LR_E_UNSUPPORTED, "decoder"},
    {"decoder.type", "\"WordPiece\"", LR_E_UNSUPPORTED, "WordPiece"},
    {"added_tokens", "{}", LR_E_FORMAT, "added_tokens"},
    {"added_tokens", "[5]", LR_E_FORMAT, "added token 0"},
    {"added_tokens", "[{\"id\":6}]", LR_E_FORMAT, "no content"},
    {"added_tokens", "[{\"id\":6,\"content\":7}]", LR_E_FORMAT, "no content"},
    {"added_tokens", "[{\"content\":\"x\"}]", LR_E_FORMAT, "no id"},
    {"added_tokens", "[{\"id\":-6,\"content\":\"x\"}]", LR_E_FORMAT, "no id"},
    {"added_tokens", "[{\"id\":6,\"content\":\"\"}]", LR_E_FORMAT, "empty"},
    {"added_tokens", "[{\"id\":0,\"content\":\"x\"}]", LR_E_FORMAT, "id 0 is both"},
    {"added_tokens", "[{\"id\":6,\"content\":\"a\"}]", LR_E_FORMAT, "has id 6, and 0"},
    {"added_tokens", "[{\"id\":6,\"content\":\"x\"},{\"id\":6,\"content\":\"x\"}]", LR_E_FORMAT,
     "added twice"},
    {"added_tokens", "[{\"id\":6,\"content\":\"x\",\"special\":1}]", LR_E_FORMAT, "special"},
    {"added_tokens", "[{\"id\":6,\"content\":\"x\",\"lstrip\":\"\"}]", LR_E_FORMAT, "lstrip"},
};

static void damage(json_t *root, const char *path, const char *value) {
    char key[100];
    const char *dot;
    for (; (dot = strchr(path, '.')); path = dot + 1) {
        snprintf(key, sizeof key, "%.*s", (int)(dot - path), path);
        root = json_object_get(root, key);
    }
    if (value)
        json_object_set_new(root, path, parse(value));
    else
        json_object_del(root, path);
}

START_TEST(damaged) {
    json_t *root = parse(SMALL);
    lr_tokenizer *tokenizer = NULL;
    damage(root, damages[_i].path, damages[_i].value);
    lr_status status = lr__tokenizer_from_json(&tokenizer, root, "here");
    ck_assert_msg(status == damages[_i].status && strstr(lr_last_error(), damages[_i].message) &&
                      strstr(lr_last_error(), "here"),
                  "%s: %d, %s", damages[_i].path, status, status < 0 ? lr_last_error() : "");
    ck_assert_ptr_null(tokenizer);
    json_decref(root);
}
END_TEST

static lr_status with_pre_tokenizer(lr_tokenizer **tokenizer, const char *steps) {
    char text[9000];
    json_t *root = parse(SMALL);
    snprintf(text, sizeof text,
             "{\"type\":\"Sequence\",\"pretokenizers\":[%s,{\"type\":\"ByteLevel\","
             "\"add_prefix_space\":false,\"use_regex\":false}]}",
             steps);
    damage(root, "pre_tokenizer", text);
    lr_status status = lr__tokenizer_from_json(tokenizer, root, "here");
    json_decref(root);
    return status;
}

static lr_status with_pattern(lr_tokenizer **tokenizer, const char *pattern) {
    char text[8000];
    snprintf(text, sizeof text,
             "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Isolated\"}",
             pattern);
    return with_pre_tokenizer(tokenizer, text);
}

START_TEST(refused_steps) {
    static const char *const steps[] = {
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
        "{\"type\":\"Whitespace\"}",
        "{\"type\":\"Split\"}",
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Sideways\"}",
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\",\"invert\":2}",
        "{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},\"behavior\":\"Isolated\"}",
        "{\"type\":\"Split\",\"pattern\":{\"Glob\":\"a\"},\"behavior\":\"Isolated\"}",
        "{\"type\":\"Split\",\"pattern\":\"a\",\"behavior\":\"Isolated\"}",
        "5",
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        lr_tokenizer *tokenizer = NULL;
        ck_assert_msg(with_pre_tokenizer(&tokenizer, steps[i]) < 0, "%s", steps[i]);
        ck_assert_ptr_null(tokenizer);
    }
}
END_TEST

/* What Oniguruma and PCRE2 do not read alike, what may match nothing, what is not closed. */
START_TEST(refused_patterns) {
    static const char *const patterns[] = {
        "a*",          "(?=a)",
        "a|",          "(a",
        "a)",          "[a",
        "[]",          "[^]",
        "[a-",         "[z-a]",
        "[\\\\s-a]",   "[[:alpha:]]",
        "[a&&b]",      "a**",
        "a{2}+",       "a{,3}",
        "a{1000}",     "a{2}?",
        "(a+)+",       "(ab)*",
        "(?:a){2}",    "(?:a)??",
        "^a",          "a$",
        "a.b",         "\\\\w",
        "\\\\d",       "\\\\b",
        "\\\\1",       "\\\\p{Lu}",
        "\\\\p{^L}",   "\\\\",
        "(?<n>a)",     "(?<=a)b",
        "(?i)a",       "(?i:ss)",
        "\\\\<",       "(?i:[a])",
        "(?i:fI)",     "(?#x)a",
        "(*FAIL)a",    "\\u00e9",
        "(?i:(?:ST))", "+",
        "?",           "((((((((((((((((((a))))))))))))))))))",
        "a\\u0007",    "]",
        "}",           "(",
        "(?",          "(?:",
        "[\\\\q]",     "a{2}{3}",
        "x(?!y)*",
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        lr_tokenizer *tokenizer = NULL;
        lr_status status = with_pattern(&tokenizer, patterns[i]);
        ck_assert_msg(status == LR_E_UNSUPPORTED, "%s: %d", patterns[i], status);
        ck_assert_ptr_null(tokenizer);
    }
    char big[3000];
    lr_tokenizer *tokenizer = NULL;
    memset(big, 'a', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    ck_assert_int_eq(with_pattern(&tokenizer, big), LR_E_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "2999 bytes"));
}
END_TEST

/* Patterns that backtrack without end on this text, or look at all of it from each of its places,
 * stop with an error. */
START_TEST(slow_pattern) {
    static const char *const patterns[] = {"a*a*a*a*a*a*(?:b|c)", "a+b|a", "a(?=[^b]*b)|a",
                                           "a(?![^b]*c)b|a", "a{0,60}a{0,60}a{0,60}a{0,60}b|a"};
    lr_tokenizer *tokenizer = NULL;
    size_t count, size = 4000000;
    char *text = malloc(size);
    memset(text, 'a', size);
    CHECK_OK(with_pattern(&tokenizer, patterns[_i]));
    lr_status status = lr_tokenizer_encode(tokenizer, text, size, NULL, 0, &count);
    ck_assert_int_eq(status, LR_E_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "too long"));
    lr_tokenizer_free(tokenizer);
    free(text);
}
END_TEST

/* Words longer than the windows through which a pattern looks at its text stay whole. */
START_TEST(long_words) {
    enum { LONGEST = 1500 };
    lr_tokenizer *tokenizer = NULL;
    size_t size = 0, count = 0, expected = 0;
    char *text = malloc(LONGEST * (LONGEST + 3));
    json_t *root = parse(SMALL);
    for (size_t n = 1; n <= LONGEST; n++) {
        expected += (n + 1) / 2 + 1;
        for (size_t i = 0; i < n; i++) text[size++] = i % 2 ? 'b' : 'a';
        text[size++] = 'c';
    }
    damage(root, "model.merges", "[\"a b\"]");
    damage(root, "pre_tokenizer",
           "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
           "\"[ab]+c|[abc]\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\","
           "\"add_prefix_space\":false,\"use_regex\":false}]}");
    CHECK_OK(lr__tokenizer_from_json(&tokenizer, root, "long"));
    CHECK_OK(lr_tokenizer_encode(tokenizer, text, size, NULL, 0, &count));
    ck_assert_uint_eq(count, expected);
    lr_tokenizer_free(tokenizer);
    json_decref(root);
    free(text);
}
END_TEST

/* Tokens that take the spaces beside them, in a text of spaces: what is taken once is not walked
 * again for each of them. */
START_TEST(tokens_among_spaces) {
    static const char *const added[] = {
        "[{\"id\":6,\"content\":\" \",\"special\":true,\"lstrip\":true}]",
        "[{\"id\":6,\"content\":\" \",\"special\":true,\"rstrip\":true},"
        "{\"id\":7,\"content\":\"\\t\",\"special\":true}]"};
    enum { SIZE = 1 << 21 };
    json_t *root = parse(SMALL);
    lr_tokenizer *tokenizer = NULL;
    char *text = malloc(SIZE);
    size_t count;
    memset(text, ' ', SIZE);
    for (size_t i = 1; i < SIZE && _i; i += 2) text[i] = '\t';
    damage(root, "added_tokens", added[_i]);
    CHECK_OK(lr__tokenizer_from_json(&tokenizer, root, "spaces"));
    CHECK_OK(lr_tokenizer_encode(tokenizer, text, SIZE, NULL, 0, &count));
    ck_assert_uint_eq(count, SIZE);
    lr_tokenizer_free(tokenizer);
    json_decref(root);
    free(text);
}
END_TEST

START_TEST(holes) {
    lr_tokenizer *tokenizer = NULL;
    json_t *root = parse(SMALL);
    damage(root, "model.vocab.c", "60");
    CHECK_OK(lr__tokenizer_from_json(&tokenizer, root, "holes"));
    json_decref(root);
    ck_assert_int_eq(lr_tokenizer_size(tokenizer), 61);
    CHECK_IDS(tokenizer, "abc<s>", 3, 60, 6);
    char text[10];
    size_t bytes;
    const int32_t ids[] = {3, 30, 60, 5, 6};
    CHECK_OK(lr_tokenizer_decode(tokenizer, ids, 5, 1, text, 10, &bytes));
    ck_assert_uint_eq(bytes, 3);
    ck_assert_mem_eq(text, "abc", 3);
    ck_assert_int_eq(lr_tokenizer_is_special(tokenizer, 30), 0);
    lr_tokenizer_free(tokenizer);
}
END_TEST

/* Of a pair that stands twice the last rank holds. */
START_TEST(repeated_merge) {
    lr_tokenizer *tokenizer = NULL;
    json_t *root = parse(SMALL);
    damage(root, "model.vocab", "{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"bc\":4,\"x\":5}");
    damage(root, "model.merges", "[\"a b\",\"b c\",\"a b\"]");
    CHECK_OK(lr__tokenizer_from_json(&tokenizer, root, "twice"));
    json_decref(root);
    CHECK_IDS(tokenizer, "abc", 0, 4);
    lr_tokenizer_free(tokenizer);
}
END_TEST

static lr_status whole_life(const json_t *root) {
    static const char text[] =
        "ab <s>abc\xff a\xcc\x81 abababababababababababababababababababababab";
    lr_tokenizer *tokenizer = NULL;
    size_t count;
    lr_status status = lr__tokenizer_from_json(&tokenizer, root, "memory");
    if (status >= 0)
        status = lr_tokenizer_encode(tokenizer, text, sizeof text - 1, NULL, 0, &count);
    lr_tokenizer_free(tokenizer);
    return status;
}

/* Refuses every request for memory once, of which there are more than `least`. */
static void refuse_each(const json_t *root, long least) {
    long refused = 0;
    /* Without memory for machine code PCRE2 interprets, so some refusals do no harm. */
    for (faults_asked = 1; faults_asked > refused - 1; refused++) {
        faults_begin(refused);
        lr_status status = whole_life(root);
        ck_assert_int_eq(faults_end(), 0);
        ck_assert_msg(status >= 0 || status == LR_E_NOMEM, "%ld: %s", refused, lr_last_error());
    }
    ck_assert_int_gt(refused, least);
}

START_TEST(memory) {
    json_t *root = parse(SMALL);
    damage(root, "normalizer", "{\"type\":\"NFC\"}");
    damage(root, "pre_tokenizer",
           "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
           "\" ?[^\\\\s]+|\\\\s\"},\"behavior\":\"Isolated\"},{\"type\":\"Split\",\"pattern\":"
           "{\"String\":\"<\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\","
           "\"add_prefix_space\":true}]}");
    refuse_each(root, 20);
    json_decref(root);
}
END_TEST

/* The same for the readers of SentencePiece's forms. */
START_TEST(memory_of_pieces) {
    json_t *root = parse(SMALL);
    damage(root, "normalizer",
           "{\"type\":\"Sequence\",\"normalizers\":[" NFC
           ",{\"type\":\"Replace\",\"pattern\":{\"String\":\"x\"},\"content\":\"y\"},"
           "{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"}]}");
    damage(root, "pre_tokenizer", METASPACE(""));
    damage(root, "decoder", "{\"type\":\"Sequence\",\"decoders\":[" PIECES "]}");
    refuse_each(root, 15);
    json_decref(root);
}
END_TEST

START_TEST(first_behind_others) {
    lr_tokenizer *tokenizer = NULL;
    json_t *root = parse(SMALL);
    damage(root, "normalizer", "{\"type\":\"Prepend\",\"prepend\":\"a\"}");
    damage(root, "pre_tokenizer", METASPACE(",\"prepend_scheme\":\"first\""));
    damage(root, "decoder", "{\"type\":\"Sequence\",\"decoders\":[" PIECES "]}");
    ck_assert_int_eq(lr__tokenizer_from_json(&tokenizer, root, "here"), LR_E_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "first behind Prepend"));
    json_decref(root);
}
END_TEST

Suite *tokenizer_hostile_suite(void);
Suite *tokenizer_hostile_suite(void) {
    Suite *suite = suite_create("tokenizer_hostile");
    TCase *files = tcase_create("files");
    tcase_add_loop_test(files, damaged, 0, sizeof damages / sizeof *damages);
    tcase_add_test(files, refused_steps);
    tcase_add_test(files, refused_patterns);
    tcase_add_loop_test(files, slow_pattern, 0, 5);
    tcase_add_test(files, long_words);
    tcase_add_loop_test(files, tokens_among_spaces, 0, 2);
    tcase_add_test(files, holes);
    tcase_add_test(files, repeated_merge);
    tcase_add_test(files, memory);
    tcase_add_test(files, memory_of_pieces);
    tcase_add_test(files, first_behind_others);
    tcase_set_timeout(files, 30);
    suite_add_tcase(suite, files);
    return suite;
}
