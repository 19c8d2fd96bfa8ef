/* The command line: a table of options for each command and one parser. */
#ifndef LR_CLI_ARGS_H
#define LR_CLI_ARGS_H

#include <stddef.h>
#include <stdint.h>

enum {
    ARG_FLAG,   /* int32_t, set to 1; takes no value */
    ARG_INT,    /* int32_t within least and most */
    ARG_REAL,   /* double within least and most, or above least */
    ARG_TEXT,   /* const char * */
    ARG_LIST,   /* arg_list, one item each time the option is given */
    ARG_CHOICE, /* int32_t, index in choices */
    ARG_SEED,   /* uint64_t */
    ARG_BYTES   /* uint64_t, with K, M, G or T behind the number */
};

typedef struct arg_list {
    const char **items; /* freed by the owner */
    int32_t count;
} arg_list;

typedef struct arg {
    const char *name; /* without the dashes */
    int kind;
    void *value;      /* written when the option is given */
    const char *hint; /* what the value is, for people: "FILE" */
    const char *help;
    double least, most; /* most 0: no upper end */
    int above;          /* 1: least itself is too small */
    int required;
    const char *const *choices; /* NULL behind the last */
} arg;

#define ARG(name_, kind_, value_, hint_, help_, ...) \
    { .name = name_, .kind = kind_, .value = value_, .hint = hint_, .help = help_, __VA_ARGS__ }

typedef struct arg_table {
    const arg *options;
    int32_t count;
} arg_table;

/* Options in any order around the one operand, `--name value` or `--name=value`; `--` ends them.
 * Errors are printed; what is missing is for args_check(). */
int args_parse(arg_table table, int argc, char **argv, const char **operand);
/* Complains of an option that is required and was not given. */
int args_check(arg_table table);

/* The whole text as a finite number. */
int args_number(const char *text, double *out);
/* The nearest of the names when it is near enough to be what was meant, else NULL. */
const char *args_nearest(const char *word, const char *const *names, size_t count);

#endif
