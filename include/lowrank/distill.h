/**
 * @file distill.h
 * Low-rank feature mimicking: each factorised module is trained against its own layer, by hooks,
 * while the frozen model runs.
 *
 *     lr_model_clone(&student, teacher);
 *     lr_compress(student, plan, stats, NULL, NULL, NULL);              where they start
 *     lr_distill(student, teacher, "{q,o,gate}_proj", ids, count, NULL, NULL, NULL);
 */
#ifndef LOWRANK_DISTILL_H
#define LOWRANK_DISTILL_H

#include <lowrank/optimizer.h>

LR_BEGIN

/** Options of lr_distill(). */
typedef struct lr_distill_opts {
    size_t size;          /**< set by lr_distill_opts_init() */
    int64_t steps;        /**< calls of each module, each of them a step; default 100 */
    int32_t batch;        /**< windows of a call, 1 to 64, or as many as there are; default 4 */
    int32_t window;       /**< tokens of a window; default 256 */
    double learning_rate; /**< of AdamW; default 8.6e-5 */
    double weight_decay;  /**< decoupled; default 0.01 */
    double clip;          /**< most that the norm of a module's gradients may be, each module by
                               itself; 0: no limit; default 2 */
    const char *stream;   /**< what a module W~ with W the teacher's is trained on:
                               "teacher" (default): inputs x and outputs W x of the teacher, which
                               alone runs;
                               "shift": inputs z behind the student's own modules, and W z;
                               "anchored": inputs z, and the teacher's outputs W x on the same
                               tokens, so that each module makes up for errors of those before it */
    int32_t log_every;    /**< calls between events of a module, the first call is one; default 8 */
    int32_t check_every;  /**< steps between held-out losses; without held-out windows, how many
                               losses the running mean is of; default 10 */
    int32_t held_out;     /**< windows at the end of the ids that nothing is trained on; 0: none;
                               -1 (default): the last tenth */
    int32_t patience;     /**< a module stops when so many checks in a row brought no better value;
                               0 (default): never */
    uint64_t seed;        /**< of the order of the windows */
    const char *folder;   /**< where `<module>.losses`, the losses of all its calls, separated by
                               newlines, and `<module>.safetensors`, as lr_linear_save() writes
                               it, go in the end; made where it is missing; NULL (default): none */
    const char *checkpoint;   /**< file written every so many steps and at the end; when it exists,
                                   the distillation goes on from it, bit for bit as if it had never
                                   stopped, in a call that is the same in all else; NULL (default):
                                   none. It takes 16 bytes for each trained number */
    int64_t checkpoint_every; /**< steps; default 25 */
} lr_distill_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_distill_opts_init(lr_distill_opts *opts, size_t size);

/** How far a module has come. Losses are mean squared errors over tokens and outputs. */
typedef struct lr_distill_event {
    size_t size;          /**< bytes the library filled */
    const char *module;   /**< borrowed, as long as the student lives and keeps the module */
    int32_t index;        /**< 0 .. count - 1, in the order of computation */
    int32_t count;        /**< modules that are trained */
    int32_t is_last;      /**< 1: the last event of this module, which has its best values now */
    int32_t reserved;     /**< 0 */
    int64_t step;         /**< calls so far, 1 at the first */
    double loss;          /**< at the last call, before its step */
    double energy;        /**< mean square of what was to be met at the last call: the loss of a
                               module that gives zeros */
    double held_out;      /**< last held-out loss; negative: not measured yet, or no windows */
    double best;          /**< least held-out loss or, without held-out windows, least mean over
                               #lr_distill_opts::check_every calls; negative: none yet */
    int64_t best_step;    /**< steps made when it was found, 0: the start */
    double start;         /**< held-out loss of the start; negative: no held-out windows */
    const double *losses; /**< of all calls so far, `step` of them, borrowed during the call */
} lr_distill_event;

/** Called on the calling thread; non-zero stops with #LR_E_CANCELLED. */
typedef int32_t (*lr_distill_fn)(const lr_distill_event *event, void *user);

/**
 * Trains factorised modules of a model, all of them in one pass over the windows, each by an
 * optimizer of its own (AdamW over binary32 masters) against the teacher's module of the same name.
 * Two factors learn both; the pivot form learns its stored rows and how they are mixed; biases stay
 * as they are. Windows come in an order drawn anew for each round through them.
 *
 * In the end each module has its best values: those of the least held-out loss, the start among
 * them, or without held-out windows those of the least running mean; never those of one lucky
 * batch. That holds also where the call is cancelled or fails on the way. Each trained number takes
 * 20 bytes meanwhile.
 *
 * After the notebook of the lecture on low-rank approximation by C. Cerisara and Y. Sy (2023) and
 * Yu and Wu, AAAI 2023; with the closed form as the start and the teacher's stream it begins at the
 * optimum, so what remains to be learnt is in the other two streams.
 * @param student a clone of the teacher, some of its modules factorised by lr_compress()
 * @param teacher the model to be met, never changed
 * @param pattern of module names, as for hooks ("gate_proj"); NULL: all that are factorised
 * @param ids     @p count token ids; a rest shorter than a window is left out
 * @param count   at least one window and those held out
 * @param opts    NULL: defaults
 * @param fn      NULL: none
 * @param user    given to fn
 * @return LR_E_NOTFOUND when no factorised module matches; LR_E_UNSUPPORTED for one that shares a
 *         factor with another or stands behind the blocks; LR_E_SHAPE where student and teacher
 *         differ; LR_E_NUMERIC, with step, module and the last checkpoint, for a loss, gradient or
 *         parameter that is not finite; LR_E_FORMAT for a checkpoint of other modules
 */
LR_API lr_status lr_distill(lr_model *student, const lr_model *teacher, const char *pattern,
                            const int32_t *ids, size_t count, const lr_distill_opts *opts,
                            lr_distill_fn fn, void *user);

LR_END

#endif
