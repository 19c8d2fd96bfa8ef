/* Small multiples, one chart for each type of module, all on the same axes. */
#include "cli/report_html_page.h"
#include "cli/svg.h"

#include <math.h>
#include <string.h>

/* Decades below 100 % at which a loss is drawn. */
static double depth(double loss) { return loss > 0 ? -log10(loss) : INFINITY; }

static void begin_chart(svg_chart *chart, const html_page *page, int32_t type, const char *what) {
    char name[160];
    fputs("<figure>\n<figcaption>", page->out);
    page_type(page, type);
    fputs("</figcaption>\n", page->out);
    snprintf(name, sizeof name, "%s of %.64s, layers 0 to %d", what, page->types[type],
             page->layers - 1);
    svg_begin(chart, name);
}

static void end_chart(const svg_chart *chart) {
    svg_end(chart);
    fputs("</figure>\n", chart->out);
}

/* Where a layer lies between the first and the last, in per cent. */
static double layer_shade(const html_page *page, int32_t layer) {
    return page->layers > 1 ? 100.0 * layer / (page->layers - 1) : 0;
}

/* --- spectra --- */

static void put_energy_axes(const svg_chart *chart, int32_t decades) {
    static const char *const kept[] = {"0", "90", "99", "99.9", "99.99", "99.999", "99.9999"};
    static const char *const shares[] = {"0", "25", "50", "75", "100"};
    for (int i = 0; i <= decades; i++) svg_tick_y(chart, i, kept[i]);
    for (int i = 0; i < 5; i++) svg_tick_x(chart, i * 25, shares[i]);
}

static void put_spectrum(const svg_chart *chart, const html_page *page, int32_t layer,
                         const html_module *module) {
    FILE *out = chart->out;
    double share = (double)module->rank / (double)module->full * 100;
    fprintf(out,
            "<g class=\"layer\" style=\"--v:%.0f%%\"><title>layer %d: rank %lld of %lld keeps ",
            layer_shade(page, layer), layer, (long long)module->rank, (long long)module->full);
    html_percent(out, 1 - page_loss(module), 4);
    fputs("</title><polyline points=\"", out);
    for (int i = 0; i <= HTML_STEPS && page_step(module, i) <= module->known; i++) {
        double y = depth(module->lost[i]);
        svg_point(chart, 100.0 * (double)page_step(module, i) / (double)module->full, y);
        if (y > page->usual_decades) break;
    }
    fprintf(out, "\"/><circle cx=\"%.1f\" cy=\"%.1f\" r=\"2\"/></g>\n", svg_place(&chart->x, share),
            svg_place(&chart->y, depth(page_loss(module))));
}

static void put_spectra(const html_page *page, int32_t type) {
    svg_chart chart = {.out = page->out,
                       .x = {0, 100, 0, 0, "rank, % of the full rank"},
                       .y = {0, page->usual_decades, 0, 0, "energy kept, %"}};
    begin_chart(&chart, page, type, "energy kept by rank");
    put_energy_axes(&chart, page->usual_decades);
    for (int32_t l = 0; l < page->layers; l++) {
        const html_module *module = page_cell(page, l, type);
        if (module && module->is_cut) put_spectrum(&chart, page, l, module);
    }
    end_chart(&chart);
}

void page_spectra(const html_page *page) {
    FILE *out = page->out;
    if (!page->layers) return;
    fputs("<section>\n<h2>Spectra</h2>\n"
          "<p>How much of a module's output its first directions carry, one line for each layer. "
          "A dot marks the rank that was chosen, at the upper edge if it lies beyond. The upright "
          "axis is logarithmic in what is missing.</p>\n<div class=\"charts\">\n",
          out);
    for (int32_t t = 0; t < page->type_count; t++) put_spectra(page, t);
    fprintf(out,
            "</div>\n<p class=\"key\">layer 0 <i class=\"ramp depth\"></i> layer %d</p>\n"
            "</section>\n",
            page->layers - 1);
}

/* --- losses --- */

static void put_loss_axes(const svg_chart *chart, const html_page *page) {
    static const char *const lost[] = {"100", "10", "1", "0.1", "0.01", "0.001", "0.0001"};
    int32_t last = page->layers - 1, step = 1;
    char text[16];
    for (int i = 0; i <= page->decades; i++) svg_tick_y(chart, -i, lost[i]);
    while (last / step > 6) step = step == 1 ? 2 : step == 2 ? 5 : step * 2;
    for (int32_t l = 0; l <= last; l += step) {
        snprintf(text, sizeof text, "%d", l);
        svg_tick_x(chart, l, text);
    }
}

static void put_rings(const svg_chart *chart, const html_page *page, int32_t type) {
    FILE *out = chart->out;
    for (int32_t l = 0; l < page->layers; l++) {
        const html_module *module = page_cell(page, l, type);
        if (!module || !module->is_cut || !(module->total > 0)) continue;
        fprintf(out, "<circle class=\"ring\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.6\"><title>layer %d: ",
                svg_place(&chart->x, l),
                svg_place(&chart->y, -depth(module->predicted / module->total)), l);
        fputs("predicted ", out);
        html_percent(out, module->predicted / module->total, 6);
        fputs(", recomputed ", out);
        html_percent(out, page_loss(module), 6);
        fputs("</title></circle>\n", out);
    }
}

static void put_losses(const html_page *page, int32_t type) {
    svg_chart chart = {.out = page->out,
                       .x = {0, fmax(page->layers - 1, 1), 0, 0, "layer"},
                       .y = {-page->decades, 0, 0, 0, "relative loss, %"}};
    int is_open = 0;
    begin_chart(&chart, page, type, "relative loss");
    put_loss_axes(&chart, page);
    for (int32_t l = 0; l < page->layers; l++) {
        const html_module *module = page_cell(page, l, type);
        int has = module && module->is_cut;
        if (has && !is_open) fputs("<polyline class=\"loss\" points=\"", page->out);
        if (has) svg_point(&chart, l, -depth(page_loss(module)));
        if (!has && is_open) fputs("\"/>\n", page->out);
        is_open = has;
    }
    if (is_open) fputs("\"/>\n", page->out);
    put_rings(&chart, page, type);
    end_chart(&chart);
}

/* The largest difference of the two losses, over the total. */
static double widest_gap(const html_page *page) {
    double widest = 0;
    for (int32_t i = 0; i < page->report->count; i++) {
        const html_module *m = &page->report->modules[i];
        if (m->total > 0) widest = fmax(widest, fabs(m->predicted - m->measured) / m->total);
    }
    return widest;
}

void page_losses(const html_page *page) {
    FILE *out = page->out;
    if (!page->layers) return;
    fprintf(out,
            "<section>\n<h2>Loss, predicted and recomputed</h2>\n"
            "<p>Rings are the loss that the spectrum predicts, lines the loss recomputed from the "
            "difference of the matrices. They are %.1e of the whole apart at most.</p>\n"
            "<div class=\"charts\">\n",
            widest_gap(page));
    for (int32_t t = 0; t < page->type_count; t++) put_losses(page, t);
    fputs("</div>\n</section>\n", out);
}
