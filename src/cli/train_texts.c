/* Texts are read whole before the first step: a name may be wrong, and windows begin anywhere. */
#include "cli/train_texts.h"

#include <stdlib.h>
#include <string.h>

enum {
    HELD_OUT = 10, /* the last 1/10 of a text judges when no --eval is given */
    USUAL_SELF_WINDOWS = 256
};

static int append(token_list *all, const token_list *more, size_t count, int32_t end) {
    int32_t *ids = realloc(all->ids, (all->count + count + 1) * sizeof *ids);
    if (!ids) return report_nomem();
    all->ids = ids;
    if (!count) return CODE_DONE;
    if (all->count && end >= 0) ids[all->count++] = end;
    memcpy(ids + all->count, more->ids, count * sizeof *ids);
    all->count += count;
    return CODE_DONE;
}

/* All but the end of a text is learnt from; its end judges. */
static int hold_out(const train_texts *t, cli_evals *evals, int32_t index, token_list *text,
                    size_t held) {
    size_t window = (size_t)evals->window, judged = (size_t)evals->windows * window;
    if (!held)
        return report_fail(CODE_USAGE,
                           "--text: %s: a tenth of its %zu tokens holds no window of "
                           "%zu to judge on, expected --eval",
                           t->files.items[index], text->count, window);
    if (judged > held) judged = held;
    memmove(text->ids, text->ids + text->count - judged, judged * sizeof *text->ids);
    text->count = judged;
    evals->tokens[index] = *text;
    *text = (token_list){0};
    return CODE_DONE;
}

static int make_evals(const train_texts *t, cli_evals *evals) {
    size_t count = (size_t)t->files.count;
    evals->texts.items = calloc(count, sizeof *evals->texts.items);
    evals->tokens = calloc(count, sizeof *evals->tokens);
    if (!evals->texts.items || !evals->tokens) return report_nomem();
    memcpy(evals->texts.items, t->files.items, count * sizeof *t->files.items);
    evals->texts.count = t->files.count;
    return CODE_DONE;
}

static int load_files(train_texts *t, cli_evals *evals, const lr_model *model, int holds_out) {
    text_reader reader;
    token_list text = {0};
    int code;
    TRY(texts_reader(&reader, model, t->field));
    for (int32_t i = 0; i < t->files.count; i++) {
        TRY(texts_read(&text, &reader, t->files.items[i]));
        size_t window = (size_t)evals->window;
        size_t held = holds_out ? text.count / HELD_OUT / window * window : 0;
        TRY(append(&t->tokens, &text, text.count - held, reader.end));
        if (holds_out) TRY(hold_out(t, evals, i, &text, held));
        free(text.ids);
        text = (token_list){0};
    }
done:
    free(text.ids);
    return code;
}

static int load_self(train_texts *t, const lr_model *model, const lr_model *writer) {
    token_list text = {0};
    int code;
    TRY(texts_write(&text, writer, TEXTS_SEED_LEARN, t->self_windows, texts_window(model, 0)));
    TRY(append(&t->tokens, &text, text.count, texts_end(model)));
done:
    free(text.ids);
    return code;
}

int train_texts_load(train_texts *t, cli_evals *evals, const lr_model *model,
                     const lr_model *writer) {
    int holds_out = t->files.count && !evals->texts.count, code = CODE_DONE;
    if (t->self_windows < 0) t->self_windows = t->files.count ? 0 : USUAL_SELF_WINDOWS;
    if (holds_out) TRY(make_evals(t, evals));
    if (t->files.count) TRY(load_files(t, evals, model, holds_out));
    if (t->self_windows) TRY(load_self(t, model, writer));
    if (!t->tokens.count)
        TRY(report_fail(CODE_USAGE, "--self-windows: 0 and no --text: nothing to learn from"));
done:
    return code;
}

void train_texts_end(train_texts *t) {
    free(t->tokens.ids);
    free(t->files.items);
}
