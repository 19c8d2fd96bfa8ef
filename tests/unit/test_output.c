/* Outputs that appear whole or not at all. */
#include "base/file.h"
#include "scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Takes the place of libc's, so that a file system without it can be played. */
static int without_renameat2;

int renameat2(int old_dir, const char *old, int new_dir, const char *new, unsigned flags) {
    if (!without_renameat2) return (int)syscall(SYS_renameat2, old_dir, old, new_dir, new, flags);
    errno = EINVAL;
    return -1;
}

static int entries_in(const char *path) {
    int count = 0;
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(dir);
    return count;
}

static void expect_file(const char *path, const char *text) {
    char data[100] = "";
    ck_assert_uint_eq(scratch_read(path, data, 99), strlen(text));
    ck_assert_str_eq(data, text);
}

/* Writes `text` to the target, or to the file `f` of a target folder. */
static lr_status produce(const char *target, int is_dir, int force, const char *text) {
    lr__output output;
    lr_status status;
    LR_TRY(lr__output_begin(&output, target, is_dir, force));
    char path[700];
    snprintf(path, sizeof path, "%s%s", output.staging, is_dir ? "/f" : "");
    LR_TRY(lr__file_write(path, text, strlen(text)));
    LR_TRY(lr__output_commit(&output));
done:
    lr__output_end(&output);
    return status;
}

START_TEST(test_file) {
    without_renameat2 = _i;
    const char *target = scratch_path("out.json");
    ck_assert_int_eq(produce(target, 0, 0, "one"), LR_OK);
    expect_file(target, "one");
    ck_assert_int_eq(produce(target, 0, 0, "two"), LR_E_EXISTS);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "out.json: exists"));
    expect_file(target, "one");
    ck_assert_int_eq(produce(target, 0, 1, "two"), LR_OK);
    expect_file(target, "two");
    ck_assert_int_eq(produce(scratch_path("new.json"), 0, 1, "three"), LR_OK);
    ck_assert_int_eq(entries_in(scratch), 2);
}
END_TEST

START_TEST(test_folder) {
    without_renameat2 = _i;
    const char *target = scratch_path("out"), *slashed = scratch_path("out//");
    ck_assert_int_eq(produce(slashed, 1, 0, "one"), LR_OK);
    expect_file(scratch_path("out/f"), "one");
    ck_assert_int_eq(mkdir(scratch_path("out/deep"), 0777), 0);
    ck_assert_int_eq(mkdir(scratch_path("out/deep/er"), 0777), 0);
    scratch_write("out/deep/er/old", "x", 1);
    scratch_write("kept", "kept", 4);
    ck_assert_int_eq(symlink(scratch_path("kept"), scratch_path("out/link")), 0);
    ck_assert_int_eq(produce(target, 1, 0, "two"), LR_E_EXISTS);
    ck_assert_int_eq(produce(target, 1, 1, "two"), LR_OK);
    expect_file(scratch_path("out/f"), "two");
    ck_assert_int_eq(entries_in(target), 1);
    expect_file(scratch_path("kept"), "kept");
    ck_assert_int_eq(entries_in(scratch), 2);
}
END_TEST

/* The permissions are those of any new file or folder. */
START_TEST(test_mode) {
    struct stat info;
    umask(022);
    ck_assert_int_eq(produce(scratch_path("d"), 1, 0, "x"), LR_OK);
    ck_assert_int_eq(produce(scratch_path("f"), 0, 0, "x"), LR_OK);
    ck_assert_int_eq(stat(scratch_path("d"), &info), 0);
    ck_assert_int_eq(info.st_mode & 07777, 0755);
    ck_assert_int_eq(stat(scratch_path("f"), &info), 0);
    ck_assert_int_eq(info.st_mode & 07777, 0644);
}
END_TEST

START_TEST(test_mismatch) {
    const char *file = scratch_write("file", "x", 1), *dir = scratch_path("dir");
    ck_assert_int_eq(mkdir(dir, 0777), 0);
    ck_assert_int_eq(produce(file, 1, 1, "y"), LR_E_INVALID);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "file: is a file, a folder cannot replace it"));
    ck_assert_int_eq(produce(dir, 0, 1, "y"), LR_E_INVALID);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "dir: is a folder, a file cannot replace it"));
    ck_assert_int_eq(mkfifo(scratch_path("pipe"), 0600), 0);
    ck_assert_int_eq(produce(scratch_path("pipe"), 0, 1, "y"), LR_E_INVALID);
    ck_assert_int_eq(produce("/dev/null", 0, 1, "y"), LR_E_INVALID);
    ck_assert_int_eq(entries_in(scratch), 3);
}
END_TEST

START_TEST(test_names) {
    lr__output output;
    static const char *const bad[] = {"", "/", "//", ".", "..", "a/..", "a/."};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ck_assert_int_eq(lr__output_begin(&output, bad[i], 1, 1), LR_E_INVALID);
        ck_assert_ptr_null(output.staging);
    }
    ck_assert_int_eq(produce(scratch_path("none/x"), 1, 0, "y"), LR_E_NOTFOUND);
    char name[300];
    memset(name, 'n', 255);
    name[255] = '\0';
    ck_assert_int_eq(produce(scratch_path(name), 0, 0, "y"), LR_OK);
    ck_assert_int_eq(produce(scratch_path(name), 0, 1, "z"), LR_OK);
    expect_file(scratch_path(name), "z");
    name[255] = 'n';
    name[256] = '\0';
    ck_assert_int_eq(produce(scratch_path(name), 0, 0, "y"), LR_E_IO);
    ck_assert_int_eq(entries_in(scratch), 1);
}
END_TEST

START_TEST(test_relative) {
    ck_assert_int_eq(chdir(scratch), 0);
    ck_assert_int_eq(produce("out", 1, 0, "one"), LR_OK);
    ck_assert_int_eq(produce("out/", 1, 1, "two"), LR_OK);
    expect_file("out/f", "two");
    ck_assert_int_eq(mkdir("out/in", 0777), 0);
    ck_assert_int_eq(chdir("out/in"), 0);
    ck_assert_int_eq(produce(scratch_path("out"), 1, 1, "x"), LR_E_INVALID);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "working directory"));
    ck_assert_int_eq(produce(scratch_path("out/in"), 1, 1, "x"), LR_E_INVALID);
    ck_assert_int_eq(chdir("/"), 0);
}
END_TEST

/* The link is replaced, not what it leads to. */
START_TEST(test_links) {
    const char *link = scratch_path("link");
    ck_assert_int_eq(mkdir(scratch_path("dir"), 0777), 0);
    scratch_write("dir/f", "old", 3);
    ck_assert_int_eq(symlink("dir", link), 0);
    ck_assert_int_eq(produce(link, 1, 0, "x"), LR_E_EXISTS);
    ck_assert_int_eq(produce(link, 1, 1, "new"), LR_OK);
    expect_file(scratch_path("link/f"), "new");
    expect_file(scratch_path("dir/f"), "old");
    ck_assert_int_eq(symlink("nowhere", scratch_path("dangling")), 0);
    ck_assert_int_eq(produce(scratch_path("dangling"), 0, 0, "x"), LR_E_EXISTS);
    ck_assert_int_eq(produce(scratch_path("dangling"), 0, 1, "x"), LR_OK);
    expect_file(scratch_path("dangling"), "x");
    ck_assert_int_eq(entries_in(scratch), 3);
}
END_TEST

START_TEST(test_abandoned) {
    lr__output output = {0};
    lr__output_end(&output);
    ck_assert_int_eq(lr__output_commit(&output), LR_E_INVALID);
    scratch_write("out", "old", 3);
    ck_assert_int_eq(lr__output_begin(&output, scratch_path("out"), 0, 1), LR_OK);
    ck_assert_int_eq(entries_in(scratch), 2);
    lr__fail(LR_E_NUMERIC, "the reason");
    lr__output_end(&output);
    ck_assert_str_eq(lr_last_error(), "the reason");
    lr__output_end(&output);
    ck_assert_int_eq(entries_in(scratch), 1);
    expect_file(scratch_path("out"), "old");
}
END_TEST

/* What a killed run left neither disturbs nor is touched; the old output stays whole. */
START_TEST(test_killed) {
    lr__output output;
    ck_assert_int_eq(produce(scratch_path("out"), 1, 0, "old"), LR_OK);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        lr__output_begin(&output, scratch_path("out"), 1, 1);
        abort();
    }
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    ck_assert_int_eq(entries_in(scratch), 2);
    expect_file(scratch_path("out/f"), "old");
    ck_assert_int_eq(produce(scratch_path("out"), 1, 1, "new"), LR_OK);
    expect_file(scratch_path("out/f"), "new");
    ck_assert_int_eq(entries_in(scratch), 2);
}
END_TEST

/* Someone else made the target while we worked. */
START_TEST(test_race) {
    without_renameat2 = _i;
    lr__output output;
    ck_assert_int_eq(lr__output_begin(&output, scratch_path("out"), 1, 0), LR_OK);
    ck_assert_int_eq(produce(scratch_path("out"), 1, 0, "theirs"), LR_OK);
    ck_assert_int_eq(lr__output_commit(&output), LR_E_EXISTS);
    lr__output_end(&output);
    expect_file(scratch_path("out/f"), "theirs");
    ck_assert_int_eq(entries_in(scratch), 1);
}
END_TEST

START_TEST(test_no_permission) {
    if (geteuid() == 0 && (setegid(65534) || seteuid(65534))) return;
    ck_assert_int_eq(produce("/lowrank-test-output", 1, 0, "x"), LR_E_IO);
    ck_assert_str_eq(lr_last_error(), "/lowrank-test-output: cannot create: Permission denied");
    if (geteuid() != getuid()) ck_assert_int_eq(seteuid(getuid()), 0);
}
END_TEST

Suite *output_suite(void);
Suite *output_suite(void) {
    Suite *suite = suite_create("output");
    TCase *tests = tcase_create("output");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_loop_test(tests, test_file, 0, 2);
    tcase_add_loop_test(tests, test_folder, 0, 2);
    tcase_add_test(tests, test_mode);
    tcase_add_test(tests, test_mismatch);
    tcase_add_test(tests, test_names);
    tcase_add_test(tests, test_relative);
    tcase_add_test(tests, test_links);
    tcase_add_test(tests, test_abandoned);
    tcase_add_test(tests, test_killed);
    tcase_add_loop_test(tests, test_race, 0, 2);
    tcase_add_test(tests, test_no_permission);
    suite_add_tcase(suite, tests);
    return suite;
}
