/* What a run of compress did, as one page that needs nothing but itself. */
#ifndef LR_CLI_REPORT_HTML_H
#define LR_CLI_REPORT_HTML_H

#include "cli/report.h"

#include <stdio.h>

enum { HTML_STEPS = 64 };

typedef struct html_module {
    char *name;
    int64_t rank, full; /* rank 0: left as it was; the full rank of all that share a factor */
    int64_t known;      /* ranks whose loss the spectrum tells; full, or less of a sketch */
    int64_t sharers;
    char storage[16];
    double predicted, measured, total;
    double lost[HTML_STEPS + 1]; /* loss at ranks from 0 to full, over the total */
    int32_t is_cut;              /* the numbers above are there */
} html_module;

typedef struct html_report {
    html_module *modules; /* in the order of the plan */
    int32_t count, next;
    lr_model_info model; /* before */
} html_report;

/* Takes names and ranks from the plan, before the model is rewritten. */
int html_report_begin(html_report *report, const lr_model *model, const lr_plan *plan);
void html_report_note(html_report *report, const lr_compress_event *event);
void html_report_end(html_report *report);

/* The page for the result that compress prints. The same report and result give the same bytes;
 * what a clock or the machine decides stands in lines of class "measured". */
int html_report_render(const html_report *report, const json_t *result, FILE *out);
/* Renders to a file, beside it first. */
int html_report_write(const html_report *report, const json_t *result, const char *path,
                      int32_t force);

#endif
