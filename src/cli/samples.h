/* The text that statistics are collected from: files with weights, and what the model writes. */
#ifndef LR_CLI_SAMPLES_H
#define LR_CLI_SAMPLES_H

#include "cli/evals.h"

typedef struct sample_text {
    char *path;
    double weight;
    token_list tokens;    /* whole windows only */
    size_t held_at, held; /* tokens behind them that judge */
} sample_text;

typedef struct cli_samples {
    arg_list texts;
    double self_weight;
    int32_t samples, window, exact, gradients;
    int32_t holds_out; /* the last tenth of each text is not taken */
    int32_t counted;   /* windows of each text that statistics are of; 0: all */
    const char *match;
    sample_text *items; /* texts.count of them */
    token_list written; /* by the model itself */
    lr_text *whole;     /* all of them with their weights, once loaded */
    int32_t count;
} cli_samples;

#define SAMPLES_DEFAULT \
    { .self_weight = 1, .samples = 64 }

#define SAMPLES_SIZE_OPTIONS(s, usual)                                                        \
    ARG("samples", ARG_INT, &(s)->samples, "N",                                               \
        "windows taken from the beginning of each text [default " usual "]", .least = 1),     \
        ARG("window", ARG_INT, &(s)->window, "N",                                             \
            "tokens of each window [default 512, or the model's context if that is shorter]", \
            .least = 2)

#define SAMPLES_OPTIONS(s, usual)                                                              \
    ARG("text", ARG_LIST, &(s)->texts, "FILE[:WEIGHT]",                                        \
        "text to learn from, with its weight beside the others [default 1]; may be repeated"), \
        ARG("self-text", ARG_REAL, &(s)->self_weight, "W",                                     \
            "weight of text that the model writes itself; 0 leaves it out [default 1]"),       \
        SAMPLES_SIZE_OPTIONS(s, usual)

/* Splits the weights off and refuses what could only fail later. */
int samples_check(cli_samples *s);
/* Loads everything into `whole`; what was read goes into the result. */
int samples_load(cli_samples *s, cli_job *job, const lr_model *model);
/* Gives what was held out to be judged on. */
int samples_hold_out(const cli_samples *s, cli_evals *evals);
/* Counts what was loaded into new statistics. */
int samples_count(const cli_samples *s, const lr_model *model, lr_stats **out);
/* Both. */
int samples_collect(cli_samples *s, cli_job *job, const lr_model *model, lr_stats **out);
void samples_end(cli_samples *s);

#endif
