/* Statistics of derivatives, from backward passes of the next-token loss. */
#ifndef LR_RUN_LESSONS_H
#define LR_RUN_LESSONS_H

#include "compress/stats.h"

/* Runs windows forward and backward in sessions with `hooks`, to which it adds its own, and counts
 * the derivatives of each with `weight`. Nothing of the model changes. */
lr_status lr__lessons_count(lr_stats *stats, lr_hooks *hooks, const int32_t *ids, int64_t windows,
                            int32_t window, double weight);

#endif
