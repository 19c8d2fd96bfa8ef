/* Charts of one size: the page lays them out and scales them, so text stays near its nominal size.
 * Coordinates have one decimal, a tenth of a pixel. */
#include "cli/svg.h"

#include "cli/html.h"

#include <math.h>

enum { WIDTH = 300, HEIGHT = 216, LEFT = 52, RIGHT = 290, TOP = 10, BOTTOM = 172 };

void svg_begin(svg_chart *chart, const char *name) {
    FILE *out = chart->out;
    chart->x.from = LEFT;
    chart->x.to = RIGHT;
    chart->y.from = BOTTOM;
    chart->y.to = TOP;
    fprintf(out, "<svg%s viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"",
            chart->is_file ? " xmlns=\"http://www.w3.org/2000/svg\"" : "", WIDTH, HEIGHT);
    html_text(out, name);
    fputs("\">\n", out);
    fprintf(out, "<text class=\"axis\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
            (LEFT + RIGHT) / 2, HEIGHT - 10);
    html_text(out, chart->x.label);
    fprintf(out,
            "</text>\n<text class=\"axis\" transform=\"translate(10 %d) rotate(-90)\" "
            "text-anchor=\"middle\">",
            (TOP + BOTTOM) / 2);
    html_text(out, chart->y.label);
    fputs("</text>\n", out);
}

void svg_end(const svg_chart *chart) {
    fprintf(chart->out, "<path class=\"frame\" d=\"M%d %dV%dH%d\"/>\n</svg>\n", LEFT, TOP, BOTTOM,
            RIGHT);
}

double svg_place(const svg_axis *axis, double value) {
    double share = (value - axis->least) / (axis->most - axis->least);
    share = fmin(fmax(share, 0), 1);
    return axis->from + share * (axis->to - axis->from);
}

void svg_tick_x(const svg_chart *chart, double value, const char *text) {
    double x = svg_place(&chart->x, value);
    fprintf(chart->out,
            "<path class=\"grid\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"%d\" "
            "text-anchor=\"middle\">",
            x, TOP, BOTTOM + 4, x, BOTTOM + 17);
    html_text(chart->out, text);
    fputs("</text>\n", chart->out);
}

void svg_tick_y(const svg_chart *chart, double value, const char *text) {
    double y = svg_place(&chart->y, value);
    fprintf(chart->out,
            "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" "
            "text-anchor=\"end\">",
            LEFT - 4, y, RIGHT, LEFT - 7, y + 3.5);
    html_text(chart->out, text);
    fputs("</text>\n", chart->out);
}

void svg_point(const svg_chart *chart, double x, double y) {
    fprintf(chart->out, "%.1f,%.1f ", svg_place(&chart->x, x), svg_place(&chart->y, y));
}
