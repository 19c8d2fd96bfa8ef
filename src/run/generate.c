/* Continuing prompts: one prefill, then one step for all rows that still run. */
#include "base/opts.h"
#include "base/rng.h"
#include "model/session.h"
#include "run/sample.h"

#include <lowrank/eval.h>

#include <math.h>

void lr_generate_opts_init(lr_generate_opts *opts, size_t size) {
    lr_generate_opts defaults = {.size = sizeof defaults, .max_tokens = 128, .top_p = 1};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

typedef struct generation {
    const lr_model *model;
    lr_generate_opts opts;
    lr_session *session;
    lr_segment *segments;
    lr__sampler *samplers; /* one for each thread */
    float *logits;
    int32_t *ids, *counts, *drawn;
    lr_token_fn fn;
    void *user;
    int32_t rows, running;
} generation;

static lr_status check_opts(const lr_generate_opts *o) {
    if (o->max_tokens < 1 || o->top_k < 0 || !(o->temperature >= 0) || !isfinite(o->temperature) ||
        !(o->top_p > 0) || o->top_p > 1 || o->stop_count < 0 || (o->stop_count && !o->stop))
        return lr__fail(LR_E_INVALID, "generate: max_tokens %d, temperature %g, top_k %d, top_p %g",
                        o->max_tokens, o->temperature, o->top_k, o->top_p);
    return LR_OK;
}

static lr_status check_prompts(const generation *g, const lr_segment *prompts, int32_t *longest) {
    int32_t context = g->model->origin->config.context_length;
    *longest = 0;
    for (int32_t r = 0; r < g->rows; r++) {
        if (prompts[r].count < 1 || !prompts[r].tokens)
            return lr__fail(LR_E_INVALID, "prompt %d is empty", r);
        if (prompts[r].count > *longest) *longest = prompts[r].count;
    }
    if (*longest > context - g->opts.max_tokens)
        return lr__fail(LR_E_INVALID,
                        "a prompt of %d tokens and %d new ones exceed the context "
                        "of %d",
                        *longest, g->opts.max_tokens, context);
    return LR_OK;
}

static lr_status generation_begin(generation *g, const lr_segment *prompts) {
    lr_status status = LR_OK;
    lr_session_opts so;
    int32_t longest, vocabulary = g->model->origin->config.vocabulary_size;
    int32_t threads = lr_ctx_threads(g->model->ctx);
    LR_TRY(check_opts(&g->opts));
    LR_TRY(check_prompts(g, prompts, &longest));
    lr_session_opts_init(&so, sizeof so);
    so.rows = g->rows;
    so.positions = longest + g->opts.max_tokens;
    LR_TRY(lr_session_new(&g->session, g->model, &so));
    LR_TRY(lr__new(&g->segments, (size_t)g->rows, sizeof *g->segments));
    LR_TRY(lr__new(&g->drawn, (size_t)g->rows, sizeof *g->drawn));
    LR_TRY(lr__new(&g->samplers, (size_t)threads, sizeof *g->samplers));
    for (int32_t t = 0; t < threads; t++) {
        g->samplers[t].kernels = g->model->ctx->device.kernels;
        g->samplers[t].temperature = g->opts.temperature;
        g->samplers[t].top_k = g->opts.top_k;
        g->samplers[t].top_p = g->opts.top_p;
        LR_TRY(lr__sampler_begin(&g->samplers[t], vocabulary));
    }
    LR_TRY(lr__new_aligned(&g->logits, (size_t)g->rows * (size_t)vocabulary, sizeof(float)));
    for (int32_t r = 0; r < g->rows; r++) {
        g->segments[r] = prompts[r];
        g->segments[r].row = r;
    }
    g->running = g->rows;
done:
    return status;
}

static void generation_end(generation *g) {
    for (int32_t t = 0; g->samplers && t < lr_ctx_threads(g->model->ctx); t++)
        lr__sampler_end(&g->samplers[t]);
    lr__free(g->samplers);
    lr__free(g->segments);
    lr__free(g->drawn);
    lr__aligned_free(g->logits);
    lr_session_free(g->session);
}

static int32_t is_stop(const lr_generate_opts *o, int32_t id) {
    for (int32_t i = 0; i < o->stop_count; i++)
        if (o->stop[i] == id) return 1;
    return 0;
}

static void draw_row(void *work, int64_t index, int32_t thread) {
    generation *g = work;
    int32_t row = g->segments[index].row, vocabulary = g->samplers->count;
    float *logits = g->logits + index * vocabulary;
    for (int32_t i = 0; g->opts.suppress_stop && i < g->opts.stop_count; i++)
        if (g->opts.stop[i] >= 0 && g->opts.stop[i] < vocabulary)
            logits[g->opts.stop[i]] = -INFINITY;
    double draw = lr__uniform(g->opts.seed, (uint64_t)row, (uint64_t)g->counts[row]);
    g->drawn[index] = lr__sample(&g->samplers[thread], logits, draw);
}

/* Appends the drawn tokens; rows that go on become the segments of the next step. */
static lr_status keep_drawn(generation *g) {
    int32_t going = 0;
    for (int32_t i = 0; i < g->running; i++) {
        int32_t row = g->segments[i].row, id = g->drawn[i];
        if (is_stop(&g->opts, id)) {
            if (!g->opts.suppress_stop) continue;
            return lr__fail(LR_E_INVALID,
                            "generate: every id is a stop id, and all are suppressed");
        }
        int32_t *to = &g->ids[(int64_t)row * g->opts.max_tokens + g->counts[row]++];
        *to = id;
        if (g->fn && g->fn(row, id, g->user))
            return lr__fail(LR_E_CANCELLED, "generate: cancelled at token %d of row %d",
                            g->counts[row], row);
        if (g->counts[row] == g->opts.max_tokens) continue;
        lr_segment next = {.row = row, .count = 1, .tokens = to};
        g->segments[going++] = next;
    }
    g->running = going;
    return LR_OK;
}

lr_status lr_generate(const lr_model *model, const lr_segment *prompts, int32_t rows,
                      const lr_generate_opts *opts, int32_t *ids, int32_t *counts, lr_token_fn fn,
                      void *user) {
    lr_status status = LR_OK;
    generation g = {
        .model = model, .ids = ids, .counts = counts, .fn = fn, .user = user, .rows = rows};
    if (!model || !prompts || rows < 1 || !ids || !counts)
        return lr__fail(LR_E_INVALID, "lr_generate: model, prompts, ids and counts are needed");
    lr_generate_opts_init(&g.opts, sizeof g.opts);
    for (int32_t r = 0; r < rows; r++) counts[r] = 0;
    LR_TRY(lr__opts_merge(&g.opts, sizeof g.opts, opts, "lr_generate_opts"));
    LR_TRY(generation_begin(&g, prompts));
    while (g.running) {
        LR_TRY(lr_session_forward(g.session, g.segments, g.running, g.logits));
        lr__pool_run(model->ctx->device.pool, g.running, draw_row, &g);
        LR_TRY(keep_drawn(&g));
        LR_TRY(lr__progress(model->ctx, "generate", counts[0], g.opts.max_tokens));
    }
done:
    generation_end(&g);
    return status;
}
