/* lowrank generate: continues a prompt, in one row or several. */
#include "cli/job.h"
#include "cli/progress.h"
#include "cli/texts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STOPS_MOST = 16, USUAL_TOKENS = 128 };

/* Text on the terminal while it comes. */
typedef struct stream {
    const lr_tokenizer *tokenizer;
    int32_t *ids;
    size_t count, printed;
    int is_on;
} stream;

typedef struct generation {
    const lr_tokenizer *tokenizer;
    token_list prompt;
    lr_segment *prompts;
    int32_t *ids, *counts;
    int32_t rows;
    int32_t stop[STOPS_MOST];
    lr_generate_opts opts;
    stream stream;
} generation;

/* Bytes of `text` without a character that is still being spelt out. */
static size_t whole_bytes(const char *text, size_t bytes) {
    for (size_t back = 1; back <= 3 && back <= bytes; back++) {
        unsigned char c = (unsigned char)text[bytes - back];
        if ((c & 0xC0) == 0x80) continue;
        size_t wanted = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
        return wanted > back ? bytes - back : bytes;
    }
    return bytes;
}

static int32_t stream_token(int32_t row, int32_t id, void *user) {
    stream *s = user;
    char *text;
    size_t bytes;
    (void)row;
    s->ids[s->count++] = id;
    if (texts_decode(&text, &bytes, s->tokenizer, s->ids, s->count) == CODE_DONE) {
        size_t whole = whole_bytes(text, bytes);
        if (whole > s->printed) {
            fwrite(text + s->printed, 1, whole - s->printed, stdout);
            fflush(stdout);
            s->printed = whole;
        }
    }
    free(text);
    return progress_is_cancelled();
}

/* eos_token_id of the configuration: a number or several. */
static void read_stops(generation *g, const lr_model *model) {
    json_t *config = json_loads(lr_model_config(model), 0, NULL);
    const json_t *eos = json_object_get(config, "eos_token_id");
    size_t count = json_is_array(eos) ? json_array_size(eos) : 1;
    for (size_t i = 0; i < count && g->opts.stop_count < STOPS_MOST; i++) {
        const json_t *id = json_is_array(eos) ? json_array_get(eos, i) : eos;
        if (json_is_integer(id)) g->stop[g->opts.stop_count++] = (int32_t)json_integer_value(id);
    }
    g->opts.stop = g->stop;
    json_decref(config);
}

/* As many tokens as usual, or what the context has left beside the prompt. */
static int32_t usual_tokens(const generation *g, const lr_model *model) {
    lr_model_info info = {.size = sizeof info};
    lr_model_get_info(model, &info);
    int64_t left = (int64_t)info.context_length - (int64_t)g->prompt.count;
    return left < 1 ? 1 : left < USUAL_TOKENS ? (int32_t)left : USUAL_TOKENS;
}

static int generation_begin(generation *g, const lr_model *model, const char *prompt) {
    int code;
    TRY(texts_tokenizer(model, &g->tokenizer));
    TRY(texts_encode(&g->prompt, g->tokenizer, prompt, strlen(prompt)));
    if (g->prompt.count > INT32_MAX || g->prompt.count == 0)
        return report_fail(CODE_USAGE, "--prompt: %zu tokens, expected 1 to %d", g->prompt.count,
                           INT32_MAX);
    if (!g->opts.max_tokens) g->opts.max_tokens = usual_tokens(g, model);
    read_stops(g, model);
    size_t rows = (size_t)g->rows, most = (size_t)g->opts.max_tokens;
    g->prompts = calloc(rows, sizeof *g->prompts);
    g->counts = calloc(rows, sizeof *g->counts);
    g->ids = calloc(rows * most, sizeof *g->ids);
    g->stream.ids = calloc(most, sizeof *g->stream.ids);
    g->stream.tokenizer = g->tokenizer;
    if (!g->prompts || !g->counts || !g->ids || !g->stream.ids) return report_nomem();
    for (size_t r = 0; r < rows; r++) {
        g->prompts[r].count = (int32_t)g->prompt.count;
        g->prompts[r].tokens = g->prompt.ids;
    }
done:
    return code;
}

static void generation_end(generation *g) {
    free(g->prompt.ids);
    free(g->prompts);
    free(g->counts);
    free(g->ids);
    free(g->stream.ids);
}

static int put_row(const generation *g, int32_t row, json_t **text, json_t **ids) {
    const int32_t *from = g->ids + (int64_t)row * g->opts.max_tokens;
    size_t count = (size_t)g->counts[row], bytes;
    char *decoded = NULL;
    int code;
    TRY(texts_decode(&decoded, &bytes, g->tokenizer, from, count));
    *text = report_text(decoded, bytes);
    *ids = json_array();
    if (!*text || !*ids) code = report_nomem();
    for (size_t i = 0; i < count && !code; i++)
        if (json_array_append_new(*ids, json_integer(from[i]))) code = report_nomem();
done:
    free(decoded);
    return code;
}

static int put_rows(const generation *g, json_t *result) {
    json_t *texts = json_array(), *lists = json_array();
    int code = texts && lists ? CODE_DONE : report_nomem();
    for (int32_t r = 0; r < g->rows && !code; r++) {
        json_t *text = NULL, *ids = NULL;
        code = put_row(g, r, &text, &ids);
        if (json_array_append_new(texts, text) | json_array_append_new(lists, ids))
            code = code ? code : report_nomem();
    }
    if (code) goto done;
    if (g->rows > 1) {
        TRY(report_put(result, "texts", json_incref(texts)));
        TRY(report_put(result, "ids", json_incref(lists)));
    } else {
        if (!g->stream.is_on)
            TRY(report_put(result, "text", json_incref(json_array_get(texts, 0))));
        TRY(report_put(result, "ids", json_incref(json_array_get(lists, 0))));
    }
done:
    json_decref(texts);
    json_decref(lists);
    return code;
}

static int put_result(const generation *g, json_t *result, double seconds) {
    int64_t tokens = 0;
    int code;
    for (int32_t r = 0; r < g->rows; r++) tokens += g->counts[r];
    TRY(put_rows(g, result));
    TRY(report_count(result, "tokens", tokens));
    TRY(report_count(result, "prompt_tokens", (int64_t)g->prompt.count));
    TRY(report_real(result, "tokens_per_second", (double)tokens / (seconds > 0 ? seconds : 1e-9)));
    TRY(report_count(result, "peak_bytes", report_peak_bytes()));
done:
    return code;
}

static int run(generation *g, cli_job *job, const lr_model *model) {
    int code;
    if (g->stream.is_on) progress_hide();
    TRY(job_stage(job, "generate"));
    double began = progress_seconds();
    TRY(report_status(lr_generate(model, g->prompts, g->rows, &g->opts, g->ids, g->counts,
                                  g->stream.is_on ? stream_token : NULL, &g->stream),
                      WHILE_WORKING));
    double seconds = progress_seconds() - began;
    if (g->stream.is_on) fputs("\n\n", stdout);
    TRY(put_result(g, job->result, seconds));
done:
    return code;
}

int command_generate(cli_job *job) {
    const char *prompt = NULL;
    lr_model *model = NULL;
    generation g = {.rows = 1};
    int code;
    lr_generate_opts_init(&g.opts, sizeof g.opts);
    g.opts.max_tokens = 0;
    const arg options[] = {
        ARG("prompt", ARG_TEXT, &prompt, "TEXT", "text to continue, as it is: no chat template",
            .required = 1),
        ARG("max-tokens", ARG_INT, &g.opts.max_tokens, "N", "most new tokens [default 128]",
            .least = 1),
        ARG("temperature", ARG_REAL, &g.opts.temperature, "T",
            "0 takes the likeliest token, 1 samples as the model says [default 0]"),
        ARG("top-k", ARG_INT, &g.opts.top_k, "K", "only the K likeliest tokens [default 0: all]"),
        ARG("top-p", ARG_REAL, &g.opts.top_p, "P",
            "only the likeliest tokens that together reach the share P [default 1: all]", .most = 1,
            .above = 1),
        ARG("rows", ARG_INT, &g.rows, "N", "samples of the same prompt, made together [default 1]",
            .least = 1, .most = 4096),
    };
    TRY(JOB_BEGIN(job, options));
    g.opts.seed = job->seed;
    g.stream.is_on = !job->json && g.rows == 1 && isatty(STDOUT_FILENO);
    TRY(job_start(job));
    TRY(job_open(job, &model, job->model_path));
    TRY(generation_begin(&g, model, prompt));
    TRY(run(&g, job, model));
    TRY(job_report(job));
done:
    generation_end(&g);
    lr_model_free(model);
    return code;
}
