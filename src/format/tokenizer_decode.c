/* Ids to bytes. Byte-level spellings go back through the alphabet of bytes; SentencePiece's have ▁
 * for a space and <0xNN> for a byte, and the space that encoding put first is taken away. Decoders
 * of tokenizer.json that say something else are refused. */
#include "format/tokenizer_parts.h"

static int is_type(const json_t *value, const char *type) {
    return !strcmp(lr__part_type(value), type);
}

static int is_text(const json_t *value, const char *text) {
    return json_is_string(value) && !strcmp(json_string_value(value), text);
}

static int puts_spaces(const json_t *value) {
    return is_type(value, "Replace") &&
           is_text(json_object_get(json_object_get(value, "pattern"), "String"), LR__MARK) &&
           is_text(json_object_get(value, "content"), " ");
}

static int strips_spaces(const json_t *value) {
    int64_t start = json_integer_value(json_object_get(value, "start"));
    return is_type(value, "Strip") && is_text(json_object_get(value, "content"), " ") &&
           json_integer_value(json_object_get(value, "stop")) == 0 && start >= 0;
}

lr_status lr__decoder_from_json(lr__decoder *decoder, const json_t *value, const char *where) {
    const json_t *list = json_object_get(value, "decoders");
    const json_t *strip = json_array_get(list, 3);
    *decoder = (lr__decoder){.byte_level = is_type(value, "ByteLevel")};
    if (decoder->byte_level) return LR_OK;
    if (!is_type(value, "Sequence"))
        return lr__fail(LR_E_UNSUPPORTED, "%s: decoder \"%.80s\", expected ByteLevel or a Sequence",
                        where, lr__part_type(value));
    if (json_array_size(list) > 4 || !puts_spaces(json_array_get(list, 0)) ||
        !is_type(json_array_get(list, 1), "ByteFallback") ||
        !is_type(json_array_get(list, 2), "Fuse") || (strip && !strips_spaces(strip)))
        return lr__fail(LR_E_UNSUPPORTED,
                        "%s: decoder Sequence, expected Replace of \"" LR__MARK
                        "\" by a space, ByteFallback, Fuse, and Strip at the start or nothing",
                        where);
    decoder->strip = json_integer_value(json_object_get(strip, "start"));
    return LR_OK;
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int lr__byte_of_token(lr__text text) {
    if (text.size != 6 || memcmp(text.data, "<0x", 3) || text.data[5] != '>') return -1;
    int high = hex(text.data[3]), low = hex(text.data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Where decoded bytes go: counted always, written while they fit. */
typedef struct sink {
    char *text;
    size_t capacity, size;
    int64_t strip; /* spaces that may still be left out */
} sink;

static void put(sink *out, const char *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (out->strip-- > 0 && data[i] == ' ') continue;
        out->strip = 0;
        if (out->size < out->capacity) out->text[out->size] = data[i];
        out->size++;
    }
}

/* A spelling made only of the byte alphabet stands for bytes; any other for itself. */
static void put_byte_level(sink *out, lr__text spelling, int is_added) {
    sink start = *out;
    size_t bytes;
    for (size_t at = 0; at < spelling.size && !is_added; at += bytes) {
        int byte = lr__code_to_byte(lr__utf8_at(spelling.data + at, &bytes));
        char c = (char)byte;
        if (byte < 0)
            is_added = 1;
        else
            put(out, &c, 1);
    }
    if (!is_added) return;
    *out = start;
    put(out, spelling.data, spelling.size);
}

static void put_piece(sink *out, lr__text spelling) {
    int byte = lr__byte_of_token(spelling);
    char c = (char)byte;
    if (byte >= 0) {
        put(out, &c, 1);
        return;
    }
    for (size_t at = 0; at < spelling.size;) {
        int is_mark = lr__is_mark(spelling, at);
        put(out, is_mark ? " " : spelling.data + at, 1);
        at += is_mark ? LR__MARK_SIZE : 1;
    }
}

lr_status lr_tokenizer_decode(const lr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                              int32_t skip_special, char *text, size_t capacity, size_t *bytes) {
    if (!tokenizer || !bytes || (!ids && count) || (!text && capacity))
        return lr__fail(LR_E_INVALID, "lr_tokenizer_decode: tokenizer, bytes, ids or text is NULL");
    const lr__vocabulary *vocabulary = &tokenizer->vocabulary;
    sink out = {text, capacity, 0, tokenizer->decoder.strip};
    *bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= vocabulary->size)
            return lr__fail(LR_E_INVALID, "id %zu is %d, expected 0 to %d", i, ids[i],
                            vocabulary->size - 1);
        uint32_t flags = vocabulary->tokens[ids[i]].flags;
        if (!flags || (skip_special && flags & LR__SPECIAL)) continue;
        lr__text spelling = lr__vocabulary_text(vocabulary, ids[i]);
        if (tokenizer->decoder.byte_level)
            put_byte_level(&out, spelling, !!(flags & LR__ADDED));
        else
            put_piece(&out, spelling);
    }
    *bytes = out.size;
    return LR_OK;
}
