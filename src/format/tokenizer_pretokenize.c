/* Splitting a text into the words that merges never cross. Each step cuts the pieces the step
 * before left. */
#include "format/tokenizer_parts.h"

#include <string.h>

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
    case LR__STEP_GPT2: return *end = lr__scan_gpt2(classes, text, at), 1;
    case LR__STEP_CL100K: return *end = lr__scan_cl100k(classes, text, at, step->digits), 1;
    case LR__STEP_TEKKEN: return *end = lr__scan_tekken(classes, text, at), 1;
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
        const char *hit = memchr(text.data + at, (unsigned char)LR__MARK[0], text.size - at);
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
