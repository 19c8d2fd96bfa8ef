/* A linear module as the head of a loss: lr__loss_head_logits and lr__loss_head_dlogits are
 * callbacks of lr__loss, for the student and, the first one, for a teacher. */
#ifndef LR_NN_LOSS_HEAD_H
#define LR_NN_LOSS_HEAD_H

#include "nn/linear.h"

typedef struct lr__loss_head {
    const lr__evaluation *e; /* its arena is the one of the loss */
    const lr_linear *head;
    const float *hidden;            /* [tokens, head->in] */
    float *dhidden;                 /* added to; NULL: not wanted */
    const lr__gradients *gradients; /* added to; NULL: logits only; empty: frozen */
    lr__linear_tape *tape;          /* of the chunk in work */
} lr__loss_head;

lr_status lr__loss_head_logits(int64_t first, int64_t rows, float *logits, void *head);
lr_status lr__loss_head_dlogits(int64_t first, int64_t rows, const float *dlogits, void *head);

#endif
