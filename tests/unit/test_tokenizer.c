/* Ids of the tokenizers package for many pipelines, and the calls' forms. */
#include "tokenizer_fixture.h"

#include <pthread.h>
#include <time.h>

static json_t *cases;

static void load_cases(void) { cases = load_golden("tokenizer/cases.json"); }
static void drop_cases(void) { json_decref(cases); }

static lr_tokenizer *open_variant(const json_t *variant) {
    const json_t *base = json_object_get(json_object_get(variant, "change"), "base");
    const json_t *bases = json_object_get(cases, "bases");
    return changed_tokenizer(json_array_get(bases, (size_t)json_integer_value(base)), variant);
}

/* The count alone, and every prefix of the ids. */
static void check_forms(const lr_tokenizer *tokenizer, const char *text, size_t bytes,
                        const int32_t *expected, size_t count) {
    size_t found = 99;
    CHECK_OK(lr_tokenizer_encode(tokenizer, text, bytes, NULL, 0, &found));
    ck_assert_uint_eq(found, count);
    int32_t ids[8] = {-7, -7, -7, -7, -7, -7, -7, -7};
    for (size_t room = 0; room < 7; room++) {
        CHECK_OK(lr_tokenizer_encode(tokenizer, text, bytes, ids, room, &found));
        ck_assert_uint_eq(found, count);
        size_t written = room < count ? room : count;
        if (written) ck_assert_mem_eq(ids, expected, written * sizeof *ids);
        ck_assert_int_eq(ids[written], -7);
    }
}

START_TEST(golden) {
    const json_t *variants = json_object_get(cases, "variants");
    const json_t *strings = json_object_get(cases, "strings");
    ck_assert_uint_ge(json_array_size(variants), 16);
    for (size_t v = 0; v < json_array_size(variants); v++) {
        const json_t *variant = json_array_get(variants, v),
                     *lists = json_object_get(variant, "ids");
        lr_tokenizer *tokenizer = open_variant(variant);
        for (size_t i = 0; i < json_array_size(strings); i++) {
            char text[4096];
            int32_t ids[4096];
            size_t bytes = from_hex(json_array_get(strings, i), text);
            size_t count = ids_of(json_array_get(lists, i), ids);
            check_ids(tokenizer, text, bytes, ids, count);
            check_forms(tokenizer, text, bytes, ids, count);
        }
        lr_tokenizer_free(tokenizer);
    }
}
END_TEST

/* A vocabulary that has every byte gives any valid text back. */
START_TEST(round_trip) {
    static const char text[] =
        "They\xe2\x80\x99ve \0 12 caf\xc3\xa9 \xe4\xb8\xad\xf0\x9f\x98\x80\t\n <|end|>x";
    lr_tokenizer *tokenizer = open_variant(json_array_get(json_object_get(cases, "variants"), 2));
    int32_t ids[200];
    char back[200];
    size_t count, bytes;
    CHECK_OK(lr_tokenizer_encode(tokenizer, text, sizeof text - 1, ids, 200, &count));
    CHECK_OK(lr_tokenizer_decode(tokenizer, ids, count, 0, NULL, 0, &bytes));
    ck_assert_uint_eq(bytes, sizeof text - 1);
    CHECK_OK(lr_tokenizer_decode(tokenizer, ids, count, 0, back, sizeof back, &bytes));
    ck_assert_mem_eq(back, text, sizeof text - 1);
    memset(back, '#', sizeof back);
    CHECK_OK(lr_tokenizer_decode(tokenizer, ids, count, 0, back, 5, &bytes));
    ck_assert_uint_eq(bytes, sizeof text - 1);
    ck_assert_mem_eq(back, "They\xe2#", 6);
    CHECK_OK(lr_tokenizer_decode(tokenizer, ids, count, 1, back, sizeof back, &bytes));
    ck_assert_uint_eq(bytes, sizeof text - 1 - 7);
    ck_assert_mem_eq(back + bytes - 3, "\n x", 3);
    lr_tokenizer_free(tokenizer);
}
END_TEST

/* The same long text as one word through the heap and as short ones gives its bytes back; a
 * megabyte takes no quadratic time. */
START_TEST(long_words) {
    lr_tokenizer *tokenizer = open_variant(json_array_get(json_object_get(cases, "variants"), 0));
    enum { SIZE = 1 << 20 };
    static const char letters[] = "theaeniothr";
    char *text = malloc(SIZE), *back = malloc(SIZE);
    int32_t *ids = malloc(SIZE * sizeof *ids);
    size_t count, bytes;
    for (int kind = 0; kind < 4; kind++) {
        for (size_t i = 0; i < SIZE; i++)
            text[i] = kind == 0   ? 'a'
                      : kind == 1 ? letters[i * i % 251 % 11]
                      : kind == 2 ? ' '
                                  : '!';
        clock_t before = clock();
        CHECK_OK(lr_tokenizer_encode(tokenizer, text, SIZE, ids, SIZE, &count));
        ck_assert_int_lt((clock() - before) / CLOCKS_PER_SEC, 5);
        CHECK_OK(lr_tokenizer_decode(tokenizer, ids, count, 0, back, SIZE, &bytes));
        ck_assert_uint_eq(bytes, SIZE);
        ck_assert_int_eq(memcmp(text, back, SIZE), 0);
    }
    free(text);
    free(back);
    free(ids);
    lr_tokenizer_free(tokenizer);
}
END_TEST

typedef struct job {
    const lr_tokenizer *tokenizer;
    size_t count;
    int32_t ids[3000];
} job;

static void *run_job(void *data) {
    job *j = data;
    char text[2500];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "the other 42 they've\n"[i * 7 % 21];
    for (int i = 0; i < 20; i++)
        lr_tokenizer_encode(j->tokenizer, text, sizeof text, j->ids, 3000, &j->count);
    return NULL;
}

/* Also with a pattern that PCRE2 runs. */
START_TEST(threads_share) {
    static const int variants[] = {0, 6};
    for (int v = 0; v < 2; v++) {
        lr_tokenizer *tokenizer =
            open_variant(json_array_get(json_object_get(cases, "variants"), (size_t)variants[v]));
        static job jobs[4];
        pthread_t threads[4];
        for (int i = 0; i < 4; i++) {
            jobs[i].tokenizer = tokenizer;
            ck_assert_int_eq(pthread_create(&threads[i], NULL, run_job, &jobs[i]), 0);
        }
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
        for (int i = 1; i < 4; i++) {
            ck_assert_uint_eq(jobs[i].count, jobs[0].count);
            ck_assert_mem_eq(jobs[i].ids, jobs[0].ids, jobs[0].count * sizeof(int32_t));
        }
        ck_assert_uint_gt(jobs[0].count, 500);
        lr_tokenizer_free(tokenizer);
    }
}
END_TEST

START_TEST(small_calls) {
    lr_tokenizer *tokenizer = small_tokenizer();
    ck_assert_int_eq(lr_tokenizer_size(tokenizer), 7);
    CHECK_IDS(tokenizer, "abababc ab<s>ab", 4, 3, 5, 2, 3, 6, 3);
    CHECK_IDS(tokenizer, "<s<s><s>", 6, 6);
    check_ids(tokenizer, "", 0, NULL, 0);
    check_ids(tokenizer, NULL, 0, NULL, 0);
    ck_assert_int_eq(lr_tokenizer_find(tokenizer, "abab"), 4);
    ck_assert_int_eq(lr_tokenizer_find(tokenizer, "<s>"), 6);
    ck_assert_int_eq(lr_tokenizer_find(tokenizer, "\xc4\xa0"), 2);
    ck_assert_int_eq(lr_tokenizer_find(tokenizer, " "), -1);
    ck_assert_int_eq(lr_tokenizer_find(tokenizer, "ba"), -1);
    ck_assert_int_eq(lr_tokenizer_find(tokenizer, NULL), -1);
    ck_assert_int_eq(lr_tokenizer_is_special(tokenizer, 6), 1);
    ck_assert_int_eq(lr_tokenizer_is_special(tokenizer, 5), 0);
    ck_assert_int_eq(lr_tokenizer_is_special(tokenizer, -1), 0);
    ck_assert_int_eq(lr_tokenizer_is_special(tokenizer, 7), 0);
    lr_tokenizer_free(tokenizer);
    lr_tokenizer_free(NULL);
    ck_assert_int_eq(lr_tokenizer_size(NULL), 0);
}
END_TEST

START_TEST(wrong_calls) {
    lr_tokenizer *tokenizer = small_tokenizer(), *none;
    size_t count;
    int32_t id = 7;
    char text[4];
    ck_assert_int_eq(lr_tokenizer_decode(tokenizer, &id, 1, 0, text, 4, &count), LR_E_INVALID);
    ck_assert_str_eq(lr_last_error(), "id 0 is 7, expected 0 to 6");
    id = -1;
    ck_assert_int_eq(lr_tokenizer_decode(tokenizer, &id, 1, 0, text, 4, &count), LR_E_INVALID);
    ck_assert_int_eq(lr_tokenizer_decode(tokenizer, NULL, 1, 0, text, 4, &count), LR_E_INVALID);
    ck_assert_int_eq(lr_tokenizer_decode(tokenizer, &id, 0, 0, NULL, 4, &count), LR_E_INVALID);
    ck_assert_int_eq(lr_tokenizer_decode(NULL, &id, 0, 0, NULL, 0, &count), LR_E_INVALID);
    ck_assert_int_eq(lr_tokenizer_encode(tokenizer, NULL, 1, &id, 1, &count), LR_E_INVALID);
    ck_assert_int_eq(lr_tokenizer_encode(tokenizer, "a", 1, NULL, 1, &count), LR_E_INVALID);
    ck_assert_int_eq(lr_tokenizer_encode(tokenizer, "a", 1, &id, 1, NULL), LR_E_INVALID);
    ck_assert_int_eq(lr_tokenizer_encode(NULL, "a", 1, &id, 1, &count), LR_E_INVALID);
    ck_assert_int_eq(lr_tokenizer_open(NULL, "x"), LR_E_INVALID);
    ck_assert_int_eq(lr_tokenizer_open(&none, NULL), LR_E_INVALID);
    lr_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(open_paths) {
    lr_tokenizer *tokenizer;
    scratch_make();
    ck_assert_int_eq(lr_tokenizer_open(&tokenizer, scratch), LR_E_NOTFOUND);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "no tokenizer.json"));
    ck_assert_int_lt(lr_tokenizer_open(&tokenizer, scratch_path("absent.json")), 0);
    ck_assert_ptr_null(tokenizer);
    const char *path = scratch_write("tokenizer.json", SMALL, sizeof SMALL - 1);
    CHECK_OK(lr_tokenizer_open(&tokenizer, path));
    CHECK_IDS(tokenizer, "ab", 3);
    lr_tokenizer_free(tokenizer);
    CHECK_OK(lr_tokenizer_open(&tokenizer, scratch));
    lr_tokenizer_free(tokenizer);
    scratch_write("tokenizer.json", SMALL, sizeof SMALL - 2);
    ck_assert_int_eq(lr_tokenizer_open(&tokenizer, scratch), LR_E_FORMAT);
    ck_assert_ptr_null(tokenizer);
    ck_assert_int_lt(lr_tokenizer_open(&tokenizer, scratch_write("a.gguf", "GGUF", 4)), 0);
    scratch_remove();
}
END_TEST

Suite *tokenizer_suite(void);
Suite *tokenizer_suite(void) {
    Suite *suite = suite_create("tokenizer");
    TCase *data = tcase_create("golden");
    tcase_set_timeout(data, 60);
    tcase_add_checked_fixture(data, load_cases, drop_cases);
    tcase_add_test(data, golden);
    tcase_add_test(data, round_trip);
    tcase_add_test(data, long_words);
    tcase_add_test(data, threads_share);
    suite_add_tcase(suite, data);
    TCase *calls = tcase_create("calls");
    tcase_add_test(calls, small_calls);
    tcase_add_test(calls, wrong_calls);
    tcase_add_test(calls, open_paths);
    suite_add_tcase(suite, calls);
    return suite;
}
