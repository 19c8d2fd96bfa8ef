/* A training from its first step, or from where an interrupted run stood, to the model that is
 * kept: each step noted, the model judged on the way. */
#ifndef LR_CLI_TRAIN_COURSE_H
#define LR_CLI_TRAIN_COURSE_H

#include "cli/train_trials.h"

typedef struct train_course {
    const cli_work *work;
    int32_t checkpoint_every;
    train_log log;
    train_trials trials;
    int code; /* of what a step's callback could not do */
} train_course;

/* Trains as `opts` say, which get checkpoint and teacher of the course's own members. Where trials
 * keep the best, the model becomes again what it was behind its best step, "best_step" of the
 * result. */
int train_course_run(train_course *course, lr_model *model, lr_optimizer *optimizer,
                     const token_list *tokens, lr_train_opts *opts, json_t *result);
void train_course_end(train_course *course);

#endif
