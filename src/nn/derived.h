/*
 * Derived parameters of a module or a graph: refreshed before a forward, and in a backward pass
 * given gradients that their producers hand on to the sources.
 */
#ifndef LR_NN_DERIVED_H
#define LR_NN_DERIVED_H

#include "nn/linear.h"

/* Each once, behind its sources; those that only others derive from too. They are not kept. */
typedef struct lr__derived {
    lr__param **items;
    size_t count, capacity;
} lr__derived;

/* What is stored adds nothing. */
lr_status lr__derived_add(lr__derived *derived, lr__param *param);
lr_status lr__derived_add_linear(lr__derived *derived, const lr_linear *linear);
void lr__derived_clear(lr__derived *derived);

lr_status lr__derived_refresh(const lr__derived *derived, int64_t step);
/* Outside of a session: each for the step its values are of, so that they follow their sources. */
lr_status lr__derived_follow(const lr__derived *derived);
lr_status lr__linear_follow(const lr_linear *linear);
lr_status lr__param_follow(const lr__param *param); /* NULL: nothing */

/* A backward pass. */
typedef struct lr__derived_pass {
    lr__gradients gradients; /* what the pass is given: the caller's and those of `wanted` */
    const lr__gradients *given;
    lr__param **wanted; /* derived from something that is trained, in the order of the list */
    size_t count;
    float **by_source; /* room for the gradients of the most sources */
} lr__derived_pass;

/* Arrays lie in the arena until the pass has ended; where nothing is wanted there are none. */
lr_status lr__derived_begin(lr__derived_pass *pass, const lr__derived *derived,
                            const lr__gradients *given, lr__arena *arena);
/* Hands each gradient on, once, to the sources. After an error of the pass it is left out. */
lr_status lr__derived_end(const lr__derived_pass *pass);

#endif
