/* What every command does before, between and after its own work. */
#include "cli/job.h"

#include "cli/help.h"
#include "cli/progress.h"

#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const dtype_names[] = {"f32", "bf16", "f16", "q8_0", NULL};
static const int32_t dtypes[] = {LR_F32, LR_BF16, LR_F16, LR_Q8_0};
enum { DTYPE_DEFAULT = 1 };

static int print_help(const cli_job *job, arg_table table, int32_t own) {
    int code = help_command(job->command, table, own);
    return code ? code : CODE_HELP;
}

int job_begin(cli_job *job, const arg *options, size_t count) {
    const arg common[] = {
        ARG("threads", ARG_INT, &job->threads, "N",
            "threads to work with [default: as many as this process may use]", .most = 4096),
        ARG("seed", ARG_SEED, &job->seed, "N", "of everything random [default 0]"),
        ARG("dtype", ARG_CHOICE, &job->dtype, "TYPE",
            "number type of written weights: f32, bf16, f16 or q8_0 [default bf16]",
            .choices = dtype_names),
        ARG("memory", ARG_BYTES, &job->memory, "SIZE",
            "working memory to aim at, beside the model's files, such as 800M or 4G; compress "
            "works "
            "block by block to stay within it [default: what is fastest]"),
        ARG("bf16", ARG_FLAG, &job->bf16, NULL,
            "where the processor has AVX512-BF16, round what is multiplied with weights of 16 bits "
            "or fewer to BF16 in steps of many tokens, which is less exact"),
        ARG("force", ARG_FLAG, &job->force, NULL, "replace an output that exists"),
        ARG("quiet", ARG_FLAG, &job->quiet, NULL, "no progress and no messages but errors"),
        ARG("json", ARG_FLAG, &job->json, NULL, "print the result as one JSON object"),
        ARG("help", ARG_FLAG, &job->help, NULL, "print this help"),
    };
    enum { COMMON = sizeof common / sizeof *common };
    arg all[JOB_OPTIONS];
    arg_table table = {all, (int32_t)count + COMMON};
    int code;
    if (count) memcpy(all, options, count * sizeof *all);
    memcpy(all + count, common, sizeof common);
    job->dtype = DTYPE_DEFAULT;
    TRY(args_parse(table, job->argc, job->argv, &job->model_path));
    if (job->help) return print_help(job, table, (int32_t)count);
    if (!job->model_path || !*job->model_path)
        return report_fail(CODE_USAGE, "MODEL: missing; usage: lowrank %s %s", job->command->name,
                           job->command->synopsis);
    TRY(args_check(table));
done:
    return code;
}

int job_start(cli_job *job) {
    lr_ctx_opts opts;
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.threads = job->threads;
    opts.seed = job->seed;
    opts.memory = job->memory;
    opts.bf16_products = job->bf16;
    opts.progress = progress_report;
    if (!job->quiet) {
        opts.log = report_log;
        progress_show();
    }
    progress_catch_signals();
    job->result = json_object();
    job->seconds = json_object();
    if (!job->result || !job->seconds) return report_nomem();
    return report_status(lr_ctx_new(&job->ctx, &opts), WHILE_WORKING);
}

/* The folder that is to hold `path`, as far as the name says. */
static int check_parent(const char *path) {
    char *copy = strdup(path);
    if (!copy) return report_nomem();
    const char *parent = dirname(copy);
    struct stat info;
    int code = CODE_DONE;
    if (stat(parent, &info))
        code = report_fail(CODE_FAILED, "%s: folder %s: %s", path, parent, strerror(errno));
    else if (!S_ISDIR(info.st_mode))
        code = report_fail(CODE_FAILED, "%s: %s is not a folder", path, parent);
    else if (access(parent, W_OK | X_OK))
        code = report_fail(CODE_FAILED, "%s: folder %s: %s", path, parent, strerror(errno));
    free(copy);
    return code;
}

int job_check_output(const cli_job *job, const char *path) {
    struct stat info;
    if (lstat(path, &info) == 0 && !job->force)
        return report_fail(CODE_FAILED, "%s: exists; --force replaces it", path);
    return check_parent(path);
}

static int end_stage(cli_job *job) {
    double now = progress_seconds(), since = job->since;
    job->since = now;
    return job->stage ? report_real(job->seconds, job->stage, now - since) : CODE_DONE;
}

int job_stage(cli_job *job, const char *name) {
    int code = end_stage(job);
    job->stage = name;
    progress_stage(NULL, 1);
    if (!code && progress_is_cancelled())
        code = report_fail(CODE_CANCELLED, "cancelled before stage \"%s\"", name);
    return code;
}

int job_end_stages(cli_job *job) {
    int code = end_stage(job);
    job->stage = NULL;
    if (!code) code = report_put(job->result, "seconds", json_incref(job->seconds));
    if (!code) code = report_count(job->result, "peak_bytes", report_peak_bytes());
    return code;
}

int job_open(cli_job *job, lr_model **out, const char *path) {
    return report_status(lr_model_open(out, job->ctx, path, NULL), WHILE_READING);
}

int32_t job_dtype(const cli_job *job) { return dtypes[job->dtype]; }

int job_report(cli_job *job) {
    progress_hide();
    return report_print(job->result, job->json);
}

lr_save_opts job_save_opts(const cli_job *job) {
    lr_save_opts opts;
    lr_save_opts_init(&opts, sizeof opts);
    opts.dtype = job_dtype(job);
    opts.force = job->force;
    return opts;
}

int job_save(const cli_job *job, const lr_model *model, const char *path) {
    lr_save_opts opts = job_save_opts(job);
    return report_status(lr_model_save(model, path, &opts), WHILE_WRITING);
}

void job_end(cli_job *job) {
    progress_hide();
    json_decref(job->result);
    json_decref(job->seconds);
    lr_ctx_free(job->ctx);
}
