/* Merges of a SentencePiece vocabulary (Kudo and Richardson, EMNLP 2018): of all neighbours whose
 * texts together are a token, those that make the token of best score are joined first, the
 * leftmost of equals. A merge is here a pair of tokens, its rank the place of the score.
 *
 * tokenizer.json knows a rank for each pair only. The pairs of one token P follow one another so
 * that where two of them overlap in a text (P = XY = YZ in X Y Z) the left one comes first: of the
 * cuts behind s and behind |P| - s the longer left part, unless only the longer one ends P as it
 * begins it. */
#include "format/tokenizer_parts.h"

#include <math.h>
#include <stdlib.h>

enum { NORMAL = 1 };

typedef struct scored {
    float score;
    int32_t id;
} scored;

typedef struct builder {
    const lr__vocabulary *vocabulary;
    const lr__gguf_value *types; /* or NULL */
    const char *where;
    lr__pair *pairs;
    size_t count, capacity;
    uint32_t rank;
    int32_t id;
} builder;

static int compare(const void *a, const void *b) {
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Only normal tokens are joined or made: markers, bytes and what users define stand apart. Behind
 * the normalisation no text has a space. */
static int is_joined(const builder *b, int32_t id) {
    lr__text text = lr__vocabulary_text(b->vocabulary, id);
    if (!text.size || memchr(text.data, ' ', text.size)) return 0;
    if (b->types) return lr__gguf_element(b->types, (uint64_t)id) == NORMAL;
    return lr__byte_of_token(text) < 0;
}

static int32_t find(const builder *b, const char *text, size_t size) {
    int32_t id = lr__vocabulary_find(b->vocabulary, (lr__text){text, size});
    return id >= 0 && is_joined(b, id) ? id : -1;
}

static lr_status add(builder *b, lr__text whole, size_t cut) {
    int32_t left = find(b, whole.data, cut), right = find(b, whole.data + cut, whole.size - cut);
    if (left < 0 || right < 0) return LR_OK;
    lr_status status = lr__grow(&b->pairs, &b->capacity, b->count + 1, sizeof *b->pairs);
    if (status >= 0) b->pairs[b->count++] = (lr__pair){left, right, b->id, b->rank};
    return status;
}

/* Whether the text ends as it begins, for so many bytes. */
static int has_border(lr__text text, size_t size) {
    return !memcmp(text.data, text.data + text.size - size, size);
}

/* A character that is no token becomes bytes at once and could not be joined any more. */
static lr_status check_characters(const builder *b, lr__text whole) {
    size_t bytes;
    for (size_t at = 0; at < whole.size; at += bytes) {
        lr__utf8_at(whole.data + at, &bytes);
        if (find(b, whole.data + at, bytes) >= 0) continue;
        return lr__fail(LR_E_UNSUPPORTED, "%s: token %d \"%.*s\" has a character that is no token",
                        b->where, b->id, LR__SHOW(whole));
    }
    return LR_OK;
}

static lr_status add_all(builder *b, lr__text whole) {
    lr_status status = LR_OK;
    LR_FAIL_IF(whole.size > LR__MAX_PIECE, LR_E_UNSUPPORTED,
               "%s: token %d is %zu bytes long, expected at most %d beside scores", b->where, b->id,
               whole.size, (int)LR__MAX_PIECE);
    LR_TRY(check_characters(b, whole));
    for (size_t more = whole.size - 1; more && 2 * more >= whole.size; more--) {
        size_t less = whole.size - more;
        int less_first = has_border(whole, more) && !has_border(whole, less);
        LR_TRY(add(b, whole, less_first ? less : more));
        if (more != less) LR_TRY(add(b, whole, less_first ? more : less));
    }
done:
    return status;
}

static lr_status sort_scores(scored *out, const lr__vocabulary *vocabulary, const lr__gguf *gguf,
                             const char *where) {
    const lr__gguf_value *scores = lr__gguf_find(gguf, "tokenizer.ggml.scores");
    if (!scores || scores->type != LR__GGUF_ARRAY || scores->element_type != LR__GGUF_F32 ||
        scores->count != (uint64_t)vocabulary->size)
        return lr__fail(LR_E_FORMAT, "%s: tokenizer.ggml.scores is not an array of %d F32 numbers",
                        where, vocabulary->size);
    for (int32_t id = 0; id < vocabulary->size; id++) {
        float score;
        memcpy(&score, scores->data + (size_t)id * sizeof score, sizeof score);
        if (isnan(score))
            return lr__fail(LR_E_FORMAT, "%s: the score of token %d is not a number", where, id);
        out[id] = (scored){score, id};
    }
    qsort(out, (size_t)vocabulary->size, sizeof *out, compare);
    return LR_OK;
}

lr_status lr__pairs_from_gguf(lr__pair **out, size_t *count, const lr__vocabulary *vocabulary,
                              const lr__gguf *gguf, const char *where) {
    lr_status status;
    scored *order = NULL;
    builder b = {vocabulary, lr__gguf_find(gguf, "tokenizer.ggml.token_type"), where, NULL, 0, 0, 0,
                 0};
    *out = NULL;
    *count = 0;
    LR_TRY(lr__new(&order, (size_t)vocabulary->size, sizeof *order));
    LR_TRY(sort_scores(order, vocabulary, gguf, where));
    for (int32_t i = 0; i < vocabulary->size; i++) {
        b.id = order[i].id;
        b.rank += i && order[i].score != order[i - 1].score;
        if (is_joined(&b, b.id)) LR_TRY(add_all(&b, lr__vocabulary_text(vocabulary, b.id)));
    }
    *out = b.pairs;
    *count = b.count;
    b.pairs = NULL;
done:
    lr__free(order);
    lr__free(b.pairs);
    return status;
}
