/* lowrank train: the parameters that patterns name, by the loss of the next token or of a teacher.
 * What an interrupted run goes on from lies in a folder beside the output. */
#include "cli/job.h"
#include "cli/progress.h"
#include "cli/staged.h"
#include "cli/train_course.h"
#include "cli/train_texts.h"
#include "cli/work.h"

#include <stdlib.h>
#include <string.h>

static const char *const schedules[] = {"constant", "linear", "cosine", NULL};
static const char *const rules[] = {"adamw", "sgd", NULL};

typedef struct teaching {
    const char *out, *teacher_path;
    arg_list patterns;
    int32_t keeps_all, rule, schedule, steps, batch, window, warm_up;
    double rate, momentum, weight_decay, clip, alpha, temperature, hidden;
    cli_work work;
    train_texts texts;
    cli_evals evals;
    train_course course;
    lr_model *source, *model, *teacher;
    lr_optimizer *optimizer;
} teaching;

/* ---- an interrupted run ---- */

/* All that decides what a step does, and which one is the best. */
static json_t *settings_of(const teaching *t, const cli_job *job) {
    uint64_t hash = texts_hash(TEXTS_HASH, &t->texts.tokens), judged = TEXTS_HASH;
    json_t *patterns = json_array();
    int failed = !patterns;
    for (int32_t i = 0; t->course.trials.every && i < t->evals.texts.count; i++)
        judged = texts_hash(judged, &t->evals.tokens[i]);
    for (int32_t i = 0; i < t->patterns.count; i++)
        failed |= json_array_append_new(patterns, report_name(t->patterns.items[i]));
    if (failed) {
        json_decref(patterns);
        return NULL;
    }
    return json_pack("{s:o, s:o, s:o, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, "
                     "s:f, s:f, s:i, s:b, s:I, s:I, s:b, s:f}",
                     "model", work_model(job->model_path), "teacher", work_model(t->teacher_path),
                     "train", patterns, "tokens", (json_int_t)t->texts.tokens.count, "text",
                     (json_int_t)(hash >> 1), "rule", t->rule, "schedule", t->schedule, "steps",
                     t->steps, "batch", t->batch, "window", t->window, "warm-up", t->warm_up, "lr",
                     t->rate, "weight-decay", t->weight_decay, "clip", t->clip, "alpha", t->alpha,
                     "temperature", t->temperature, "hidden", t->hidden, "eval-every",
                     t->course.trials.every, "keep-best", t->course.trials.keeps_best, "eval",
                     (json_int_t)(judged >> 1), "seed", (json_int_t)job->seed, "bf16", job->bf16,
                     "momentum", t->momentum);
}

/* ---- the run ---- */

static int make_optimizer(teaching *t, const cli_job *job) {
    lr_optimizer_opts opts;
    int64_t added;
    int code;
    lr_optimizer_opts_init(&opts, sizeof opts);
    opts.rule = t->rule ? LR_SGD : LR_ADAMW;
    opts.schedule = t->schedule;
    opts.learning_rate = t->rate;
    opts.momentum = t->momentum;
    opts.weight_decay = t->weight_decay;
    opts.warm_up = t->warm_up;
    opts.steps = t->steps;
    opts.clip = t->clip;
    TRY(report_status(lr_optimizer_new(&t->optimizer, job->ctx, &opts), WHILE_WORKING));
    for (int32_t i = 0; i < t->patterns.count || i == 0; i++)
        TRY(report_status(
            lr_optimizer_add_model(t->optimizer, t->model,
                                   t->patterns.count ? t->patterns.items[i] : "*", NULL, &added),
            WHILE_WORKING));
    TRY(report_count(job->result, "trained", lr_optimizer_numbers(t->optimizer)));
done:
    return code;
}

static int learn(teaching *t, const cli_job *job) {
    lr_train_opts opts;
    int code;
    lr_train_opts_init(&opts, sizeof opts);
    opts.steps = t->steps;
    opts.batch = t->batch;
    opts.window = t->window;
    opts.keeps_all = t->keeps_all;
    opts.seed = job->seed;
    opts.teacher = t->teacher;
    opts.alpha = t->alpha;
    opts.temperature = t->temperature;
    opts.hidden = t->hidden;
    t->course.work = &t->work;
    t->course.trials.evals = &t->evals;
    progress_stage("train", 1);
    progress_follow("train");
    TRY(train_course_run(&t->course, t->model, t->optimizer, &t->texts.tokens, &opts, job->result));
done:
    return code;
}

static int save(teaching *t, const cli_job *job) {
    int code;
    TRY(work_save(&t->work, job, t->model, t->out));
    TRY(train_log_save(&t->course.log, t->out));
    TRY(train_log_draw(&t->course.log, t->out));
    work_done(&t->work);
done:
    return code;
}

static int put_steps(const teaching *t, json_t *result) {
    int code;
    const train_log *log = &t->course.log;
    double seconds = 0, tokens = (double)log->count * t->batch * t->window;
    TRY(train_log_put(log, result));
    if (log->count) TRY(report_count(result, "steps", log->rows[log->count - 1].step));
    for (size_t i = 0; i < log->count; i++) seconds += log->rows[i].seconds;
    if (seconds > 0) TRY(report_real(result, "tokens_per_second", tokens / seconds));
done:
    return code;
}

static int run(teaching *t, cli_job *job) {
    lr_model *written = NULL;
    int code;
    TRY(job_stage(job, "open"));
    TRY(job_open(job, &t->model, job->model_path));
    TRY(report_status(lr_model_clone(&t->source, t->model), WHILE_WORKING));
    if (t->teacher_path) TRY(job_open(job, &t->teacher, t->teacher_path));
    TRY(job_stage(job, "read"));
    t->evals.field = t->texts.field;
    TRY(evals_load(&t->evals, t->model, t->window));
    TRY(train_texts_load(&t->texts, &t->evals, t->model, t->teacher ? t->teacher : t->model));
    TRY(evals_write(&t->evals, t->teacher ? t->teacher : t->model, t->window, TEXTS_SEED_JUDGE));
    TRY(work_begin(&t->work, job, settings_of(t, job)));
    TRY(make_optimizer(t, job));
    TRY(job_stage(job, "train"));
    TRY(learn(t, job));
    TRY(job_stage(job, "save"));
    TRY(save(t, job));
    lr_optimizer_free(t->optimizer); /* judging needs room, and the files are what is judged */
    lr_model_free(t->model);
    t->optimizer = NULL;
    t->model = NULL;
    TRY(job_stage(job, "evaluate"));
    TRY(job_open(job, &written, t->out));
    TRY(evals_run(&t->evals, job, t->source, written, t->teacher));
    TRY(train_trials_put(&t->course.trials, &t->course.log, job->result));
    TRY(report_count(job->result, "tokens", (int64_t)t->texts.tokens.count));
    TRY(put_steps(t, job->result));
    TRY(report_put(job->result, "out", report_name(t->out)));
    TRY(job_end_stages(job));
done:
    lr_model_free(written);
    return code;
}

int command_train(cli_job *job) {
    teaching t = {.steps = 100,
                  .batch = 4,
                  .window = 256,
                  .texts = {.self_windows = -1},
                  .course = {.checkpoint_every = 50},
                  .rate = 1e-4,
                  .clip = 1,
                  .alpha = -1, /* not given, as the temperature */
                  .evals = EVALS_DEFAULT};
    int code;
    const arg options[] = {
        ARG("out", ARG_TEXT, &t.out, "DIR", "folder to write", .required = 1),
        ARG("text", ARG_LIST, &t.texts.files, "FILE",
            "text to learn from, a .jsonl file being one text a line; may be repeated [default: "
            "text that the teacher, or else the model, writes itself]"),
        ARG("field", ARG_TEXT, &t.texts.field, "NAME",
            "member of the objects in .jsonl files that is the text [default text]"),
        ARG("self-windows", ARG_INT, &t.texts.self_windows, "N",
            "windows of such self-written text to learn from, beside the files too [default 256, "
            "or 0 with --text]"),
        ARG("train", ARG_LIST, &t.patterns, "PATTERN",
            "parameters that learn, such as '*.right.weight' or '*norm*'; may be repeated "
            "[default '*']"),
        ARG("teacher", ARG_TEXT, &t.teacher_path, "MODEL",
            "model whose predictions are to be met, instead of the text's next tokens"),
        ARG("alpha", ARG_REAL, &t.alpha, "A",
            "share of the teacher in the loss, the next tokens have the rest [default 1]",
            .most = 1),
        ARG("temperature", ARG_REAL, &t.temperature, "T",
            "of the teacher's and the model's predictions [default 1]", .above = 1),
        ARG("hidden", ARG_REAL, &t.hidden, "W",
            "adds so much of the relative distance between what leaves the model's blocks and the "
            "teacher's, which has as many of the same width [default 0]"),
        ARG("steps", ARG_INT, &t.steps, "N", "steps [default 100]", .least = 1),
        ARG("batch", ARG_INT, &t.batch, "B", "windows of each step [default 4]", .least = 1),
        ARG("window", ARG_INT, &t.window, "W", "tokens of each window [default 256]", .least = 2),
        ARG("lr", ARG_REAL, &t.rate, "X", "learning rate [default 1e-4]", .above = 1),
        ARG("rule", ARG_CHOICE, &t.rule, "NAME", "adamw or sgd [default adamw]", .choices = rules),
        ARG("momentum", ARG_REAL, &t.momentum, "M", "of sgd, below 1 [default 0]", .most = 1),
        ARG("schedule", ARG_CHOICE, &t.schedule, "NAME",
            "constant, linear or cosine, behind the warm-up [default constant]",
            .choices = schedules),
        ARG("warm-up", ARG_INT, &t.warm_up, "N", "steps in which the rate rises [default 0]"),
        ARG("weight-decay", ARG_REAL, &t.weight_decay, "D",
            "of adamw decoupled, of sgd part of the gradient [default 0]"),
        ARG("clip", ARG_REAL, &t.clip, "C",
            "most that the norm of the gradients may be, 0: no limit [default 1]"),
        ARG("keep-activations", ARG_FLAG, &t.keeps_all, NULL,
            "do not compute blocks twice: faster, with more memory"),
        ARG("checkpoint-every", ARG_INT, &t.course.checkpoint_every, "N",
            "steps between checkpoints [default 50]", .least = 1),
        WORK_OPTIONS(&t.work),
        EVALS_OPTIONS(&t.evals, EVALS_HELD_OUT),
        ARG("eval-every", ARG_INT, &t.course.trials.every, "N",
            "also judge the model as it stands every so many steps, beside the teacher if there is "
            "one [default 0: only before and after]"),
        ARG("keep-best", ARG_FLAG, &t.course.trials.keeps_best, NULL,
            "save the model of the step that was judged best, by its distance to the teacher or "
            "else by perplexity, and not the last"),
    };
    TRY(JOB_BEGIN(job, options));
    if (t.hidden > 0 && !t.teacher_path)
        TRY(report_fail(CODE_USAGE, "--hidden: expected --teacher"));
    if ((t.alpha >= 0 || t.temperature > 0) && !t.teacher_path)
        TRY(report_fail(CODE_USAGE, "--%s: expected --teacher",
                        t.alpha >= 0 ? "alpha" : "temperature"));
    if (t.alpha < 0) t.alpha = 1;
    if (t.temperature <= 0) t.temperature = 1;
    if (t.momentum > 0 && !t.rule) TRY(report_fail(CODE_USAGE, "--momentum: expected --rule sgd"));
    if (t.course.trials.keeps_best && !t.course.trials.every)
        TRY(report_fail(CODE_USAGE, "--keep-best: expected --eval-every"));
    TRY(work_open(&t.work, job, t.out));
    TRY(job_start(job));
    TRY(run(&t, job));
    TRY(job_report(job));
done:
    evals_end(&t.evals);
    train_course_end(&t.course);
    lr_optimizer_free(t.optimizer);
    lr_model_free(t.teacher);
    lr_model_free(t.source);
    lr_model_free(t.model);
    train_texts_end(&t.texts);
    free(t.patterns.items);
    work_end(&t.work);
    return code;
}
