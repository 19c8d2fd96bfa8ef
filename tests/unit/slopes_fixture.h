/* Golden models with statistics of derivatives, and room for what is read of them. */
#ifndef TESTS_SLOPES_FIXTURE_H
#define TESTS_SLOPES_FIXTURE_H

#include "compress/stats.h"
#include "run_fixture.h"

enum { WINDOW = 16, WINDOWS = 5, TEXT = WINDOW * WINDOWS };

static lr_model *model;
static int32_t ids[TEXT], more[TEXT];

static const char *const models[] = {"llama-tied", "llama-bias-sharded", "gguf-mixed/model.gguf",
                                     "qwen3"};
enum { MODELS = sizeof models / sizeof *models };

static inline void open_named(const char *name) {
    lr_model_free(model);
    model = golden_open(name);
    tiny_text(1, TEXT, tiny_vocabulary(model), ids);
    tiny_text(2, TEXT, tiny_vocabulary(model), more);
}

static inline void setup(void) {
    scratch_make();
    open_named("llama-tied");
}

static inline void teardown(void) {
    lr_model_free(model);
    model = NULL;
    scratch_remove();
}

static inline lr_stats_opts stats_options(int32_t gradients) {
    lr_stats_opts opts;
    lr_stats_opts_init(&opts, sizeof opts);
    opts.gradients = gradients;
    return opts;
}

static inline lr_stats *gradients_new(void) {
    lr_stats *stats;
    lr_stats_opts opts = stats_options(1);
    CHECK_OK(lr_stats_new(&stats, model, &opts));
    return stats;
}

static inline lr_stats *gradients_of(const int32_t *text, size_t count) {
    lr_stats *stats = gradients_new();
    CHECK_OK(lr_stats_collect(stats, text, count, WINDOW, 1));
    return stats;
}

/* All that is kept of a module, in one array. */
typedef struct sums {
    int64_t out, in;
    double *fisher_in, *fisher_out, *importance_in, *importance_out, *gram;
    double *numbers;
    int64_t count;
} sums;

static inline sums sums_new(int64_t out, int64_t in) {
    sums s = {.out = out, .in = in, .count = 2 * (out + in) + out * out};
    s.numbers = calloc((size_t)s.count, sizeof *s.numbers);
    s.fisher_in = s.numbers;
    s.fisher_out = s.fisher_in + in;
    s.importance_in = s.fisher_out + out;
    s.importance_out = s.importance_in + in;
    s.gram = s.importance_out + out;
    return s;
}

#endif
