/* Ranks and losses as tables whose cells are shaded: the numbers can be read, copied and spoken.
 * Ranks are shaded by their share of the full rank, losses by their logarithm. */
#include "cli/report_html_page.h"

#include <math.h>

typedef struct map {
    const char *caption;
    void (*put)(const html_page *page, const html_module *module);
} map;

static void put_cell(const html_page *page, const char *kind, double shade) {
    fprintf(page->out, "<td class=\"%s\" style=\"--v:%.0f%%\" title=\"", kind,
            fmin(fmax(shade, 0), 1) * 100);
}

static void put_rank(const html_page *page, const html_module *module) {
    double share = (double)module->rank / (double)module->full;
    if (!module->rank) {
        fputs("<td class=\"dense\" title=\"left as it was\">–</td>", page->out);
        return;
    }
    put_cell(page, "rank", share);
    html_text(page->out, module->name);
    fprintf(page->out, ": rank %lld of %lld, ", (long long)module->rank, (long long)module->full);
    html_percent(page->out, share, 2);
    fprintf(page->out, "\">%lld</td>", (long long)module->rank);
}

/* 0 for the least loss, 1 for the largest. */
static double shade_of(const html_page *page, double loss) {
    if (!(loss > 0)) return 0;
    return page->most > page->least ? log(loss / page->least) / log(page->most / page->least) : 1;
}

static void put_loss(const html_page *page, const html_module *module) {
    double loss = page_loss(module);
    if (!module->is_cut) {
        fputs("<td class=\"dense\" title=\"left as it was\">–</td>", page->out);
        return;
    }
    put_cell(page, "loss", shade_of(page, loss));
    html_text(page->out, module->name);
    fputs(": loss ", page->out);
    html_percent(page->out, loss, 3);
    fputs("\">", page->out);
    html_hundredths(page->out, loss, 2);
    fputs("</td>", page->out);
}

/* The full rank of a type where it is one number. */
static int64_t full_rank(const html_page *page, int32_t type) {
    int64_t full = 0;
    for (int32_t i = 0; i < page->layers; i++) {
        const html_module *module = page_cell(page, i, type);
        if (!module) continue;
        if (full && module->full != full) return 0;
        full = module->full;
    }
    return full;
}

static void put_map_head(const html_page *page, const map *m) {
    FILE *out = page->out;
    fprintf(out,
            "<table class=\"map\">\n<caption>%s</caption>\n<thead>\n"
            "<tr><th scope=\"col\">layer</th>",
            m->caption);
    for (int32_t t = 0; t < page->type_count; t++) {
        fputs("<th scope=\"col\">", out);
        page_type(page, t);
        if (full_rank(page, t))
            fprintf(out, "<small>of %lld</small>", (long long)full_rank(page, t));
        fputs("</th>", out);
    }
    fputs("</tr>\n</thead>\n<tbody>\n", out);
}

static void put_map(const html_page *page, const map *m) {
    FILE *out = page->out;
    put_map_head(page, m);
    for (int32_t l = 0; l < page->layers; l++) {
        fprintf(out, "<tr><th scope=\"row\">%d</th>", l);
        for (int32_t t = 0; t < page->type_count; t++) {
            const html_module *module = page_cell(page, l, t);
            if (module)
                m->put(page, module);
            else
                fputs("<td></td>", out);
        }
        fputs("</tr>\n", out);
    }
    fputs("</tbody>\n</table>\n", out);
}

void page_maps(const html_page *page) {
    static const map ranks = {"Rank of each module", put_rank};
    static const map losses = {"Relative loss of each module, in per cent", put_loss};
    FILE *out = page->out;
    if (!page->layers) return;
    fputs("<section>\n<h2>Ranks and losses, layer by layer</h2>\n"
          "<p>Each cell is one linear module. Loss is what the factors miss of the module's output "
          "on the calibration text, as a share of all of it (for the method <i>svd</i>, of the "
          "weights themselves). A dash marks a module that was left as it was.</p>\n"
          "<div class=\"pair\">\n<div class=\"wide\">\n",
          out);
    put_map(page, &ranks);
    fputs("<p class=\"key\">0 % <i class=\"ramp rank\"></i> 100 % of the full rank</p>\n</div>\n"
          "<div class=\"wide\">\n",
          out);
    put_map(page, &losses);
    fputs("<p class=\"key\">", out);
    html_percent(out, fmin(page->least, page->most), 2);
    fputs(" <i class=\"ramp loss\"></i> ", out);
    html_percent(out, page->most, 2);
    fputs(" of the output, in equal steps of the logarithm</p>\n</div>\n</div>\n</section>\n", out);
}
