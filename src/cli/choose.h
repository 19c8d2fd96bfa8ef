/* What plan measures on held-out text: the sensitivity of modules, and the best of several
 * allocations. */
#ifndef LR_CLI_CHOOSE_H
#define LR_CLI_CHOOSE_H

#include "cli/keep.h"
#include "cli/texts.h"

typedef struct held_text {
    const char *path; /* NULL: text that the model writes itself */
    token_list tokens;
} held_text;

typedef struct cli_choice {
    cli_keep *keep;
    const char *out;    /* of the plan; sensitivities stand beside it */
    const char *method; /* by which auto factorises; NULL: the library's default */
    arg_list texts;
    int32_t windows, probe_windows, window, first;
    held_text *held;
    int32_t count; /* of held */
} cli_choice;

#define CHOICE_OPTIONS(c)                                                                         \
    ARG("text", ARG_LIST, &(c)->texts, "FILE",                                                    \
        "held-out text, for sensitivity and auto; may be repeated [default: text that the model " \
        "writes itself]"),                                                                        \
        ARG("windows", ARG_INT, &(c)->windows, "N",                                               \
            "windows of each text by which auto judges a plan [default 8]", .least = 1),          \
        ARG("probe-windows", ARG_INT, &(c)->probe_windows, "N",                                   \
            "windows by which the sensitivity of each module is measured, of all texts "          \
            "[default 2]",                                                                        \
            .least = 1),                                                                          \
        ARG("first-window", ARG_INT, &(c)->first, "K",                                            \
            "windows of each text to pass over [default 0]"),                                     \
        ARG("window", ARG_INT, &(c)->window, "N",                                                 \
            "tokens of each window [default 512, or the model's context if that is shorter]",     \
            .least = 2)

/* Reads or writes the texts. */
int choice_begin(cli_choice *c, const lr_model *model);
/* Measures sensitivities, kept beside the plan, and makes them the weights of `keep`. */
int choice_measure(cli_choice *c, const cli_job *job, const lr_model *model, const lr_stats *stats);
/* Judges each allocation by the mean KL over the texts and takes the best; the plan says so. */
int choice_make(const cli_choice *c, const cli_job *job, const lr_model *model,
                const lr_stats *stats, lr_plan **out);
void choice_end(cli_choice *c);

#endif
