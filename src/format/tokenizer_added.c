/* Added tokens are cut out of a text before anything else: leftmost match, the longest of those
 * that begin there. What the flags do to a match follows the tokenizers package. */
#include "format/tokenizer_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static int compare(const void *a, const void *b) {
    const lr__added *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->size < y->size ? x->size : y->size);
    if (order) return order;
    if (x->size != y->size) return x->size < y->size ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

static void sort(lr__matcher *matcher) {
    if (matcher->count) qsort(matcher->items, matcher->count, sizeof *matcher->items, compare);
    for (size_t i = 0; i < matcher->count; i++)
        matcher->starts[(unsigned char)matcher->items[i].text[0]] = 1;
}

static size_t spell_level(char *text, int byte) {
    uint32_t code = lr__byte_to_code(byte);
    text[0] = (char)code;
    if (code < 0x80) return 1;
    text[0] = (char)(0xc0 | code >> 6);
    text[1] = (char)(0x80 | (code & 63));
    return 2;
}

void lr__tokenizer_finish(lr_tokenizer *tokenizer) {
    sort(&tokenizer->raw);
    sort(&tokenizer->normal);
    for (int byte = 0; byte < 256; byte++) {
        char text[8];
        size_t size = tokenizer->pipeline.byte_level ? spell_level(text, byte)
                                                     : (size_t)sprintf(text, "<0x%02X>", byte);
        tokenizer->byte_ids[byte] =
            lr__vocabulary_find_model(&tokenizer->vocabulary, (lr__text){text, size});
    }
    /* Where characters may vanish their neighbours meet, and could be joined. */
    int vanishes = tokenizer->unknown < 0 && !tokenizer->byte_fallback;
    for (int byte = 0; byte < 256 && tokenizer->unknown < 0; byte++)
        vanishes |= tokenizer->byte_ids[byte] < 0;
    lr__text mark = {LR__MARK, LR__MARK_SIZE};
    tokenizer->cuts_words = !tokenizer->pipeline.byte_level && !tokenizer->joins_words &&
                            !vanishes && !tokenizer->ignore_merges &&
                            lr__vocabulary_find_model(&tokenizer->vocabulary, mark) >= 0;
}

lr_status lr__tokenizer_add(lr_tokenizer *tokenizer, int32_t id, uint32_t flags, int special,
                            const char *where) {
    lr_status status = LR_OK;
    lr__buffers buffers = {0};
    lr__token *token = &tokenizer->vocabulary.tokens[id];
    lr__matcher *matcher = flags & LR__NORMALIZED ? &tokenizer->normal : &tokenizer->raw;
    lr__text text = lr__vocabulary_text(&tokenizer->vocabulary, id);
    LR_FAIL_IF(token->flags & LR__ADDED, LR_E_FORMAT, "%s: \"%.*s\" is added twice", where,
               LR__SHOW(text));
    LR_FAIL_IF(!text.size, LR_E_FORMAT, "%s: added token %d is empty", where, id);
    LR_FAIL_IF(text.size > LR__MAX_ADDED, LR_E_UNSUPPORTED,
               "%s: added token %d is %zu bytes long, expected at most %d", where, id, text.size,
               (int)LR__MAX_ADDED);
    token->flags |= LR__ADDED | (special ? LR__SPECIAL : 0);
    if (flags & LR__NORMALIZED)
        LR_TRY(lr__normalize(&text, &buffers, &tokenizer->pipeline.normals, text));
    if (!text.size) goto done; /* nothing is left to be found */
    LR_TRY(
        lr__grow(&matcher->items, &matcher->capacity, matcher->count + 1, sizeof *matcher->items));
    char *copy = lr__strndup(text.data, text.size);
    LR_FAIL_IF(!copy, LR_E_NOMEM, "out of memory: %zu bytes wanted", text.size + 1);
    /* Special tokens come first where two normalise to one text. */
    int32_t order = (int32_t)matcher->count + (special ? 0 : INT32_MAX / 2);
    matcher->items[matcher->count++] = (lr__added){id, flags, order, copy, text.size};
done:
    lr__buffers_clear(&buffers);
    return status;
}

/* Narrows items [*low, *high), equal before `depth`, to those with `byte` there. */
static void narrow(const lr__added *items, size_t *low, size_t *high, size_t depth, int byte) {
    size_t begin = *low, end = *high;
    for (size_t a = begin, b = end; a < b; begin = a) {
        size_t middle = a + (b - a) / 2;
        if ((unsigned char)items[middle].text[depth] < byte)
            a = middle + 1;
        else
            b = middle;
    }
    for (size_t a = begin, b = end; a < b; end = b) {
        size_t middle = a + (b - a) / 2;
        if ((unsigned char)items[middle].text[depth] > byte)
            b = middle;
        else
            a = middle + 1;
    }
    *low = begin;
    *high = end;
}

/* The longest token that begins at `text`, or NULL. The candidates share what was read so far,
 * the shortest of them first. */
static const lr__added *longest_at(const lr__matcher *matcher, const char *text, size_t size) {
    const lr__added *best = NULL, *items = matcher->items;
    size_t low = 0, high = matcher->count;
    for (size_t depth = 0; low < high; depth++) {
        if (items[low].size == depth) {
            best = &items[low];
            while (low < high && items[low].size == depth) low++;
        }
        if (depth == size || low == high) break;
        char byte = text[depth];
        if (items[low].text[depth] != byte || items[high - 1].text[depth] != byte)
            narrow(items, &low, &high, depth, (unsigned char)byte);
    }
    return best;
}

/* \w of the crate's regular expressions: alphabetic, mark, decimal number, connector, joiner. */
static int is_word(const char *text) {
    size_t bytes;
    uint32_t code = lr__utf8_at(text, &bytes);
    if (code == 0x200c || code == 0x200d || (code >= 0x24b6 && code <= 0x24e9) ||
        (code >= 0x1f130 && code <= 0x1f149) || (code >= 0x1f150 && code <= 0x1f169) ||
        (code >= 0x1f170 && code <= 0x1f189))
        return 1;
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return 1;
    default:
        return lr__class_of(code) & LR__LETTER ||
               lr__range_find(lr__young_words, lr__young_word_count, code);
    }
}

/* Start of the spaces that end at `end`, not before `least`. */
static size_t spaces_before(const lr__classes *classes, const char *text, size_t end,
                            size_t least) {
    while (end > least) {
        size_t start = lr__utf8_back(text, end), bytes;
        if (!(lr__class_at(classes, text + start, &bytes) & LR__SPACE)) break;
        end = start;
    }
    return end;
}

static size_t spaces_after(const lr__classes *classes, lr__text text, size_t start) {
    size_t bytes;
    for (; start < text.size; start += bytes)
        if (!(lr__class_at(classes, text.data + start, &bytes) & LR__SPACE)) break;
    return start;
}

static int stands_alone(lr__text text, size_t start, size_t end) {
    return (!start || !is_word(text.data + lr__utf8_back(text.data, start))) &&
           (end == text.size || !is_word(text.data + end));
}

lr_status lr__matcher_split(const lr__matcher *matcher, lr__encoder *encoder, lr__text text,
                            lr__piece_fn between) {
    const lr__classes *classes = &encoder->tokenizer->classes;
    size_t at = 0, done = 0, spaces = 0; /* what ends before `spaces` ends among spaces up to it */
    while (matcher->count && at < text.size) {
        if (!matcher->starts[(unsigned char)text.data[at]]) {
            at++;
            continue;
        }
        const lr__added *found = longest_at(matcher, text.data + at, text.size - at);
        if (!found) {
            at++;
            continue;
        }
        size_t start = at, end = at += found->size;
        if (found->flags & LR__SINGLE_WORD && !stands_alone(text, start, end)) continue;
        if (found->flags & LR__LSTRIP) start = spaces_before(classes, text.data, start, done);
        if (found->flags & LR__RSTRIP)
            end = spaces = end < spaces ? spaces : spaces_after(classes, text, end);
        if (done < start) {
            lr_status status = between(encoder, text.data + done, start - done);
            if (status < 0) return status;
        }
        lr__encoder_put(encoder, found->id);
        /* A token made of the spaces just taken is still found, as in the package. */
        done = end;
    }
    return done < text.size ? between(encoder, text.data + done, text.size - done) : LR_OK;
}
