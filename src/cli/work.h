/* The folder beside an output that holds what an interrupted run goes on from. */
#ifndef LR_CLI_WORK_H
#define LR_CLI_WORK_H

#include "cli/job.h"

/* ".NAME.lowrank-work" beside the output; freed by the caller. */
int work_name(char **path, const char *out);
/* The folder and the files in it; there are no folders inside. */
void work_remove(const char *path);

/* The folder of a run that learns, and its files. */
typedef struct cli_work {
    int32_t resume;
    int32_t is_held;    /* by this run, from work_begin() on */
    int32_t was_saving; /* the interrupted run was, so what is there of the output is its own */
    char *folder, *checkpoint, *statistics, *settings, *saving;
} cli_work;

#define WORK_OPTIONS(w) \
    ARG("resume", ARG_FLAG, &(w)->resume, NULL, "go on with a run that was interrupted")

/* Names the folder, and refuses an output that is there already. One that an interrupted run of its
 * own was saving may be replaced. */
int work_open(cli_work *w, cli_job *job, const char *out);
/* Makes the folder, or finds that of an interrupted run of the same settings: these, taken over,
 * are all that decides what the run does. NULL settings: memory ran out. */
int work_begin(cli_work *w, const cli_job *job, json_t *settings);
/* The path of a model and a hash of its files, for settings; NULL path: null. */
json_t *work_model(const char *path);
/* Saves the model. From here to work_done() the output may be there and not yet whole. */
int work_save(const cli_work *w, const cli_job *job, const lr_model *model, const char *out);
void work_done(cli_work *w);
/* Frees; a folder that holds nothing to go on from goes too. */
void work_end(cli_work *w);

#endif
