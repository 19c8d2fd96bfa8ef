/* The blocks of a step, between its tokens and its final norm. */
#ifndef LR_MODEL_FORWARD_H
#define LR_MODEL_FORWARD_H

#include "model/session.h"
#include "nn/attention.h"

typedef struct lr__activations {
    float *x;                   /* residual stream [tokens, hidden] */
    float *normed, *mlp_normed; /* [tokens, hidden]; one array unless kept */
    float *q, *k, *v, *mixed;   /* attention */
    float *gate, *up, *act;     /* MLP; act is up unless kept */
    float *out;                 /* what a block adds to the stream */
    float *cosine, *sine;
    float *norm_weight;
    lr__attention_span *spans;
} lr__activations;

/* What the backward pass of a block reads, in the session's arena. */
typedef struct lr__block_tape {
    float *x, *middle;                          /* the stream before attention, before the MLP */
    float *raw_q, *raw_k;                       /* before the norms of heads, where there are any */
    lr__activations a;                          /* of this block alone */
    lr__linear_tape *groups[LR__BLOCK_LINEARS]; /* by the first linear of a group */
} lr__block_tape;

typedef struct lr__forward {
    lr__step *step;
    lr_session *session;
    const lr__config *config;
    lr__activations a;
    int64_t q_size, kv_size;
    lr__block_tape *tape; /* NULL: nothing is kept */
} lr__forward;

lr_status lr__forward_begin(lr__forward *r, lr__step *step);
lr_status lr__forward_activations(lr__forward *r);
/* The rows of the embedding become the stream. */
void lr__forward_embed(lr__forward *r);
/* One block on the stream, with the hooks that step->hook_kind leaves. */
lr_status lr__forward_block(lr__forward *r, int32_t layer);
/* The same; `tape` and what it points to are taken from the session's arena and stay. */
lr_status lr__forward_block_kept(lr__forward *r, int32_t layer, lr__block_tape *tape);
/* Attention of a block over the activations, without its spans' derivatives. */
lr__attention lr__forward_attention(lr__forward *r, int32_t layer);
/* Neurons in use. */
int64_t lr__forward_cut(const lr__forward *r, int32_t layer);

/* Blocks first .. last - 1 on the stream; `x` is what enters block `first`, NULL: the embedding. */
lr_status lr__forward_blocks(lr__forward *r, int32_t first, int32_t last, const float *x);
/* RMSNorm of all tokens. */
void lr__forward_norm(lr__forward *r, const lr__param *weight, const float *from, float *to);

/* Unique in the process, so that observers of several sessions never confuse inputs. */
int64_t lr__next_input_id(void);
lr_tensor lr__step_view(const float *data, int64_t tokens, int64_t width);
/* Completes the event; its tokens are the step's unless it brings its own. */
lr_status lr__step_hooks(lr__step *step, int32_t target, const lr_hook_event *given);

#endif
