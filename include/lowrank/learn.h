/**
 * @file learn.h
 * Backward passes: of a module for a host's own loss, and of a model for the loss of the next
 * token or a teacher's. Gradients are added to those an optimizer holds; what it does not train
 * costs nothing.
 */
#ifndef LOWRANK_LEARN_H
#define LOWRANK_LEARN_H

#include <lowrank/optimizer.h>
#include <lowrank/session.h>

LR_BEGIN

/**
 * Derivatives through Y = X W' + bias, from that of the loss by Y.
 * @param linear    any module
 * @param x         [rows, in], LR_F32, contiguous: what lr_linear_apply() was given
 * @param dy        [rows, out], LR_F32, contiguous
 * @param dx        [rows, in], LR_F32, contiguous, written; NULL: not wanted
 * @param optimizer gradients of the module's parameters that it trains are added to; NULL: dx alone
 */
LR_API lr_status lr_linear_backward(const lr_linear *linear, const lr_tensor *x,
                                    const lr_tensor *dy, lr_tensor *dx, lr_optimizer *optimizer);

/** Options of lr_session_learn(). */
typedef struct lr_learn_opts {
    size_t size;         /**< set by lr_learn_opts_init() */
    lr_session *teacher; /**< of a model with the same vocabulary, another session than the one that
                              learns; NULL (default): the next token alone */
    double alpha;        /**< share of the teacher in the loss, default 1: (1 - alpha) NLL +
                              alpha T^2 KL(teacher || model) (Hinton et al., arXiv 1503.02531) */
    double temperature;  /**< T, of both softmaxes of the divergence, default 1 */
    double scale;        /**< of the gradients, default 1: for accumulation over N calls, 1 / N */
    int32_t keeps_all;   /**< 1: all blocks keep their activations; 0 (default): each is computed
                              again from what entered it, for a third more work and a fraction of
                              the memory (Chen et al., arXiv 1604.06174) */
    int32_t reserved;    /**< 0 */
} lr_learn_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_learn_opts_init(lr_learn_opts *opts, size_t size);

/** Means over the scored tokens, in nats. */
typedef struct lr_learn_result {
    size_t size;       /**< of the caller's struct, set by it */
    int64_t scored;    /**< tokens: all but the first of each segment */
    double loss;       /**< what the gradients are of */
    double next_token; /**< -log p(next) */
    double divergence; /**< T^2 KL(teacher || model); 0 without a teacher */
} lr_learn_result;

/**
 * A forward and a backward pass over segments: gradients of the mean loss are added to those of the
 * optimizer. Hooks see both passes, but for those of "lm_head", which is part of the loss.
 * @param session   one of LR_STEP_BATCH and no_cache; likewise the teacher
 * @param segments  @p count of them, of two tokens or more in all
 * @param count     1 .. rows
 * @param optimizer of parameters of this model
 * @param opts      NULL: defaults
 * @param result    NULL: not wanted
 * @return LR_E_NUMERIC for a loss that is not finite, with row and position; gradients are then not
 *         to be used (lr_optimizer_zero())
 */
LR_API lr_status lr_session_learn(lr_session *session, const lr_segment *segments, int32_t count,
                                  lr_optimizer *optimizer, const lr_learn_opts *opts,
                                  lr_learn_result *result);

/**
 * A forward and a backward pass through blocks @p first to @p last - 1 alone, for losses that a
 * host puts behind blocks: hooks of LR_AFTER_FORWARD on a block see what leaves it, and hooks of
 * LR_BEFORE_BACKWARD | LR_HOOK_CHANGES add the derivative of their loss by it, which begins at zero
 * behind the last block. Gradients are added to those of the optimizer; all blocks keep their
 * activations. Without such hooks it is lr_session_blocks().
 * @param session   as in lr_session_learn()
 * @param segments  @p count of them
 * @param count     1 .. rows
 * @param first     0 .. last - 1
 * @param last      to the number of blocks
 * @param x         as in lr_session_blocks()
 * @param dx        [sum of counts, hidden_size], written: the derivative by what entered; NULL: not
 *                  wanted
 * @param optimizer of parameters of this model
 */
LR_API lr_status lr_session_learn_blocks(lr_session *session, const lr_segment *segments,
                                         int32_t count, int32_t first, int32_t last, float *x,
                                         float *dx, lr_optimizer *optimizer);

LR_END

#endif
