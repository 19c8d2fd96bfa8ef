/* The parser: every message names the option, what was found and what was expected. */
#include "cli/args.h"

#include "cli/report.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_MOST = 40 };

/* Levenshtein distance of two short words. */
static size_t distance(const char *a, const char *b) {
    size_t row[WORD_MOST + 1], width = strlen(b);
    if (strlen(a) > WORD_MOST || width > WORD_MOST) return WORD_MOST;
    for (size_t j = 0; j <= width; j++) row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t corner = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < width; j++) {
            size_t change = corner + (a[i] != b[j]);
            corner = row[j + 1];
            size_t gap = (row[j] < corner ? row[j] : corner) + 1;
            row[j + 1] = change < gap ? change : gap;
        }
    }
    return row[width];
}

const char *args_nearest(const char *word, const char *const *names, size_t count) {
    const char *nearest = NULL;
    size_t least = strlen(word) / 3 + 2;
    for (size_t i = 0; i < count; i++) {
        size_t d = distance(word, names[i]);
        if (d < least) {
            least = d;
            nearest = names[i];
        }
    }
    return nearest;
}

int args_number(const char *text, double *out) {
    char *end;
    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text)) return 0;
    *out = strtod(text, &end);
    return !*end && isfinite(*out);
}

static int complain_of_range(const arg *a, const char *text) {
    const char *kind = a->kind == ARG_INT ? "a whole number " : "a number ";
    const char *from = a->above ? "above" : "of at least";
    if (a->most > 0)
        return report_fail(CODE_USAGE, "--%s: %s, expected %s%s %.10g and at most %.10g", a->name,
                           text, kind, from, a->least, a->most);
    return report_fail(CODE_USAGE, "--%s: %s, expected %s%s %.10g", a->name, text, kind, from,
                       a->least);
}

static int parse_int(const arg *a, const char *text) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    double most = a->most > 0 ? a->most : INT32_MAX;
    int whole = *text && strspn(text, "0123456789+-") == strlen(text) && !*end && !errno;
    if (!whole || (double)value < a->least || (double)value > most)
        return complain_of_range(a, text);
    *(int32_t *)a->value = (int32_t)value;
    return CODE_DONE;
}

static int parse_real(const arg *a, const char *text) {
    double value;
    if (!args_number(text, &value) || value < a->least || (a->above && value <= a->least) ||
        (a->most > 0 && value > a->most))
        return complain_of_range(a, text);
    *(double *)a->value = value;
    return CODE_DONE;
}

static int parse_seed(const arg *a, const char *text) {
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (!*text || strspn(text, "0123456789") != strlen(text) || *end || errno)
        return report_fail(CODE_USAGE, "--%s: %s, expected a whole number from 0 to 2^64 - 1",
                           a->name, text);
    *(uint64_t *)a->value = value;
    return CODE_DONE;
}

static int parse_bytes(const arg *a, const char *text) {
    static const char units[] = "KMGT";
    size_t digits = strspn(text, "0123456789.");
    const char *unit = text[digits] ? strchr(units, text[digits] & ~0x20) : NULL;
    char number[32];
    double value = 0;
    snprintf(number, sizeof number, "%.*s", (int)digits, text);
    int ok = digits > 0 && digits < sizeof number && args_number(number, &value) &&
             (!text[digits] || (unit && !text[digits + 1]));
    if (unit) value = ldexp(value, 10 * (int)(unit - units + 1));
    if (!ok || value < 1 || value >= 0x1p63)
        return report_fail(CODE_USAGE, "--%s: %s, expected a size such as 800M or 4G", a->name,
                           text);
    *(uint64_t *)a->value = (uint64_t)value;
    return CODE_DONE;
}

static int parse_choice(const arg *a, const char *text) {
    char all[200];
    size_t used = 0;
    int32_t count = 0;
    for (; a->choices[count]; count++) {
        if (strcmp(text, a->choices[count]) == 0) {
            *(int32_t *)a->value = count;
            return CODE_DONE;
        }
        const char *joint = !count ? "" : a->choices[count + 1] ? ", " : " or ";
        int wrote = snprintf(all + used, sizeof all - used, "%s%s", joint, a->choices[count]);
        used += (size_t)wrote < sizeof all - used ? (size_t)wrote : 0;
    }
    return report_fail(CODE_USAGE, "--%s: %s, expected %s", a->name, text, all);
}

static int append(arg_list *list, const char *item) {
    const char **items = realloc(list->items, ((size_t)list->count + 1) * sizeof *items);
    if (!items) return report_nomem();
    list->items = items;
    items[list->count++] = item;
    return CODE_DONE;
}

static int parse_value(const arg *a, const char *text) {
    switch (a->kind) {
    case ARG_INT: return parse_int(a, text);
    case ARG_REAL: return parse_real(a, text);
    case ARG_CHOICE: return parse_choice(a, text);
    case ARG_SEED: return parse_seed(a, text);
    case ARG_BYTES: return parse_bytes(a, text);
    default: break;
    }
    if (!*text) return report_fail(CODE_USAGE, "--%s: empty, expected %s", a->name, a->hint);
    if (a->kind == ARG_LIST) return append(a->value, text);
    *(const char **)a->value = text;
    return CODE_DONE;
}

static int complain_of_unknown(arg_table table, const char *given) {
    const char *names[64];
    size_t count = 0, length = strcspn(given, "=");
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)(length < 60 ? length : 60), given);
    for (int32_t i = 0; i < table.count && count < 64; i++) names[count++] = table.options[i].name;
    const char *bare = word + strspn(word, "-");
    const char *nearest = args_nearest(bare, names, count);
    if (nearest)
        return report_fail(CODE_USAGE, "%s: no such option; did you mean --%s?", word, nearest);
    return report_fail(CODE_USAGE, "%s: no such option; --help lists them", word);
}

static const arg *find(arg_table table, const char *given) {
    size_t length = strcspn(given, "=");
    for (int32_t i = 0; i < table.count; i++)
        if (strlen(table.options[i].name) == length &&
            strncmp(table.options[i].name, given, length) == 0)
            return &table.options[i];
    return NULL;
}

/* The option at argv[*i], which moves on when the value stands in a word of its own. */
static int parse_option(arg_table table, int argc, char **argv, int *i) {
    const char *given = argv[*i], *equals = strchr(given, '=');
    const arg *a = given[1] == '-' ? find(table, given + 2) : NULL;
    if (strcmp(given, "-h") == 0) a = find(table, "help");
    if (!a) return complain_of_unknown(table, given);
    if (a->kind == ARG_FLAG) {
        if (equals) return report_fail(CODE_USAGE, "--%s: takes no value", a->name);
        *(int32_t *)a->value = 1;
        return CODE_DONE;
    }
    if (equals) return parse_value(a, equals + 1);
    const char *next = *i + 1 < argc ? argv[*i + 1] : NULL;
    if (!next) return report_fail(CODE_USAGE, "--%s: no value, expected %s", a->name, a->hint);
    if (strncmp(next, "--", 2) == 0)
        return report_fail(CODE_USAGE,
                           "--%s: %s instead of %s; a value that begins with -- is "
                           "written --%s=%s",
                           a->name, next, a->hint, a->name, next);
    ++*i;
    return parse_value(a, next);
}

int args_parse(arg_table table, int argc, char **argv, const char **operand) {
    int code = CODE_DONE, options_end = 0;
    for (int i = 0; i < argc && !code; i++) {
        if (!options_end && strcmp(argv[i], "--") == 0)
            options_end = 1;
        else if (!options_end && argv[i][0] == '-' && argv[i][1])
            code = parse_option(table, argc, argv, &i);
        else if (*operand)
            code = report_fail(CODE_USAGE, "%s: one MODEL is expected, and %s was given before",
                               argv[i], *operand);
        else
            *operand = argv[i];
    }
    return code;
}

static int is_given(const arg *a) {
    if (a->kind == ARG_LIST) return ((const arg_list *)a->value)->count > 0;
    return *(const char *const *)a->value != NULL;
}

int args_check(arg_table table) {
    for (int32_t i = 0; i < table.count; i++)
        if (table.options[i].required && !is_given(&table.options[i]))
            return report_fail(CODE_USAGE, "--%s %s: missing", table.options[i].name,
                               table.options[i].hint);
    return CODE_DONE;
}
