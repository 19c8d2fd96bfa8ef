/* Files are read whole, NULs and all; pipes too. */
#include "cli/texts.h"

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

int texts_load(token_list *out, const lr_tokenizer *tokenizer, const char *path) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = fopen(path, "rbe");
    if (!file) return report_fail(CODE_INPUT, "%s: cannot open: %s", path, strerror(errno));
    int code = read_all(&text, &bytes, file, path);
    fclose(file);
    if (!code) code = texts_encode(out, tokenizer, text, bytes);
    free(text);
    return code;
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
