/* Public calls. A text goes through: repair of UTF-8, added tokens, normalisation, added tokens
 * that are matched after it, splits, merges. */
#include "base/file.h"
#include "format/tokenizer_parts.h"

#include <string.h>

enum { JSON_LIMIT = 1 << 28 };

static lr_status open_file(lr_tokenizer **out, const char *path) {
    lr_status status;
    lr__mapping *mapping = NULL;
    lr__gguf *gguf = NULL;
    json_t *root = NULL;
    LR_TRY(lr__mapping_open(&mapping, path, 0));
    int is_gguf = mapping->size >= 4 && !memcmp(mapping->data, "GGUF", 4);
    lr__mapping_drop(mapping);
    mapping = NULL;
    if (is_gguf) {
        LR_TRY(lr__gguf_open(&gguf, path, 0));
        LR_TRY(lr__tokenizer_from_gguf(out, gguf));
    } else {
        LR_TRY(lr__json_read(&root, path, JSON_LIMIT));
        LR_TRY(lr__tokenizer_from_json(out, root, path));
    }
done:
    lr__gguf_free(gguf);
    json_decref(root);
    return status;
}

lr_status lr_tokenizer_open(lr_tokenizer **out, const char *path) {
    lr_status status;
    char *inside = NULL;
    if (!out) return lr__fail(LR_E_INVALID, "lr_tokenizer_open: out is NULL");
    *out = NULL;
    LR_FAIL_IF(!path, LR_E_INVALID, "lr_tokenizer_open: path is NULL");
    if (lr__path_is_dir(path)) {
        LR_TRY(lr__path_join(&inside, path, "tokenizer.json"));
        LR_FAIL_IF(!lr__path_exists(inside), LR_E_NOTFOUND, "%s: no tokenizer.json in the folder",
                   path);
    }
    LR_TRY(open_file(out, inside ? inside : path));
done:
    lr__free(inside);
    return status;
}

static void clear_matcher(lr__matcher *matcher) {
    for (size_t i = 0; i < matcher->count; i++) lr__free(matcher->items[i].text);
    lr__free(matcher->items);
}

void lr_tokenizer_free(lr_tokenizer *tokenizer) {
    if (!tokenizer) return;
    lr__vocabulary_clear(&tokenizer->vocabulary);
    lr__free(tokenizer->merges.slots);
    lr__pipeline_clear(&tokenizer->pipeline);
    clear_matcher(&tokenizer->raw);
    clear_matcher(&tokenizer->normal);
    lr__free(tokenizer);
}

int32_t lr_tokenizer_size(const lr_tokenizer *tokenizer) {
    return tokenizer ? tokenizer->vocabulary.size : 0;
}

int32_t lr_tokenizer_is_special(const lr_tokenizer *tokenizer, int32_t id) {
    if (id < 0 || id >= lr_tokenizer_size(tokenizer)) return 0;
    return !!(tokenizer->vocabulary.tokens[id].flags & LR__SPECIAL);
}

int32_t lr_tokenizer_find(const lr_tokenizer *tokenizer, const char *text) {
    if (!tokenizer || !text) return -1;
    return lr__vocabulary_find(&tokenizer->vocabulary, (lr__text){text, strlen(text)});
}

lr_status lr__merge_split(lr__text merge, size_t rank, lr__text *left, lr__text *right,
                          const char *where) {
    const char *space = memchr(merge.data, ' ', merge.size);
    size_t first = space ? (size_t)(space - merge.data) : merge.size;
    size_t rest = space ? merge.size - first - 1 : 0;
    if (!space || memchr(space + 1, ' ', rest))
        return lr__fail(LR_E_FORMAT, "%s: merge %zu is \"%.*s\", expected two parts and one space",
                        where, rank, LR__SHOW(merge));
    *left = (lr__text){merge.data, first};
    *right = (lr__text){space + 1, rest};
    return LR_OK;
}

lr_status lr__tokenizer_pair(lr_tokenizer *tokenizer, lr__pair pair) {
    lr__text left = lr__vocabulary_text(&tokenizer->vocabulary, pair.left);
    lr__text right = lr__vocabulary_text(&tokenizer->vocabulary, pair.right);
    tokenizer->joins_words |=
        lr__is_mark(right, 0) &&
        !(left.size >= LR__MARK_SIZE && lr__is_mark(left, left.size - LR__MARK_SIZE));
    return lr__merges_set(&tokenizer->merges, pair.left, pair.right, pair.rank, pair.id);
}

lr_status lr__tokenizer_merge(lr_tokenizer *tokenizer, uint32_t rank, lr__text left, lr__text right,
                              char *joined, const char *where) {
    const lr__vocabulary *vocabulary = &tokenizer->vocabulary;
    lr__text whole = {joined, left.size + right.size};
    int32_t id = -1, a = lr__vocabulary_find(vocabulary, left);
    int32_t b = lr__vocabulary_find(vocabulary, right);
    if (a < 0 || b < 0)
        return lr__fail(LR_E_FORMAT, "%s: merge %u: \"%.*s\" is not in the vocabulary", where, rank,
                        LR__SHOW(a < 0 ? left : right));
    if (whole.size <= vocabulary->longest) {
        memcpy(joined, left.data, left.size);
        memcpy(joined + left.size, right.data, right.size);
        id = lr__vocabulary_find(vocabulary, whole);
    }
    if (id < 0)
        return lr__fail(LR_E_FORMAT,
                        "%s: merge %u: \"%.*s\" and \"%.*s\" make no token of the vocabulary",
                        where, rank, LR__SHOW(left), LR__SHOW(right));
    return lr__tokenizer_pair(tokenizer, (lr__pair){a, b, id, rank});
}

/* A cache that a short text does not pay for. */
static lr_status make_cache(lr__encoder *encoder, size_t bytes) {
    size_t words = 8192;
    while (words > bytes / 16 && words > 16) words /= 2;
    if (bytes < 256) return LR_OK;
    encoder->cache_mask = words - 1;
    return lr__new(&encoder->cache, words, sizeof *encoder->cache);
}

static void clear_encoder(lr__encoder *encoder) {
    lr__free(encoder->cache);
    lr__free(encoder->symbols);
    lr__free(encoder->heap);
    lr__free(encoder->prefixed);
    lr__buffers_clear(&encoder->normal);
    lr__regex_state_clear(encoder);
}

static lr_status encode_section(lr__encoder *encoder, const char *text, size_t size) {
    lr__text normal = {text, size};
    lr_status status =
        lr__normalize(&normal, &encoder->normal, &encoder->tokenizer->pipeline.normals, normal);
    if (status < 0) return status;
    encoder->begin = text == encoder->text ? normal.data : NULL;
    return lr__matcher_split(&encoder->tokenizer->normal, encoder, normal, lr__encode_piece);
}

lr_status lr_tokenizer_encode(const lr_tokenizer *tokenizer, const char *text, size_t bytes,
                              int32_t *ids, size_t capacity, size_t *count) {
    lr_status status = LR_OK;
    char *repaired = NULL;
    lr__encoder encoder = {.tokenizer = tokenizer, .ids = ids, .capacity = capacity};
    LR_FAIL_IF(!tokenizer || !count || (!text && bytes) || (!ids && capacity), LR_E_INVALID,
               "lr_tokenizer_encode: tokenizer, count, text or ids is NULL");
    *count = 0;
    if (!lr__utf8_is_valid(text, bytes)) {
        size_t size = 0;
        LR_TRY(lr__utf8_repair(&repaired, &size, text, bytes));
        text = repaired;
        bytes = size;
    }
    encoder.text = text;
    encoder.bytes = bytes;
    LR_TRY(make_cache(&encoder, bytes));
    LR_TRY(lr__matcher_split(&tokenizer->raw, &encoder, (lr__text){text, bytes}, encode_section));
    *count = encoder.count;
done:
    clear_encoder(&encoder);
    lr__free(repaired);
    return status;
}
