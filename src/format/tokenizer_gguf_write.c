/* The tokenizer of a Hugging Face folder as GGUF metadata. The files are read into a tokenizer
 * first, so that whatever is written has been checked; its pipeline must be one that GGUF's readers
 * know by name. */
#include "base/file.h"
#include "format/gguf_write.h"
#include "format/tokenizer_parts.h"

#include <stdio.h>
#include <string.h>

enum { JSON_LIMIT = 1 << 28, TEMPLATE_LIMIT = 1 << 24, PLACEHOLDER_SIZE = 24 };
/* ggml's types of tokens. */
enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 };

/* What the keys are made from. */
typedef struct source {
    const lr__config *config;
    const char *folder;
    json_t *root, *tokenizer_config, *generation_config; /* the latter two may be NULL */
    lr_tokenizer *tokenizer;
    const lr__pipeline_name *pipeline;
    char *chat_template; /* of a file of its own, or NULL */
    size_t chat_template_size;
} source;

static lr__text text_of(const json_t *value) {
    return (lr__text){json_string_value(value), json_string_length(value)};
}

static lr__text text_from(const char *text) { return (lr__text){text, strlen(text)}; }

/* --- the name of a pipeline --- */

/* A part of a pipeline, with what is the default written out and what does not matter left out. */
static json_t *plain_part(const json_t *value) {
    json_t *part = json_copy((json_t *)value);
    const char *type = lr__part_type(part);
    int failed = !part;
    json_object_del(part, "trim_offsets");
    if (!strcmp(type, "ByteLevel") && !json_object_get(part, "use_regex"))
        failed |= json_object_set_new(part, "use_regex", json_true());
    if (!strcmp(type, "Split") && !json_object_get(part, "invert"))
        failed |= json_object_set_new(part, "invert", json_false());
    if (!failed) return part;
    json_decref(part);
    return NULL;
}

/* Appends the parts of a sequence of sequences; the reader has bounded their depth. */
static lr_status add_parts(json_t *parts, const json_t *value) {
    const json_t *list = json_object_get(value, "pretokenizers");
    if (!json_is_array(list)) return lr__json_append(parts, plain_part(value));
    for (size_t i = 0; i < json_array_size(list); i++) {
        lr_status status = add_parts(parts, json_array_get(list, i));
        if (status < 0) return status;
    }
    return LR_OK;
}

static lr_status same_parts(int *same, const json_t *one, const json_t *two) {
    lr_status status = LR_OK;
    json_t *a = json_array(), *b = json_array();
    LR_FAIL_IF(!a || !b, LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(add_parts(a, one));
    LR_TRY(add_parts(b, two));
    *same = json_equal(a, b);
done:
    json_decref(a);
    json_decref(b);
    return status;
}

static lr_status is_named(int *same, const source *s, const lr__pipeline_name *name) {
    const lr__pipeline *pipeline = &s->tokenizer->pipeline;
    int nfc = strstr(name->normalizer, "NFC") != NULL;
    *same = 0;
    /* SentencePiece's vocabularies need scores, which tokenizer.json does not have. */
    if (!pipeline->byte_level || name->ignore_merges != s->tokenizer->ignore_merges ||
        nfc != (pipeline->normals.count > 0))
        return LR_OK;
    for (size_t i = 0; i < pipeline->normals.count; i++)
        if (pipeline->normals.items[i].kind != LR__NORMAL_NFC) return LR_OK;
    json_t *known = json_loads(name->pre_tokenizer, 0, NULL);
    if (!known) return lr__fail(LR_E_NOMEM, "out of memory for JSON");
    lr_status status = same_parts(same, json_object_get(s->root, "pre_tokenizer"), known);
    json_decref(known);
    return status;
}

static lr_status find_pipeline(source *s) {
    int same = 0;
    for (size_t i = 0; (s->pipeline = lr__pipeline_known(i)); i++) {
        lr_status status = is_named(&same, s, s->pipeline);
        if (status < 0 || same) return status;
    }
    return lr__fail(LR_E_UNSUPPORTED,
                    "%s/tokenizer.json: GGUF has no name we know for its pre-tokenizer", s->folder);
}

/* --- checks, before anything is put --- */

static void placeholder(char out[PLACEHOLDER_SIZE], int32_t id) {
    snprintf(out, PLACEHOLDER_SIZE, "[PAD%d]", id);
}

static int is_present(const source *s, int32_t id) {
    return id < s->tokenizer->vocabulary.size && s->tokenizer->vocabulary.tokens[id].flags;
}

static lr_status check_tokens(const source *s) {
    char name[PLACEHOLDER_SIZE];
    int32_t rows = s->config->vocabulary_size;
    if (s->tokenizer->vocabulary.size > rows)
        return lr__fail(LR_E_UNSUPPORTED,
                        "%s/tokenizer.json: %d tokens, and GGUF allows no more than the "
                        "embedding's %d",
                        s->folder, s->tokenizer->vocabulary.size, rows);
    for (int32_t id = 0; id < rows; id++) {
        if (is_present(s, id)) continue;
        placeholder(name, id);
        if (lr_tokenizer_find(s->tokenizer, name) >= 0)
            return lr__fail(LR_E_UNSUPPORTED,
                            "%s/tokenizer.json: \"%s\" is a token, and the name GGUF gives to "
                            "the unused id %d",
                            s->folder, name, id);
    }
    return LR_OK;
}

static const json_t *merges_of(const source *s) {
    return json_object_get(json_object_get(s->root, "model"), "merges");
}

/* GGUF has them as "left right". */
static lr_status check_merges(const source *s) {
    const json_t *merges = merges_of(s);
    for (size_t i = 0; i < json_array_size(merges); i++)
        for (size_t side = 0; side < 2; side++) {
            lr__text part = text_of(json_array_get(json_array_get(merges, i), side));
            if (part.data && memchr(part.data, ' ', part.size))
                return lr__fail(LR_E_UNSUPPORTED,
                                "%s/tokenizer.json: merge %zu holds a space, which GGUF cannot say",
                                s->folder, i);
        }
    return LR_OK;
}

/* --- reading --- */

static lr_status read_optional(json_t **out, const char *folder, const char *name) {
    char *path = NULL;
    lr_status status = lr__path_join(&path, folder, name);
    if (status >= 0 && lr__path_exists(path)) status = lr__json_read(out, path, JSON_LIMIT);
    lr__free(path);
    return status;
}

static lr_status read_chat_template(source *s) {
    char *path = NULL;
    lr_status status = lr__path_join(&path, s->folder, "chat_template.jinja");
    if (status >= 0 && lr__path_exists(path))
        status = lr__file_read(&s->chat_template, &s->chat_template_size, path, TEMPLATE_LIMIT);
    lr__free(path);
    return status;
}

static lr_status source_read(source *s) {
    lr_status status = LR_OK;
    char *path = NULL;
    LR_TRY(read_optional(&s->root, s->folder, "tokenizer.json"));
    LR_FAIL_IF(!s->root, LR_E_NOTFOUND, "%s: no tokenizer.json in the folder", s->folder);
    LR_TRY(lr__path_join(&path, s->folder, "tokenizer.json"));
    LR_TRY(lr__tokenizer_from_json(&s->tokenizer, s->root, path));
    LR_TRY(find_pipeline(s));
    LR_TRY(check_tokens(s));
    LR_TRY(check_merges(s));
    LR_TRY(read_optional(&s->tokenizer_config, s->folder, "tokenizer_config.json"));
    LR_TRY(read_optional(&s->generation_config, s->folder, "generation_config.json"));
    LR_TRY(read_chat_template(s));
done:
    lr__free(path);
    return status;
}

static void source_clear(source *s) {
    json_decref(s->root);
    json_decref(s->tokenizer_config);
    json_decref(s->generation_config);
    lr_tokenizer_free(s->tokenizer);
    lr__free(s->chat_template);
}

/* --- vocabulary --- */

static lr_status put_tokens(lr__gguf_writer *writer, const source *s) {
    int32_t rows = s->config->vocabulary_size;
    char name[PLACEHOLDER_SIZE];
    lr_status status =
        lr__gguf_put_array(writer, "tokenizer.ggml.tokens", LR__GGUF_STRING, (uint64_t)rows);
    for (int32_t id = 0; id < rows && status >= 0; id++) {
        placeholder(name, id);
        lr__text text = is_present(s, id) ? lr__vocabulary_text(&s->tokenizer->vocabulary, id)
                                          : text_from(name);
        status = lr__gguf_put_text_element(writer, text);
    }
    return status;
}

static int32_t type_of(const source *s, int32_t id) {
    if (!is_present(s, id)) return UNUSED;
    uint32_t flags = s->tokenizer->vocabulary.tokens[id].flags;
    return !(flags & LR__ADDED) ? NORMAL : flags & LR__SPECIAL ? CONTROL : USER_DEFINED;
}

static lr_status put_types(lr__gguf_writer *writer, const source *s) {
    int32_t rows = s->config->vocabulary_size;
    lr_status status =
        lr__gguf_put_array(writer, "tokenizer.ggml.token_type", LR__GGUF_I32, (uint64_t)rows);
    for (int32_t id = 0; id < rows && status >= 0; id++)
        status = lr__gguf_put_i32_element(writer, type_of(s, id));
    return status;
}

static lr_status put_merge(lr__gguf_writer *writer, const json_t *merge, char **line,
                           size_t *capacity) {
    lr__text whole = text_of(merge);
    if (whole.data) return lr__gguf_put_text_element(writer, whole);
    lr__text left = text_of(json_array_get(merge, 0)), right = text_of(json_array_get(merge, 1));
    lr_status status = lr__grow(line, capacity, left.size + 1 + right.size, 1);
    if (status < 0) return status;
    memcpy(*line, left.data, left.size);
    (*line)[left.size] = ' ';
    memcpy(*line + left.size + 1, right.data, right.size);
    return lr__gguf_put_text_element(writer, (lr__text){*line, left.size + 1 + right.size});
}

static lr_status put_merges(lr__gguf_writer *writer, const source *s) {
    const json_t *merges = merges_of(s);
    char *line = NULL;
    size_t capacity = 0, count = json_array_size(merges);
    lr_status status = lr__gguf_put_array(writer, "tokenizer.ggml.merges", LR__GGUF_STRING, count);
    for (size_t i = 0; i < count && status >= 0; i++)
        status = put_merge(writer, json_array_get(merges, i), &line, &capacity);
    lr__free(line);
    return status;
}

/* --- tokens with a task --- */

static int64_t valid_id(const source *s, const json_t *value) {
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    return id < s->config->vocabulary_size ? id : -1;
}

/* "<s>" or {"content": "<s>"}. */
static lr__text named_text(const source *s, const char *member) {
    const json_t *value = json_object_get(s->tokenizer_config, member);
    return text_of(json_is_object(value) ? json_object_get(value, "content") : value);
}

/* An id, or the first of several. */
static int64_t configured_id(const source *s, const json_t *config, const char *member) {
    const json_t *value = json_object_get(config, member);
    return valid_id(s, json_is_array(value) ? json_array_get(value, 0) : value);
}

static int64_t find_id(const source *s, const char *token) {
    char member[32];
    lr__text text = named_text(s, token);
    int64_t id = text.data ? lr__vocabulary_find(&s->tokenizer->vocabulary, text) : -1;
    snprintf(member, sizeof member, "%s_id", token);
    if (id < 0) id = configured_id(s, s->config->json, member);
    if (id < 0) id = configured_id(s, s->generation_config, member);
    return id;
}

/* Ids beside `eos` that end a text, such as the end of a turn: at most two have a key. */
static lr_status put_other_ends(lr__gguf_writer *writer, const source *s, int64_t eos) {
    static const char *const names[] = {"tokenizer.ggml.eot_token_id",
                                        "tokenizer.ggml.eom_token_id"};
    const json_t *ends = json_object_get(s->generation_config, "eos_token_id");
    if (!json_is_array(ends)) ends = json_object_get(s->config->json, "eos_token_id");
    lr_status status = LR_OK;
    int64_t before = -1;
    for (size_t i = 0, used = 0; i < json_array_size(ends) && used < 2 && status >= 0; i++) {
        int64_t id = valid_id(s, json_array_get(ends, i));
        if (id < 0 || id == eos || id == before) continue;
        status = lr__gguf_put_u32(writer, names[used++], id);
        before = id;
    }
    return status;
}

/* 1 when the template that the package puts around a text begins (or ends) with the token. */
static int is_put_around(const source *s, int64_t id, int at_end) {
    const json_t *processor = json_object_get(s->root, "post_processor");
    const json_t *list = json_object_get(processor, "processors");
    for (size_t i = 0; id >= 0 && i < (list ? json_array_size(list) : 1); i++) {
        const json_t *single =
            json_object_get(list ? json_array_get(list, i) : processor, "single");
        size_t count = json_array_size(single);
        const json_t *piece = json_array_get(single, at_end && count ? count - 1 : 0);
        const json_t *name = json_object_get(json_object_get(piece, "SpecialToken"), "id");
        if (json_is_string(name) &&
            lr__vocabulary_find(&s->tokenizer->vocabulary, text_of(name)) == id)
            return 1;
    }
    return 0;
}

static lr_status put_adds(lr__gguf_writer *writer, const source *s, const char *end, int64_t id) {
    char member[32], key[48];
    snprintf(member, sizeof member, "add_%s_token", end);
    snprintf(key, sizeof key, "tokenizer.ggml.%s", member);
    const json_t *given = json_object_get(s->tokenizer_config, member);
    int adds = json_is_boolean(given) ? json_is_true(given) : is_put_around(s, id, *end == 'e');
    return lr__gguf_put_bool(writer, key, adds);
}

static lr_status put_named(lr__gguf_writer *writer, const source *s) {
    static const struct {
        const char *token, *key;
    } named[] = {{"bos_token", "tokenizer.ggml.bos_token_id"},
                 {"eos_token", "tokenizer.ggml.eos_token_id"},
                 {"unk_token", "tokenizer.ggml.unknown_token_id"},
                 {"pad_token", "tokenizer.ggml.padding_token_id"}};
    lr_status status = LR_OK;
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        int64_t id = find_id(s, named[i].token);
        if (id >= 0) LR_TRY(lr__gguf_put_u32(writer, named[i].key, id));
    }
    LR_TRY(put_other_ends(writer, s, find_id(s, "eos_token")));
    LR_TRY(put_adds(writer, s, "bos", find_id(s, "bos_token")));
    LR_TRY(put_adds(writer, s, "eos", find_id(s, "eos_token")));
done:
    return status;
}

/* Of several templates the one named "default". */
static lr_status put_chat_template(lr__gguf_writer *writer, const source *s) {
    const json_t *value = json_object_get(s->tokenizer_config, "chat_template"), *entry;
    size_t i;
    lr__text text = {s->chat_template, s->chat_template_size};
    if (!text.data && json_is_string(value)) text = text_of(value);
    json_array_foreach((json_t *)value, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (!text.data && name && !strcmp(name, "default"))
            text = text_of(json_object_get(entry, "template"));
    }
    if (!text.data || !lr__utf8_is_valid(text.data, text.size)) return LR_OK;
    return lr__gguf_put_text(writer, "tokenizer.chat_template", text);
}

lr_status lr__tokenizer_to_gguf(lr__gguf_writer *writer, const char *folder,
                                const lr__config *config) {
    source s = {.folder = folder, .config = config};
    lr_status status = LR_OK;
    LR_TRY(source_read(&s));
    LR_TRY(lr__gguf_put_text(writer, "tokenizer.ggml.model", text_from("gpt2")));
    LR_TRY(lr__gguf_put_text(writer, "tokenizer.ggml.pre", text_from(s.pipeline->name)));
    LR_TRY(put_tokens(writer, &s));
    LR_TRY(put_types(writer, &s));
    LR_TRY(put_merges(writer, &s));
    LR_TRY(put_named(writer, &s));
    LR_TRY(put_chat_template(writer, &s));
done:
    source_clear(&s);
    return status;
}
