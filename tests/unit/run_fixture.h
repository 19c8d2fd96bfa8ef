/* Golden models, the inputs their modules see, and sums by plain loops. */
#ifndef TESTS_RUN_FIXTURE_H
#define TESTS_RUN_FIXTURE_H

#include "model_fixture.h"

enum { CAPTURES_MOST = 64 };

#define CHECK_NEAR(actual, expected, tolerance)                                                   \
    do {                                                                                          \
        double actual_ = (actual), expected_ = (expected), tolerance_ = (tolerance);              \
        ck_assert_msg(fabs(actual_ - expected_) <= tolerance_, "%s is %.17g, %s is %.17g (> %g)", \
                      #actual, actual_, #expected, expected_, tolerance_);                        \
    } while (0)

static inline const char *golden_model(const char *name) {
    static char paths[4][600];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    const char *folder = getenv("LR_GOLDEN");
    snprintf(path, sizeof paths[0], "%s/models/%s", folder ? folder : "tests/golden", name);
    return path;
}

static inline lr_model *golden_open(const char *name) {
    return tiny_open_path(golden_model(name), 2);
}

static inline int64_t parameters_of(const lr_model *model) {
    lr_model_info info = {.size = sizeof info};
    CHECK_OK(lr_model_get_info(model, &info));
    return info.parameters;
}

/* Freed by the caller. */
static inline lr_linear *linear_of(const lr_model *model, const char *name) {
    lr_linear *linear;
    CHECK_OK(lr_model_find_linear(model, name, &linear));
    return linear;
}

/* The matrix of a module, and its bias in the last column: [out, in + 1]; freed by the caller. */
static inline double *matrix_of(const lr_model *model, const char *name) {
    lr_linear *linear = linear_of(model, name);
    int64_t m = lr_linear_out(linear), n = lr_linear_in(linear);
    float *dense = malloc((size_t)(m * n) * sizeof *dense);
    float *bias = malloc((size_t)m * sizeof *bias);
    double *matrix = malloc((size_t)(m * (n + 1)) * sizeof *matrix);
    CHECK_OK(lr_linear_densify(linear, dense));
    CHECK_OK(lr_linear_bias(linear, bias));
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) matrix[i * (n + 1) + j] = dense[i * n + j];
        matrix[i * (n + 1) + n] = bias[i];
    }
    free(dense);
    free(bias);
    lr_linear_free(linear);
    return matrix;
}

/* All inputs and outputs of one module, token after token. */
typedef struct capture {
    char module[64];
    int64_t in, out, tokens, input_id; /* id of the last forward */
    double *x, *y;
} capture;

typedef struct captures {
    capture items[CAPTURES_MOST];
    int count;
} captures;

static inline capture *captured(captures *all, const char *module) {
    for (int i = 0; i < all->count; i++)
        if (!strcmp(all->items[i].module, module)) return &all->items[i];
    return NULL;
}

static inline double *append_rows(double *to, int64_t held, const lr_tensor *rows) {
    int64_t tokens = rows->shape[0], width = rows->shape[1];
    to = realloc(to, (size_t)((held + tokens) * width) * sizeof *to);
    ck_assert_ptr_nonnull(to);
    for (int64_t i = 0; i < tokens * width; i++)
        to[held * width + i] = (double)((const float *)rows->data)[i];
    return to;
}

static inline lr_status capture_hook(const lr_hook_event *event, void *user) {
    captures *all = user;
    capture *c = captured(all, event->module);
    if (!c) {
        ck_assert_int_lt(all->count, CAPTURES_MOST);
        c = &all->items[all->count++];
        snprintf(c->module, sizeof c->module, "%s", event->module);
        c->in = event->input.shape[1];
        c->out = event->output.shape[1];
    }
    c->input_id = event->input_id;
    c->x = append_rows(c->x, c->tokens, &event->input);
    c->y = append_rows(c->y, c->tokens, &event->output);
    c->tokens += event->input.shape[0];
    return LR_OK;
}

static inline void captures_free(captures *all) {
    for (int i = 0; i < all->count; i++) {
        free(all->items[i].x);
        free(all->items[i].y);
    }
    free(all);
}

/* What the block linears see in consecutive windows, one window for each forward. */
static inline captures *capture_windows(const lr_model *model, const int32_t *ids, int32_t window,
                                        int32_t windows) {
    captures *all = calloc(1, sizeof *all);
    lr_hooks *hooks;
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_hook_add(hooks, "model.layers.*_proj", LR_AFTER_FORWARD, capture_hook, all, NULL));
    lr_session *session = tiny_session(model, 1, LR_STEP_BATCH, 1, hooks);
    for (int32_t w = 0; w < windows; w++) {
        lr_segment segment = {0, window, ids + w * window};
        CHECK_OK(lr_session_forward(session, &segment, 1, NULL));
    }
    lr_session_free(session);
    lr_hooks_free(hooks);
    return all;
}

/* E[x x'] and E[x]; freed by the caller. */
static inline double *direct_gram(const capture *c) {
    double *gram = calloc((size_t)(c->in * c->in), sizeof *gram);
    for (int64_t i = 0; i < c->in; i++)
        for (int64_t j = 0; j < c->in; j++) {
            double sum = 0;
            for (int64_t t = 0; t < c->tokens; t++)
                sum += c->x[t * c->in + i] * c->x[t * c->in + j];
            gram[i * c->in + j] = sum / (double)c->tokens;
        }
    return gram;
}

static inline double *direct_mean(const capture *c) {
    double *mean = calloc((size_t)c->in, sizeof *mean);
    for (int64_t t = 0; t < c->tokens; t++)
        for (int64_t i = 0; i < c->in; i++) mean[i] += c->x[t * c->in + i] / (double)c->tokens;
    return mean;
}

static inline lr_stats *stats_of(const lr_model *model, const int32_t *ids, size_t count,
                                 int32_t window) {
    lr_stats *stats;
    CHECK_OK(lr_stats_new(&stats, model, NULL));
    CHECK_OK(lr_stats_collect(stats, ids, count, window, 1));
    return stats;
}

#define CHECK_STATS(stats, capture, tolerance) \
    check_stats(stats, capture, (capture)->module, tolerance)

/* Statistics against the sums of a capture, errors relative to the channels' sizes. */
static inline void check_stats(const lr_stats *stats, const capture *c, const char *module,
                               double tolerance) {
    int64_t n = c->in;
    double *gram = direct_gram(c), *mean = direct_mean(c);
    double *got = calloc((size_t)(n * n), sizeof *got), *got_mean = calloc((size_t)n, sizeof *got);
    CHECK_OK(lr_stats_read(stats, module, got, got_mean));
    for (int64_t i = 0; i < n; i++) {
        double size = sqrt(gram[i * n + i]);
        CHECK_NEAR(got_mean[i], mean[i], tolerance * size);
        for (int64_t j = 0; j < n; j++) {
            CHECK_NEAR(got[i * n + j], gram[i * n + j], tolerance * size * sqrt(gram[j * n + j]));
            ck_assert(got[i * n + j] == got[j * n + i]);
        }
    }
    free(gram);
    free(mean);
    free(got);
    free(got_mean);
}

/* Logits of `windows` consecutive windows, freed by the caller. */
static inline float *window_logits(const lr_model *model, const int32_t *ids, int32_t window,
                                   int32_t windows) {
    size_t vocabulary = (size_t)tiny_vocabulary(model);
    float *logits = malloc((size_t)(window * windows) * vocabulary * sizeof *logits);
    lr_session *session = tiny_session(model, 1, LR_STEP_BATCH, 1, NULL);
    for (int32_t w = 0; w < windows; w++) {
        lr_segment segment = {0, window, ids + w * window};
        CHECK_OK(lr_session_forward_all(session, &segment, 1,
                                        logits + (size_t)(w * window) * vocabulary));
    }
    lr_session_free(session);
    return logits;
}

#endif
