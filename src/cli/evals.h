/* What a compression cost: the source and what was written, judged on texts. */
#ifndef LR_CLI_EVALS_H
#define LR_CLI_EVALS_H

#include "cli/job.h"
#include "cli/texts.h"

typedef struct cli_evals {
    arg_list texts;
    int32_t windows, window;
    const char *field;  /* of .jsonl files; NULL: the usual one */
    token_list *tokens; /* texts.count of them */
} cli_evals;

/* What commands that learn judge on unless told. */
#define EVALS_HELD_OUT                                                                      \
    "the last tenth of each text, which is not learnt from, or text that the model writes " \
    "itself"

#define EVALS_DEFAULT \
    { .windows = 16 }

#define EVALS_OPTIONS(e, usual)                                                                   \
    ARG("eval", ARG_LIST, &(e)->texts, "FILE",                                                    \
        "text to judge the source and the result on, at its end; may be repeated [default " usual \
        "]"),                                                                                     \
        ARG("eval-windows", ARG_INT, &(e)->windows, "N",                                          \
            "windows taken from the end of each text to judge on [default 16]", .least = 1)

/* Reads the texts, before any long work. `window` as texts_window() takes it. */
int evals_load(cli_evals *e, const lr_model *model, int32_t window);
/* Where no text was given, one that the model writes itself, of another seed than what is learnt
 * from. */
int evals_write(cli_evals *e, const lr_model *model, int32_t window, uint64_t seed);
/* Tokens, whole windows, at the end of a text that are not learnt from where they are to judge. */
size_t evals_held_out(size_t count, int32_t window);
/* One more text, to be judged on at its end; its name and a copy of its tokens are kept. */
int evals_add(cli_evals *e, const char *path, const int32_t *ids, size_t count);
/* Judges one model on one text. */
int evals_judge(const cli_evals *e, int32_t index, const lr_model *model, const lr_model *reference,
                lr_eval_result *result);
/* What evals_run() has put for a text. */
json_t *evals_about(const json_t *evaluations, const char *path);
/* Judges both models and puts "evaluations" into the result, if there are texts. Distances are from
 * the teacher, who is judged too, or, where that is NULL, from `before`. */
int evals_run(const cli_evals *e, cli_job *job, const lr_model *before, const lr_model *after,
              const lr_model *teacher);
/* One model on all texts, by itself or beside a reference, as {"FILE": {"perplexity": ...}}. */
int evals_put(const cli_evals *e, const lr_model *model, const lr_model *reference, json_t *into);
void evals_end(cli_evals *e);

#endif
