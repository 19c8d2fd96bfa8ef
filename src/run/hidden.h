/* The loss of hidden states: what leaves each block of a model against what leaves the same block
 * of its teacher. */
#ifndef LR_RUN_HIDDEN_H
#define LR_RUN_HIDDEN_H

#include <lowrank/session.h>

typedef struct lr__hidden lr__hidden;

/* For passes of at most `tokens`. LR_E_SHAPE for a teacher of another width or depth. */
lr_status lr__hidden_new(lr__hidden **out, const lr_model *model, const lr_model *teacher,
                         int64_t tokens);
void lr__hidden_free(lr__hidden *hidden);

/* What the teacher's session is made with, and the model's; borrowed. NULL gives NULL. */
lr_hooks *lr__hidden_teacher_hooks(const lr__hidden *hidden);
lr_hooks *lr__hidden_model_hooks(const lr__hidden *hidden);

/* Before a pass, in which the teacher runs first: `weight` of the loss in the gradients. */
void lr__hidden_begin(lr__hidden *hidden, double weight);
/* Behind it: mean over blocks and tokens of |x - t|^2 / |t|^2, t the teacher's. */
double lr__hidden_loss(const lr__hidden *hidden);

#endif
