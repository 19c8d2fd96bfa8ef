/* Bytes that may be more than memory is to hold: an array in memory, or in a file without a name
 * that is gone when it is closed. */
#ifndef LR_BASE_SPILL_H
#define LR_BASE_SPILL_H

#include "base/mem.h"

typedef struct lr__spill lr__spill;

/* `folder` NULL keeps them in memory; else they go to a file in it, whose room on the disk is taken
 * at once, so that a full one is refused here. Contents are undefined until written. */
lr_status lr__spill_new(lr__spill **out, size_t bytes, const char *folder);
void lr__spill_free(lr__spill *spill);
/* [at, at + bytes) must lie inside. */
lr_status lr__spill_write(lr__spill *spill, size_t at, const void *data, size_t bytes);
lr_status lr__spill_read(const lr__spill *spill, size_t at, void *data, size_t bytes);

#endif
