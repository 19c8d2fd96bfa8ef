/**
 * @file refine.h
 * Block refinement: each block of a compressed model learns to give what that block gives in the
 * dense model (Lillama, arXiv 2412.16719; AA-SVD, arXiv 2604.02119, section 3.3). One block is in
 * work at a time, so that memory is that of a block, and no logits are computed.
 */
#ifndef LOWRANK_REFINE_H
#define LOWRANK_REFINE_H

#include <lowrank/learn.h>

LR_BEGIN

/** What leaves a block is compared by, with y the student's and t the teacher's stream of a token;
 *  the loss is the mean over tokens. */
enum {
    LR_STREAM_RELATIVE = 0, /**< |y - t|^2 / |t|^2: tokens that gather attention, whose streams are
                                 hundreds of times larger, do not outweigh all others */
    LR_STREAM_SQUARES = 1,  /**< |y - t|^2 / hidden_size (AA-SVD) */
    LR_STREAM_COSINE = 2    /**< sum |y - t| / hidden_size - log sigmoid(cos(y, t)) (Lillama) */
};

/** Options of lr_refine(). */
typedef struct lr_refine_opts {
    size_t size;          /**< set by lr_refine_opts_init() */
    const char *pattern;  /**< of the parameters that learn, by their names within a block, such as
                               "mlp.*"; default "*": factors, matrices left dense and the gains
                               of norms */
    int32_t epochs;       /**< passes over the windows for each block; default 2 */
    int32_t batch;        /**< windows of a step; default 4 */
    int32_t window;       /**< tokens of a window; default 256 */
    int32_t loss;         /**< LR_STREAM_RELATIVE (default), LR_STREAM_SQUARES or
                               LR_STREAM_COSINE */
    double learning_rate; /**< of AdamW at its height, behind a tenth of the steps, from where it
                               follows a cosine to a tenth of itself; default 2e-4 */
    double weight_decay;  /**< default 0 */
    double clip;          /**< most that the norm of a block's gradients may be; default 1 */
    double dense_inputs;  /**< share of the loss on what enters the block in the dense model; the
                               rest is on what leaves the refined blocks below. Lillama has 0.5,
                               for twice the work of 0 and 1; default 0 */
    double look_ahead;    /**< weight of the same loss behind the next block, as it was given;
                               default 0 */
    double held_out;      /**< share of the windows, the last ones, that judge and are not learnt
                               from; the best state in their loss is kept; default 0.1 */
    int32_t patience;     /**< epochs without a better one behind which a block is finished;
                               0 (default): never */
    int32_t reserved;     /**< 0 */
    uint64_t seed;        /**< of the order of windows */
    const char *work;     /**< folder that exists: a finished block is kept there, as
                               lr_optimizer_save() writes it to block-N.safetensors, and a run
                               that was interrupted goes on behind the last of them, to the same
                               bits. It belongs to this run alone and the caller removes it; NULL
                               (default): none */
} lr_refine_opts;

/** Writes the defaults, which suit a processor; @p size is `sizeof *opts`. */
LR_API void lr_refine_opts_init(lr_refine_opts *opts, size_t size);

/** Sets the members that are a question of means: "cpu", the defaults; "gpu", AA-SVD's setting with
 *  both inputs: 25 epochs of 32 windows a step, rate 1e-4, decay 0.01, look-ahead. */
LR_API lr_status lr_refine_opts_preset(lr_refine_opts *opts, const char *name);

/** What became of one block. */
typedef struct lr_refine_event {
    size_t size;    /**< bytes the library filled */
    int32_t layer;  /**< index of the block */
    int32_t epochs; /**< run; 0 for a block that an interrupted run had finished */
    int64_t steps;  /**< of the optimizer */
    double before;  /**< loss on the windows held out, or on all where none is */
    double after;   /**< the same, of the state that is kept; at most `before` */
    double seconds; /**< of the block */
} lr_refine_event;

/** Called behind each block on the calling thread; non-zero stops with #LR_E_CANCELLED. */
typedef int32_t (*lr_refine_fn)(const lr_refine_event *event, void *user);

/**
 * Refines all blocks, from the first to the last. What learns becomes binary32.
 * @param student the compressed model; on any error it is as before
 * @param teacher the dense model: as many blocks of the same hidden size
 * @param ids     @p count token ids of the text to learn on
 * @param count   at least a window, and one more where some are held out
 * @param opts    NULL: defaults
 * @param fn      NULL: none
 * @param user    given to fn
 * @return LR_E_NUMERIC with block and step for a loss that is not finite
 */
LR_API lr_status lr_refine(lr_model *student, const lr_model *teacher, const int32_t *ids,
                           size_t count, const lr_refine_opts *opts, lr_refine_fn fn, void *user);

LR_END

#endif
