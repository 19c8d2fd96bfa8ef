/* tokenizer.json of the tokenizers package: BPE of bytes, or of characters as SentencePiece has it.
 */
#include "format/tokenizer_parts.h"

#include <string.h>

static lr__text text_of(const json_t *value) {
    return (lr__text){json_string_value(value), json_string_length(value)};
}

/* A token's id; -1 when it is no integer that could be one. */
static int64_t id_of(const json_t *value) {
    if (!json_is_integer(value)) return -1;
    json_int_t id = json_integer_value(value);
    return id >= 0 && id < INT32_MAX ? (int64_t)id : -1;
}

/* Largest id + 1 over both lists. Holes are allowed, deserts are not: memory follows the ids. */
static lr_status count_ids(size_t *size, json_t *vocab, const json_t *added, const char *where) {
    int64_t largest = -1;
    const char *key;
    json_t *value;
    json_object_foreach(vocab, key, value) {
        int64_t id = id_of(value);
        if (id < 0)
            return lr__fail(LR_E_FORMAT, "%s: the id of \"%.80s\" is not an integer of 0 and more",
                            where, key);
        if (id > largest) largest = id;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        int64_t id = id_of(json_object_get(json_array_get(added, i), "id"));
        if (id < 0)
            return lr__fail(LR_E_FORMAT, "%s: added token %zu has no id of 0 and more", where, i);
        if (id > largest) largest = id;
    }
    size_t tokens = json_object_size(vocab) + json_array_size(added);
    if (largest >= (int64_t)(2 * tokens + 65536))
        return lr__fail(LR_E_FORMAT, "%s: id %lld among %zu tokens", where, (long long)largest,
                        tokens);
    *size = (size_t)(largest + 1);
    return LR_OK;
}

static lr_status read_vocab(lr_tokenizer *tokenizer, json_t *vocab, const json_t *added,
                            const char *where) {
    size_t size = 0;
    lr_status status = count_ids(&size, vocab, added, where);
    if (status >= 0) status = lr__vocabulary_init(&tokenizer->vocabulary, size, where);
    const char *key;
    size_t length;
    json_t *value;
    if (status < 0) return status;
    json_object_keylen_foreach(vocab, key, length, value) {
        status = lr__vocabulary_set(&tokenizer->vocabulary, id_of(value), (lr__text){key, length},
                                    where);
        if (status < 0) return status;
    }
    return LR_OK;
}

/* "a b" of older files or ["a", "b"]. */
static lr_status read_merge(const json_t *merge, size_t rank, lr__text *left, lr__text *right,
                            const char *where) {
    lr__text line = text_of(merge);
    if (line.data) return lr__merge_split(line, rank, left, right, where);
    *left = text_of(json_array_get(merge, 0));
    *right = text_of(json_array_get(merge, 1));
    if (!left->data || !right->data || json_array_size(merge) != 2)
        return lr__fail(LR_E_FORMAT, "%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", where,
                        rank);
    return LR_OK;
}

static lr_status read_merges(lr_tokenizer *tokenizer, const json_t *merges, const char *where) {
    lr_status status;
    char *joined = NULL;
    LR_FAIL_IF(!json_is_array(merges), LR_E_FORMAT, "%s: model.merges is not a list", where);
    LR_TRY(lr__merges_init(&tokenizer->merges, json_array_size(merges), where));
    LR_TRY(lr__new(&joined, tokenizer->vocabulary.longest + 1u, 1));
    for (size_t i = 0; i < json_array_size(merges); i++) {
        lr__text left = {0}, right = {0};
        LR_TRY(read_merge(json_array_get(merges, i), i, &left, &right, where));
        LR_TRY(lr__tokenizer_merge(tokenizer, (uint32_t)i, left, right, joined, where));
    }
done:
    lr__free(joined);
    return status;
}

static int is_null(const json_t *value) { return !value || json_is_null(value); }

/* Options of BPE that would change the result and are not done here. */
static lr_status check_model(const json_t *model, const char *where) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *type = json_object_get(model, "type");
    if (!json_is_object(model)) return lr__fail(LR_E_FORMAT, "%s: no model", where);
    if (!is_null(type) && (!json_is_string(type) || strcmp(json_string_value(type), "BPE")))
        return lr__fail(LR_E_UNSUPPORTED, "%s: model \"%.80s\", expected BPE", where,
                        json_is_string(type) ? json_string_value(type) : "");
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return lr__fail(LR_E_UNSUPPORTED, "%s: BPE with dropout", where);
    for (size_t i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        if (!is_null(affix) && (!json_is_string(affix) || json_string_length(affix)))
            return lr__fail(LR_E_UNSUPPORTED, "%s: BPE with %s", where, affixes[i]);
    }
    return LR_OK;
}

static lr_status read_model(lr_tokenizer *tokenizer, const json_t *model, const json_t *added,
                            const char *where) {
    lr_status status;
    LR_TRY(check_model(model, where));
    json_t *vocab = json_object_get(model, "vocab");
    LR_FAIL_IF(!json_is_object(vocab), LR_E_FORMAT, "%s: model.vocab is not an object", where);
    LR_TRY(read_vocab(tokenizer, vocab, added, where));
    LR_TRY(read_merges(tokenizer, json_object_get(model, "merges"), where));
    LR_TRY(lr__json_bool(model, "ignore_merges", &tokenizer->ignore_merges, where));
    LR_TRY(lr__json_bool(model, "fuse_unk", &tokenizer->fuse_unknown, where));
    LR_TRY(lr__json_bool(model, "byte_fallback", &tokenizer->byte_fallback, where));
    const json_t *unknown = json_object_get(model, "unk_token");
    if (is_null(unknown)) goto done;
    LR_FAIL_IF(!json_is_string(unknown), LR_E_FORMAT, "%s: unk_token is not a string", where);
    tokenizer->unknown = lr__vocabulary_find(&tokenizer->vocabulary, text_of(unknown));
    LR_FAIL_IF(tokenizer->unknown < 0, LR_E_FORMAT,
               "%s: unk_token \"%.80s\" is not in the vocabulary", where,
               json_string_value(unknown));
done:
    return status;
}

static lr_status read_flags(const json_t *item, uint32_t *flags, int32_t *special,
                            const char *where) {
    static const struct {
        const char *key;
        uint32_t bit;
    } members[] = {{"normalized", LR__NORMALIZED},
                   {"lstrip", LR__LSTRIP},
                   {"rstrip", LR__RSTRIP},
                   {"single_word", LR__SINGLE_WORD}};
    lr_status status = lr__json_bool(item, "special", special, where);
    *flags = 0;
    for (size_t i = 0; i < 4 && status >= 0; i++) {
        /* Unless said otherwise only special tokens are matched before normalisation. */
        int32_t value = i == 0 && !*special;
        status = lr__json_bool(item, members[i].key, &value, where);
        if (value) *flags |= members[i].bit;
    }
    return status;
}

static lr_status read_added(lr_tokenizer *tokenizer, const json_t *item, const char *where) {
    lr__vocabulary *vocabulary = &tokenizer->vocabulary;
    lr__text text = text_of(json_object_get(item, "content"));
    int64_t id = id_of(json_object_get(item, "id"));
    if (!text.data)
        return lr__fail(LR_E_FORMAT, "%s: added token %lld has no content", where, (long long)id);
    int32_t known = lr__vocabulary_find(vocabulary, text), special = 0;
    if (known >= 0 && known != id)
        return lr__fail(LR_E_FORMAT, "%s: added token \"%.*s\" has id %lld, and %d in the model",
                        where, LR__SHOW(text), (long long)id, known);
    if (known < 0) {
        lr_status status = lr__vocabulary_set(vocabulary, id, text, where);
        if (status < 0) return status;
        vocabulary->tokens[id].flags |= LR__OUTSIDE;
    }
    uint32_t flags;
    lr_status status = read_flags(item, &flags, &special, where);
    if (status < 0) return status;
    return lr__tokenizer_add(tokenizer, (int32_t)id, flags, special, where);
}

/* Bytes or characters: pre-tokenizer, decoder and model must mean the same. */
static lr_status check_level(const lr_tokenizer *tokenizer, const char *where) {
    int32_t splits = tokenizer->pipeline.byte_level, decodes = tokenizer->decoder.byte_level;
    if (splits != decodes)
        return lr__fail(LR_E_UNSUPPORTED,
                        "%s: a pre-tokenizer %s ByteLevel and a decoder %s it, expected both or "
                        "neither",
                        where, splits ? "with" : "without", decodes ? "with" : "without");
    if (splits && tokenizer->byte_fallback)
        return lr__fail(LR_E_UNSUPPORTED, "%s: BPE with byte_fallback behind ByteLevel", where);
    return LR_OK;
}

lr_status lr__tokenizer_from_json(lr_tokenizer **out, const json_t *root, const char *where) {
    lr_status status;
    lr_tokenizer *tokenizer = NULL;
    *out = NULL;
    const json_t *added = json_object_get(root, "added_tokens");
    LR_FAIL_IF(!json_is_object(root), LR_E_FORMAT, "%s: not an object", where);
    LR_FAIL_IF(!is_null(added) && !json_is_array(added), LR_E_FORMAT,
               "%s: added_tokens is not a list", where);
    LR_TRY(lr__new(&tokenizer, 1, sizeof *tokenizer));
    tokenizer->unknown = -1;
    lr__classes_fill(&tokenizer->classes);
    LR_TRY(read_model(tokenizer, json_object_get(root, "model"), added, where));
    LR_TRY(lr__pipeline_from_json(&tokenizer->pipeline, json_object_get(root, "normalizer"),
                                  json_object_get(root, "pre_tokenizer"), where));
    LR_TRY(lr__decoder_from_json(&tokenizer->decoder, json_object_get(root, "decoder"), where));
    LR_TRY(check_level(tokenizer, where));
    for (size_t i = 0; i < json_array_size(added); i++)
        LR_TRY(read_added(tokenizer, json_array_get(added, i), where));
    lr__tokenizer_finish(tokenizer);
    *out = tokenizer;
    tokenizer = NULL;
done:
    lr_tokenizer_free(tokenizer);
    return status;
}
