/* Texts in a file of one JSON object a line. */
#ifndef LR_CLI_JSONL_H
#define LR_CLI_JSONL_H

#include "cli/texts.h"

/* Whether the file's name says that it is one: it ends in ".jsonl". */
int jsonl_is_named(const char *path);
/* The tokens of all texts of a file, each tokenized by itself, with reader->end between them.
 * Lines of white space and empty texts are passed over. */
int jsonl_encode(token_list *out, const text_reader *reader, const char *path, const char *bytes,
                 size_t count);

#endif
