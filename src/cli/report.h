/* What the command says: exit codes, messages on stderr, the result on stdout. */
#ifndef LR_CLI_REPORT_H
#define LR_CLI_REPORT_H

#include <jansson.h>
#include <lowrank.h>

/* Exit codes; functions of the command return one of them, zero to go on. */
enum {
    CODE_DONE = 0,
    CODE_FAILED = 1,
    CODE_USAGE = 2,
    CODE_INPUT = 3,
    CODE_NUMBER = 4,
    CODE_CANCELLED = 5,
    CODE_HELP = 64 /* help was printed: nothing is left to do, and nothing went wrong */
};

/* What the library was doing, which decides whose fault an error is. */
enum { WHILE_WORKING, WHILE_READING, WHILE_WRITING };

#define TRY(call)                       \
    do {                                \
        if ((code = (call))) goto done; \
    } while (0)

/* The name that stands before every message. */
void report_begin(const char *command);

/* Prints one line on stderr and returns `code`. */
int report_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
int report_nomem(void);
/* Zero for a status that is not negative; else prints lr_last_error() and returns its exit code. */
int report_status(lr_status status, int doing);
/* A line for people on stderr; `user` is never read. */
void report_log(int32_t level, const char *line, void *user);

/* Members of the result. A number that is not finite has no place in JSON: CODE_NUMBER. */
int report_put(json_t *object, const char *key, json_t *value);
int report_real(json_t *object, const char *key, double value);
int report_count(json_t *object, const char *key, int64_t value);
/* {"before": ..., "after": ...} */
int report_pair(json_t *object, const char *key, int64_t before, int64_t after);
/* Bytes as a string; what is not UTF-8 becomes U+FFFD, one for each maximal invalid part. */
json_t *report_text(const char *bytes, size_t count);
/* The same of a C string; NULL becomes null. */
json_t *report_name(const char *text);

/* Prints the result: one line of JSON, or aligned lines for people. */
int report_print(const json_t *result, int as_json);
/* CODE_FAILED when stdout could not take everything. */
int report_flush(void);

/* High-water mark of this process's memory. */
int64_t report_peak_bytes(void);

#endif
