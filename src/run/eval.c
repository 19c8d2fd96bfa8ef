/* Perplexity over consecutive windows, with the distance to a reference model on request. */
#include "base/opts.h"
#include "run/batches.h"

#include <lowrank/eval.h>

#include <math.h>
#include <string.h>

void lr_eval_opts_init(lr_eval_opts *opts, size_t size) {
    lr_eval_opts defaults = {.size = sizeof defaults, .window = 512};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

typedef struct totals {
    double nll, kl;
    int64_t agreements, tokens;
} totals;

typedef struct evaluation {
    lr_session *session, *reference;
    lr_segment segments[LR__BATCH_WINDOWS];
    lr__score *scores;
    totals sum;
} evaluation;

static lr_status score_windows(evaluation *e, int32_t rows) {
    lr__step step = {0}, reference = {0};
    lr_status status = LR_OK;
    LR_TRY(lr__step_run(&step, e->session, e->segments, rows));
    if (e->reference) LR_TRY(lr__step_run(&reference, e->reference, e->segments, rows));
    LR_TRY(lr__step_score(&step, e->reference ? &reference : NULL, e->scores));
    for (int64_t i = 0; i < step.tokens - rows; i++) {
        e->sum.nll += e->scores[i].nll;
        e->sum.kl += e->scores[i].kl;
        e->sum.agreements += e->scores[i].agrees;
    }
    e->sum.tokens += step.tokens - rows;
done:
    lr__step_end(&reference, status >= 0);
    lr__step_end(&step, status >= 0);
    return status;
}

static lr_status check_texts(const lr_model *model, const lr_eval_opts *o, size_t count,
                             int64_t *windows) {
    if (o->window < 2 || o->first_window < 0 || o->windows < 0)
        return lr__fail(LR_E_INVALID, "eval: window %d, first window %lld, windows %d", o->window,
                        (long long)o->first_window, o->windows);
    int64_t held = (int64_t)(count / (size_t)o->window) - o->first_window;
    *windows = o->windows && o->windows < held ? o->windows : held;
    if (*windows < 1)
        return lr__fail(LR_E_INVALID,
                        "the text of %zu tokens holds no window of %d from window %lld on", count,
                        o->window, (long long)o->first_window);
    if (o->reference &&
        o->reference->origin->config.vocabulary_size != model->origin->config.vocabulary_size)
        return lr__fail(LR_E_SHAPE, "the reference has %d token ids, expected %d",
                        o->reference->origin->config.vocabulary_size,
                        model->origin->config.vocabulary_size);
    return LR_OK;
}

static void write_result(lr_eval_result *result, const evaluation *e, int64_t windows,
                         int32_t window) {
    double tokens = (double)e->sum.tokens;
    lr_eval_result full = {.size = result->size,
                           .windows = windows,
                           .tokens = e->sum.tokens,
                           .nll = e->sum.nll / tokens,
                           .perplexity = exp(e->sum.nll / tokens),
                           .tokens_per_second = (double)(windows * window) / e->session->seconds,
                           .kl = e->reference ? e->sum.kl / tokens : 0,
                           .agreement = e->reference ? (double)e->sum.agreements / tokens : 0};
    memcpy(result, &full, result->size < sizeof full ? result->size : sizeof full);
}

lr_status lr_eval(lr_eval_result *result, const lr_model *model, const int32_t *ids, size_t count,
                  const lr_eval_opts *opts) {
    lr_status status = LR_OK;
    lr_eval_opts o;
    evaluation e = {0};
    int64_t windows = 0;
    if (!result || result->size < sizeof(size_t) || !model || !ids)
        return lr__fail(LR_E_INVALID, "lr_eval: result with its size, model and ids are needed");
    lr_eval_opts_init(&o, sizeof o);
    LR_TRY(lr__opts_merge(&o, sizeof o, opts, "lr_eval_opts"));
    LR_TRY(check_texts(model, &o, count, &windows));
    int32_t rows = lr__windows_at_once(model, o.window, windows);
    LR_TRY(lr__windows_session(&e.session, model, rows, o.window, NULL));
    if (o.reference) LR_TRY(lr__windows_session(&e.reference, o.reference, rows, o.window, NULL));
    LR_TRY(lr__new(&e.scores, (size_t)rows * (size_t)o.window, sizeof *e.scores));
    for (int64_t w = 0; w < windows; w += rows) {
        int32_t now = lr__windows_fill(e.segments, ids + o.first_window * o.window, w, windows,
                                       rows, o.window);
        LR_TRY(score_windows(&e, now));
        LR_TRY(lr__progress(model->ctx, "evaluate", w + now, windows));
    }
    write_result(result, &e, windows, o.window);
done:
    lr__free(e.scores);
    lr_session_free(e.reference);
    lr_session_free(e.session);
    return status;
}
