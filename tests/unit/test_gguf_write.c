/* GGUF written: the bytes themselves, a round trip through the reader, and every misuse. */
#include "format/gguf_write.h"
#include "faults.h"
#include "scratch.h"

#define CHECK_OK(call) ck_assert_msg((call) >= 0, "%s", lr_last_error())

static const float weights[6] = {1, -2, 3, 4.5f, 5, 6};
static const unsigned char block[34] = {1, 2, 3, [33] = 9};

static lr__text text_of(const char *text) { return (lr__text){text, strlen(text)}; }

static lr_status write_two(const char *path) {
    lr__gguf_writer *writer = NULL;
    lr_status status;
    LR_TRY(lr__gguf_new(&writer));
    LR_TRY(lr__gguf_put_text(writer, "t", text_of("ab")));
    LR_TRY(lr__gguf_put_u32(writer, "u", 7));
    LR_TRY(lr__gguf_put_array(writer, "a", LR__GGUF_STRING, 2));
    LR_TRY(lr__gguf_put_text_element(writer, text_of("xyz")));
    LR_TRY(lr__gguf_put_text_element(writer, (lr__text){NULL, 0}));
    LR_TRY(lr__gguf_declare(writer, "w", LR_F32, 2, (int64_t[]){2, 3}));
    LR_TRY(lr__gguf_declare(writer, "q", LR_Q8_0, 1, (int64_t[]){32}));
    LR_TRY(lr__gguf_begin(writer, path));
    LR_TRY(lr__gguf_put(writer, weights, 5));
    LR_TRY(lr__gguf_put(writer, (const char *)weights + 5, sizeof weights - 5));
    LR_TRY(lr__gguf_put(writer, NULL, 0));
    LR_TRY(lr__gguf_put(writer, block, sizeof block));
    LR_TRY(lr__gguf_finish(writer));
done:
    lr__gguf_writer_free(writer);
    return status;
}

/* By hand from the specification: magic, version, counts, keys, tensors, padding to 32. */
START_TEST(bytes) {
    static const char head[] = "GGUF\3\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0"
                               "\1\0\0\0\0\0\0\0t\10\0\0\0\2\0\0\0\0\0\0\0ab"
                               "\1\0\0\0\0\0\0\0u\4\0\0\0\7\0\0\0"
                               "\1\0\0\0\0\0\0\0a\11\0\0\0\10\0\0\0\2\0\0\0\0\0\0\0"
                               "\3\0\0\0\0\0\0\0xyz\0\0\0\0\0\0\0\0"
                               "\1\0\0\0\0\0\0\0w\2\0\0\0\3\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0"
                               "\0\0\0\0\0\0\0\0\0\0\0\0"
                               "\1\0\0\0\0\0\0\0q\1\0\0\0\40\0\0\0\0\0\0\0"
                               "\10\0\0\0\40\0\0\0\0\0\0\0";
    char data[1000];
    size_t start = (sizeof head - 1 + 31) / 32 * 32;
    CHECK_OK(write_two(scratch_path("a.gguf")));
    size_t size = scratch_read(scratch_path("a.gguf"), data, sizeof data);
    ck_assert_uint_eq(size, start + 32 + 64);
    ck_assert_mem_eq(data, head, sizeof head - 1);
    for (size_t i = sizeof head - 1; i < start; i++) ck_assert_int_eq(data[i], 0);
    ck_assert_mem_eq(data + start, weights, sizeof weights);
    for (size_t i = start + sizeof weights; i < start + 32; i++) ck_assert_int_eq(data[i], 0);
    ck_assert_mem_eq(data + start + 32, block, sizeof block);
    for (size_t i = start + 32 + sizeof block; i < size; i++) ck_assert_int_eq(data[i], 0);
}
END_TEST

static lr__gguf *opened(const char *path) {
    lr__gguf *gguf = NULL;
    CHECK_OK(lr__gguf_open(&gguf, path, 0));
    return gguf;
}

/* Every kind of value, copied from file to file as it stands. */
START_TEST(values_are_carried) {
    const char *one = golden_path("tiny.gguf"), *two = scratch_path("copy.gguf");
    lr__gguf_writer *writer = NULL;
    lr__gguf *from = opened(one);
    CHECK_OK(lr__gguf_new(&writer));
    for (size_t i = 0; i < from->value_count; i++)
        CHECK_OK(lr__gguf_put_value(writer, &from->values[i]));
    CHECK_OK(lr__gguf_begin(writer, two));
    CHECK_OK(lr__gguf_finish(writer));
    lr__gguf_writer_free(writer);
    lr__gguf *to = opened(two);
    ck_assert_uint_ge(from->value_count, 12);
    ck_assert_uint_eq(from->value_count, to->value_count);
    for (size_t i = 0; i < from->value_count; i++) {
        const lr__gguf_value *a = &from->values[i], *b = &to->values[i];
        ck_assert_int_eq(a->type, b->type);
        ck_assert_uint_eq(a->count, b->count);
        ck_assert_uint_eq(lr__gguf_value_bytes(a), lr__gguf_value_bytes(b));
        ck_assert_mem_eq(a->data, b->data, lr__gguf_value_bytes(a));
    }
    lr__gguf_free(from);
    lr__gguf_free(to);
}
END_TEST

START_TEST(reads_back) {
    CHECK_OK(write_two(scratch_path("a.gguf")));
    lr__gguf *gguf = opened(scratch_path("a.gguf"));
    const lr__stored *w = lr__stored_find(&gguf->tensors, "w");
    const lr__stored *q = lr__stored_find(&gguf->tensors, "q");
    ck_assert_int_eq(w->shape[0], 2);
    ck_assert_int_eq(w->shape[1], 3);
    ck_assert_mem_eq(w->data, weights, sizeof weights);
    ck_assert_int_eq(q->dtype, LR_Q8_0);
    ck_assert_mem_eq(q->data, block, sizeof block);
    lr__gguf_free(gguf);
}
END_TEST

START_TEST(misuse) {
    lr__gguf_writer *w = NULL;
    char name[80];
    memset(name, 'n', sizeof name);
    name[64] = '\0';
    CHECK_OK(lr__gguf_new(&w));
    ck_assert_int_eq(lr__gguf_put(w, weights, 4), LR_E_INVALID);
    ck_assert_int_eq(lr__gguf_finish(w), LR_E_INVALID);
    ck_assert_int_eq(lr__gguf_put_u32(w, "k", -1), LR_E_UNSUPPORTED);
    ck_assert_int_eq(lr__gguf_put_u32(w, "k", 1LL << 32), LR_E_UNSUPPORTED);
    ck_assert_int_eq(lr__gguf_declare(w, "", LR_F32, 1, (int64_t[]){1}), LR_E_INVALID);
    ck_assert_int_eq(lr__gguf_declare(w, name, LR_F32, 1, (int64_t[]){1}), LR_E_INVALID);
    ck_assert_int_eq(lr__gguf_declare(w, "i", LR_I64, 1, (int64_t[]){1}), LR_E_UNSUPPORTED);
    ck_assert_int_eq(lr__gguf_declare(w, "d", LR_F32, 0, NULL), LR_E_SHAPE);
    ck_assert_int_eq(lr__gguf_declare(w, "d", LR_F32, 5, (int64_t[]){1, 1, 1, 1, 1}), LR_E_SHAPE);
    ck_assert_int_eq(lr__gguf_declare(w, "z", LR_F32, 2, (int64_t[]){0, 4}), LR_E_SHAPE);
    ck_assert_int_eq(lr__gguf_declare(w, "b", LR_Q8_0, 2, (int64_t[]){32, 33}), LR_E_SHAPE);
    ck_assert_int_eq(lr__gguf_declare(w, "o", LR_F32, 2, (int64_t[]){INT64_MAX, 2}), LR_E_SHAPE);
    ck_assert_int_eq(lr__gguf_declare(w, "o", LR_F32, 1, (int64_t[]){INT64_MAX / 2}), LR_E_SHAPE);
    CHECK_OK(lr__gguf_declare(w, name + 1, LR_F32, 1, (int64_t[]){2}));
    CHECK_OK(lr__gguf_declare(w, "h", LR_F16, 1, (int64_t[]){1}));
    ck_assert_int_eq(lr__gguf_begin(w, scratch_path("none/a")), LR_E_NOTFOUND);
    CHECK_OK(lr__gguf_begin(w, scratch_path("a")));
    ck_assert_int_eq(lr__gguf_begin(w, scratch_path("a")), LR_E_INVALID);
    ck_assert_int_eq(lr__gguf_put_bool(w, "late", 1), LR_E_INVALID);
    ck_assert_int_eq(lr__gguf_declare(w, "late", LR_F32, 1, (int64_t[]){1}), LR_E_INVALID);
    ck_assert_int_eq(lr__gguf_put(w, weights, 12), LR_E_INVALID);
    CHECK_OK(lr__gguf_put(w, weights, 8));
    ck_assert_int_eq(lr__gguf_finish(w), LR_E_INVALID);
    CHECK_OK(lr__gguf_put(w, weights, 2));
    ck_assert_int_eq(lr__gguf_put(w, weights, 1), LR_E_INVALID);
    CHECK_OK(lr__gguf_finish(w));
    lr__gguf_writer_free(w);
}
END_TEST

START_TEST(without_memory) {
    lr_status status = LR_E_NOMEM;
    const char *path = scratch_path("a.gguf");
    for (long n = 0; status < 0; n++) {
        faults_begin(n);
        status = write_two(path);
        ck_assert_int_eq(faults_end(), 0);
        if (status < 0) ck_assert_int_eq(status, LR_E_NOMEM);
    }
}
END_TEST

Suite *gguf_write_suite(void) {
    Suite *suite = suite_create("gguf_write");
    TCase *tests = tcase_create("gguf_write");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_test(tests, bytes);
    tcase_add_test(tests, values_are_carried);
    tcase_add_test(tests, reads_back);
    tcase_add_test(tests, misuse);
    tcase_add_test(tests, without_memory);
    suite_add_tcase(suite, tests);
    return suite;
}
