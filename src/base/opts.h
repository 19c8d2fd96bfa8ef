/* Sized option structs: see include/lowrank/base.h. */
#ifndef LR_BASE_OPTS_H
#define LR_BASE_OPTS_H

#include "base/status.h"

/* `local` holds the defaults and its own size first; what the caller set replaces them. A caller
 * of an older library sends a shorter struct; one of a newer library a longer one, whose unknown
 * tail must be zero. */
lr_status lr__opts_merge(void *local, size_t local_size, const void *given, const char *type);

/* Writes the first min(size, local_size) bytes of the defaults, zeroes the rest, sets the size. */
void lr__opts_defaults(void *out, size_t size, const void *defaults, size_t defaults_size);

#endif
