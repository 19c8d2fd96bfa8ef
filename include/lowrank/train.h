/**
 * @file train.h
 * Training over token ids: windows drawn at random, by the loss of the next token or of a teacher's
 * predictions and hidden states.
 */
#ifndef LOWRANK_TRAIN_H
#define LOWRANK_TRAIN_H

#include <lowrank/learn.h>

LR_BEGIN

/** Options of lr_train(). */
typedef struct lr_train_opts {
    size_t size;              /**< set by lr_train_opts_init() */
    int64_t steps;            /**< of the optimizer in all, those before a resumed run too;
                                   default 100 */
    int32_t batch;            /**< windows of a step; default 4 */
    int32_t window;           /**< tokens of a window; default 256 */
    int32_t at_once;          /**< windows of one pass, the others of a step follow and add up;
                                   default 0: as many as a pass of 1,024 tokens holds */
    int32_t keeps_all;        /**< as lr_learn_opts::keeps_all */
    uint64_t seed;            /**< of the windows: those of step s depend on the seed and s alone */
    const lr_model *teacher;  /**< NULL (default): the next token alone */
    double alpha;             /**< as lr_learn_opts::alpha */
    double temperature;       /**< as lr_learn_opts::temperature */
    const char *checkpoint;   /**< file of lr_optimizer_save(), written every so many steps, once
                                   the loss on the windows of the step after is known to be finite,
                                   at the end, and where the function of lr_train() cancels (the
                                   context's progress leaves the last that was due); when it exists,
                                   training goes on from it, bit for bit as if it had never stopped;
                                   NULL: none */
    int64_t checkpoint_every; /**< steps; default 50 */
    double hidden;            /**< adds so much of the loss of hidden states: the mean over blocks
                                   and tokens of |x - t|^2 / |t|^2, with x what leaves a block of
                                   the model and t what leaves the same one of the teacher (FitNets,
                                   arXiv 1412.6550). Default 0: none. It takes blocks * tokens of a
                                   pass * hidden_size * 4 bytes */
} lr_train_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_train_opts_init(lr_train_opts *opts, size_t size);

/** What a step did. */
typedef struct lr_train_event {
    size_t size;          /**< bytes the library filled */
    int64_t step;         /**< 1 for the first */
    double loss;          /**< before the step, on its own windows */
    double next_token;    /**< of it, -log p(next) */
    double divergence;    /**< of it, T^2 KL(teacher || model) */
    double norm;          /**< of the gradients, before clipping */
    double learning_rate; /**< of the optimizer, at this step */
    double seconds;       /**< of the step */
    int64_t tokens;       /**< of the step, context included */
    double hidden;        /**< loss of hidden states, before its weight; 0 without */
} lr_train_event;

/** Called behind each step and before its checkpoint, on the calling thread, so that what a host
 *  keeps of the steps is never behind; it may run the model and save the optimizer. Non-zero stops
 *  with #LR_E_CANCELLED. */
typedef int32_t (*lr_train_fn)(const lr_train_event *event, void *user);

/**
 * Trains what @p optimizer trains of @p model.
 * @param model     the model
 * @param optimizer of some of its parameters
 * @param ids       @p count token ids
 * @param count     at least a window
 * @param opts      NULL: defaults
 * @param fn        NULL: none
 * @param user      given to fn
 * @return LR_E_SHAPE for opts->hidden and a teacher of another width or number of blocks;
 *         LR_E_NUMERIC for a loss or gradient that is not finite, with the step, the lowest module
 *         whose numbers are not finite and the last checkpoint, which is untouched; the parameters
 *         are those of the step before, or beyond binary32 where the step itself took them there
 */
LR_API lr_status lr_train(lr_model *model, lr_optimizer *optimizer, const int32_t *ids,
                          size_t count, const lr_train_opts *opts, lr_train_fn fn, void *user);

LR_END

#endif
