/* The patterns that nearly every model splits with, scanned by hand:
 *   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   cl100k   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
 *            ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *   Tekken   [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|
 *            [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|
 *            \p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * They follow the expressions character by character and are checked against them in the tests. */
#include "format/tokenizer_parts.h"

enum { WORDLY = LR__LETTER | LR__NUMBER | LR__SPACE };

/* End of the run of characters whose class, masked, is `wanted`. */
static size_t run_end(const lr__classes *classes, lr__text text, size_t at, int mask, int wanted) {
    size_t bytes;
    for (; at < text.size; at += bytes)
        if ((lr__class_at(classes, text.data + at, &bytes) & mask) != wanted) break;
    return at;
}

/* Bytes of 's 't 're 've 'm 'll 'd at `at`, where an apostrophe stands; 0 when it is none. */
static size_t contraction(lr__text text, size_t at, int any_case) {
    size_t left = text.size - at;
    const char *t = text.data + at;
    if (left < 2) return 0;
    /* The long s, the one character beyond ASCII that folds to a letter of these. */
    if (any_case && left >= 3 && !memcmp(t + 1, "\xc5\xbf", 2)) return 3;
    int fold = any_case ? 0x20 : 0, a = t[1] | fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (left < 3) return 0;
    int b = t[2] | fold;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* \s+(?!\S)|\s+ : the run, without its last character when text follows and there are others. */
static size_t spaces_end(lr__text text, size_t at, size_t end) {
    if (end == text.size) return end;
    size_t last = lr__utf8_back(text.data, end);
    return last > at ? last : end;
}

size_t lr__scan_gpt2(const lr__classes *classes, lr__text text, size_t at) {
    size_t bytes;
    if (text.data[at] == '\'') {
        size_t length = contraction(text, at, 0);
        if (length) return at + length;
    }
    int class = lr__class_at(classes, text.data + at, &bytes) & WORDLY;
    if (class != LR__SPACE) return run_end(classes, text, at + bytes, WORDLY, class);
    if (text.data[at] == ' ' && at + 1 < text.size) {
        class = lr__class_at(classes, text.data + at + 1, &bytes) & WORDLY;
        if (class != LR__SPACE) return run_end(classes, text, at + 1 + bytes, WORDLY, class);
    }
    return spaces_end(text, at, run_end(classes, text, at, LR__SPACE, LR__SPACE));
}

static int is_line_end(char c) { return c == '\r' || c == '\n'; }

static size_t numbers_end(const lr__classes *classes, lr__text text, size_t at, int32_t limit) {
    size_t bytes;
    for (; limit && at < text.size; limit--, at += bytes)
        if (!(lr__class_at(classes, text.data + at, &bytes) & LR__NUMBER)) break;
    return at;
}

/* ?[^\s\p{L}\p{N}]+[\r\n]* from its first mark on; `more` is one more character of the end. */
static size_t marks_end(const lr__classes *classes, lr__text text, size_t at, char more) {
    at = run_end(classes, text, at, WORDLY, 0);
    while (at < text.size && (is_line_end(text.data[at]) || text.data[at] == more)) at++;
    return at;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t lines_end(const lr__classes *classes, lr__text text, size_t at) {
    size_t end = run_end(classes, text, at, LR__SPACE, LR__SPACE);
    for (size_t i = end; i > at; i--)
        if (is_line_end(text.data[i - 1])) return i;
    return spaces_end(text, at, end);
}

size_t lr__scan_cl100k(const lr__classes *classes, lr__text text, size_t at, int32_t digits) {
    size_t bytes, after;
    if (text.data[at] == '\'') {
        size_t length = contraction(text, at, 1);
        if (length) return at + length;
    }
    int class = lr__class_at(classes, text.data + at, &bytes) & WORDLY;
    if (class == LR__NUMBER) return numbers_end(classes, text, at, digits);
    if (class == LR__LETTER) return run_end(classes, text, at, LR__LETTER, LR__LETTER);
    int next = -1;
    if (at + bytes < text.size)
        next = lr__class_at(classes, text.data + at + bytes, &after) & WORDLY;
    if (next == LR__LETTER && !is_line_end(text.data[at]))
        return run_end(classes, text, at + bytes, LR__LETTER, LR__LETTER);
    if (!class) return marks_end(classes, text, at, '\n');
    if (!next && text.data[at] == ' ') return marks_end(classes, text, at + 1, '\n');
    return lines_end(classes, text, at);
}

/* [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], and with \p{Ll} for the first two. */
static int begins_word(int class) {
    return class & LR__COMBINING || (class & (LR__LETTER | LR__LOWER)) == LR__LETTER;
}
static int ends_word(int class) {
    return class & LR__COMBINING || (class & (LR__LETTER | LR__UPPER)) == LR__LETTER;
}

/* End of [begins]*[ends]+|[begins]+[ends]* from `at`, `at` itself when neither matches. Where no
 * lower letter follows, the first form gives back what it took too much. */
static size_t word_end(const lr__classes *classes, lr__text text, size_t at) {
    size_t end = at, bytes = 0;
    for (; end < text.size; end += bytes)
        if (!begins_word(lr__class_at(classes, text.data + end, &bytes))) break;
    size_t whole = end;
    for (; end < text.size; end += bytes)
        if (!ends_word(lr__class_at(classes, text.data + end, &bytes))) break;
    if (end > whole) return end;
    for (size_t start; end > at; end = start) {
        start = lr__utf8_back(text.data, end);
        if (ends_word(lr__class_at(classes, text.data + start, &bytes))) return end;
    }
    return whole;
}

/* The same with [^\r\n\p{L}\p{N}]? before: the first form with a leader, the first form without (a
 * combining leader alone), the second form with it. 0 when no word begins here. */
static size_t led_word_end(const lr__classes *classes, lr__text text, size_t at) {
    size_t bytes, last;
    int class = lr__class_at(classes, text.data + at, &bytes);
    if (class & LR__NUMBER || is_line_end(text.data[at])) return 0;
    if (class & LR__LETTER) return word_end(classes, text, at);
    size_t word = at + bytes, end = word_end(classes, text, word);
    int is_first = end > word;
    if (is_first)
        is_first =
            ends_word(lr__class_at(classes, text.data + lr__utf8_back(text.data, end), &last));
    if (!is_first && class & LR__COMBINING) return word;
    return end > word ? end : 0;
}

size_t lr__scan_tekken(const lr__classes *classes, lr__text text, size_t at) {
    size_t bytes, after, end = led_word_end(classes, text, at);
    if (end) return end;
    int class = lr__class_at(classes, text.data + at, &bytes) & WORDLY;
    if (class == LR__NUMBER) return at + bytes;
    if (!class) return marks_end(classes, text, at, '/');
    if (text.data[at] == ' ' && at + 1 < text.size &&
        !(lr__class_at(classes, text.data + at + 1, &after) & WORDLY))
        return marks_end(classes, text, at + 1, '/');
    return lines_end(classes, text, at);
}
