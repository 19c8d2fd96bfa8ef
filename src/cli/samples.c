/* Each text as a whole counts with its weight, whatever its length. All files are read before the
 * model runs, since that takes long and a name may be wrong. */
#include "cli/samples.h"

#include "cli/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SELF_TEXT_SEED = 0 }; /* 1 is kept for judging */

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

static int load(sample_text *item, const cli_samples *s, int is_quiet,
                const lr_tokenizer *tokenizer) {
    size_t window = (size_t)s->window, most = (size_t)s->samples;
    int code;
    TRY(texts_load(&item->tokens, tokenizer, item->path));
    size_t held = item->tokens.count / window;
    if (held == 0)
        return report_fail(CODE_USAGE,
                           "%s: %zu tokens, expected at least one window of %zu; a smaller "
                           "--window or a longer text will do",
                           item->path, item->tokens.count, window);
    if (held < most && !is_quiet) {
        char line[4400];
        snprintf(line, sizeof line, "%s holds %zu of %zu samples", item->path, held, most);
        report_log(LR_LOG_INFO, line, NULL);
    }
    item->tokens.count = (held < most ? held : most) * window;
done:
    return code;
}

static int put_text(json_t *texts, const sample_text *item, int32_t window) {
    json_t *text = json_object();
    int code;
    if (json_array_append_new(texts, text)) return report_nomem();
    TRY(report_put(text, "text", report_text(item->path, strlen(item->path))));
    TRY(report_real(text, "weight", item->weight));
    TRY(report_count(text, "windows", (int64_t)(item->tokens.count / (size_t)window)));
done:
    return code;
}

static int collect_files(cli_samples *s, json_t *result, lr_stats *stats) {
    json_t *texts = json_array();
    int code = texts ? report_put(result, "texts", texts) : report_nomem();
    for (int32_t i = 0; i < s->texts.count && !code; i++) {
        sample_text *item = &s->items[i];
        const char *base = strrchr(item->path, '/');
        char label[48];
        snprintf(label, sizeof label, "collect %s", base ? base + 1 : item->path);
        progress_stage(label, 1);
        TRY(report_status(
            lr_stats_collect(stats, item->tokens.ids, item->tokens.count, s->window, item->weight),
            WHILE_WORKING));
        TRY(put_text(texts, item, s->window));
        free(item->tokens.ids);
        item->tokens.ids = NULL;
    }
done:
    return code;
}

static int collect_self(const cli_samples *s, json_t *result, const lr_model *model,
                        lr_stats *stats) {
    token_list text = {0};
    json_t *about = json_object();
    int code = about ? CODE_DONE : report_nomem();
    if (code) goto done;
    TRY(texts_write(&text, model, SELF_TEXT_SEED, s->samples, s->window));
    progress_stage("collect self-text", 1);
    TRY(report_status(lr_stats_collect(stats, text.ids, text.count, s->window, s->self_weight),
                      WHILE_WORKING));
    TRY(report_real(about, "weight", s->self_weight));
    TRY(report_count(about, "windows", s->samples));
    TRY(report_put(result, "self_text", json_incref(about)));
done:
    free(text.ids);
    json_decref(about);
    return code;
}

int samples_collect(cli_samples *s, cli_job *job, const lr_model *model, lr_stats **out) {
    const lr_tokenizer *tokenizer;
    lr_stats_opts opts;
    int code;
    s->window = texts_window(model, s->window);
    lr_stats_opts_init(&opts, sizeof opts);
    if (s->match) opts.pattern = s->match;
    opts.exact = s->exact;
    TRY(texts_tokenizer(model, &tokenizer));
    for (int32_t i = 0; i < s->texts.count; i++) TRY(load(&s->items[i], s, job->quiet, tokenizer));
    TRY(report_status(lr_stats_new(out, model, &opts), WHILE_WORKING));
    TRY(collect_files(s, job->result, *out));
    if (s->self_weight > 0) TRY(collect_self(s, job->result, model, *out));
    TRY(report_count(job->result, "tokens", lr_stats_tokens(*out)));
done:
    return code;
}

void samples_end(cli_samples *s) {
    for (int32_t i = 0; s->items && i < s->texts.count; i++) {
        free(s->items[i].path);
        free(s->items[i].tokens.ids);
    }
    free(s->items);
    free(s->texts.items);
}
