/* Texts are read whole before the first step: a name may be wrong, and windows begin anywhere. */
#include "cli/train_texts.h"

#include <stdlib.h>
#include <string.h>

enum { USUAL_SELF_WINDOWS = 256 };

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
static int hold_out(const train_texts *t, cli_evals *evals, int32_t index, const token_list *text,
                    size_t held) {
    if (!held)
        return report_fail(CODE_USAGE,
                           "--text: %s: a tenth of its %zu tokens holds no window of "
                           "%d to judge on, expected --eval",
                           t->files.items[index], text->count, evals->window);
    return evals_add(evals, t->files.items[index], text->ids + text->count - held, held);
}

static int load_files(train_texts *t, cli_evals *evals, const lr_model *model, int holds_out) {
    text_reader reader;
    token_list text = {0};
    int code;
    TRY(texts_reader(&reader, model, t->field));
    for (int32_t i = 0; i < t->files.count; i++) {
        TRY(texts_read(&text, &reader, t->files.items[i]));
        size_t held = holds_out ? evals_held_out(text.count, evals->window) : 0;
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
