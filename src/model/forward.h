/* The blocks of a step, between its tokens and its final norm. */
#ifndef LR_MODEL_FORWARD_H
#define LR_MODEL_FORWARD_H

#include "model/session.h"
#include "nn/attention.h"

typedef struct lr__activations {
    float *x;                 /* residual stream [tokens, hidden] */
    float *normed;            /* [tokens, hidden] */
    float *q, *k, *v, *mixed; /* attention */
    float *gate, *up;         /* MLP */
    float *out;               /* what a block adds to the stream */
    float *cosine, *sine;
    float *norm_weight;
    lr__attention_span *spans;
} lr__activations;

typedef struct lr__forward {
    lr__step *step;
    lr_session *session;
    const lr__config *config;
    lr__activations a;
    int64_t q_size, kv_size;
} lr__forward;

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
