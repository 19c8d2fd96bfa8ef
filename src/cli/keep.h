/* How small: a kept share or size, shared out in one of several ways, or ranks by hand. */
#ifndef LR_CLI_KEEP_H
#define LR_CLI_KEEP_H

#include "cli/job.h"

typedef struct cli_keep {
    double linear, model; /* 0: not given */
    uint64_t bytes;       /* the same */
    const char *ranks, *match, *weights;
    int32_t storage, allocation; /* indices into keep_storages and keep_allocations */
    double floor;                /* negative: the allocation's own */
    char *measured;              /* file of weights made by this run, owned */
} cli_keep;

extern const char *const keep_storages[], *const keep_allocations[];
enum { KEEP_PIVOT, KEEP_TWO_FACTOR, KEEP_SHARED };
enum {
    KEEP_UNIFORM,
    KEEP_ENERGY,
    KEEP_NORMALISED,
    KEEP_SENSITIVITY,
    KEEP_EFFECTIVE_RANK,
    KEEP_FIRST_ORDER,
    KEEP_AUTO
};

#define KEEP_DEFAULT \
    { .floor = -1 }

#define KEEP_SIZE_OPTIONS(k)                                                                       \
    ARG("keep", ARG_REAL, &(k)->linear, "R",                                                       \
        "share of the linears' parameters to keep, such as 0.8", .most = 1, .above = 1),           \
        ARG("keep-model", ARG_REAL, &(k)->model, "R",                                              \
            "share of the whole model's parameters to keep", .most = 1, .above = 1),               \
        ARG("keep-bytes", ARG_BYTES, &(k)->bytes, "SIZE",                                          \
            "size of the files of weights, written in --dtype, such as 200M", .least = 1),         \
        ARG("ranks", ARG_TEXT, &(k)->ranks, "JSON",                                                \
            "ranks by hand: a JSON object of patterns, such as '{\"q_proj\": 96}', the path of a " \
            "file that holds one, or one number for all; beside a share or size, the other "       \
            "modules share what these ranks leave"),                                               \
        ARG("match", ARG_TEXT, &(k)->match, "PATTERN",                                             \
            "modules that may change, such as '*.mlp.*' or '{q,k}_proj' [default: the linears of " \
            "each block]")

#define KEEP_OPTIONS(k, usual)                                                                     \
    KEEP_SIZE_OPTIONS(k),                                                                          \
        ARG("storage", ARG_CHOICE, &(k)->storage, "FORM",                                          \
            "pivot (a matrix of rank r in r (out + in - r) numbers, without loss), two-factor (r " \
            "(out + in) numbers), shared (two factors, the right one common to q, k and v, and "   \
            "to "                                                                                  \
            "gate and up) [default pivot]",                                                        \
            .choices = keep_storages),                                                             \
        ARG("allocation", ARG_CHOICE, &(k)->allocation, "NAME",                                    \
            "how modules share: uniform, energy, energy-normalised, sensitivity, effective-rank, " \
            "first-order (what it does to the loss, from statistics with gradients) or, for plan " \
            "and recover, auto: the best of them on held-out text [default " usual "]",            \
            .choices = keep_allocations),                                                          \
        ARG("floor", ARG_REAL, &(k)->floor, "F",                                                   \
            "of the other allocations: least rank of a module, as a share of the uniform one "     \
            "[default 0.95, of first-order 0.3]",                                                  \
            .most = 1),                                                                            \
        ARG("weights", ARG_TEXT, &(k)->weights, "JSON",                                            \
            "weights of the energies: a JSON object of patterns, such as '{\"v_proj\": 4}', or "   \
            "a file that holds one or that plan has measured")

/* One of --keep, --keep-model and --keep-bytes, or --ranks, or both, or, where `plan` is not NULL,
 * --plan. */
int keep_check(const cli_keep *k, const char *const *plan);
/* Refuses an allocation that the command plan alone can make. */
int keep_check_allocation(const cli_keep *k);
/* A member for each option. NULL when memory is out. */
json_t *keep_settings(const cli_keep *k);
/* `stats` NULL: spectra of the weights alone. */
int keep_plan(const cli_keep *k, const cli_job *job, const lr_model *model, const lr_stats *stats,
              lr_plan **out);
/* The same budget shared uniformly: what needs no statistics and refuses what cannot be met. */
int keep_uniform(const cli_keep *k, const cli_job *job, const lr_model *model, lr_plan **out);
/* What the plan says of itself: budget, allocation, the held-out loss it was chosen by. */
int keep_about(json_t *result, const lr_plan *plan);
/* `parameters` of the planned modules before and after, what is kept of linears and model, and
 * what the plan says of itself. */
int keep_report(json_t *result, const lr_plan *plan, const lr_model *model);
/* Parameters and bytes of a model before and of what was written, and their quotients. */
int keep_sizes(json_t *result, const lr_model_info *before, const lr_model *written);

#endif
