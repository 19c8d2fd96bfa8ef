/* lowrank eval: perplexity of a text, and the distance to a reference model. */
#include "cli/job.h"
#include "cli/texts.h"

#include <stdlib.h>

static int put_result(json_t *result, const lr_eval_result *r, int has_reference) {
    int code;
    TRY(report_count(result, "tokens", r->tokens));
    TRY(report_count(result, "windows", r->windows));
    TRY(report_real(result, "nll", r->nll));
    TRY(report_real(result, "perplexity", r->perplexity));
    TRY(report_real(result, "tokens_per_second", r->tokens_per_second));
    if (has_reference) {
        TRY(report_real(result, "kl", r->kl));
        TRY(report_real(result, "agreement", r->agreement));
    }
    TRY(report_count(result, "peak_bytes", report_peak_bytes()));
done:
    return code;
}

enum { SELF_WINDOWS = 16 };

int command_eval(cli_job *job) {
    const char *text = NULL, *reference_path = NULL;
    int32_t window = 0, windows = 0, first = 0;
    lr_model *model = NULL, *reference = NULL;
    text_reader reader;
    token_list tokens = {0};
    lr_eval_opts opts;
    lr_eval_result result = {.size = sizeof result};
    int code;
    const arg options[] = {
        ARG("text", ARG_TEXT, &text, "FILE",
            "text to score; without one, text that the reference, or else the model, writes itself "
            "(--windows of it, 16 by default)"),
        ARG("window", ARG_INT, &window, "N",
            "tokens of each window; the first is context only [default 512, or the model's context "
            "if that is shorter]",
            .least = 2),
        ARG("windows", ARG_INT, &windows, "N", "most windows [default 0: all of the text]"),
        ARG("first-window", ARG_INT, &first, "K", "windows to pass over [default 0]"),
        ARG("reference", ARG_TEXT, &reference_path, "MODEL",
            "also give kl, the mean KL(reference || model) in nats, and agreement, the share of "
            "equal best tokens"),
    };
    TRY(JOB_BEGIN(job, options));
    TRY(job_start(job));
    TRY(job_open(job, &model, job->model_path));
    if (reference_path) TRY(job_open(job, &reference, reference_path));
    TRY(texts_reader(&reader, model, NULL));
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = texts_window(model, window);
    if (text)
        TRY(texts_read(&tokens, &reader, text));
    else
        TRY(texts_write(&tokens, reference ? reference : model, TEXTS_SEED_JUDGE,
                        windows ? windows : SELF_WINDOWS, opts.window));
    opts.windows = windows;
    opts.first_window = first;
    opts.reference = reference;
    TRY(job_stage(job, "evaluate"));
    TRY(report_status(lr_eval(&result, model, tokens.ids, tokens.count, &opts), WHILE_WORKING));
    TRY(put_result(job->result, &result, reference != NULL));
    TRY(job_report(job));
done:
    free(tokens.ids);
    lr_model_free(reference);
    lr_model_free(model);
    return code;
}
