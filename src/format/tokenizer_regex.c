/* Patterns of a file, run by PCRE2 so that they mean what Oniguruma makes of them in the
 * tokenizers package. Only what both read alike is taken: ASCII literals, classes, \s \r \n \t,
 * \p{L}, \p{N}, alternatives, groups with at most "?" behind them (so no nested repeats),
 * look-ahead, and greedy, lazy or possessive repeats of single items. Beyond ASCII a pattern then
 * sees only letter, number, space or other, and each such character of the text is replaced by an
 * old one of its class and length: PCRE2's age does not matter.
 *
 * A stranger's pattern may look at all of a text from each of its places. So it first sees a window
 * of it, asking PCRE2 for partial matches to know when that was not enough; wider windows are tried
 * at one place at a time, and what they cost is counted against the length of the text. */
#include "format/tokenizer_parts.h"

#include <string.h>

/* White_Space among what may stand in a subject. */
#define SPACES "\\t-\\r \\x{85}\\x{a0}\\x{3000}"
#define NOT_SPACES \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{2fff}\\x{3001}-\\x{10ffff}"

enum {
    MATCH_LIMIT = 20000,   /* of one place, in the first window */
    WIDE_MATCH_LIMIT = 16, /* of one place, for each byte of a wider one */
    WINDOW = 256,          /* no word of a language is longer */
    FREE_WORK = 1 << 24,   /* bytes of wider windows in one text, and */
    WORK_PER_BYTE = 64,    /* for each byte of it: a long word needs about four */
    DEPTH_LIMIT = 2000000,
    HEAP_LIMIT_KIB = 65536,
    JIT_STACK = 1 << 20,
    MAX_DEPTH = 16
};

typedef struct translator {
    lr__text in;
    size_t at;
    char out[LR__MAX_PATTERN * 64];
    size_t used;
    int32_t depth;
    int32_t any_case[MAX_DEPTH + 1];
    const char *where;
} translator;

static lr_status refuse(const translator *t, const char *what) {
    return lr__fail(LR_E_UNSUPPORTED, "%s: pattern \"%.*s\": %s at byte %zu is not supported",
                    t->where, LR__SHOW(t->in), what, t->at);
}

static void put(translator *t, const char *text, size_t size) {
    memcpy(t->out + t->used, text, size);
    t->used += size;
}

static int peek(const translator *t, size_t ahead) {
    return t->at + ahead < t->in.size ? (unsigned char)t->in.data[t->at + ahead] : -1;
}

static int is_letter(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static int is_digit(int c) { return c >= '0' && c <= '9'; }

static int begins(const translator *t, const char *text) {
    size_t size = strlen(text);
    return t->in.size - t->at >= size && !memcmp(t->in.data + t->at, text, size);
}

/* An escape, in a class or not. */
static lr_status escape(translator *t, int in_class) {
    static const char *const properties[] = {"\\p{L}", "\\p{N}", "\\P{L}", "\\P{N}"};
    for (size_t i = 0; i < 4; i++) {
        if (!begins(t, properties[i])) continue;
        put(t, properties[i], 5);
        t->at += 5;
        return LR_OK;
    }
    int c = peek(t, 1);
    if (c == 's' || c == 'S') {
        const char *set = c == 's' ? SPACES : NOT_SPACES;
        if (!in_class) put(t, "[", 1);
        put(t, set, strlen(set));
        if (!in_class) put(t, "]", 1);
    } else if (c == 'r' || c == 'n' || c == 't' ||
               (c > 0x20 && c < 0x7f && !is_letter(c) && !is_digit(c) && !strchr("<>`'", c))) {
        put(t, t->in.data + t->at, 2);
    } else {
        return refuse(t, "this escape");
    }
    t->at += 2;
    return LR_OK;
}

static int is_plain_in_class(int c) {
    return c >= 0x20 && c < 0x7f && c != '[' && c != ']' && c != '\\' && c != '&' && c != '^' &&
           c != '-';
}

static lr_status class(translator *t) {
    put(t, "[", 1);
    t->at++;
    if (peek(t, 0) == '^') put(t, "^", 1), t->at++;
    if (peek(t, 0) == ']') return refuse(t, "an empty class");
    while (peek(t, 0) != ']') {
        int c = peek(t, 0), last = peek(t, 2);
        if (c == '\\') {
            lr_status status = escape(t, 1);
            if (status < 0) return status;
            if (peek(t, 0) == '-') return refuse(t, "a range from an escape");
        } else if (!is_plain_in_class(c)) {
            return refuse(t, "this in a class");
        } else if (peek(t, 1) != '-') {
            put(t, t->in.data + t->at++, 1);
        } else {
            if (!is_plain_in_class(last) || last < c) return refuse(t, "this range");
            put(t, t->in.data + t->at, 3);
            t->at += 3;
        }
    }
    put(t, "]", 1);
    t->at++;
    return LR_OK;
}

/* {n}, {n,} or {n,m}, with small numbers; 0 when it is something else. */
static size_t braces(const translator *t) {
    size_t i = 1, digits = 0;
    for (; is_digit(peek(t, i)); i++) digits++;
    if (!digits || digits > 3) return 0;
    if (peek(t, i) == ',')
        for (digits = 0, i++; is_digit(peek(t, i)); i++) digits++;
    return digits <= 3 && peek(t, i) == '}' ? i + 1 : 0;
}

static lr_status repeat(translator *t) {
    int c = peek(t, 0);
    size_t size = 1;
    if (c == '{' && !(size = braces(t))) return refuse(t, "this brace");
    if (c != '?' && c != '*' && c != '+' && c != '{') return LR_OK;
    int mode = peek(t, size);
    if (c != '{' && (mode == '?' || mode == '+')) size++;
    put(t, t->in.data + t->at, size);
    t->at += size;
    c = peek(t, 0);
    if (c == '?' || c == '*' || c == '+' || c == '{') return refuse(t, "a repeat of a repeat");
    return LR_OK;
}

static lr_status open_group(translator *t) {
    static const char *const heads[] = {"(?:", "(?i:", "(?=", "(?!"};
    size_t size = peek(t, 1) == '?' ? 0 : 1;
    for (size_t i = 0; i < 4 && !size; i++)
        if (begins(t, heads[i])) size = strlen(heads[i]);
    if (!size) return refuse(t, "this group");
    if (t->depth == MAX_DEPTH) return refuse(t, "a group this deep");
    t->depth++;
    t->any_case[t->depth] = t->any_case[t->depth - 1] || size == 4;
    put(t, t->in.data + t->at, size);
    t->at += size;
    return LR_OK;
}

static lr_status close_group(translator *t) {
    if (!t->depth) return refuse(t, "a bracket without its pair");
    t->depth--;
    put(t, ")", 1);
    t->at++;
    int c = peek(t, 0);
    if (c == '*' || c == '+' || c == '{' || (c == '?' && (peek(t, 1) == '?' || peek(t, 1) == '+')))
        return refuse(t, "a repeated group");
    if (c == '?') put(t, "?", 1), t->at++;
    c = peek(t, 0);
    return c == '?' || c == '*' || c == '+' || c == '{' ? refuse(t, "a repeated group") : LR_OK;
}

/* Oniguruma folds some pairs of letters to one character (ss to sharp s, fi to a ligature). */
static int folds_as_pair(int a, int b) {
    static const char pairs[] = "ss ff fi fl st";
    char pair[3] = {(char)(a | 0x20), (char)(b | 0x20), 0};
    return is_letter(a) && is_letter(b) && strstr(pairs, pair);
}

static lr_status literal(translator *t) {
    int c = peek(t, 0);
    if (c < 0x20 || c >= 0x7f || strchr(".^$*+?{}])", c)) return refuse(t, "this character");
    if (t->any_case[t->depth] && folds_as_pair(c, peek(t, 1)))
        return refuse(t, "this pair of letters in any case");
    put(t, t->in.data + t->at++, 1);
    return repeat(t);
}

static lr_status item(translator *t) {
    lr_status status;
    switch (peek(t, 0)) {
    case '|':
        put(t, "|", 1);
        t->at++;
        return LR_OK;
    case '(': return open_group(t);
    case ')': return close_group(t);
    case '[':
        if (t->any_case[t->depth]) return refuse(t, "a class in any case");
        status = class(t);
        return status < 0 ? status : repeat(t);
    case '\\': status = escape(t, 0); return status < 0 ? status : repeat(t);
    default: return literal(t);
    }
}

static lr_status translate(translator *t) {
    if (t->in.size > LR__MAX_PATTERN || !t->in.size)
        return lr__fail(LR_E_UNSUPPORTED, "%s: pattern of %zu bytes, expected 1 to %d", t->where,
                        t->in.size, LR__MAX_PATTERN);
    while (t->at < t->in.size) {
        lr_status status = item(t);
        if (status < 0) return status;
    }
    return t->depth ? refuse(t, "a group that is not closed") : LR_OK;
}

static void *pcre_alloc(PCRE2_SIZE size, void *unused) {
    (void)unused;
    return lr__malloc(size);
}

static void pcre_free(void *block, void *unused) {
    (void)unused;
    lr__free(block);
}

static lr_status compile(pcre2_code **out, const translator *t, uint32_t options,
                         pcre2_compile_context *context) {
    int error;
    size_t offset;
    *out = pcre2_compile((PCRE2_SPTR)t->out, t->used, PCRE2_UTF | PCRE2_UCP | options, &error,
                         &offset, context);
    if (!*out && error == PCRE2_ERROR_HEAP_FAILED)
        return lr__fail(LR_E_NOMEM, "out of memory for a pattern");
    if (!*out)
        return lr__fail(LR_E_UNSUPPORTED, "%s: pattern \"%.*s\" does not compile (PCRE2 error %d)",
                        t->where, LR__SHOW(t->in), error);
    /* Where no executable memory is to be had the interpreter does the work. */
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
    return LR_OK;
}

lr_status lr__regex_compile(lr__step *step, lr__text pattern, const char *where) {
    lr_status status;
    uint32_t may_be_empty = 1;
    translator *t = NULL;
    pcre2_compile_context *context = NULL;
    pcre2_general_context *memory = pcre2_general_context_create(pcre_alloc, pcre_free, NULL);
    if (memory) context = pcre2_compile_context_create(memory);
    LR_FAIL_IF(!context, LR_E_NOMEM, "out of memory for a pattern");
    LR_TRY(lr__new(&t, 1, sizeof *t));
    t->in = pattern;
    t->where = where;
    LR_TRY(translate(t));
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    LR_TRY(compile(&step->regex, t, 0, context));
    LR_TRY(compile(&step->anchored, t, PCRE2_ANCHORED, context));
    pcre2_pattern_info(step->regex, PCRE2_INFO_MATCHEMPTY, &may_be_empty);
    LR_FAIL_IF(may_be_empty, LR_E_UNSUPPORTED, "%s: pattern \"%.*s\" may match nothing", where,
               LR__SHOW(pattern));
done:
    pcre2_compile_context_free(context);
    pcre2_general_context_free(memory);
    lr__free(t);
    return status;
}

void lr__regex_free(lr__step *step) {
    pcre2_code_free(step->regex);
    pcre2_code_free(step->anchored);
}

static void stand_in(char *out, int class, size_t bytes) {
    static const char letters[] = "\xc2\xaa\xe4\xb8\x80\xf0\xa0\x80\x80";
    static const char numbers[] = "\xc2\xb2\xe2\x91\xa0\xf0\x9d\x9f\x8e";
    static const char spaces[] = "\xc2\xa0\xe3\x80\x80\xf0\x9f\x98\x80";
    static const char others[] = "\xc2\xa7\xe3\x80\x81\xf0\x9f\x98\x80";
    const char *from = class & LR__LETTER   ? letters
                       : class & LR__NUMBER ? numbers
                       : class & LR__SPACE  ? spaces
                                            : others;
    memcpy(out, from + (bytes == 2 ? 0 : bytes == 3 ? 2 : 5), bytes);
}

static int is_ascii(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)text[i] >= 0x80) return 0;
    return 1;
}

const char *lr__regex_subject(lr__encoder *encoder, size_t step, const char *text, size_t size) {
    lr__regex_state *state = &encoder->regex[step];
    const lr__classes *classes = &encoder->tokenizer->classes;
    if (is_ascii(text, size)) return text;
    if (lr__grow(&state->subject, &state->capacity, size, 1) < 0) return NULL;
    size_t bytes;
    for (size_t at = 0; at < size; at += bytes) {
        int class = lr__class_at(classes, text + at, &bytes);
        /* The long s and the Kelvin sign fold to ASCII letters. */
        int folds = bytes > 1 && (!memcmp(text + at, "\xc5\xbf", 2) ||
                                  (bytes == 3 && !memcmp(text + at, "\xe2\x84\xaa", 3)));
        if (bytes == 1 || folds)
            memcpy(state->subject + at, text + at, bytes);
        else
            stand_in(state->subject + at, class, bytes);
    }
    return state->subject;
}

static lr_status prepare(lr__encoder *encoder, size_t step) {
    lr__regex_state *state = &encoder->regex[step];
    if (!encoder->memory)
        encoder->memory = pcre2_general_context_create(pcre_alloc, pcre_free, NULL);
    if (encoder->memory && !encoder->limits) {
        encoder->limits = pcre2_match_context_create(encoder->memory);
        encoder->jit_stack = pcre2_jit_stack_create(1 << 15, JIT_STACK, encoder->memory);
        if (encoder->limits) {
            pcre2_set_match_limit(encoder->limits, MATCH_LIMIT);
            pcre2_set_depth_limit(encoder->limits, DEPTH_LIMIT);
            pcre2_set_heap_limit(encoder->limits, HEAP_LIMIT_KIB);
            if (encoder->jit_stack)
                pcre2_jit_stack_assign(encoder->limits, NULL, encoder->jit_stack);
        }
    }
    if (encoder->limits && !state->match)
        state->match = pcre2_match_data_create(1, encoder->memory);
    return state->match ? LR_OK : lr__fail(LR_E_NOMEM, "out of memory for a pattern");
}

/* One call of PCRE2 on subject[from, end), which is the end of the subject or a window. */
static int match(lr__encoder *encoder, size_t step, const pcre2_code *regex, lr__text subject,
                 size_t from, size_t end) {
    PCRE2_SPTR text = (PCRE2_SPTR)subject.data;
    pcre2_match_data *data = encoder->regex[step].match;
    uint32_t options = PCRE2_NO_UTF_CHECK | (end < subject.size ? PCRE2_PARTIAL_HARD : 0);
    int found = pcre2_match(regex, text, end, from, options, data, encoder->limits);
    if (found != PCRE2_ERROR_JIT_STACKLIMIT) return found;
    return pcre2_match(regex, text, end, from, options | PCRE2_NO_JIT, data, encoder->limits);
}

/* A character's boundary `size` bytes or a little less behind `from`, or the end. */
static size_t window_end(lr__text subject, size_t from, size_t size) {
    if (subject.size - from <= size) return subject.size;
    size_t end = from + size;
    while (((unsigned char)subject.data[end] & 0xc0) == 0x80) end--;
    return end;
}

static lr_status too_long(size_t step, size_t from, lr__text subject, int error) {
    return lr__fail(LR_E_UNSUPPORTED,
                    "step %zu of the pre-tokenizer: its pattern takes too long on this text "
                    "from byte %zu of a piece of %zu (PCRE2 error %d)",
                    step, from, subject.size, error);
}

/* Whether a match begins at `from`, looking as far as it takes. */
static int match_at(lr__encoder *encoder, size_t step, lr__text subject, size_t from) {
    const pcre2_code *regex = encoder->tokenizer->pipeline.steps[step].anchored;
    uint64_t most = FREE_WORK + (uint64_t)WORK_PER_BYTE * encoder->bytes;
    int found = PCRE2_ERROR_PARTIAL;
    for (size_t size = 4 * WINDOW; found == PCRE2_ERROR_PARTIAL; size *= 4) {
        size_t end = window_end(subject, from, size);
        encoder->regex_work += size;
        if (encoder->regex_work > most) return PCRE2_ERROR_MATCHLIMIT;
        size_t limit = WIDE_MATCH_LIMIT * (end - from);
        if (limit < MATCH_LIMIT) limit = MATCH_LIMIT;
        pcre2_set_match_limit(encoder->limits, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
        found = match(encoder, step, regex, subject, from, end);
    }
    pcre2_set_match_limit(encoder->limits, MATCH_LIMIT);
    return found;
}

lr_status lr__regex_find(lr__encoder *encoder, size_t step, lr__text subject, size_t from,
                         size_t *start, size_t *end) {
    const pcre2_code *regex = encoder->tokenizer->pipeline.steps[step].regex;
    lr_status status = prepare(encoder, step);
    if (status < 0) return status;
    const size_t *place = pcre2_get_ovector_pointer(encoder->regex[step].match);
    int found = PCRE2_ERROR_NOMATCH;
    while (found == PCRE2_ERROR_NOMATCH && from < subject.size) {
        size_t until = window_end(subject, from, WINDOW), bytes;
        found = match(encoder, step, regex, subject, from, until);
        if (found == PCRE2_ERROR_NOMATCH) from = until;
        if (found != PCRE2_ERROR_PARTIAL) continue;
        from = place[0];
        found = match_at(encoder, step, subject, from);
        if (found != PCRE2_ERROR_NOMATCH) continue;
        lr__utf8_at(subject.data + from, &bytes);
        from += bytes;
    }
    if (found == PCRE2_ERROR_NOMATCH) return 0;
    if (found == PCRE2_ERROR_NOMEMORY) return lr__fail(LR_E_NOMEM, "out of memory for a pattern");
    if (found < 0) return too_long(step, from, subject, found);
    *start = place[0];
    *end = place[1];
    return 1;
}

void lr__regex_state_clear(lr__encoder *encoder) {
    for (size_t i = 0; i < LR__MAX_STEPS; i++) {
        pcre2_match_data_free(encoder->regex[i].match);
        lr__free(encoder->regex[i].subject);
    }
    pcre2_match_context_free(encoder->limits);
    pcre2_jit_stack_free(encoder->jit_stack);
    pcre2_general_context_free(encoder->memory);
}
