/* The files a Hugging Face folder needs beside the weights, made from a GGUF's tokenizer. The
 * GGUF is read into a tokenizer first, so that whatever is written has been checked. */
#include "format/tokenizer_parts.h"

#include <stdio.h>
#include <string.h>

/* What the writers read from. */
typedef struct source {
    const lr_tokenizer *tokenizer;
    const lr__gguf *gguf;
    const lr__pipeline_name *pipeline;
} source;

static json_t *string_of(lr__text text) { return json_stringn(text.data, text.size); }

/* An AddedToken; with its id in tokenizer.json, without it elsewhere. */
static json_t *added_token(const lr_tokenizer *tokenizer, int32_t id, int with_id) {
    int special = lr_tokenizer_is_special(tokenizer, id);
    json_t *token = json_pack("{s:b,s:b,s:b,s:b,s:b}", "single_word", 0, "lstrip", 0, "rstrip", 0,
                              "normalized", 0, "special", special);
    json_t *content = string_of(lr__vocabulary_text(&tokenizer->vocabulary, id));
    if (json_object_set_new(token, "content", content) ||
        (with_id && json_object_set_new(token, "id", json_integer(id)))) {
        json_decref(token);
        return NULL;
    }
    return token;
}

static lr_status write_added(const source *from, json_t *list) {
    const lr__vocabulary *vocabulary = &from->tokenizer->vocabulary;
    for (int32_t id = 0; id < vocabulary->size; id++) {
        if (!(vocabulary->tokens[id].flags & LR__ADDED)) continue;
        lr_status status = lr__json_append(list, added_token(from->tokenizer, id, 1));
        if (status < 0) return status;
    }
    return LR_OK;
}

static lr_status write_vocab(const source *from, json_t *vocab) {
    const lr__vocabulary *vocabulary = &from->tokenizer->vocabulary;
    for (int32_t id = 0; id < vocabulary->size; id++) {
        lr__text text = lr__vocabulary_text(vocabulary, id);
        if (text.size && memchr(text.data, '\0', text.size))
            return lr__fail(LR_E_UNSUPPORTED, "token %d holds a NUL, which JSON readers refuse",
                            id);
        if (json_object_setn_new_nocheck(vocab, text.data, text.size, json_integer(id)))
            return lr__fail(LR_E_NOMEM, "out of memory for JSON");
    }
    return LR_OK;
}

static lr_status write_pair(const source *from, lr__pair pair, json_t *merges) {
    lr__text left = lr__vocabulary_text(&from->tokenizer->vocabulary, pair.left);
    lr__text right = lr__vocabulary_text(&from->tokenizer->vocabulary, pair.right);
    char line[2 * LR__MAX_PIECE + 1];
    memcpy(line, left.data, left.size);
    line[left.size] = ' ';
    memcpy(line + left.size + 1, right.data, right.size);
    return lr__json_append(merges, json_stringn(line, left.size + 1 + right.size));
}

static lr_status write_pairs(const source *from, json_t *merges) {
    lr__pair *pairs = NULL;
    size_t count;
    lr_status status = lr__pairs_from_gguf(&pairs, &count, &from->tokenizer->vocabulary, from->gguf,
                                           from->pipeline->name);
    for (size_t i = 0; i < count && status >= 0; i++) status = write_pair(from, pairs[i], merges);
    lr__free(pairs);
    return status;
}

/* As "left right", the form that every version of the package reads. */
static lr_status write_merges(const source *from, json_t *merges) {
    const lr__gguf_value *value = lr__gguf_find(from->gguf, "tokenizer.ggml.merges");
    lr_status status = LR_OK;
    if (from->pipeline->has_scores) return write_pairs(from, merges);
    const unsigned char *cursor = value->data;
    for (uint64_t i = 0; i < value->count && status >= 0; i++)
        status = lr__json_append(merges, string_of(lr__gguf_next_text(&cursor)));
    return status;
}

/* The id that a key names; -1 when there is none or it names no token. */
static int32_t named_id(const source *from, const char *name) {
    char key[64] = "tokenizer.ggml.";
    int64_t id = -1;
    strcat(strcat(key, name), "_token_id");
    if (lr__gguf_int(from->gguf, key, &id) < 0 || id < 0 ||
        id >= lr_tokenizer_size(from->tokenizer))
        return -1;
    return (int32_t)id;
}

static int adds(const source *from, const char *key, int by_default) {
    const lr__gguf_value *value = lr__gguf_find(from->gguf, key);
    if (!value || value->type != LR__GGUF_BOOL) return by_default;
    return !!*value->data;
}

static lr_status add_to_template(const source *from, const char *name, json_t *lists[2],
                                 json_t *tokens) {
    int32_t id = named_id(from, name);
    if (id < 0) return LR_OK;
    json_t *text = string_of(lr__vocabulary_text(&from->tokenizer->vocabulary, id));
    const char *spelling = json_string_value(text);
    lr_status status = LR_OK;
    for (int i = 0; i < 2 && status >= 0; i++)
        status = lr__json_append(
            lists[i], json_pack("{s:{s:O,s:i}}", "SpecialToken", "id", text, "type_id", i));
    if (status >= 0)
        status =
            lr__json_set(tokens, spelling,
                         json_pack("{s:O,s:[i],s:[O]}", "id", text, "ids", id, "tokens", text));
    json_decref(text);
    return status;
}

/* What the package puts around a text when it is asked to; this library never does. */
static lr_status write_post_processor(const source *from, json_t *root) {
    int bos = adds(from, "tokenizer.ggml.add_bos_token", from->pipeline->adds_bos);
    int eos = adds(from, "tokenizer.ggml.add_eos_token", 0);
    lr_status status = LR_OK;
    if (!bos && !eos) return lr__json_set(root, "post_processor", json_null());
    json_t *lists[2] = {json_array(), json_array()}, *tokens = json_object();
    if (bos) LR_TRY(add_to_template(from, "bos", lists, tokens));
    /* The pair's first half is the single form; both texts stand inside their own marks. */
    for (int i = 0; i < 2; i++)
        LR_TRY(lr__json_append(
            lists[i], json_pack("{s:{s:s,s:i}}", "Sequence", "id", i ? "B" : "A", "type_id", i)));
    if (eos) LR_TRY(add_to_template(from, "eos", lists, tokens));
    json_t *pair = json_copy(lists[0]);
    if (json_array_extend(pair, lists[1])) {
        json_decref(pair);
        status = lr__fail(LR_E_NOMEM, "out of memory for JSON");
        goto done;
    }
    status = lr__json_set(root, "post_processor",
                          json_pack("{s:s,s:O,s:o,s:O}", "type", "TemplateProcessing", "single",
                                    lists[0], "pair", pair, "special_tokens", tokens));
done:
    json_decref(lists[0]);
    json_decref(lists[1]);
    json_decref(tokens);
    return status;
}

static lr_status write_model(const source *from, json_t *root) {
    lr_status status;
    const lr_tokenizer *t = from->tokenizer;
    json_t *model = json_pack(
        "{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:b,s:{},s:[]}", "type", "BPE", "dropout", "unk_token",
        "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", t->fuse_unknown,
        "byte_fallback", t->byte_fallback, "ignore_merges", t->ignore_merges, "vocab", "merges");
    LR_FAIL_IF(!model, LR_E_NOMEM, "out of memory for JSON");
    if (t->unknown >= 0)
        LR_TRY(lr__json_set(model, "unk_token",
                            string_of(lr__vocabulary_text(&t->vocabulary, t->unknown))));
    LR_TRY(write_vocab(from, json_object_get(model, "vocab")));
    LR_TRY(write_merges(from, json_object_get(model, "merges")));
    LR_TRY(lr__json_set(root, "model", json_incref(model)));
done:
    json_decref(model);
    return status;
}

static lr_status write_tokenizer(const source *from, json_t *root) {
    lr_status status;
    const lr__pipeline_name *pipeline = from->pipeline;
    json_t *added = json_array();
    LR_TRY(lr__json_set(root, "version", json_string("1.0")));
    LR_TRY(lr__json_set(root, "truncation", json_null()));
    LR_TRY(lr__json_set(root, "padding", json_null()));
    LR_TRY(lr__json_set(root, "added_tokens", json_incref(added)));
    LR_TRY(write_added(from, added));
    LR_TRY(
        lr__json_set(root, "normalizer", json_loads(pipeline->normalizer, JSON_DECODE_ANY, NULL)));
    LR_TRY(lr__json_set(root, "pre_tokenizer",
                        json_loads(pipeline->pre_tokenizer, JSON_DECODE_ANY, NULL)));
    LR_TRY(write_post_processor(from, root));
    LR_TRY(lr__json_set(root, "decoder", json_loads(pipeline->decoder, 0, NULL)));
    LR_TRY(write_model(from, root));
done:
    json_decref(added);
    return status;
}

/* bos_token and its like, as text or as AddedToken, into both small files. */
static lr_status write_named(const source *from, lr__tokenizer_files *out) {
    static const struct {
        const char *key, *member;
    } named[] = {{"bos", "bos_token"},
                 {"eos", "eos_token"},
                 {"unknown", "unk_token"},
                 {"padding", "pad_token"}};
    for (size_t i = 0; i < 4; i++) {
        int32_t id = named_id(from, named[i].key);
        if (id < 0) continue;
        lr__text text = lr__vocabulary_text(&from->tokenizer->vocabulary, id);
        json_t *token = added_token(from->tokenizer, id, 0);
        json_object_del(token, "special");
        lr_status status = lr__json_set(out->special_tokens_map, named[i].member, token);
        if (status >= 0)
            status = lr__json_set(out->tokenizer_config, named[i].member, string_of(text));
        if (status < 0) return status;
    }
    return LR_OK;
}

static lr_status write_decoder(const source *from, json_t *decoder) {
    for (int32_t id = 0; id < lr_tokenizer_size(from->tokenizer); id++) {
        char key[16];
        if (!(from->tokenizer->vocabulary.tokens[id].flags & LR__ADDED)) continue;
        snprintf(key, sizeof key, "%d", id);
        lr_status status = lr__json_set(decoder, key, added_token(from->tokenizer, id, 0));
        if (status < 0) return status;
    }
    return LR_OK;
}

static lr_status write_config(const source *from, json_t *config, int64_t context_length) {
    lr_status status;
    lr__text chat = {NULL, 0};
    json_t *decoder = json_object();
    LR_TRY(lr__json_set(config, "tokenizer_class", json_string("PreTrainedTokenizerFast")));
    LR_TRY(lr__json_set(config, "clean_up_tokenization_spaces", json_false()));
    LR_TRY(lr__json_set(config, "added_tokens_decoder", json_incref(decoder)));
    LR_TRY(write_decoder(from, decoder));
    if (context_length > 0)
        LR_TRY(lr__json_set(config, "model_max_length", json_integer(context_length)));
    LR_TRY(lr__gguf_text(from->gguf, "tokenizer.chat_template", &chat));
    if (!chat.data) goto done;
    LR_FAIL_IF(!lr__utf8_is_valid(chat.data, chat.size), LR_E_FORMAT,
               "tokenizer.chat_template is not UTF-8");
    LR_TRY(lr__json_set(config, "chat_template", string_of(chat)));
done:
    json_decref(decoder);
    return status;
}

/* Ids that end a text: of the text, of a turn, of a message. */
static lr_status write_generation(const source *from, json_t *config) {
    static const char *const ends[] = {"eos", "eot", "eom"};
    int32_t bos = named_id(from, "bos"), pad = named_id(from, "padding");
    lr_status status = LR_OK;
    json_t *ids = json_array();
    for (size_t i = 0; i < 3; i++) {
        int32_t id = named_id(from, ends[i]), known = id < 0;
        for (size_t j = 0; j < json_array_size(ids); j++)
            known |= json_integer_value(json_array_get(ids, j)) == id;
        if (!known) LR_TRY(lr__json_append(ids, json_integer(id)));
    }
    if (bos >= 0) LR_TRY(lr__json_set(config, "bos_token_id", json_integer(bos)));
    if (json_array_size(ids) == 1)
        LR_TRY(lr__json_set(config, "eos_token_id", json_incref(json_array_get(ids, 0))));
    if (json_array_size(ids) > 1) LR_TRY(lr__json_set(config, "eos_token_id", json_incref(ids)));
    if (pad >= 0) LR_TRY(lr__json_set(config, "pad_token_id", json_integer(pad)));
done:
    json_decref(ids);
    return status;
}

lr_status lr__tokenizer_files_from_gguf(lr__tokenizer_files *out, const lr__gguf *gguf,
                                        int64_t context_length) {
    lr_status status;
    lr_tokenizer *tokenizer = NULL;
    source from = {.gguf = gguf};
    *out = (lr__tokenizer_files){json_object(), json_object(), json_object(), json_object()};
    LR_FAIL_IF(!out->tokenizer || !out->tokenizer_config || !out->special_tokens_map ||
                   !out->generation_config,
               LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(lr__tokenizer_from_gguf(&tokenizer, gguf));
    LR_TRY(lr__pipeline_of_gguf(&from.pipeline, gguf, gguf->mapping->path));
    from.tokenizer = tokenizer;
    LR_TRY(write_tokenizer(&from, out->tokenizer));
    LR_TRY(write_named(&from, out));
    LR_TRY(write_config(&from, out->tokenizer_config, context_length));
    LR_TRY(write_generation(&from, out->generation_config));
done:
    if (status < 0) lr__tokenizer_files_clear(out);
    lr_tokenizer_free(tokenizer);
    return status;
}

void lr__tokenizer_files_clear(lr__tokenizer_files *files) {
    json_decref(files->tokenizer);
    json_decref(files->tokenizer_config);
    json_decref(files->special_tokens_map);
    json_decref(files->generation_config);
    *files = (lr__tokenizer_files){0};
}
