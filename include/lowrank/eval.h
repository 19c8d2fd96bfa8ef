/**
 * @file eval.h
 * Judge: perplexity, distance to a reference model, generated text.
 */
#ifndef LOWRANK_EVAL_H
#define LOWRANK_EVAL_H

#include <lowrank/session.h>

LR_BEGIN

/** Options of lr_eval(). */
typedef struct lr_eval_opts {
    size_t size;               /**< set by lr_eval_opts_init() */
    int32_t window;            /**< tokens of each window; default 512 */
    int32_t windows;           /**< most windows; 0: all */
    int64_t first_window;      /**< windows to pass over */
    const lr_model *reference; /**< compares with this model too; NULL: none */
} lr_eval_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_eval_opts_init(lr_eval_opts *opts, size_t size);

/** Result of lr_eval(); the caller sets `size`. */
typedef struct lr_eval_result {
    size_t size;              /**< sizeof(lr_eval_result), set by the caller */
    int64_t windows;          /**< windows evaluated */
    int64_t tokens;           /**< scored tokens: windows * (window - 1) */
    double nll;               /**< mean -log p of the scored tokens, in nats */
    double perplexity;        /**< exp(nll) */
    double tokens_per_second; /**< windows * window over the seconds of the model's forwards */
    double kl;                /**< mean KL(reference || model) over scored positions, in nats; 0
                                   without a reference */
    double agreement;         /**< share of positions with equal argmax, lower id on ties; 0 without
                                   a reference */
} lr_eval_result;

/**
 * Evaluates consecutive windows of a text; the first token of each is context only, a shorter
 * last window is dropped.
 * @param result written
 * @param model  the model
 * @param ids    @p count token ids
 * @param count  number of ids
 * @param opts   NULL: defaults
 * @return LR_E_INVALID when the text holds no window; LR_E_NUMERIC for a loss that is not finite
 */
LR_API lr_status lr_eval(lr_eval_result *result, const lr_model *model, const int32_t *ids,
                         size_t count, const lr_eval_opts *opts);

/** Options of lr_generate(). */
typedef struct lr_generate_opts {
    size_t size;         /**< set by lr_generate_opts_init() */
    uint64_t seed;       /**< of the draws; a row's draws depend on seed, row and position only */
    int32_t max_tokens;  /**< most new tokens of each row; default 128 */
    int32_t top_k;       /**< only the k likeliest tokens; 0: all */
    double temperature;  /**< 0 (default): greedy, lower id on ties */
    double top_p;        /**< least set of likeliest tokens whose share reaches p; default 1: all */
    const int32_t *stop; /**< ids that end a row (kept out of the output), borrowed in the call */
    int32_t stop_count;  /**< number of stop ids */
    int32_t suppress_stop; /**< 1: stop ids are never drawn, every row gets max_tokens */
} lr_generate_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_generate_opts_init(lr_generate_opts *opts, size_t size);

/** Called for each new token, on the calling thread; non-zero stops with #LR_E_CANCELLED. */
typedef int32_t (*lr_token_fn)(int32_t row, int32_t id, void *user);

/**
 * Continues prompts, all rows at once through the row-invariant kernel: a row's tokens do not
 * depend on its neighbours.
 * @param model   the model
 * @param prompts @p rows of them; `row` is ignored
 * @param rows    number of prompts
 * @param opts    NULL: defaults
 * @param ids     room for rows * max_tokens ids; row r begins at r * max_tokens
 * @param counts  room for rows numbers: new tokens of each row
 * @param fn      NULL: none
 * @param user    given to fn
 */
LR_API lr_status lr_generate(const lr_model *model, const lr_segment *prompts, int32_t rows,
                             const lr_generate_opts *opts, int32_t *ids, int32_t *counts,
                             lr_token_fn fn, void *user);

/**
 * Text the model generates for itself, where no data is given: samples at temperature 1 without
 * truncation, 32 rows at a time, the first token drawn uniformly from the non-special ids, no
 * template, EOS suppressed. Cached below $XDG_CACHE_HOME/lowrank (or ~/.cache/lowrank) by the hash
 * of the model, the seed and the sizes; a cache that cannot be written is only logged.
 * @param model   the model
 * @param seed    by convention 0 to calibrate and 1 to evaluate
 * @param samples number of windows
 * @param window  tokens of each
 * @param ids     room for samples * window ids
 */
LR_API lr_status lr_self_text(const lr_model *model, uint64_t seed, int32_t samples, int32_t window,
                              int32_t *ids);

LR_END

#endif
