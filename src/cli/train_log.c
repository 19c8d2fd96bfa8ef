/* Losses as a table and as a drawing. The command sets no locale, so a number has its point. */
#include "cli/train_log.h"

#include "cli/args.h"
#include "cli/staged.h"
#include "cli/svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 7, LINE_ROOM = 512, TICKS = 4 };
static const char header[] = "step,loss,next_token,divergence,norm,learning_rate,seconds\n";

int train_log_add(train_log *log, const train_row *row) {
    if (log->count == log->room) {
        size_t room = log->room ? 2 * log->room : 64;
        train_row *rows = realloc(log->rows, room * sizeof *rows);
        if (!rows) return report_nomem();
        log->rows = rows;
        log->room = room;
    }
    log->rows[log->count++] = *row;
    return CODE_DONE;
}

static int read_line(char *line, train_row *row) {
    double numbers[COLUMNS];
    char *rest = line;
    for (int i = 0; i < COLUMNS; i++) {
        const char *word = strsep(&rest, ",\n");
        if (!word || !args_number(word, &numbers[i])) return 0;
    }
    *row = (train_row){(int64_t)numbers[0], numbers[1], numbers[2], numbers[3],
                       numbers[4],          numbers[5], numbers[6]};
    return 1;
}

int train_log_open(train_log *log, const char *path, int64_t last) {
    char line[LINE_ROOM];
    train_row row;
    int code = CODE_DONE;
    FILE *file = fopen(path, "rbe");
    if (!file) return CODE_DONE;
    while (!code && fgets(line, sizeof line, file))
        if (read_line(line, &row) && row.step <= last) code = train_log_add(log, &row);
    fclose(file);
    return code;
}

int train_log_save(const train_log *log, const char *path) {
    staged_file file = {0};
    int code;
    TRY(staged_begin(&file, path, 1));
    fputs(header, file.out);
    for (size_t i = 0; i < log->count; i++) {
        const train_row *r = &log->rows[i];
        fprintf(file.out, "%lld,%.17g,%.17g,%.17g,%.17g,%.17g,%.17g\n", (long long)r->step, r->loss,
                r->next_token, r->divergence, r->norm, r->learning_rate, r->seconds);
    }
    TRY(staged_commit(&file));
done:
    staged_end(&file);
    return code;
}

/* About TICKS round values between least and most. */
static double tick_step(double range) {
    double step = pow(10, floor(log10(range / TICKS)));
    while (range / step > 2 * TICKS) step *= 2.5;
    return range / step > TICKS ? 2 * step : step;
}

static void put_ticks(const svg_chart *chart, const svg_axis *axis,
                      void (*tick)(const svg_chart *, double, const char *)) {
    double step = tick_step(axis->most - axis->least);
    for (double at = ceil(axis->least / step) * step; at <= axis->most; at += step) {
        char text[32];
        snprintf(text, sizeof text, "%.*f", step < 1 ? (int)ceil(-log10(step)) : 0, at);
        tick(chart, at, text);
    }
}

int train_log_draw(const train_log *log, const char *path) {
    staged_file file = {0};
    svg_chart chart = {.x = {.least = 0, .label = "step"}, .y = {.least = 0, .label = "loss"}};
    int code = CODE_DONE;
    if (log->count == 0) return CODE_DONE;
    chart.x.most = (double)log->rows[log->count - 1].step;
    chart.y.least = chart.y.most = log->rows[0].loss;
    for (size_t i = 1; i < log->count; i++) {
        chart.y.least = fmin(chart.y.least, log->rows[i].loss);
        chart.y.most = fmax(chart.y.most, log->rows[i].loss);
    }
    if (!(chart.y.most > chart.y.least)) chart.y.most = chart.y.least + 1;
    TRY(staged_begin(&file, path, 1));
    chart.out = file.out;
    chart.is_file = 1;
    svg_begin(&chart, "loss of each step");
    fputs("<style>text{font:9px sans-serif}path,line{fill:none;stroke:#888}"
          "polyline{fill:none;stroke:#06c}</style>\n",
          file.out);
    put_ticks(&chart, &chart.x, svg_tick_x);
    put_ticks(&chart, &chart.y, svg_tick_y);
    fputs("<polyline points=\"", file.out);
    for (size_t i = 0; i < log->count; i++)
        svg_point(&chart, (double)log->rows[i].step, log->rows[i].loss);
    fputs("\"/>\n", file.out);
    svg_end(&chart);
    TRY(staged_commit(&file));
done:
    staged_end(&file);
    return code;
}

void train_log_end(train_log *log) {
    free(log->rows);
    *log = (train_log){0};
}
