/* Splitting a text into the words that merges never cross. Each step cuts the pieces the step
 * before left. The two patterns nearly every model uses are scanned by hand; they follow
 *   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   cl100k   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
 *            ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * character by character, and are checked against the expressions in the tests. */
#include "format/tokenizer_parts.h"

#include <string.h>

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

static size_t scan_gpt2(const lr__classes *classes, lr__text text, size_t at) {
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

/* ?[^\s\p{L}\p{N}]+[\r\n]* from its first mark on. */
static size_t marks_end(const lr__classes *classes, lr__text text, size_t at) {
    at = run_end(classes, text, at, WORDLY, 0);
    while (at < text.size && is_line_end(text.data[at])) at++;
    return at;
}

static size_t scan_cl100k(const lr__classes *classes, lr__text text, size_t at, int32_t digits) {
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
    if (!class) return marks_end(classes, text, at);
    if (!next && text.data[at] == ' ') return marks_end(classes, text, at + 1);
    size_t end = run_end(classes, text, at, LR__SPACE, LR__SPACE);
    for (size_t i = end; i > at; i--)
        if (is_line_end(text.data[i - 1])) return i;
    return spaces_end(text, at, end);
}

static int find_numeric(const lr__classes *classes, lr__text text, size_t at, size_t *start,
                        size_t *end) {
    size_t bytes;
    for (; at < text.size; at += bytes) {
        if (!(lr__class_at(classes, text.data + at, &bytes) & LR__NUMERIC)) continue;
        *start = at;
        *end = at + bytes;
        return 1;
    }
    return 0;
}

/* 1 and the next match, 0 when there is none, negative on error. */
static lr_status find_match(lr__encoder *encoder, size_t level, lr__text text, size_t at,
                            size_t *start, size_t *end) {
    const lr__classes *classes = &encoder->tokenizer->classes;
    const lr__step *step = &encoder->tokenizer->pipeline.steps[level];
    if (at >= text.size) return 0;
    *start = at;
    switch (step->kind) {
    case LR__STEP_GPT2: return *end = scan_gpt2(classes, text, at), 1;
    case LR__STEP_CL100K: return *end = scan_cl100k(classes, text, at, step->digits), 1;
    case LR__STEP_DIGITS: return find_numeric(classes, text, at, start, end);
    case LR__STEP_REGEX: return lr__regex_find(encoder, level, text, at, start, end);
    default: break;
    }
    const char *hit = memmem(text.data + at, text.size - at, step->literal, step->literal_size);
    if (!hit) return 0;
    *start = (size_t)(hit - text.data);
    *end = *start + step->literal_size;
    return 1;
}

static lr_status walk(lr__encoder *encoder, size_t level, const char *text, size_t size);

/* Pieces of one step on their way to the next: a match may wait for its neighbour. */
typedef struct joiner {
    lr__encoder *encoder;
    const char *text;
    size_t level, start, end;
    int32_t behaviour, waiting, was_match;
} joiner;

static lr_status flush(joiner *j) {
    if (!j->waiting) return LR_OK;
    j->waiting = 0;
    return walk(j->encoder, j->level + 1, j->text + j->start, j->end - j->start);
}

/* Whether the piece continues the one that waits. */
static int joins(const joiner *j, int is_match) {
    if (!j->waiting) return 0;
    switch (j->behaviour) {
    case LR__CONTIGUOUS: return is_match == j->was_match;
    case LR__WITH_PREVIOUS: return is_match && !j->was_match;
    case LR__WITH_NEXT: return !is_match && j->was_match;
    default: return 0;
    }
}

static lr_status pass(joiner *j, size_t start, size_t end, int is_match) {
    if (start == end || (j->behaviour == LR__REMOVED && is_match)) return LR_OK;
    if (j->behaviour <= LR__REMOVED)
        return walk(j->encoder, j->level + 1, j->text + start, end - start);
    lr_status status = LR_OK;
    if (joins(j, is_match)) {
        j->end = end;
    } else {
        status = flush(j);
        j->start = start;
        j->end = end;
        j->waiting = 1;
    }
    j->was_match = is_match;
    return status;
}

static lr_status split(lr__encoder *encoder, size_t level, const char *text, size_t size) {
    const lr__step *step = &encoder->tokenizer->pipeline.steps[level];
    joiner j = {encoder, text, level, 0, 0, step->behaviour, 0, 0};
    lr__text subject = {text, size};
    if (step->kind == LR__STEP_REGEX) {
        subject.data = lr__regex_subject(encoder, level, text, size);
        if (!subject.data) return LR_E_NOMEM;
    }
    size_t at = 0, start, end;
    lr_status status;
    while ((status = find_match(encoder, level, subject, at, &start, &end)) > 0) {
        status = pass(&j, at, start, step->invert);
        if (status >= 0) status = pass(&j, start, end, !step->invert);
        if (status < 0) return status;
        at = end;
    }
    if (status >= 0) status = pass(&j, at, size, step->invert);
    return status < 0 ? status : flush(&j);
}

static lr_status prefix(lr__encoder *encoder, size_t level, const char *text, size_t size) {
    if (*text == ' ') return walk(encoder, level + 1, text, size);
    lr_status status = lr__grow(&encoder->prefixed, &encoder->prefixed_capacity, size + 1, 1);
    if (status < 0) return status;
    encoder->prefixed[0] = ' ';
    memcpy(encoder->prefixed + 1, text, size);
    return walk(encoder, level + 1, encoder->prefixed, size + 1);
}

/* Spaces as ▁, one more in front where the scheme wants it. */
static lr_status metaspace(lr__encoder *encoder, size_t level, const char *text, size_t size) {
    static const lr__text space = {" ", 1}, mark = {LR__MARK, LR__MARK_SIZE};
    int32_t scheme = encoder->tokenizer->pipeline.steps[level].scheme;
    int wants = scheme == LR__ALWAYS || (scheme == LR__FIRST && text == encoder->begin);
    size_t used = 0;
    lr_status status = lr__grow(&encoder->prefixed, &encoder->prefixed_capacity, LR__MARK_SIZE, 1);
    if (status < 0) return status;
    if (wants && *text != ' ' && !lr__is_mark((lr__text){text, size}, 0)) {
        memcpy(encoder->prefixed, LR__MARK, LR__MARK_SIZE);
        used = LR__MARK_SIZE;
    }
    status = lr__replace(&encoder->prefixed, &encoder->prefixed_capacity, &used,
                         (lr__text){text, size}, space, mark);
    return status < 0 ? status : walk(encoder, level + 1, encoder->prefixed, used);
}

/* Words that no merge joins, one by one: before each ▁ that stands behind something else. */
static lr_status encode_words(lr__encoder *encoder, lr__text text) {
    size_t start = 0, at = 1;
    while (at < text.size) {
        const char *hit = memchr(text.data + at, LR__MARK[0], text.size - at);
        if (!hit) break;
        at = (size_t)(hit - text.data);
        if (lr__is_mark(text, at) &&
            (at - start < LR__MARK_SIZE || !lr__is_mark(text, at - LR__MARK_SIZE))) {
            lr_status status = lr__encode_word(encoder, text.data + start, at - start);
            if (status < 0) return status;
            start = at;
        }
        at++;
    }
    return lr__encode_word(encoder, text.data + start, text.size - start);
}

static lr_status walk(lr__encoder *encoder, size_t level, const char *text, size_t size) {
    const lr__pipeline *pipeline = &encoder->tokenizer->pipeline;
    if (level == pipeline->count)
        return encoder->tokenizer->cuts_words ? encode_words(encoder, (lr__text){text, size})
                                              : lr__encode_word(encoder, text, size);
    switch (pipeline->steps[level].kind) {
    case LR__STEP_PREFIX: return prefix(encoder, level, text, size);
    case LR__STEP_METASPACE: return metaspace(encoder, level, text, size);
    default: return split(encoder, level, text, size);
    }
}

lr_status lr__encode_piece(lr__encoder *encoder, const char *text, size_t size) {
    return size ? walk(encoder, 0, text, size) : LR_OK;
}
