/* Each text as a whole counts with its weight, whatever its length. All files are read before the
 * model runs, since that takes long and a name may be wrong. */
#include "cli/samples.h"

#include "cli/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "FILE:WEIGHT": the last colon before a number splits. */
static int split_weight(sample_text *item, const char *given) {
    const char *colon = strrchr(given, ':');
    item->weight = 1;
    item->path = strdup(given);
    if (!item->path) return report_nomem();
    if (!colon || !args_number(colon + 1, &item->weight)) return CODE_DONE;
    item->path[colon - given] = '\0';
    if (!(item->weight > 0))
        return report_fail(CODE_USAGE, "--text: %s: weight %s, expected a number above 0",
                           item->path, colon + 1);
    if (!*item->path)
        return report_fail(CODE_USAGE, "--text: %s, expected a file before the colon", given);
    return CODE_DONE;
}

int samples_check(cli_samples *s) {
    int code = CODE_DONE;
    if (s->texts.count == 0 && s->self_weight <= 0)
        return report_fail(CODE_USAGE, "--self-text: 0 and no --text: nothing to learn from");
    if (s->texts.count == 0) return CODE_DONE;
    s->items = calloc((size_t)s->texts.count, sizeof *s->items);
    if (!s->items) return report_nomem();
    for (int32_t i = 0; i < s->texts.count && !code; i++)
        code = split_weight(&s->items[i], s->texts.items[i]);
    return code;
}

static int load(sample_text *item, const cli_samples *s, int is_quiet, const text_reader *reader) {
    size_t window = (size_t)s->window, most = (size_t)s->samples;
    int code;
    TRY(texts_read(&item->tokens, reader, item->path));
    size_t windows = item->tokens.count / window;
    if (windows == 0)
        return report_fail(CODE_USAGE,
                           "%s: %zu tokens, expected at least one window of %zu; a smaller "
                           "--window or a longer text will do",
                           item->path, item->tokens.count, window);
    item->held = s->holds_out ? evals_held_out(windows * window, s->window) : 0;
    item->held_at = windows * window - item->held;
    windows -= item->held / window;
    if (windows < most && !is_quiet) {
        char line[4400];
        snprintf(line, sizeof line, "%s holds %zu of %zu samples", item->path, windows, most);
        report_log(LR_LOG_INFO, line, NULL);
    }
    item->tokens.count = (windows < most ? windows : most) * window;
done:
    return code;
}

static int put_text(json_t *texts, const sample_text *item, int32_t window) {
    json_t *text = json_object();
    int code;
    if (json_array_append_new(texts, text)) return report_nomem();
    TRY(report_put(text, "text", report_name(item->path)));
    TRY(report_real(text, "weight", item->weight));
    TRY(report_count(text, "windows", (int64_t)(item->tokens.count / (size_t)window)));
done:
    return code;
}

/* The text that comes next in `whole`. */
static void add_whole(cli_samples *s, const token_list *tokens, double weight) {
    lr_text text = {.ids = tokens->ids,
                    .count = tokens->count / (size_t)s->window * (size_t)s->window,
                    .weight = weight,
                    .window = s->window};
    s->whole[s->count++] = text;
}

static int load_files(cli_samples *s, cli_job *job, const text_reader *reader) {
    json_t *texts = json_array();
    int code = texts ? report_put(job->result, "texts", texts) : report_nomem();
    for (int32_t i = 0; i < s->texts.count && !code; i++) {
        sample_text *item = &s->items[i];
        TRY(load(item, s, job->quiet, reader));
        TRY(put_text(texts, item, s->window));
        add_whole(s, &item->tokens, item->weight);
    }
done:
    return code;
}

static int load_self(cli_samples *s, json_t *result, const lr_model *model) {
    json_t *about = json_object();
    int code = about ? CODE_DONE : report_nomem();
    if (code) goto done;
    TRY(texts_write(&s->written, model, TEXTS_SEED_LEARN, s->samples, s->window));
    TRY(report_real(about, "weight", s->self_weight));
    TRY(report_count(about, "windows", s->samples));
    TRY(report_put(result, "self_text", json_incref(about)));
    add_whole(s, &s->written, s->self_weight);
done:
    json_decref(about);
    return code;
}

int samples_load(cli_samples *s, cli_job *job, const lr_model *model) {
    text_reader reader;
    int64_t tokens = 0;
    int code;
    s->window = texts_window(model, s->window);
    s->whole = calloc((size_t)s->texts.count + 1, sizeof *s->whole);
    if (!s->whole) return report_nomem();
    TRY(texts_reader(&reader, model, NULL));
    TRY(load_files(s, job, &reader));
    if (s->self_weight > 0) TRY(load_self(s, job->result, model));
    for (int32_t i = 0; i < s->count; i++) tokens += (int64_t)s->whole[i].count;
    TRY(report_count(job->result, "tokens", tokens));
done:
    return code;
}

/* What the progress of a text is called. */
static void name_stage(const cli_samples *s, int32_t which) {
    char label[48] = "collect self-text";
    if (which < s->texts.count) {
        const char *path = s->items[which].path, *base = strrchr(path, '/');
        snprintf(label, sizeof label, "collect %s", base ? base + 1 : path);
    }
    progress_stage(label, 1);
}

int samples_count(const cli_samples *s, const lr_model *model, lr_stats **out) {
    lr_stats_opts opts;
    int code;
    lr_stats_opts_init(&opts, sizeof opts);
    if (s->match) opts.pattern = s->match;
    opts.exact = s->exact;
    opts.gradients = s->gradients;
    TRY(report_status(lr_stats_new(out, model, &opts), WHILE_WORKING));
    for (int32_t i = 0; i < s->count; i++) {
        const lr_text *text = &s->whole[i];
        size_t most = (size_t)s->counted * (size_t)s->window;
        size_t count = most && most < text->count ? most : text->count;
        name_stage(s, i);
        TRY(report_status(lr_stats_collect(*out, text->ids, count, text->window, text->weight),
                          WHILE_WORKING));
    }
done:
    return code;
}

int samples_hold_out(const cli_samples *s, cli_evals *evals) {
    int code = CODE_DONE;
    for (int32_t i = 0; i < s->texts.count && !code; i++) {
        const sample_text *item = &s->items[i];
        if (item->held)
            code = evals_add(evals, item->path, item->tokens.ids + item->held_at, item->held);
    }
    return code;
}

int samples_collect(cli_samples *s, cli_job *job, const lr_model *model, lr_stats **out) {
    int code = samples_load(s, job, model);
    return code ? code : samples_count(s, model, out);
}

void samples_end(cli_samples *s) {
    for (int32_t i = 0; s->items && i < s->texts.count; i++) {
        free(s->items[i].path);
        free(s->items[i].tokens.ids);
    }
    free(s->items);
    free(s->written.ids);
    free(s->whole);
    free(s->texts.items);
}
