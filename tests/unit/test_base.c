/* Status, memory, options and random numbers. */
#include "base/mem.h"
#include "base/opts.h"
#include "base/rng.h"
#include "faults.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* --- status --- */

START_TEST(test_fail) {
    ck_assert_int_eq(lr__fail(LR_E_SHAPE, "%s: %d", "x", 3), LR_E_SHAPE);
    ck_assert_str_eq(lr_last_error(), "x: 3");
    ck_assert_int_eq(lr__fail_in(LR_E_FORMAT, "in %s", "y"), LR_E_FORMAT);
    ck_assert_str_eq(lr_last_error(), "in y: x: 3");
    lr__fail(LR_E_SHAPE, "<%s>", lr_last_error());
    ck_assert_str_eq(lr_last_error(), "<in y: x: 3>");
    ck_assert_int_eq(lr__nomem(77), LR_E_NOMEM);
    ck_assert_str_eq(lr_last_error(), "out of memory: 77 bytes wanted");
}
END_TEST

START_TEST(test_long_messages) {
    char text[3000];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    lr__fail(LR_E_IO, "%s", text);
    ck_assert_uint_eq(strlen(lr_last_error()), 1023);
    lr__fail_in(LR_E_IO, "context");
    ck_assert_uint_eq(strlen(lr_last_error()), 1023);
    ck_assert_mem_eq(lr_last_error(), "context: aaa", 12);
    lr__fail_in(LR_E_IO, "%s", text);
    ck_assert_uint_eq(strlen(lr_last_error()), 1023);
    text[1021] = '\0';
    lr__fail_in(LR_E_IO, "%s", text);
    ck_assert_uint_eq(strlen(lr_last_error()), 1021);
}
END_TEST

/* One line of UTF-8, whatever a file holds. */
START_TEST(test_printable) {
    static const char *const pairs[][2] = {
        {"a\nb\tc\x7f", "a?b?c?"},
        {"na\xc3\xafve \xe2\x82\xac \xf0\x9f\x98\x80",
         "na\xc3\xafve \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"\xff\xfe", "??"},
        {"\xc3", "?"},
        {"\xe2\x82", "??"},
        {"\xe2\x82x", "??x"},
        {"\xc0\xaf", "??"},
        {"\xe0\x80\xaf", "???"},
        {"\xed\xa0\x80", "???"},
        {"\xf4\x90\x80\x80", "????"},
        {"\xc2\x85", "??"},
        {"\xf0\x80\x80\xaf", "????"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        lr__fail(LR_E_FORMAT, "%s", pairs[i][0]);
        ck_assert_str_eq(lr_last_error(), pairs[i][1]);
    }
}
END_TEST

static void *fail_elsewhere(void *unused) {
    (void)unused;
    ck_assert_str_eq(lr_last_error(), "");
    lr__fail(LR_E_IO, "elsewhere");
    return NULL;
}

START_TEST(test_threads) {
    pthread_t thread;
    lr__fail(LR_E_IO, "here");
    pthread_create(&thread, NULL, fail_elsewhere, NULL);
    pthread_join(thread, NULL);
    ck_assert_str_eq(lr_last_error(), "here");
}
END_TEST

START_TEST(test_names) {
    ck_assert_str_eq(lr_status_name(LR_OK), "LR_OK");
    ck_assert_str_eq(lr_status_name(5), "LR_OK");
    ck_assert_str_eq(lr_status_name(LR_E_SHAPE), "LR_E_SHAPE");
    ck_assert_str_eq(lr_status_name(LR_E_EXISTS), "LR_E_EXISTS");
    ck_assert_str_eq(lr_status_name(LR_E_USER), "LR_E_USER");
    ck_assert_str_eq(lr_status_name(-12345), "LR_E_USER");
    for (lr_status one = LR_E_EXISTS; one < LR_OK; one++)
        for (lr_status two = one + 1; two <= LR_OK; two++)
            ck_assert_str_ne(lr_status_name(one), lr_status_name(two));
}
END_TEST

/* --- memory --- */

START_TEST(test_memory) {
    char *text = NULL;
    double *items = NULL;
    lr__free(NULL);
    lr__aligned_free(NULL);
    ck_assert_int_eq(lr__dup(&text, "abc"), LR_OK);
    ck_assert_str_eq(text, "abc");
    lr__free(text);
    text = lr__strndup("abc", 2);
    ck_assert_str_eq(text, "ab");
    lr__free(text);
    ck_assert_int_eq(lr__new(&items, 100, sizeof *items), LR_OK);
    for (int i = 0; i < 100; i++) ck_assert_double_eq(items[i], 0);
    lr__free(items);
    ck_assert_int_eq(lr__new(&items, 0, 8), LR_OK);
    ck_assert_ptr_nonnull(items);
    lr__free(items);
    for (size_t count = 0; count < 200; count++) {
        ck_assert_int_eq(lr__new_aligned(&items, count, 3), LR_OK);
        ck_assert_uint_eq((uintptr_t)items % 64, 0);
        memset(items, 1, 3 * count);
        lr__aligned_free(items);
    }
}
END_TEST

START_TEST(test_overflow) {
    void *block = (void *)1;
    ck_assert_int_eq(lr__new(&block, SIZE_MAX / 4, 5), LR_E_NOMEM);
    ck_assert_ptr_null(block);
    ck_assert_int_eq(lr__new_aligned(&block, SIZE_MAX / 4, 5), LR_E_NOMEM);
    ck_assert_int_eq(lr__new_aligned(&block, SIZE_MAX - 10, 1), LR_E_NOMEM);
    size_t capacity = 0;
    ck_assert_int_eq(lr__grow(&block, &capacity, SIZE_MAX / 2, 8), LR_E_NOMEM);
    ck_assert_uint_eq(capacity, 0);
}
END_TEST

START_TEST(test_grow) {
    int *items = NULL;
    size_t capacity = 0, moves = 0, before;
    for (size_t count = 0; count < 10000; count++) {
        before = capacity;
        ck_assert_int_eq(lr__grow(&items, &capacity, count + 1, sizeof *items), LR_OK);
        moves += capacity != before;
        items[count] = (int)count;
    }
    for (size_t i = 0; i < 10000; i++) ck_assert_int_eq(items[i], (int)i);
    ck_assert_uint_lt(moves, 30);
    lr__free(items);
}
END_TEST

START_TEST(test_allocator) {
    void *block;
    lr_alloc_ops ops = {sizeof ops, faults_alloc, NULL, faults_free, NULL};
    ck_assert_int_eq(lr_set_alloc(&ops), LR_E_INVALID);
    ops = (lr_alloc_ops){8, faults_alloc, faults_realloc, faults_free, NULL};
    ck_assert_int_eq(lr_set_alloc(&ops), LR_E_INVALID);
    faults_begin(1);
    ck_assert_int_eq(lr__new(&block, 1, 1), LR_OK);
    ck_assert_int_eq(faults_alive, 1);
    ck_assert_ptr_null(lr__malloc(1));
    ck_assert_ptr_null(lr__calloc(SIZE_MAX, 2));
    lr__free(block);
    block = lr__aligned(4, 4);
    ck_assert_int_eq(faults_alive, 1);
    lr__aligned_free(block);
    ck_assert_int_eq(faults_end(), 0);
    faults_begin(0);
    ck_assert_int_eq(lr__dup((char **)&block, "abc"), LR_E_NOMEM);
    ck_assert_int_eq(faults_end(), 0);
    ck_assert_int_eq(lr_set_alloc(NULL), LR_OK);
    block = lr__malloc(10);
    ck_assert_ptr_nonnull(block);
    lr__free(block);
}
END_TEST

/* --- options --- */

typedef struct small_opts {
    size_t size;
    int64_t one;
} small_opts;

typedef struct opts {
    size_t size;
    int64_t one, two;
} opts;

typedef struct large_opts {
    size_t size;
    int64_t one, two, three;
} large_opts;

static const opts defaults = {sizeof(opts), 10, 20};

START_TEST(test_merge) {
    opts local = defaults;
    ck_assert_int_eq(lr__opts_merge(&local, sizeof local, NULL, "lr_opts"), LR_OK);
    ck_assert_mem_eq(&local, &defaults, sizeof local);
    opts same = {sizeof same, 1, 2};
    ck_assert_int_eq(lr__opts_merge(&local, sizeof local, &same, "lr_opts"), LR_OK);
    ck_assert_int_eq(local.two, 2);
    local = defaults;
    small_opts older = {sizeof older, 1};
    ck_assert_int_eq(lr__opts_merge(&local, sizeof local, &older, "lr_opts"), LR_OK);
    ck_assert_int_eq(local.one, 1);
    ck_assert_int_eq(local.two, 20);
    ck_assert_uint_eq(local.size, sizeof local);
    local = defaults;
    large_opts newer = {sizeof newer, 1, 2, 0};
    ck_assert_int_eq(lr__opts_merge(&local, sizeof local, &newer, "lr_opts"), LR_OK);
    ck_assert_int_eq(local.two, 2);
    ck_assert_uint_eq(local.size, sizeof local);
    newer.three = 1;
    ck_assert_int_eq(lr__opts_merge(&local, sizeof local, &newer, "lr_opts"), LR_E_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "lr_opts: an option at byte 24"));
    opts unset = {0, 1, 2};
    ck_assert_int_eq(lr__opts_merge(&local, sizeof local, &unset, "lr_opts"), LR_E_INVALID);
    ck_assert_str_eq(lr_last_error(), "lr_opts: size 0; call lr_opts_init first");
    unset.size = (size_t)-1;
    ck_assert_int_eq(lr__opts_merge(&local, sizeof local, &unset, "lr_opts"), LR_E_INVALID);
}
END_TEST

START_TEST(test_defaults) {
    large_opts large = {1, 1, 1, 1};
    lr__opts_defaults(&large, sizeof large, &defaults, sizeof defaults);
    ck_assert_uint_eq(large.size, sizeof large);
    ck_assert_int_eq(large.two, 20);
    ck_assert_int_eq(large.three, 0);
    opts room = {1, 1, 1};
    lr__opts_defaults(&room, sizeof(small_opts), &defaults, sizeof defaults);
    ck_assert_uint_eq(room.size, sizeof(small_opts));
    ck_assert_int_eq(room.one, 10);
    ck_assert_int_eq(room.two, 1);
    lr__opts_defaults(NULL, sizeof room, &defaults, sizeof defaults);
    lr__opts_defaults(&room, 3, &defaults, sizeof defaults);
    ck_assert_int_eq(room.one, 10);
}
END_TEST

/* --- random numbers --- */

/* kat_vectors of Random123 1.14: words in the order of the file, the lowest first. */
START_TEST(test_philox) {
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const uint32_t *c = known[i].counter, *k = known[i].key;
        uint32_t out[4];
        lr__philox((uint64_t)k[1] << 32 | k[0], (uint64_t)c[3] << 32 | c[2],
                   (uint64_t)c[1] << 32 | c[0], out);
        ck_assert_mem_eq(out, known[i].expected, sizeof out);
    }
}
END_TEST

START_TEST(test_uniform) {
    double sum = 0, squares = 0, least = 1, most = 0;
    int bins[16] = {0}, count = 100000;
    for (int i = 0; i < count; i++) {
        double x = lr__uniform(7, 3, (uint64_t)i);
        ck_assert(x >= 0 && x < 1);
        sum += x;
        squares += x * x;
        least = fmin(least, x);
        most = fmax(most, x);
        bins[(int)(16 * x)]++;
    }
    ck_assert_double_eq_tol(sum / count, 0.5, 0.005);
    ck_assert_double_eq_tol(squares / count, 1.0 / 3, 0.005);
    ck_assert(least < 1e-3 && most > 1 - 1e-3);
    for (int i = 0; i < 16; i++) ck_assert_int_lt(abs(bins[i] - count / 16), 400);
    ck_assert_double_eq(lr__uniform(7, 3, 5), lr__uniform(7, 3, 5));
    ck_assert_double_ne(lr__uniform(7, 3, 5), lr__uniform(8, 3, 5));
    ck_assert_double_ne(lr__uniform(7, 3, 5), lr__uniform(7, 4, 5));
}
END_TEST

START_TEST(test_normal) {
    double sum = 0, squares = 0, fourth = 0, lag = 0, last = 0;
    int count = 100000, outside = 0;
    for (int i = 0; i < count; i++) {
        double x = lr__normal(1, 2, (uint64_t)i);
        ck_assert(isfinite(x));
        sum += x;
        squares += x * x;
        fourth += x * x * x * x;
        lag += x * last;
        last = x;
        outside += fabs(x) > 1.959964;
    }
    ck_assert_double_eq_tol(sum / count, 0, 0.015);
    ck_assert_double_eq_tol(squares / count, 1, 0.02);
    ck_assert_double_eq_tol(fourth / count, 3, 0.15);
    ck_assert_double_eq_tol(lag / count, 0, 0.015);
    ck_assert_double_eq_tol((double)outside / count, 0.05, 0.003);
}
END_TEST

Suite *base_suite(void);
Suite *base_suite(void) {
    Suite *suite = suite_create("base");
    TCase *tests = tcase_create("base");
    tcase_add_test(tests, test_fail);
    tcase_add_test(tests, test_long_messages);
    tcase_add_test(tests, test_printable);
    tcase_add_test(tests, test_threads);
    tcase_add_test(tests, test_names);
    tcase_add_test(tests, test_memory);
    tcase_add_test(tests, test_overflow);
    tcase_add_test(tests, test_grow);
    tcase_add_test(tests, test_allocator);
    tcase_add_test(tests, test_merge);
    tcase_add_test(tests, test_defaults);
    tcase_add_test(tests, test_philox);
    tcase_add_test(tests, test_uniform);
    tcase_add_test(tests, test_normal);
    suite_add_tcase(suite, tests);
    return suite;
}
