/* The tokenizer inside a GGUF file: byte-level BPE ("gpt2"), its pipeline known by name, or
 * SentencePiece's BPE with scores ("llama"). */
#include "format/tokenizer_parts.h"

#include <string.h>

/* Types of tokens that ggml knows beside normal ones (1), unused (5) and bytes (6). */
enum { UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4 };

static int is_text(lr__text text, const char *wanted) {
    return text.size == strlen(wanted) && !memcmp(text.data, wanted, text.size);
}

/* An array of strings; NULL with a message when it is not one. */
static const lr__gguf_value *strings(const lr__gguf *gguf, const char *key, const char *where) {
    const lr__gguf_value *value = lr__gguf_find(gguf, key);
    if (value && value->type == LR__GGUF_ARRAY && value->element_type == LR__GGUF_STRING)
        return value;
    lr__fail(LR_E_FORMAT, "%s: %s is not an array of strings", where, key);
    return NULL;
}

static lr_status read_tokens(lr_tokenizer *tokenizer, const lr__gguf *gguf, const char *where) {
    const lr__gguf_value *tokens = strings(gguf, "tokenizer.ggml.tokens", where);
    if (!tokens) return LR_E_FORMAT;
    size_t count = tokens->count < INT32_MAX ? (size_t)tokens->count : INT32_MAX;
    lr_status status = lr__vocabulary_init(&tokenizer->vocabulary, count, where);
    const unsigned char *cursor = tokens->data;
    for (size_t i = 0; i < count && status >= 0; i++)
        status = lr__vocabulary_set(&tokenizer->vocabulary, (int64_t)i, lr__gguf_next_text(&cursor),
                                    where);
    return status;
}

static lr_status read_merges(lr_tokenizer *tokenizer, const lr__gguf *gguf, const char *where) {
    lr_status status;
    char *joined = NULL;
    const lr__gguf_value *merges = strings(gguf, "tokenizer.ggml.merges", where);
    if (!merges) return LR_E_FORMAT;
    size_t count = merges->count < INT32_MAX ? (size_t)merges->count : INT32_MAX;
    const unsigned char *cursor = merges->data;
    LR_TRY(lr__merges_init(&tokenizer->merges, count, where));
    LR_TRY(lr__new(&joined, tokenizer->vocabulary.longest + 1u, 1));
    for (size_t i = 0; i < count; i++) {
        lr__text left = {0}, right = {0};
        LR_TRY(lr__merge_split(lr__gguf_next_text(&cursor), i, &left, &right, where));
        LR_TRY(lr__tokenizer_merge(tokenizer, (uint32_t)i, left, right, joined, where));
    }
done:
    lr__free(joined);
    return status;
}

static lr_status read_scores(lr_tokenizer *tokenizer, const lr__gguf *gguf, const char *where) {
    lr_status status;
    lr__pair *pairs = NULL;
    size_t count;
    LR_TRY(lr__pairs_from_gguf(&pairs, &count, &tokenizer->vocabulary, gguf, where));
    LR_TRY(lr__merges_init(&tokenizer->merges, count, where));
    for (size_t i = 0; i < count; i++) LR_TRY(lr__tokenizer_pair(tokenizer, pairs[i]));
done:
    lr__free(pairs);
    return status;
}

/* What stands for characters that are no tokens: their bytes, or the unknown token. */
static lr_status read_fallback(lr_tokenizer *tokenizer, const lr__gguf *gguf) {
    int64_t unknown = -1;
    lr_status status = lr__gguf_int(gguf, "tokenizer.ggml.unknown_token_id", &unknown);
    if (unknown >= 0 && unknown < tokenizer->vocabulary.size) tokenizer->unknown = (int32_t)unknown;
    tokenizer->byte_fallback = tokenizer->fuse_unknown = 1;
    return status;
}

/* Without types the tokens that open and close a text are the only ones known to be special. */
static lr_status add_named(lr_tokenizer *tokenizer, const lr__gguf *gguf, const char *where) {
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id",
                                       "tokenizer.ggml.eos_token_id"};
    for (size_t i = 0; i < 2; i++) {
        int64_t id = -1;
        lr_status status = lr__gguf_int(gguf, keys[i], &id);
        if (status < 0) return status;
        if (id < 0 || id >= tokenizer->vocabulary.size ||
            tokenizer->vocabulary.tokens[id].flags & LR__ADDED)
            continue;
        status = lr__tokenizer_add(tokenizer, (int32_t)id, 0, 1, where);
        if (status < 0) return status;
    }
    return LR_OK;
}

static int is_integer(int32_t type) {
    return type <= LR__GGUF_I32 || type == LR__GGUF_U64 || type == LR__GGUF_I64;
}

static lr_status read_types(lr_tokenizer *tokenizer, const lr__gguf *gguf, const char *where) {
    const lr__gguf_value *types = lr__gguf_find(gguf, "tokenizer.ggml.token_type");
    int32_t size = tokenizer->vocabulary.size;
    if (!types) return add_named(tokenizer, gguf, where);
    if (types->type != LR__GGUF_ARRAY || !is_integer(types->element_type) ||
        types->count != (uint64_t)size)
        return lr__fail(LR_E_FORMAT, "%s: tokenizer.ggml.token_type is not an array of %d integers",
                        where, size);
    for (int32_t id = 0; id < size; id++) {
        int64_t type = lr__gguf_element(types, (uint64_t)id);
        if (type < UNKNOWN || type > USER_DEFINED) continue;
        lr_status status = lr__tokenizer_add(tokenizer, id, 0, type != USER_DEFINED, where);
        if (status < 0) return status;
    }
    return LR_OK;
}

/* The pipeline in the words of tokenizer.json, read by the same readers. */
static lr_status read_pipeline(lr_tokenizer *tokenizer, const lr__pipeline_name *name) {
    lr_status status = LR_OK;
    json_t *normalizer = json_loads(name->normalizer, JSON_DECODE_ANY, NULL);
    json_t *pre_tokenizer = json_loads(name->pre_tokenizer, JSON_DECODE_ANY, NULL);
    json_t *decoder = json_loads(name->decoder, 0, NULL);
    LR_FAIL_IF(!normalizer || !pre_tokenizer || !decoder, LR_E_NOMEM,
               "out of memory for a pipeline");
    LR_TRY(lr__pipeline_from_json(&tokenizer->pipeline, normalizer, pre_tokenizer, name->name));
    LR_TRY(lr__decoder_from_json(&tokenizer->decoder, decoder, name->name));
    tokenizer->ignore_merges = name->ignore_merges;
done:
    json_decref(normalizer);
    json_decref(pre_tokenizer);
    json_decref(decoder);
    return status;
}

lr_status lr__pipeline_of_gguf(const lr__pipeline_name **out, const lr__gguf *gguf,
                               const char *where) {
    lr__text model = {"", 0}, pre = {"", 0};
    int64_t has_prefix = 1;
    lr_status status = lr__gguf_text(gguf, "tokenizer.ggml.model", &model);
    if (status >= 0) status = lr__gguf_text(gguf, "tokenizer.ggml.pre", &pre);
    if (status >= 0) status = lr__gguf_int(gguf, "tokenizer.ggml.add_space_prefix", &has_prefix);
    if (status < 0) return status;
    if (is_text(model, "llama")) {
        *out = lr__pipeline_sentencepiece(!!has_prefix);
        return LR_OK;
    }
    if (!is_text(model, "gpt2"))
        return lr__fail(LR_E_UNSUPPORTED,
                        "%s: tokenizer.ggml.model is \"%.*s\", expected gpt2 or llama", where,
                        LR__SHOW(model));
    status = lr__pipeline_named(out, pre);
    return status < 0 ? lr__fail_in(status, "%s", where) : LR_OK;
}

lr_status lr__tokenizer_from_gguf(lr_tokenizer **out, const lr__gguf *gguf) {
    lr_status status;
    lr_tokenizer *tokenizer = NULL;
    const lr__pipeline_name *pipeline = NULL;
    const char *where = gguf->mapping ? gguf->mapping->path : "GGUF";
    *out = NULL;
    LR_TRY(lr__pipeline_of_gguf(&pipeline, gguf, where));
    LR_TRY(lr__new(&tokenizer, 1, sizeof *tokenizer));
    tokenizer->unknown = -1;
    lr__classes_fill(&tokenizer->classes);
    LR_TRY(read_pipeline(tokenizer, pipeline));
    LR_TRY(read_tokens(tokenizer, gguf, where));
    LR_TRY(read_types(tokenizer, gguf, where));
    if (pipeline->has_scores) {
        LR_TRY(read_scores(tokenizer, gguf, where));
        LR_TRY(read_fallback(tokenizer, gguf));
    } else {
        LR_TRY(read_merges(tokenizer, gguf, where));
    }
    lr__tokenizer_finish(tokenizer);
    *out = tokenizer;
    tokenizer = NULL;
done:
    lr_tokenizer_free(tokenizer);
    return status;
}
