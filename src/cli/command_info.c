/* lowrank info: sizes and modules. */
#include "cli/job.h"
#include "cli/types.h"

#include <string.h>

static const char *const kinds[] = {"dense", "low_rank", "chain", "pivot"};
enum { KINDS = 4 };

static int put_sizes(json_t *result, const lr_model *model) {
    lr_model_info info = {.size = sizeof info};
    int code;
    TRY(report_status(lr_model_get_info(model, &info), WHILE_WORKING));
    const struct {
        const char *key;
        int64_t value;
    } sizes[] = {
        {"parameters", info.parameters},
        {"linear_parameters", info.linear_parameters},
        {"bytes", info.bytes},
        {"layers", info.layers},
        {"hidden_size", info.hidden_size},
        {"intermediate_size", info.intermediate_size},
        {"attention_heads", info.attention_heads},
        {"key_value_heads", info.key_value_heads},
        {"head_size", info.head_size},
        {"vocabulary_size", info.vocabulary_size},
        {"context_length", info.context_length},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        TRY(report_count(result, sizes[i].key, sizes[i].value));
done:
    return code;
}

static int put_module(json_t *modules, const lr_linear *linear) {
    json_t *module = json_object();
    int32_t kind = lr_linear_kind(linear);
    int code = module ? CODE_DONE : report_nomem();
    if (code) return code;
    TRY(report_put(module, "module", json_string(lr_linear_name(linear))));
    TRY(report_put(module, "kind", json_string(kind >= 0 && kind < KINDS ? kinds[kind] : "?")));
    TRY(report_count(module, "out", lr_linear_out(linear)));
    TRY(report_count(module, "in", lr_linear_in(linear)));
    TRY(report_count(module, "rank", lr_linear_rank(linear)));
    TRY(report_count(module, "parameters", lr_linear_param_count(linear)));
    if (json_array_append(modules, module)) code = report_nomem();
done:
    json_decref(module);
    return code;
}

static int put_modules(json_t *result, const lr_model *model) {
    int32_t count = lr_model_linear_count(model);
    int64_t of_kind[KINDS] = {0};
    lr_linear *linear = NULL;
    json_t *modules = json_array(), *counts = json_object();
    int code = modules && counts ? CODE_DONE : report_nomem();
    for (int32_t i = 0; i < count && !code; i++) {
        TRY(report_status(lr_model_linear(model, i, &linear), WHILE_WORKING));
        int32_t kind = lr_linear_kind(linear);
        if (kind >= 0 && kind < KINDS) of_kind[kind]++;
        TRY(put_module(modules, linear));
        lr_linear_free(linear);
        linear = NULL;
    }
    for (int32_t k = 0; k < KINDS && !code; k++) code = report_count(counts, kinds[k], of_kind[k]);
    if (!code) code = report_put(result, "linears", json_incref(counts));
    if (!code) code = report_put(result, "modules", json_incref(modules));
done:
    lr_linear_free(linear);
    json_decref(counts);
    json_decref(modules);
    return code;
}

/* The configuration as it stands, for programs, and the name of the family, for everyone. */
static int put_config(json_t *result, const lr_model *model) {
    const char *text = lr_model_config(model);
    json_t *config = json_loads(text ? text : "{}", 0, NULL);
    const char *family = json_string_value(json_object_get(config, "model_type"));
    int code = config ? CODE_DONE : report_nomem();
    if (!code && family) code = report_put(result, "model_type", json_string(family));
    if (!code) code = report_put(result, "config", json_incref(config));
    json_decref(config);
    return code;
}

int command_info(cli_job *job) {
    lr_model *model = NULL;
    int code;
    TRY(job_begin(job, NULL, 0));
    TRY(job_start(job));
    TRY(job_open(job, &model, job->model_path));
    TRY(report_put(job->result, "model", report_name(job->model_path)));
    TRY(put_sizes(job->result, model));
    TRY(put_modules(job->result, model));
    TRY(put_config(job->result, model));
    TRY(types_report(job->result));
    TRY(job_report(job));
done:
    lr_model_free(model);
    return code;
}
