/* A candidate is judged as compress and eval would: factors in a clone of the model, and the same
 * windows of every text for all candidates. */
#include "cli/choose.h"

#include "cli/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int load(held_text *held, const cli_choice *c, const text_reader *reader, const char *path) {
    int32_t most = c->windows > c->probe_windows ? c->windows : c->probe_windows;
    size_t window = (size_t)c->window, first = (size_t)c->first;
    int code;
    held->path = path;
    TRY(texts_read(&held->tokens, reader, path));
    size_t windows = held->tokens.count / window;
    if (windows <= first)
        return report_fail(CODE_USAGE,
                           "%s: %zu windows of %zu tokens, expected more than the %zu "
                           "of --first-window",
                           path, windows, window, first);
    windows = windows - first < (size_t)most ? windows - first : (size_t)most;
    memmove(held->tokens.ids, held->tokens.ids + first * window,
            windows * window * sizeof *held->tokens.ids);
    held->tokens.count = windows * window;
done:
    return code;
}

int choice_begin(cli_choice *c, const lr_model *model) {
    text_reader reader;
    int code;
    c->window = texts_window(model, c->window);
    c->count = c->texts.count ? c->texts.count : 1;
    c->held = calloc((size_t)c->count, sizeof *c->held);
    if (!c->held) return report_nomem();
    TRY(texts_reader(&reader, model, NULL));
    for (int32_t i = 0; i < c->texts.count; i++)
        TRY(load(&c->held[i], c, &reader, c->texts.items[i]));
    if (!c->texts.count)
        TRY(texts_write(&c->held[0].tokens, model, TEXTS_SEED_CHOOSE, c->windows, c->window));
done:
    return code;
}

void choice_end(cli_choice *c) {
    for (int32_t i = 0; c->held && i < c->count; i++) free(c->held[i].tokens.ids);
    free(c->held);
    free(c->texts.items);
    free(c->keep->measured);
}

/* The first windows of each text in turn, as many as are asked for. */
static int probe_tokens(token_list *out, const cli_choice *c) {
    size_t window = (size_t)c->window, wanted = (size_t)c->probe_windows;
    out->ids = malloc(wanted * window * sizeof *out->ids);
    if (!out->ids) return report_nomem();
    for (size_t turn = 0, added = 1; added && out->count < wanted * window; turn++) {
        added = 0;
        for (int32_t i = 0; i < c->count && out->count < wanted * window; i++) {
            const token_list *text = &c->held[i].tokens;
            if ((turn + 1) * window > text->count) continue;
            memcpy(out->ids + out->count, text->ids + turn * window, window * sizeof *out->ids);
            out->count += window;
            added = 1;
        }
    }
    return CODE_DONE;
}

int choice_measure(cli_choice *c, const cli_job *job, const lr_model *model,
                   const lr_stats *stats) {
    token_list tokens = {0};
    lr_plan *probe = NULL;
    lr_sensitivity_opts opts;
    size_t room = strlen(c->out) + sizeof ".weights";
    char *path = malloc(room);
    int code = path ? CODE_DONE : report_nomem();
    if (code) goto done;
    snprintf(path, room, "%s.weights", c->out);
    c->keep->weights = c->keep->measured = path;
    TRY(probe_tokens(&tokens, c));
    TRY(keep_uniform(c->keep, job, model, &probe));
    lr_sensitivity_opts_init(&opts, sizeof opts);
    opts.window = c->window;
    opts.path = path;
    progress_stage("sensitivity", 1);
    progress_follow("sensitivity");
    TRY(report_status(
        lr_sensitivity(model, probe, stats, tokens.ids, tokens.count, &opts, NULL, NULL),
        WHILE_WORKING));
done:
    lr_plan_free(probe);
    free(tokens.ids);
    return code;
}

/* Beside the usual floor. */
static const double usual_higher = 0.98;

typedef struct candidate {
    int32_t allocation;
    double floor;
} candidate;

/* Of `held` text: its distance from the model and its perplexity. */
static int judge_text(json_t *texts, double *kl, const cli_choice *c, const held_text *held,
                      const lr_model *cut, const lr_model *model) {
    lr_eval_opts opts;
    lr_eval_result result = {.size = sizeof result};
    json_t *text = json_object();
    int code = text ? CODE_DONE : report_nomem();
    if (code) return code;
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = c->window;
    opts.windows = c->windows;
    opts.reference = model;
    TRY(report_status(lr_eval(&result, cut, held->tokens.ids, held->tokens.count, &opts),
                      WHILE_WORKING));
    *kl += result.kl / c->count;
    const char *name = held->path ? held->path : "self-text";
    TRY(report_put(text, "text", report_name(name)));
    TRY(report_count(text, "windows", result.windows));
    TRY(report_real(text, "kl", result.kl));
    TRY(report_real(text, "perplexity", result.perplexity));
    if (json_array_append(texts, text)) code = report_nomem();
done:
    json_decref(text);
    return code;
}

/* How a candidate shares, as its plan says. */
static int put_way(json_t *result, const lr_plan *plan) {
    static const char *const keys[] = {"allocation", "floor"};
    json_t *about = json_loads(lr_plan_about(plan), 0, NULL);
    int code = about ? CODE_DONE : report_nomem();
    for (size_t i = 0; i < 2 && !code; i++) {
        json_t *value = json_object_get(about, keys[i]);
        if (value) code = report_put(result, keys[i], json_incref(value));
    }
    json_decref(about);
    return code;
}

/* The plan of one candidate, and what it costs on the texts. */
static int judge(const cli_choice *c, const cli_job *job, const lr_model *model,
                 const lr_stats *stats, const candidate *which, lr_plan **plan, json_t *result,
                 double *kl) {
    cli_keep keep = *c->keep;
    lr_compress_opts opts;
    lr_model *cut = NULL;
    json_t *texts = json_array();
    char label[48];
    int code = texts ? CODE_DONE : report_nomem();
    if (code) return code;
    *kl = 0;
    keep.allocation = which->allocation;
    keep.floor = which->floor;
    if (keep.allocation != KEEP_SENSITIVITY) keep.weights = NULL;
    snprintf(label, sizeof label, "try %s", keep_allocations[which->allocation]);
    progress_stage(label, 2 + c->count);
    TRY(keep_plan(&keep, job, model, stats, plan));
    TRY(report_status(lr_model_clone(&cut, model), WHILE_WORKING));
    lr_compress_opts_init(&opts, sizeof opts);
    if (c->method) opts.method = c->method;
    TRY(report_status(lr_compress(cut, *plan, stats, &opts, NULL, NULL), WHILE_WORKING));
    for (int32_t i = 0; i < c->count; i++) TRY(judge_text(texts, kl, c, &c->held[i], cut, model));
    TRY(put_way(result, *plan));
    TRY(report_real(result, "kl", *kl));
    TRY(report_put(result, "texts", json_incref(texts)));
done:
    json_decref(texts);
    lr_model_free(cut);
    return code;
}

static int add_about(lr_plan *plan, const json_t *best, const json_t *all) {
    json_t *about = json_pack("{s:O, s:O}", "held_out", best, "candidates", all);
    char *text = about ? json_dumps(about, 0) : NULL;
    int code = text ? report_status(lr_plan_add_about(plan, text), WHILE_WORKING) : report_nomem();
    free(text);
    json_decref(about);
    return code;
}

/* Whether there is what an allocation asks for. */
static int can_try(const cli_choice *c, const lr_stats *stats, const lr_plan *plan,
                   int32_t allocation) {
    lr_stats_gradients none = {.size = sizeof none};
    if (allocation == KEEP_SENSITIVITY) return c->keep->weights != NULL;
    return allocation != KEEP_FIRST_ORDER ||
           lr_stats_read_gradients(stats, lr_plan_module(plan, 0), &none) == LR_OK;
}

int choice_make(const cli_choice *c, const cli_job *job, const lr_model *model,
                const lr_stats *stats, lr_plan **out) {
    double floor = c->keep->floor;
    const candidate candidates[] = {{KEEP_UNIFORM, 0},
                                    {KEEP_NORMALISED, floor},
                                    {KEEP_NORMALISED, floor < 0 ? usual_higher : (1 + floor) / 2},
                                    {KEEP_EFFECTIVE_RANK, floor},
                                    {KEEP_FIRST_ORDER, floor},
                                    {KEEP_SENSITIVITY, floor}};
    size_t count = sizeof candidates / sizeof *candidates;
    json_t *all = json_array();
    const json_t *best = NULL;
    double least = 0;
    int code = all ? CODE_DONE : report_nomem();
    for (size_t i = 0; i < count && !code; i++) {
        lr_plan *plan = NULL;
        double kl = 0;
        if (*out && !can_try(c, stats, *out, candidates[i].allocation)) continue;
        json_t *result = json_object();
        if (!result || json_array_append_new(all, result)) TRY(report_nomem());
        code = judge(c, job, model, stats, &candidates[i], &plan, result, &kl);
        if (!code && (!best || kl < least)) {
            lr_plan_free(*out);
            *out = plan;
            plan = NULL;
            best = result;
            least = kl;
        }
        lr_plan_free(plan);
    }
    if (!code) code = add_about(*out, best, all);
done:
    json_decref(all);
    return code;
}
