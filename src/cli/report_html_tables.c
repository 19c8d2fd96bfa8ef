/* The tables of the page: before and after, what was run, what it took, and every module. */
#include "cli/report_html_page.h"

#include <math.h>
#include <string.h>

/* --- before and after --- */

static void open_row(const html_page *page, const char *label) {
    fputs("<tr><th scope=\"row\">", page->out);
    html_text(page->out, label);
    fputs("</th>", page->out);
}

static void put_ratio(const html_page *page, double before, double after) {
    if (before > 0)
        fprintf(page->out, "<td>%.3f</td></tr>\n", after / before);
    else
        fputs("<td></td></tr>\n", page->out);
}

static void put_counts(const html_page *page, const char *label, const char *key,
                       void (*put)(FILE *, int64_t)) {
    const json_t *pair = json_object_get(page->result, key);
    int64_t before = json_integer_value(json_object_get(pair, "before"));
    int64_t after = json_integer_value(json_object_get(pair, "after"));
    open_row(page, label);
    fputs("<td>", page->out);
    put(page->out, before);
    fputs("</td><td>", page->out);
    put(page->out, after);
    fputs("</td>", page->out);
    put_ratio(page, (double)before, (double)after);
}

static void put_exact(FILE *out, int64_t bytes) {
    html_bytes(out, bytes);
    fputs(" <small>", out);
    html_count(out, bytes);
    fputs("</small>", out);
}

static void put_reals(const html_page *page, const char *label, const json_t *pair,
                      int is_measured) {
    double before = json_number_value(json_object_get(pair, "before"));
    double after = json_number_value(json_object_get(pair, "after"));
    fputs(is_measured ? "<tr class=\"measured\"><th scope=\"row\">" : "<tr><th scope=\"row\">",
          page->out);
    html_text(page->out, label);
    fputs("</th><td>", page->out);
    html_real(page->out, before);
    fputs("</td><td>", page->out);
    html_real(page->out, after);
    fputs("</td>", page->out);
    put_ratio(page, before, after);
}

static void put_evaluation(const html_page *page, const char *text, const json_t *e) {
    FILE *out = page->out;
    fputs("</tbody>\n<tbody>\n<tr><th scope=\"rowgroup\" colspan=\"4\">", out);
    html_text(out, text);
    fputs(" <small>", out);
    html_count(out, json_integer_value(json_object_get(e, "tokens")));
    fputs(" tokens scored in ", out);
    html_count(out, json_integer_value(json_object_get(e, "windows")));
    fputs(" windows</small></th></tr>\n", out);
    put_reals(page, "Perplexity", json_object_get(e, "perplexity"), 0);
    open_row(page, "KL from the source, nats per token");
    fprintf(out, "<td></td><td>%.4g</td><td></td></tr>\n",
            json_number_value(json_object_get(e, "kl")));
    open_row(page, "Same best token as the source");
    fputs("<td></td><td>", out);
    html_percent(out, json_number_value(json_object_get(e, "agreement")), 3);
    fputs("</td><td></td></tr>\n", out);
    put_reals(page, "Tokens per second", json_object_get(e, "tokens_per_second"), 1);
}

void page_comparison(const html_page *page) {
    FILE *out = page->out;
    const char *text;
    json_t *evaluation;
    fputs("<section>\n<h2>Before and after</h2>\n<div class=\"wide\">\n<table class=\"figures\">\n"
          "<caption>The source and what was written</caption>\n<thead>\n<tr><td></td>"
          "<th scope=\"col\">before</th><th scope=\"col\">after</th>"
          "<th scope=\"col\">after / before</th></tr>\n</thead>\n<tbody>\n",
          out);
    put_counts(page, "Parameters", "parameters", html_count);
    put_counts(page, "of these in linear modules of the blocks", "linear_parameters", html_count);
    put_counts(page, "Bytes of the weights", "bytes", put_exact);
    json_object_foreach(json_object_get(page->result, "evaluations"), text, evaluation) {
        put_evaluation(page, text, evaluation);
    }
    fputs("</tbody>\n</table>\n</div>\n</section>\n", out);
}

/* --- what was run --- */

static const struct {
    const char *key, *label;
} settings[] = {
    {"model", "Source"},
    {"out", "Written to"},
    {"method", "Method"},
    {"allocation", "Allocation"},
    {"keep", "Share of the linear modules to keep"},
    {"keep_model", "Share of the model to keep"},
    {"plan", "Plan"},
    {"match", "Modules that may change"},
    {"dtype", "Number type"},
    {"densify", "Factors multiplied out"},
    {"factorised", "Modules factorised"},
    {"stats", "Statistics"},
    {"tokens", "Tokens calibrated on"},
    {"seed", "Seed"},
};

static void put_value(const html_page *page, const json_t *value) {
    if (json_is_string(value))
        html_text(page->out, json_string_value(value));
    else if (json_is_integer(value))
        html_count(page->out, json_integer_value(value));
    else if (json_is_real(value))
        fprintf(page->out, "%.10g", json_real_value(value));
    else
        fputs(json_is_true(value) ? "yes" : "no", page->out);
}

static void put_shape(const html_page *page) {
    const lr_model_info *model = &page->report->model;
    FILE *out = page->out;
    open_row(page, "Model");
    fprintf(out, "<td>%d layers, width ", model->layers);
    html_count(out, model->hidden_size);
    fputs(", MLP ", out);
    html_count(out, model->intermediate_size);
    fprintf(out, ", %d query and %d key heads of %d, vocabulary ", model->attention_heads,
            model->key_value_heads, model->head_size);
    html_count(out, model->vocabulary_size);
    fputs("</td></tr>\n", out);
}

/* What the modules have, wherever the choice was made: a module that shares with none has two
 * factors. */
static void put_storages(const html_page *page) {
    static const char *const forms[] = {"pivot", "two-factor", "shared"};
    const html_report *report = page->report;
    FILE *out = page->out;
    const char *between = "";
    open_row(page, "Storage");
    fputs("<td>", out);
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        int64_t count = 0;
        for (int32_t i = 0; i < report->count; i++)
            count += report->modules[i].is_cut && !strcmp(report->modules[i].storage, forms[f]);
        if (!count) continue;
        fprintf(out, "%s%s, ", between, forms[f]);
        html_count(out, count);
        fputs(count == 1 ? " module" : " modules", out);
        between = "; ";
    }
    fputs("</td></tr>\n", out);
}

static void put_text(const html_page *page, const char *name, const json_t *text) {
    FILE *out = page->out;
    open_row(page, "Calibrated on");
    fputs("<td>", out);
    html_text(out, name);
    fprintf(out, ", weight %g, ", json_number_value(json_object_get(text, "weight")));
    html_count(out, json_integer_value(json_object_get(text, "windows")));
    fputs(" windows</td></tr>\n", out);
}

static void put_texts(const html_page *page) {
    const json_t *own = json_object_get(page->result, "self_text");
    const json_t *text;
    size_t i;
    json_array_foreach(json_object_get(page->result, "texts"), i, text) {
        const char *name = json_string_value(json_object_get(text, "text"));
        put_text(page, name ? name : "", text);
    }
    if (own) put_text(page, "text that the model wrote itself", own);
}

void page_settings(const html_page *page) {
    FILE *out = page->out;
    fputs("<section>\n<h2>What was run</h2>\n<div class=\"wide\">\n<table class=\"facts\">\n"
          "<caption>Inputs and choices</caption>\n<tbody>\n",
          out);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const json_t *value = json_object_get(page->result, settings[i].key);
        if (!value || json_is_object(value) || json_is_array(value)) continue;
        open_row(page, settings[i].label);
        fputs("<td>", out);
        put_value(page, value);
        fputs("</td></tr>\n", out);
        if (i == 0) put_shape(page);
    }
    put_storages(page);
    put_texts(page);
    fputs("</tbody>\n</table>\n</div>\n</section>\n", out);
}

/* --- what it took --- */

void page_cost(const html_page *page) {
    FILE *out = page->out;
    json_t *seconds = json_object_get(page->result, "seconds"), *value;
    const char *stage;
    double longest = 0;
    json_object_foreach(seconds, stage, value) longest = fmax(longest, json_number_value(value));
    fputs("<section>\n<h2>What it took</h2>\n<div class=\"wide\">\n<table class=\"figures\">\n"
          "<caption>Time of each stage</caption>\n<thead>\n<tr>"
          "<th scope=\"col\">stage</th><th scope=\"col\">seconds</th><td></td></tr>\n</thead>\n"
          "<tbody>\n",
          out);
    json_object_foreach(seconds, stage, value) {
        double s = json_number_value(value);
        fputs("<tr class=\"measured\"><th scope=\"row\">", out);
        html_text(out, stage);
        fprintf(out,
                "</th><td>%.3f</td><td class=\"bar\"><svg width=\"100%%\" height=\"10\" "
                "aria-hidden=\"true\"><rect width=\"%.2f%%\" height=\"10\" rx=\"2\"/></svg></td>"
                "</tr>\n",
                s, longest > 0 ? s / longest * 100 : 0);
    }
    fputs("</tbody>\n</table>\n</div>\n<p class=\"measured key\">Most memory held: ", out);
    html_bytes(out, json_integer_value(json_object_get(page->result, "peak_bytes")));
    fputs(".</p>\n</section>\n", out);
}

/* --- every module --- */

static void put_module(const html_page *page, const html_module *module) {
    FILE *out = page->out;
    open_row(page, module->name);
    if (!module->is_cut) {
        fprintf(out, "<td>dense</td><td>%lld</td><td></td><td></td><td></td><td></td></tr>\n",
                (long long)module->full);
        return;
    }
    fprintf(out, "<td>%lld</td><td>%lld</td><td>", (long long)module->rank,
            (long long)module->full);
    html_text(out, module->storage);
    if (module->sharers > 1) fprintf(out, " by %lld", (long long)module->sharers);
    fprintf(out, "</td><td>%.6g</td><td>%.6g</td><td>%.6g</td></tr>\n", module->predicted,
            module->measured, module->total);
}

void page_modules(const html_page *page) {
    fputs("<section>\n<h2>Every module</h2>\n"
          "<div class=\"wide tall\" tabindex=\"0\" role=\"region\" "
          "aria-label=\"Table of every module\">\n<table class=\"figures\">\n"
          "<caption>Ranks, and losses in the norm that the method minimises; where modules "
          "share a factor, full rank and losses are those of all of them "
          "together</caption>\n<thead>\n"
          "<tr><th scope=\"col\">module</th><th scope=\"col\">rank</th>"
          "<th scope=\"col\">full rank</th><th scope=\"col\">storage</th>"
          "<th scope=\"col\">predicted loss</th>"
          "<th scope=\"col\">recomputed loss</th><th scope=\"col\">loss of rank 0</th></tr>\n"
          "</thead>\n<tbody>\n",
          page->out);
    for (int32_t i = 0; i < page->report->count; i++) put_module(page, &page->report->modules[i]);
    fputs("</tbody>\n</table>\n</div>\n</section>\n", page->out);
}
