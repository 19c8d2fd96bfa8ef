/* Files are read whole, NULs and all; pipes too. */
#include "cli/texts.h"

#include "cli/jsonl.h"
#include "cli/progress.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 1 << 16, USUAL_WINDOW = 512 };

static int read_all(char **text, size_t *bytes, FILE *file, const char *path) {
    size_t room = 0;
    do {
        room = room ? room * 2 : FIRST_ROOM;
        char *larger = room ? realloc(*text, room) : NULL;
        if (!larger) return report_nomem();
        *text = larger;
        *bytes += fread(*text + *bytes, 1, room - *bytes, file);
        if (ferror(file))
            return report_fail(CODE_INPUT, "%s: cannot read: %s", path, strerror(errno));
    } while (*bytes == room);
    if (*bytes == 0) return report_fail(CODE_INPUT, "%s: empty, expected a text", path);
    return CODE_DONE;
}

static int load(char **text, size_t *bytes, const char *path) {
    FILE *file = fopen(path, "rbe");
    if (!file) return report_fail(CODE_INPUT, "%s: cannot open: %s", path, strerror(errno));
    int code = read_all(text, bytes, file, path);
    fclose(file);
    return code;
}

int texts_load(token_list *out, const lr_tokenizer *tokenizer, const char *path) {
    char *text = NULL;
    size_t bytes = 0;
    int code = load(&text, &bytes, path);
    if (!code) code = texts_encode(out, tokenizer, text, bytes);
    free(text);
    return code;
}

int texts_reader(text_reader *reader, const lr_model *model, const char *field) {
    *reader = (text_reader){.field = field, .end = texts_end(model)};
    return texts_tokenizer(model, &reader->tokenizer);
}

int texts_read(token_list *out, const text_reader *reader, const char *path) {
    char *text = NULL;
    size_t bytes = 0;
    int code;
    if (!jsonl_is_named(path)) return texts_load(out, reader->tokenizer, path);
    TRY(load(&text, &bytes, path));
    TRY(jsonl_encode(out, reader, path, text, bytes));
done:
    free(text);
    return code;
}

/* eos_token_id of the configuration: a number or several, of which the first is taken. */
int32_t texts_end(const lr_model *model) {
    json_t *config = json_loads(lr_model_config(model), 0, NULL);
    const json_t *eos = json_object_get(config, "eos_token_id");
    lr_model_info info = {.size = sizeof info};
    if (json_is_array(eos)) eos = json_array_get(eos, 0);
    json_int_t id = json_is_integer(eos) ? json_integer_value(eos) : -1;
    lr_model_get_info(model, &info);
    json_decref(config);
    return id >= 0 && id < info.vocabulary_size ? (int32_t)id : -1;
}

/* Ids are rarely more than bytes, and then the second turn has the room they need. */
int texts_encode(token_list *out, const lr_tokenizer *tokenizer, const char *text, size_t bytes) {
    size_t room = 0;
    int code = CODE_DONE;
    for (out->count = bytes ? bytes : 1; out->count > room && !code;) {
        room = out->count;
        int32_t *ids = room > SIZE_MAX / sizeof *ids ? NULL : realloc(out->ids, room * sizeof *ids);
        if (!ids) return report_nomem();
        out->ids = ids;
        code =
            report_status(lr_tokenizer_encode(tokenizer, text, bytes, out->ids, room, &out->count),
                          WHILE_WORKING);
    }
    int32_t *tight = code || !out->count ? NULL : realloc(out->ids, out->count * sizeof *out->ids);
    if (tight) out->ids = tight;
    return code;
}

int texts_decode(char **text, size_t *bytes, const lr_tokenizer *tokenizer, const int32_t *ids,
                 size_t count) {
    int code;
    *text = NULL;
    TRY(report_status(lr_tokenizer_decode(tokenizer, ids, count, 1, NULL, 0, bytes),
                      WHILE_WORKING));
    *text = malloc(*bytes + 1);
    if (!*text) return report_nomem();
    TRY(report_status(lr_tokenizer_decode(tokenizer, ids, count, 1, *text, *bytes, bytes),
                      WHILE_WORKING));
done:
    return code;
}

/* FNV-1a over ids. */
uint64_t texts_hash(uint64_t hash, const token_list *tokens) {
    for (size_t i = 0; i < tokens->count; i++)
        hash = (hash ^ (uint32_t)tokens->ids[i]) * 1099511628211U;
    return hash;
}

int texts_tokenizer(const lr_model *model, const lr_tokenizer **out) {
    return report_status(lr_model_tokenizer(model, out), WHILE_READING);
}

int32_t texts_window(const lr_model *model, int32_t window) {
    lr_model_info info = {.size = sizeof info};
    if (window) return window;
    lr_model_get_info(model, &info);
    return info.context_length > 1 && info.context_length < USUAL_WINDOW ? info.context_length
                                                                         : USUAL_WINDOW;
}

int texts_write(token_list *out, const lr_model *model, uint64_t seed, int32_t windows,
                int32_t window) {
    enum { ROWS_AT_ONCE = 32 }; /* each with a progress of its own */
    out->count = (size_t)windows * (size_t)window;
    out->ids = calloc(out->count, sizeof *out->ids);
    if (!out->ids) return report_nomem();
    progress_stage("write self-text", (windows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE);
    return report_status(lr_self_text(model, seed, windows, window, out->ids), WHILE_WORKING);
}
