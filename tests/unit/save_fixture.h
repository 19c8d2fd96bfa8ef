/* Models that are saved: opening them, and what a number, a module and a model became. */
#ifndef TESTS_SAVE_FIXTURE_H
#define TESTS_SAVE_FIXTURE_H

#include "linear_fixture.h"
#include "scratch.h"

#include "model/model.h"

#include <lowrank/session.h>

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

enum { TOKENS = 7 };

static inline void set_up(void) {
    fixture_make();
    scratch_make();
}

static inline void tear_down(void) {
    scratch_remove();
    fixture_drop();
}

static inline const char *model_path(const char *name) {
    static char path[600];
    const char *folder = getenv("LR_GOLDEN");
    snprintf(path, sizeof path, "%s/models/%s", folder ? folder : "tests/golden", name);
    return path;
}

static inline lr_model *open_model(const char *path) {
    lr_model *model;
    ck_assert_msg(lr_model_open(&model, fixture_ctx, path, NULL) >= 0, "%s", lr_last_error());
    return model;
}

static inline lr_status save(const lr_model *model, const char *path, int32_t dtype, int densify) {
    lr_save_opts opts;
    lr_save_opts_init(&opts, sizeof opts);
    ck_assert_int_eq(opts.dtype, LR_BF16);
    opts.dtype = dtype;
    opts.densify = densify;
    return lr_model_save(model, path, &opts);
}

/* Saves under a fresh name and opens what came out. */
static inline lr_model *saved(const lr_model *model, int32_t dtype, int densify,
                              const char **where) {
    static unsigned turn;
    char name[32];
    snprintf(name, sizeof name, "out-%u", turn++);
    *where = scratch_path(name);
    ck_assert_msg(save(model, *where, dtype, densify) >= 0, "%s", lr_last_error());
    return open_model(*where);
}

static inline lr_linear *linear_at(const lr_model *model, int32_t index) {
    lr_linear *linear;
    ck_assert_int_ge(lr_model_linear(model, index, &linear), 0);
    return linear;
}

static inline json_t *config_of(const char *folder) {
    char path[700];
    snprintf(path, sizeof path, "%s/config.json", folder);
    json_t *config = json_load_file(path, 0, NULL);
    ck_assert_ptr_nonnull(config);
    return config;
}

static inline const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static inline int has_file(const char *folder, const char *name) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

/* Entries of the scratch folder, staging ones included. */
static inline int entries(void) {
    DIR *folder = opendir(scratch);
    int count = -2;
    while (readdir(folder)) count++;
    closedir(folder);
    return count;
}

/* Where no file may be beyond 12,000 bytes: a sentence that holds `words`, and nothing is left. */
static inline void check_full_disk(lr_status (*save_as)(const lr_model *, const char *, int32_t,
                                                        int),
                                   const char *name, const char *words) {
    const struct rlimit little = {12000, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
    lr_model *model = open_model(model_path("llama-f32"));
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &little), 0);
    lr_status status = save_as(model, scratch_path(name), LR_F32, 0);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
    ck_assert_int_eq(status, LR_E_IO);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), words));
    ck_assert_int_eq(entries(), 0);
    lr_model_free(model);
}

/* --- what a number becomes --- */

static inline float rounded(float x, int32_t dtype) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (dtype == LR_F16) {
        int exponent;
        frexpf(x, &exponent);
        float quantum = ldexpf(1, exponent - 11 < -24 ? -24 : exponent - 11);
        return rintf(x / quantum) * quantum;
    }
    if (dtype != LR_BF16) return x;
    bits += 0x7fff + (bits >> 16 & 1);
    bits &= 0xffff0000;
    memcpy(&x, &bits, 4);
    return x;
}

static inline void check_block(const float *from, const float *to, int64_t count,
                               const char *name) {
    float most = 0;
    for (int64_t i = 0; i < count; i++) most = fmaxf(most, fabsf(from[i]));
    for (int64_t i = 0; i < count; i++)
        ck_assert_msg(fabsf(from[i] - to[i]) <= 0.57f * most / 127, "%s: %g became %g of %g", name,
                      from[i], to[i], most);
}

/* Matrices [rows, cols] before and after; cols 0: a vector of rows. */
static inline void check_numbers(const float *from, const float *to, int64_t rows, int64_t cols,
                                 int32_t dtype, const char *name) {
    int64_t count = rows * (cols ? cols : 1);
    if (dtype != LR_Q8_0 || !cols) {
        for (int64_t i = 0; i < count; i++) {
            float wanted = rounded(from[i], dtype);
            ck_assert_msg(memcmp(&to[i], &wanted, 4) == 0, "%s: %lld: %.9g became %.9g", name,
                          (long long)i, from[i], to[i]);
        }
        return;
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c += 32)
            check_block(from + r * cols + c, to + r * cols + c, cols - c < 32 ? cols - c : 32,
                        name);
}

static inline float *dense_of(const lr_linear *linear) {
    float *w = malloc((size_t)(lr_linear_out(linear) * lr_linear_in(linear)) * sizeof *w);
    ck_assert_int_ge(lr_linear_densify(linear, w), 0);
    return w;
}

static inline void check_linear(const lr_linear *from, const lr_linear *to, int32_t dtype) {
    int64_t out = lr_linear_out(from), in = lr_linear_in(from);
    float *one = dense_of(from), *two = dense_of(to), *biases = malloc((size_t)out * 8);
    check_numbers(one, two, out, in, dtype, lr_linear_name(from));
    ck_assert_int_ge(lr_linear_bias(from, biases), 0);
    ck_assert_int_ge(lr_linear_bias(to, biases + out), 0);
    check_numbers(biases, biases + out, out, 0, dtype, lr_linear_name(from));
    free(one);
    free(two);
    free(biases);
}

static inline void check_param(const lr__param *from, const lr__param *to, int32_t dtype) {
    if (!from) {
        ck_assert_ptr_null(to);
        return;
    }
    const lr__kernels *kernels = fixture_ctx->device.kernels;
    int64_t rows = from->matrix.rows, cols = from->matrix.cols;
    float *one = malloc((size_t)(rows * cols) * 4), *two = malloc((size_t)(rows * cols) * 4);
    ck_assert_str_eq(from->name, to->name);
    ck_assert_int_eq(to->matrix.rows, rows);
    lr__matrix_widen(kernels, &from->matrix, 0, rows, cols, one, cols);
    lr__matrix_widen(kernels, &to->matrix, 0, rows, cols, two, cols);
    check_numbers(one, two, rows, from->ndim == 2 ? cols : 0, dtype, from->name);
    free(one);
    free(two);
}

static inline void check_model(const lr_model *from, const lr_model *to, int32_t dtype) {
    lr__graph *one = lr__model_graph(from), *two = lr__model_graph(to);
    check_param(one->embedding, two->embedding, dtype);
    check_param(one->final_norm, two->final_norm, dtype);
    ck_assert_int_eq(one->block_count, two->block_count);
    for (int32_t b = 0; b < one->block_count; b++) {
        check_param(one->blocks[b].attention_norm, two->blocks[b].attention_norm, dtype);
        check_param(one->blocks[b].mlp_norm, two->blocks[b].mlp_norm, dtype);
        check_param(one->blocks[b].q_norm, two->blocks[b].q_norm, dtype);
        check_param(one->blocks[b].k_norm, two->blocks[b].k_norm, dtype);
    }
    for (int32_t i = 0; i < lr__graph_linear_count(one); i++)
        check_linear(*lr__graph_linear(one, i), *lr__graph_linear(two, i), dtype);
    lr__graph_drop(one);
    lr__graph_drop(two);
}

static inline float *logits_of(const lr_model *model) {
    static const int32_t ids[TOKENS] = {3, 1, 4, 1, 5, 9, 2};
    lr_segment segment = {0, TOKENS, ids};
    lr_model_info info = {.size = sizeof info};
    lr_session *session;
    ck_assert_int_ge(lr_model_get_info(model, &info), 0);
    float *logits = malloc((size_t)(TOKENS * info.vocabulary_size) * sizeof *logits);
    ck_assert_int_ge(lr_session_new(&session, model, NULL), 0);
    ck_assert_int_ge(lr_session_forward_all(session, &segment, 1, logits), 0);
    lr_session_free(session);
    return logits;
}

static inline void check_same_logits(const lr_model *one, const lr_model *two, float bound) {
    lr_model_info info = {.size = sizeof info};
    float *a = logits_of(one), *b = logits_of(two);
    ck_assert_int_ge(lr_model_get_info(one, &info), 0);
    for (int i = 0; i < TOKENS * info.vocabulary_size; i++)
        ck_assert_msg(fabsf(a[i] - b[i]) <= bound, "logit %d: %g and %g", i, a[i], b[i]);
    free(a);
    free(b);
}

#endif
