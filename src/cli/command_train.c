/* lowrank train: the parameters that patterns name, by the loss of the next token or of a teacher.
 * What an interrupted run goes on from lies in a folder beside the output. */
#include "cli/evals.h"
#include "cli/job.h"
#include "cli/progress.h"
#include "cli/staged.h"
#include "cli/train_log.h"
#include "cli/work.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const schedules[] = {"constant", "linear", "cosine", NULL};
static const char *const rules[] = {"adamw", "sgd", NULL};

enum { HELD_OUT = 10 /* the last 1/10 of a text judges when no --eval is given */ };

typedef struct teaching {
    const char *out, *teacher_path;
    arg_list texts, patterns;
    int32_t self_windows, resume, keeps_all, rule, schedule, steps, batch, window, warm_up;
    int32_t checkpoint_every;
    double rate, weight_decay, clip, alpha, temperature;
    char *work, *checkpoint, *settings, *table;
    token_list tokens;
    cli_evals evals;
    train_log log;
    lr_model *source, *model, *teacher;
    lr_optimizer *optimizer;
    double seconds;
    int64_t seen;
    int code; /* of what a step's callback could not do */
} teaching;

/* ---- texts ---- */

static int append(token_list *all, const token_list *more, size_t count) {
    if (!count) return CODE_DONE;
    int32_t *ids = realloc(all->ids, (all->count + count) * sizeof *ids);
    if (!ids) return report_nomem();
    memcpy(ids + all->count, more->ids, count * sizeof *ids);
    all->ids = ids;
    all->count += count;
    return CODE_DONE;
}

/* All but the end of a text is learnt from; its end judges, where no --eval is given. */
static int take_text(teaching *t, int32_t index, token_list *text, int holds_out) {
    size_t window = (size_t)t->evals.window;
    size_t held = holds_out ? text->count / HELD_OUT / window * window : 0;
    int code;
    TRY(append(&t->tokens, text, text->count - held));
    if (!holds_out) return CODE_DONE;
    if (!held)
        return report_fail(CODE_USAGE,
                           "--text: %s: a tenth of its %zu tokens holds no window of "
                           "%zu to judge on, expected --eval",
                           t->texts.items[index], text->count, window);
    size_t judged =
        (size_t)t->evals.windows * window < held ? (size_t)t->evals.windows * window : held;
    memmove(text->ids, text->ids + text->count - judged, judged * sizeof *text->ids);
    text->count = judged;
    t->evals.tokens[index] = *text;
    *text = (token_list){0};
done:
    return code;
}

static int hold_out(teaching *t) {
    t->evals.window = texts_window(t->model, t->window);
    t->evals.texts.items = calloc((size_t)t->texts.count, sizeof *t->evals.texts.items);
    t->evals.tokens = calloc((size_t)t->texts.count, sizeof *t->evals.tokens);
    if (!t->evals.texts.items || !t->evals.tokens) return report_nomem();
    memcpy(t->evals.texts.items, t->texts.items, (size_t)t->texts.count * sizeof *t->texts.items);
    t->evals.texts.count = t->texts.count;
    return CODE_DONE;
}

static int load_texts(teaching *t) {
    int holds_out = t->texts.count && !t->evals.texts.count, code = CODE_DONE;
    const lr_tokenizer *tokenizer;
    token_list text = {0};
    if (holds_out) TRY(hold_out(t));
    if (!holds_out) TRY(evals_load(&t->evals, t->model, t->window));
    if (!t->texts.count)
        return texts_write(&t->tokens, t->teacher ? t->teacher : t->model, TEXTS_SEED_LEARN,
                           t->self_windows, texts_window(t->model, 0));
    TRY(texts_tokenizer(t->model, &tokenizer));
    for (int32_t i = 0; i < t->texts.count; i++) {
        TRY(texts_load(&text, tokenizer, t->texts.items[i]));
        TRY(take_text(t, i, &text, holds_out));
        free(text.ids);
        text = (token_list){0};
    }
done:
    free(text.ids);
    return code;
}

/* ---- an interrupted run ---- */

static int name_files(teaching *t) {
    int code;
    TRY(work_name(&t->work, t->out));
    if (asprintf(&t->checkpoint, "%s/checkpoint.safetensors", t->work) < 0 ||
        asprintf(&t->settings, "%s/settings.json", t->work) < 0 ||
        asprintf(&t->table, "%s/losses.csv", t->work) < 0)
        return report_nomem();
done:
    return code;
}

/* All that decides what a step does. */
static json_t *settings_of(const teaching *t, const cli_job *job) {
    uint64_t hash = 14695981039346656037U;
    json_t *patterns = json_array();
    for (size_t i = 0; i < t->tokens.count; i++)
        hash = (hash ^ (uint32_t)t->tokens.ids[i]) * 1099511628211U;
    for (int32_t i = 0; i < t->patterns.count; i++)
        json_array_append_new(patterns, json_string(t->patterns.items[i]));
    return json_pack("{s:s, s:s?, s:o, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, "
                     "s:f, s:I}",
                     "model", job->model_path, "teacher", t->teacher_path, "train", patterns,
                     "tokens", (json_int_t)t->tokens.count, "text", (json_int_t)(hash >> 1), "rule",
                     t->rule, "schedule", t->schedule, "steps", t->steps, "batch", t->batch,
                     "window", t->window, "warm-up", t->warm_up, "lr", t->rate, "weight-decay",
                     t->weight_decay, "clip", t->clip, "alpha", t->alpha, "temperature",
                     t->temperature, "seed", (json_int_t)(job->seed >> 1));
}

static int compare_settings(const teaching *t, const json_t *now) {
    json_error_t where;
    json_t *then = json_load_file(t->settings, 0, &where);
    const char *key;
    json_t *value;
    int code = CODE_DONE;
    if (!then) return report_fail(CODE_INPUT, "%s: %s", t->settings, where.text);
    json_object_foreach((json_t *)now, key, value) {
        if (code || json_equal(value, json_object_get(then, key))) continue;
        code = report_fail(CODE_USAGE,
                           "--resume: the run that was interrupted had another --%s; --force "
                           "begins anew",
                           key);
    }
    json_decref(then);
    return code;
}

static int write_settings(const teaching *t, const json_t *now) {
    staged_file file = {0};
    int code;
    TRY(staged_begin(&file, t->settings, 1));
    if (json_dumpf(now, file.out, JSON_INDENT(1))) TRY(report_nomem());
    TRY(staged_commit(&file));
done:
    staged_end(&file);
    return code;
}

static int begin_work(teaching *t, const cli_job *job) {
    json_t *now = settings_of(t, job);
    struct stat info;
    int code = now ? CODE_DONE : report_nomem(), exists = !stat(t->settings, &info);
    TRY(code);
    if (exists && t->resume) {
        TRY(compare_settings(t, now));
    } else if (exists && !job->force) {
        TRY(report_fail(CODE_FAILED,
                        "%s: holds an unfinished run; --resume goes on with it, "
                        "--force begins anew",
                        t->work));
    } else {
        work_remove(t->work);
        if (mkdir(t->work, 0777)) TRY(report_fail(CODE_FAILED, "%s: %s", t->work, strerror(errno)));
        TRY(write_settings(t, now));
    }
done:
    json_decref(now);
    return code;
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
    opts.weight_decay = t->weight_decay;
    opts.warm_up = t->warm_up;
    opts.steps = t->steps;
    opts.clip = t->clip;
    TRY(report_status(lr_optimizer_new(&t->optimizer, job->ctx, &opts), WHILE_WORKING));
    for (int32_t i = 0; i < t->patterns.count || i == 0; i++)
        TRY(report_status(
            lr_optimizer_add_model(t->optimizer, t->model,
                                   t->patterns.count ? t->patterns.items[i] : "*", NULL, &added),
            WHILE_READING));
    TRY(report_count(job->result, "trained", lr_optimizer_numbers(t->optimizer)));
done:
    return code;
}

static int32_t note_step(const lr_train_event *event, void *user) {
    teaching *t = user;
    const train_row row = {event->step, event->loss,          event->next_token, event->divergence,
                           event->norm, event->learning_rate, event->seconds};
    if (!t->log.count && event->step > 1)
        t->code = train_log_open(&t->log, t->table, event->step - 1);
    if (!t->code) t->code = train_log_add(&t->log, &row);
    if (!t->code && event->step % t->checkpoint_every == 0)
        t->code = train_log_save(&t->log, t->table);
    t->seconds += event->seconds;
    t->seen += event->tokens;
    return t->code || progress_is_cancelled();
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
    opts.checkpoint = t->checkpoint;
    opts.checkpoint_every = t->checkpoint_every;
    progress_stage("train", 1);
    lr_status status =
        lr_train(t->model, t->optimizer, t->tokens.ids, t->tokens.count, &opts, note_step, t);
    if (status == LR_E_CANCELLED && !t->code) train_log_save(&t->log, t->table);
    TRY(t->code);
    TRY(report_status(status, WHILE_WORKING));
    if (!t->log.count) TRY(train_log_open(&t->log, t->table, t->steps));
    TRY(train_log_save(&t->log, t->table));
done:
    return code;
}

static int save(const teaching *t, const cli_job *job) {
    lr_save_opts opts;
    char *table = NULL, *picture = NULL;
    int code;
    lr_save_opts_init(&opts, sizeof opts);
    opts.dtype = job_dtype(job);
    opts.force = job->force;
    TRY(report_status(lr_model_save(t->model, t->out, &opts), WHILE_WRITING));
    if (asprintf(&table, "%s/losses.csv", t->out) < 0 ||
        asprintf(&picture, "%s/losses.svg", t->out) < 0)
        TRY(report_nomem());
    TRY(train_log_save(&t->log, table));
    TRY(train_log_draw(&t->log, picture));
    work_remove(t->work);
done:
    free(table);
    free(picture);
    return code;
}

static int put_losses(const teaching *t, json_t *result) {
    json_t *losses = json_array();
    int code;
    TRY(report_put(result, "losses", losses));
    for (size_t i = 0; i < t->log.count; i++)
        if (json_array_append_new(losses, json_real(t->log.rows[i].loss))) TRY(report_nomem());
    if (t->log.count) TRY(report_count(result, "steps", t->log.rows[t->log.count - 1].step));
    if (t->seconds > 0) TRY(report_real(result, "tokens_per_second", (double)t->seen / t->seconds));
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
    TRY(load_texts(t));
    TRY(begin_work(t, job));
    TRY(make_optimizer(t, job));
    TRY(job_stage(job, "train"));
    TRY(learn(t, job));
    TRY(job_stage(job, "save"));
    TRY(save(t, job));
    lr_optimizer_free(t->optimizer); /* judging needs room, and the files are what is judged */
    lr_model_free(t->model);
    t->optimizer = NULL;
    t->model = NULL;
    if (t->evals.texts.count) TRY(job_stage(job, "evaluate"));
    TRY(job_open(job, &written, t->out));
    TRY(evals_run(&t->evals, job, t->teacher ? t->teacher : t->source, written));
    TRY(report_count(job->result, "tokens", (int64_t)t->tokens.count));
    TRY(put_losses(t, job->result));
    TRY(report_put(job->result, "out", report_text(t->out, strlen(t->out))));
    TRY(job_end_stages(job));
done:
    lr_model_free(written);
    return code;
}

int command_train(cli_job *job) {
    teaching t = {.steps = 100,
                  .batch = 4,
                  .window = 256,
                  .self_windows = 256,
                  .checkpoint_every = 50,
                  .rate = 1e-4,
                  .clip = 1,
                  .alpha = 1,
                  .temperature = 1,
                  .evals = EVALS_DEFAULT};
    int code;
    const arg options[] = {
        ARG("out", ARG_TEXT, &t.out, "DIR", "folder to write", .required = 1),
        ARG("text", ARG_LIST, &t.texts, "FILE",
            "text to learn from; may be repeated [default: text that the teacher, or else the "
            "model, writes itself]"),
        ARG("self-windows", ARG_INT, &t.self_windows, "N", "windows of such text [default 256]",
            .least = 1),
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
        ARG("steps", ARG_INT, &t.steps, "N", "steps [default 100]", .least = 1),
        ARG("batch", ARG_INT, &t.batch, "B", "windows of each step [default 4]", .least = 1),
        ARG("window", ARG_INT, &t.window, "W", "tokens of each window [default 256]", .least = 2),
        ARG("lr", ARG_REAL, &t.rate, "X", "learning rate [default 1e-4]", .above = 1),
        ARG("rule", ARG_CHOICE, &t.rule, "NAME", "adamw or sgd [default adamw]", .choices = rules),
        ARG("schedule", ARG_CHOICE, &t.schedule, "NAME",
            "constant, linear or cosine, behind the warm-up [default constant]",
            .choices = schedules),
        ARG("warm-up", ARG_INT, &t.warm_up, "N", "steps in which the rate rises [default 0]"),
        ARG("weight-decay", ARG_REAL, &t.weight_decay, "D", "decoupled [default 0]"),
        ARG("clip", ARG_REAL, &t.clip, "C",
            "most that the norm of the gradients may be, 0: no limit [default 1]"),
        ARG("keep-activations", ARG_FLAG, &t.keeps_all, NULL,
            "do not compute blocks twice: faster, with more memory"),
        ARG("checkpoint-every", ARG_INT, &t.checkpoint_every, "N",
            "steps between checkpoints [default 50]", .least = 1),
        ARG("resume", ARG_FLAG, &t.resume, NULL, "go on with a run that was interrupted"),
        EVALS_OPTIONS(&t.evals),
    };
    TRY(JOB_BEGIN(job, options));
    TRY(job_check_output(job, t.out));
    TRY(name_files(&t));
    TRY(job_start(job));
    TRY(run(&t, job));
    TRY(job_report(job));
done:
    evals_end(&t.evals);
    train_log_end(&t.log);
    lr_optimizer_free(t.optimizer);
    lr_model_free(t.teacher);
    lr_model_free(t.source);
    lr_model_free(t.model);
    free(t.tokens.ids);
    free(t.texts.items);
    free(t.patterns.items);
    free(t.work);
    free(t.checkpoint);
    free(t.settings);
    free(t.table);
    return code;
}
