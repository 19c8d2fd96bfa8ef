/* The page as a whole. It is rendered in the locale "C", so a number has a point and no more. */
#include "cli/report_html_page.h"

#include "cli/staged.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char style[] =
#include "report_css.inc"
    ;

enum { DECADES_LEAST = 2, DECADES_MOST = 6 };

/* --- the data --- */

int html_report_begin(html_report *report, const lr_model *model, const lr_plan *plan) {
    int code;
    *report = (html_report){.model = {.size = sizeof report->model}};
    TRY(report_status(lr_model_get_info(model, &report->model), WHILE_WORKING));
    report->modules = calloc((size_t)lr_plan_count(plan), sizeof *report->modules);
    if (!report->modules) return report_nomem();
    for (; report->count < lr_plan_count(plan); report->count++) {
        html_module *module = &report->modules[report->count];
        lr_linear *linear;
        const char *name = lr_plan_module(plan, report->count);
        TRY(report_status(lr_model_find_linear(model, name, &linear), WHILE_WORKING));
        int64_t out = lr_linear_out(linear), in = lr_linear_in(linear);
        lr_linear_free(linear);
        module->rank = lr_plan_rank(plan, report->count);
        module->full = out < in ? out : in;
        module->name = strdup(name);
        if (!module->name) return report_nomem();
    }
done:
    return code;
}

/* Events come in the order of the plan, or nearly so. */
static html_module *find(html_report *report, const char *name) {
    for (int32_t i = 0; i < report->count; i++) {
        html_module *module = &report->modules[(report->next + i) % report->count];
        if (strcmp(module->name, name)) continue;
        report->next = (int32_t)(module - report->modules) + 1;
        return module;
    }
    return NULL;
}

int64_t page_step(const html_module *module, int step) {
    return (int64_t)((double)module->full * step / HTML_STEPS);
}

/* What a randomised range finder left out is the loss at the last rank it knows. */
static void thin_spectrum(html_module *module, const double *spectrum) {
    double tail = 0;
    int64_t from = module->known;
    if (module->known < module->full) {
        tail = module->total;
        for (int64_t i = 0; i < module->known; i++) tail -= spectrum[i];
        tail = tail > 0 ? tail : 0;
    }
    for (int i = HTML_STEPS; i >= 0; i--) {
        while (from > page_step(module, i)) tail += spectrum[--from];
        module->lost[i] = module->total > 0 ? tail / module->total : 0;
    }
}

void html_report_note(html_report *report, const lr_compress_event *event) {
    html_module *module = find(report, event->module);
    if (!module) return;
    module->rank = event->rank;
    module->predicted = event->predicted;
    module->measured = event->measured;
    module->total = event->total;
    module->sharers = event->sharers;
    snprintf(module->storage, sizeof module->storage, "%s", event->storage);
    module->is_cut = 1;
    module->full = event->full_rank;
    module->known = event->spectrum_count;
    thin_spectrum(module, event->spectrum);
}

void html_report_end(html_report *report) {
    for (int32_t i = 0; report->modules && i < report->count; i++) free(report->modules[i].name);
    free(report->modules);
    *report = (html_report){0};
}

/* --- the grid --- */

const html_module *page_cell(const html_page *page, int32_t layer, int32_t type) {
    return page->cells[layer * page->type_count + type];
}

void page_type(const html_page *page, int32_t type) {
    char name[64];
    size_t length = strlen(page->types[type]);
    if (length > 5 && !strcmp(page->types[type] + length - 5, "_proj")) length -= 5;
    snprintf(name, sizeof name, "%.*s", (int)(length < 60 ? length : 60), page->types[type]);
    html_text(page->out, name);
}

double page_loss(const html_module *module) {
    return module->total > 0 ? module->measured / module->total : 0;
}

/* The number behind "layers.", -1 without one. */
static int32_t layer_of(const html_module *module) {
    const char *found = strstr(module->name, "layers.");
    char *end;
    if (!found || found[7] < '0' || found[7] > '9') return -1;
    long layer = strtol(found + 7, &end, 10);
    return *end == '.' && layer < PAGE_LAYERS ? (int32_t)layer : -1;
}

/* The column of a module, a new one if need be; -1 when there are too many. */
static int32_t type_of(html_page *page, const html_module *module) {
    const char *dot = strrchr(module->name, '.'), *name = dot ? dot + 1 : module->name;
    int32_t type = 0;
    while (type < page->type_count && strcmp(page->types[type], name)) type++;
    if (type == PAGE_TYPES) return -1;
    if (type == page->type_count) page->types[page->type_count++] = name;
    return type;
}

/* Fewest decades below 100 % that hold all losses but that share of them. */
static int32_t decades_of(const html_report *report, double share) {
    for (int32_t decades = DECADES_LEAST; decades < DECADES_MOST; decades++) {
        int32_t cut = 0, beyond = 0;
        for (int32_t i = 0; i < report->count; i++) {
            cut += report->modules[i].is_cut;
            beyond +=
                report->modules[i].is_cut && page_loss(&report->modules[i]) < pow(10, -decades);
        }
        if (beyond <= share * cut) return decades;
    }
    return DECADES_MOST;
}

static void measure(html_page *page) {
    const html_report *report = page->report;
    page->least = 1;
    for (int32_t i = 0; i < report->count; i++) {
        const html_module *module = &report->modules[i];
        int32_t layer = layer_of(module);
        double loss = page_loss(module);
        if (layer >= 0 && type_of(page, module) >= 0 && layer >= page->layers)
            page->layers = layer + 1;
        if (module->is_cut && loss > 0) page->least = fmin(page->least, loss);
        if (module->is_cut) page->most = fmax(page->most, loss);
    }
    page->decades = decades_of(report, 0);
    page->usual_decades = decades_of(report, 0.1);
}

static int make_grid(html_page *page) {
    const html_report *report = page->report;
    measure(page);
    page->cells = calloc((size_t)page->layers * (size_t)page->type_count + 1, sizeof *page->cells);
    if (!page->cells) return report_nomem();
    for (int32_t i = 0; i < report->count; i++) {
        const html_module *module = &report->modules[i];
        int32_t layer = layer_of(module), type = layer < 0 ? -1 : type_of(page, module);
        if (type >= 0) page->cells[layer * page->type_count + type] = module;
    }
    return CODE_DONE;
}

/* --- the page --- */

static const char *text_of(const html_page *page, const char *key) {
    const char *text = json_string_value(json_object_get(page->result, key));
    return text ? text : "";
}

static double real_of(const html_page *page, const char *key) {
    return json_number_value(json_object_get(page->result, key));
}

static void put_head(const html_page *page) {
    FILE *out = page->out;
    const char *model = text_of(page, "model"), *slash = strrchr(model, '/');
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
          "<meta name=\"color-scheme\" content=\"light dark\">\n"
          "<title>Compression of ",
          out);
    html_text(out, slash && slash[1] ? slash + 1 : model);
    fprintf(out, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<main>\n<header>\n<h1>", style);
    html_text(out, slash && slash[1] ? slash + 1 : model);
    fputs("</h1>\n<p class=\"lead\">Compressed by <b>", out);
    html_text(out, text_of(page, "method"));
    fputs("</b>: <b>", out);
    html_percent(out, real_of(page, "kept_model"), 3);
    fputs("</b> of the parameters are left, <b>", out);
    html_percent(out, real_of(page, "kept_linear"), 3);
    fputs("</b> of those in the linear modules of the blocks.</p>\n</header>\n", out);
}

static void put_foot(const html_page *page) {
    fputs("</main>\n<footer>Written by lowrank ", page->out);
    html_text(page->out, lr_version_string());
    fputs(".</footer>\n</body>\n</html>\n", page->out);
}

int html_report_render(const html_report *report, const json_t *result, FILE *out) {
    html_page page = {.out = out, .report = report, .result = result};
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0), before;
    if (!plain) return report_nomem();
    before = uselocale(plain);
    int code = make_grid(&page);
    if (!code) {
        put_head(&page);
        page_comparison(&page);
        page_settings(&page);
        page_maps(&page);
        page_losses(&page);
        page_spectra(&page);
        page_cost(&page);
        page_modules(&page);
        put_foot(&page);
    }
    free(page.cells);
    uselocale(before);
    freelocale(plain);
    return code;
}

int html_report_write(const html_report *report, const json_t *result, const char *path,
                      int32_t force) {
    staged_file file = {0};
    int code;
    TRY(staged_begin(&file, path, force));
    TRY(html_report_render(report, result, file.out));
    TRY(staged_commit(&file));
done:
    staged_end(&file);
    return code;
}
