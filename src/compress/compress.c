/*
 * Rewriting a model by a plan: each matrix is factorised on one thread, several at a time, and all
 * of them enter the model at once. Modules that share their right factor are one matrix, their
 * weights stacked (Basis Sharing, ICLR 2025, within a block): its left factor is cut into theirs.
 */
#include "backend/blas.h"
#include "base/opts.h"
#include "compress/compress.h"
#include "compress/form.h"
#include "compress/plan.h"
#include "compress/task.h"

#include <lowrank/compress.h>

#include <math.h>
#include <string.h>

enum { MODULES_EACH_THREAD = 4 };

void lr_compress_opts_init(lr_compress_opts *opts, size_t size) {
    lr_compress_opts defaults = {.size = sizeof defaults,
                                 .method = "pca",
                                 .statistic = "mean",
                                 .alpha = -1,
                                 .sequential = "none",
                                 .blend = 0.5,
                                 .input_shrinkage = lr__input_shrinkage,
                                 .output_shrinkage = lr__output_shrinkage};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

static const struct {
    const char *name;
    int32_t method, gradients;
} methods[] = {
    {"svd", LR__FACTOR_SVD, 0},
    {"whiten", LR__FACTOR_WHITEN, 0},
    {"whiten-eig", LR__FACTOR_WHITEN_EIG, 0},
    {"pca", LR__FACTOR_PCA, 0},
    {"afm", LR__FACTOR_AFM, 0},
    {"asvd", LR__FACTOR_ASVD, 0},
    {"qr", LR__FACTOR_QR, 0},
    {"fwsvd", LR__FACTOR_ASVD, LR__GRADIENTS_FISHER},
    {"iwsvd", LR__FACTOR_ASVD, LR__GRADIENTS_IMPORTANCE},
    {"kfac", LR__FACTOR_PCA, LR__GRADIENTS_KFAC},
};

static const char *const statistics[] = {
    [LR__CHANNEL_MEAN] = "mean", [LR__CHANNEL_MAX] = "max", [LR__CHANNEL_RMS] = "rms"};
static const double usual_alpha[] = {0.5, 0.5, 1};

lr_status lr__compress_method(const char *name, int32_t *method, int32_t *gradients) {
    for (size_t i = 0; name && i < sizeof methods / sizeof *methods; i++)
        if (!strcmp(methods[i].name, name)) {
            *method = methods[i].method;
            *gradients = methods[i].gradients;
            return LR_OK;
        }
    return lr__fail(LR_E_INVALID,
                    "method \"%s\", expected svd, whiten, whiten-eig, pca, afm, asvd, qr, fwsvd, "
                    "iwsvd or kfac",
                    name ? name : "");
}

static lr_status find_statistic(const char *name, int32_t *statistic) {
    for (int32_t i = 0; name && i < 3; i++)
        if (!strcmp(statistics[i], name)) {
            *statistic = i;
            return LR_OK;
        }
    return lr__fail(LR_E_INVALID, "statistic \"%s\", expected mean, max or rms", name ? name : "");
}

static lr_status recipe_of(lr__recipe *how, const lr_compress_opts *o) {
    lr_status status = LR_OK;
    LR_TRY(lr__compress_method(o->method, &how->method, &how->gradients));
    LR_TRY(find_statistic(o->statistic, &how->statistic));
    LR_FAIL_IF(!isfinite(o->alpha), LR_E_INVALID, "alpha is %g", o->alpha);
    LR_FAIL_IF(o->refits < 0, LR_E_INVALID, "refits %d, expected 0 or more", o->refits);
    LR_FAIL_IF(
        o->dtype != LR_F32 && o->dtype != LR_BF16 && o->dtype != LR_F16 && o->dtype != LR_Q8_0,
        LR_E_INVALID, "dtype %s, expected f32, bf16, f16 or q8_0", lr_dtype_name(o->dtype));
    LR_FAIL_IF(o->randomised < -1 || o->randomised > 1, LR_E_INVALID,
               "randomised %d, expected -1, 0 or 1", o->randomised);
    LR_FAIL_IF(!(o->input_shrinkage >= 0 && o->input_shrinkage <= 1) ||
                   !(o->output_shrinkage >= 0 && o->output_shrinkage <= 1),
               LR_E_INVALID, "shrinkage %g and %g, expected 0 to 1", o->input_shrinkage,
               o->output_shrinkage);
    how->in_shrinkage = o->input_shrinkage;
    how->out_shrinkage = o->output_shrinkage;
    how->refits = o->refits;
    how->dtype = o->dtype;
    how->sketch.use = o->randomised;
    how->alpha = o->alpha < 0 ? usual_alpha[how->statistic] : o->alpha;
done:
    return status;
}

static void run_item(void *work, int64_t index, int32_t thread) {
    (void)thread;
    lr__task_run((lr__task *)work + index);
}

static lr_status linears_of(lr_linear **out, lr__task *t) {
    return t->is_pivot ? lr__form_pivot(out, t->linears[0], &t->pivot, &t->factors)
                       : lr__form_two_factor(out, t->linears, t->count, &t->factors);
}

typedef struct work {
    const lr_model *model;
    const lr_plan *plan;
    const lr_stats *stats;
    lr__recipe how;
    lr_compress_fn fn;
    void *user;
    uint64_t memory; /* for all tasks at once; 0: any */
    int32_t is_part; /* of a longer run, which says how far it is */
    lr_model *draft; /* a clone that receives the factors */
    lr__task *tasks;
    int32_t done, total;
} work;

static lr_status add_slopes(const work *w, lr__task *t, const lr_linear *linear) {
    lr__slope_stack *stack = &t->slopes;
    stack->in = linear->in;
    stack->out = t->out;
    return lr__stats_slopes_of(&stack->items[stack->count++], w->stats, linear);
}

static lr_status add_linear(const work *w, lr__task *t, const char *module) {
    lr_linear *linear;
    const lr__moments *moments = NULL;
    lr_status status = lr_model_find_linear(w->model, module, &linear);
    if (status < 0) return status;
    t->linears[t->count++] = linear;
    t->out += linear->out;
    if (lr_linear_kind(linear) != LR_LINEAR_DENSE)
        return lr__fail(LR_E_UNSUPPORTED, "%s: already factorised", module);
    if (w->how.method == LR__FACTOR_SVD && !w->how.refits) return LR_OK;
    status = lr__stats_moments_of(&moments, w->stats, linear);
    if (status < 0) return status;
    if (t->moments && t->moments != moments)
        return lr__fail(LR_E_INVALID, "%s: statistics apart from those of %s, whose input it reads",
                        module, t->linears[0]->name);
    t->moments = moments;
    return w->how.gradients ? add_slopes(w, t, linear) : LR_OK;
}

/* Item `first` of the plan and those that share with it. */
static lr_status prepare(const work *w, lr__task *t, int32_t first) {
    const lr_plan *plan = w->plan;
    const lr__rank_item *item = &plan->items[first];
    lr_status status = LR_OK;
    memset(t, 0, sizeof *t);
    t->rank = item->rank;
    t->how = &w->how;
    t->is_pivot = lr__rank_is_pivot(item);
    for (int32_t i = first; i < plan->count && status >= 0; i++)
        if (i == first || lr__ranks_share(item, &plan->items[i]))
            status = add_linear(w, t, plan->modules[i]);
    return status;
}

static int shares_with_earlier(const lr_plan *plan, int32_t which) {
    for (int32_t i = 0; i < which; i++)
        if (lr__ranks_share(&plan->items[i], &plan->items[which])) return 1;
    return 0;
}

static const char *storage_of(const lr__task *t) {
    return lr__plan_storage_name(t->is_pivot    ? LR__STORAGE_PIVOT
                                 : t->count > 1 ? LR__STORAGE_SHARED
                                                : LR__STORAGE_TWO_FACTOR);
}

static lr_status report(work *w, const lr__task *t, const lr_linear *linear) {
    lr_compress_event event = {.size = sizeof event,
                               .module = linear->name,
                               .rank = t->rank,
                               .predicted = t->factors.predicted,
                               .measured = t->factors.measured,
                               .total = t->factors.total,
                               .storage = storage_of(t),
                               .largest_mix = t->pivot.largest,
                               .sharers = t->count,
                               .stored = t->stored,
                               .full_rank = t->out < linear->in ? t->out : linear->in,
                               .spectrum = t->spectrum,
                               .spectrum_count = t->spectrum_count};
    if (w->fn && w->fn(&event, w->user))
        return lr__fail(LR_E_CANCELLED, "compress: cancelled at %s", linear->name);
    w->done++;
    return w->is_part ? LR_OK : lr__progress(w->model->ctx, "factorise", w->done, w->total);
}

static lr_status enter_task(work *w, lr__task *t) {
    lr_status status = LR_OK;
    lr_linear *linears[LR__GROUP_MOST] = {0};
    LR_FAIL_IF(t->status < 0, t->status, "%s", t->message);
    LR_TRY(linears_of(linears, t));
    for (int32_t i = 0; i < t->count; i++) {
        LR_TRY(lr_model_set_linear(w->draft, t->linears[i]->name, linears[i]));
        LR_TRY(report(w, t, t->linears[i]));
    }
done:
    for (int32_t i = 0; i < t->count; i++) lr_linear_free(linears[i]);
    return status;
}

static lr_status run_tasks(work *w, int32_t count) {
    lr_status status = LR_OK;
    lr__blas_enter();
    lr__pool_run(w->model->ctx->device.pool, count, run_item, w->tasks);
    lr__blas_leave();
    for (int32_t i = 0; i < count && status >= 0; i++) status = enter_task(w, &w->tasks[i]);
    return status;
}

static void clear_tasks(work *w, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        lr__task *t = &w->tasks[i];
        lr__task_clear(t);
        for (int32_t k = 0; k < t->count; k++) lr_linear_free((lr_linear *)t->linears[k]);
    }
    memset(w->tasks, 0, (size_t)count * sizeof *w->tasks);
}

uint64_t lr__compress_bytes(const lr_plan *plan, int32_t which) {
    const lr__rank_item *item = &plan->items[which];
    uint64_t m = 0, n = (uint64_t)item->in;
    for (int32_t i = 0; i < plan->count; i++)
        if (i == which || lr__ranks_share(item, &plan->items[i])) m += (uint64_t)plan->items[i].out;
    uint64_t k = m < n ? m : n;
    return 36 * m * n + 16 * n * n + 48 * k * k + (1 << 20);
}

/* The root of the moments of a stack's derivatives, and either a block of them or, where a pivot
 * form is rounded, they in another order, their root and errors. */
static uint64_t side_bytes(const work *w, int32_t which) {
    if (w->how.gradients != LR__GRADIENTS_KFAC) return 0;
    uint64_t m = (uint64_t)lr__rank_stacked_out(w->plan->items, w->plan->count, which);
    uint64_t n = (uint64_t)w->plan->items[which].in;
    return w->how.dtype == LR_F32 ? 16 * m * m : 24 * m * m + 8 * m * n;
}

/* Matrices to factorise before the next step: as many as fit beside each other. */
static int32_t tasks_at_once(const work *w) {
    int32_t threads = lr_ctx_threads(w->model->ctx);
    uint64_t most = 1;
    if (!w->memory) return threads * MODULES_EACH_THREAD;
    for (int32_t i = 0; i < w->plan->count; i++) {
        uint64_t bytes = w->plan->items[i].rank ? lr__compress_bytes(w->plan, i) : 0;
        if (bytes) bytes += side_bytes(w, i);
        if (bytes > most) most = bytes;
    }
    uint64_t fitting = w->memory / most;
    return fitting < 1 ? 1 : fitting < (uint64_t)threads ? (int32_t)fitting : threads;
}

static lr_status run_plan(work *w) {
    lr_status status = LR_OK;
    int32_t at_once = tasks_at_once(w), filled = 0;
    LR_TRY(lr__new(&w->tasks, (size_t)at_once, sizeof *w->tasks));
    for (int32_t i = 0; i < w->plan->count; i++) w->total += w->plan->items[i].rank > 0;
    for (int32_t i = 0; i < w->plan->count; i++) {
        if (!w->plan->items[i].rank || shares_with_earlier(w->plan, i)) continue;
        LR_TRY(prepare(w, &w->tasks[filled++], i));
        if (filled < at_once) continue;
        LR_TRY(run_tasks(w, filled));
        clear_tasks(w, filled);
        filled = 0;
    }
    if (filled) LR_TRY(run_tasks(w, filled));
done:
    if (w->tasks) clear_tasks(w, filled);
    lr__free(w->tasks);
    return status;
}

static lr_status compress(lr_model *model, const lr_plan *plan, const lr_stats *stats,
                          const lr_compress_opts *opts, uint64_t memory, int32_t is_part,
                          lr_compress_fn fn, void *user) {
    lr_status status = LR_OK;
    lr_compress_opts o;
    lr__graph *before = NULL, *after = NULL;
    work w = {.model = model,
              .plan = plan,
              .stats = stats,
              .fn = fn,
              .user = user,
              .memory = memory,
              .is_part = is_part};
    lr_compress_opts_init(&o, sizeof o);
    LR_TRY(lr__opts_merge(&o, sizeof o, opts, "lr_compress_opts"));
    LR_TRY(recipe_of(&w.how, &o));
    w.how.sketch.seed = model->ctx->opts.seed;
    LR_FAIL_IF(!is_part && o.sequential && strcmp(o.sequential, "none"), LR_E_INVALID,
               "lr_compress: sequential \"%s\" is for lr_compress_texts", o.sequential);
    LR_FAIL_IF(w.how.refits && !stats, LR_E_INVALID, "refits need statistics");
    LR_FAIL_IF(w.how.method != LR__FACTOR_SVD && !stats, LR_E_INVALID,
               "method %s needs statistics; only svd does without", o.method);
    LR_TRY(lr_model_clone(&w.draft, model));
    before = lr__model_graph(w.draft);
    LR_TRY(run_plan(&w));
    after = lr__model_graph(w.draft);
    LR_TRY(lr__model_merge(model, before, after));
done:
    lr__graph_drop(before);
    lr__graph_drop(after);
    lr_model_free(w.draft);
    return status;
}

lr_status lr_compress(lr_model *model, const lr_plan *plan, const lr_stats *stats,
                      const lr_compress_opts *opts, lr_compress_fn fn, void *user) {
    if (!model || !plan) return lr__fail(LR_E_INVALID, "lr_compress: model and plan are needed");
    return compress(model, plan, stats, opts, model->ctx->opts.memory, 0, fn, user);
}

lr_status lr__compress_part(lr_model *model, const lr_plan *plan, const lr_stats *stats,
                            const lr_compress_opts *opts, uint64_t memory, lr_compress_fn fn,
                            void *user) {
    return compress(model, plan, stats, opts, memory, 1, fn, user);
}
