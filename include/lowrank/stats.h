/**
 * @file stats.h
 * Statistics of the inputs of linear modules: second moments, means, absolute means and maxima.
 * They serve every method and every ratio, so they are collected once and kept on disk.
 */
#ifndef LOWRANK_STATS_H
#define LOWRANK_STATS_H

#include <lowrank/hooks.h>
#include <lowrank/model.h>

LR_BEGIN

struct lr_plan;

/** Statistics, opaque. One for each distinct input: q, k and v share one. */
typedef struct lr_stats lr_stats;

/** Options of lr_stats_new(). */
typedef struct lr_stats_opts {
    size_t size;         /**< set by lr_stats_opts_init() */
    const char *pattern; /**< modules to watch, copied; default: the seven linears of each block */
    int32_t exact;     /**< 1: keep, instead of the second moments, their triangular root, found by
                            QR of the inputs themselves (TSQR; COALA, arXiv 2507.07580). Twice the
                            arithmetic; nothing is lost by squaring. Needed by the method "qr",
                            fit for every other; default 0 */
    int32_t gradients; /**< 1: lr_stats_collect() also runs backward passes of the next-token loss
                            and keeps, for each module, what the methods "fwsvd", "iwsvd" and "kfac"
                            and the allocation "first-order" need, see lr_stats_gradients: three to
                            four times the work and 4 out^2 bytes more for each module; default 0 */
    const struct lr_plan *plan; /**< of the modules, those alone that it gives a rank, read once;
                                     NULL (default): all of them */
} lr_stats_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_stats_opts_init(lr_stats_opts *opts, size_t size);

/**
 * Makes empty statistics for a model's modules.
 * @param out   owned
 * @param model kept alive
 * @param opts  NULL: defaults
 * @return LR_E_NOTFOUND when no module matches, or the plan gives none of them a rank
 */
LR_API lr_status lr_stats_new(lr_stats **out, const lr_model *model, const lr_stats_opts *opts);

/** Frees statistics. */
LR_API void lr_stats_free(lr_stats *stats);

/**
 * Adds its own observers to a registry: from then on every forward of a session with these hooks
 * is counted, each token with @p weight; inputs only, never gradients. The registry must not be
 * used after the statistics are freed.
 */
LR_API lr_status lr_stats_attach(lr_stats *stats, lr_hooks *hooks, double weight);

/**
 * Runs consecutive windows of a text through the model and counts their tokens. The text as a
 * whole has @p weight, whatever its length, so texts collected one after the other are mixed by
 * weight.
 * @param stats  the statistics
 * @param ids    @p count token ids
 * @param count  number of ids
 * @param window tokens of each window, with gradients 2 or more; a shorter rest is left out
 * @param weight of this text, from 1e-100 to 1e100, as everywhere here
 * @return LR_E_INVALID when the text is shorter than one window
 */
LR_API lr_status lr_stats_collect(lr_stats *stats, const int32_t *ids, size_t count, int32_t window,
                                  double weight);

/** Adds the statistics of the same modules, normalised, with @p weight; both are exact or none, and
 *  both have gradients or none. */
LR_API lr_status lr_stats_add(lr_stats *stats, const lr_stats *other, double weight);

/**
 * Saves to a file, which appears whole or not at all.
 * @param stats any
 * @param path  of the file
 * @param force 1 replaces an existing file
 */
LR_API lr_status lr_stats_save(const lr_stats *stats, const char *path, int32_t force);

/**
 * Opens what lr_stats_save() wrote, for the model it belongs to.
 * @param out   owned
 * @param model kept alive
 * @param path  of the file
 */
LR_API lr_status lr_stats_open(lr_stats **out, const lr_model *model, const char *path);

/** Tokens counted so far. */
LR_API int64_t lr_stats_tokens(const lr_stats *stats);

/**
 * Reads the statistics of one module's input.
 * @param stats  the statistics
 * @param module full name
 * @param gram   room for in * in numbers: the uncentred second moment E[x x'], or NULL
 * @param mean   room for in numbers: E[x], or NULL
 */
LR_API lr_status lr_stats_read(const lr_stats *stats, const char *module, double *gram,
                               double *mean);

/**
 * Statistics of the derivatives of one module, W [out, in], with L the mean next-token loss of a
 * window, in nats, and means over windows by their weights. What is not wanted is NULL.
 *
 * Of the outputs y = W x, g is the derivative by y of the summed loss of the window, taken for the
 * middle three quarters of its tokens by position (window / 8 are left out at either end), with |g|
 * clipped to between 0.1 and 10 times its mean over them (LEMS, ICML 2026).
 */
typedef struct lr_stats_gradients {
    size_t size;            /**< of the caller's struct, set by it */
    double *fisher_in;      /**< room for in numbers: mean over windows of sum over i of
                                 (dL/dW_ij)^2, the Fisher information of the input channels (FWSVD,
                                 arXiv 2207.00112) */
    double *fisher_out;     /**< room for out numbers: the same summed over j */
    double *importance_in;  /**< room for in numbers: mean over windows of sum over i of
                                 (W_ij dL/dW_ij)^2 (IWSVD in Adaptive Rank Selections, NAACL 2024) */
    double *importance_out; /**< room for out numbers: the same summed over j */
    double *gram;           /**< room for out * out numbers: E[g g'] (KFAC, arXiv 1503.05671) */
    int64_t windows;        /**< written: windows counted */
} lr_stats_gradients;

/** Reads the statistics of one module's derivatives into the arrays that @p out names. */
LR_API lr_status lr_stats_read_gradients(const lr_stats *stats, const char *module,
                                         lr_stats_gradients *out);

LR_END

#endif
