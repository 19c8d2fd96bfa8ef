#include "cli/train_course.h"

#include "cli/progress.h"

#include <stdio.h>

static int32_t note_step(const lr_train_event *e, void *user) {
    train_course *c = user;
    c->code = train_log_add(&c->log, e);
    if (!c->code) c->code = train_trials_step(&c->trials, &c->log, e->step);
    int is_cancelled = c->code || progress_is_cancelled();
    if (is_cancelled || e->step % c->checkpoint_every == 0 || e->step == c->trials.steps) {
        int code =
            train_log_save(&c->log, c->work->folder); /* before the checkpoint of this step */
        if (!c->code) c->code = code;
    }
    return c->code || is_cancelled;
}

static int go_back(const train_course *c, lr_optimizer *optimizer, json_t *result) {
    int64_t best = train_trials_best(&c->trials, &c->log);
    int code = CODE_DONE;
    if (!c->trials.keeps_best || best < 0) return CODE_DONE;
    if (best != lr_optimizer_steps(optimizer))
        TRY(report_status(lr_optimizer_restore(optimizer, c->trials.best), WHILE_READING));
    TRY(report_count(result, "best_step", best));
done:
    return code;
}

int train_course_run(train_course *c, lr_model *model, lr_optimizer *optimizer,
                     const token_list *tokens, lr_train_opts *opts, json_t *result) {
    int code;
    if (asprintf(&c->trials.best, "%s/best.safetensors", c->work->folder) < 0)
        return report_nomem();
    opts->checkpoint = c->work->checkpoint;
    opts->checkpoint_every = c->checkpoint_every;
    c->trials.model = model;
    c->trials.optimizer = optimizer;
    c->trials.teacher = opts->teacher;
    c->trials.steps = opts->steps;
    if (c->trials.evals) c->log.texts = &c->trials.evals->texts;
    TRY(train_log_resume(&c->log, c->work, optimizer));
    /* one that the run was interrupted in, or that comes before all steps */
    TRY(train_trials_step(&c->trials, &c->log, lr_optimizer_steps(optimizer)));
    lr_status status = lr_train(model, optimizer, tokens->ids, tokens->count, opts, note_step, c);
    TRY(c->code);
    TRY(report_status(status, WHILE_WORKING));
    TRY(go_back(c, optimizer, result));
done:
    return code;
}

void train_course_end(train_course *c) {
    train_log_end(&c->log);
    train_trials_end(&c->trials);
}
