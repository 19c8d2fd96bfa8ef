/* A file of the command's own that appears whole or not at all. */
#ifndef LR_CLI_STAGED_H
#define LR_CLI_STAGED_H

#include "cli/report.h"

#include <stdio.h>

typedef struct staged_file {
    const char *path; /* the target, kept as a pointer */
    char *staging;    /* ".NAME.lowrank-XXXXXX" beside it; NULL once it is in place */
    FILE *out;
    int32_t force;
} staged_file;

/* Opens a fresh sibling of `path` for writing. */
int staged_begin(staged_file *file, const char *path, int32_t force);
/* Syncs what was written and puts it in place; an existing target is refused unless `force`. */
int staged_commit(staged_file *file);
/* Removes what was not put in place; harmless on a zeroed struct. */
void staged_end(staged_file *file);

#endif
