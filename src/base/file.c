/* Reading (mapped or copied) and writing of single files. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER_BYTES = 1 << 18 };

lr_status lr__fail_errno(const char *path, const char *action) {
    int code = errno;
    lr_status status = code == ENOENT || code == ENOTDIR ? LR_E_NOTFOUND
                       : code == EEXIST                  ? LR_E_EXISTS
                       : code == ENOMEM                  ? LR_E_NOMEM
                                                         : LR_E_IO;
    return lr__fail(status, "%s: cannot %s: %s", path, action, strerror(code));
}

/* Reads up to `bytes`; fewer only at the end of the file; -1 with errno. */
static ssize_t read_fully(int fd, void *data, size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
        size_t wanted = bytes - done < SSIZE_MAX / 2 ? bytes - done : SSIZE_MAX / 2;
        ssize_t got = read(fd, (char *)data + done, wanted);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

/* --- mapping --- */

static void release_bytes(lr__mapping *mapping) {
    if (!mapping->data) return;
    if (mapping->is_copy)
        lr__aligned_free((void *)mapping->data);
    else
        munmap((void *)mapping->data, mapping->size);
}

lr__mapping *lr__mapping_keep(lr__mapping *mapping) {
    __atomic_add_fetch(&mapping->references, 1, __ATOMIC_RELAXED);
    return mapping;
}

void lr__mapping_drop(lr__mapping *mapping) {
    if (!mapping || __atomic_sub_fetch(&mapping->references, 1, __ATOMIC_ACQ_REL) > 0) return;
    release_bytes(mapping);
    lr__free(mapping->path);
    lr__free(mapping);
}

void lr__mapping_release(const lr__mapping *mapping, const void *data, size_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)data + bytes) / page * page;
    if (!mapping->is_copy && begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

static lr_status mapping_new(lr__mapping **out, const char *path, size_t size, int is_copy) {
    lr__mapping *mapping = NULL;
    lr_status status;
    LR_TRY(lr__new(&mapping, 1, sizeof *mapping));
    mapping->references = 1;
    mapping->size = size;
    mapping->is_copy = is_copy;
    LR_TRY(lr__dup(&mapping->path, path));
    *out = mapping;
    mapping = NULL;
done:
    lr__mapping_drop(mapping);
    return status;
}

static lr_status fill(lr__mapping *mapping, int fd) {
    if (!mapping->is_copy) {
        void *data = mmap(NULL, mapping->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) return lr__fail_errno(mapping->path, "map");
        mapping->data = data;
        return LR_OK;
    }
    void *data = lr__aligned(mapping->size, 1);
    if (!data) return lr__nomem(mapping->size);
    mapping->data = data;
    ssize_t got = read_fully(fd, data, mapping->size);
    if (got < 0) return lr__fail_errno(mapping->path, "read");
    if ((size_t)got < mapping->size)
        return lr__fail(LR_E_IO, "%s: %zd of %zu bytes left while it was read", mapping->path, got,
                        mapping->size);
    return LR_OK;
}

/* A pipe must not keep us waiting, nor a terminal become ours. */
static lr_status open_regular(int *fd, size_t *size, const char *path) {
    struct stat info;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0) return lr__fail_errno(path, "open");
    if (fstat(*fd, &info)) return lr__fail_errno(path, "inspect");
    if (S_ISDIR(info.st_mode)) return lr__fail(LR_E_IO, "%s: is a folder, expected a file", path);
    if (!S_ISREG(info.st_mode)) return lr__fail(LR_E_IO, "%s: is not a regular file", path);
    if (info.st_size == 0) return lr__fail(LR_E_FORMAT, "%s: is empty", path);
    *size = (size_t)info.st_size;
    return LR_OK;
}

lr_status lr__mapping_open(lr__mapping **out, const char *path, int copy) {
    lr__mapping *mapping = NULL;
    int fd = -1;
    size_t size = 0;
    lr_status status;
    *out = NULL;
    LR_TRY(open_regular(&fd, &size, path));
    LR_TRY(mapping_new(&mapping, path, size, copy != 0));
    LR_TRY(fill(mapping, fd));
    *out = mapping;
    mapping = NULL;
done:
    lr__mapping_drop(mapping);
    if (fd >= 0) close(fd);
    return status;
}

lr_status lr__mapping_copy(lr__mapping **out, const char *path, const void *data, size_t size) {
    lr__mapping *mapping = NULL;
    lr_status status;
    *out = NULL;
    LR_TRY(mapping_new(&mapping, path, size, 1));
    void *block = lr__aligned(size, 1);
    if (!block) {
        status = lr__nomem(size);
        goto done;
    }
    memcpy(block, data, size);
    mapping->data = block;
    *out = mapping;
    mapping = NULL;
done:
    lr__mapping_drop(mapping);
    return status;
}

/* --- whole files --- */

static lr_status too_large(const char *path, size_t limit) {
    return lr__fail(LR_E_FORMAT, "%s: more than %zu bytes", path, limit);
}

/* The size a file reports is only a first guess: pipes and /proc report none. */
static lr_status read_all(char **text, size_t *size, int fd, const char *path, size_t limit) {
    struct stat info;
    size_t capacity = 0, wanted = 4096, room, got;
    if (fstat(fd, &info)) return lr__fail_errno(path, "inspect");
    if (S_ISDIR(info.st_mode)) return lr__fail(LR_E_IO, "%s: is a folder, expected a file", path);
    if (S_ISREG(info.st_mode) && info.st_size > 0) wanted = (size_t)info.st_size + 2;
    if (S_ISREG(info.st_mode) && (size_t)info.st_size > limit) return too_large(path, limit);
    *size = 0;
    do {
        lr_status status = lr__grow(text, &capacity, wanted, 1);
        if (status < 0) return status;
        room = capacity - *size - 1;
        ssize_t bytes = read_fully(fd, *text + *size, room);
        if (bytes < 0) return lr__fail_errno(path, "read");
        got = (size_t)bytes;
        *size += got;
        wanted = capacity + 1;
        if (*size > limit) return too_large(path, limit);
    } while (got == room);
    (*text)[*size] = '\0';
    return LR_OK;
}

lr_status lr__file_read(char **out, size_t *size, const char *path, size_t limit) {
    char *text = NULL;
    size_t used = 0;
    lr_status status = LR_OK;
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) return lr__fail_errno(path, "open");
    LR_TRY(read_all(&text, &used, fd, path, limit));
    *out = text;
    if (size) *size = used;
    text = NULL;
done:
    lr__free(text);
    close(fd);
    return status;
}

lr_status lr__file_write(const char *path, const void *data, size_t bytes) {
    lr__writer *writer = NULL;
    lr_status status = lr__writer_open(&writer, path);
    if (status < 0) return status;
    lr__writer_put(writer, data, bytes);
    return lr__writer_close(writer);
}

/* --- paths --- */

lr_status lr__path_join(char **out, const char *dir, const char *name) {
    size_t used = strlen(dir), added = strlen(name), slash = used > 0 && dir[used - 1] != '/';
    lr_status status = lr__new(out, used + slash + added + 1, 1);
    if (status < 0) return status;
    memcpy(*out, dir, used);
    if (slash) (*out)[used] = '/';
    memcpy(*out + used + slash, name, added);
    return LR_OK;
}

int lr__path_is_dir(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

int lr__path_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

/* --- writer --- */

struct lr__writer {
    int fd;
    int failure; /* errno of the first failure, else 0 */
    size_t used;
    char *path;
    unsigned char *buffer;
};

static void send_bytes(lr__writer *writer, const unsigned char *data, size_t bytes) {
    while (bytes > 0 && !writer->failure) {
        ssize_t sent = write(writer->fd, data, bytes < SSIZE_MAX / 2 ? bytes : SSIZE_MAX / 2);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) {
            writer->failure = sent < 0 ? errno : EIO;
            return;
        }
        data += sent;
        bytes -= (size_t)sent;
    }
}

static void flush(lr__writer *writer) {
    send_bytes(writer, writer->buffer, writer->used);
    writer->used = 0;
}

static void release(lr__writer *writer) {
    if (!writer) return;
    if (writer->fd >= 0) close(writer->fd);
    lr__free(writer->path);
    lr__free(writer->buffer);
    lr__free(writer);
}

lr_status lr__writer_open(lr__writer **out, const char *path) {
    lr__writer *writer = NULL;
    lr_status status;
    *out = NULL;
    LR_TRY(lr__new(&writer, 1, sizeof *writer));
    writer->fd = -1;
    LR_TRY(lr__dup(&writer->path, path));
    LR_TRY(lr__new(&writer->buffer, BUFFER_BYTES, 1));
    writer->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
    if (writer->fd < 0) {
        status = lr__fail_errno(path, "create");
        goto done;
    }
    *out = writer;
    writer = NULL;
done:
    release(writer);
    return status;
}

void lr__writer_put(lr__writer *writer, const void *data, size_t bytes) {
    if (writer->failure || bytes == 0) return;
    if (bytes > BUFFER_BYTES - writer->used) flush(writer);
    if (bytes >= BUFFER_BYTES) {
        send_bytes(writer, data, bytes);
        return;
    }
    memcpy(writer->buffer + writer->used, data, bytes);
    writer->used += bytes;
}

lr_status lr__writer_check(const lr__writer *writer) {
    if (!writer->failure) return LR_OK;
    return lr__fail(LR_E_IO, "%s: cannot write: %s", writer->path, strerror(writer->failure));
}

/* Pipes and devices have nothing to sync. */
static int sync_is_refused(int code) { return code == EINVAL || code == ENOTSUP || code == EROFS; }

lr_status lr__writer_close(lr__writer *writer) {
    flush(writer);
    if (!writer->failure && fsync(writer->fd) && !sync_is_refused(errno)) writer->failure = errno;
    if (close(writer->fd) && !writer->failure && errno != EINTR) writer->failure = errno;
    writer->fd = -1;
    lr_status status = lr__writer_check(writer);
    release(writer);
    return status;
}

void lr__writer_abandon(lr__writer *writer) { release(writer); }
