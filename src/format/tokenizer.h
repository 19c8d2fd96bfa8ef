/* Tokenizers from and to files; encode and decode are public (lowrank/tokenizer.h). */
#ifndef LR_FORMAT_TOKENIZER_H
#define LR_FORMAT_TOKENIZER_H

#include "base/json.h"
#include "format/gguf.h"

#include <lowrank/tokenizer.h>

lr_status lr__tokenizer_from_json(lr_tokenizer **out, const json_t *root, const char *where);
lr_status lr__tokenizer_from_gguf(lr_tokenizer **out, const lr__gguf *gguf);

/* What a Hugging Face folder needs when the source was a GGUF: the contents of tokenizer.json,
 * tokenizer_config.json (chat template included, bos/eos/unk/pad named, model_max_length from the
 * caller), special_tokens_map.json and generation_config.json. Each freed by json_decref. */
typedef struct lr__tokenizer_files {
    json_t *tokenizer, *tokenizer_config, *special_tokens_map, *generation_config;
} lr__tokenizer_files;
lr_status lr__tokenizer_files_from_gguf(lr__tokenizer_files *out, const lr__gguf *gguf,
                                        int64_t context_length);
void lr__tokenizer_files_clear(lr__tokenizer_files *files);

#endif
