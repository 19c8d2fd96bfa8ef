/* NFC (Unicode Standard Annex 15): decompose, order the marks of each run by combining class,
 * compose. Runs are ordered here by counting, so that a text of nothing but marks takes linear
 * time. Marks younger than the tables of the tokenizers package stay where they are and combine
 * with nothing, as there. */
#include "format/tokenizer_parts.h"

#include <string.h>
#include <utf8proc.h>

enum { MOST_DECOMPOSED = 8, SHORT_RUN = 24 };

typedef struct codes {
    utf8proc_int32_t *items;
    size_t count, capacity;
} codes;

static int class_of(utf8proc_int32_t code) {
    return utf8proc_get_property(code)->combining_class & 0xff;
}

static lr_status decompose(codes *out, lr__text text) {
    size_t bytes;
    for (size_t at = 0; at < text.size; at += bytes) {
        utf8proc_int32_t code = (utf8proc_int32_t)lr__utf8_at(text.data + at, &bytes);
        lr_status status =
            lr__grow(&out->items, &out->capacity, out->count + MOST_DECOMPOSED, sizeof *out->items);
        if (status < 0) return status;
        int unused = 0;
        utf8proc_ssize_t n = utf8proc_decompose_char(code, out->items + out->count, MOST_DECOMPOSED,
                                                     UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &unused);
        if (n < 0 || n > MOST_DECOMPOSED)
            return lr__fail(LR_E_UNSUPPORTED, "NFC: U+%04X does not decompose", (unsigned)code);
        out->count += (size_t)n;
    }
    return LR_OK;
}

static void order_short(utf8proc_int32_t *run, size_t count) {
    for (size_t i = 1; i < count; i++) {
        utf8proc_int32_t code = run[i];
        size_t at = i;
        for (; at && class_of(run[at - 1]) > class_of(code); at--) run[at] = run[at - 1];
        run[at] = code;
    }
}

static lr_status order_long(utf8proc_int32_t *run, size_t count) {
    size_t ends[257] = {0};
    utf8proc_int32_t *copy;
    lr_status status = lr__new(&copy, count, sizeof *copy);
    if (status < 0) return status;
    memcpy(copy, run, count * sizeof *copy);
    for (size_t i = 0; i < count; i++) ends[class_of(copy[i]) + 1]++;
    for (size_t i = 1; i < 257; i++) ends[i] += ends[i - 1];
    for (size_t i = 0; i < count; i++) run[ends[class_of(copy[i])]++] = copy[i];
    lr__free(copy);
    return LR_OK;
}

static lr_status order(codes *text) {
    for (size_t at = 0, end; at < text->count; at = end + 1) {
        for (end = at; end < text->count && class_of(text->items[end]);) end++;
        if (end - at <= SHORT_RUN) {
            order_short(text->items + at, end - at);
            continue;
        }
        lr_status status = order_long(text->items + at, end - at);
        if (status < 0) return status;
    }
    return LR_OK;
}

/* Appends the NFC of text to the buffer. */
static lr_status compose(lr__text text, codes *scratch, char **buffer, size_t *capacity,
                         size_t *used) {
    scratch->count = 0;
    lr_status status = decompose(scratch, text);
    if (status >= 0) status = order(scratch);
    if (status < 0 || !scratch->count) return status;
    utf8proc_ssize_t count = utf8proc_normalize_utf32(
        scratch->items, (utf8proc_ssize_t)scratch->count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (count < 0) return lr__fail(LR_E_UNSUPPORTED, "NFC: %s", utf8proc_errmsg(count));
    status = lr__grow(buffer, capacity, *used + 4 * (size_t)count, 1);
    if (status < 0) return status;
    for (utf8proc_ssize_t i = 0; i < count; i++)
        *used +=
            (size_t)utf8proc_encode_char(scratch->items[i], (utf8proc_uint8_t *)*buffer + *used);
    return LR_OK;
}

/* Nothing below U+0300 changes or combines. */
static int is_plain(lr__text text) {
    for (size_t i = 0; i < text.size; i++)
        if ((unsigned char)text.data[i] >= 0xcc) return 0;
    return 1;
}

lr_status lr__nfc(lr__text *out, char **buffer, size_t *capacity, lr__text text) {
    lr_status status;
    codes scratch = {0};
    *out = text;
    if (is_plain(text)) return LR_OK;
    size_t used = 0, start = 0, bytes;
    for (size_t at = 0; at < text.size; at += bytes) {
        uint32_t code = lr__utf8_at(text.data + at, &bytes);
        if (code < 0x700 || !lr__range_find(lr__young_marks, lr__young_mark_count, code)) continue;
        LR_TRY(
            compose((lr__text){text.data + start, at - start}, &scratch, buffer, capacity, &used));
        LR_TRY(lr__grow(buffer, capacity, used + bytes, 1));
        memcpy(*buffer + used, text.data + at, bytes);
        used += bytes;
        start = at + bytes;
    }
    LR_TRY(compose((lr__text){text.data + start, text.size - start}, &scratch, buffer, capacity,
                   &used));
    *out = (lr__text){*buffer, used};
done:
    lr__free(scratch.items);
    return status;
}
