/* A small chart in SVG: two axes with ticks, and what lies between them. */
#ifndef LR_CLI_SVG_H
#define LR_CLI_SVG_H

#include <stdint.h>
#include <stdio.h>

typedef struct svg_axis {
    double least, most; /* of the data */
    double from, to;    /* of the drawing, where they go */
    const char *label;
} svg_axis;

typedef struct svg_chart {
    FILE *out;
    svg_axis x, y;
    int is_file; /* a file of its own, not a part of a page */
} svg_chart;

/* Opens the drawing: `name` is read to those who cannot see it, the labels stand on the axes. */
void svg_begin(svg_chart *chart, const char *name);
void svg_end(const svg_chart *chart);

/* A grid line and its text. */
void svg_tick_x(const svg_chart *chart, double value, const char *text);
void svg_tick_y(const svg_chart *chart, double value, const char *text);

/* Where a value is drawn, kept within the axis. */
double svg_place(const svg_axis *axis, double value);
/* "x,y " of a polyline. */
void svg_point(const svg_chart *chart, double x, double y);

#endif
