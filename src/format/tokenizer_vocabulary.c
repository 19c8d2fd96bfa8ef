/* Token texts by id and ids by text: one arena and an open-addressed table. */
#include "format/tokenizer_parts.h"

#include <string.h>

/* A table at most half full has no longer runs than this unless a file was made to have them. */
enum { LONGEST_PROBE = 2048 };

static uint64_t mix(uint64_t x) {
    x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}

static uint64_t hash_text(lr__text text) {
    uint64_t hash = text.size, word;
    const char *at = text.data;
    size_t left = text.size;
    for (; left >= 8; left -= 8, at += 8) {
        memcpy(&word, at, 8);
        hash = mix(hash ^ word);
    }
    word = 0;
    memcpy(&word, at, left);
    return mix(mix(hash ^ word));
}

lr_status lr__vocabulary_init(lr__vocabulary *vocabulary, size_t size, const char *where) {
    if (size < 1 || size > INT32_MAX / 4)
        return lr__fail(LR_E_FORMAT, "%s: %zu tokens, expected 1 to %d", where, size,
                        INT32_MAX / 4);
    size_t slots = 64;
    while (slots < size * 2) slots *= 2;
    vocabulary->mask = slots - 1;
    vocabulary->size = (int32_t)size;
    lr_status status = lr__new(&vocabulary->slots, slots, sizeof *vocabulary->slots);
    if (status < 0) return status;
    return lr__new(&vocabulary->tokens, size, sizeof *vocabulary->tokens);
}

lr__text lr__vocabulary_text(const lr__vocabulary *vocabulary, int32_t id) {
    const lr__token *token = &vocabulary->tokens[id];
    return (lr__text){vocabulary->texts + token->start, token->size};
}

/* The slot of the text or the free one where it belongs; NULL when there is neither nearby. */
static int32_t *slot_of(const lr__vocabulary *vocabulary, lr__text text) {
    size_t at = hash_text(text) & vocabulary->mask;
    for (size_t probe = 0; probe < LONGEST_PROBE; probe++, at = (at + 1) & vocabulary->mask) {
        int32_t *slot = &vocabulary->slots[at];
        if (!*slot) return slot;
        const lr__token *token = &vocabulary->tokens[*slot - 1];
        if (token->size == text.size &&
            !memcmp(vocabulary->texts + token->start, text.data, text.size))
            return slot;
    }
    return NULL;
}

int32_t lr__vocabulary_find(const lr__vocabulary *vocabulary, lr__text text) {
    if (text.size > vocabulary->longest || !vocabulary->texts) return -1;
    const int32_t *slot = slot_of(vocabulary, text);
    return slot ? *slot - 1 : -1;
}

int32_t lr__vocabulary_find_model(const lr__vocabulary *vocabulary, lr__text text) {
    int32_t id = lr__vocabulary_find(vocabulary, text);
    return id >= 0 && vocabulary->tokens[id].flags & LR__OUTSIDE ? -1 : id;
}

lr_status lr__vocabulary_set(lr__vocabulary *vocabulary, int64_t id, lr__text text,
                             const char *where) {
    if (id < 0 || id >= vocabulary->size)
        return lr__fail(LR_E_FORMAT, "%s: token \"%.*s\" has id %lld, expected 0 to %d", where,
                        LR__SHOW(text), (long long)id, vocabulary->size - 1);
    if (text.size > LR__MAX_TOKEN)
        return lr__fail(LR_E_FORMAT, "%s: token %lld is %zu bytes long, expected at most %d", where,
                        (long long)id, text.size, LR__MAX_TOKEN);
    if (!lr__utf8_is_valid(text.data, text.size))
        return lr__fail(LR_E_FORMAT, "%s: token %lld is not UTF-8", where, (long long)id);
    if (vocabulary->tokens[id].flags)
        return lr__fail(LR_E_FORMAT, "%s: id %lld is both \"%.*s\" and \"%.*s\"", where,
                        (long long)id, LR__SHOW(lr__vocabulary_text(vocabulary, (int32_t)id)),
                        LR__SHOW(text));
    /* One byte more, so that the arena exists even when every text is empty. */
    lr_status status = lr__grow(&vocabulary->texts, &vocabulary->texts_capacity,
                                vocabulary->texts_size + text.size + 1, 1);
    if (status < 0) return status;
    int32_t *slot = slot_of(vocabulary, text);
    if (!slot) return lr__fail(LR_E_FORMAT, "%s: tokens made to collide in a table", where);
    if (*slot)
        return lr__fail(LR_E_FORMAT, "%s: \"%.*s\" is both token %d and token %lld", where,
                        LR__SHOW(text), *slot - 1, (long long)id);
    *slot = (int32_t)id + 1;
    memcpy(vocabulary->texts + vocabulary->texts_size, text.data, text.size);
    vocabulary->tokens[id] = (lr__token){vocabulary->texts_size, (uint32_t)text.size, LR__PRESENT};
    vocabulary->texts_size += text.size;
    if (text.size > vocabulary->longest) vocabulary->longest = (uint32_t)text.size;
    return LR_OK;
}

void lr__vocabulary_clear(lr__vocabulary *vocabulary) {
    lr__free(vocabulary->tokens);
    lr__free(vocabulary->texts);
    lr__free(vocabulary->slots);
}
