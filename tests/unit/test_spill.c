/* Arrays in memory and in nameless files. */
#include "base/spill.h"
#include "scratch.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES = 3 << 20 };

static void round_trip(const char *folder) {
    lr__spill *spill;
    unsigned char *given = malloc(BYTES), *got = calloc(1, BYTES);
    for (size_t i = 0; i < BYTES; i++) given[i] = (unsigned char)(i * 2654435761u >> 24);
    ck_assert_int_eq(lr__spill_new(&spill, BYTES, folder), LR_OK);
    for (size_t at = 0; at < BYTES; at += 700001) {
        size_t bytes = BYTES - at < 700001 ? BYTES - at : 700001;
        ck_assert_int_eq(lr__spill_write(spill, at, given + at, bytes), LR_OK);
    }
    ck_assert_int_eq(lr__spill_read(spill, 0, got, BYTES), LR_OK);
    ck_assert_mem_eq(got, given, BYTES);
    ck_assert_int_eq(lr__spill_write(spill, 5, given + 77, 1000), LR_OK);
    ck_assert_int_eq(lr__spill_read(spill, 5, got, 1000), LR_OK);
    ck_assert_mem_eq(got, given + 77, 1000);
    ck_assert_int_eq(lr__spill_write(spill, BYTES, given, 0), LR_OK);
    ck_assert_int_eq(lr__spill_write(spill, BYTES - 1, given, 2), LR_E_INVALID);
    ck_assert_int_eq(lr__spill_read(spill, BYTES + 1, got, 0), LR_E_INVALID);
    ck_assert_int_eq(lr__spill_read(spill, 8, got, SIZE_MAX), LR_E_INVALID);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "of an array of 3145728"));
    lr__spill_free(spill);
    free(given);
    free(got);
}

START_TEST(bytes_come_back) {
    scratch_make();
    round_trip(NULL);
    round_trip(scratch_path("."));
    scratch_remove();
}
END_TEST

START_TEST(files_have_no_name) {
    lr__spill *spill;
    scratch_make();
    ck_assert_int_eq(lr__spill_new(&spill, BYTES, scratch), LR_OK);
    ck_assert_int_eq(rmdir(scratch), 0); /* nothing is inside */
    ck_assert_int_eq(lr__spill_write(spill, 0, "abc", 4), LR_OK);
    lr__spill_free(spill);
    ck_assert_int_eq(mkdir(scratch, 0700), 0);
    ck_assert_int_eq(lr__spill_new(&spill, BYTES, scratch_path("none")), LR_E_NOTFOUND);
    ck_assert_ptr_null(spill);
    ck_assert_int_eq(lr__spill_new(&spill, (size_t)1 << 62, scratch_path(".")), LR_E_IO);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "no room for 4611686018427387904 bytes"));
    ck_assert_int_eq(lr__spill_new(&spill, SIZE_MAX, NULL), LR_E_NOMEM);
    scratch_remove();
}
END_TEST

Suite *spill_suite(void) {
    Suite *suite = suite_create("spill");
    TCase *all = tcase_create("spill");
    tcase_add_test(all, bytes_come_back);
    tcase_add_test(all, files_have_no_name);
    suite_add_tcase(suite, all);
    return suite;
}
