/* lowrank collect: statistics of a model's inputs, kept in a file. */
#include "cli/samples.h"

#include <string.h>

int command_collect(cli_job *job) {
    const char *out = NULL;
    cli_samples samples = SAMPLES_DEFAULT;
    lr_model *model = NULL;
    lr_stats *stats = NULL;
    int code;
    const arg options[] = {
        ARG("out", ARG_TEXT, &out, "STATS", "file to write", .required = 1),
        SAMPLES_OPTIONS(&samples, "64"),
        ARG("match", ARG_TEXT, &samples.match, "PATTERN",
            "modules to watch, such as '*.mlp.*' or '{q,k}_proj' [default: the linears of each "
            "block]"),
        ARG("exact", ARG_FLAG, &samples.exact, NULL,
            "keep the triangular root of the inputs (QR), not their second moments: twice the "
            "work, no digits lost; --method qr needs it"),
        ARG("gradients", ARG_FLAG, &samples.gradients, NULL,
            "run backward passes too and keep how the loss depends on each module: about four "
            "times "
            "the work; --method fwsvd, iwsvd and kfac and --allocation first-order need it"),
    };
    TRY(JOB_BEGIN(job, options));
    TRY(samples_check(&samples));
    TRY(job_check_output(job, out));
    TRY(job_start(job));
    TRY(job_stage(job, "open"));
    TRY(job_open(job, &model, job->model_path));
    TRY(job_stage(job, "collect"));
    TRY(samples_collect(&samples, job, model, &stats));
    TRY(job_stage(job, "save"));
    TRY(report_status(lr_stats_save(stats, out, job->force), WHILE_WRITING));
    TRY(report_put(job->result, "out", report_name(out)));
    TRY(job_end_stages(job));
    TRY(job_report(job));
done:
    lr_stats_free(stats);
    lr_model_free(model);
    samples_end(&samples);
    return code;
}
