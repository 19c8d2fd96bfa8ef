/* From the options to a plan. An argument that begins with { or [ is JSON, one that parses as a
 * number is a number, anything else a path. */
#include "cli/keep.h"

#include <stdlib.h>
#include <string.h>

const char *const keep_storages[] = {"pivot", "two-factor", "shared", NULL};

int keep_check(const cli_keep *k, const char *const *plan) {
    int given = (k->linear > 0) + (k->model > 0) + (k->ranks != NULL) + (plan && *plan);
    const char *all =
        plan ? "--keep, --keep-model, --ranks and --plan" : "--keep, --keep-model and --ranks";
    if (given != 1)
        return report_fail(CODE_USAGE, "%d of %s given, expected exactly one, such as --keep 0.8",
                           given, all);
    if (k->match && plan && *plan)
        return report_fail(CODE_USAGE, "--match: the modules stand in the plan already");
    if (k->storage && plan && *plan)
        return report_fail(CODE_USAGE, "--storage: the form stands in the plan already");
    return CODE_DONE;
}

static int is_path(const char *given) {
    double number;
    return *given != '{' && *given != '[' && !args_number(given, &number);
}

static int parse_ranks(json_t **out, const char *given) {
    double number;
    json_error_t error = {0};
    if (args_number(given, &number)) {
        if (number != (double)(int64_t)number || number < 1)
            return report_fail(CODE_USAGE, "--ranks: %s, expected a whole number of at least 1",
                               given);
        *out = json_pack("{s:I}", "*", (json_int_t)number);
        return *out ? CODE_DONE : report_nomem();
    }
    int is_text = !is_path(given);
    *out = is_text ? json_loads(given, JSON_REJECT_DUPLICATES, &error)
                   : json_load_file(given, JSON_REJECT_DUPLICATES, &error);
    int code = is_text ? CODE_USAGE : CODE_INPUT;
    if (!*out && error.line < 1) return report_fail(code, "--ranks: %s", error.text);
    if (!*out)
        return report_fail(code, "--ranks: %s%sline %d, column %d: %s", is_text ? "" : given,
                           is_text ? "" : ": ", error.line, error.column, error.text);
    if (!json_is_object(*out))
        return report_fail(code, "--ranks: %s: expected an object such as {\"q_proj\": 96}", given);
    return CODE_DONE;
}

int keep_plan(const cli_keep *k, const lr_model *model, lr_plan **out) {
    lr_plan_opts opts;
    json_t *ranks = NULL;
    char *text = NULL;
    int code = CODE_DONE;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.keep = k->linear;
    opts.keep_model = k->model;
    opts.storage = keep_storages[k->storage];
    if (k->match) opts.pattern = k->match;
    if (k->ranks) {
        TRY(parse_ranks(&ranks, k->ranks));
        text = json_dumps(ranks, 0);
        if (!text) TRY(report_nomem());
        opts.ranks = text;
    }
    int doing = k->ranks && is_path(k->ranks) ? WHILE_READING : WHILE_WORKING;
    TRY(report_status(lr_plan_new(out, model, &opts), doing));
done:
    free(text);
    json_decref(ranks);
    return code;
}

int keep_report(json_t *result, const lr_plan *plan, const lr_model *model) {
    lr_model_info info = {.size = sizeof info};
    int64_t before, after;
    int code;
    lr_plan_parameters(plan, &before, &after);
    TRY(report_status(lr_model_get_info(model, &info), WHILE_WORKING));
    TRY(report_put(
        result, "parameters",
        json_pack("{s:I,s:I}", "before", (json_int_t)before, "after", (json_int_t)after)));
    TRY(report_real(result, "kept_linear", (double)after / (double)before));
    TRY(report_real(result, "kept_model",
                    (double)(info.parameters - before + after) / (double)info.parameters));
done:
    return code;
}
