/**
 * @file plan.h
 * The decision: a rank for each module, in a small JSON file a person can read and edit.
 */
#ifndef LOWRANK_PLAN_H
#define LOWRANK_PLAN_H

#include <lowrank/stats.h>

LR_BEGIN

/** A plan, opaque. */
typedef struct lr_plan lr_plan;

/** How ranks are chosen: exactly one of keep, keep_model and keep_bytes is set, or ranks, or ranks
 *  beside one of them: then the modules of its patterns have these ranks and the others share what
 *  is left. */
typedef struct lr_plan_opts {
    size_t size;         /**< set by lr_plan_opts_init() */
    double keep;         /**< parameters of the matched linears after over before; biases and
                              indices not counted, modules left dense on both sides. The result is
                              at most this and one more rank anywhere would exceed it */
    double keep_model;   /**< the same over the whole model */
    const char *ranks;   /**< JSON object of patterns to ranks: {"q_proj": 384, "gate_proj": 512};
                              among several matches the last counts, others stay dense */
    const char *pattern; /**< modules that may change; default: the seven linears of each block */
    const char *storage; /**< what a rank costs and how compression stores it:
                              "pivot" (default; PIFA, arXiv 2501.19090): rank (out + in - rank)
                              numbers without loss, two factors where rank^2 is at most `out`,
                              the number of indices the pivot form takes;
                              "two-factor": rank (out + in) numbers;
                              "shared": modules that read one input and have one rank share
                              their right factor, rank (sum of out + in) numbers for all */
    int64_t keep_bytes;  /**< bytes of the files of weights that lr_model_save() writes: headers,
                              index maps and everything that is not factorised included */
    const char *allocation; /**< how a budget is shared out, see lr_plan_new(); default "uniform" */
    double floor;           /**< of the other allocations: least rank, as a share of the uniform
                                 one, 0 to 1; negative (default): 0.95, or 0.3 of "first-order",
                                 whose spectra may be trusted further */
    const lr_stats *stats;  /**< whose spectra those read, borrowed during the call; NULL: spectra
                                 of the weights alone, as for the method "svd" */
    const char *weights;    /**< of the energies: JSON object of patterns to numbers, such as
                                 {"v_proj": 4}; among several matches the last counts, others
                                 have 1 */
    int32_t dtype;          /**< of keep_bytes: LR_F32, LR_F16, LR_BF16 (default) or LR_Q8_0 */
    int32_t reserved;       /**< 0 */
} lr_plan_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_plan_opts_init(lr_plan_opts *opts, size_t size);

/**
 * Chooses a rank for each matched module. A rank at which factors are no smaller than the matrix
 * leaves the module dense. Allocations, by name, with the spectrum of a module being the loss that
 * each further rank saves on its outputs:
 *  - "uniform": the same kept share everywhere;
 *  - "energy": greedily, what saves most loss for each number. Losses of different modules do not
 *    compare well, so this alone is rarely good (Swift-SVD, arXiv 2604.01609, table 6);
 *  - "energy-normalised": the same, each spectrum divided by its sum;
 *  - "sensitivity": the same, and multiplied by #weights, such as lr_sensitivity() measures;
 *  - "effective-rank": ranks in proportion to exp of the entropy of the spectrum (D-Rank);
 *  - "first-order": greedily by the spectrum of the method "kfac", tr(G E C E') for a change E of
 *    the weight, the mean square of the first-order change of the loss (after ZS-SVD and LEMS, ICML
 *    2026). It is of one unit for all modules and not divided by its sum; #stats needs gradients.
 *
 * @param out   owned
 * @param model borrowed during the call
 * @param opts  what to keep
 * @return LR_E_INVALID for a share that no rank can meet; LR_E_NOTFOUND when nothing matches
 */
LR_API lr_status lr_plan_new(lr_plan **out, const lr_model *model, const lr_plan_opts *opts);

/**
 * Opens a plan file for a model; every module and rank is checked.
 * @param out   owned
 * @param model borrowed during the call
 * @param path  of the file
 */
LR_API lr_status lr_plan_open(lr_plan **out, const lr_model *model, const char *path);

/** Saves a plan. @param plan any @param path of the file @param force 1 replaces an existing one */
LR_API lr_status lr_plan_save(const lr_plan *plan, const char *path, int32_t force);

/** Frees a plan. */
LR_API void lr_plan_free(lr_plan *plan);

/** Number of modules in the plan. */
LR_API int32_t lr_plan_count(const lr_plan *plan);

/** Name of module @p index. @return borrowed; NULL out of range */
LR_API const char *lr_plan_module(const lr_plan *plan, int32_t index);

/** Rank of module @p index; 0: stays dense; -1: out of range. */
LR_API int64_t lr_plan_rank(const lr_plan *plan, int32_t index);

/** How compression will store its factors: "pivot", "two-factor" or "shared"; NULL without a plan. */
LR_API const char *lr_plan_storage(const lr_plan *plan);

/** Sets the rank of a module; 0 leaves it dense. In "shared" storage a module whose rank differs
 *  from the others' of its input has a right factor of its own. */
LR_API lr_status lr_plan_set_rank(lr_plan *plan, const char *module, int64_t rank);

/**
 * Parameters of the plan's modules before and after.
 * @param plan   the plan
 * @param before written
 * @param after  written
 */
LR_API void lr_plan_parameters(const lr_plan *plan, int64_t *before, int64_t *after);

/** How the plan came about, as a JSON object: its budget and allocation, and what
 *  lr_plan_add_about() added. It is kept in the file. @return borrowed until something is added */
LR_API const char *lr_plan_about(const lr_plan *plan);

/** Adds the members of a JSON object, such as the held-out loss that a plan was chosen by; one of
 *  the same name is replaced. */
LR_API lr_status lr_plan_add_about(lr_plan *plan, const char *json);

LR_END

#endif
