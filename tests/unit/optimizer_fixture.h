/* Modules of one or two parameters, trained by gradients that a test writes itself. */
#ifndef TESTS_OPTIMIZER_FIXTURE_H
#define TESTS_OPTIMIZER_FIXTURE_H

#include "linear_fixture.h"
#include "model_fixture.h"

#include "optim/optimizer.h"

static inline lr_optimizer_opts optimizer_opts(int32_t rule, double learning_rate) {
    lr_optimizer_opts opts;
    lr_optimizer_opts_init(&opts, sizeof opts);
    opts.rule = rule;
    opts.learning_rate = learning_rate;
    return opts;
}

/* A rule of the host's that is SGD with momentum 0.9, one number of state, decay in the gradient.
 */
static inline lr_status heavy_ball(const lr_update *u, void *user) {
    (void)user;
    for (int64_t i = 0; i < u->count; i++) {
        float g = u->gradient[i] + (float)u->weight_decay * u->values[i];
        u->state[i] = 0.9f * u->state[i] + g;
        u->values[i] -= (float)u->learning_rate * u->state[i];
    }
    return LR_OK;
}

static inline lr_optimizer *optimizer_of(const lr_optimizer_opts *opts) {
    lr_optimizer *optimizer;
    CHECK_OK(lr_optimizer_new(&optimizer, fixture_ctx, opts));
    return optimizer;
}

/* A parameter of the given numbers in memory of its own. */
static inline lr__param *param_of(const char *name, const float *numbers, int64_t rows,
                                  int64_t cols, int32_t ndim) {
    lr__param *param;
    CHECK_OK(lr__param_new(&param, name, rows, cols, ndim));
    memcpy(lr__param_floats(param), numbers, (size_t)(rows * cols) * sizeof(float));
    return param;
}

/* One matrix, "<name>.weight". */
static inline lr_linear *dense_of(const char *name, const float *numbers, int64_t rows,
                                  int64_t cols) {
    lr_linear *linear;
    char full[100];
    snprintf(full, sizeof full, "%s.weight", name);
    lr__param *weight = param_of(full, numbers, rows, cols, 2);
    CHECK_OK(lr__linear_dense(&linear, fixture_ctx, name, weight, NULL));
    lr__param_drop(weight);
    return linear;
}

/* One diagonal, "<name>.diagonal". */
static inline lr_linear *diagonal_of(const char *name, const float *numbers, int64_t size) {
    lr_linear *linear = new_linear(name, size, size);
    char full[100];
    snprintf(full, sizeof full, "%s.diagonal", name);
    lr__param *param = param_of(full, numbers, size, 1, 1);
    lr__op op = {.kind = LR__OP_DIAGONAL, .out = size, .in = size, .param = param};
    CHECK_OK(lr__linear_add_term(linear, 1, &op, 1, NULL));
    lr__param_drop(param);
    return linear;
}

static inline void add(lr_optimizer *optimizer, lr_linear *linear) {
    CHECK_OK(lr_optimizer_add_linear(optimizer, linear, NULL, NULL, NULL));
}

static inline lr__param *op_param(const lr_linear *linear, int32_t term, int32_t op) {
    return linear->terms[term].ops[op].param;
}

static inline const float *values_of(const lr_linear *linear) {
    return lr__param_floats(op_param(linear, 0, 0));
}

static inline float *gradient_of(lr_optimizer *optimizer, const lr__param *param) {
    float *gradient = lr__gradient_of(lr__optimizer_gradients(optimizer), param);
    ck_assert_ptr_nonnull(gradient);
    return gradient;
}

static inline void set_gradient(lr_optimizer *optimizer, const lr_linear *linear,
                                const float *numbers) {
    lr__param *param = op_param(linear, 0, 0);
    memcpy(gradient_of(optimizer, param), numbers, (size_t)lr__param_count(param) * sizeof(float));
}

#endif
