/* Byte-pair encoding (Sennrich et al., "Neural machine translation of rare words with subword
 * units", ACL 2016): the pair of lowest rank is merged first, the leftmost of equals, until no
 * pair of neighbours has a rank. Short words are scanned for their lowest rank; long ones keep a
 * heap of (rank, position) whose entries are checked when they come up, which is O(n log n). */
#include "format/tokenizer_parts.h"

#include <string.h>

enum { LONGEST_PROBE = 2048, SHORT_WORD = 40, NO_RANK = 0x7fffffff };

static size_t slot_hash(uint64_t pair) {
    pair ^= pair >> 32;
    pair *= 0xd6e8feb86659fd93u;
    pair ^= pair >> 32;
    pair *= 0xd6e8feb86659fd93u;
    return (size_t)(pair ^ pair >> 32);
}

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

lr_status lr__merges_init(lr__merges *merges, size_t count, const char *where) {
    if (count > INT32_MAX / 4)
        return lr__fail(LR_E_FORMAT, "%s: %zu merges, expected at most %d", where, count,
                        INT32_MAX / 4);
    size_t slots = 64;
    while (slots < count * 2) slots *= 2;
    lr_status status = lr__new(&merges->slots, slots, sizeof *merges->slots);
    if (status < 0) return status;
    merges->mask = slots - 1;
    for (size_t i = 0; i < slots; i++) merges->slots[i].pair = UINT64_MAX;
    return LR_OK;
}

lr_status lr__merges_set(lr__merges *merges, int32_t left, int32_t right, uint32_t rank,
                         int32_t id) {
    uint64_t pair = pair_of(left, right);
    size_t at = slot_hash(pair) & merges->mask;
    for (size_t probe = 0; probe < LONGEST_PROBE; probe++, at = (at + 1) & merges->mask) {
        lr__merge *slot = &merges->slots[at];
        if (slot->pair != UINT64_MAX && slot->pair != pair) continue;
        *slot = (lr__merge){pair, rank, id};
        return LR_OK;
    }
    return lr__fail(LR_E_FORMAT, "merges made to collide in a table");
}

static const lr__merge *find(const lr__merges *merges, int32_t left, int32_t right) {
    uint64_t pair = pair_of(left, right);
    size_t at = slot_hash(pair) & merges->mask;
    for (size_t probe = 0; probe < LONGEST_PROBE; probe++, at = (at + 1) & merges->mask) {
        const lr__merge *slot = &merges->slots[at];
        if (slot->pair == pair) return slot;
        if (slot->pair == UINT64_MAX) return NULL;
    }
    return NULL;
}

static uint32_t rank_of(const lr__merges *merges, int32_t left, int32_t right) {
    const lr__merge *merge = find(merges, left, right);
    return merge ? merge->rank : NO_RANK;
}

/* Symbols of the bytes; *count of them. A byte the vocabulary lacks is the unknown token, or
 * nothing when there is none. */
static void symbols_of_bytes(const lr_tokenizer *tokenizer, const char *text, size_t size,
                             int32_t *symbols, size_t *count) {
    size_t n = 0;
    int after_unknown = 0;
    for (size_t i = 0; i < size; i++) {
        int32_t id = tokenizer->byte_ids[(unsigned char)text[i]];
        int is_unknown = id < 0;
        if (is_unknown) {
            if (tokenizer->unknown < 0) continue;
            if (after_unknown && tokenizer->fuse_unknown) continue;
            id = tokenizer->unknown;
        }
        after_unknown = is_unknown;
        symbols[n++] = id;
    }
    *count = n;
}

/* Puts the ids of all bytes of a character, or nothing. */
static size_t put_bytes(const lr_tokenizer *tokenizer, const char *text, size_t size,
                        int32_t *symbols) {
    for (size_t i = 0; i < size; i++) {
        symbols[i] = tokenizer->byte_ids[(unsigned char)text[i]];
        if (symbols[i] < 0) return 0;
    }
    return size;
}

/* Symbols of the characters. One that is no token is its bytes, when all of them are tokens, else
 * the unknown token. That is put where the next known character stands, so also behind bytes: an
 * order of the tokenizers package, which only vocabularies without some bytes show. */
static void symbols_of_characters(const lr_tokenizer *tokenizer, const char *text, size_t size,
                                  int32_t *symbols, size_t *count) {
    size_t n = 0, bytes, put;
    int waits = 0;
    for (size_t at = 0; at < size; at += bytes) {
        lr__utf8_at(text + at, &bytes);
        lr__text character = {text + at, bytes};
        int32_t id = lr__vocabulary_find_model(&tokenizer->vocabulary, character);
        if (id >= 0) {
            if (waits) symbols[n++] = tokenizer->unknown;
            waits = 0;
            symbols[n++] = id;
        } else if (tokenizer->byte_fallback &&
                   (put = put_bytes(tokenizer, text + at, bytes, symbols + n))) {
            n += put;
        } else if (tokenizer->unknown >= 0) {
            if (waits && !tokenizer->fuse_unknown) symbols[n++] = tokenizer->unknown;
            waits = 1;
        }
    }
    if (waits) symbols[n++] = tokenizer->unknown;
    *count = n;
}

static void symbols_of(const lr_tokenizer *tokenizer, const char *text, size_t size,
                       int32_t *symbols, size_t *count) {
    if (tokenizer->pipeline.byte_level)
        symbols_of_bytes(tokenizer, text, size, symbols, count);
    else
        symbols_of_characters(tokenizer, text, size, symbols, count);
}

static size_t merge_short(const lr__merges *merges, int32_t *symbols, size_t n) {
    uint32_t ranks[SHORT_WORD];
    for (size_t i = 0; i + 1 < n; i++) ranks[i] = rank_of(merges, symbols[i], symbols[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == NO_RANK) break;
        symbols[best] = find(merges, symbols[best], symbols[best + 1])->id;
        n--;
        memmove(symbols + best + 1, symbols + best + 2, (n - best - 1) * sizeof *symbols);
        if (best + 1 < n) {
            memmove(ranks + best + 1, ranks + best + 2, (n - best - 2) * sizeof *ranks);
            ranks[best] = rank_of(merges, symbols[best], symbols[best + 1]);
        }
        if (best) ranks[best - 1] = rank_of(merges, symbols[best - 1], symbols[best]);
    }
    return n;
}

static void sift_down(uint64_t *heap, size_t count, size_t at) {
    uint64_t item = heap[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1] < heap[child]) child++;
        if (item <= heap[child]) break;
        heap[at] = heap[child];
    }
    heap[at] = item;
}

static void sift_up(uint64_t *heap, size_t at) {
    uint64_t item = heap[at];
    for (size_t parent; at && item < heap[parent = (at - 1) / 2]; at = parent)
        heap[at] = heap[parent];
    heap[at] = item;
}

/* The word as a doubly linked list over arrays. */
typedef struct chain {
    const lr__merges *merges;
    int32_t *symbols, *next, *previous;
    uint64_t *heap;
    size_t heap_count;
} chain;

static void push(chain *c, int32_t left) {
    int32_t right = left < 0 ? -1 : c->next[left];
    if (right < 0) return;
    uint32_t rank = rank_of(c->merges, c->symbols[left], c->symbols[right]);
    if (rank == NO_RANK) return;
    c->heap[c->heap_count] = (uint64_t)rank << 32 | (uint32_t)left;
    sift_up(c->heap, c->heap_count++);
}

static void merge_at(chain *c, int32_t left, int32_t id) {
    int32_t right = c->next[left], after = c->next[right];
    c->symbols[left] = id;
    c->symbols[right] = -1;
    c->next[left] = after;
    if (after >= 0) c->previous[after] = left;
    push(c, c->previous[left]);
    push(c, left);
}

static size_t merge_long(chain *c, size_t n) {
    for (size_t i = 0; i < n; i++) {
        c->next[i] = i + 1 < n ? (int32_t)i + 1 : -1;
        c->previous[i] = (int32_t)i - 1;
    }
    for (size_t i = 0; i + 1 < n; i++) {
        uint32_t rank = rank_of(c->merges, c->symbols[i], c->symbols[i + 1]);
        if (rank != NO_RANK) c->heap[c->heap_count++] = (uint64_t)rank << 32 | i;
    }
    for (size_t i = c->heap_count / 2; i-- > 0;) sift_down(c->heap, c->heap_count, i);
    while (c->heap_count) {
        uint64_t top = c->heap[0];
        c->heap[0] = c->heap[--c->heap_count];
        if (c->heap_count) sift_down(c->heap, c->heap_count, 0);
        int32_t left = (int32_t)(uint32_t)top, right = c->next[left];
        if (c->symbols[left] < 0 || right < 0) continue;
        const lr__merge *merge = find(c->merges, c->symbols[left], c->symbols[right]);
        if (merge && merge->rank == top >> 32) merge_at(c, left, merge->id);
    }
    size_t out = 0;
    for (int32_t at = n ? 0 : -1; at >= 0; at = c->next[at]) c->symbols[out++] = c->symbols[at];
    return out;
}

static lr_status merge_big_word(lr__encoder *encoder, const char *text, size_t size,
                                size_t *count) {
    if (size > INT32_MAX / 2)
        return lr__fail(LR_E_UNSUPPORTED, "a word of %zu bytes, at most %d can be encoded", size,
                        INT32_MAX / 2);
    lr_status status =
        lr__grow(&encoder->symbols, &encoder->symbols_capacity, size, 3 * sizeof *encoder->symbols);
    /* Every merge takes one entry out and puts two in at most: never more than two a byte. */
    if (status >= 0)
        status = lr__grow(&encoder->heap, &encoder->heap_capacity, 2 * size, sizeof(uint64_t));
    if (status < 0) return status;
    int32_t *symbols = encoder->symbols;
    chain c = {&encoder->tokenizer->merges, symbols,       symbols + size,
               symbols + 2 * size,          encoder->heap, 0};
    symbols_of(encoder->tokenizer, text, size, symbols, count);
    *count = merge_long(&c, *count);
    return LR_OK;
}

/* The id of a word that is a token as it stands, -1 when it is none. */
static int32_t whole_word(const lr_tokenizer *tokenizer, const char *text, size_t size) {
    char spelled[512], *heap = NULL, *at = spelled;
    if (size > tokenizer->vocabulary.longest) return -1;
    if (!tokenizer->pipeline.byte_level)
        return lr__vocabulary_find_model(&tokenizer->vocabulary, (lr__text){text, size});
    if (2 * size > sizeof spelled && !(at = heap = lr__malloc(2 * size))) return -2;
    char *begin = at;
    for (size_t i = 0; i < size; i++) {
        uint32_t code = lr__byte_to_code((unsigned char)text[i]);
        if (code >= 0x80) *at++ = (char)(0xc0 | code >> 6);
        *at++ = (char)(code >= 0x80 ? 0x80 | (code & 0x3f) : code);
    }
    lr__text word = {begin, (size_t)(at - begin)};
    int32_t id = lr__vocabulary_find_model(&tokenizer->vocabulary, word);
    lr__free(heap);
    return id;
}

/* The word's ids are in *ids: in `few`, or in the encoder's memory. */
static lr_status merge_word(lr__encoder *encoder, lr__text word, int32_t few[SHORT_WORD],
                            const int32_t **ids, size_t *count) {
    const lr_tokenizer *tokenizer = encoder->tokenizer;
    *ids = few;
    *count = 1;
    if (tokenizer->ignore_merges) {
        few[0] = whole_word(tokenizer, word.data, word.size);
        if (few[0] == -2) return lr__nomem(2 * word.size);
        if (few[0] >= 0) return LR_OK;
    }
    if (word.size <= SHORT_WORD) {
        symbols_of(tokenizer, word.data, word.size, few, count);
        *count = merge_short(&tokenizer->merges, few, *count);
        return LR_OK;
    }
    lr_status status = merge_big_word(encoder, word.data, word.size, count);
    *ids = encoder->symbols;
    return status;
}

static size_t hash_key(const char *key) {
    uint64_t word[4];
    memcpy(word, key, sizeof word);
    uint64_t hash = word[0] * 0x9e3779b97f4a7c15u ^ (word[1] + 1) * 0xd6e8feb86659fd93u ^
                    (word[2] + 2) * 0xc2b2ae3d27d4eb4fu ^ (word[3] + 3) * 0x165667b19e3779f9u;
    return (size_t)((hash ^ hash >> 32) * 0x9e3779b97f4a7c15u >> 40);
}

static lr__cached *cached_at(const lr__encoder *encoder, lr__text word, char key[32]) {
    if (!encoder->cache || word.size > sizeof encoder->cache->text) return NULL;
    memset(key, 0, 32);
    memcpy(key, word.data, word.size);
    key[31] = (char)word.size;
    return &encoder->cache[hash_key(key) & encoder->cache_mask];
}

lr_status lr__encode_word(lr__encoder *encoder, const char *text, size_t size) {
    char key[32];
    lr__cached *cached = cached_at(encoder, (lr__text){text, size}, key);
    if (cached && !memcmp(cached, key, sizeof key)) {
        for (int32_t i = 0; i < cached->count; i++) lr__encoder_put(encoder, cached->ids[i]);
        return LR_OK;
    }
    int32_t few[SHORT_WORD];
    const int32_t *ids;
    size_t count;
    lr_status status = merge_word(encoder, (lr__text){text, size}, few, &ids, &count);
    if (status < 0) return status;
    for (size_t i = 0; i < count; i++) lr__encoder_put(encoder, ids[i]);
    if (cached && count <= sizeof cached->ids / sizeof *cached->ids) {
        memcpy(cached, key, sizeof key);
        cached->count = (int32_t)count;
        memcpy(cached->ids, ids, count * sizeof *ids);
    }
    return LR_OK;
}
