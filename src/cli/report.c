/* Exit codes and messages, and the members of the result. */
#include "cli/report.h"

#include "cli/progress.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static const char *command_name;

/* Exit code of each status while working on data, reading an input, writing an output. */
static const struct {
    lr_status status;
    int codes[3];
} exit_codes[] = {
    {LR_E_INVALID, {CODE_USAGE, CODE_INPUT, CODE_USAGE}},
    {LR_E_NOMEM, {CODE_FAILED, CODE_FAILED, CODE_FAILED}},
    {LR_E_IO, {CODE_FAILED, CODE_INPUT, CODE_FAILED}},
    {LR_E_FORMAT, {CODE_INPUT, CODE_INPUT, CODE_INPUT}},
    {LR_E_NOTFOUND, {CODE_USAGE, CODE_INPUT, CODE_FAILED}},
    {LR_E_SHAPE, {CODE_INPUT, CODE_INPUT, CODE_INPUT}},
    {LR_E_UNSUPPORTED, {CODE_INPUT, CODE_INPUT, CODE_INPUT}},
    {LR_E_BACKEND, {CODE_FAILED, CODE_FAILED, CODE_FAILED}},
    {LR_E_COMM, {CODE_FAILED, CODE_FAILED, CODE_FAILED}},
    {LR_E_NUMERIC, {CODE_NUMBER, CODE_NUMBER, CODE_NUMBER}},
    {LR_E_CANCELLED, {CODE_CANCELLED, CODE_CANCELLED, CODE_CANCELLED}},
    {LR_E_EXISTS, {CODE_FAILED, CODE_FAILED, CODE_FAILED}},
};

void report_begin(const char *command) { command_name = command; }

int report_fail(int code, const char *format, ...) {
    va_list args;
    progress_clear();
    fprintf(stderr, "lowrank%s%s: ", command_name ? " " : "", command_name ? command_name : "");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return code;
}

int report_nomem(void) { return report_fail(CODE_FAILED, "memory could not be allocated"); }

int report_status(lr_status status, int doing) {
    if (status >= 0) return CODE_DONE;
    int code = CODE_FAILED;
    for (size_t i = 0; i < sizeof exit_codes / sizeof *exit_codes; i++)
        if (exit_codes[i].status == status) code = exit_codes[i].codes[doing];
    const char *advice = status == LR_E_EXISTS ? "; --force replaces it" : "";
    return report_fail(code, "%s%s", lr_last_error(), advice);
}

void report_log(int32_t level, const char *line, void *user) {
    (void)user;
    progress_clear();
    fprintf(stderr, "lowrank: %s%s\n", level == LR_LOG_WARNING ? "warning: " : "", line);
}

int report_put(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) ? report_nomem() : CODE_DONE;
}

int report_real(json_t *object, const char *key, double value) {
    if (!isfinite(value))
        return report_fail(CODE_NUMBER, "%s: %g, expected a finite number", key, value);
    return report_put(object, key, json_real(value));
}

int report_count(json_t *object, const char *key, int64_t value) {
    return report_put(object, key, json_integer(value));
}

int report_pair(json_t *object, const char *key, int64_t before, int64_t after) {
    return report_put(
        object, key,
        json_pack("{s:I,s:I}", "before", (json_int_t)before, "after", (json_int_t)after));
}

int report_flush(void) {
    if (!fflush(stdout) && !ferror(stdout)) return CODE_DONE;
    return report_fail(CODE_FAILED, "standard output: cannot write: %s", strerror(errno));
}

int64_t report_peak_bytes(void) {
    struct rusage usage;
    char line[256];
    long long kilobytes = 0;
    FILE *status = fopen("/proc/self/status", "re");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %lld kB", &kilobytes) == 1) break;
    if (status) fclose(status);
    if (!kilobytes && !getrusage(RUSAGE_SELF, &usage)) kilobytes = usage.ru_maxrss;
    return kilobytes * 1024;
}
