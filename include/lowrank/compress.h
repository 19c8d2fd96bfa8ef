/**
 * @file compress.h
 * Rewrite: replace the modules of a plan by factors.
 */
#ifndef LOWRANK_COMPRESS_H
#define LOWRANK_COMPRESS_H

#include <lowrank/plan.h>

LR_BEGIN

/** Methods, by name in lr_compress_opts::method:
 *  - "svd": truncated SVD of the weight; needs no statistics;
 *  - "whiten": SVD-LLM (arXiv 2403.07378, section 3.1), Cholesky factor of the input moments;
 *  - "whiten-eig": the same by eigenvectors (arXiv 2503.12340);
 *  - "pca": principal directions of the output (Swift-SVD, arXiv 2604.01609): the same optimum
 *    without any inverse; analytic feature mimicking without a mean;
 *  - "afm": analytic feature mimicking (Yu and Wu, AAAI 2023), centred, with a new bias;
 *  - "asvd": SVD of the weight with its input channels scaled (ASVD, arXiv 2312.05821,
 * section 3.2);
 *  - "qr": the optimum of "pca" from the triangular root of the inputs (COALA, arXiv 2507.07580);
 *    needs statistics of lr_stats_opts::exact, and keeps what their square would lose;
 *  - "fwsvd": SVD of the weight with input channel j scaled by the root of sum over i of F_ij
 *    (FWSVD, arXiv 2207.00112), F as in lr_stats_gradients;
 *  - "iwsvd": the same by the importance of inputs and of outputs, both as scales (IWSVD in
 * Adaptive Rank Selections, NAACL 2024);
 *  - "kfac": least tr(G E C E') with E the change of the weight, C the moments of the inputs and G
 *    those of the derivatives of the loss by the outputs, both shrunk (KFAC-SVD in LEMS, ICML
 * 2026). It stands for the mean square of the first-order change of the loss.
 *
 *  The last three need statistics of lr_stats_opts::gradients and work on whole models only, not in
 *  lr_compress_texts(). */
typedef struct lr_compress_opts {
    size_t size;           /**< set by lr_compress_opts_init() */
    const char *method;    /**< default "pca" */
    const char *statistic; /**< of "asvd": what an input channel is scaled by, "mean" (default) or
                                "max" of |x|, or "rms", the root of the mean of x^2 */
    double alpha;          /**< of "asvd": the power it is raised to; negative (default): 0.5, as in
                                the paper, or 1 for "rms", then the best scale where channels do not
                                correlate; 0 is "svd" */
    int32_t refits;        /**< rounds of closed-form updates of both factors, each given the other,
                                for the least error of the outputs; "svd" needs statistics for them;
                                default 0. They bring "svd", "asvd", "fwsvd" and "iwsvd" to the
                                optimum of "pca"; those of "kfac" are in its own norm */
    int32_t dtype;         /**< type the model will be saved in: LR_BF16, LR_F16 or LR_Q8_0 rounds
                                the right factors (of the pivot form, the stored rows) to it and
                                then updates the left ones against them; LR_F32 (default): neither */
    int32_t randomised; /**< randomised range finder (Halko et al., arXiv 0909.4061) in place of a
                             whole decomposition: 0 (default) from 8192 inputs and outputs on,
                             1 wherever the rank is small enough, -1 never */
    int32_t reserved;   /**< 0 */
    const char *sequential;  /**< of lr_compress_texts(): what a block is fitted to.
                                  "none" (default): its inputs in the dense model;
                                  "shift": its inputs behind the compressed blocks before it (the
                                  update step of SVD-LLM, section 3.2);
                                  "anchored": those inputs, but the outputs of the dense model, so
                                  that each block makes up for errors of those before it (AA-SVD,
                                  arXiv 2604.02119) */
    double blend;            /**< of "anchored": the target is (1 - blend) times what the module
                                  itself makes of the shifted inputs plus blend times what it makes
                                  in the dense model (SAES-SVD, MPIFA); 0 to 1, default 0.5 */
    const char *work;        /**< of lr_compress_texts(): folder for finished blocks, made where it
                                  is missing, so that a run that was killed goes on behind the last
                                  of them, and that no factors need memory. It belongs to this run
                                  alone, another one begins it anew; the model reads from it, and
                                  the caller removes it once the model is saved. NULL: none */
    double input_shrinkage;  /**< of "kfac", 0 to 1: C becomes (1 - a) C + a mean(diag C) I; default
                                  0.1. The losses reported are in the norm of what was shrunk */
    double output_shrinkage; /**< the same of G, whose noise makes more of it needed; default 0.3 */
} lr_compress_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_compress_opts_init(lr_compress_opts *opts, size_t size);

/** What became of one module. */
typedef struct lr_compress_event {
    size_t size;         /**< bytes the library filled */
    const char *module;  /**< borrowed until the callback returns */
    int64_t rank;        /**< of the factors */
    double predicted;    /**< loss from the tail of the spectrum, in the norm of the method */
    double measured;     /**< the same norm recomputed from the difference of the matrices */
    double total;        /**< loss of rank 0 in that norm */
    const char *storage; /**< form of the module: "two-factor", "pivot" or "shared" */
    double largest_mix;  /**< pivot form: largest magnitude in the matrix that combines the stored
                              rows, at most 2; else 0 */
    int64_t sharers;     /**< modules that have this right factor, itself included; the three
                              losses are those of all of them together */
    double stored;       /**< loss after refits and with the numbers as opts.dtype holds them, in
                              the norm of the method; after refits in that of the outputs */
    int64_t full_rank;   /**< of the module, or of those that share its factor together */
    const double *spectrum; /**< loss that each further rank saves, descending, in the norm of the
                                 method; their sum is total; borrowed until the callback returns */
    int64_t spectrum_count; /**< its length: full_rank, or less where a randomised range finder
                                 left directions out, which then hold the rest of total */
} lr_compress_event;

/** Called once for each module on the calling thread, in the order of the plan, but that those
 *  which share a factor follow one another; non-zero stops with #LR_E_CANCELLED. */
typedef int32_t (*lr_compress_fn)(const lr_compress_event *event, void *user);

/**
 * Replaces each module of the plan by its factors. Modules of rank 0 stay. On any error the model
 * is as before.
 * @param model the model
 * @param plan  ranks
 * @param stats of the model's inputs; NULL is allowed for "svd"
 * @param opts  NULL: defaults
 * @param fn    NULL: none
 * @param user  given to fn
 * @return LR_E_NUMERIC when predicted and measured loss differ by more than 1e-6 of the total
 */
LR_API lr_status lr_compress(lr_model *model, const lr_plan *plan, const lr_stats *stats,
                             const lr_compress_opts *opts, lr_compress_fn fn, void *user);

/** A text to calibrate on. */
typedef struct lr_text {
    const int32_t *ids; /**< borrowed during the call */
    size_t count;       /**< number of ids */
    double weight;      /**< of the text as a whole, whatever its length; positive */
    int32_t window;     /**< tokens of each window; a shorter rest is left out */
    int32_t reserved;   /**< 0 */
} lr_text;

/**
 * As lr_compress(), with statistics made on the way: block after block, from the residual streams
 * of the texts, which are kept instead of run again. Only statistics of one block, and with little
 * memory of a part of it, exist at a time. With lr_ctx_opts.memory set everything but the model's
 * files and, with a work folder, the finished factors stays within it; streams that take more than
 * a quarter of it go to a nameless file in the work folder, or in $TMPDIR.
 *
 * Without "sequential" the result is that of lr_stats_collect() and lr_compress(). With it each of
 * q k v, o, gate up and down is fitted when all before it are compressed.
 * @param model the model; on any error it is as before
 * @param plan  ranks
 * @param texts @p count of them
 * @param count at least 1
 * @param opts  NULL: defaults. Method "svd" needs no texts and is refused, "afm" with "anchored"
 * too
 * @param fn    NULL: none; called for finished blocks of an earlier run as well
 * @param user  given to fn
 * @return LR_E_INVALID when lr_ctx_opts.memory is less than one window or matrix needs, and the
 *         message says how much that is
 */
LR_API lr_status lr_compress_texts(lr_model *model, const lr_plan *plan, const lr_text *texts,
                                   int32_t count, const lr_compress_opts *opts, lr_compress_fn fn,
                                   void *user);

LR_END

#endif
