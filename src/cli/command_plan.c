/* lowrank plan: a rank for each module, in a file to read and edit. */
#include "cli/keep.h"

#include <string.h>

static int put_ranks(json_t *result, const lr_plan *plan) {
    json_t *ranks = json_object();
    int32_t count = lr_plan_count(plan), changed = 0;
    int code;
    if (!ranks) return report_nomem();
    for (int32_t i = 0; i < count; i++) changed += lr_plan_rank(plan, i) > 0;
    TRY(report_count(result, "factorised", changed));
    TRY(report_count(result, "dense", count - changed));
    TRY(report_put(result, "ranks", json_incref(ranks)));
    for (int32_t i = 0; i < count; i++)
        TRY(report_count(ranks, lr_plan_module(plan, i), lr_plan_rank(plan, i)));
done:
    json_decref(ranks);
    return code;
}

int command_plan(cli_job *job) {
    const char *out = NULL, *stats_path = NULL;
    cli_keep keep = {0};
    lr_model *model = NULL;
    lr_stats *stats = NULL;
    lr_plan *plan = NULL;
    int code;
    const arg options[] = {
        ARG("out", ARG_TEXT, &out, "PLAN", "file to write", .required = 1),
        KEEP_OPTIONS(&keep),
        ARG("stats", ARG_TEXT, &stats_path, "STATS",
            "statistics from collect; ranks are uniform for now, so they are only checked"),
    };
    TRY(JOB_BEGIN(job, options));
    TRY(keep_check(&keep, NULL));
    TRY(job_check_output(job, out));
    TRY(job_start(job));
    TRY(job_open(job, &model, job->model_path));
    if (stats_path) TRY(report_status(lr_stats_open(&stats, model, stats_path), WHILE_READING));
    TRY(keep_plan(&keep, model, &plan));
    TRY(report_status(lr_plan_save(plan, out, job->force), WHILE_WRITING));
    TRY(keep_report(job->result, plan, model));
    TRY(put_ranks(job->result, plan));
    TRY(report_put(job->result, "out", report_text(out, strlen(out))));
    TRY(job_report(job));
done:
    lr_plan_free(plan);
    lr_stats_free(stats);
    lr_model_free(model);
    return code;
}
