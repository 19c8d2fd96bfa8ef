/*
 * Rewriting a model by a plan: each matrix is factorised on one thread, several at a time, and all
 * of them enter the model at once.
 */
#include "backend/blas.h"
#include "base/opts.h"
#include "compress/form.h"
#include "compress/plan.h"
#include "compress/stats.h"

#include <lowrank/compress.h>

#include <stdio.h>
#include <string.h>

enum { MODULES_EACH_THREAD = 4, MESSAGE_SIZE = 512 };

void lr_compress_opts_init(lr_compress_opts *opts, size_t size) {
    lr_compress_opts defaults = {.size = sizeof defaults, .method = "pca"};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

static const struct {
    const char *name;
    int32_t method;
} methods[] = {
    {"svd", LR__FACTOR_SVD}, {"whiten", LR__FACTOR_WHITEN}, {"whiten-eig", LR__FACTOR_WHITEN_EIG},
    {"pca", LR__FACTOR_PCA}, {"afm", LR__FACTOR_AFM},
};

static lr_status find_method(const char *name, int32_t *method) {
    for (size_t i = 0; name && i < sizeof methods / sizeof *methods; i++)
        if (!strcmp(methods[i].name, name)) {
            *method = methods[i].method;
            return LR_OK;
        }
    return lr__fail(LR_E_INVALID, "method \"%s\", expected svd, whiten, whiten-eig, pca or afm",
                    name ? name : "");
}

/* One module: what goes in, and factors or an error that comes out of a pool thread. */
typedef struct task {
    const lr_linear *linear;
    const lr__moments *moments; /* NULL for plain SVD */
    int64_t rank;
    int32_t method, storage;
    lr__factors factors;
    lr__pivot pivot; /* of the factors, for that storage */
    lr_status status;
    char message[MESSAGE_SIZE];
} task;

static lr_status factorise(task *t) {
    const lr_linear *linear = t->linear;
    lr_status status = LR_OK;
    float *weight = NULL, *bias = NULL;
    double *gram = NULL, *mean = NULL;
    lr__factor_basis *basis = NULL;
    size_t ins = (size_t)linear->in, outs = (size_t)linear->out;
    LR_TRY(lr__new_aligned(&weight, outs * ins, sizeof *weight));
    lr__linear_dense_rows(linear, 0, linear->out, weight);
    if (t->moments) {
        LR_TRY(lr__new_aligned(&gram, ins * ins, sizeof *gram));
        LR_TRY(lr__new_aligned(&mean, ins, sizeof *mean));
        lr__moments_read(t->moments, gram, mean);
    }
    if (linear->bias) {
        LR_TRY(lr__new_aligned(&bias, outs, sizeof *bias));
        lr__param_widen(linear->ctx->device.kernels, linear->bias, bias);
    }
    const lr__factor_problem problem = {.out = linear->out,
                                        .in = linear->in,
                                        .weight = weight,
                                        .gram = gram,
                                        .mean = t->method == LR__FACTOR_AFM ? mean : NULL,
                                        .bias = t->method == LR__FACTOR_AFM ? bias : NULL,
                                        .name = linear->name};
    LR_TRY(lr__factor_basis_new(&basis, &problem, t->method));
    LR_TRY(lr__factor_basis_cut(&t->factors, basis, &problem, t->rank));
    if (t->storage == LR__STORAGE_PIVOT)
        LR_TRY(lr__pivot_new(&t->pivot, linear->out, linear->in, t->rank, t->factors.left,
                             t->factors.right, linear->name));
done:
    lr__factor_basis_free(basis);
    lr__aligned_free(weight);
    lr__aligned_free(bias);
    lr__aligned_free(gram);
    lr__aligned_free(mean);
    return status;
}

static void factorise_item(void *work, int64_t index, int32_t thread) {
    (void)thread;
    task *t = (task *)work + index;
    t->status = factorise(t);
    if (t->status < 0) snprintf(t->message, sizeof t->message, "%s", lr_last_error());
}

static lr_status linear_of(lr_linear **out, task *t) {
    return t->storage == LR__STORAGE_PIVOT ? lr__form_pivot(out, t->linear, &t->pivot, &t->factors)
                                           : lr__form_two_factor(out, t->linear, &t->factors);
}

typedef struct work {
    const lr_model *model;
    const lr_plan *plan;
    const lr_stats *stats;
    int32_t method;
    lr_compress_fn fn;
    void *user;
    lr_model *draft; /* a clone that receives the factors */
    task *tasks;
    int32_t done, total;
} work;

static lr_status prepare(work *w, task *t, const char *module, int64_t rank) {
    lr_linear *linear;
    lr_status status = lr_model_find_linear(w->model, module, &linear);
    if (status < 0) return status;
    memset(t, 0, sizeof *t);
    t->linear = linear;
    t->rank = rank;
    t->method = w->method;
    t->storage = w->plan->storage;
    if (lr_linear_kind(linear) != LR_LINEAR_DENSE)
        return lr__fail(LR_E_UNSUPPORTED, "%s: already factorised", module);
    if (w->method == LR__FACTOR_SVD) return LR_OK;
    int32_t index = 0;
    status = lr__stats_find(w->stats, module, &index);
    if (status < 0) return status;
    status = lr__stats_check_counted(w->stats, index);
    if (status < 0) return status;
    t->moments = &w->stats->moments[w->stats->moments_of[index]];
    if (t->moments->size != linear->in)
        return lr__fail(LR_E_SHAPE, "%s: statistics of %lld inputs, expected %lld", module,
                        (long long)t->moments->size, (long long)linear->in);
    return LR_OK;
}

static lr_status report(work *w, const task *t) {
    lr_compress_event event = {.size = sizeof event,
                               .module = t->linear->name,
                               .rank = t->rank,
                               .predicted = t->factors.predicted,
                               .measured = t->factors.measured,
                               .total = t->factors.total};
    if (w->fn && w->fn(&event, w->user))
        return lr__fail(LR_E_CANCELLED, "compress: cancelled at %s", t->linear->name);
    w->done++;
    return lr__progress(w->model->ctx, "factorise", w->done, w->total);
}

static lr_status run_tasks(work *w, int32_t count) {
    lr_status status = LR_OK;
    lr_linear *linear = NULL;
    lr__blas_enter();
    lr__pool_run(w->model->ctx->device.pool, count, factorise_item, w->tasks);
    lr__blas_leave();
    for (int32_t i = 0; i < count; i++) {
        task *t = &w->tasks[i];
        LR_FAIL_IF(t->status < 0, t->status, "%s", t->message);
        LR_TRY(linear_of(&linear, t));
        LR_TRY(lr_model_set_linear(w->draft, t->linear->name, linear));
        lr_linear_free(linear);
        linear = NULL;
        LR_TRY(report(w, t));
    }
done:
    lr_linear_free(linear);
    return status;
}

static void clear_tasks(work *w, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        lr__factors_clear(&w->tasks[i].factors);
        lr__pivot_clear(&w->tasks[i].pivot);
        lr_linear_free((lr_linear *)w->tasks[i].linear);
    }
    memset(w->tasks, 0, (size_t)count * sizeof *w->tasks);
}

static lr_status run_plan(work *w) {
    lr_status status = LR_OK;
    int32_t at_once = w->model->ctx->opts.memory ? 1 : MODULES_EACH_THREAD, filled = 0;
    at_once *= lr_ctx_threads(w->model->ctx);
    LR_TRY(lr__new(&w->tasks, (size_t)at_once, sizeof *w->tasks));
    for (int32_t i = 0; i < w->plan->count; i++) w->total += w->plan->items[i].rank > 0;
    for (int32_t i = 0; i < w->plan->count; i++) {
        if (!w->plan->items[i].rank) continue;
        LR_TRY(prepare(w, &w->tasks[filled++], w->plan->modules[i], w->plan->items[i].rank));
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

lr_status lr_compress(lr_model *model, const lr_plan *plan, const lr_stats *stats,
                      const lr_compress_opts *opts, lr_compress_fn fn, void *user) {
    lr_status status = LR_OK;
    lr_compress_opts o;
    lr__graph *before = NULL, *after = NULL;
    work w = {.model = model, .plan = plan, .stats = stats, .fn = fn, .user = user};
    if (!model || !plan) return lr__fail(LR_E_INVALID, "lr_compress: model and plan are needed");
    lr_compress_opts_init(&o, sizeof o);
    LR_TRY(lr__opts_merge(&o, sizeof o, opts, "lr_compress_opts"));
    LR_TRY(find_method(o.method, &w.method));
    LR_FAIL_IF(w.method != LR__FACTOR_SVD && !stats, LR_E_INVALID,
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
