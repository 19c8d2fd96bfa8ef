/* Outputs that appear whole or not at all: staged beside the target, synced, exchanged. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WALK_FILES = 16, ATTEMPTS = 100, SUFFIX_BYTES = 16 /* ".lowrank-XXXXXX" and NUL */ };

/* --- trees --- */

static lr_status sync_path(const char *path, int flags) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | flags);
    if (fd < 0) return lr__fail_errno(path, "open");
    lr_status status = LR_OK;
    /* Some file systems have nothing to sync in a folder. */
    if (fsync(fd) && errno != EINVAL && errno != ENOTSUP) status = lr__fail_errno(path, "sync");
    close(fd);
    return status;
}

/* nftw() takes no user pointer: 1 says that the message is already set. */
static int sync_entry(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)where;
    if (kind == FTW_SL || !(S_ISREG(info->st_mode) || S_ISDIR(info->st_mode))) return 0;
    return sync_path(path, O_NONBLOCK) < 0;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)info;
    (void)kind;
    (void)where;
    return remove(path) == 0 || errno == ENOENT ? 0 : errno;
}

static lr_status sync_tree(const char *path) {
    int result = nftw(path, sync_entry, WALK_FILES, FTW_PHYS | FTW_DEPTH);
    if (result < 0) return lr__fail_errno(path, "walk");
    return result ? LR_E_IO : LR_OK;
}

/* Returns an errno and sets no message: it also runs while an earlier error is being reported. */
static int remove_tree(const char *path) {
    int result = nftw(path, remove_entry, WALK_FILES, FTW_PHYS | FTW_DEPTH | FTW_MOUNT);
    if (result < 0) result = errno;
    return result == ENOENT ? 0 : result;
}

/* --- names --- */

/* Offset of the last component. */
static size_t name_start(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* A copy without trailing slashes; the last component must be a name. */
static lr_status clean_target(char **out, const char *target) {
    size_t length = strlen(target);
    while (length > 1 && target[length - 1] == '/') length--;
    *out = lr__strndup(target, length);
    if (!*out) return lr__nomem(length + 1);
    const char *name = *out + name_start(*out);
    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return lr__fail(LR_E_INVALID, "output \"%s\": names no file or folder to create", target);
    return LR_OK;
}

static lr_status parent_of(char **out, const char *path) {
    size_t start = name_start(path);
    *out = start > 0 ? lr__strndup(path, start) : lr__strdup("./");
    return *out ? LR_OK : lr__nomem(start + 1);
}

/* Writes a fresh ".NAME.lowrank-XXXXXX" beside the target; a long name is cut to fit. */
static lr_status name_staging(char **out, const char *target) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    unsigned char noise[6];
    char suffix[7] = "";
    size_t start = name_start(target), name = strlen(target + start);
    if (name > NAME_MAX - SUFFIX_BYTES) name = NAME_MAX - SUFFIX_BYTES;
    size_t size = start + 1 + name + SUFFIX_BYTES;
    if (getrandom(noise, sizeof noise, 0) != (ssize_t)sizeof noise)
        return lr__fail_errno(target, "draw a name beside");
    for (int i = 0; i < 6; i++) suffix[i] = letters[noise[i] % 36];
    lr_status status = lr__new(out, size, 1);
    if (status < 0) return status;
    snprintf(*out, size, "%.*s.%.*s.lowrank-%s", (int)start, target, (int)name, target + start,
             suffix);
    return LR_OK;
}

static int create_empty(const char *path, int is_dir) {
    if (is_dir) return mkdir(path, 0777);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return fd < 0 ? -1 : close(fd);
}

static lr_status create_staging(lr__output *output) {
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        char *path = NULL;
        lr_status status = name_staging(&path, output->target);
        if (status < 0) return status;
        if (create_empty(path, output->is_dir) == 0) {
            output->staging = path;
            return LR_OK;
        }
        int code = errno;
        lr__free(path);
        errno = code;
        if (code != EEXIST) break;
    }
    return lr__fail_errno(output->target, "create");
}

/* --- what may be replaced --- */

static int holds_working_dir(const char *path) {
    char *folder = realpath(path, NULL), *here = realpath(".", NULL);
    int holds = 0;
    if (folder && here) {
        size_t length = strlen(folder);
        holds = strncmp(folder, here, length) == 0 &&
                (here[length] == '\0' || here[length] == '/' || length == 1);
    }
    free(folder);
    free(here);
    return holds;
}

/* A symbolic link counts as what it leads to, but only the link is replaced. */
static lr_status check_replaceable(const lr__output *output) {
    struct stat info;
    const char *target = output->target;
    if (stat(target, &info)) return LR_OK;
    int is_dir = S_ISDIR(info.st_mode);
    if (!is_dir && !S_ISREG(info.st_mode))
        return lr__fail(LR_E_INVALID, "%s: is neither a file nor a folder, left alone", target);
    if (is_dir != output->is_dir)
        return lr__fail(LR_E_INVALID, "%s: is a %s, a %s cannot replace it", target,
                        is_dir ? "folder" : "file", is_dir ? "file" : "folder");
    if (is_dir && holds_working_dir(target))
        return lr__fail(LR_E_INVALID, "%s: holds the working directory, left alone", target);
    return LR_OK;
}

/* *exists is 1 for a dangling link too. */
static lr_status check_target(const lr__output *output, int *exists) {
    struct stat info;
    *exists = lstat(output->target, &info) == 0;
    if (!*exists) return errno == ENOENT ? LR_OK : lr__fail_errno(output->target, "inspect");
    if (!output->force)
        return lr__fail(LR_E_EXISTS, "%s: exists, and overwriting was not asked for",
                        output->target);
    return check_replaceable(output);
}

lr_status lr__output_begin(lr__output *output, const char *target, int is_dir, int force) {
    lr_status status;
    int exists;
    memset(output, 0, sizeof *output);
    output->is_dir = is_dir != 0;
    output->force = force != 0;
    LR_TRY(clean_target(&output->target, target));
    LR_TRY(check_target(output, &exists));
    LR_TRY(create_staging(output));
done:
    if (status < 0) lr__output_end(output);
    return status;
}

/* --- putting in place --- */

static int is_unknown(int code) { return code == EINVAL || code == ENOSYS || code == ENOTSUP; }

/* For file systems without renameat2(): a folder steps aside first, a file is replaced at once. */
static lr_status replace_plainly(lr__output *output) {
    char *aside = NULL;
    lr_status status = LR_OK;
    if (output->is_dir) {
        LR_TRY(name_staging(&aside, output->target));
        if (rename(output->target, aside)) {
            status = lr__fail_errno(output->target, "replace");
            goto done;
        }
    }
    if (rename(output->staging, output->target)) {
        status = lr__fail_errno(output->target, "create");
        if (aside) rename(aside, output->target);
        goto done;
    }
    /* What stands in staging is what remains to be removed. */
    lr__free(output->staging);
    output->staging = aside;
    aside = NULL;
done:
    lr__free(aside);
    return status;
}

static lr_status exchange(lr__output *output) {
    if (renameat2(AT_FDCWD, output->staging, AT_FDCWD, output->target, RENAME_EXCHANGE) == 0)
        return LR_OK;
    if (is_unknown(errno)) return replace_plainly(output);
    return lr__fail_errno(output->target, "replace");
}

static lr_status put_new(lr__output *output) {
    if (renameat2(AT_FDCWD, output->staging, AT_FDCWD, output->target, RENAME_NOREPLACE)) {
        int exists;
        if (!is_unknown(errno)) return lr__fail_errno(output->target, "create");
        lr_status status = check_target(output, &exists);
        if (status < 0) return status;
        if (rename(output->staging, output->target))
            return lr__fail_errno(output->target, "create");
    }
    lr__free(output->staging);
    output->staging = NULL;
    return LR_OK;
}

static lr_status remove_old(lr__output *output) {
    int code = output->staging ? remove_tree(output->staging) : 0;
    lr_status status = LR_OK;
    if (code)
        status = lr__fail(LR_E_IO, "%s: is in place, but the old one, now %s, remains: %s",
                          output->target, output->staging, strerror(code));
    lr__free(output->staging);
    output->staging = NULL;
    return status;
}

lr_status lr__output_commit(lr__output *output) {
    char *parent = NULL;
    int exists = 0;
    lr_status status;
    if (!output->staging) return lr__fail(LR_E_INVALID, "output: nothing is staged");
    LR_TRY(parent_of(&parent, output->target));
    LR_TRY(sync_tree(output->staging));
    LR_TRY(check_target(output, &exists));
    LR_TRY(exists ? exchange(output) : put_new(output));
    LR_TRY(sync_path(parent, O_DIRECTORY));
    LR_TRY(remove_old(output));
done:
    lr__free(parent);
    return status;
}

void lr__output_end(lr__output *output) {
    if (output->staging) remove_tree(output->staging);
    lr__free(output->staging);
    lr__free(output->target);
    memset(output, 0, sizeof *output);
}
