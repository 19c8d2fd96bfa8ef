/* Text files as token ids. */
#ifndef LR_CLI_TEXTS_H
#define LR_CLI_TEXTS_H

#include "cli/report.h"

typedef struct token_list {
    int32_t *ids; /* freed by the owner */
    size_t count;
} token_list;

/* How files become tokens. */
typedef struct text_reader {
    const lr_tokenizer *tokenizer;
    const char *field; /* member of the objects of a .jsonl file; NULL: "text" */
    int32_t end;       /* token between the texts of a .jsonl file; negative: none */
} text_reader;

int texts_reader(text_reader *reader, const lr_model *model, const char *field);
/* The whole file is one text; a .jsonl file has one in each line. One without text is refused. */
int texts_read(token_list *out, const text_reader *reader, const char *path);
/* The token by which the model ends a text; -1 where it names none. */
int32_t texts_end(const lr_model *model);

int texts_encode(token_list *out, const lr_tokenizer *tokenizer, const char *text, size_t bytes);
/* The whole file is one text, whatever it is called. */
int texts_load(token_list *out, const lr_tokenizer *tokenizer, const char *path);
/* Seeds of self-written text: what a model learnt from or was chosen by does not judge it. */
enum { TEXTS_SEED_LEARN = 0, TEXTS_SEED_JUDGE = 1, TEXTS_SEED_CHOOSE = 2 };
/* What the model writes itself: windows of tokens, the same for the same seed. */
int texts_write(token_list *out, const lr_model *model, uint64_t seed, int32_t windows,
                int32_t window);
/* Decodes without special tokens; `*text` is freed by the caller. */
int texts_decode(char **text, size_t *bytes, const lr_tokenizer *tokenizer, const int32_t *ids,
                 size_t count);
/* Tells texts apart; `hash` is TEXTS_HASH or of the texts before. */
#define TEXTS_HASH 14695981039346656037U
uint64_t texts_hash(uint64_t hash, const token_list *tokens);
int texts_tokenizer(const lr_model *model, const lr_tokenizer **out);

/* `window`, or where it is 0 the usual 512, or less where the model's context is shorter. */
int32_t texts_window(const lr_model *model, int32_t window);

#endif
