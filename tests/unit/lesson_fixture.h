/* Golden models that learn, and PyTorch's gradients of them. */
#ifndef TESTS_LESSON_FIXTURE_H
#define TESTS_LESSON_FIXTURE_H

#include "golden_model.h"
#include "model/learn.h"

enum { MOST_ROWS = 8 };

typedef struct lesson {
    lr_model *model;
    lr__graph *graph;
    lr_session *session;
    lr__gradients gradients;
    lr__loss_sums sums;
} lesson;

static inline void train(const lr__param *param, int32_t is_bias, void *user) {
    (void)is_bias;
    CHECK_OK(lr__gradients_add(user, (lr__param *)param));
}

static inline lesson open_lesson(lr_ctx *ctx, const char *name, int32_t rows, lr_hooks *hooks,
                                 lr__param_fn which) {
    lesson l = {0};
    lr_session_opts opts;
    lr_session_opts_init(&opts, sizeof opts);
    opts.rows = rows;
    opts.kind = LR_STEP_BATCH;
    opts.no_cache = 1;
    opts.hooks = hooks;
    CHECK_OK(lr_model_open(&l.model, ctx, golden_model_path(name), NULL));
    CHECK_OK(lr_session_new(&l.session, l.model, &opts));
    l.graph = lr__model_graph(l.model);
    lr__graph_each_param(l.graph, which, &l.gradients);
    return l;
}

static inline void close_lesson(lesson *l) {
    lr__gradients_clear(&l->gradients);
    lr_session_free(l->session);
    lr__graph_drop(l->graph);
    lr_model_free(l->model);
}

static inline void learn(lesson *l, const golden *g, lr_session *teacher, double alpha,
                         double temperature, int32_t keeps_all) {
    lr_segment segments[MOST_ROWS];
    const lr__lesson what = {.gradients = &l->gradients,
                             .teacher = teacher,
                             .alpha = alpha,
                             .temperature = temperature,
                             .scale = 1,
                             .keeps_all = keeps_all};
    golden_segments(g, segments);
    CHECK_OK(lr__session_learn(l->session, segments, g->rows, &what, &l->sums));
}

static inline lr_ctx *context_of(int32_t threads) {
    lr_ctx *ctx;
    lr_ctx_opts opts;
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.threads = threads;
    CHECK_OK(lr_ctx_new(&ctx, &opts));
    return ctx;
}

static inline void check_gradient(const char *model, const lr__gradient *got, const float *wanted) {
    size_t count = (size_t)lr__param_count(got->param);
    double most = 0, worst = 0;
    for (size_t i = 0; i < count; i++) {
        most = fmax(most, fabs((double)wanted[i]));
        worst = fmax(worst, fabs((double)got->values[i] - (double)wanted[i]));
    }
    ck_assert_msg(most > 0 && worst <= 2e-5 * most + 1e-8, "%s, %s: off by %g of %g", model,
                  got->param->name, worst, most);
}

/* A gradient against PyTorch's of the same name. */
static inline void check_golden_gradient(const char *model, const lr__stored_list *tensors,
                                         const lr__gradient *got) {
    const lr__stored *stored = lr__stored_find(tensors, got->param->name);
    ck_assert_msg(stored != NULL, "%s: no gradient of %s", model, got->param->name);
    ck_assert_uint_eq(stored->bytes, (size_t)lr__param_count(got->param) * sizeof(float));
    check_gradient(model, got, stored->data);
}

#endif
