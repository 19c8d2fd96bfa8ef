/**
 * @file session.h
 * Rows are the form of all work: a session holds rows, each with its own position, length and
 * cache. Prefill, decoding, batched sampling and perplexity are the same call.
 */
#ifndef LOWRANK_SESSION_H
#define LOWRANK_SESSION_H

#include <lowrank/hooks.h>
#include <lowrank/model.h>

LR_BEGIN

/** A session, opaque: caches and activations of one stream of work. One thread at a time. */
typedef struct lr_session lr_session;

/** Kinds of step. */
enum {
    LR_STEP_ROWS = 0, /**< row-invariant kernel: the bits of a row never depend on its neighbours,
                           nor on how its tokens are cut into steps */
    LR_STEP_BATCH = 1 /**< library GEMM: fastest for many tokens (perplexity, statistics) */
};

/** Options of a session. */
typedef struct lr_session_opts {
    size_t size;       /**< set by lr_session_opts_init() */
    int32_t rows;      /**< independent rows; default 1 */
    int32_t positions; /**< most tokens of a row; default: the model's context length */
    int32_t kind;      /**< LR_STEP_ROWS (default) or LR_STEP_BATCH */
    int32_t no_cache;  /**< 1: every segment begins at position 0 and nothing is kept */
    lr_hooks *hooks;   /**< borrowed until the session is freed; NULL: none */
} lr_session_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_session_opts_init(lr_session_opts *opts, size_t size);

/** Makes a session. @param out owned @param model kept alive @param opts NULL: defaults */
LR_API lr_status lr_session_new(lr_session **out, const lr_model *model,
                                const lr_session_opts *opts);

/** Frees a session. */
LR_API void lr_session_free(lr_session *session);

/** Tokens to append to one row. */
typedef struct lr_segment {
    int32_t row;           /**< which row; at most one segment for each row in a step */
    int32_t count;         /**< tokens, at least 1 */
    const int32_t *tokens; /**< ids, borrowed during the call */
} lr_segment;

/**
 * Runs the model over the segments and returns the logits of the last token of each.
 * @param session  the session
 * @param segments @p count of them
 * @param count    1 .. rows
 * @param logits   room for count * vocabulary_size numbers, one row for each segment; NULL: none
 * @return LR_E_INVALID for a token or row out of range or a row that would exceed its positions;
 *         LR_E_NUMERIC when logits are not finite; rows are then as before the call
 */
LR_API lr_status lr_session_forward(lr_session *session, const lr_segment *segments, int32_t count,
                                    float *logits);

/** As lr_session_forward(), with the logits of every token: sum of counts * vocabulary_size. */
LR_API lr_status lr_session_forward_all(lr_session *session, const lr_segment *segments,
                                        int32_t count, float *logits);

/**
 * Next-token losses without ever holding all logits: nll[i] = -log p(token i + 1 of the segment)
 * in nats, for all but the last token of each segment.
 * @param session  the session
 * @param segments @p count of them
 * @param count    1 .. rows
 * @param nll      room for (sum of counts - count) numbers, segment after segment
 * @return LR_E_NUMERIC for a loss that is not finite, with row and position
 */
LR_API lr_status lr_session_loss(lr_session *session, const lr_segment *segments, int32_t count,
                                 double *nll);

/**
 * Runs blocks @p first to @p last - 1 alone, on rows of the residual stream: whoever works block by
 * block keeps the stream and never runs what lies before. Hooks of these blocks are called as in a
 * forward, and one that returns a negative status ends the call where it stands.
 * @param session  one of no_cache
 * @param segments @p count of them, as in a forward; hooks are told their tokens
 * @param count    1 .. rows
 * @param first    0 .. number of blocks
 * @param last     @p first .. number of blocks
 * @param x        [sum of counts, hidden_size]: what enters block @p first, replaced by what leaves
 *                 block @p last - 1. With @p first 0 the tokens' embeddings enter, and it is only
 *                 written; with @p last 0 as well they are all that is written. After an error it
 *                 is as before
 */
LR_API lr_status lr_session_blocks(lr_session *session, const lr_segment *segments, int32_t count,
                                   int32_t first, int32_t last, float *x);

/** Forgets the last tokens of a row, down to @p length. */
LR_API lr_status lr_session_truncate(lr_session *session, int32_t row, int32_t length);

/** Tokens a row holds. */
LR_API int32_t lr_session_length(const lr_session *session, int32_t row);

/**
 * Sets how far a named axis reaches in this session, from the next forward on:
 * "model.layers.3.intermediate" (neurons of the MLP), or "<module>.rank" of a factorised module.
 * Narrower is a prefix of the stored order.
 * @param session the session
 * @param pattern of axis names
 * @param extent  1 .. the axis's size; 0 restores the full size
 * @return LR_E_NOTFOUND when no axis matches
 */
LR_API lr_status lr_session_set_extent(lr_session *session, const char *pattern, int64_t extent);

LR_END

#endif
