/* Pieces of a page: escaped text and numbers that read the same everywhere. Failures stay in the
 * stream, for whoever closes it. */
#ifndef LR_CLI_HTML_H
#define LR_CLI_HTML_H

#include <stdint.h>
#include <stdio.h>

/* UTF-8 as text or as an attribute's value; control characters become U+FFFD. */
void html_text(FILE *out, const char *text);
/* Thousands separated by commas. */
void html_count(FILE *out, int64_t value);
/* "92.1 MiB". */
void html_bytes(FILE *out, int64_t value);
/* A share in per cent with that many significant digits, never with an exponent: 0.0512 is
 * "5.1 %". */
void html_percent(FILE *out, double share, int digits);
/* The same without the sign. */
void html_hundredths(FILE *out, double share, int digits);
/* Significant digits, with commas from 1,000 on. */
void html_real(FILE *out, double value);

#endif
