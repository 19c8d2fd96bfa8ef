/* Text escaped for element content and quoted attributes alike, and numbers. */
#include "cli/html.h"

#include <math.h>

void html_text(FILE *out, const char *text) {
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '&')
            fputs("&amp;", out);
        else if (*c == '<')
            fputs("&lt;", out);
        else if (*c == '>')
            fputs("&gt;", out);
        else if (*c == '"')
            fputs("&quot;", out);
        else if (*c == '\'')
            fputs("&#39;", out);
        else if (*c < 0x20 || *c == 0x7F)
            fputs("\xEF\xBF\xBD", out);
        else
            fputc(*c, out);
    }
}

void html_count(FILE *out, int64_t value) {
    char digits[32];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)value);
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0 && digits[i - 1] != '-') fputc(',', out);
        fputc(digits[i], out);
    }
}

void html_bytes(FILE *out, int64_t value) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double size = (double)value;
    size_t unit = 0;
    for (; size >= 1024 && unit < 5; unit++) size /= 1024;
    fprintf(out, unit ? "%.1f %s" : "%.0f %s", size, units[unit]);
}

void html_hundredths(FILE *out, double share, int digits) {
    double value = share * 100;
    int lead = value > 0 ? (int)floor(log10(value)) : 0, decimals = digits - 1 - lead;
    fprintf(out, "%.*f", decimals < 0 ? 0 : decimals > 12 ? 12 : decimals, value);
}

void html_percent(FILE *out, double share, int digits) {
    html_hundredths(out, share, digits);
    fputs(" %", out);
}

void html_real(FILE *out, double value) {
    if (fabs(value) >= 1000 && fabs(value) < 1e15)
        html_count(out, (int64_t)llround(value));
    else
        fprintf(out, "%.4g", value);
}
