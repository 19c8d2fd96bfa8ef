/* What each step of a training lost: kept beside the checkpoint, then a table and a picture in the
 * output. */
#ifndef LR_CLI_TRAIN_LOG_H
#define LR_CLI_TRAIN_LOG_H

#include "cli/work.h"

#include <stdio.h>

typedef struct train_row {
    int64_t step;
    double loss, next_token, divergence, hidden, norm, learning_rate, seconds;
} train_row;

/* The model as it stood behind a step, judged on one of the texts. */
typedef struct train_trial {
    int64_t step;
    double perplexity, kl; /* to the teacher; 0 without one */
    int32_t text;
} train_trial;

typedef struct train_log {
    const arg_list *texts; /* that trials are made on, borrowed */
    train_row *rows;
    size_t count, room;
    train_trial *trials; /* all texts of a step in their order, step after step */
    size_t trial_count, trial_room;
} train_log;

int train_log_add(train_log *log, const lr_train_event *event);
int train_log_add_trial(train_log *log, const train_trial *trial);
/* Where a run that was interrupted stands, with what it had to say up to there; nothing without a
 * checkpoint. */
int train_log_resume(train_log *log, const cli_work *work, lr_optimizer *optimizer);
/* Comma-separated: "losses.csv", one row for each step, and "evaluations.csv", if there are any. */
int train_log_save(const train_log *log, const char *folder);
/* One file of the folder, written by `put`, whole or not at all. */
int train_log_write(const train_log *log, const char *folder, const char *name,
                    void (*put)(const train_log *, FILE *));
/* The losses, and the perplexities, as drawings of their own: "losses.svg", "evaluations.svg". */
int train_log_draw(const train_log *log, const char *folder);
/* The losses of all steps, as "losses" of the result. */
int train_log_put(const train_log *log, json_t *result);
void train_log_end(train_log *log);

#endif
