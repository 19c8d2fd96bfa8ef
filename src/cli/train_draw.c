/* The curves of a training: the loss of each step, and the perplexity of each text. */
#include "cli/html.h"
#include "cli/svg.h"
#include "cli/train_log.h"

#include <math.h>

enum { TICKS = 4 };

/* A distance of 1, 2 or 5 tens for TICKS to twice as many values. */
static double tick_step(double range) {
    double step = pow(10, floor(log10(range / TICKS))), times = range / step / (2 * TICKS);
    return times > 2 ? 5 * step : times > 1 ? 2 * step : step;
}

static void put_ticks(const svg_chart *chart, const svg_axis *axis,
                      void (*tick)(const svg_chart *, double, const char *)) {
    double step = tick_step(axis->most - axis->least), first = ceil(axis->least / step);
    for (int i = 0; i <= 2 * TICKS && (first + i) * step <= axis->most; i++) {
        double at = (first + i) * step;
        char text[32];
        snprintf(text, sizeof text, "%.*f", step < 1 ? (int)-floor(log10(step) + 1e-9) : 0, at);
        tick(chart, at, text);
    }
}

static void reach(svg_axis *axis, double value) {
    axis->least = fmin(axis->least, value);
    axis->most = fmax(axis->most, value);
}

static void begin(svg_chart *chart, FILE *out, const char *name) {
    if (!(chart->y.most > chart->y.least)) chart->y.most = chart->y.least + 1;
    chart->out = out;
    chart->is_file = 1;
    svg_begin(chart, name);
    fputs("<style>text{font:9px sans-serif}path,line{fill:none;stroke:#888}"
          "polyline{fill:none;stroke:#06c}</style>\n",
          out);
    put_ticks(chart, &chart->x, svg_tick_x);
    put_ticks(chart, &chart->y, svg_tick_y);
}

static void draw_losses(const train_log *log, FILE *out) {
    const train_row *rows = log->rows;
    svg_chart chart = {.x = {.most = (double)rows[log->count - 1].step, .label = "step"},
                       .y = {.least = rows[0].loss, .most = rows[0].loss, .label = "loss"}};
    for (size_t i = 1; i < log->count; i++) reach(&chart.y, rows[i].loss);
    begin(&chart, out, "loss of each step");
    fputs("<polyline points=\"", out);
    for (size_t i = 0; i < log->count; i++) svg_point(&chart, (double)rows[i].step, rows[i].loss);
    fputs("\"/>\n", out);
    svg_end(&chart);
}

/* Texts are told apart by their dashes; a name is shown where one points at a line. */
static void draw_trials(const train_log *log, FILE *out) {
    const train_trial *all = log->trials, *last = &all[log->trial_count - 1];
    svg_chart chart = {
        .x = {.most = (double)last->step, .label = "step"},
        .y = {.least = last->perplexity, .most = last->perplexity, .label = "perplexity"}};
    for (size_t i = 0; i < log->trial_count; i++) reach(&chart.y, all[i].perplexity);
    begin(&chart, out, "perplexity of each text");
    for (int32_t text = 0; text < log->texts->count; text++) {
        fprintf(out, "<polyline stroke-dasharray=\"%d %d\" points=\"", 8 - 2 * (text % 4),
                2 * (text % 4));
        for (size_t i = 0; i < log->trial_count; i++)
            if (all[i].text == text) svg_point(&chart, (double)all[i].step, all[i].perplexity);
        fputs("\"><title>", out);
        html_text(out, log->texts->items[text]);
        fputs("</title></polyline>\n", out);
    }
    svg_end(&chart);
}

int train_log_draw(const train_log *log, const char *folder) {
    int code = CODE_DONE;
    if (log->count) TRY(train_log_write(log, folder, "losses.svg", draw_losses));
    if (log->trial_count) TRY(train_log_write(log, folder, "evaluations.svg", draw_trials));
done:
    return code;
}
