/* safetensors written: the bytes themselves, a round trip, and every misuse. */
#include "format/safetensors.h"
#include "faults.h"
#include "scratch.h"

static const float weights[6] = {1, -2, 3, 4.5f, 5, 6};
static const int8_t small[3] = {-1, 0, 1};
static const unsigned char half[6] = {1, 2, 3, 4, 5, 6};

static lr_status declare_three(lr__safetensors_writer *writer) {
    lr_status status;
    LR_TRY(lr__safetensors_declare(writer, "w", LR_F32, 2, (int64_t[]){2, 3}));
    LR_TRY(lr__safetensors_declare(writer, "s", LR_I8, 1, (int64_t[]){3}));
    LR_TRY(lr__safetensors_declare(writer, "h", LR_BF16, 2, (int64_t[]){3, 1}));
done:
    return status;
}

static lr_status write_three(const char *path, json_t *metadata) {
    lr__safetensors_writer *writer = NULL;
    lr_status status;
    LR_TRY(lr__safetensors_new(&writer));
    LR_TRY(declare_three(writer));
    LR_TRY(lr__safetensors_begin(writer, path, metadata));
    LR_TRY(lr__safetensors_put(writer, weights, 5));
    LR_TRY(lr__safetensors_put(writer, (const char *)weights + 5, sizeof weights - 5));
    LR_TRY(lr__safetensors_put(writer, small, sizeof small));
    LR_TRY(lr__safetensors_put(writer, NULL, 0));
    LR_TRY(lr__safetensors_put(writer, half, sizeof half));
    LR_TRY(lr__safetensors_finish(writer));
done:
    lr__safetensors_free(writer);
    return status;
}

START_TEST(test_bytes) {
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
        "\"s\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[24,27]},"
        "\"h\":{\"dtype\":\"BF16\",\"shape\":[3,1],\"data_offsets\":[27,33]}}";
    char data[1000];
    uint64_t length;
    json_t *metadata = json_pack("{s:s}", "format", "pt");
    const char *path = scratch_path("a.safetensors");
    ck_assert_int_eq(write_three(path, metadata), LR_OK);
    json_decref(metadata);
    size_t size = scratch_read(path, data, sizeof data);
    memcpy(&length, data, 8);
    ck_assert_uint_eq((length + 8) % 64, 0);
    ck_assert_uint_eq(size, 8 + length + 33);
    ck_assert_mem_eq(data + 8, header, sizeof header - 1);
    for (size_t i = sizeof header - 1; i < length; i++) ck_assert_int_eq(data[8 + i], ' ');
    ck_assert_mem_eq(data + 8 + length, weights, 24);
    ck_assert_mem_eq(data + 8 + length + 24, small, 3);
    ck_assert_mem_eq(data + 8 + length + 27, half, 6);
}
END_TEST

START_TEST(test_round_trip) {
    lr__stored_list list = {0};
    const char *path = scratch_path("a.safetensors");
    ck_assert_int_eq(write_three(path, NULL), LR_OK);
    ck_assert_int_eq(lr__safetensors_add(&list, path, 0, NULL), LR_OK);
    ck_assert_uint_eq(list.count, 3);
    ck_assert_mem_eq(lr__stored_find(&list, "w")->data, weights, 24);
    ck_assert_mem_eq(lr__stored_find(&list, "s")->data, small, 3);
    ck_assert_mem_eq(lr__stored_find(&list, "h")->data, half, 6);
    lr__stored_list_clear(&list);
}
END_TEST

START_TEST(test_empty) {
    lr__safetensors_writer *writer;
    lr__stored_list list = {0};
    const char *path = scratch_path("a.safetensors");
    ck_assert_int_eq(lr__safetensors_new(&writer), LR_OK);
    ck_assert_int_eq(lr__safetensors_declare(writer, "x", LR_F32, 2, (int64_t[]){0, 7}), LR_OK);
    ck_assert_int_eq(lr__safetensors_begin(writer, path, NULL), LR_OK);
    ck_assert_int_eq(lr__safetensors_finish(writer), LR_OK);
    lr__safetensors_free(writer);
    ck_assert_int_eq(lr__safetensors_add(&list, path, 0, NULL), LR_OK);
    ck_assert_uint_eq(list.count, 1);
    lr__stored_list_clear(&list);
}
END_TEST

START_TEST(test_declare_refused) {
    lr__safetensors_writer *writer;
    int64_t shape[7] = {2, 2, 2, 2, 2, 2, 2}, huge[2] = {(int64_t)1 << 40, (int64_t)1 << 40};
    ck_assert_int_eq(lr__safetensors_new(&writer), LR_OK);
    ck_assert_int_eq(lr__safetensors_declare(writer, "a", LR_F32, 2, shape), LR_OK);
    ck_assert_int_eq(lr__safetensors_declare(writer, "a", LR_F32, 2, shape), LR_E_INVALID);
    ck_assert_int_eq(lr__safetensors_declare(writer, "", LR_F32, 2, shape), LR_E_INVALID);
    ck_assert_int_eq(lr__safetensors_declare(writer, "__metadata__", LR_F32, 2, shape),
                     LR_E_INVALID);
    ck_assert_int_eq(lr__safetensors_declare(writer, "\xff", LR_F32, 2, shape), LR_E_INVALID);
    ck_assert_int_eq(lr__safetensors_declare(writer, "b", LR_Q8_0, 2, shape), LR_E_UNSUPPORTED);
    ck_assert_str_eq(lr_last_error(), "tensor \"b\": safetensors has no type q8_0");
    ck_assert_int_eq(lr__safetensors_declare(writer, "b", -1, 2, shape), LR_E_UNSUPPORTED);
    ck_assert_int_eq(lr__safetensors_declare(writer, "b", LR_F32, 7, shape), LR_E_SHAPE);
    ck_assert_int_eq(lr__safetensors_declare(writer, "b", LR_F32, 2, huge), LR_E_SHAPE);
    shape[1] = -1;
    ck_assert_int_eq(lr__safetensors_declare(writer, "b", LR_F32, 2, shape), LR_E_SHAPE);
    lr__safetensors_free(writer);
    lr__safetensors_free(NULL);
}
END_TEST

START_TEST(test_order_refused) {
    lr__safetensors_writer *writer;
    json_t *metadata = json_pack("{s:i}", "n", 1);
    const char *path = scratch_path("a.safetensors");
    ck_assert_int_eq(lr__safetensors_new(&writer), LR_OK);
    ck_assert_int_eq(declare_three(writer), LR_OK);
    ck_assert_int_eq(lr__safetensors_put(writer, weights, 1), LR_E_INVALID);
    ck_assert_int_eq(lr__safetensors_finish(writer), LR_E_INVALID);
    ck_assert_int_eq(lr__safetensors_begin(writer, path, metadata), LR_E_INVALID);
    ck_assert_int_eq(lr__safetensors_begin(writer, scratch_path("none/a"), NULL), LR_E_NOTFOUND);
    ck_assert_int_eq(lr__safetensors_begin(writer, path, NULL), LR_OK);
    ck_assert_int_eq(lr__safetensors_begin(writer, path, NULL), LR_E_INVALID);
    ck_assert_int_eq(lr__safetensors_declare(writer, "z", LR_F32, 0, NULL), LR_E_INVALID);
    ck_assert_int_eq(lr__safetensors_put(writer, weights, 24), LR_OK);
    ck_assert_int_eq(lr__safetensors_finish(writer), LR_E_INVALID);
    ck_assert_str_eq(lr_last_error(), "safetensors: 33 bytes declared, 24 came");
    ck_assert_int_eq(lr__safetensors_put(writer, weights, 10), LR_E_INVALID);
    ck_assert_int_eq(lr__safetensors_put(writer, weights, 9), LR_OK);
    ck_assert_int_eq(lr__safetensors_finish(writer), LR_OK);
    ck_assert_int_eq(lr__safetensors_finish(writer), LR_E_INVALID);
    lr__safetensors_free(writer);
    json_decref(metadata);
}
END_TEST

START_TEST(test_full_disk) {
    lr__safetensors_writer *writer;
    static char block[1 << 16];
    if (access("/dev/full", W_OK)) return;
    ck_assert_int_eq(write_three("/dev/full", NULL), LR_E_IO);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "No space left"));
    /* A long write is told at the first piece that fails. */
    ck_assert_int_eq(lr__safetensors_new(&writer), LR_OK);
    ck_assert_int_eq(lr__safetensors_declare(writer, "a", LR_U8, 1, (int64_t[]){1 << 30}), LR_OK);
    ck_assert_int_eq(lr__safetensors_begin(writer, "/dev/full", NULL), LR_OK);
    lr_status status = LR_OK;
    for (int i = 0; i < 16 && status == LR_OK; i++)
        status = lr__safetensors_put(writer, block, sizeof block);
    ck_assert_int_eq(status, LR_E_IO);
    lr__safetensors_free(writer);
}
END_TEST

START_TEST(test_no_memory) {
    lr_status status = LR_E_NOMEM;
    for (long i = 0; status < 0; i++) {
        ck_assert_int_lt(i, 100);
        faults_begin(i);
        status = write_three(scratch_path("a.safetensors"), NULL);
        ck_assert_int_eq(faults_end(), 0);
        ck_assert(status == LR_OK || status == LR_E_NOMEM);
    }
}
END_TEST

Suite *safetensors_write_suite(void);
Suite *safetensors_write_suite(void) {
    Suite *suite = suite_create("safetensors_write");
    TCase *tests = tcase_create("write");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_test(tests, test_bytes);
    tcase_add_test(tests, test_round_trip);
    tcase_add_test(tests, test_empty);
    tcase_add_test(tests, test_declare_refused);
    tcase_add_test(tests, test_order_refused);
    tcase_add_test(tests, test_full_disk);
    tcase_add_test(tests, test_no_memory);
    suite_add_tcase(suite, tests);
    return suite;
}
