/* Statistics are taken from the beginning of a text, judgement from its end, so one long text
 * serves both. */
#include "cli/evals.h"

#include "cli/progress.h"

#include <stdlib.h>
#include <string.h>

enum { HELD_OUT = 10 }; /* a tenth */

/* The last windows only. */
static int load(token_list *tokens, const cli_evals *e, const text_reader *reader,
                const char *path) {
    size_t window = (size_t)e->window, most = (size_t)e->windows * window, skipped;
    int code;
    TRY(texts_read(tokens, reader, path));
    tokens->count -= tokens->count % window;
    if (tokens->count == 0)
        return report_fail(CODE_USAGE, "--eval: %s: expected at least one window of %zu tokens",
                           path, window);
    skipped = tokens->count > most ? tokens->count - most : 0;
    tokens->count -= skipped;
    memmove(tokens->ids, tokens->ids + skipped, tokens->count * sizeof *tokens->ids);
done:
    return code;
}

int evals_load(cli_evals *e, const lr_model *model, int32_t window) {
    text_reader reader;
    int code = CODE_DONE;
    e->window = texts_window(model, window);
    if (!e->texts.count) return CODE_DONE;
    e->tokens = calloc((size_t)e->texts.count, sizeof *e->tokens);
    if (!e->tokens) return report_nomem();
    TRY(texts_reader(&reader, model, e->field));
    for (int32_t i = 0; i < e->texts.count; i++)
        TRY(load(&e->tokens[i], e, &reader, e->texts.items[i]));
done:
    return code;
}

size_t evals_held_out(size_t count, int32_t window) {
    return count / HELD_OUT / (size_t)window * (size_t)window;
}

static int add(cli_evals *e, const char *path, token_list text) {
    size_t texts = (size_t)e->texts.count + 1;
    const char **items = realloc(e->texts.items, texts * sizeof *items);
    if (items) e->texts.items = items;
    token_list *tokens = realloc(e->tokens, texts * sizeof *tokens);
    if (tokens) e->tokens = tokens;
    if (!items || !tokens) {
        free(text.ids);
        return report_nomem();
    }
    items[texts - 1] = path;
    tokens[texts - 1] = text;
    e->texts.count = (int32_t)texts;
    return CODE_DONE;
}

int evals_add(cli_evals *e, const char *path, const int32_t *ids, size_t count) {
    size_t most = (size_t)e->windows * (size_t)e->window;
    token_list text = {.count = count < most ? count : most};
    text.ids = malloc(text.count * sizeof *text.ids);
    if (!text.ids) return report_nomem();
    memcpy(text.ids, ids + count - text.count, text.count * sizeof *text.ids);
    return add(e, path, text);
}

int evals_write(cli_evals *e, const lr_model *model, int32_t window, uint64_t seed) {
    token_list text = {0};
    int code;
    if (e->texts.count) return CODE_DONE;
    e->window = texts_window(model, window);
    TRY(texts_write(&text, model, seed, e->windows, e->window));
    return add(e, "self-text", text);
done:
    free(text.ids);
    return code;
}

static int put_pair(json_t *about, const char *key, double before, double after) {
    json_t *pair = json_object();
    int code;
    TRY(report_put(about, key, pair));
    TRY(report_real(pair, "before", before));
    TRY(report_real(pair, "after", after));
done:
    return code;
}

static int put(json_t *all, const char *path, const lr_eval_result *before,
               const lr_eval_result *after) {
    json_t *name = report_name(path), *about = json_object();
    int code = name && about ? CODE_DONE : report_nomem();
    TRY(code);
    TRY(report_count(about, "tokens", after->tokens));
    TRY(report_count(about, "windows", after->windows));
    TRY(put_pair(about, "perplexity", before->perplexity, after->perplexity));
    TRY(report_real(about, "kl", after->kl));
    TRY(report_real(about, "agreement", after->agreement));
    TRY(put_pair(about, "tokens_per_second", before->tokens_per_second, after->tokens_per_second));
    TRY(report_put(all, json_string_value(name), json_incref(about)));
done:
    json_decref(name);
    json_decref(about);
    return code;
}

int evals_judge(const cli_evals *e, int32_t index, const lr_model *model, const lr_model *reference,
                lr_eval_result *result) {
    lr_eval_opts opts;
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = e->window;
    opts.reference = reference;
    return report_status(
        lr_eval(result, model, e->tokens[index].ids, e->tokens[index].count, &opts), WHILE_WORKING);
}

json_t *evals_about(const json_t *evaluations, const char *path) {
    json_t *name = report_name(path);
    json_t *about = name ? json_object_get(evaluations, json_string_value(name)) : NULL;
    json_decref(name);
    return about;
}

/* How far the source was from the teacher, and how good the teacher is. */
static int put_teacher(const cli_evals *e, int32_t index, json_t *about,
                       const lr_eval_result *source, const lr_model *teacher) {
    lr_eval_result found = {.size = sizeof found};
    int code;
    progress_stage("judge the teacher", 1);
    TRY(evals_judge(e, index, teacher, NULL, &found));
    TRY(report_real(about, "kl_before", source->kl));
    TRY(report_real(about, "agreement_before", source->agreement));
    TRY(report_real(about, "teacher_perplexity", found.perplexity));
done:
    return code;
}

int evals_run(const cli_evals *e, cli_job *job, const lr_model *before, const lr_model *after,
              const lr_model *teacher) {
    lr_eval_result source = {.size = sizeof source}, result = {.size = sizeof result};
    json_t *all = e->texts.count ? json_object() : NULL;
    int code = CODE_DONE;
    if (!e->texts.count) return CODE_DONE;
    TRY(report_put(job->result, "evaluations", all));
    for (int32_t i = 0; i < e->texts.count; i++) {
        progress_stage("judge the source", 1);
        TRY(evals_judge(e, i, before, teacher, &source));
        progress_stage("judge the result", 1);
        TRY(evals_judge(e, i, after, teacher ? teacher : before, &result));
        TRY(put(all, e->texts.items[i], &source, &result));
        if (teacher) TRY(put_teacher(e, i, evals_about(all, e->texts.items[i]), &source, teacher));
    }
done:
    return code;
}

static int put_alone(json_t *into, const char *path, const lr_eval_result *found, int is_beside) {
    json_t *name = report_name(path), *about = json_object();
    int code = name && about ? CODE_DONE : report_nomem();
    TRY(code);
    TRY(report_real(about, "perplexity", found->perplexity));
    if (is_beside) TRY(report_real(about, "kl", found->kl));
    if (is_beside) TRY(report_real(about, "agreement", found->agreement));
    TRY(report_put(into, json_string_value(name), json_incref(about)));
done:
    json_decref(name);
    json_decref(about);
    return code;
}

int evals_put(const cli_evals *e, const lr_model *model, const lr_model *reference, json_t *into) {
    int code = CODE_DONE;
    for (int32_t i = 0; i < e->texts.count; i++) {
        lr_eval_result found = {.size = sizeof found};
        progress_stage("judge", 1);
        TRY(evals_judge(e, i, model, reference, &found));
        TRY(put_alone(into, e->texts.items[i], &found, reference != NULL));
    }
done:
    return code;
}

void evals_end(cli_evals *e) {
    for (int32_t i = 0; e->tokens && i < e->texts.count; i++) free(e->tokens[i].ids);
    free(e->tokens);
    free(e->texts.items);
}
