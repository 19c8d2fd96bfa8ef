/**
 * @file context.h
 * Where and how work runs: threads, seed, log and progress.
 */
#ifndef LOWRANK_CONTEXT_H
#define LOWRANK_CONTEXT_H

#include <lowrank/base.h>

LR_BEGIN

/** A context, opaque. Any number of threads may share it; its thread team serves one at a time. */
typedef struct lr_ctx lr_ctx;

/** Log levels. */
enum {
    LR_LOG_INFO = 0,   /**< what is being done */
    LR_LOG_WARNING = 1 /**< something the user should know */
};

/** Receives one finished line without a newline, on the thread that made the call. */
typedef void (*lr_log_fn)(int32_t level, const char *line, void *user);

/**
 * Reports that @p done of @p total units of @p stage are finished, on the thread that made the
 * call. A non-zero return stops the work with #LR_E_CANCELLED; earlier files stay intact.
 * @p total is 0 when it is not known.
 */
typedef int32_t (*lr_progress_fn)(const char *stage, int64_t done, int64_t total, void *user);

/** Options of a context. */
typedef struct lr_ctx_opts {
    size_t size;             /**< set by lr_ctx_opts_init() */
    uint64_t seed;           /**< of everything random; default 0 */
    int32_t threads;         /**< 0: what affinity and cgroup allow */
    int32_t bf16_products;   /**< 1: where the processor has AVX512-BF16, products of many rows
                                  (#LR_STEP_BATCH, forwards of lr_linear) with weights stored in 16
                                  bits or fewer round both sides to BF16 and sum in binary32; where
                                  it has not, a line in the log says so. Default 0: binary32 */
    uint64_t memory;         /**< bytes of working memory to aim at, beside the model's files: fewer
                                  tokens and matrices are worked on at once, never less than one
                                  window or matrix; 0: what is fastest */
    lr_log_fn log;           /**< NULL: silent */
    void *log_user;          /**< given to log */
    lr_progress_fn progress; /**< NULL: none */
    void *progress_user;     /**< given to progress */
} lr_ctx_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_ctx_opts_init(lr_ctx_opts *opts, size_t size);

/** Makes a context. @param out owned @param opts copied; NULL: defaults */
LR_API lr_status lr_ctx_new(lr_ctx **out, const lr_ctx_opts *opts);

/** Frees a context; what was made with it keeps it alive as long as needed. */
LR_API void lr_ctx_free(lr_ctx *ctx);

/** Threads in use: fewer than asked for when the system refused more. */
LR_API int32_t lr_ctx_threads(const lr_ctx *ctx);

LR_END

#endif
