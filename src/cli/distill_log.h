/* What each module of a distillation lost: noted as it learns, then a file for each in the output
 * and a member of the result. */
#ifndef LR_CLI_DISTILL_LOG_H
#define LR_CLI_DISTILL_LOG_H

#include "cli/report.h"

typedef struct distill_row {
    char *module;
    int64_t rank;
    double tail; /* least loss of any matrix of this rank on the text; negative: not known */
    double *losses;
    lr_distill_event last; /* of it; its pointers are not to be used */
} distill_row;

typedef struct distill_log {
    distill_row *rows;
    size_t count, room;
    int64_t step; /* the one that is being told */
    double sum;   /* of relative losses in it */
    int32_t told, is_quiet;
} distill_log;

/* A module, its rank, and where it is known (else negative) the least loss of that rank. */
int distill_log_begin(distill_log *log, const char *module, int64_t rank, double tail);
/* Of lr_distill(); says how the steps go, one line for all modules, unless quiet. */
int distill_log_note(distill_log *log, const lr_distill_event *event);
/* Makes `folder` and writes `<module>.losses` into it, numbers separated by newlines. */
int distill_log_save(const distill_log *log, const char *folder);
/* "modules" and the mean of their relative losses, first and last. */
int distill_log_put(const distill_log *log, json_t *result);
void distill_log_end(distill_log *log);

#endif
