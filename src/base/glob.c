/* Glob matching without backtracking. The pattern is read as an automaton whose states are its own
 * positions; every silent step ({ to an alternative, the end of an alternative to behind }, past *)
 * goes forward, so one sweep from left to right closes the set of states before each byte of the
 * name (Thompson, "Regular expression search algorithm", CACM 1968). Work is bounded by the
 * length of the pattern times the length of the name. */
#include "base/glob.h"

#include <string.h>

enum { MAX_PATTERN = 1024, MAX_DEPTH = 16 };

typedef struct automaton {
    const char *pattern;
    int length;
    short next[MAX_PATTERN]; /* of { and of a comma between alternatives: the following one */
    short end[MAX_PATTERN];  /* of a comma between alternatives: behind its }; 0 elsewhere */
} automaton;

/* Writes `close + 1` into every comma of the alternatives that begin at `open`. */
static void close_group(automaton *a, int open, int close) {
    for (int p = a->next[open]; p != close; p = a->next[p]) a->end[p] = (short)(close + 1);
}

static int compile(automaton *a, const char *pattern) {
    int open[MAX_DEPTH], last[MAX_DEPTH], depth = 0;
    size_t length = strnlen(pattern, MAX_PATTERN + 1);
    if (length > MAX_PATTERN) return 0;
    a->pattern = pattern;
    a->length = (int)length;
    memset(a->end, 0, length * sizeof a->end[0]);
    for (int p = 0; p < a->length; p++) {
        if (pattern[p] == '{') {
            if (depth == MAX_DEPTH) return 0;
            open[depth] = last[depth] = p;
            depth++;
        } else if (pattern[p] == ',' && depth > 0) {
            a->next[last[depth - 1]] = (short)p;
            last[depth - 1] = p;
        } else if (pattern[p] == '}') {
            if (depth == 0) return 0;
            depth--;
            a->next[last[depth]] = (short)p;
            close_group(a, open[depth], p);
        }
    }
    return depth == 0;
}

/* Adds what can be reached without reading a byte. */
static void close_states(const automaton *a, unsigned char *states) {
    for (int p = 0; p < a->length; p++) {
        if (!states[p]) continue;
        char c = a->pattern[p];
        if (c == '{') {
            states[p + 1] = 1;
            for (int q = a->next[p]; a->pattern[q] == ','; q = a->next[q]) states[q + 1] = 1;
        } else if (c == '*' || c == '}') {
            states[p + 1] = 1;
        } else if (a->end[p]) {
            states[a->end[p]] = 1;
        }
    }
}

/* States after reading `byte`. A ? takes the first byte of a character; the position behind it
 * then stays for the rest of its UTF-8 bytes. */
static void step(const automaton *a, const unsigned char *states, unsigned char *after,
                 unsigned char byte) {
    int is_rest = (byte & 0xC0) == 0x80;
    memset(after, 0, (size_t)a->length + 1);
    for (int p = 0; p <= a->length; p++) {
        if (!states[p]) continue;
        if (is_rest && p > 0 && a->pattern[p - 1] == '?') after[p] = 1;
        if (p == a->length) break;
        unsigned char c = (unsigned char)a->pattern[p];
        if (c == '*')
            after[p] = 1;
        else if (c == '?')
            after[p + 1] |= !is_rest;
        else if (c == byte && c != '{' && c != '}' && !a->end[p])
            after[p + 1] = 1;
    }
}

static int match(const automaton *a, const char *name) {
    unsigned char sets[2][MAX_PATTERN + 1], *states = sets[0], *after = sets[1];
    memset(states, 0, (size_t)a->length + 1);
    states[0] = 1;
    for (; *name; name++) {
        close_states(a, states);
        step(a, states, after, (unsigned char)*name);
        unsigned char *swap = states;
        states = after;
        after = swap;
    }
    close_states(a, states);
    return states[a->length];
}

int lr__glob_match(const char *pattern, const char *name) {
    automaton a;
    if (!compile(&a, pattern)) return 0;
    if (match(&a, name)) return 1;
    const char *last = strchr(pattern, '.') ? NULL : strrchr(name, '.');
    return last && match(&a, last + 1);
}

int lr__glob_is_valid(const char *pattern) {
    automaton a;
    return compile(&a, pattern);
}
