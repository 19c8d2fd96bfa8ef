/* From the options to a plan. An argument that begins with { or [ is JSON, one that parses as a
 * number is a number, anything else a path. */
#include "cli/keep.h"

#include <stdlib.h>
#include <string.h>

const char *const keep_storages[] = {"pivot", "two-factor", "shared", NULL};
const char *const keep_allocations[] = {
    "uniform", "energy", "energy-normalised", "sensitivity", "effective-rank", "first-order",
    "auto",    NULL};

static int check_plan(const cli_keep *k) {
    if (k->match) return report_fail(CODE_USAGE, "--match: the modules stand in the plan already");
    if (k->storage)
        return report_fail(CODE_USAGE, "--storage: the form stands in the plan already");
    if (k->allocation || k->weights)
        return report_fail(CODE_USAGE, "--allocation: the ranks stand in the plan already");
    return CODE_DONE;
}

int keep_check_allocation(const cli_keep *k) {
    if (k->allocation == KEEP_AUTO)
        return report_fail(CODE_USAGE, "--allocation auto: only the command plan chooses");
    if (k->allocation == KEEP_SENSITIVITY && !k->weights)
        return report_fail(CODE_USAGE, "--allocation sensitivity: --weights is missing; the "
                                       "command plan measures them");
    return CODE_DONE;
}

int keep_check(const cli_keep *k, const char *const *plan) {
    int has_plan = plan && *plan;
    int given = (k->linear > 0) + (k->model > 0) + (k->bytes > 0) + has_plan;
    const char *all = plan ? "--keep, --keep-model, --keep-bytes, --ranks and --plan"
                           : "--keep, --keep-model, --keep-bytes and --ranks";
    if (given > 1 || (!given && !k->ranks) || (has_plan && k->ranks))
        return report_fail(CODE_USAGE, "%d of %s given, expected exactly one, such as --keep 0.8",
                           given + (k->ranks != NULL), all);
    if (!given && (k->allocation || k->weights))
        return report_fail(CODE_USAGE, "--allocation: nothing to share out beside --ranks, "
                                       "expected --keep, --keep-model or --keep-bytes");
    if (has_plan) return check_plan(k);
    if (k->allocation != KEEP_UNIFORM && k->storage == KEEP_SHARED)
        return report_fail(CODE_USAGE,
                           "--storage shared: its factors want equal ranks, expected --allocation "
                           "uniform");
    if (k->allocation == KEEP_UNIFORM && (k->weights || k->floor >= 0))
        return report_fail(CODE_USAGE, "--%s: the allocation uniform has none",
                           k->weights ? "weights" : "floor");
    return plan ? keep_check_allocation(k) : CODE_DONE;
}

json_t *keep_settings(const cli_keep *k) {
    return json_pack("{s:f, s:f, s:I, s:o, s:o, s:o, s:s, s:s, s:f}", "keep", k->linear,
                     "keep-model", k->model, "keep-bytes", (json_int_t)k->bytes, "ranks",
                     report_name(k->ranks), "match", report_name(k->match), "weights",
                     report_name(k->weights), "storage", keep_storages[k->storage], "allocation",
                     keep_allocations[k->allocation], "floor", k->floor);
}

static int is_path(const char *given) {
    double number;
    return *given != '{' && *given != '[' && !args_number(given, &number);
}

/* An object given as text or as the path of a file. */
static int parse_object(json_t **out, const char *given, const char *option) {
    json_error_t error = {0};
    int is_text = !is_path(given);
    *out = is_text ? json_loads(given, JSON_REJECT_DUPLICATES, &error)
                   : json_load_file(given, JSON_REJECT_DUPLICATES, &error);
    int code = is_text ? CODE_USAGE : CODE_INPUT;
    if (!*out && error.line < 1) return report_fail(code, "--%s: %s", option, error.text);
    if (!*out)
        return report_fail(code, "--%s: %s%sline %d, column %d: %s", option, is_text ? "" : given,
                           is_text ? "" : ": ", error.line, error.column, error.text);
    if (!json_is_object(*out))
        return report_fail(code, "--%s: %s: expected an object such as {\"q_proj\": 96}", option,
                           given);
    return CODE_DONE;
}

static int parse_ranks(json_t **out, const char *given) {
    double number;
    if (!args_number(given, &number)) return parse_object(out, given, "ranks");
    if (number != (double)(int64_t)number || number < 1)
        return report_fail(CODE_USAGE, "--ranks: %s, expected a whole number of at least 1", given);
    *out = json_pack("{s:I}", "*", (json_int_t)number);
    return *out ? CODE_DONE : report_nomem();
}

static int print_text(char **out, const json_t *json) {
    *out = json_dumps(json, 0);
    return *out ? CODE_DONE : report_nomem();
}

/* A file that the command plan has measured holds more than weights. */
static int parse_weights(char **out, const char *given) {
    json_t *json = NULL;
    int code;
    TRY(parse_object(&json, given, "weights"));
    const json_t *inner = json_object_get(json, "weights");
    TRY(print_text(out, json_is_object(inner) ? inner : json));
done:
    json_decref(json);
    return code;
}

static int make_plan(const cli_keep *k, const cli_job *job, const lr_model *model,
                     lr_plan_opts *opts, lr_plan **out) {
    json_t *ranks = NULL;
    char *text = NULL;
    int code = CODE_DONE;
    opts->keep = k->linear;
    opts->keep_model = k->model;
    opts->keep_bytes = (int64_t)k->bytes;
    opts->dtype = job_dtype(job);
    opts->storage = keep_storages[k->storage];
    if (k->match) opts->pattern = k->match;
    if (k->ranks) {
        TRY(parse_ranks(&ranks, k->ranks));
        TRY(print_text(&text, ranks));
        opts->ranks = text;
    }
    int doing = k->ranks && is_path(k->ranks) ? WHILE_READING : WHILE_WORKING;
    TRY(report_status(lr_plan_new(out, model, opts), doing));
done:
    free(text);
    json_decref(ranks);
    return code;
}

int keep_uniform(const cli_keep *k, const cli_job *job, const lr_model *model, lr_plan **out) {
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    return make_plan(k, job, model, &opts, out);
}

int keep_plan(const cli_keep *k, const cli_job *job, const lr_model *model, const lr_stats *stats,
              lr_plan **out) {
    lr_plan_opts opts;
    char *weights = NULL;
    int code = CODE_DONE;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.allocation = keep_allocations[k->allocation];
    opts.floor = k->floor;
    opts.stats = stats;
    if (k->weights) TRY(parse_weights(&weights, k->weights));
    opts.weights = weights;
    TRY(make_plan(k, job, model, &opts, out));
done:
    free(weights);
    return code;
}

/* Weights are many, and stand in the file. */
int keep_about(json_t *result, const lr_plan *plan) {
    json_t *about = json_loads(lr_plan_about(plan), 0, NULL);
    const char *key;
    json_t *value;
    int code = about ? CODE_DONE : report_nomem();
    json_object_foreach(about, key, value) {
        if (strcmp(key, "weights")) TRY(report_put(result, key, json_incref(value)));
    }
done:
    json_decref(about);
    return code;
}

int keep_report(json_t *result, const lr_plan *plan, const lr_model *model) {
    lr_model_info info = {.size = sizeof info};
    int64_t before, after;
    int code;
    lr_plan_parameters(plan, &before, &after);
    TRY(report_status(lr_model_get_info(model, &info), WHILE_WORKING));
    TRY(report_pair(result, "parameters", before, after));
    TRY(report_real(result, "kept_linear", (double)after / (double)before));
    TRY(report_real(result, "kept_model",
                    (double)(info.parameters - before + after) / (double)info.parameters));
    TRY(keep_about(result, plan));
done:
    return code;
}

int keep_sizes(json_t *result, const lr_model_info *before, const lr_model *written) {
    lr_model_info after = {.size = sizeof after};
    int code;
    TRY(report_status(lr_model_get_info(written, &after), WHILE_WORKING));
    TRY(report_pair(result, "parameters", before->parameters, after.parameters));
    TRY(report_pair(result, "linear_parameters", before->linear_parameters,
                    after.linear_parameters));
    TRY(report_pair(result, "bytes", before->bytes, after.bytes));
    TRY(report_real(result, "kept_linear",
                    (double)after.linear_parameters / (double)before->linear_parameters));
    TRY(report_real(result, "kept_model", (double)after.parameters / (double)before->parameters));
    TRY(report_real(result, "kept_size", (double)after.bytes / (double)before->bytes));
done:
    return code;
}
