/* Written beside and renamed, as the library does with what it saves. */
#include "cli/staged.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_KEPT = 200 }; /* bytes of the target's name that the sibling's name repeats */

static int complain(const staged_file *file, const char *action) {
    return report_fail(CODE_FAILED, "%s: cannot %s: %s", file->path, action, strerror(errno));
}

/* mkstemp() leaves a file that only its owner may read. */
static void allow_others(int fd) {
    mode_t mask = umask(0);
    umask(mask);
    fchmod(fd, 0666 & ~mask);
}

int staged_begin(staged_file *file, const char *path, int32_t force) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    *file = (staged_file){.path = path, .force = force};
    if (asprintf(&file->staging, "%.*s.%.*s.lowrank-XXXXXX", (int)(name - path), path, NAME_KEPT,
                 name) < 0) {
        file->staging = NULL;
        return report_nomem();
    }
    int fd = mkostemp(file->staging, O_CLOEXEC);
    if (fd < 0) {
        int code = complain(file, "write");
        free(file->staging);
        file->staging = NULL;
        return code;
    }
    allow_others(fd);
    file->out = fdopen(fd, "w");
    if (file->out) return CODE_DONE;
    close(fd);
    return report_nomem();
}

/* An error of the stream may have come long before this. */
static int finish(staged_file *file) {
    int failed = ferror(file->out);
    errno = 0;
    failed |= fflush(file->out) || fsync(fileno(file->out));
    failed |= fclose(file->out) != 0;
    file->out = NULL;
    if (failed && !errno) errno = EIO;
    return failed ? complain(file, "write") : CODE_DONE;
}

/* Some file systems know no RENAME_NOREPLACE. */
static int put_new(const staged_file *file, int exists) {
    if (!renameat2(AT_FDCWD, file->staging, AT_FDCWD, file->path, RENAME_NOREPLACE)) return 0;
    if (exists || (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP)) return -1;
    return rename(file->staging, file->path);
}

/* A folder or a device is never replaced. */
static int put(const staged_file *file) {
    struct stat info;
    int exists = lstat(file->path, &info) == 0;
    if (!file->force || !exists) return put_new(file, exists);
    if (S_ISREG(info.st_mode) || S_ISLNK(info.st_mode)) return rename(file->staging, file->path);
    errno = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    return -1;
}

int staged_commit(staged_file *file) {
    int code;
    TRY(finish(file));
    if (put(file)) {
        if (errno == EEXIST)
            return report_fail(CODE_FAILED, "%s: exists; --force replaces it", file->path);
        return complain(file, "create");
    }
    free(file->staging);
    file->staging = NULL;
done:
    return code;
}

void staged_end(staged_file *file) {
    if (file->out) fclose(file->out);
    if (file->staging) unlink(file->staging);
    free(file->staging);
    *file = (staged_file){0};
}
