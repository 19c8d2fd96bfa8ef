/**
 * @file sensitivity.h
 * How much each module matters: what the model loses on held-out text when that module alone is
 * cut, as weights for lr_plan_opts.
 */
#ifndef LOWRANK_SENSITIVITY_H
#define LOWRANK_SENSITIVITY_H

#include <lowrank/compress.h>
#include <lowrank/eval.h>

LR_BEGIN

/** Options of lr_sensitivity(). */
typedef struct lr_sensitivity_opts {
    size_t size;      /**< set by lr_sensitivity_opts_init() */
    const char *path; /**< file that keeps what is measured: it is written after each module, and
                           what it holds already is not measured again, so an interrupted run goes
                           on where it was; NULL: none */
    int32_t window;   /**< tokens of each window; default 512 */
    int32_t reserved; /**< 0 */
} lr_sensitivity_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_sensitivity_opts_init(lr_sensitivity_opts *opts, size_t size);

/** What the model loses by one module. */
typedef struct lr_sensitivity_event {
    size_t size;        /**< bytes the library filled */
    const char *module; /**< borrowed until the callback returns */
    int64_t rank;       /**< it was cut to */
    double share;       /**< of its outputs' energy that the cut removes */
    double kl;          /**< mean KL(model || cut model) over scored positions, in nats */
    double nll;         /**< rise of the mean loss, in nats; may be negative */
    double weight;      /**< kl / share: what a unit of normalised energy costs */
} lr_sensitivity_event;

/** Called once for each module, in the order of the plan, on the calling thread; non-zero stops
 *  with #LR_E_CANCELLED. */
typedef int32_t (*lr_sensitivity_fn)(const lr_sensitivity_event *event, void *user);

/**
 * Measures the sensitivity of each module that @p probe gives a rank (Bolaco and LEMS measure the
 * same way): the module alone is factorised by "pca" to that rank, the windows are run, and the
 * predictions compared with those of the whole model. The local loss and the divergence are both
 * quadratic in a small change, so their quotient hardly depends on the rank. The model itself
 * stays as it is. Takes one forward of all windows for each module.
 * @param model the model
 * @param probe ranks to cut to; modules of rank 0 are not measured
 * @param stats of the model's inputs
 * @param ids   @p count token ids of held-out text
 * @param count number of ids; windows follow each other, a shorter rest is left out
 * @param opts  NULL: defaults
 * @param fn    NULL: none
 * @param user  given to fn
 * @return LR_E_INVALID for a file that belongs to another model or text, or to other statistics
 */
LR_API lr_status lr_sensitivity(const lr_model *model, const lr_plan *probe, const lr_stats *stats,
                                const int32_t *ids, size_t count, const lr_sensitivity_opts *opts,
                                lr_sensitivity_fn fn, void *user);

LR_END

#endif
