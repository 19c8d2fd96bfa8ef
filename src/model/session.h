/* Sessions: rows with caches, and one step of work over them. */
#ifndef LR_MODEL_SESSION_H
#define LR_MODEL_SESSION_H

#include "model/hooks.h"
#include "model/model.h"
#include "nn/derived.h"

#include <lowrank/session.h>

typedef struct lr__row {
    int32_t length;
    float *keys, *values; /* [layers, positions, key_value_heads * head_size]; NULL until used */
} lr__row;

typedef struct lr__extent_rule {
    char *pattern;
    int64_t extent;
} lr__extent_rule;

struct lr_session {
    lr_model *model;
    lr_session_opts opts;
    lr__row *rows;
    lr__arena arena;
    lr__watch watch;
    lr__extent_rule *rules;
    size_t rule_count, rule_capacity;
    lr__extents extents; /* the rules, resolved for this version of the graph */
    int64_t extents_version;
    lr__derived derived; /* of this version of the graph */
    int64_t derived_version;
    float *frequencies;
    int64_t step;
    double seconds; /* of forwards, heads included */
    int32_t is_running;
};

/* Of a clock that only goes forward. */
double lr__seconds(void);

/* What the activations of one token take in a batch step. */
uint64_t lr__token_bytes(const lr_model *model);

/* One step: tokens of all segments in a row, and the hidden states they end in. Lives in the
 * session's arena until lr__step_end. */
typedef struct lr__step {
    lr_session *session;
    lr__graph *graph;
    const lr_segment *segments;
    int32_t count;
    int64_t tokens;
    int32_t *ids, *positions;
    float *hidden;      /* [tokens, hidden_size], after the final norm */
    int64_t head_input; /* its input id */
    lr__evaluation evaluation;
    lr__arena_mark mark;
    int32_t hook_kind; /* LR_HOOK_CHANGES while a forward is recomputed, else 0 */
} lr__step;

/* Extents of the named axes of this version of the graph, from the session's rules. */
lr_status lr__session_resolve_extents(lr_session *session, const lr__graph *graph);

/* Derived parameters of this version of the graph. */
lr_status lr__session_resolve_derived(lr_session *session, const lr__graph *graph);

/* A step of no work yet; step->session is NULL afterwards when there is none to end. */
lr_status lr__step_begin(lr__step *step, lr_session *session, const lr_segment *segments,
                         int32_t count);
/* Checks the segments and runs all blocks and the final norm. */
lr_status lr__step_run(lr__step *step, lr_session *session, const lr_segment *segments,
                       int32_t count);
/* Rows of a step that the head reads, with the tokens they belong to. */
typedef struct lr__head_rows {
    float *hidden;
    int32_t *ids, *positions;
    int64_t count;
} lr__head_rows;

lr__head_rows lr__step_all(const lr__step *step);
/* The last token of each segment; when `scored`, all the others. */
lr_status lr__step_pick(const lr__step *step, int32_t scored, lr__head_rows *rows);
/* The head with its hooks. */
lr_status lr__step_logits(lr__step *step, const lr__head_rows *rows, float *logits);
/* Calls the hooks of the head; logits may be NULL. */
lr_status lr__step_head_hooks(lr__step *step, int32_t event, const lr__head_rows *rows,
                              float *logits);
/* `accept`: rows keep their new tokens. */
void lr__step_end(lr__step *step, int32_t accept);

/* Per scored token of a step: what the head says about the next token. */
typedef struct lr__score {
    double nll;     /* -log p(next) */
    double kl;      /* KL(reference || model); with a reference only */
    int32_t agrees; /* equal argmax; with a reference only */
    int32_t reserved;
} lr__score;

/* Scores all but the last token of each segment; `reference` is the same step of another model
 * or NULL. Logits exist for a tile at a time only. */
lr_status lr__step_score(lr__step *step, lr__step *reference, lr__score *scores);

#endif
