/* A folder of its own for each test, and plain file access that shares nothing with the library. */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include <check.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char scratch[256];

static inline void scratch_make(void) {
    const char *base = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%s/lowrank-test-XXXXXX", base && *base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(scratch));
}

static inline int scratch_drop(const char *path, const struct stat *info, int kind,
                               struct FTW *where) {
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static inline void scratch_remove(void) { nftw(scratch, scratch_drop, 16, FTW_PHYS | FTW_DEPTH); }

/* One of many buffers in turn. */
static inline const char *scratch_path(const char *name) {
    static char paths[512][600];
    static unsigned turn;
    char *path = paths[turn++ % 512];
    snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

/* A path that stays, however many more are asked for. */
static inline const char *lasting_path(char room[600], const char *name) {
    snprintf(room, 600, "%s", scratch_path(name));
    return room;
}

static inline const char *scratch_write(const char *name, const void *data, size_t bytes) {
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, bytes, file), bytes);
    ck_assert_int_eq(fclose(file), 0);
    return path;
}

/* The same in memory, for files that are written thousands of times: one file, replaced each time.
 */
static inline const char *scratch_memory(const void *data, size_t bytes) {
    static char path[64];
    static int fd = -1;
    if (fd < 0) fd = memfd_create("scratch", MFD_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    if (bytes) ck_assert_int_eq(pwrite(fd, data, bytes, 0), (long)bytes);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return path;
}

static inline size_t scratch_read(const char *path, char *data, size_t room) {
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s cannot be opened", path);
    size_t got = fread(data, 1, room, file);
    fclose(file);
    return got;
}

/* Where the golden files lie. */
static inline const char *golden_path(const char *name) {
    static char path[600];
    const char *folder = getenv("LR_GOLDEN");
    snprintf(path, sizeof path, "%s/files/%s", folder ? folder : "tests/golden", name);
    return path;
}

#endif
