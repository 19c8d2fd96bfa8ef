/* lowrank recover: closed form, block refinement and a polish from end to end in one go, with the
 * dense model as the teacher of all of it. */
#include "cli/choose.h"
#include "cli/evals.h"
#include "cli/job.h"
#include "cli/keep.h"
#include "cli/methods.h"
#include "cli/progress.h"
#include "cli/samples.h"
#include "cli/staged.h"
#include "cli/train_course.h"
#include "cli/work.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    POLISH_BATCH = 4,
    CHECKPOINT_EVERY = 20,
    TRIALS = 5,
    CHOICE_WINDOWS = 8,
    SAMPLES_LEAST = 64,
    NOT_GIVEN = -1
};

static const char *const losses[] = {"relative", "squares", "cosine", NULL};
static const char *const presets[] = {"cpu", "gpu", NULL};
static const char *const learners[] = {"all", "factors", "norms", NULL};

/* What learns, by names within a block. */
static const char *const learnt[] = {"*", "*.{left,right,pivot,mix}.weight", "*norm.weight"};

typedef struct recovery {
    const char *out, *teacher_path;
    cli_work work;
    cli_keep keep;
    cli_samples samples;
    cli_evals evals, held; /* held: by which the best step of the polish is told */
    int32_t method, preset, epochs, refine_batch, steps, batch, window, loss, patience, learner;
    double refine_rate, refine_decay, rate, look_ahead, dense_inputs;
    lr_model *source, *model; /* the dense one; what is made smaller */
    lr_stats *stats;
    lr_plan *plan;
    lr_optimizer *optimizer;
    token_list tokens; /* of all texts, window after window */
    json_t *stages, *blocks;
    train_course course;
    lr_model_info before; /* sizes of the dense model */
    double since;
    int code; /* of what a callback could not do */
} recovery;

/* ---- what is learnt from ---- */

/* Text that is read again is learnt by heart: a hundred steps on fresh text win more than three
 * hundred on a third of it. */
static int32_t samples_wanted(const recovery *r) {
    double wanted = ceil((double)r->steps * r->batch * r->window / r->samples.window);
    if (wanted < SAMPLES_LEAST) return SAMPLES_LEAST;
    return wanted < INT32_MAX ? (int32_t)wanted : INT32_MAX;
}

static int join_texts(recovery *r) {
    size_t at = 0;
    for (int32_t i = 0; i < r->samples.count; i++) r->tokens.count += r->samples.whole[i].count;
    r->tokens.ids = calloc(r->tokens.count, sizeof *r->tokens.ids);
    if (!r->tokens.ids) return report_nomem();
    for (int32_t i = 0; i < r->samples.count; i++) {
        const lr_text *text = &r->samples.whole[i];
        memcpy(r->tokens.ids + at, text->ids, text->count * sizeof *text->ids);
        at += text->count;
    }
    return CODE_DONE;
}

/* ---- an interrupted run ---- */

/* What the texts say, and of each its length and weight. */
static json_t *describe_texts(const recovery *r) {
    json_t *texts = json_array();
    int failed = !texts;
    failed |= json_array_append_new(
        texts, json_integer((json_int_t)(texts_hash(TEXTS_HASH, &r->tokens) >> 1)));
    for (int32_t i = 0; i < r->samples.count; i++)
        failed |= json_array_append_new(
            texts, json_pack("{s:I, s:f}", "tokens", (json_int_t)r->samples.whole[i].count,
                             "weight", r->samples.whole[i].weight));
    if (!failed) return texts;
    json_decref(texts);
    return NULL;
}

/* All that decides what the run does; NULL when memory is out. */
static json_t *settings_of(const recovery *r, const cli_job *job) {
    json_t *keep = keep_settings(&r->keep);
    json_t *all = json_pack(
        "{s:o, s:o, s:s, s:i, s:i, s:o, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, "
        "s:f, s:f, s:f, s:f, s:I, s:i, s:b}",
        "model", work_model(job->model_path), "teacher", work_model(r->teacher_path), "method",
        methods[r->method], "samples", r->samples.counted, "window", r->samples.window, "text",
        describe_texts(r), "preset", presets[r->preset], "epochs", r->epochs, "steps", r->steps,
        "batch", r->batch, "step-window", r->window, "loss", r->loss, "patience", r->patience,
        "train", r->learner, "refine-lr", r->refine_rate, "lr", r->rate, "look-ahead",
        r->look_ahead, "dense-inputs", r->dense_inputs, "seed", (json_int_t)job->seed, "dtype",
        job->dtype, "bf16", job->bf16);
    if (!keep || !all || json_object_update(all, keep)) {
        json_decref(all);
        all = NULL;
    }
    json_decref(keep);
    return all;
}

/* ---- stages ---- */

/* Seconds since the last stage was judged, and how near the model is now. */
static int judge(recovery *r, const char *stage, const lr_model *model) {
    json_t *about = json_object(), *found = json_object();
    double now = progress_seconds();
    int code = about && found ? CODE_DONE : report_nomem();
    TRY(code);
    TRY(report_put(about, "stage", json_string(stage)));
    TRY(report_real(about, "seconds", now - r->since));
    TRY(evals_put(&r->evals, model, model == r->source ? NULL : r->source, found));
    TRY(report_put(about, "evaluations", json_incref(found)));
    if (json_array_append(r->stages, about)) TRY(report_nomem());
    r->since = progress_seconds();
done:
    json_decref(found);
    json_decref(about);
    return code;
}

static int32_t note_module(const lr_compress_event *event, void *user) {
    (void)event;
    (void)user;
    return progress_is_cancelled();
}

/* Each allocation is judged on text of the model that is not learnt from. */
static int choose(recovery *r, cli_job *job) {
    cli_choice choice = {.keep = &r->keep,
                         .method = methods[r->method],
                         .windows = CHOICE_WINDOWS,
                         .window = r->samples.window};
    int code;
    TRY(choice_begin(&choice, r->model));
    TRY(choice_make(&choice, job, r->model, r->stats, &r->plan));
done:
    choice_end(&choice);
    return code;
}

static int allocate(recovery *r, cli_job *job) {
    int code;
    if (r->keep.allocation == KEEP_UNIFORM) return CODE_DONE;
    lr_plan_free(r->plan);
    r->plan = NULL;
    TRY(job_stage(job, "plan"));
    if (r->keep.allocation == KEEP_AUTO)
        TRY(choose(r, job));
    else
        TRY(keep_plan(&r->keep, job, r->model, r->stats, &r->plan));
    TRY(keep_about(job->result, r->plan));
done:
    return code;
}

/* Statistics take longest of all before the first block, so they are kept for a run that goes on;
 * and every run takes them from the file, so that all work with the same numbers. */
static int collect(recovery *r) {
    const char *path = r->work.statistics;
    int code;
    if (access(path, F_OK)) {
        TRY(samples_count(&r->samples, r->model, &r->stats));
        TRY(report_status(lr_stats_save(r->stats, path, 1), WHILE_WRITING));
        lr_stats_free(r->stats);
        r->stats = NULL;
    }
    TRY(report_status(lr_stats_open(&r->stats, r->model, path), WHILE_READING));
done:
    return code;
}

static int close_form(recovery *r, cli_job *job) {
    lr_compress_opts opts;
    int code;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = methods[r->method];
    TRY(job_stage(job, "collect"));
    TRY(collect(r));
    TRY(allocate(r, job));
    TRY(job_stage(job, "factorise"));
    TRY(report_status(lr_compress(r->model, r->plan, r->stats, &opts, note_module, r),
                      WHILE_WORKING));
    lr_stats_free(r->stats); /* what follows needs the room */
    r->stats = NULL;
    TRY(judge(r, "closed form", r->model));
done:
    return code;
}

static int32_t note_block(const lr_refine_event *event, void *user) {
    recovery *r = user;
    json_t *block = json_pack("{s:i,s:i,s:I,s:f,s:f,s:f}", "layer", event->layer, "epochs",
                              event->epochs, "steps", (json_int_t)event->steps, "before",
                              event->before, "after", event->after, "seconds", event->seconds);
    if (json_array_append_new(r->blocks, block)) r->code = report_nomem();
    return r->code || progress_is_cancelled();
}

static int refine(recovery *r, cli_job *job) {
    lr_refine_opts opts;
    int code;
    if (!r->epochs) return CODE_DONE;
    TRY(job_stage(job, "refine"));
    progress_stage("refine", 1);
    lr_refine_opts_init(&opts, sizeof opts);
    opts.pattern = learnt[r->learner];
    opts.epochs = r->epochs;
    opts.batch = r->refine_batch;
    opts.window = r->window;
    opts.loss = r->loss;
    opts.learning_rate = r->refine_rate;
    opts.weight_decay = r->refine_decay;
    opts.look_ahead = r->look_ahead;
    opts.dense_inputs = r->dense_inputs;
    opts.patience = r->patience;
    opts.seed = job->seed;
    opts.work = r->work.folder;
    lr_status status =
        lr_refine(r->model, r->source, r->tokens.ids, r->tokens.count, &opts, note_block, r);
    TRY(r->code);
    TRY(report_status(status, WHILE_WORKING));
    if (r->steps) TRY(judge(r, "refined", r->model));
done:
    return code;
}

static int make_optimizer(recovery *r, const cli_job *job) {
    lr_optimizer_opts opts;
    char pattern[64];
    int code;
    lr_optimizer_opts_init(&opts, sizeof opts);
    opts.schedule = LR_COSINE;
    opts.learning_rate = r->rate;
    opts.steps = r->steps;
    opts.warm_up = r->steps > 1 ? r->steps / 20 + 1 : 0;
    opts.final_share = 0.1;
    opts.clip = 1;
    snprintf(pattern, sizeof pattern, "model.layers.%s", learnt[r->learner]);
    TRY(report_status(lr_optimizer_new(&r->optimizer, job->ctx, &opts), WHILE_WORKING));
    TRY(report_status(lr_optimizer_add_model(r->optimizer, r->model, pattern, NULL, NULL),
                      WHILE_WORKING));
    TRY(report_count(job->result, "trained", lr_optimizer_numbers(r->optimizer)));
done:
    return code;
}

static int polish(recovery *r, cli_job *job) {
    lr_train_opts opts;
    int code;
    if (!r->steps) return CODE_DONE;
    TRY(job_stage(job, "polish"));
    progress_stage("polish", 1);
    TRY(make_optimizer(r, job));
    lr_train_opts_init(&opts, sizeof opts);
    opts.steps = r->steps;
    opts.batch = r->batch;
    opts.window = r->window;
    opts.keeps_all = 1;
    opts.seed = job->seed;
    opts.teacher = r->source;
    r->course = (train_course){
        .work = &r->work,
        .checkpoint_every = CHECKPOINT_EVERY,
        .trials = {.every = (r->steps + TRIALS - 1) / TRIALS, .keeps_best = 1, .judges_start = 1}};
    r->course.trials.evals = &r->held;
    TRY(train_course_run(&r->course, r->model, r->optimizer, &r->tokens, &opts, job->result));
    lr_optimizer_free(r->optimizer);
    r->optimizer = NULL;
done:
    return code;
}

static int save(recovery *r, cli_job *job) {
    lr_model *written = NULL;
    int code;
    TRY(job_stage(job, "save"));
    TRY(work_save(&r->work, job, r->model, r->out));
    if (r->steps) TRY(train_log_save(&r->course.log, r->out));
    if (r->steps) TRY(train_log_draw(&r->course.log, r->out));
    work_done(&r->work);
    lr_model_free(r->model);
    r->model = NULL;
    TRY(job_stage(job, "evaluate"));
    TRY(job_open(job, &written, r->out));
    TRY(judge(r, r->steps ? "polished" : "refined", written));
    TRY(keep_sizes(job->result, &r->before, written));
done:
    lr_model_free(written);
    return code;
}

static int open_models(recovery *r, cli_job *job) {
    int code;
    TRY(job_stage(job, "open"));
    TRY(job_open(job, &r->model, job->model_path));
    if (r->teacher_path)
        TRY(job_open(job, &r->source, r->teacher_path));
    else
        TRY(report_status(lr_model_clone(&r->source, r->model), WHILE_WORKING));
    r->before.size = sizeof r->before;
    TRY(report_status(lr_model_get_info(r->source, &r->before), WHILE_WORKING));
    TRY(evals_load(&r->evals, r->source, r->samples.window));
    if (!r->teacher_path) TRY(keep_uniform(&r->keep, job, r->model, &r->plan));
done:
    return code;
}

static int run(recovery *r, cli_job *job) {
    int code;
    TRY(open_models(r, job));
    TRY(job_stage(job, "read"));
    r->samples.window = texts_window(r->source, r->samples.window);
    if (!r->samples.samples) {
        r->samples.samples = samples_wanted(r);
        r->samples.counted = SAMPLES_LEAST; /* more tell statistics nothing new */
    }
    r->samples.holds_out = !r->evals.texts.count;
    TRY(samples_load(&r->samples, job, r->source));
    TRY(join_texts(r));
    if (r->samples.holds_out) TRY(samples_hold_out(&r->samples, &r->evals));
    TRY(evals_write(&r->evals, r->source, r->samples.window, TEXTS_SEED_JUDGE));
    if (r->steps) TRY(evals_write(&r->held, r->source, r->samples.window, TEXTS_SEED_CHOOSE));
    TRY(work_begin(&r->work, job, settings_of(r, job)));
    r->since = progress_seconds();
    TRY(judge(r, "source", r->source));
    if (r->teacher_path)
        TRY(judge(r, "factorised", r->model));
    else
        TRY(close_form(r, job));
    TRY(refine(r, job));
    TRY(polish(r, job));
    TRY(save(r, job));
    TRY(report_put(job->result, "stages", json_incref(r->stages)));
    TRY(train_log_put(&r->course.log, job->result));
    TRY(report_put(job->result, "blocks", json_incref(r->blocks)));
    TRY(report_put(job->result, "out", report_name(r->out)));
    TRY(job_end_stages(job));
done:
    return code;
}

/* What sees the loss in factorising sees it in sharing too; shared factors want equal ranks. */
static int usual_allocation(const recovery *r, int is_shared_out) {
    if (!is_shared_out || r->keep.storage == KEEP_SHARED) return KEEP_UNIFORM;
    return r->method == METHOD_KFAC ? KEEP_FIRST_ORDER : KEEP_AUTO;
}

/* What is not given becomes what the preset says. */
static int fill_refinement(recovery *r) {
    lr_refine_opts usual;
    int code;
    if (r->preset < 0) r->preset = 0;
    lr_refine_opts_init(&usual, sizeof usual);
    TRY(report_status(lr_refine_opts_preset(&usual, presets[r->preset]), WHILE_WORKING));
    if (r->epochs < 0) r->epochs = usual.epochs;
    if (r->refine_rate <= 0) r->refine_rate = usual.learning_rate;
    if (r->loss < 0) r->loss = usual.loss;
    if (r->look_ahead < 0) r->look_ahead = usual.look_ahead;
    if (r->dense_inputs < 0) r->dense_inputs = usual.dense_inputs;
    if (r->patience < 0) r->patience = usual.patience;
    r->refine_batch = r->batch ? r->batch : usual.batch;
    r->refine_decay = usual.weight_decay;
    if (!r->batch) r->batch = POLISH_BATCH;
done:
    return code;
}

/* Options of a stage that is left out are refused; what else is not given becomes usual. */
static int check_stages(recovery *r) {
    int is_refined = r->refine_rate > 0 || r->loss >= 0 || r->look_ahead >= 0 ||
                     r->dense_inputs >= 0 || r->patience >= 0 || r->preset >= 0;
    if (!r->epochs && !r->steps)
        return report_fail(CODE_USAGE, "--epochs 0 and --steps 0: nothing to do; the command "
                                       "compress makes the closed form alone");
    if (!r->epochs && is_refined)
        return report_fail(CODE_USAGE, "--epochs 0: expected none of --refine-lr, --loss, "
                                       "--look-ahead, --dense-inputs, --patience and --preset "
                                       "beside it");
    if (!r->steps && r->rate > 0)
        return report_fail(CODE_USAGE, "--steps 0: expected no --lr beside it");
    if (r->rate <= 0) r->rate = 2.5e-5;
    return fill_refinement(r);
}

static int check(recovery *r) {
    int code;
    const cli_keep *k = &r->keep;
    int is_shared_out = k->linear > 0 || k->model > 0 || k->bytes;
    int is_sized = is_shared_out || k->ranks;
    int is_shaped = k->match || k->storage || k->allocation >= 0 || k->weights || k->floor >= 0 ||
                    r->method >= 0;
    if (r->teacher_path && (is_sized || is_shaped))
        return report_fail(CODE_USAGE,
                           "--teacher: the model is factorised already, expected no "
                           "%s beside it",
                           is_sized ? "--keep"
                                    : "--match, --storage, --method, --allocation, --floor "
                                      "or --weights");
    TRY(check_stages(r));
    if (r->method == NOT_GIVEN) r->method = METHOD_KFAC;
    if (k->allocation == NOT_GIVEN) r->keep.allocation = usual_allocation(r, is_shared_out);
    if (!r->teacher_path) TRY(keep_check(k, NULL));
    if (k->allocation != KEEP_AUTO) TRY(keep_check_allocation(k));
    r->samples.match = k->match;
    r->samples.gradients = method_reads_gradients(r->method) || k->allocation == KEEP_FIRST_ORDER;
    r->samples.exact = r->method == METHOD_QR;
    TRY(samples_check(&r->samples));
done:
    return code;
}

int command_recover(cli_job *job) {
    recovery r = {.keep = KEEP_DEFAULT,
                  .samples = SAMPLES_DEFAULT,
                  .evals = EVALS_DEFAULT,
                  .held = {.windows = CHOICE_WINDOWS},
                  .epochs = NOT_GIVEN,
                  .steps = 100,
                  .window = 256};
    int code;
    r.keep.allocation = r.method = r.loss = r.patience = r.preset = NOT_GIVEN;
    r.look_ahead = r.dense_inputs = NOT_GIVEN;
    r.samples.samples = 0; /* not given */
    const arg options[] = {
        ARG("out", ARG_TEXT, &r.out, "DIR", "folder to write", .required = 1),
        ARG("teacher", ARG_TEXT, &r.teacher_path, "MODEL",
            "dense model; MODEL is then factorised already"),
        ARG("method", ARG_CHOICE, &r.method, "NAME", METHODS_HELP "[default kfac]",
            .choices = methods),
        KEEP_OPTIONS(&r.keep, "first-order, with another method than kfac auto"),
        SAMPLES_OPTIONS(&r.samples, "as many as the polish reads once, at least 64"),
        ARG("preset", ARG_CHOICE, &r.preset, "NAME",
            "of block refinement, what it does where nothing else is said: cpu, or gpu, 25 epochs "
            "of 32 windows a step at 1e-4 with look-ahead 0.5, half of the inputs dense, and "
            "patience 3 [default cpu]",
            .choices = presets),
        ARG("epochs", ARG_INT, &r.epochs, "N", "of block refinement, 0 leaves it out [default 2]"),
        ARG("steps", ARG_INT, &r.steps, "N", "from end to end, 0 leaves them out [default 100]"),
        ARG("batch", ARG_INT, &r.batch, "B", "windows of each step [default 4]", .least = 1,
            .most = 64),
        ARG("step-window", ARG_INT, &r.window, "W", "tokens of such a window [default 256]",
            .least = 2),
        ARG("refine-lr", ARG_REAL, &r.refine_rate, "X",
            "learning rate of block refinement [default 2e-4]", .above = 1),
        ARG("lr", ARG_REAL, &r.rate, "X", "learning rate from end to end [default 2.5e-5]",
            .above = 1),
        ARG("loss", ARG_CHOICE, &r.loss, "NAME",
            "of block refinement: relative, squares or cosine [default relative]",
            .choices = losses),
        ARG("train", ARG_CHOICE, &r.learner, "WHAT", "all, factors or norms [default all]",
            .choices = learners),
        ARG("dense-inputs", ARG_REAL, &r.dense_inputs, "S",
            "share of block refinement on the inputs of the dense model [default 0]", .most = 1),
        ARG("look-ahead", ARG_REAL, &r.look_ahead, "W",
            "weight of the loss behind the next block [default 0]"),
        ARG("patience", ARG_INT, &r.patience, "N",
            "epochs without gain behind which a block is finished [default 0: never]"),
        WORK_OPTIONS(&r.work),
        EVALS_OPTIONS(&r.evals, EVALS_HELD_OUT),
    };
    TRY(JOB_BEGIN(job, options));
    TRY(check(&r));
    TRY(work_open(&r.work, job, r.out));
    r.stages = json_array();
    r.blocks = json_array();
    if (!r.stages || !r.blocks) TRY(report_nomem());
    TRY(job_start(job));
    TRY(run(&r, job));
    TRY(job_report(job));
done:
    json_decref(r.stages);
    json_decref(r.blocks);
    evals_end(&r.evals);
    evals_end(&r.held);
    train_course_end(&r.course);
    lr_optimizer_free(r.optimizer);
    lr_plan_free(r.plan);
    lr_stats_free(r.stats);
    lr_model_free(r.source);
    lr_model_free(r.model);
    samples_end(&r.samples);
    free(r.tokens.ids);
    work_end(&r.work);
    return code;
}
