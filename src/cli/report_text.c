/* Bytes to UTF-8, as the Unicode standard recommends in section 3.9: one U+FFFD for each maximal
 * part of a character that never ends well. */
#include "cli/report.h"

#include <stdlib.h>
#include <string.h>

/* Range of the second byte after this first one, and how many follow; 0 when none can begin so. */
static size_t bytes_after(unsigned char first, unsigned char *least, unsigned char *most) {
    *least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    *most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (first >= 0xC2 && first <= 0xDF) return 1;
    if (first >= 0xE0 && first <= 0xEF) return 2;
    if (first >= 0xF0 && first <= 0xF4) return 3;
    return 0;
}

/* Bytes of the character or of the invalid part at `text`. */
static size_t part_bytes(const unsigned char *text, size_t count, int *valid) {
    unsigned char least, most;
    *valid = text[0] < 0x80;
    size_t after = *valid ? 0 : bytes_after(text[0], &least, &most), used = 1;
    for (; used <= after && used < count; used++) {
        if (text[used] < least || text[used] > most) return used;
        least = 0x80;
        most = 0xBF;
    }
    *valid |= after && used == after + 1;
    return used;
}

json_t *report_text(const char *bytes, size_t count) {
    char *text = malloc(count * 3 + 1); /* U+FFFD has three bytes */
    size_t used = 0;
    if (!text) return NULL;
    for (size_t i = 0; i < count;) {
        int valid;
        size_t part = part_bytes((const unsigned char *)bytes + i, count - i, &valid);
        memcpy(text + used, valid ? bytes + i : "\xEF\xBF\xBD", valid ? part : 3);
        used += valid ? part : 3;
        i += part;
    }
    json_t *value = json_stringn(text, used);
    free(text);
    return value;
}

json_t *report_name(const char *text) {
    return text ? report_text(text, strlen(text)) : json_null();
}
