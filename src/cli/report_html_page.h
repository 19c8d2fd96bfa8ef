/* What the files of cli/report_html*.c share: a report as a grid of layers and types. */
#ifndef LR_CLI_REPORT_HTML_PAGE_H
#define LR_CLI_REPORT_HTML_PAGE_H

#include "cli/html.h"
#include "cli/report_html.h"

enum { PAGE_TYPES = 16, PAGE_LAYERS = 4096 };

typedef struct html_page {
    FILE *out;
    const html_report *report;
    const json_t *result;
    const char *types[PAGE_TYPES]; /* last components of the names, in their first order */
    int32_t type_count, layers;
    const html_module **cells; /* [layers, type_count], NULL where there is none */
    double least, most;        /* loss above 0 */
    int32_t decades;           /* below 100 % that hold every loss */
    int32_t usual_decades;     /* that hold nine losses of ten */
} html_page;

const html_module *page_cell(const html_page *page, int32_t layer, int32_t type);
/* "q_proj" as "q". */
void page_type(const html_page *page, int32_t type);
/* Rank at which `lost` has that element. */
int64_t page_step(const html_module *module, int step);
/* Measured loss over the total, 0 where the total is. */
double page_loss(const html_module *module);

/* report_html_tables.c */
void page_comparison(const html_page *page);
void page_settings(const html_page *page);
void page_cost(const html_page *page);
void page_modules(const html_page *page);
/* report_html_maps.c */
void page_maps(const html_page *page);
/* report_html_charts.c */
void page_spectra(const html_page *page);
void page_losses(const html_page *page);

#endif
