/* What each step of a training lost: kept beside the checkpoint, then a table and a picture in the
 * output. */
#ifndef LR_CLI_TRAIN_LOG_H
#define LR_CLI_TRAIN_LOG_H

#include "cli/report.h"

typedef struct train_row {
    int64_t step;
    double loss, next_token, divergence, norm, learning_rate, seconds;
} train_row;

typedef struct train_log {
    train_row *rows;
    size_t count, room;
} train_log;

int train_log_add(train_log *log, const train_row *row);
/* Rows up to `last` of an earlier run's table, if there is one. */
int train_log_open(train_log *log, const char *path, int64_t last);
/* Comma-separated, one row for each step. */
int train_log_save(const train_log *log, const char *path);
/* The losses as a drawing of its own, SVG. */
int train_log_draw(const train_log *log, const char *path);
void train_log_end(train_log *log);

#endif
