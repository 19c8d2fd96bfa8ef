/* The model of a training judged as it stands, every so many steps. */
#ifndef LR_CLI_TRAIN_TRIALS_H
#define LR_CLI_TRAIN_TRIALS_H

#include "cli/evals.h"
#include "cli/train_log.h"

typedef struct train_trials {
    int32_t every, keeps_best; /* steps, 0: never */
    int32_t judges_start;      /* the model before the first step too */
    int64_t steps;             /* of the training; the last one is judged too */
    const cli_evals *evals;
    const lr_model *model, *teacher; /* no teacher: NULL */
    const lr_optimizer *optimizer;
    char *best; /* file for the state of the best step; freed by train_trials_end() */
} train_trials;

/* Judges behind `step` when it is due and the log has it not yet; keeps the state when it is the
 * best so far. */
int train_trials_step(const train_trials *t, train_log *log, int64_t step);
/* The step whose model is nearest to the teacher, or without one has the least perplexity, over
 * all texts; the first of equals. -1: none was judged. */
int64_t train_trials_best(const train_trials *t, const train_log *log);
/* "evaluations.TEXT.during" of the result. */
int train_trials_put(const train_trials *t, const train_log *log, json_t *result);
void train_trials_end(train_trials *t);

#endif
