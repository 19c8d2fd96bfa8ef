/* lowrank distill: factorise, then train each module against its own layer. The last windows of
 * each text are kept out of the statistics of the start and of the training, and judge. */
#include "cli/distill_log.h"
#include "cli/evals.h"
#include "cli/keep.h"
#include "cli/progress.h"
#include "cli/samples.h"
#include "cli/work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const storages[] = {"two-factor", "pivot", NULL};
static const char *const starts[] = {"pca", "svd", NULL};
static const char *const streams[] = {"teacher", "shift", "anchored", NULL};

enum { START_PCA, START_SVD };
enum { HELD_SHARE = 10 /* of each text's windows, one is held out */ };

typedef struct distilling {
    const char *out, *plan_path;
    int32_t storage, start, stream, wants_tail, self_text;
    int32_t steps, batch, held_out, check_every, patience, log_every, checkpoint_every;
    double rate, weight_decay, clip;
    cli_work work;
    cli_keep keep;
    cli_samples samples;
    cli_evals evals;
    distill_log log;
    int32_t *ids; /* windows to learn from, then those held out */
    int64_t windows, held;
    lr_model *source, *model;
    lr_plan *plan;
    int with_tail; /* what lr_compress() states is the least loss */
    int code;      /* of what a callback could not do */
} distilling;

/* ---- texts ---- */

static int64_t held_of(const distilling *d, const lr_text *text) {
    int64_t windows = (int64_t)text->count / text->window;
    int64_t held = d->held_out < 0 ? windows / HELD_SHARE : d->held_out;
    return held < windows ? held : windows;
}

static void copy_windows(const distilling *d, int is_held, int32_t **to) {
    for (int32_t i = 0; i < d->samples.count; i++) {
        const lr_text *text = &d->samples.whole[i];
        int64_t held = held_of(d, text) * text->window;
        size_t count = is_held ? (size_t)held : text->count - (size_t)held;
        memcpy(*to, text->ids + (is_held ? text->count - count : 0), count * sizeof **to);
        *to += count;
    }
}

static int load_texts(distilling *d, cli_job *job) {
    int32_t *to;
    size_t tokens = 0;
    int code;
    d->samples.holds_out = !d->evals.texts.count;
    TRY(samples_load(&d->samples, job, d->model));
    if (d->samples.holds_out) TRY(samples_hold_out(&d->samples, &d->evals));
    TRY(evals_write(&d->evals, d->model, d->samples.window, TEXTS_SEED_JUDGE));
    for (int32_t i = 0; i < d->samples.count; i++) {
        tokens += d->samples.whole[i].count;
        d->held += held_of(d, &d->samples.whole[i]);
    }
    d->windows = (int64_t)tokens / d->samples.window - d->held;
    if (d->windows < 1)
        return report_fail(CODE_USAGE,
                           "--held-out: %d windows of each text leave none to learn "
                           "from",
                           d->held_out);
    d->ids = to = malloc(tokens * sizeof *d->ids);
    if (!d->ids) return report_nomem();
    copy_windows(d, 0, &to);
    copy_windows(d, 1, &to);
    TRY(report_count(job->result, "windows", d->windows));
    TRY(report_count(job->result, "held_out", d->held));
done:
    return code;
}

/* ---- an interrupted run ---- */

static json_t *ranks_of(const lr_plan *plan) {
    json_t *ranks = json_array();
    int failed = !ranks;
    for (int32_t i = 0; i < lr_plan_count(plan); i++)
        failed |= json_array_append_new(ranks, json_integer(lr_plan_rank(plan, i)));
    if (!failed) return ranks;
    json_decref(ranks);
    return NULL;
}

/* All that decides what the run does; NULL when memory is out. */
static json_t *settings_of(const distilling *d, const cli_job *job) {
    const token_list all = {.ids = d->ids,
                            .count = (size_t)(d->windows + d->held) * (size_t)d->samples.window};
    json_t *settings = keep_settings(&d->keep);
    json_t *others = json_pack(
        "{s:o, s:{s:o, s:o}, s:s, s:s, s:b, s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, "
        "s:I, s:i, s:b}",
        "model", work_model(job->model_path), "plan", "path", report_name(d->plan_path), "ranks",
        ranks_of(d->plan), "start", starts[d->start], "stream", streams[d->stream], "tail",
        d->wants_tail, "text", (json_int_t)(texts_hash(TEXTS_HASH, &all) >> 1), "samples",
        (json_int_t)d->windows, "held-out", (json_int_t)d->held, "window", d->samples.window,
        "steps", d->steps, "batch", d->batch, "check-every", d->check_every, "patience",
        d->patience, "lr", d->rate, "weight-decay", d->weight_decay, "clip", d->clip, "seed",
        (json_int_t)job->seed, "dtype", job->dtype, "bf16", job->bf16);
    if (!settings || !others || json_object_update(settings, others)) {
        json_decref(settings);
        settings = NULL;
    }
    json_decref(others);
    return settings;
}

/* ---- the start ---- */

static int make_plan(distilling *d, const cli_job *job) {
    int code = CODE_DONE;
    if (d->plan_path)
        TRY(report_status(lr_plan_open(&d->plan, d->model, d->plan_path), WHILE_READING));
    else
        TRY(keep_uniform(&d->keep, job, d->model, &d->plan));
    if (!strcmp(lr_plan_storage(d->plan), "shared"))
        TRY(report_fail(CODE_USAGE,
                        "--plan: %s: shared storage, and each module learns by itself; expected "
                        "two-factor or pivot",
                        d->plan_path));
    for (int32_t i = 0; i < lr_plan_count(d->plan); i++)
        if (lr_plan_rank(d->plan, i) > 0) return CODE_DONE;
    code = report_fail(CODE_USAGE, "no module gets a rank at which its factors are smaller than "
                                   "the matrix: nothing to train");
done:
    return code;
}

/* Losses are told per output, as those of the training are. */
static int32_t note_start(const lr_compress_event *event, void *user) {
    distilling *d = user;
    lr_linear *linear = NULL;
    double tail = -1;
    if (d->with_tail && lr_model_find_linear(d->source, event->module, &linear) >= 0)
        tail = event->predicted / (double)lr_linear_out(linear);
    lr_linear_free(linear);
    d->code = distill_log_begin(&d->log, event->module, event->rank, tail);
    return d->code || progress_is_cancelled();
}

static int factorise(distilling *d, lr_model *model, const lr_stats *stats, int32_t start) {
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = starts[start];
    d->with_tail = start == START_PCA;
    lr_status status = lr_compress(model, d->plan, stats, &opts, note_start, d);
    return d->code ? d->code : report_status(status, WHILE_WORKING);
}

static int collect(const distilling *d, lr_stats **out) {
    lr_stats_opts opts;
    int32_t window = d->samples.window;
    int code;
    lr_stats_opts_init(&opts, sizeof opts);
    if (d->keep.match) opts.pattern = d->keep.match;
    opts.plan = d->plan;
    TRY(report_status(lr_stats_new(out, d->source, &opts), WHILE_WORKING));
    progress_stage("collect", 1);
    TRY(report_status(
        lr_stats_collect(*out, d->ids, (size_t)d->windows * (size_t)window, window, 1),
        WHILE_WORKING));
done:
    return code;
}

/* The closed form on a clone names the tail, where that is wanted beside another start. */
static int begin(distilling *d, cli_job *job) {
    lr_stats *stats = NULL;
    lr_model *clone = NULL;
    int code = CODE_DONE;
    if (d->start == START_PCA || d->wants_tail) {
        TRY(job_stage(job, "collect"));
        TRY(collect(d, &stats));
    }
    TRY(job_stage(job, "factorise"));
    if (d->start != START_PCA && d->wants_tail) {
        TRY(report_status(lr_model_clone(&clone, d->source), WHILE_WORKING));
        TRY(factorise(d, clone, stats, START_PCA));
    }
    TRY(factorise(d, d->model, stats, d->start));
done:
    lr_model_free(clone);
    lr_stats_free(stats);
    return code;
}

/* ---- learning ---- */

static int32_t note_loss(const lr_distill_event *event, void *user) {
    distilling *d = user;
    d->code = distill_log_note(&d->log, event);
    return d->code || progress_is_cancelled();
}

static int learn(distilling *d, const cli_job *job) {
    lr_distill_opts opts;
    size_t count = (size_t)(d->windows + d->held) * (size_t)d->samples.window;
    int code;
    lr_distill_opts_init(&opts, sizeof opts);
    opts.steps = d->steps;
    opts.batch = d->batch;
    opts.window = d->samples.window;
    opts.learning_rate = d->rate;
    opts.weight_decay = d->weight_decay;
    opts.clip = d->clip;
    opts.stream = streams[d->stream];
    opts.log_every = d->log_every;
    opts.check_every = d->check_every;
    opts.held_out = (int32_t)d->held;
    opts.patience = d->patience;
    opts.seed = job->seed;
    opts.checkpoint = d->work.checkpoint;
    opts.checkpoint_every = d->checkpoint_every;
    d->log.is_quiet = job->quiet;
    progress_stage("distill", 1);
    lr_status status =
        lr_distill(d->model, d->source, d->keep.match, d->ids, count, &opts, note_loss, d);
    TRY(d->code);
    TRY(report_status(status, WHILE_WORKING));
done:
    return code;
}

/* ---- the whole ---- */

static int save(distilling *d, const cli_job *job) {
    char *folder = NULL;
    int code;
    TRY(work_save(&d->work, job, d->model, d->out));
    if (asprintf(&folder, "%s/losses", d->out) < 0) return report_nomem();
    TRY(distill_log_save(&d->log, folder));
    work_done(&d->work);
done:
    free(folder);
    return code;
}

static int put_request(const distilling *d, json_t *result) {
    int code;
    TRY(keep_report(result, d->plan, d->source));
    TRY(report_put(result, "start", json_string(starts[d->start])));
    TRY(report_put(result, "stream", json_string(streams[d->stream])));
    TRY(report_count(result, "steps", d->steps));
    TRY(distill_log_put(&d->log, result));
    TRY(report_put(result, "out", report_name(d->out)));
done:
    return code;
}

static int run(distilling *d, cli_job *job) {
    lr_model *written = NULL;
    int code;
    TRY(job_stage(job, "open"));
    TRY(job_open(job, &d->model, job->model_path));
    TRY(report_status(lr_model_clone(&d->source, d->model), WHILE_WORKING));
    TRY(make_plan(d, job));
    TRY(job_stage(job, "read"));
    TRY(evals_load(&d->evals, d->model, d->samples.window));
    TRY(load_texts(d, job));
    TRY(work_begin(&d->work, job, settings_of(d, job)));
    TRY(begin(d, job));
    TRY(job_stage(job, "distill"));
    TRY(learn(d, job));
    TRY(job_stage(job, "save"));
    TRY(save(d, job));
    lr_model_free(d->model); /* the files are what is judged */
    d->model = NULL;
    TRY(job_stage(job, "evaluate"));
    TRY(job_open(job, &written, d->out));
    TRY(evals_run(&d->evals, job, d->source, written, NULL));
    TRY(put_request(d, job->result));
    TRY(job_end_stages(job));
done:
    lr_model_free(written);
    return code;
}

static int check(distilling *d) {
    int code;
    if (!d->plan_path) d->keep.storage = d->storage ? KEEP_PIVOT : KEEP_TWO_FACTOR;
    TRY(keep_check(&d->keep, &d->plan_path));
    if (d->plan_path && d->storage)
        return report_fail(CODE_USAGE, "--storage: the form stands in the plan already");
    d->samples.self_weight = d->self_text;
    TRY(samples_check(&d->samples));
    for (int32_t i = 0; i < d->samples.texts.count; i++)
        if (d->samples.items[i].weight != 1)
            return report_fail(CODE_USAGE,
                               "--text: %s: every token counts alike here, expected no "
                               "weight",
                               d->samples.texts.items[i]);
done:
    return code;
}

int command_distill(cli_job *job) {
    distilling d = {.self_text = 1,
                    .steps = 100,
                    .batch = 2,
                    .held_out = -1,
                    .check_every = 10,
                    .log_every = 8,
                    .checkpoint_every = 25,
                    .rate = 8.6e-5,
                    .weight_decay = 0.01,
                    .clip = 2,
                    .keep = KEEP_DEFAULT,
                    .samples = SAMPLES_DEFAULT,
                    .evals = EVALS_DEFAULT};
    int code;
    const arg options[] = {
        ARG("out", ARG_TEXT, &d.out, "DIR", "folder to write", .required = 1),
        KEEP_SIZE_OPTIONS(&d.keep),
        ARG("plan", ARG_TEXT, &d.plan_path, "PLAN", "ranks from the command plan"),
        ARG("storage", ARG_CHOICE, &d.storage, "FORM",
            "two-factor or pivot, as of compress [default two-factor]", .choices = storages),
        ARG("start", ARG_CHOICE, &d.start, "NAME",
            "pca (closed form, on the text) or svd (of the weights) [default pca]",
            .choices = starts),
        ARG("stream", ARG_CHOICE, &d.stream, "NAME",
            "teacher: inputs and outputs of the whole model; shift: inputs behind the smaller "
            "modules, and what the layer makes of them; anchored: those inputs, and the outputs of "
            "the whole model [default teacher]",
            .choices = streams),
        ARG("steps", ARG_INT, &d.steps, "N", "steps of each module [default 100]", .least = 1),
        ARG("batch", ARG_INT, &d.batch, "B", "windows of each step [default 2]", .least = 1,
            .most = 64),
        ARG("text", ARG_LIST, &d.samples.texts, "FILE", "text to learn from; may be repeated"),
        ARG("self-text", ARG_INT, &d.self_text, "0|1",
            "1: learn from text that the model writes itself, beside the others; 0: not [default "
            "1]",
            .most = 1),
        SAMPLES_SIZE_OPTIONS(&d.samples, "64"),
        ARG("lr", ARG_REAL, &d.rate, "X", "learning rate [default 8.6e-5]", .above = 1),
        ARG("weight-decay", ARG_REAL, &d.weight_decay, "D", "decoupled [default 0.01]"),
        ARG("clip", ARG_REAL, &d.clip, "C",
            "most that the norm of a module's gradients may be, 0: no limit [default 2]"),
        ARG("held-out", ARG_INT, &d.held_out, "N",
            "windows at the end of each text that judge and are not learnt from; 0: the running "
            "mean of the losses judges [default a tenth]"),
        ARG("check-every", ARG_INT, &d.check_every, "N",
            "steps between held-out losses [default 10]", .least = 1),
        ARG("patience", ARG_INT, &d.patience, "N",
            "a module stops behind so many checks without a better value, 0: never [default 0]"),
        ARG("log-every", ARG_INT, &d.log_every, "N", "steps between messages [default 8]",
            .least = 1),
        ARG("tail", ARG_FLAG, &d.wants_tail, NULL,
            "with --start svd too: tell the least loss that the rank allows on the text"),
        ARG("checkpoint-every", ARG_INT, &d.checkpoint_every, "N",
            "steps between checkpoints [default 25]", .least = 1),
        WORK_OPTIONS(&d.work),
        EVALS_OPTIONS(&d.evals, EVALS_HELD_OUT),
    };
    TRY(JOB_BEGIN(job, options));
    TRY(check(&d));
    TRY(work_open(&d.work, job, d.out));
    TRY(job_start(job));
    TRY(run(&d, job));
    TRY(job_report(job));
done:
    distill_log_end(&d.log);
    evals_end(&d.evals);
    lr_plan_free(d.plan);
    lr_model_free(d.source);
    lr_model_free(d.model);
    samples_end(&d.samples);
    free(d.ids);
    work_end(&d.work);
    return code;
}
