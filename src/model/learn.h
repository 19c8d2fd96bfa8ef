/* A forward and a backward pass of a session: losses, and gradients of what is trained. */
#ifndef LR_MODEL_LEARN_H
#define LR_MODEL_LEARN_H

#include "model/session.h"
#include "nn/loss.h"

typedef struct lr__lesson {
    const lr__gradients *gradients; /* added to */
    lr_session *teacher;            /* of the same tokens; NULL: next-token loss alone */
    double alpha, temperature;      /* as in lr__loss */
    double scale;                   /* of the derivatives, on top of the mean over scored tokens */
    int32_t keeps_all;              /* blocks keep their activations; else they are recomputed from
                                       what entered them */
} lr__lesson;

/* The session is one of LR_STEP_BATCH and no_cache; so is the teacher. Every token but the last of
 * its segment is scored. After an error gradients are not to be used. */
lr_status lr__session_learn(lr_session *session, const lr_segment *segments, int32_t count,
                            const lr__lesson *lesson, lr__loss_sums *sums);

/* Blocks alone. */
typedef struct lr__block_lesson {
    const lr__gradients *gradients; /* added to */
    int32_t first, last;            /* blocks first .. last - 1 */
    float *x, *dx;                  /* as in lr_session_learn_blocks() */
} lr__block_lesson;

lr_status lr__session_learn_blocks(lr_session *session, const lr_segment *segments, int32_t count,
                                   const lr__block_lesson *lesson);

#endif
