/* How far the work is, on stderr, and whether the user wants it to stop. */
#ifndef LR_CLI_PROGRESS_H
#define LR_CLI_PROGRESS_H

#include <stdint.h>

/* SIGINT and SIGTERM ask the work to stop; the second one ends the process at once. */
void progress_catch_signals(void);
/* Not zero once a signal came. */
int progress_is_cancelled(void);

/* From here on progress is shown: a line rewritten in place on a terminal, else a line now and
 * then. */
void progress_show(void);
void progress_hide(void);
/* The next stage; the library will count to its end `rounds` times. `label` is kept as a pointer.
 */
void progress_stage(const char *label, int32_t rounds);
/* Of the stages that the library reports, only this one counts from here to the next stage. */
void progress_follow(const char *stage);
/* Removes the line from the terminal, before anything else is written. */
void progress_clear(void);
/* For lr_ctx_opts::progress. */
int32_t progress_report(const char *stage, int64_t done, int64_t total, void *user);

double progress_seconds(void); /* a clock that never jumps */

#endif
