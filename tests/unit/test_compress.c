/* Compression of whole models, against spectra and losses of the inputs that hooks saw. */
#include "jacobi.h"
#include "run_fixture.h"

enum { WINDOW = 16, WINDOWS = 8, TEXT = WINDOW * WINDOWS, EVENTS_MOST = 64 };

static lr_model *model;
static lr_stats *stats;
static captures *seen;
static int32_t ids[TEXT];

static const char *const models[] = {"llama-tied", "llama-bias-sharded", "gguf-mixed/model.gguf"};
static const char *const methods[] = {"svd", "whiten", "whiten-eig", "pca", "afm", "asvd"};
enum { MODELS = 3, METHODS = 6, SVD = 0, PCA = 3, AFM = 4, ASVD = 5 };

/* Statistics and captures of the same forwards. */
static void watch(void) {
    lr_hooks *hooks;
    lr_session_opts opts;
    lr_session *session;
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_stats_new(&stats, model, NULL));
    CHECK_OK(lr_stats_attach(stats, hooks, 1));
    seen = calloc(1, sizeof *seen);
    CHECK_OK(lr_hook_add(hooks, "model.layers.*_proj", LR_AFTER_FORWARD, capture_hook, seen, NULL));
    lr_session_opts_init(&opts, sizeof opts);
    opts.kind = LR_STEP_BATCH;
    opts.no_cache = 1;
    opts.hooks = hooks;
    CHECK_OK(lr_session_new(&session, model, &opts));
    for (int w = 0; w < WINDOWS; w++) {
        lr_segment segment = {0, WINDOW, ids + w * WINDOW};
        CHECK_OK(lr_session_forward(session, &segment, 1, NULL));
    }
    lr_session_free(session);
    lr_hooks_free(hooks);
}

static void drop(void) {
    lr_stats_free(stats);
    lr_model_free(model);
    if (seen) captures_free(seen);
    stats = NULL;
    model = NULL;
    seen = NULL;
}

static void open_named(const char *name) {
    drop();
    model = golden_open(name);
    tiny_text(1, TEXT, tiny_vocabulary(model), ids);
    watch();
}

static void setup(void) {
    scratch_make();
    open_named("llama-tied");
}

static void teardown(void) {
    drop();
    scratch_remove();
}

static const char *storage = "two-factor";

static lr_plan *plan_of(const char *ranks) {
    lr_plan *plan;
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.ranks = ranks;
    opts.storage = storage;
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    return plan;
}

typedef struct events {
    lr_compress_event items[EVENTS_MOST];
    char names[EVENTS_MOST][64];
    int count, stop_at; /* 0: never */
} events;

/* Descending, and before the rank what the event does not predict to be lost. */
static void check_spectrum(const lr_compress_event *event) {
    double sum = 0, head = 0;
    ck_assert_int_ge(event->spectrum_count, event->rank);
    ck_assert_int_le(event->spectrum_count, event->full_rank);
    for (int64_t i = 0; i < event->spectrum_count; i++) {
        if (i) ck_assert_double_le(event->spectrum[i], event->spectrum[i - 1]);
        ck_assert_double_ge(event->spectrum[i], 0);
        sum += event->spectrum[i];
        if (i < event->rank) head += event->spectrum[i];
    }
    if (event->spectrum_count == event->full_rank)
        CHECK_NEAR(sum, event->total, 1e-9 * event->total);
    ck_assert_double_le(sum, (1 + 1e-9) * event->total);
    CHECK_NEAR(event->total - head, event->predicted, 1e-9 * event->total);
}

static int32_t record(const lr_compress_event *event, void *user) {
    events *all = user;
    ck_assert_uint_eq(event->size, sizeof *event);
    check_spectrum(event);
    snprintf(all->names[all->count], sizeof all->names[0], "%s", event->module);
    all->items[all->count] = *event;
    return ++all->count == all->stop_at;
}

static lr_status run(lr_model *target, const lr_plan *plan, const char *method, events *all) {
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = method;
    return lr_compress(target, plan, stats, &opts, all ? record : NULL, all);
}

static lr_model *compressed(const lr_plan *plan, const char *method, events *all) {
    lr_model *copy;
    CHECK_OK(lr_model_clone(&copy, model));
    CHECK_OK(run(copy, plan, method, all));
    return copy;
}

/* E (x; 1) for all captured tokens: [out, tokens] of a [out, in + 1]. */
static double *outputs_of(const double *matrix, const capture *c) {
    double *y = calloc((size_t)(c->out * c->tokens), sizeof *y);
    for (int64_t i = 0; i < c->out; i++)
        for (int64_t t = 0; t < c->tokens; t++) {
            double sum = matrix[i * (c->in + 1) + c->in];
            for (int64_t j = 0; j < c->in; j++)
                sum += matrix[i * (c->in + 1) + j] * c->x[t * c->in + j];
            y[i * c->tokens + t] = sum;
        }
    return y;
}

static void centre_rows(double *y, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++) {
        double sum = 0;
        for (int64_t j = 0; j < cols; j++) sum += y[i * cols + j];
        for (int64_t j = 0; j < cols; j++) y[i * cols + j] -= sum / (double)cols;
    }
}

/* What ASVD scales channels by: mean |x|, max |x| or rms, and to what power. */
static const char *const statistics[] = {"mean", "max", "rms"};
static int statistic = 0;
static double power = 0.5;

static double channel_scale(const capture *c, int64_t channel) {
    double mean = 0, most = 0, square = 0;
    for (int64_t t = 0; t < c->tokens; t++) {
        double x = fabs(c->x[t * c->in + channel]);
        mean += x / (double)c->tokens;
        most = fmax(most, x);
        square += x * x / (double)c->tokens;
    }
    return pow(statistic == 0 ? mean : statistic == 1 ? most : sqrt(square), power);
}

/* [out, in + 1] with its channels as the method weighs them. */
static void scale_channels(double *matrix, const capture *c, int method) {
    for (int64_t j = 0; j < c->in && method == ASVD; j++) {
        double scale = channel_scale(c, j);
        for (int64_t i = 0; i < c->out; i++) matrix[i * (c->in + 1) + j] *= scale;
    }
}

/* Squared singular values of what a method approximates, falling. */
static double *spectrum_of(const capture *c, int method) {
    double *w = matrix_of(model, c->module), *squares;
    int64_t m = c->out, n = c->in;
    scale_channels(w, c, method);
    if (method != SVD && method != ASVD) {
        for (int64_t i = 0; i < m; i++) w[i * (n + 1) + n] = 0;
        double *y = outputs_of(w, c);
        if (method == AFM) centre_rows(y, m, c->tokens);
        squares = jacobi_squares(y, m, c->tokens);
        for (int64_t i = 0; i < m; i++) squares[i] /= (double)c->tokens;
        free(y);
    } else {
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) w[i * n + j] = w[i * (n + 1) + j];
        squares = jacobi_squares(w, m, n);
    }
    free(w);
    return squares;
}

static double sum_of(const double *values, int64_t from, int64_t to) {
    double sum = 0;
    for (int64_t i = to; i-- > from;) sum += values[i];
    return sum;
}

/* E |y - y~|^2 over the captured tokens; of the matrices alone for plain and scaled SVD. */
static double loss_of(const lr_model *target, const capture *c, int method) {
    double *w = matrix_of(model, c->module), *after = matrix_of(target, c->module), sum = 0;
    int64_t count = c->out * (c->in + 1);
    for (int64_t i = 0; i < count; i++) w[i] -= after[i];
    scale_channels(w, c, method);
    if (method != SVD && method != ASVD) {
        double *y = outputs_of(w, c);
        for (int64_t i = 0; i < c->out * c->tokens; i++) sum += y[i] * y[i] / (double)c->tokens;
        free(y);
    } else {
        for (int64_t i = 0; i < count; i++) sum += w[i] * w[i];
    }
    free(w);
    free(after);
    return sum;
}

/* Predicted, measured and explicit loss are the tail of an independent spectrum. */
static void check_method(int method) {
    lr_plan *plan = plan_of("{\"*\": 7, \"down_proj\": 11}");
    events all = {0};
    lr_model *copy = compressed(plan, methods[method], &all);
    ck_assert_int_eq(all.count, lr_plan_count(plan));
    for (int e = 0; e < all.count; e++) {
        const lr_compress_event *event = &all.items[e];
        ck_assert_str_eq(all.names[e], lr_plan_module(plan, e));
        ck_assert_int_eq(event->rank, lr_plan_rank(plan, e));
        const capture *c = captured(seen, all.names[e]);
        double *squares = spectrum_of(c, method), total = sum_of(squares, 0, c->out);
        CHECK_NEAR(event->total, total, 1e-9 * total);
        CHECK_NEAR(event->predicted, sum_of(squares, event->rank, c->out), 1e-9 * total);
        CHECK_NEAR(event->measured, event->predicted, 1e-6 * total);
        CHECK_NEAR(loss_of(copy, c, method), event->predicted, 1e-5 * total);
        free(squares);
        lr_linear *linear = linear_of(copy, all.names[e]);
        int is_pivot = !strcmp(storage, "pivot") && event->rank * event->rank > c->out;
        ck_assert_int_eq(lr_linear_kind(linear), is_pivot ? LR_LINEAR_PIVOT : LR_LINEAR_LOW_RANK);
        ck_assert_str_eq(event->storage, is_pivot ? "pivot" : "two-factor");
        ck_assert_double_le(event->largest_mix, 2 + 1e-9);
        ck_assert_int_eq(event->largest_mix > 0, is_pivot);
        ck_assert_int_eq(event->sharers, 1);
        ck_assert_int_eq(lr_linear_rank(linear), event->rank);
        lr_linear_free(linear);
    }
    lr_model_free(copy);
    lr_plan_free(plan);
}

START_TEST(test_losses) {
    int which = _i / METHODS;
    open_named(models[which % MODELS]);
    storage = which < MODELS ? "two-factor" : "pivot";
    check_method(_i % METHODS);
}
END_TEST

static double relative_difference(const double *a, const double *b, int64_t count) {
    double square = 0, whole = 0;
    for (int64_t i = 0; i < count; i++) {
        square += (a[i] - b[i]) * (a[i] - b[i]);
        whole += a[i] * a[i];
    }
    return sqrt(square / whole);
}

/* O7: where the spectrum has a gap there is one optimum, whatever the way there. */
START_TEST(test_same_optimum) {
    lr_plan *plan = plan_of("{\"*\": 1}");
    for (int i = 0; i < seen->count; i++) {
        const capture *c = &seen->items[i];
        int64_t full = c->out < c->in ? c->out : c->in, best = 1;
        double *s = spectrum_of(c, 3);
        for (int64_t r = 2; r < full; r++)
            if (s[r - 1] / s[r] > s[best - 1] / s[best]) best = r;
        ck_assert_msg(s[best - 1] > 1.05 * s[best], "%s: no gap", c->module);
        CHECK_OK(lr_plan_set_rank(plan, c->module, best));
        free(s);
    }
    lr_model *copies[3];
    for (int k = 0; k < 3; k++) copies[k] = compressed(plan, methods[1 + k], NULL);
    for (int i = 0; i < seen->count; i++) {
        const capture *c = &seen->items[i];
        double *a = matrix_of(copies[0], c->module);
        for (int k = 1; k < 3; k++) {
            double *b = matrix_of(copies[k], c->module);
            double difference = relative_difference(a, b, c->out * (c->in + 1));
            ck_assert_msg(difference < 1e-5, "%s: %g", c->module, difference);
            free(b);
        }
        free(a);
    }
    for (int k = 0; k < 3; k++) lr_model_free(copies[k]);
    lr_plan_free(plan);
}
END_TEST

/* O4: each statistic, in its usual power and in another, loses the tail of the scaled weight. */
START_TEST(test_asvd_scales) {
    static const double usual[] = {0.5, 0.5, 1};
    lr_plan *plan = plan_of("{\"*\": 6}");
    events all = {0};
    lr_model *copy;
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    statistic = _i % 3;
    power = _i < 3 ? usual[statistic] : 0.25;
    opts.method = "asvd";
    opts.statistic = statistics[statistic];
    if (_i >= 3) opts.alpha = power;
    CHECK_OK(lr_model_clone(&copy, model));
    CHECK_OK(lr_compress(copy, plan, stats, &opts, record, &all));
    ck_assert_int_eq(all.count, seen->count);
    for (int e = 0; e < all.count; e++) {
        const capture *c = captured(seen, all.names[e]);
        double *squares = spectrum_of(c, ASVD), total = sum_of(squares, 0, c->out);
        CHECK_NEAR(all.items[e].total, total, 1e-9 * total);
        CHECK_NEAR(all.items[e].predicted, sum_of(squares, 6, c->out), 1e-9 * total);
        CHECK_NEAR(loss_of(copy, c, ASVD), all.items[e].predicted, 1e-5 * total);
        free(squares);
    }
    lr_model_free(copy);
    lr_plan_free(plan);
}
END_TEST

/* O4: without the power ASVD is the plain SVD. */
START_TEST(test_asvd_options) {
    lr_plan *plan = plan_of("{\"*\": 6}");
    lr_model *plain = compressed(plan, "svd", NULL);
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = "asvd";
    opts.alpha = 0;
    for (int k = 0; k < 3; k++) {
        lr_model *copy;
        opts.statistic = statistics[k];
        CHECK_OK(lr_model_clone(&copy, model));
        CHECK_OK(lr_compress(copy, plan, stats, &opts, NULL, NULL));
        for (int i = 0; i < seen->count; i++) {
            const capture *c = &seen->items[i];
            double *a = matrix_of(plain, c->module), *b = matrix_of(copy, c->module);
            ck_assert_double_lt(relative_difference(a, b, c->out * (c->in + 1)), 1e-6);
            free(a);
            free(b);
        }
        lr_model_free(copy);
    }
    opts.statistic = "median";
    CHECK_FAILS(lr_compress(model, plan, stats, &opts, NULL, NULL), LR_E_INVALID,
                "statistic \"median\", expected mean, max or rms");
    opts.statistic = "mean";
    opts.alpha = NAN;
    CHECK_FAILS(lr_compress(model, plan, stats, &opts, NULL, NULL), LR_E_INVALID, "alpha is");
    lr_model_free(plain);
    lr_plan_free(plan);
}
END_TEST

/* Rounds bring the others to the loss of pca; rounding to a type costs little beyond it. */
START_TEST(test_refits) {
    static const char *const names[] = {"svd", "asvd", "pca"};
    lr_plan *plan = plan_of("{\"*\": 7}");
    events best = {0};
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    lr_model_free(compressed(plan, "pca", &best));
    for (int k = 0; k < 3; k++) {
        events all = {0};
        lr_model *copy;
        opts.method = names[k];
        opts.refits = 60;
        opts.dtype = k < 2 ? LR_F32 : LR_BF16;
        CHECK_OK(lr_model_clone(&copy, model));
        CHECK_OK(lr_compress(copy, plan, stats, &opts, record, &all));
        for (int e = 0; e < all.count; e++) {
            double least = best.items[e].measured, stored = all.items[e].stored;
            double total = best.items[e].total;
            ck_assert_double_ge(stored, least - 1e-6 * total);
            ck_assert_double_le(stored, 1.02 * least + 1e-4 * total);
            CHECK_NEAR(loss_of(copy, captured(seen, all.names[e]), PCA), stored, 1e-5 * total);
        }
        lr_model_free(copy);
    }
    lr_stats *all_stats = stats;
    stats = NULL;
    opts.method = "svd";
    CHECK_FAILS(lr_compress(model, plan, NULL, &opts, NULL, NULL), LR_E_INVALID, "refits need");
    stats = all_stats;
    opts.refits = -1;
    CHECK_FAILS(lr_compress(model, plan, stats, &opts, NULL, NULL), LR_E_INVALID, "refits -1");
    opts.refits = 0;
    opts.dtype = LR_I32;
    CHECK_FAILS(lr_compress(model, plan, stats, &opts, NULL, NULL), LR_E_INVALID, "dtype i32");
    lr_plan_free(plan);
}
END_TEST

/* Exact statistics serve "qr" and every other method; the losses are those of the moments. */
START_TEST(test_exact_statistics) {
    static const char *const names[] = {"qr", "pca", "whiten", "afm", "asvd"};
    lr_plan *plan = plan_of("{\"*\": 7}");
    lr_stats *moments = stats, *exact;
    lr_stats_opts opts;
    lr_stats_opts_init(&opts, sizeof opts);
    opts.exact = 1;
    CHECK_OK(lr_stats_new(&exact, model, &opts));
    CHECK_OK(lr_stats_collect(exact, ids, TEXT, WINDOW, 1));
    for (int k = 0; k < 5; k++) {
        events by_exact = {0}, by_moments = {0};
        stats = exact;
        lr_model *a = compressed(plan, names[k], &by_exact);
        stats = moments;
        lr_model *b = compressed(plan, k ? names[k] : "pca", &by_moments);
        for (int e = 0; e < by_exact.count; e++) {
            const lr_compress_event *x = &by_exact.items[e], *y = &by_moments.items[e];
            CHECK_NEAR(x->total, y->total, 1e-5 * y->total);
            CHECK_NEAR(x->predicted, y->predicted, 1e-5 * y->total);
            CHECK_NEAR(x->measured, y->measured, 1e-5 * y->total);
        }
        lr_model_free(a);
        lr_model_free(b);
    }
    lr_stats_free(exact);
    lr_plan_free(plan);
}
END_TEST

/* Centred mimicking: the mean of the outputs stays, and with its bias it is never worse than
 * uncentred at this rank, nor better than uncentred at the next. */
START_TEST(test_afm) {
    open_named(models[_i]);
    for (int rank = 1; rank < 17; rank += 5) {
        char ranks[32];
        snprintf(ranks, sizeof ranks, "{\"*\": %d}", rank);
        lr_plan *plan = plan_of(ranks);
        lr_model *afm = compressed(plan, "afm", NULL), *pca = compressed(plan, "pca", NULL);
        for (int i = 0; i < seen->count; i++) {
            const capture *c = &seen->items[i];
            double *before = matrix_of(model, c->module), *after = matrix_of(afm, c->module);
            double *x = outputs_of(before, c), *y = outputs_of(after, c), *s = spectrum_of(c, 3);
            double total = sum_of(s, 0, c->out), loss = loss_of(afm, c, AFM);
            for (int64_t r = 0; r < c->out; r++) {
                double mean[2] = {sum_of(x + r * c->tokens, 0, c->tokens),
                                  sum_of(y + r * c->tokens, 0, c->tokens)};
                CHECK_NEAR(mean[1] / (double)c->tokens, mean[0] / (double)c->tokens,
                           1e-6 * (1 + sqrt(total)));
            }
            ck_assert(loss <= loss_of(pca, c, 3) + 1e-6 * total);
            ck_assert(loss >= sum_of(s, rank + 1, c->out) - 1e-6 * total);
            free(before);
            free(after);
            free(x);
            free(y);
            free(s);
        }
        lr_model_free(afm);
        lr_model_free(pca);
        lr_plan_free(plan);
    }
}
END_TEST

/* A live session evaluates the new bias as the module itself does. */
START_TEST(test_afm_in_a_session) {
    lr_plan *plan = plan_of("{\"*\": 9}");
    lr_model *copy = compressed(plan, "afm", NULL);
    captures *now = capture_windows(copy, ids, WINDOW, 2);
    for (int i = 0; i < now->count; i++) {
        const capture *c = &now->items[i];
        double *matrix = matrix_of(copy, c->module), *y = outputs_of(matrix, c);
        for (int64_t t = 0; t < c->tokens; t++)
            for (int64_t r = 0; r < c->out; r++)
                CHECK_NEAR(c->y[t * c->out + r], y[r * c->tokens + t], 1e-4);
        free(matrix);
        free(y);
    }
    captures_free(now);
    lr_model_free(copy);
    lr_plan_free(plan);
}
END_TEST

static lr_plan *full_plan(void) {
    lr_plan *plan = plan_of("{\"*\": 1}");
    for (int i = 0; i < seen->count; i++) {
        const capture *c = &seen->items[i];
        CHECK_OK(lr_plan_set_rank(plan, c->module, c->out < c->in ? c->out : c->in));
    }
    return plan;
}

static double perplexity_of(const lr_model *target) {
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = WINDOW;
    CHECK_OK(lr_eval(&result, target, ids, TEXT, &opts));
    return result.perplexity;
}

/* O29: logits to 1e-4, perplexity to four digits. */
START_TEST(test_full_rank) {
    open_named(models[_i / METHODS]);
    lr_plan *plan = full_plan();
    lr_model *copy = compressed(plan, methods[_i % METHODS], NULL);
    int64_t count = (int64_t)TEXT * tiny_vocabulary(model);
    float *before = window_logits(model, ids, WINDOW, WINDOWS);
    float *after = window_logits(copy, ids, WINDOW, WINDOWS);
    ck_assert_msg(tiny_distance(before, after, count) < 1e-4, "%g",
                  tiny_distance(before, after, count));
    CHECK_NEAR(perplexity_of(copy) / perplexity_of(model), 1, 5e-5);
    free(before);
    free(after);
    lr_model_free(copy);
    lr_plan_free(plan);
}
END_TEST

/* O31: ranks up to the few outputs of k and v, and through files. */
START_TEST(test_narrow_outputs) {
    static const lr_save_opts unset;
    char ranks[64], name[16];
    int64_t whole = parameters_of(model);
    for (int rank = 16; rank <= 18; rank++) {
        snprintf(ranks, sizeof ranks, "{\"{k,v}_proj\": %d}", rank);
        lr_plan *plan = plan_of(ranks);
        lr_model *copy = compressed(plan, "pca", NULL), *opened;
        ck_assert_int_eq(parameters_of(copy), whole + 4 * (rank * (18 + 36) - 18 * 36));
        lr_save_opts opts = unset;
        lr_save_opts_init(&opts, sizeof opts);
        opts.dtype = LR_F32;
        snprintf(name, sizeof name, "saved%d", rank);
        CHECK_OK(lr_model_save(copy, scratch_path(name), &opts));
        opened = tiny_open_path(scratch_path(name), 2);
        int64_t count = (int64_t)WINDOW * tiny_vocabulary(model);
        float *a = window_logits(copy, ids, WINDOW, 1), *b = window_logits(opened, ids, WINDOW, 1);
        CHECK_SAME_BITS(a, b, count);
        free(a);
        free(b);
        lr_model_free(opened);
        lr_model_free(copy);
        lr_plan_free(plan);
    }
}
END_TEST

static const tiny gqa = {.vocabulary = 8,
                         .hidden = 2048,
                         .wide = 8,
                         .layers = 1,
                         .heads = 8,
                         .kv_heads = 4,
                         .dim = 64,
                         .context = 16};

/* O31: k and v of TinyLlama's shape, 256 x 2048, through files at ranks up to their outputs. */
START_TEST(test_wide_inputs_of_narrow_outputs) {
    static const char *const names[] = {"model.layers.0.self_attn.k_proj",
                                        "model.layers.0.self_attn.v_proj"};
    static const int64_t ranks[] = {199, 227, 256};
    lr_save_opts opts;
    lr_save_opts_init(&opts, sizeof opts);
    opts.dtype = LR_F32;
    opts.force = 1;
    drop();
    model = tiny_open_path(tiny_write(&gqa, "gqa"), 2);
    storage = _i < 3 ? "two-factor" : "pivot";
    lr_plan *plan = plan_of("{\"{k,v}_proj\": 1}");
    for (int k = 0; k < 2; k++) CHECK_OK(lr_plan_set_rank(plan, names[k], ranks[_i % 3]));
    lr_model *copy = compressed(plan, "svd", NULL), *opened;
    CHECK_OK(lr_model_save(copy, scratch_path("saved"), &opts));
    opened = tiny_open_path(scratch_path("saved"), 2);
    ck_assert_int_eq(parameters_of(opened), parameters_of(copy));
    for (int k = 0; k < 2; k++) {
        lr_linear *linear = linear_of(opened, names[k]);
        double *a = matrix_of(copy, names[k]), *b = matrix_of(opened, names[k]);
        ck_assert_int_eq(lr_linear_rank(linear), ranks[_i % 3]);
        ck_assert_int_eq(lr_linear_kind(linear), _i < 3 ? LR_LINEAR_LOW_RANK : LR_LINEAR_PIVOT);
        ck_assert_mem_eq(a, b, sizeof(double) * 256 * 2049);
        lr_linear_free(linear);
        free(a);
        free(b);
    }
    lr_model_free(opened);
    lr_model_free(copy);
    lr_plan_free(plan);
}
END_TEST

/* A model that is as it was: every module dense, every bit of the logits. */
static void check_untouched(const float *before) {
    float *after = window_logits(model, ids, WINDOW, 1);
    CHECK_SAME_BITS(before, after, (int64_t)WINDOW * tiny_vocabulary(model));
    free(after);
    for (int32_t i = 0; i < lr_model_linear_count(model); i++) {
        lr_linear *linear;
        CHECK_OK(lr_model_linear(model, i, &linear));
        ck_assert_int_eq(lr_linear_kind(linear), LR_LINEAR_DENSE);
        lr_linear_free(linear);
    }
}

START_TEST(test_refused) {
    lr_plan *plan = plan_of("{\"*\": 3}");
    float *before = window_logits(model, ids, WINDOW, 1);
    lr_stats *all = stats, *mlp, *none;
    lr_stats_opts opts;
    CHECK_FAILS(run(model, plan, "magic", NULL), LR_E_INVALID, "method \"magic\", expected svd");
    lr_stats_opts_init(&opts, sizeof opts);
    CHECK_OK(lr_stats_new(&none, model, NULL));
    opts.pattern = "model.layers.*.mlp.*";
    CHECK_OK(lr_stats_new(&mlp, model, &opts));
    CHECK_OK(lr_stats_collect(mlp, ids, TEXT, WINDOW, 1));
    stats = NULL;
    CHECK_FAILS(run(model, plan, "pca", NULL), LR_E_INVALID, "method pca needs statistics");
    stats = none;
    CHECK_FAILS(run(model, plan, "afm", NULL), LR_E_INVALID, "q_proj: no token was counted");
    stats = mlp;
    CHECK_FAILS(run(model, plan, "whiten", NULL), LR_E_NOTFOUND, "q_proj: no statistics");
    stats = all;
    CHECK_FAILS(lr_compress(NULL, plan, stats, NULL, NULL, NULL), LR_E_INVALID, "needed");
    CHECK_FAILS(lr_compress(model, NULL, stats, NULL, NULL, NULL), LR_E_INVALID, "needed");
    lr_plan_free(plan);
    lr_model *other = golden_open("llama-f32");
    plan = plan_of("{\"*\": 3, \"v_proj\": 18}");
    CHECK_FAILS(run(other, plan, "pca", NULL), LR_E_SHAPE, "q_proj: statistics of 36 inputs");
    CHECK_FAILS(run(other, plan, "svd", NULL), LR_E_NOTFOUND, "model.layers.1");
    ck_assert_int_eq(parameters_of(other), 37 * 20 + 20 * 80 * 2 + 20 * 16 * 2 + 20 * 12 * 3 + 60);
    check_untouched(before);
    free(before);
    lr_model_free(other);
    lr_plan_free(plan);
    lr_stats_free(mlp);
    lr_stats_free(none);
}
END_TEST

static int32_t cancel_at_fourth(const char *stage, int64_t done, int64_t total, void *user) {
    (void)user;
    ck_assert_str_eq(stage, "factorise");
    ck_assert_int_eq(total, 14);
    return done == 4;
}

START_TEST(test_cancelled) {
    lr_plan *plan = plan_of("{\"*\": 3}");
    float *before = window_logits(model, ids, WINDOW, 1);
    for (int stop = 1; stop <= 14; stop += 6) {
        events all = {.stop_at = stop};
        CHECK_FAILS(run(model, plan, "pca", &all), LR_E_CANCELLED, "compress: cancelled at model");
        ck_assert_int_eq(all.count, stop);
        check_untouched(before);
    }
    lr_ctx *ctx;
    lr_ctx_opts opts;
    lr_model *watched;
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.progress = cancel_at_fourth;
    CHECK_OK(lr_ctx_new(&ctx, &opts));
    CHECK_OK(lr_model_open(&watched, ctx, golden_model("llama-tied"), NULL));
    CHECK_FAILS(run(watched, plan, "pca", NULL), LR_E_CANCELLED, "factorise: cancelled after 4");
    ck_assert_int_eq(parameters_of(watched), parameters_of(model));
    lr_model_free(watched);
    lr_ctx_free(ctx);
    free(before);
    lr_plan_free(plan);
}
END_TEST

/* A number that is not finite in the last module undoes all. */
START_TEST(test_not_finite) {
    tiny poisoned = tiny_model;
    poisoned.poisoned = "model.layers.2.mlp.down_proj.weight";
    lr_model_free(model);
    model = tiny_open(&poisoned, 2);
    lr_plan *plan = plan_of("{\"*\": 3}");
    events all = {0};
    CHECK_FAILS(run(model, plan, "svd", &all), LR_E_NUMERIC, "model.layers.2.mlp.down_proj");
    ck_assert_int_eq(all.count, 20);
    for (int32_t i = 0; i < lr_model_linear_count(model); i++) {
        lr_linear *linear;
        CHECK_OK(lr_model_linear(model, i, &linear));
        ck_assert_int_eq(lr_linear_kind(linear), LR_LINEAR_DENSE);
        lr_linear_free(linear);
    }
    lr_plan_free(plan);
}
END_TEST

START_TEST(test_rank_zero) {
    const char *dense = "model.layers.1.self_attn.o_proj";
    lr_plan *plan = plan_of("{\"*\": 0}");
    float *before = window_logits(model, ids, WINDOW, 1);
    events all = {0};
    CHECK_OK(run(model, plan, "pca", &all));
    ck_assert_int_eq(all.count, 0);
    check_untouched(before);
    lr_plan_free(plan);
    plan = plan_of("{\"*\": 5, \"o_proj\": 0}");
    lr_linear *linear = linear_of(model, dense), *same;
    CHECK_OK(run(model, plan, "pca", &all));
    ck_assert_int_eq(all.count, 12);
    same = linear_of(model, dense);
    ck_assert_ptr_eq(same, linear);
    lr_linear_free(same);
    lr_linear_free(linear);
    free(before);
    lr_plan_free(plan);
}
END_TEST

/* Only "afm" touches the bias. */
START_TEST(test_bias_kept) {
    open_named("llama-bias-sharded");
    lr_plan *plan = plan_of("{\"*\": 5}");
    for (int k = 0; k < METHODS; k++) {
        lr_model *copy = compressed(plan, methods[k], NULL);
        for (int i = 0; i < seen->count; i++) {
            float bias[64] = {0}, now[64] = {0};
            lr_linear *a = linear_of(model, seen->items[i].module);
            lr_linear *b = linear_of(copy, seen->items[i].module);
            CHECK_OK(lr_linear_bias(a, bias));
            CHECK_OK(lr_linear_bias(b, now));
            ck_assert_int_eq(!memcmp(bias, now, sizeof bias), k != AFM);
            lr_linear_free(a);
            lr_linear_free(b);
        }
        lr_model_free(copy);
    }
    lr_plan_free(plan);
}
END_TEST

START_TEST(test_deterministic) {
    lr_plan *plan = plan_of("{\"*\": 6}");
    lr_model *copies[2];
    for (int k = 0; k < METHODS; k++) {
        for (int c = 0; c < 2; c++) copies[c] = compressed(plan, methods[k], NULL);
        float *a = window_logits(copies[0], ids, WINDOW, 1);
        float *b = window_logits(copies[1], ids, WINDOW, 1);
        CHECK_SAME_BITS(a, b, (int64_t)WINDOW * tiny_vocabulary(model));
        free(a);
        free(b);
        for (int i = 0; i < seen->count; i++) {
            double *x = matrix_of(copies[0], seen->items[i].module);
            double *y = matrix_of(copies[1], seen->items[i].module);
            ck_assert(relative_difference(x, y, seen->items[i].out * seen->items[i].in) == 0);
            free(x);
            free(y);
        }
        for (int c = 0; c < 2; c++) lr_model_free(copies[c]);
    }
    lr_plan_free(plan);
}
END_TEST

/* A session that was there before reads the new modules from its next forward on. */
START_TEST(test_live_session) {
    lr_plan *plan = plan_of("{\"*\": 2}");
    int32_t vocabulary = tiny_vocabulary(model);
    float *logits = malloc(3 * (size_t)vocabulary * sizeof *logits);
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 1, NULL), *fresh;
    lr_segment segment = {0, WINDOW, ids};
    CHECK_OK(lr_session_forward(session, &segment, 1, logits));
    CHECK_OK(lr_compress(model, plan, stats, NULL, NULL, NULL));
    CHECK_OK(lr_session_forward(session, &segment, 1, logits + vocabulary));
    fresh = tiny_session(model, 1, LR_STEP_ROWS, 1, NULL);
    CHECK_OK(lr_session_forward(fresh, &segment, 1, logits + 2 * vocabulary));
    ck_assert(tiny_distance(logits, logits + vocabulary, vocabulary) > 1e-3);
    CHECK_SAME_BITS(logits + vocabulary, logits + 2 * vocabulary, vocabulary);
    lr_session_free(session);
    lr_session_free(fresh);
    free(logits);
    lr_plan_free(plan);
}
END_TEST

Suite *compress_suite(void) {
    Suite *suite = suite_create("compress");
    TCase *tests = tcase_create("compress");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, test_losses, 0, (MODELS + 1) * METHODS);
    tcase_add_test(tests, test_same_optimum);
    tcase_add_loop_test(tests, test_asvd_scales, 0, 6);
    tcase_add_test(tests, test_asvd_options);
    tcase_add_test(tests, test_refits);
    tcase_add_test(tests, test_exact_statistics);
    tcase_add_loop_test(tests, test_afm, 0, MODELS);
    tcase_add_test(tests, test_afm_in_a_session);
    tcase_add_loop_test(tests, test_full_rank, 0, MODELS * METHODS);
    tcase_add_test(tests, test_narrow_outputs);
    tcase_add_loop_test(tests, test_wide_inputs_of_narrow_outputs, 0, 6);
    tcase_add_test(tests, test_refused);
    tcase_add_test(tests, test_cancelled);
    tcase_add_test(tests, test_not_finite);
    tcase_add_test(tests, test_rank_zero);
    tcase_add_test(tests, test_bias_kept);
    tcase_add_test(tests, test_deterministic);
    tcase_add_test(tests, test_live_session);
    suite_add_tcase(suite, tests);
    return suite;
}
