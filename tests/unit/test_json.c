/* Bounded parsing, member access and text. */
#include "base/json.h"
#include "base/mem.h"
#include "scratch.h"

#include <locale.h>

static lr_status parse(const char *text) {
    json_t *value;
    lr_status status = lr__json_parse(&value, text, strlen(text), "here");
    ck_assert((status == LR_OK) == (value != NULL));
    json_decref(value);
    return status;
}

static const char *const good[] = {"{}", "[]", " [1, 2.5, null] \n", "{\"a\": {\"b\": [\"}\"]}}",
                                   "{\"\\\"[\": 1}"};
static const char *const bad[] = {"",
                                  " ",
                                  "1",
                                  "\"a\"",
                                  "{",
                                  "{\"a\": 1,}",
                                  "{\"a\": 1} x",
                                  "{\"a\": 1, \"a\": 2}",
                                  "[NaN]",
                                  "[1e999]",
                                  "[99999999999999999999]",
                                  "[\"\\u0000\"]",
                                  "[\"\xff\"]",
                                  "[\"\\ud800\"]",
                                  "[\"a",
                                  "[\"a\\",
                                  "]",
                                  "}"};

START_TEST(test_good) { ck_assert_int_eq(parse(good[_i]), LR_OK); }
END_TEST

START_TEST(test_bad) {
    ck_assert_int_eq(parse(bad[_i]), LR_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "here: line "));
}
END_TEST

START_TEST(test_position) {
    ck_assert_int_eq(parse("{\n  \"a\": !\n}"), LR_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "here: line 2, column "));
}
END_TEST

START_TEST(test_depth) {
    char text[400];
    for (int depth = 64; depth <= 65; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        text[2 * depth] = '\0';
        ck_assert_int_eq(parse(text), depth == 64 ? LR_OK : LR_E_FORMAT);
    }
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "deeper than 64"));
    /* Brackets inside strings do not nest. */
    memset(text, '[', sizeof text);
    memcpy(text, "[\"\\\"", 4);
    memcpy(text + 300, "\"]", 3);
    ck_assert_int_eq(parse(text), LR_OK);
}
END_TEST

/* One value too many is refused before memory is spent on them. */
START_TEST(test_count) {
    size_t values = (1 << 24) + 1, size = 2 * values + 1;
    json_t *value = NULL;
    char *text = malloc(size);
    ck_assert_ptr_nonnull(text);
    for (size_t i = 0; i < values; i++) memcpy(text + 2 * i, i ? ",1" : "[1", 2);
    text[size - 1] = ']';
    ck_assert_int_eq(lr__json_parse(&value, text, size, "many"), LR_E_FORMAT);
    ck_assert_str_eq(lr_last_error(), "many: JSON of more than 16777216 values");
    free(text);
}
END_TEST

START_TEST(test_raw_nul) {
    json_t *value;
    ck_assert_int_eq(lr__json_parse(&value, "[\"a\0b\"]", 7, "here"), LR_E_FORMAT);
    ck_assert_int_eq(lr__json_parse(&value, "[1]\0", 4, "here"), LR_E_FORMAT);
    ck_assert_int_eq(lr__json_parse(&value, "[1]", (size_t)1 << 40, "here"), LR_E_FORMAT);
}
END_TEST

START_TEST(test_read) {
    json_t *value;
    const char *path = scratch_write("a.json", "{\"a\": 7}", 8);
    ck_assert_int_eq(lr__json_read(&value, path, 8), LR_OK);
    ck_assert_int_eq(json_integer_value(json_object_get(value, "a")), 7);
    json_decref(value);
    ck_assert_int_eq(lr__json_read(&value, path, 7), LR_E_FORMAT);
    ck_assert_ptr_null(value);
    ck_assert_int_eq(lr__json_read(&value, scratch_path("b.json"), 100), LR_E_NOTFOUND);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "b.json"));
}
END_TEST

START_TEST(test_members) {
    json_t *object;
    const char *text = "{\"i\": -3, \"r\": 2.5, \"b\": true, \"s\": \"x\", \"n\": null, \"a\": []}";
    ck_assert_int_eq(lr__json_parse(&object, text, strlen(text), "here"), LR_OK);
    int64_t integer = 11;
    double real = 12;
    int32_t boolean = 13;
    ck_assert_int_eq(lr__json_int(object, "none", &integer, "here"), LR_OK);
    ck_assert_int_eq(lr__json_int(object, "n", &integer, "here"), LR_OK);
    ck_assert_int_eq(integer, 11);
    ck_assert_int_eq(lr__json_int(object, "i", &integer, "here"), LR_OK);
    ck_assert_int_eq(integer, -3);
    ck_assert_int_eq(lr__json_int(object, "r", &integer, "here"), LR_E_FORMAT);
    ck_assert_str_eq(lr_last_error(), "here: \"r\" is a real number, expected an integer");
    ck_assert_int_eq(lr__json_real(object, "none", &real, "here"), LR_OK);
    ck_assert_double_eq(real, 12);
    ck_assert_int_eq(lr__json_real(object, "r", &real, "here"), LR_OK);
    ck_assert_double_eq(real, 2.5);
    ck_assert_int_eq(lr__json_real(object, "i", &real, "here"), LR_OK);
    ck_assert_double_eq(real, -3);
    ck_assert_int_eq(lr__json_real(object, "s", &real, "here"), LR_E_FORMAT);
    ck_assert_int_eq(lr__json_bool(object, "none", &boolean, "here"), LR_OK);
    ck_assert_int_eq(boolean, 13);
    ck_assert_int_eq(lr__json_bool(object, "b", &boolean, "here"), LR_OK);
    ck_assert_int_eq(boolean, 1);
    ck_assert_int_eq(lr__json_bool(object, "a", &boolean, "here"), LR_E_FORMAT);
    json_decref(object);
}
END_TEST

static void expect_text(json_t *value, int indent, const char *expected) {
    char *text;
    ck_assert_int_eq(lr__json_text(&text, value, indent), LR_OK);
    ck_assert_str_eq(text, expected);
    lr__free(text);
    json_decref(value);
}

START_TEST(test_text) {
    expect_text(json_pack("{s:i,s:[b,n,f]}", "b", 1, "a", 1, 0.1), 0,
                "{\"b\":1,\"a\":[true,null,0.1]}");
    expect_text(json_pack("{s:i,s:[i,{}],s:[]}", "b", 1, "a", 2, "c"), 2,
                "{\n  \"b\": 1,\n  \"a\": [\n    2,\n    {}\n  ],\n  \"c\": []\n}");
    expect_text(json_string("a\"\n\xc3\xa9"), 0, "\"a\\\"\\n\xc3\xa9\"");
    expect_text(json_pack("{s:i}", "q\"", 1), 0, "{\"q\\\"\":1}");
}
END_TEST

/* The fewest digits that read back, a point and a fraction always. */
START_TEST(test_reals) {
    static const struct {
        double value;
        const char *text;
    } reals[] = {{1, "1.0"},
                 {-0.0, "-0.0"},
                 {0.1, "0.1"},
                 {1e-5, "1e-05"},
                 {1e300, "1e+300"},
                 {1.0 / 3, "0.3333333333333333"},
                 {0.1 + 0.2, "0.30000000000000004"},
                 {5e-324, "4.94065645841247e-324"},
                 {123456.75, "123456.75"}};
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        expect_text(json_real(reals[i].value), 0, reals[i].text);
    /* Where a locale with a comma is installed, it changes nothing. */
    static const char *const locales[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "ps_AF.UTF-8"};
    for (size_t i = 0; i < 3; i++)
        if (setlocale(LC_ALL, locales[i])) expect_text(json_real(2.5), 0, "2.5");
    setlocale(LC_ALL, "C");
}
END_TEST

Suite *json_suite(void);
Suite *json_suite(void) {
    Suite *suite = suite_create("json");
    TCase *tests = tcase_create("json");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_loop_test(tests, test_good, 0, (int)(sizeof good / sizeof good[0]));
    tcase_add_loop_test(tests, test_bad, 0, (int)(sizeof bad / sizeof bad[0]));
    tcase_add_test(tests, test_position);
    tcase_add_test(tests, test_depth);
    tcase_add_test(tests, test_count);
    tcase_add_test(tests, test_raw_nul);
    tcase_add_test(tests, test_read);
    tcase_add_test(tests, test_members);
    tcase_add_test(tests, test_text);
    tcase_add_test(tests, test_reals);
    suite_add_tcase(suite, tests);
    return suite;
}
