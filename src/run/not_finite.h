/* Where numbers stop being finite, looked for once something has failed. */
#ifndef LR_RUN_NOT_FINITE_H
#define LR_RUN_NOT_FINITE_H

#include <lowrank/session.h>

enum { LR__FOUND_ROOM = 160 };

/* Runs windows through the model again. `found` says whose input or output is the first that is not
 * finite, "the output of model.layers.3.mlp.up_proj"; empty: every block's are. */
lr_status lr__find_not_finite(const lr_model *model, const lr_segment *segments, int32_t count,
                              char found[LR__FOUND_ROOM]);

#endif
