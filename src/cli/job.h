/* One run of one command: the options every command has, the context, stages and the result. */
#ifndef LR_CLI_JOB_H
#define LR_CLI_JOB_H

#include "cli/args.h"
#include "cli/report.h"

struct cli_job;

typedef struct cli_command {
    const char *name;
    int (*run)(struct cli_job *job);
    const char *synopsis; /* behind "lowrank NAME" */
    const char *brief;    /* one line for the overview */
    const char *about;    /* two sentences or so */
    const char *example;
} cli_command;

enum { JOB_OPTIONS = 48, JOB_STAGES = 8 };

typedef struct cli_job {
    const cli_command *command;
    int argc; /* words behind the command's name */
    char **argv;
    const char *model_path;
    int32_t threads, dtype, bf16, force, quiet, json, help;
    uint64_t seed, memory;
    lr_ctx *ctx;
    json_t *result;
    const char *stage; /* the running one */
    double since;
    json_t *seconds; /* of the finished ones */
} cli_job;

int command_info(cli_job *job);
int command_tokenize(cli_job *job);
int command_eval(cli_job *job);
int command_generate(cli_job *job);
int command_collect(cli_job *job);
int command_plan(cli_job *job);
int command_compress(cli_job *job);
int command_convert(cli_job *job);
int command_train(cli_job *job);
int command_recover(cli_job *job);
int command_distill(cli_job *job);

/* Reads the command line; CODE_HELP when help was asked for and printed. */
int job_begin(cli_job *job, const arg *options, size_t count);
/* Makes the context and the empty result: from here on there is work. */
int job_start(cli_job *job);
/* Complains, before any work, when nothing could be written to `path` in the end. */
int job_check_output(const cli_job *job, const char *path);

/* The stage that ends, if any, is timed; the next one begins, unless the user wants to stop. */
int job_stage(cli_job *job, const char *name);
/* Ends the last stage and puts `seconds` and `peak_bytes` into the result. */
int job_end_stages(cli_job *job);

int job_open(cli_job *job, lr_model **out, const char *path);
/* LR_F32 and so on, as --dtype says. */
int32_t job_dtype(const cli_job *job);
/* How --dtype and --force say that a model is saved. */
lr_save_opts job_save_opts(const cli_job *job);
/* A folder by these. */
int job_save(const cli_job *job, const lr_model *model, const char *path);
/* Prints the result. */
int job_report(cli_job *job);
void job_end(cli_job *job);

#define JOB_BEGIN(job, options) job_begin(job, options, sizeof(options) / sizeof *(options))

#endif
