/* lowrank convert: a model in another form or number type. */
#include "cli/job.h"

#include <string.h>
#include <strings.h>

typedef struct conversion {
    const char *out;
    int32_t densify, to_gguf;
    lr_model *model;
} conversion;

static int ends_with(const char *path, const char *ending) {
    size_t length = strlen(path), most = strlen(ending);
    return length > most && strcasecmp(path + length - most, ending) == 0;
}

/* A folder may have any name but one that says it is a file we do not write. */
static int check_form(conversion *c) {
    static const char *const others[] = {".safetensors", ".bin",  ".pt",  ".pth",
                                         ".ggml",        ".onnx", ".npz", ".json"};
    c->to_gguf = ends_with(c->out, ".gguf");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (ends_with(c->out, others[i]))
            return report_fail(
                CODE_USAGE, "--out: %s, expected a name that ends in .gguf, or a folder", c->out);
    return CODE_DONE;
}

static int save(const conversion *c, const cli_job *job) {
    lr_save_opts opts = job_save_opts(job);
    opts.densify = c->densify;
    lr_status status = c->to_gguf ? lr_model_save_gguf(c->model, c->out, &opts)
                                  : lr_model_save(c->model, c->out, &opts);
    return report_status(status, WHILE_WRITING);
}

/* What was written is opened again: the figures are those of the files. */
static int put_sizes(const conversion *c, cli_job *job, const lr_model_info *before) {
    lr_model *written = NULL;
    lr_model_info after = {.size = sizeof after};
    int code;
    TRY(job_open(job, &written, c->out));
    TRY(report_status(lr_model_get_info(written, &after), WHILE_WORKING));
    TRY(report_pair(job->result, "parameters", before->parameters, after.parameters));
    TRY(report_pair(job->result, "bytes", before->bytes, after.bytes));
done:
    lr_model_free(written);
    return code;
}

static int run(conversion *c, cli_job *job) {
    lr_model_info before = {.size = sizeof before};
    int code;
    TRY(job_stage(job, "open"));
    TRY(job_open(job, &c->model, job->model_path));
    TRY(report_status(lr_model_get_info(c->model, &before), WHILE_WORKING));
    TRY(job_stage(job, "save"));
    TRY(save(c, job));
    TRY(put_sizes(c, job, &before));
    TRY(report_put(job->result, "form", json_string(c->to_gguf ? "gguf" : "folder")));
    TRY(report_put(job->result, "dtype", json_string(lr_dtype_name(job_dtype(job)))));
    TRY(report_put(job->result, "out", report_name(c->out)));
    TRY(job_end_stages(job));
done:
    return code;
}

int command_convert(cli_job *job) {
    conversion c = {0};
    int code;
    const arg options[] = {
        ARG("out", ARG_TEXT, &c.out, "PATH",
            "what to write: a GGUF file where the name ends in .gguf, else a folder",
            .required = 1),
        ARG("densify", ARG_FLAG, &c.densify, NULL,
            "multiply factors out, which a factorised model needs to become a GGUF"),
    };
    TRY(JOB_BEGIN(job, options));
    TRY(check_form(&c));
    TRY(job_check_output(job, c.out));
    TRY(job_start(job));
    TRY(run(&c, job));
    TRY(job_report(job));
done:
    lr_model_free(c.model);
    return code;
}
