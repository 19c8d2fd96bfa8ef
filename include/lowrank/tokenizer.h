/**
 * @file tokenizer.h
 * Text to token ids and back. A tokenizer is immutable: any number of threads may share it.
 */
#ifndef LOWRANK_TOKENIZER_H
#define LOWRANK_TOKENIZER_H

#include <lowrank/base.h>

LR_BEGIN

/** A tokenizer, opaque. */
typedef struct lr_tokenizer lr_tokenizer;

/**
 * Opens the tokenizer of a model: a Hugging Face folder (tokenizer.json), a tokenizer.json, or a
 * GGUF file. A pipeline this library does not know exactly is refused, never approximated.
 * @param out  owned
 * @param path copied
 * @return LR_E_UNSUPPORTED for an unknown tokenizer model, normalizer or pre-tokenizer
 */
LR_API lr_status lr_tokenizer_open(lr_tokenizer **out, const char *path);

/** Frees a tokenizer. */
LR_API void lr_tokenizer_free(lr_tokenizer *tokenizer);

/** Number of ids: every id is in [0, size). */
LR_API int32_t lr_tokenizer_size(const lr_tokenizer *tokenizer);

/**
 * Encodes one text. Special tokens' text is matched as special, no BOS or EOS is added, and each
 * maximal invalid part of UTF-8 becomes U+FFFD.
 * @param tokenizer the tokenizer
 * @param text      @p bytes bytes, may hold NUL
 * @param bytes     length of @p text
 * @param ids       room for @p capacity ids; NULL with capacity 0 asks for the count
 * @param capacity  ids that fit; more than @p bytes are wanted only where invalid UTF-8 is repaired
 *                  or a normalisation makes text longer (SentencePiece's first space)
 * @param count     number of ids of the whole text; the first min(count, capacity) are written
 */
LR_API lr_status lr_tokenizer_encode(const lr_tokenizer *tokenizer, const char *text, size_t bytes,
                                     int32_t *ids, size_t capacity, size_t *count);

/**
 * Decodes ids to bytes, which are UTF-8 unless the ids cut a character apart. Where encoding puts a
 * space before every text (SentencePiece) decoding takes it away, so decode from the first id on.
 * @param tokenizer the tokenizer
 * @param ids       @p count ids
 * @param count     number of ids
 * @param skip_special 1 leaves special tokens out
 * @param text      room for @p capacity bytes; NULL with capacity 0 asks for the length
 * @param capacity  bytes that fit; no NUL is added
 * @param bytes     length of the whole text; the first min(bytes, capacity) are written
 * @return LR_E_INVALID for an id outside [0, size)
 */
LR_API lr_status lr_tokenizer_decode(const lr_tokenizer *tokenizer, const int32_t *ids,
                                     size_t count, int32_t skip_special, char *text,
                                     size_t capacity, size_t *bytes);

/** 1 when the id is a special (control) token, else 0. */
LR_API int32_t lr_tokenizer_is_special(const lr_tokenizer *tokenizer, int32_t id);

/**
 * Id of a token by its text as the file spells it (a space is "Ġ" in byte-level vocabularies),
 * special ones included; -1 when there is none.
 */
LR_API int32_t lr_tokenizer_find(const lr_tokenizer *tokenizer, const char *text);

LR_END

#endif
