/* What lr_compress() and lr_compress_texts() share. */
#ifndef LR_COMPRESS_COMPRESS_H
#define LR_COMPRESS_COMPRESS_H

#include <lowrank/compress.h>

/* LR__FACTOR_... and LR__GRADIENTS_... of a name. */
lr_status lr__compress_method(const char *name, int32_t *method, int32_t *gradients);
/* At most what factorising item `which` of a plan takes beside its statistics, together with those
 * that share with it; factors included. */
uint64_t lr__compress_bytes(const lr_plan *plan, int32_t which);
/* lr_compress() as a part of a longer run that reports progress itself, on no more matrices at once
 * than `memory` holds, 0: any number. */
lr_status lr__compress_part(lr_model *model, const lr_plan *plan, const lr_stats *stats,
                            const lr_compress_opts *opts, uint64_t memory, lr_compress_fn fn,
                            void *user);

#endif
