/* Arrays in memory or in nameless files. */
#include "base/spill.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct lr__spill {
    size_t bytes;
    unsigned char *memory; /* NULL: in the file */
    char *folder;          /* for messages */
    int fd;
};

/* Not every file system makes files without a name. */
static lr_status open_nameless(lr__spill *spill) {
    char *path = NULL;
    lr_status status = LR_OK;
    spill->fd = open(spill->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (spill->fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) goto done;
    LR_TRY(lr__path_join(&path, spill->folder, ".lowrank-XXXXXX"));
    spill->fd = mkostemp(path, O_CLOEXEC);
    if (spill->fd >= 0) unlink(path);
done:
    if (status >= 0 && spill->fd < 0) status = lr__fail_errno(spill->folder, "make a file in");
    lr__free(path);
    return status;
}

static lr_status take_room(const lr__spill *spill) {
    int code;
    do code = posix_fallocate(spill->fd, 0, (off_t)spill->bytes);
    while (code == EINTR);
    if (!code) return LR_OK;
    return lr__fail(LR_E_IO, "%s: no room for %zu bytes: %s", spill->folder, spill->bytes,
                    strerror(code));
}

lr_status lr__spill_new(lr__spill **out, size_t bytes, const char *folder) {
    lr_status status = LR_OK;
    lr__spill *spill = NULL;
    *out = NULL;
    LR_TRY(lr__new(&spill, 1, sizeof *spill));
    spill->fd = -1;
    spill->bytes = bytes ? bytes : 1;
    if (folder) {
        LR_TRY(lr__dup(&spill->folder, folder));
        LR_TRY(open_nameless(spill));
        LR_TRY(take_room(spill));
    } else {
        LR_TRY(lr__new_aligned(&spill->memory, spill->bytes, 1));
    }
    *out = spill;
    spill = NULL;
done:
    lr__spill_free(spill);
    return status;
}

void lr__spill_free(lr__spill *spill) {
    if (!spill) return;
    if (spill->fd >= 0) close(spill->fd);
    lr__aligned_free(spill->memory);
    lr__free(spill->folder);
    lr__free(spill);
}

static lr_status check_range(const lr__spill *spill, size_t at, size_t bytes) {
    if (at <= spill->bytes && bytes <= spill->bytes - at) return LR_OK;
    return lr__fail(LR_E_INVALID, "bytes %zu to %zu of an array of %zu", at, at + bytes,
                    spill->bytes);
}

lr_status lr__spill_write(lr__spill *spill, size_t at, const void *data, size_t bytes) {
    lr_status status = check_range(spill, at, bytes);
    if (status < 0) return status;
    if (spill->memory) {
        memcpy(spill->memory + at, data, bytes);
        return LR_OK;
    }
    for (size_t done = 0; done < bytes;) {
        ssize_t put =
            pwrite(spill->fd, (const char *)data + done, bytes - done, (off_t)(at + done));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return lr__fail_errno(spill->folder, "write to a file in");
        done += (size_t)put;
    }
    return LR_OK;
}

lr_status lr__spill_read(const lr__spill *spill, size_t at, void *data, size_t bytes) {
    lr_status status = check_range(spill, at, bytes);
    if (status < 0) return status;
    if (spill->memory) {
        memcpy(data, spill->memory + at, bytes);
        return LR_OK;
    }
    for (size_t done = 0; done < bytes;) {
        ssize_t got = pread(spill->fd, (char *)data + done, bytes - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) return lr__fail(LR_E_IO, "%s: a file in it ended early", spill->folder);
        if (got < 0) return lr__fail_errno(spill->folder, "read from a file in");
        done += (size_t)got;
    }
    return LR_OK;
}
