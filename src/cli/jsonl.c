/* A line is parsed by itself, so what is wrong has a line number, and no file is too long. */
#include "cli/jsonl.h"

#include <stdlib.h>
#include <string.h>

enum { LINE_MOST = 64 << 20 };

typedef struct lines {
    const text_reader *reader;
    const char *path, *field;
    size_t line; /* 1 for the first */
    token_list text, *all;
    size_t room;
} lines;

int jsonl_is_named(const char *path) {
    size_t length = strlen(path);
    return length > 6 && !strcmp(path + length - 6, ".jsonl");
}

/* Jansson quotes the file behind "near", whatever bytes it has. */
static int complain(const lines *l, json_error_t *where) {
    char *quoted = strstr(where->text, " near ");
    if (quoted) *quoted = '\0';
    return report_fail(CODE_INPUT, "%s:%zu: no JSON object: %s at byte %d", l->path, l->line,
                       where->text, where->position);
}

static int append_text(lines *l) {
    token_list *all = l->all;
    size_t wanted = all->count + l->text.count + 1;
    if (wanted > l->room) {
        size_t room = wanted > 2 * l->room ? wanted : 2 * l->room;
        int32_t *ids = room > SIZE_MAX / sizeof *ids ? NULL : realloc(all->ids, room * sizeof *ids);
        if (!ids) return report_nomem();
        all->ids = ids;
        l->room = room;
    }
    if (all->count && l->reader->end >= 0) all->ids[all->count++] = l->reader->end;
    memcpy(all->ids + all->count, l->text.ids, l->text.count * sizeof *all->ids);
    all->count += l->text.count;
    return CODE_DONE;
}

static int take_line(lines *l, const char *bytes, size_t count) {
    json_error_t where;
    int code = CODE_DONE;
    json_t *object = json_loadb(bytes, count, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &where);
    if (!object) return complain(l, &where);
    const json_t *text = json_object_get(object, l->field);
    if (!json_is_string(text))
        TRY(report_fail(CODE_INPUT,
                        "%s:%zu: no string of the name \"%s\"; --field says which one is the text",
                        l->path, l->line, l->field));
    if (!json_string_length(text)) goto done;
    TRY(texts_encode(&l->text, l->reader->tokenizer, json_string_value(text),
                     json_string_length(text)));
    if (l->text.count) TRY(append_text(l));
done:
    json_decref(object);
    return code;
}

static int is_blank(const char *bytes, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!strchr(" \t\r", bytes[i]) || !bytes[i]) return 0;
    return 1;
}

int jsonl_encode(token_list *out, const text_reader *reader, const char *path, const char *bytes,
                 size_t count) {
    lines l = {.reader = reader, .path = path, .all = out};
    int code = CODE_DONE;
    l.field = reader->field ? reader->field : "text";
    for (size_t at = 0, length; at < count; at += length + 1) {
        const char *end = memchr(bytes + at, '\n', count - at);
        length = end ? (size_t)(end - (bytes + at)) : count - at;
        l.line++;
        if (length > LINE_MOST)
            TRY(report_fail(CODE_INPUT, "%s:%zu: a line of %zu bytes, expected at most %d", path,
                            l.line, length, LINE_MOST));
        if (!is_blank(bytes + at, length)) TRY(take_line(&l, bytes + at, length));
    }
    if (!out->count) TRY(report_fail(CODE_INPUT, "%s: no text in %zu lines", path, l.line));
done:
    free(l.text.ids);
    return code;
}
