/* A trial changes nothing that is trained, and draws nothing at random: with it or without, the
 * steps are the same. */
#include "cli/train_trials.h"

#include <math.h>
#include <stdlib.h>

static int is_due(const train_trials *t, const train_log *log, int64_t step) {
    if (!t->every || step < !t->judges_start) return 0;
    if (step % t->every && step != t->steps) return 0;
    return !log->trial_count || log->trials[log->trial_count - 1].step < step;
}

int64_t train_trials_best(const train_trials *t, const train_log *log) {
    int64_t best = -1;
    double least = INFINITY;
    size_t texts = (size_t)t->evals->texts.count;
    for (size_t i = 0; i < log->trial_count && i + texts <= log->trial_count; i += texts) {
        double loss = 0;
        for (int32_t text = 0; text < t->evals->texts.count; text++) {
            const train_trial *trial = &log->trials[i + (size_t)text];
            loss += t->teacher ? trial->kl : log2(trial->perplexity);
        }
        if (loss < least) best = log->trials[i].step;
        least = fmin(least, loss);
    }
    return best;
}

/* All texts are judged before any of them is in the log: a step is there whole or not at all. */
static int judge(const train_trials *t, train_log *log, int64_t step) {
    int32_t count = t->evals->texts.count;
    train_trial *found = calloc((size_t)count, sizeof *found);
    int code = found ? CODE_DONE : report_nomem();
    for (int32_t i = 0; i < count && !code; i++) {
        lr_eval_result result = {.size = sizeof result};
        code = evals_judge(t->evals, i, t->model, t->teacher, &result);
        found[i] = (train_trial){step, result.perplexity, result.kl, i};
    }
    for (int32_t i = 0; i < count && !code; i++) code = train_log_add_trial(log, &found[i]);
    free(found);
    return code;
}

int train_trials_step(const train_trials *t, train_log *log, int64_t step) {
    int code = CODE_DONE;
    if (!is_due(t, log, step)) return CODE_DONE;
    TRY(judge(t, log, step));
    if (t->keeps_best && train_trials_best(t, log) == step)
        TRY(report_status(lr_optimizer_save(t->optimizer, t->best, 1), WHILE_WRITING));
done:
    return code;
}

static int put_trial(json_t *list, const train_trial *trial, int has_teacher) {
    json_t *about = json_object();
    int code;
    if (json_array_append_new(list, about)) return report_nomem();
    TRY(report_count(about, "step", trial->step));
    TRY(report_real(about, "perplexity", trial->perplexity));
    if (has_teacher) TRY(report_real(about, "kl", trial->kl));
done:
    return code;
}

int train_trials_put(const train_trials *t, const train_log *log, json_t *result) {
    json_t *all = json_object_get(result, "evaluations");
    int code = CODE_DONE;
    if (!t->every) return CODE_DONE;
    for (int32_t text = 0; text < t->evals->texts.count; text++) {
        json_t *list = json_array();
        const char *path = t->evals->texts.items[text];
        TRY(report_put(evals_about(all, path), "during", list));
        for (size_t i = 0; i < log->trial_count; i++)
            if (log->trials[i].text == text)
                TRY(put_trial(list, &log->trials[i], t->teacher != NULL));
    }
done:
    return code;
}

void train_trials_end(train_trials *t) { free(t->best); }
