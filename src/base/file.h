/* Files: mapped for reading, written beside and renamed. */
#ifndef LR_BASE_FILE_H
#define LR_BASE_FILE_H

#include "base/mem.h"

/* "path: cannot action: " and the text of errno: LR_E_NOTFOUND for a missing file, LR_E_EXISTS,
 * LR_E_NOMEM, else LR_E_IO. */
lr_status lr__fail_errno(const char *path, const char *action);

/* A read-only file in memory, counted: whoever keeps a pointer into it keeps a reference. */
typedef struct lr__mapping {
    const unsigned char *data;
    size_t size;
    char *path;
    int32_t references; /* atomic */
    int32_t is_copy;    /* read into memory instead of mapped */
} lr__mapping;

/* `copy` reads the file instead: a file truncated while mapped would raise SIGBUS. An empty file is
 * LR_E_FORMAT; folders, pipes and devices are LR_E_IO. */
lr_status lr__mapping_open(lr__mapping **out, const char *path, int copy);
/* A 64-byte aligned copy of bytes that came from `path`. */
lr_status lr__mapping_copy(lr__mapping **out, const char *path, const void *data, size_t size);
lr__mapping *lr__mapping_keep(lr__mapping *mapping);
void lr__mapping_drop(lr__mapping *mapping);
/* Gives back the memory of bytes that are not read again soon; the next reader fetches them anew.
 */
void lr__mapping_release(const lr__mapping *mapping, const void *data, size_t bytes);

/* Whole file or pipe as a NUL-terminated string, at most `limit` bytes; freed by lr__free. */
lr_status lr__file_read(char **out, size_t *size, const char *path, size_t limit);

/* dir + "/" + name, freed by lr__free. */
lr_status lr__path_join(char **out, const char *dir, const char *name);
int lr__path_is_dir(const char *path);
int lr__path_exists(const char *path);

/* A buffered writer whose first failure is remembered and returned by close. */
typedef struct lr__writer lr__writer;
lr_status lr__writer_open(lr__writer **out, const char *path);
void lr__writer_put(lr__writer *writer, const void *data, size_t bytes);
/* The first failure so far, for a long run that should not go on writing to a full disk. */
lr_status lr__writer_check(const lr__writer *writer);
/* fsync and close; `writer` is gone afterwards, also after an error. */
lr_status lr__writer_close(lr__writer *writer);
void lr__writer_abandon(lr__writer *writer);

/* Writes a text or binary file in one go, synced. */
lr_status lr__file_write(const char *path, const void *data, size_t bytes);

/* An output that appears whole or not at all: work goes to `staging`, a fresh sibling of `target`
 * named ".NAME.lowrank-XXXXXX", and commit exchanges them. An existing target is refused unless
 * `force`; then a file replaces a file and a folder a folder, but never a device, nor a folder that
 * holds the working directory. Siblings of killed runs are left alone. */
typedef struct lr__output {
    char *target;
    char *staging;
    int32_t is_dir;
    int32_t force;
} lr__output;

/* Makes the empty file or folder `staging`, so that a place we may not write is refused early. */
lr_status lr__output_begin(lr__output *output, const char *target, int is_dir, int force);
/* Syncs everything staged, then puts it in place; an old target is removed afterwards. */
lr_status lr__output_commit(lr__output *output);
/* Removes what was staged; harmless after commit and on a zeroed struct. */
void lr__output_end(lr__output *output);

#endif
