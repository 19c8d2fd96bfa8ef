/* How small: a kept share, or ranks by hand. */
#ifndef LR_CLI_KEEP_H
#define LR_CLI_KEEP_H

#include "cli/job.h"

typedef struct cli_keep {
    double linear, model; /* 0: not given */
    const char *ranks, *match;
    int32_t storage; /* index into keep_storages */
} cli_keep;

extern const char *const keep_storages[];

#define KEEP_OPTIONS(k)                                                                            \
    ARG("keep", ARG_REAL, &(k)->linear, "R",                                                       \
        "share of the linears' parameters to keep, such as 0.8", .most = 1, .above = 1),           \
        ARG("keep-model", ARG_REAL, &(k)->model, "R",                                              \
            "share of the whole model's parameters to keep", .most = 1, .above = 1),               \
        ARG("ranks", ARG_TEXT, &(k)->ranks, "JSON",                                                \
            "ranks by hand: a JSON object of patterns, such as '{\"q_proj\": 96}', the path of a " \
            "file that holds one, or one number for all"),                                         \
        ARG("match", ARG_TEXT, &(k)->match, "PATTERN",                                             \
            "modules that may change, such as '*.mlp.*' or '{q,k}_proj' [default: the linears of " \
            "each block]"),                                                                        \
        ARG("storage", ARG_CHOICE, &(k)->storage, "FORM",                                          \
            "pivot (a matrix of rank r in r (out + in - r) numbers, without loss), two-factor (r " \
            "(out + in) numbers), shared (two factors, the right one common to q, k and v, and "   \
            "to "                                                                                  \
            "gate and up) [default pivot]",                                                        \
            .choices = keep_storages)

/* Exactly one of --keep, --keep-model, --ranks and, where `plan` is not NULL, --plan. */
int keep_check(const cli_keep *k, const char *const *plan);
int keep_plan(const cli_keep *k, const lr_model *model, lr_plan **out);
/* `parameters` of the planned modules before and after, and what is kept of linears and model. */
int keep_report(json_t *result, const lr_plan *plan, const lr_model *model);

#endif
