/* Which model a run is of: a path alone would not tell a file that was replaced meanwhile. Of each
 * file parts are read, evenly spread, since two models of one shape differ nearly everywhere. */
#include "cli/work.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PARTS = 64, PART_BYTES = 1 << 14 };

static const uint64_t hash_begin = 14695981039346656037U;

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes) {
    const unsigned char *at = data;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ at[i]) * 1099511628211U;
    return hash;
}

static uint64_t hash_parts(uint64_t hash, int file, off_t size) {
    static unsigned char part[PART_BYTES];
    for (int i = 0; i < PARTS; i++) {
        off_t last = size > PART_BYTES ? size - PART_BYTES : 0;
        ssize_t got = pread(file, part, sizeof part, last * i / (PARTS - 1));
        if (got > 0) hash = hash_bytes(hash, part, (size_t)got);
    }
    return hash;
}

/* 0 where it cannot be read, which opening the model has told already. */
static uint64_t hash_file(int folder, const char *name) {
    struct stat info;
    uint64_t hash = 0;
    int file = openat(folder, name, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    if (!fstat(file, &info)) {
        hash = hash_bytes(hash_begin, name, strlen(name));
        hash = hash_parts(hash_bytes(hash, &info.st_size, sizeof info.st_size), file, info.st_size);
    }
    close(file);
    return hash;
}

static int ends_in(const char *name, const char *ending) {
    size_t length = strlen(name), tail = strlen(ending);
    return length >= tail && !strcmp(name + length - tail, ending);
}

/* The sum does not depend on the order in which a folder tells its files. */
static uint64_t hash_model(const char *path) {
    DIR *folder = opendir(path);
    const struct dirent *entry;
    uint64_t sum = 0;
    if (!folder) return hash_file(AT_FDCWD, path);
    while ((entry = readdir(folder)))
        if (ends_in(entry->d_name, ".safetensors") || ends_in(entry->d_name, ".json"))
            sum += hash_file(dirfd(folder), entry->d_name);
    closedir(folder);
    return sum;
}

json_t *work_model(const char *path) {
    if (!path) return json_null();
    return json_pack("{s:o, s:I}", "path", report_name(path), "files",
                     (json_int_t)(hash_model(path) >> 1));
}
