/*
 * Rewriting a model by a plan: each matrix is factorised on one thread, several at a time, and all
 * of them enter the model at once.
 */
#include "backend/blas.h"
#include "base/opts.h"
#include "compress/factor.h"
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
    int32_t method;
    lr__factors factors;
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

/* Takes the numbers over into a parameter. */
static lr_status param_of(lr__param **out, const char *module, const char *part, float **numbers,
                          int64_t rows, int64_t cols, int32_t ndim) {
    char name[320];
    snprintf(name, sizeof name, "%s.%s", module, part);
    lr_status status = lr__param_of_floats(out, name, *numbers, rows, cols, ndim);
    if (status >= 0) *numbers = NULL;
    return status;
}

static lr_status linear_of(lr_linear **out, task *t) {
    lr_status status = LR_OK;
    lr__param *left = NULL, *right = NULL, *bias = NULL;
    const lr_linear *linear = t->linear;
    lr__factors *f = &t->factors;
    LR_TRY(param_of(&left, linear->name, "left.weight", &f->left, linear->out, f->rank, 2));
    LR_TRY(param_of(&right, linear->name, "right.weight", &f->right, f->rank, linear->in, 2));
    if (f->bias)
        LR_TRY(param_of(&bias, linear->name, "bias", &f->bias, linear->out, 1, 1));
    else
        bias = lr__param_keep(linear->bias);
    LR_TRY(lr__linear_low_rank(out, linear->ctx, linear->name, left, right, bias));
done:
    lr__param_drop(left);
    lr__param_drop(right);
    lr__param_drop(bias);
    return status;
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
    work w = {.model = model, .plan = plan, .stats = stats, .fn = fn, .user = user};
    if (!model || !plan) return lr__fail(LR_E_INVALID, "lr_compress: model and plan are needed");
    lr_compress_opts_init(&o, sizeof o);
    LR_TRY(lr__opts_merge(&o, sizeof o, opts, "lr_compress_opts"));
    LR_TRY(find_method(o.method, &w.method));
    LR_FAIL_IF(w.method != LR__FACTOR_SVD && !stats, LR_E_INVALID,
               "method %s needs statistics; only svd does without", o.method);
    LR_TRY(lr_model_clone(&w.draft, model));
    LR_TRY(run_plan(&w));
    lr__model_publish(model, lr__model_graph(w.draft));
done:
    lr_model_free(w.draft);
    return status;
}
