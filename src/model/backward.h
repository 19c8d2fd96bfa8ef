/* The backward pass of blocks whose forward was kept. */
#ifndef LR_MODEL_BACKWARD_H
#define LR_MODEL_BACKWARD_H

#include "model/forward.h"

typedef struct lr__backward {
    lr__forward *r;
    const lr__gradients *gradients;
    float *dx;   /* [tokens, hidden]: derivative by the stream, behind the block, then before it */
    float *dout; /* [tokens, hidden]: by what the block's end modules give, a hook may change it */
    float *dq, *dk, *dv, *dmixed, *dgate, *dup, *dact, *dnormed, *minus_sine;
} lr__backward;

lr_status lr__backward_new(lr__backward *b, lr__forward *r, const lr__gradients *gradients);
/* `goes_on`: something below the block is trained, so dx before it is wanted; else the pass ends at
 * the lowest module of the block that has something trained. */
lr_status lr__backward_block(lr__backward *b, int32_t layer, lr__block_tape *tape, int goes_on);
/* RMSNorm of rows of `width`: dx is added to. */
lr_status lr__backward_norm(lr__backward *b, const lr__param *weight, int64_t rows, int64_t width,
                            const float *x, const float *dy, float *dx);
/* The rows of the embedding that were looked up. */
void lr__backward_embed(lr__backward *b);
/* The lowest block from `first` on that has something trained or lies above it, an embedding that
 * is trained lying below block 0; the number of blocks when there is none. */
int32_t lr__backward_lowest(const lr__graph *graph, const lr__gradients *gradients, int32_t first);

#endif
