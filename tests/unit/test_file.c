/* Mapping, reading and writing of single files. */
#include "base/file.h"
#include "faults.h"
#include "scratch.h"

#include <pthread.h>
#include <sys/resource.h>
#include <signal.h>

START_TEST(test_mapping) {
    lr__mapping *mapping;
    const char *path = scratch_write("a", "hello", 5);
    ck_assert_int_eq(lr__mapping_open(&mapping, path, _i), LR_OK);
    ck_assert_uint_eq(mapping->size, 5);
    ck_assert_mem_eq(mapping->data, "hello", 5);
    ck_assert_str_eq(mapping->path, path);
    ck_assert_int_eq(mapping->is_copy, _i);
    ck_assert_uint_eq((uintptr_t)mapping->data % 64, 0);
    ck_assert_ptr_eq(lr__mapping_keep(mapping), mapping);
    lr__mapping_drop(mapping);
    ck_assert_mem_eq(mapping->data, "hello", 5);
    /* A file replaced by name leaves the mapping as it was. */
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_mem_eq(mapping->data, "hello", 5);
    lr__mapping_drop(mapping);
    lr__mapping_drop(NULL);
}
END_TEST

START_TEST(test_mapping_refused) {
    lr__mapping *mapping = (lr__mapping *)scratch;
    ck_assert_int_eq(lr__mapping_open(&mapping, scratch_path("none"), _i), LR_E_NOTFOUND);
    ck_assert_ptr_null(mapping);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "/none: cannot open: No such file"));
    ck_assert_int_eq(lr__mapping_open(&mapping, scratch_write("e", "", 0), _i), LR_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "/e: is empty"));
    ck_assert_int_eq(lr__mapping_open(&mapping, scratch_path("e/f"), _i), LR_E_NOTFOUND);
    ck_assert_int_eq(lr__mapping_open(&mapping, scratch, _i), LR_E_IO);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), ": is a folder"));
    ck_assert_int_eq(mkfifo(scratch_path("p"), 0600), 0);
    ck_assert_int_eq(lr__mapping_open(&mapping, scratch_path("p"), _i), LR_E_IO);
    ck_assert_int_eq(lr__mapping_open(&mapping, "/dev/null", _i), LR_E_IO);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "not a regular file"));
}
END_TEST

static void *keep_and_drop(void *user) {
    for (int i = 0; i < 20000; i++) lr__mapping_drop(lr__mapping_keep(user));
    return NULL;
}

START_TEST(test_mapping_threads) {
    lr__mapping *mapping;
    pthread_t threads[4];
    ck_assert_int_eq(lr__mapping_open(&mapping, scratch_write("a", "x", 1), 1), LR_OK);
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, keep_and_drop, mapping);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    ck_assert_int_eq(mapping->references, 1);
    lr__mapping_drop(mapping);
}
END_TEST

START_TEST(test_read) {
    char *text = NULL;
    size_t size = 0;
    const char *path = scratch_write("a", "he\0lo", 5);
    ck_assert_int_eq(lr__file_read(&text, &size, path, 5), LR_OK);
    ck_assert_uint_eq(size, 5);
    ck_assert_mem_eq(text, "he\0lo", 6);
    lr__free(text);
    ck_assert_int_eq(lr__file_read(&text, &size, path, 4), LR_E_FORMAT);
    ck_assert_ptr_null(text);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "more than 4 bytes"));
    ck_assert_int_eq(lr__file_read(&text, NULL, scratch_write("e", "", 0), 0), LR_OK);
    ck_assert_str_eq(text, "");
    lr__free(text);
    ck_assert_int_eq(lr__file_read(&text, &size, scratch, 100), LR_E_IO);
    ck_assert_int_eq(lr__file_read(&text, &size, scratch_path("none"), 100), LR_E_NOTFOUND);
    /* A file that reports no size. */
    ck_assert_int_eq(lr__file_read(&text, &size, "/proc/self/status", 1 << 20), LR_OK);
    ck_assert_mem_eq(text, "Name:", 5);
    lr__free(text);
    ck_assert_int_eq(lr__file_read(&text, &size, "/dev/zero", 100000), LR_E_FORMAT);
}
END_TEST

static void *feed_pipe(void *path) {
    FILE *file = fopen(path, "wb");
    for (int i = 0; i < 50000; i++) fputs("0123456789", file);
    fclose(file);
    return NULL;
}

START_TEST(test_read_pipe) {
    char *text;
    size_t size;
    pthread_t thread;
    const char *path = scratch_path("p");
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    pthread_create(&thread, NULL, feed_pipe, (void *)path);
    ck_assert_int_eq(lr__file_read(&text, &size, path, 500000), LR_OK);
    pthread_join(thread, NULL);
    ck_assert_uint_eq(size, 500000);
    ck_assert_str_eq(text + 499990, "0123456789");
    lr__free(text);
}
END_TEST

START_TEST(test_paths) {
    char *path;
    ck_assert_int_eq(lr__path_join(&path, "a", "b"), LR_OK);
    ck_assert_str_eq(path, "a/b");
    lr__free(path);
    ck_assert_int_eq(lr__path_join(&path, "/", "b"), LR_OK);
    ck_assert_str_eq(path, "/b");
    lr__free(path);
    ck_assert_int_eq(lr__path_join(&path, "", "b"), LR_OK);
    ck_assert_str_eq(path, "b");
    lr__free(path);
    ck_assert(lr__path_is_dir(scratch));
    ck_assert(!lr__path_is_dir(scratch_write("f", "", 0)));
    ck_assert(lr__path_exists(scratch_path("f")));
    ck_assert(!lr__path_exists(scratch_path("g")));
}
END_TEST

/* Pieces below, at and above the size of the buffer. */
START_TEST(test_writer) {
    static const size_t pieces[] = {1, 0, 7, 262143, 262144, 3, 600000, 100, 262145, 1};
    size_t total = 0;
    unsigned char *data = malloc(2000000), *back = malloc(2000000);
    for (size_t i = 0; i < 2000000; i++) data[i] = (unsigned char)(i * 2654435761u >> 13);
    lr__writer *writer;
    ck_assert_int_eq(lr__writer_open(&writer, scratch_path("a")), LR_OK);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        lr__writer_put(writer, data + total, pieces[i]);
        total += pieces[i];
    }
    ck_assert_int_eq(lr__writer_check(writer), LR_OK);
    ck_assert_int_eq(lr__writer_close(writer), LR_OK);
    ck_assert_uint_eq(scratch_read(scratch_path("a"), (char *)back, 2000000), total);
    ck_assert_mem_eq(back, data, total);
    ck_assert_int_eq(lr__writer_open(&writer, scratch_path("a")), LR_OK);
    lr__writer_abandon(writer);
    ck_assert_uint_eq(scratch_read(scratch_path("a"), (char *)back, 10), 0);
    lr__writer_abandon(NULL);
    free(data);
    free(back);
}
END_TEST

START_TEST(test_writer_refused) {
    lr__writer *writer;
    ck_assert_int_eq(lr__writer_open(&writer, scratch_path("none/a")), LR_E_NOTFOUND);
    ck_assert_ptr_null(writer);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "none/a: cannot create: "));
    ck_assert_int_eq(lr__writer_open(&writer, scratch), LR_E_IO);
    if (access("/dev/full", W_OK)) return;
    ck_assert_int_eq(lr__file_write("/dev/full", "abc", 3), LR_E_IO);
    ck_assert_str_eq(lr_last_error(), "/dev/full: cannot write: No space left on device");
    ck_assert_int_eq(lr__writer_open(&writer, "/dev/full"), LR_OK);
    for (int i = 0; i < 100000; i++) lr__writer_put(writer, "0123456789", 10);
    ck_assert_int_eq(lr__writer_check(writer), LR_E_IO);
    ck_assert_int_eq(lr__writer_close(writer), LR_E_IO);
}
END_TEST

START_TEST(test_writer_limit) {
    struct rlimit limit = {4096, 4096};
    char data[10000] = "";
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert_int_eq(lr__file_write(scratch_path("a"), data, sizeof data), LR_E_IO);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "cannot write: File too large"));
}
END_TEST

static lr_status touch_all(void) {
    lr__mapping *mapping = NULL, *copy = NULL;
    lr__output output = {0};
    char *text = NULL;
    lr_status status;
    LR_TRY(lr__file_write(scratch_path("a"), "abc", 3));
    LR_TRY(lr__mapping_open(&mapping, scratch_path("a"), 0));
    LR_TRY(lr__mapping_open(&copy, scratch_path("a"), 1));
    lr__mapping_drop(copy);
    LR_TRY(lr__mapping_copy(&copy, "a", "abc", 3));
    LR_TRY(lr__file_read(&text, NULL, scratch_path("a"), 10));
    LR_TRY(lr__output_begin(&output, scratch_path("out"), 1, 1));
    LR_TRY(lr__output_commit(&output));
done:
    lr__output_end(&output);
    lr__mapping_drop(mapping);
    lr__mapping_drop(copy);
    lr__free(text);
    return status;
}

START_TEST(test_no_memory) {
    lr_status status = LR_E_NOMEM;
    for (long i = 0; status < 0; i++) {
        ck_assert_int_lt(i, 100);
        faults_begin(i);
        status = touch_all();
        ck_assert_int_eq(faults_end(), 0);
        ck_assert(status == LR_OK || status == LR_E_NOMEM);
    }
}
END_TEST

Suite *file_suite(void);
Suite *file_suite(void) {
    Suite *suite = suite_create("file");
    TCase *tests = tcase_create("file");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_loop_test(tests, test_mapping, 0, 2);
    tcase_add_loop_test(tests, test_mapping_refused, 0, 2);
    tcase_add_test(tests, test_mapping_threads);
    tcase_add_test(tests, test_read);
    tcase_add_test(tests, test_read_pipe);
    tcase_add_test(tests, test_paths);
    tcase_add_test(tests, test_writer);
    tcase_add_test(tests, test_writer_refused);
    tcase_add_test(tests, test_writer_limit);
    tcase_add_test(tests, test_no_memory);
    suite_add_tcase(suite, tests);
    return suite;
}
