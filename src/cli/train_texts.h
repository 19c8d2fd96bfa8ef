/* What a training learns from: files, and text that the teacher or the model writes itself. */
#ifndef LR_CLI_TRAIN_TEXTS_H
#define LR_CLI_TRAIN_TEXTS_H

#include "cli/evals.h"

typedef struct train_texts {
    arg_list files;
    const char *field;    /* of .jsonl files; NULL: the usual one */
    int32_t self_windows; /* negative: as many as usual where there is no file */
    token_list tokens;
} train_texts;

/* Packs all texts end to end, the token that ends a text between them. Where `evals` has no texts
 * of its own, it gets the ends of the files, which are not learnt from. */
int train_texts_load(train_texts *t, cli_evals *evals, const lr_model *model,
                     const lr_model *writer);
void train_texts_end(train_texts *t);

#endif
