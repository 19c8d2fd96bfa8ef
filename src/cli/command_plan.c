/* lowrank plan: a rank for each module, in a file to read and edit. */
#include "cli/choose.h"
#include "cli/methods.h"
#include "cli/progress.h"

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

typedef struct planning {
    const char *out, *stats_path;
    int32_t method;
    cli_keep keep;
    cli_choice choice;
    lr_model *model;
    lr_stats *stats;
    lr_plan *plan;
} planning;

static int check(const planning *p) {
    const cli_keep *k = &p->keep;
    int measures = k->allocation == KEEP_AUTO || (k->allocation == KEEP_SENSITIVITY && !k->weights);
    int code;
    TRY(keep_check(k, NULL));
    if ((measures || k->allocation == KEEP_FIRST_ORDER) && !p->stats_path)
        return report_fail(CODE_USAGE,
                           "--allocation %s: --stats STATS is missing, from the "
                           "command collect",
                           keep_allocations[k->allocation]);
    if (p->method && k->allocation != KEEP_AUTO)
        return report_fail(CODE_USAGE, "--method: only --allocation auto factorises");
    if (!measures && p->choice.texts.count)
        return report_fail(CODE_USAGE, "--text: only --allocation auto, and sensitivity without "
                                       "--weights, read text");
done:
    return code;
}

static int make_plan(planning *p, cli_job *job) {
    cli_keep *k = &p->keep;
    int code;
    int measures = k->allocation == KEEP_SENSITIVITY && !k->weights;
    if (k->allocation == KEEP_AUTO || measures) {
        TRY(keep_uniform(k, job, p->model, &p->plan)); /* refuses before the long work */
        lr_plan_free(p->plan);
        p->plan = NULL;
        TRY(choice_begin(&p->choice, p->model));
    }
    if (measures) TRY(choice_measure(&p->choice, job, p->model, p->stats));
    if (k->allocation == KEEP_AUTO)
        return choice_make(&p->choice, job, p->model, p->stats, &p->plan);
    progress_stage("spectra", 1);
    return keep_plan(k, job, p->model, p->stats, &p->plan);
done:
    return code;
}

static int run(planning *p, cli_job *job) {
    json_t *result = job->result;
    int code;
    TRY(job_stage(job, "open"));
    TRY(job_open(job, &p->model, job->model_path));
    if (p->stats_path)
        TRY(report_status(lr_stats_open(&p->stats, p->model, p->stats_path), WHILE_READING));
    TRY(job_stage(job, "plan"));
    TRY(make_plan(p, job));
    TRY(job_stage(job, "save"));
    TRY(report_status(lr_plan_save(p->plan, p->out, job->force), WHILE_WRITING));
    TRY(keep_report(result, p->plan, p->model));
    TRY(put_ranks(result, p->plan));
    TRY(report_put(result, "out", report_name(p->out)));
    if (p->keep.measured) TRY(report_put(result, "weights", report_name(p->keep.measured)));
    TRY(job_end_stages(job));
done:
    return code;
}

int command_plan(cli_job *job) {
    planning p = {.keep = KEEP_DEFAULT, .choice = {.windows = 8, .probe_windows = 2}};
    int code;
    const arg options[] = {
        ARG("out", ARG_TEXT, &p.out, "PLAN", "file to write", .required = 1),
        KEEP_OPTIONS(&p.keep, "uniform"),
        ARG("stats", ARG_TEXT, &p.stats_path, "STATS",
            "statistics from collect, whose spectra all allocations but uniform read; without "
            "them, spectra of the weights alone"),
        ARG("method", ARG_CHOICE, &p.method, "NAME",
            "how auto factorises, which should be as compress will [default pca]",
            .choices = methods),
        CHOICE_OPTIONS(&p.choice),
    };
    p.choice.keep = &p.keep;
    TRY(JOB_BEGIN(job, options));
    p.choice.out = p.out;
    p.choice.method = methods[p.method];
    TRY(check(&p));
    TRY(job_check_output(job, p.out));
    TRY(job_start(job));
    TRY(run(&p, job));
    TRY(job_report(job));
done:
    choice_end(&p.choice);
    lr_plan_free(p.plan);
    lr_stats_free(p.stats);
    lr_model_free(p.model);
    return code;
}
