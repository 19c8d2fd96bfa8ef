/* Element types and views. */
#include "tensor/dtype.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

START_TEST(test_types) {
    static const struct {
        int32_t dtype;
        const char *name;
        size_t size;  /* of one element */
        size_t of_64; /* bytes of 64 elements */
    } types[] = {{LR_F32, "f32", 4, 256},  {LR_F16, "f16", 2, 128},  {LR_BF16, "bf16", 2, 128},
                 {LR_F64, "f64", 8, 512},  {LR_I8, "i8", 1, 64},     {LR_I32, "i32", 4, 256},
                 {LR_I64, "i64", 8, 512},  {LR_U8, "u8", 1, 64},     {LR_Q8_0, "q8_0", 0, 68},
                 {LR_Q4_1, "q4_1", 0, 40}, {LR_Q4_0, "q4_0", 0, 36}, {LR_Q5_0, "q5_0", 0, 44},
                 {LR_Q5_1, "q5_1", 0, 48}, {8, "?", 0, 0},           {15, "?", 0, 0},
                 {24, "?", 0, 0},          {-1, "?", 0, 0},          {INT32_MIN, "?", 0, 0},
                 {INT32_MAX, "?", 0, 0}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        ck_assert_str_eq(lr_dtype_name(types[i].dtype), types[i].name);
        ck_assert_uint_eq(lr_dtype_size(types[i].dtype), types[i].size);
        ck_assert_uint_eq(lr__dtype_bytes(types[i].dtype, 64), types[i].of_64);
        ck_assert_int_eq(lr__dtype_block(types[i].dtype), types[i].size    ? 1
                                                          : types[i].of_64 ? 32
                                                                           : 0);
    }
}
END_TEST

START_TEST(test_bytes) {
    ck_assert_uint_eq(lr__dtype_bytes(LR_Q4_K, 512), 288);
    ck_assert_uint_eq(lr__dtype_bytes(LR_Q5_K, 256), 176);
    ck_assert_uint_eq(lr__dtype_bytes(LR_Q6_K, 256), 210);
    ck_assert_uint_eq(lr__dtype_bytes(LR_Q6_K, 128), 0);
    ck_assert_int_eq(lr__dtype_block(LR_Q4_K), 256);
    ck_assert_uint_eq(lr__dtype_bytes(LR_Q8_0, 33), 0);
    ck_assert_uint_eq(lr__dtype_bytes(LR_Q8_0, 0), 0);
    ck_assert_uint_eq(lr__dtype_bytes(LR_F32, -4), 0);
    ck_assert_uint_eq(lr__dtype_bytes(LR_F64, INT64_MAX), 0);
    ck_assert_uint_eq(lr__dtype_bytes(LR_F64, INT64_MAX / 8), (size_t)(INT64_MAX / 8) * 8);
    ck_assert_uint_eq(lr__dtype_bytes(LR_F64, INT64_MAX / 8 + 1), 0);
    ck_assert_uint_eq(lr__dtype_bytes(LR_U8, INT64_MAX), INT64_MAX);
}
END_TEST

START_TEST(test_view) {
    float data[24];
    lr_tensor view;
    memset(&view, 0xAA, sizeof view);
    ck_assert_int_eq(lr_tensor_view(&view, data, LR_F32, 3, (int64_t[]){2, 3, 4}), LR_OK);
    ck_assert_ptr_eq(view.data, data);
    ck_assert_int_eq(view.dtype, LR_F32);
    ck_assert_int_eq(view.device, LR_HOST);
    ck_assert_int_eq(view.device_id, 0);
    ck_assert_int_eq(view.stride[0], 12);
    ck_assert_int_eq(view.stride[1], 4);
    ck_assert_int_eq(view.stride[2], 1);
    ck_assert_int_eq(view.shape[3], 0);
    ck_assert_int_eq(lr_tensor_count(&view), 24);
    ck_assert_int_eq(lr_tensor_is_contiguous(&view), 1);
    ck_assert_int_eq(lr_tensor_view(&view, data, LR_F32, 0, NULL), LR_OK);
    ck_assert_int_eq(lr_tensor_count(&view), 1);
    ck_assert_int_eq(lr_tensor_is_contiguous(&view), 1);
    ck_assert_int_eq(lr_tensor_view(&view, NULL, LR_F32, 2, (int64_t[]){0, 5}), LR_OK);
    ck_assert_int_eq(lr_tensor_count(&view), 0);
    ck_assert_int_eq(lr_tensor_is_contiguous(&view), 1);
}
END_TEST

START_TEST(test_view_refused) {
    float data[4];
    lr_tensor view, before;
    memset(&view, 0xAA, sizeof view);
    before = view;
    int64_t two[7] = {2, 2, 2, 2, 2, 2, 2}, big = (int64_t)1 << 40;
    ck_assert_int_eq(lr_tensor_view(NULL, data, LR_F32, 1, two), LR_E_INVALID);
    ck_assert_int_eq(lr_tensor_view(&view, data, LR_F32, 1, NULL), LR_E_INVALID);
    ck_assert_int_eq(lr_tensor_view(&view, NULL, LR_F32, 1, two), LR_E_INVALID);
    ck_assert_int_eq(lr_tensor_view(&view, data, LR_Q8_0, 1, two), LR_E_INVALID);
    ck_assert_str_eq(lr_last_error(), "tensor view: type 16 (q8_0) has no whole elements");
    ck_assert_int_eq(lr_tensor_view(&view, data, 99, 1, two), LR_E_INVALID);
    ck_assert_int_eq(lr_tensor_view(&view, data, LR_F32, 7, two), LR_E_SHAPE);
    ck_assert_int_eq(lr_tensor_view(&view, data, LR_F32, -1, two), LR_E_SHAPE);
    ck_assert_int_eq(lr_tensor_view(&view, data, LR_F32, 1, (int64_t[]){-1}), LR_E_SHAPE);
    ck_assert_int_eq(lr_tensor_view(&view, data, LR_F32, 2, (int64_t[]){big, big}), LR_E_SHAPE);
    ck_assert_int_eq(lr_tensor_view(&view, data, LR_F32, 3, (int64_t[]){0, big, big}), LR_E_SHAPE);
    ck_assert_int_eq(lr_tensor_view(&view, data, LR_F64, 1, (int64_t[]){INT64_MAX / 4}),
                     LR_E_SHAPE);
    ck_assert_mem_eq(&view, &before, sizeof view);
}
END_TEST

START_TEST(test_contiguous) {
    float data[64];
    lr_tensor view;
    ck_assert_int_eq(lr_tensor_view(&view, data, LR_F32, 2, (int64_t[]){4, 8}), LR_OK);
    view.stride[0] = 9;
    ck_assert_int_eq(lr_tensor_is_contiguous(&view), 0);
    view.shape[0] = 1; /* the step of a single row does not matter */
    ck_assert_int_eq(lr_tensor_is_contiguous(&view), 1);
    view.stride[1] = -1;
    ck_assert_int_eq(lr_tensor_is_contiguous(&view), 0);
    view.shape[0] = 0;
    ck_assert_int_eq(lr_tensor_is_contiguous(&view), 1);
}
END_TEST

/* Structs filled by hand with nonsense. */
START_TEST(test_nonsense) {
    lr_tensor view = {.ndim = 7};
    ck_assert_int_eq(lr_tensor_count(&view), 0);
    ck_assert_int_eq(lr_tensor_is_contiguous(&view), 0);
    view.ndim = -1;
    ck_assert_int_eq(lr_tensor_count(&view), 0);
    view = (lr_tensor){.ndim = 2, .shape = {INT64_MAX, INT64_MAX}};
    ck_assert_int_eq(lr_tensor_count(&view), 0);
    view.shape[1] = -2;
    ck_assert_int_eq(lr_tensor_count(&view), 0);
    ck_assert_int_eq(lr_tensor_count(NULL), 0);
}
END_TEST

Suite *tensor_suite(void);
Suite *tensor_suite(void) {
    Suite *suite = suite_create("tensor");
    TCase *tests = tcase_create("tensor");
    tcase_add_test(tests, test_types);
    tcase_add_test(tests, test_bytes);
    tcase_add_test(tests, test_view);
    tcase_add_test(tests, test_view_refused);
    tcase_add_test(tests, test_contiguous);
    tcase_add_test(tests, test_nonsense);
    suite_add_tcase(suite, tests);
    return suite;
}
