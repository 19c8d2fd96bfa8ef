/* UTF-8, classes of characters and the byte-level alphabet. */
#include "format/tokenizer_parts.h"

#include <string.h>

const lr__range *lr__range_find(const lr__range *ranges, size_t count, uint32_t code) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ranges[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && ranges[low].first <= code ? &ranges[low] : NULL;
}

static int case_in(const lr__range *range, uint32_t code) {
    uint32_t odd = (code - range->first) & 1;
    if (range->class == LR__UPPER_FIRST) return odd ? LR__LOWER : LR__UPPER;
    if (range->class == LR__LOWER_FIRST) return odd ? LR__UPPER : LR__LOWER;
    return (int)range->class;
}

int lr__class_of(uint32_t code) {
    const lr__range *range = lr__range_find(lr__class_ranges, lr__class_range_count, code);
    const lr__range *letters = lr__range_find(lr__case_ranges, lr__case_range_count, code);
    return (range ? (int)range->class : 0) | (letters ? case_in(letters, code) : 0);
}

void lr__classes_fill(lr__classes *classes) {
    memset(classes->plane0, 0, sizeof classes->plane0);
    for (size_t i = 0; i < lr__class_range_count; i++) {
        const lr__range *range = &lr__class_ranges[i];
        if (range->first > 0xffff) break;
        uint32_t last = range->last < 0xffff ? range->last : 0xffff;
        memset(classes->plane0 + range->first, (int)range->class, last - range->first + 1);
    }
    for (size_t i = 0; i < lr__case_range_count; i++) {
        const lr__range *range = &lr__case_ranges[i];
        for (uint32_t code = range->first; code <= range->last && code <= 0xffff; code++)
            classes->plane0[code] |= (unsigned char)case_in(range, code);
    }
}

/* Bytes of the character at t; minus the length of the maximal invalid part when there is none
 * (Unicode Standard 3.9, table 3-7). */
static int32_t character(const unsigned char *t, size_t left) {
    unsigned char first = t[0], low = 0x80, high = 0xbf;
    int32_t length = first < 0x80 ? 1 : first < 0xc2 ? -1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (first > 0xf4 || length < 0) return -1;
    if (first == 0xe0) low = 0xa0;
    if (first == 0xed) high = 0x9f;
    if (first == 0xf0) low = 0x90;
    if (first == 0xf4) high = 0x8f;
    for (int32_t i = 1; i < length; i++, low = 0x80, high = 0xbf)
        if ((size_t)i >= left || t[i] < low || t[i] > high) return -i;
    return length;
}

/* Length of the valid beginning. */
static size_t valid_size(const char *text, size_t size) {
    size_t at = 0;
    while (at < size) {
        uint64_t word;
        while (size - at >= sizeof word) {
            memcpy(&word, text + at, sizeof word);
            if (word & 0x8080808080808080u) break;
            at += sizeof word;
        }
        if (at == size) break;
        int32_t length = character((const unsigned char *)text + at, size - at);
        if (length < 0) break;
        at += (size_t)length;
    }
    return at;
}

int lr__utf8_is_valid(const char *text, size_t size) { return valid_size(text, size) == size; }

lr_status lr__utf8_repair(char **out, size_t *out_size, const char *text, size_t size) {
    size_t capacity = 0, used = 0;
    *out = NULL;
    for (size_t at = 0; at < size;) {
        size_t good = valid_size(text + at, size - at);
        lr_status status = lr__grow(out, &capacity, used + good + 3, 1);
        if (status < 0) {
            lr__free(*out);
            *out = NULL;
            return status;
        }
        memcpy(*out + used, text + at, good);
        used += good;
        at += good;
        if (at == size) break;
        memcpy(*out + used, "\xef\xbf\xbd", 3);
        used += 3;
        at += (size_t)-character((const unsigned char *)text + at, size - at);
    }
    *out_size = used;
    return LR_OK;
}

static int is_printable(uint32_t code) {
    return (code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code <= 0xac) ||
           (code >= 0xae && code <= 0xff);
}

/* Bytes that print stand for themselves; the others, in order, for U+0100 and up: 0x00 to 0x20,
 * 0x7f to 0xa0, 0xad (Radford et al., "Language models are unsupervised multitask learners"). */
uint32_t lr__byte_to_code(int byte) {
    uint32_t code = (uint32_t)byte;
    if (is_printable(code)) return code;
    if (code <= 0x20) return 0x100 + code;
    return code == 0xad ? 0x143 : 0x121 + code - 0x7f;
}

int lr__code_to_byte(uint32_t code) {
    if (is_printable(code)) return (int)code;
    if (code < 0x100 || code > 0x143) return -1;
    if (code <= 0x120) return (int)(code - 0x100);
    return code == 0x143 ? 0xad : (int)(code - 0x121 + 0x7f);
}
