/* What run/refine.c and run/refine_block.c share: one run of lr_refine(). */
#ifndef LR_RUN_REFINE_H
#define LR_RUN_REFINE_H

#include "base/spill.h"
#include "model/session.h"

#include <lowrank/refine.h>

enum { LR__REFINE_DEPTHS = 2 }; /* blocks whose output may be compared at a time */

typedef struct lr__refining lr__refining;

/* What leaves a block, and what should. */
typedef struct lr__comparison {
    const lr__refining *r;
    float *target, *slope; /* [a step's tokens, hidden]; slope is of the loss */
    double weight;         /* of the loss */
    double scale;          /* of the derivative of one token's loss, 0: it is not wanted */
    double loss;           /* its sum over tokens, weighted */
    int32_t hooks[2];      /* registered now, 0: none */
} lr__comparison;

struct lr__refining {
    lr_refine_opts opts;
    const lr_model *teacher;
    lr_model *draft; /* a clone of the student, which learns */
    const int32_t *ids;
    int64_t windows, learnt; /* in all, and those before the ones held out */
    int32_t layers, layer;
    int32_t kept; /* the last block whose state lies in the work folder, -1: none */
    int64_t hidden;
    lr_hooks *hooks;
    lr_session *learner, *runner; /* of the draft, with hooks; of the teacher */
    lr_optimizer *optimizer;
    lr__spill *behind;                       /* what enters the block behind the refined blocks */
    lr__spill *dense[1 + LR__REFINE_DEPTHS]; /* what enters it in the dense model, and what leaves
                                     it and the next one there; the last NULL without look-ahead */
    lr__comparison compared[LR__REFINE_DEPTHS];
    lr_segment *segments;
    float *x;       /* [a batch's tokens, hidden] */
    int64_t *order; /* of the windows that are learnt */
    int32_t depths; /* blocks whose output is compared now */
    int64_t done;   /* windows, in the unit of a forward through one block */
    lr_refine_event event;
};

size_t lr__refine_window_bytes(const lr__refining *r);
/* What a block takes at most, in the unit of `done`. */
int64_t lr__refine_work(const lr__refining *r);
/* Tells of so much more that is done. */
lr_status lr__refine_tell(lr__refining *r, int64_t windows);
/* Moves a stream of all windows through one block of a session's model. Tokens enter block 0. */
lr_status lr__refine_move(lr__refining *r, lr_session *session, int32_t layer,
                          const lr__spill *from, lr__spill *to);
/* Lets block r->layer learn, or takes up what an interrupted run left of it; *found is 0 when
 * nothing of it learns. */
lr_status lr__refine_block(lr__refining *r, int32_t *found);

#endif
