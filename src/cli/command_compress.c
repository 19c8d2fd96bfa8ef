/* lowrank compress: plan, collect, factorise, save. A plan comes before the statistics, which take
 * long, so that what cannot be met is refused at once; one that reads spectra is made again after
 * them. With --memory or --sequential collecting and factorising go together, block by block, and
 * finished blocks are kept in a folder beside the output until it is written. */
#include "cli/evals.h"
#include "cli/keep.h"
#include "cli/methods.h"
#include "cli/progress.h"
#include "cli/report_html.h"
#include "cli/samples.h"
#include "cli/work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const statistics[] = {"mean", "max", "rms", NULL};
static const char *const sequentials[] = {"none", "shift", "anchored", NULL};
static const char *const roundings[] = {"plain", "refit", NULL};

typedef struct compression {
    const char *out, *stats_path, *plan_path, *report_path;
    char *work; /* folder of finished blocks */
    int32_t method, densify, statistic, refits, rounding, randomised, sequential, by_blocks;
    double alpha, blend; /* negative: not given */
    cli_keep keep;
    cli_samples samples;
    cli_evals evals;
    html_report report;
    lr_model *source; /* as it was */
    lr_model *model;
    lr_stats *stats;
    lr_plan *plan;
    json_t *modules;
    int32_t done;
} compression;

static int needs_gradients(const compression *c) {
    return method_reads_gradients(c->method) || c->keep.allocation == KEEP_FIRST_ORDER;
}

static int needs_stats(const compression *c) {
    return c->method != METHOD_SVD || c->refits > 0 || needs_gradients(c);
}

/* Whether the report is to lie in the folder that is yet to be written. */
static int is_report_inside(const compression *c) {
    size_t length = strlen(c->out);
    while (length > 1 && c->out[length - 1] == '/') length--;
    return strncmp(c->report_path, c->out, length) == 0 && c->report_path[length] == '/';
}

static int check_report(const compression *c, const cli_job *job) {
    if (!c->report_path || is_report_inside(c)) return CODE_DONE;
    if (strcmp(c->report_path, c->out) == 0)
        return report_fail(CODE_USAGE, "--report: %s: expected another name than --out", c->out);
    return job_check_output(job, c->report_path);
}

static int check_blocks(compression *c, const cli_job *job) {
    if (c->sequential && !needs_stats(c))
        return report_fail(CODE_USAGE, "--sequential: method svd looks at no inputs");
    if (c->sequential && c->stats_path)
        return report_fail(CODE_USAGE, "--sequential and --stats: the inputs of a compressed "
                                       "block are in no file, expected --text");
    if (c->blend >= 0 && strcmp(sequentials[c->sequential], "anchored"))
        return report_fail(CODE_USAGE, "--blend: expected with --sequential anchored");
    c->by_blocks = c->sequential || (job->memory && needs_stats(c) && !c->stats_path);
    if (c->by_blocks && method_reads_gradients(c->method))
        return report_fail(CODE_USAGE,
                           "--method %s: needs gradients of the whole model; with --memory or "
                           "--sequential, another method is expected, or with --memory --stats",
                           methods[c->method]);
    if (c->by_blocks && c->keep.allocation != KEEP_UNIFORM)
        return report_fail(CODE_USAGE, "--allocation: reads the statistics of all blocks at once; "
                                       "with --memory or --sequential, --plan is expected");
    return CODE_DONE;
}

static int check(compression *c, const cli_job *job) {
    int code;
    TRY(keep_check(&c->keep, &c->plan_path));
    if (c->stats_path && c->samples.texts.count)
        return report_fail(CODE_USAGE, "--stats and --text: the statistics are there already, "
                                       "expected one of the two");
    if (c->method != METHOD_ASVD && (c->alpha >= 0 || c->statistic))
        return report_fail(CODE_USAGE, "--%s: only --method asvd has one",
                           c->alpha >= 0 ? "alpha" : "statistic");
    if (!c->stats_path && needs_stats(c)) TRY(samples_check(&c->samples));
    c->samples.exact = c->method == METHOD_QR;
    c->samples.gradients = needs_gradients(c);
    c->samples.match = c->keep.match;
    TRY(check_blocks(c, job));
    if (c->by_blocks) TRY(work_name(&c->work, c->out));
done:
    return code;
}

static int make_plan(compression *c, const cli_job *job) {
    int code;
    if (!c->plan_path) return keep_uniform(&c->keep, job, c->model, &c->plan);
    TRY(report_status(lr_plan_open(&c->plan, c->model, c->plan_path), WHILE_READING));
done:
    return code;
}

static int allocate(compression *c, const cli_job *job) {
    if (c->keep.allocation == KEEP_UNIFORM) return CODE_DONE;
    lr_plan_free(c->plan);
    c->plan = NULL;
    progress_stage("spectra", 1);
    return keep_plan(&c->keep, job, c->model, c->stats, &c->plan);
}

static int get_stats(compression *c, cli_job *job) {
    if (!needs_stats(c)) return CODE_DONE;
    if (c->by_blocks) return samples_load(&c->samples, job, c->model);
    if (!c->stats_path) return samples_collect(&c->samples, job, c->model, &c->stats);
    int code;
    TRY(report_status(lr_stats_open(&c->stats, c->model, c->stats_path), WHILE_READING));
    TRY(report_count(job->result, "tokens", lr_stats_tokens(c->stats)));
done:
    return code;
}

static int32_t note_module(const lr_compress_event *event, void *user) {
    compression *c = user;
    json_t *module = json_pack("{s:s,s:I,s:f,s:f,s:f,s:f,s:s,s:f,s:I}", "module", event->module,
                               "rank", (json_int_t)event->rank, "predicted", event->predicted,
                               "measured", event->measured, "total", event->total, "stored",
                               event->stored, "storage", event->storage, "largest_mix",
                               event->largest_mix, "sharers", (json_int_t)event->sharers);
    json_array_append_new(c->modules, module);
    html_report_note(&c->report, event);
    c->done++;
    return progress_is_cancelled();
}

static int factorise(compression *c, const cli_job *job) {
    lr_compress_opts opts;
    int code;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = methods[c->method];
    opts.statistic = statistics[c->statistic];
    opts.alpha = c->alpha;
    opts.refits = c->refits;
    opts.randomised = c->randomised;
    /* a product that is multiplied out is rounded as one */
    if (c->rounding && !c->densify) opts.dtype = job_dtype(job);
    opts.sequential = sequentials[c->sequential];
    if (c->blend >= 0) opts.blend = c->blend;
    opts.work = c->work;
    lr_status status = c->by_blocks
                           ? lr_compress_texts(c->model, c->plan, c->samples.whole,
                                               c->samples.count, &opts, note_module, c)
                           : lr_compress(c->model, c->plan, c->stats, &opts, note_module, c);
    TRY(report_status(status, WHILE_WORKING));
    if (json_array_size(c->modules) != (size_t)c->done) code = report_nomem();
done:
    return code;
}

static int save(const compression *c, const cli_job *job) {
    lr_save_opts opts = job_save_opts(job);
    opts.densify = c->densify;
    return report_status(lr_model_save(c->model, c->out, &opts), WHILE_WRITING);
}

/* What was written is opened again: the figures are those of the files. */
static int judge(const compression *c, cli_job *job, const lr_model_info *before) {
    lr_model *written = NULL;
    int code;
    TRY(job_open(job, &written, c->out));
    TRY(keep_sizes(job->result, before, written));
    if (c->evals.texts.count) TRY(job_stage(job, "evaluate"));
    TRY(evals_run(&c->evals, job, c->source, written, NULL));
done:
    lr_model_free(written);
    return code;
}

static int put_path(json_t *result, const char *key, const char *path) {
    return path ? report_put(result, key, report_name(path)) : CODE_DONE;
}

/* What was asked for. */
static int put_request(const compression *c, cli_job *job) {
    json_t *result = job->result;
    int code;
    TRY(put_path(result, "model", job->model_path));
    TRY(report_put(result, "method", json_string(methods[c->method])));
    if (!c->plan_path) TRY(put_path(result, "storage", keep_storages[c->keep.storage]));
    if (c->keep.linear > 0) TRY(report_real(result, "keep", c->keep.linear));
    if (c->keep.model > 0) TRY(report_real(result, "keep_model", c->keep.model));
    TRY(put_path(result, "plan", c->plan_path));
    TRY(put_path(result, "stats", c->stats_path));
    TRY(report_put(result, "dtype", json_string(lr_dtype_name(job_dtype(job)))));
    if (c->densify) TRY(report_put(result, "densify", json_true()));
done:
    return code;
}

static int write_report(const compression *c, const cli_job *job) {
    if (!c->report_path) return CODE_DONE;
    int code = html_report_write(&c->report, job->result, c->report_path, job->force);
    if (code && !job->quiet)
        report_log(LR_LOG_INFO, "the model was saved; only its report is missing", NULL);
    return code;
}

static int run(compression *c, cli_job *job) {
    lr_model_info before = {.size = sizeof before};
    int code;
    TRY(job_stage(job, "open"));
    TRY(job_open(job, &c->model, job->model_path));
    TRY(report_status(lr_model_get_info(c->model, &before), WHILE_WORKING));
    TRY(report_status(lr_model_clone(&c->source, c->model), WHILE_WORKING));
    TRY(evals_load(&c->evals, c->model, c->samples.window));
    TRY(job_stage(job, "plan"));
    TRY(make_plan(c, job));
    TRY(job_stage(job, "collect"));
    TRY(get_stats(c, job));
    TRY(allocate(c, job));
    TRY(html_report_begin(&c->report, c->model, c->plan));
    TRY(job_stage(job, "factorise"));
    TRY(factorise(c, job));
    TRY(job_stage(job, "save"));
    TRY(save(c, job));
    if (c->work) work_remove(c->work);
    TRY(judge(c, job, &before));
    TRY(put_request(c, job));
    TRY(keep_about(job->result, c->plan));
    TRY(report_put(job->result, "sequential", json_string(sequentials[c->sequential])));
    TRY(report_count(job->result, "factorised", c->done));
    TRY(report_put(job->result, "modules", json_incref(c->modules)));
    TRY(report_put(job->result, "out", report_name(c->out)));
    TRY(put_path(job->result, "report", c->report_path));
    TRY(job_end_stages(job));
    TRY(write_report(c, job));
done:
    return code;
}

int command_compress(cli_job *job) {
    compression c = {.keep = KEEP_DEFAULT,
                     .samples = SAMPLES_DEFAULT,
                     .evals = EVALS_DEFAULT,
                     .alpha = -1,
                     .blend = -1};
    int code;
    const arg options[] = {
        ARG("out", ARG_TEXT, &c.out, "DIR", "folder to write", .required = 1),
        KEEP_OPTIONS(&c.keep, "uniform"),
        ARG("plan", ARG_TEXT, &c.plan_path, "PLAN", "ranks from the command plan"),
        ARG("method", ARG_CHOICE, &c.method, "NAME", METHODS_HELP "[default pca]",
            .choices = methods),
        ARG("statistic", ARG_CHOICE, &c.statistic, "NAME",
            "what asvd scales an input channel by: mean or max of |x|, or rms [default mean]",
            .choices = statistics),
        ARG("alpha", ARG_REAL, &c.alpha, "A",
            "the power asvd raises it to [default 0.5, for rms 1]"),
        ARG("refits", ARG_INT, &c.refits, "N",
            "rounds of least squares for each factor given the other, after the method [default "
            "0]",
            .least = 0, .most = 10000),
        ARG("rounding", ARG_CHOICE, &c.rounding, "NAME",
            "plain: both factors are rounded; refit: left ones are fitted to the rounded right "
            "ones "
            "[default plain]",
            .choices = roundings),
        ARG("randomised", ARG_FLAG, &c.randomised, NULL,
            "find the directions by a randomised range finder: faster on wide layers, a little "
            "above the least error [default from 8192 inputs and outputs on]"),
        ARG("sequential", ARG_CHOICE, &c.sequential, "WAY",
            "none: fit each module to its inputs in the dense model; shift: to its inputs behind "
            "the compressed modules before it; anchored: to those, but to the outputs of the dense "
            "model [default none]",
            .choices = sequentials),
        ARG("blend", ARG_REAL, &c.blend, "B",
            "how much of the dense model's outputs is in the target of anchored, 0 to 1 [default "
            "0.5]",
            .most = 1),
        ARG("stats", ARG_TEXT, &c.stats_path, "STATS", "statistics from collect, instead of texts"),
        SAMPLES_OPTIONS(&c.samples, "64"),
        EVALS_OPTIONS(&c.evals, "none"),
        ARG("report", ARG_TEXT, &c.report_path, "FILE.html",
            "page to write: ranks, losses, spectra, and what it cost"),
        ARG("densify", ARG_FLAG, &c.densify, NULL,
            "multiply the factors out: a plain model of the old size, with the new numbers"),
    };
    TRY(JOB_BEGIN(job, options));
    TRY(check(&c, job));
    TRY(job_check_output(job, c.out));
    TRY(check_report(&c, job));
    c.modules = json_array();
    if (!c.modules) TRY(report_nomem());
    TRY(job_start(job));
    TRY(run(&c, job));
    TRY(job_report(job));
done:
    json_decref(c.modules);
    html_report_end(&c.report);
    evals_end(&c.evals);
    lr_model_free(c.source);
    lr_plan_free(c.plan);
    lr_stats_free(c.stats);
    lr_model_free(c.model);
    samples_end(&c.samples);
    free(c.work);
    return code;
}
