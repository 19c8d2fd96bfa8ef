/* Statistics of derivatives against plain loops over what hooks see in a host's own backward
 * passes; their sums, files and refusals. */
#include "model/learn.h"
#include "slopes_fixture.h"

#include <lowrank/learn.h>

enum { OTHER = 2, EDGE = WINDOW / 8 };

static const char q0[] = "model.layers.0.self_attn.q_proj";

/* Inputs and derivatives of every window's mean loss, as a host sees them that trains the
 * embedding: y holds the derivatives. */
static captures *learn_windows(const int32_t *text, int32_t windows) {
    captures *all = calloc(1, sizeof *all);
    lr_model *copy;
    lr_hooks *hooks;
    lr_optimizer *optimizer;
    CHECK_OK(lr_model_clone(&copy, model));
    CHECK_OK(lr_optimizer_new(&optimizer, model->ctx, NULL));
    CHECK_OK(lr_optimizer_add_model(optimizer, copy, "model.embed_tokens.weight", NULL, NULL));
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(
        lr_hook_add(hooks, "model.layers.*_proj", LR_BEFORE_BACKWARD, capture_hook, all, NULL));
    lr_session *session = tiny_session(copy, 1, LR_STEP_BATCH, 1, hooks);
    for (int32_t w = 0; w < windows; w++) {
        lr_segment segment = {0, WINDOW, text + w * WINDOW};
        CHECK_OK(lr_session_learn(session, &segment, 1, optimizer, NULL, NULL));
    }
    lr_session_free(session);
    lr_hooks_free(hooks);
    lr_optimizer_free(optimizer);
    lr_model_free(copy);
    return all;
}

static sums sums_read(const lr_stats *stats, const char *module, int64_t out, int64_t in,
                      int64_t windows) {
    sums s = sums_new(out, in);
    lr_stats_gradients gradients = {.size = sizeof gradients,
                                    .fisher_in = s.fisher_in,
                                    .fisher_out = s.fisher_out,
                                    .importance_in = s.importance_in,
                                    .importance_out = s.importance_out,
                                    .gram = s.gram};
    CHECK_OK(lr_stats_read_gradients(stats, module, &gradients));
    ck_assert_int_eq(gradients.windows, windows);
    return s;
}

/* E[g g'] of one window of derivatives of the mean loss, the definition word for word. */
static void add_clipped(sums *s, const double *dy, double share) {
    int64_t kept = WINDOW - 2 * EDGE;
    double norms[WINDOW], mean = 0;
    for (int64_t t = EDGE; t < WINDOW - EDGE; t++) {
        norms[t] = 0;
        for (int64_t i = 0; i < s->out; i++) {
            double g = dy[t * s->out + i] * (WINDOW - 1); /* of the summed loss */
            norms[t] += g * g;
        }
        norms[t] = sqrt(norms[t]);
        mean += norms[t] / (double)kept;
    }
    for (int64_t t = EDGE; t < WINDOW - EDGE; t++) {
        if (norms[t] == 0) continue;
        double scale = norms[t] > 10 * mean    ? 10 * mean / norms[t]
                       : norms[t] < 0.1 * mean ? 0.1 * mean / norms[t]
                                               : 1;
        scale *= WINDOW - 1;
        for (int64_t i = 0; i < s->out; i++)
            for (int64_t j = 0; j < s->out; j++)
                s->gram[i * s->out + j] +=
                    share / (double)kept * scale * scale * dy[t * s->out + i] * dy[t * s->out + j];
    }
}

/* Adds `share` of each window. */
static void add_windows(sums *s, const capture *c, const double *w, int32_t windows, double share) {
    for (int32_t k = 0; k < windows; k++) {
        const double *x = c->x + k * WINDOW * s->in, *dy = c->y + k * WINDOW * s->out;
        for (int64_t i = 0; i < s->out; i++)
            for (int64_t j = 0; j < s->in; j++) {
                double slope = 0;
                for (int64_t t = 0; t < WINDOW; t++) slope += dy[t * s->out + i] * x[t * s->in + j];
                double weighted = slope * w[i * (s->in + 1) + j];
                s->fisher_in[j] += share * slope * slope;
                s->fisher_out[i] += share * slope * slope;
                s->importance_in[j] += share * weighted * weighted;
                s->importance_out[i] += share * weighted * weighted;
            }
        add_clipped(s, dy, share);
    }
}

static void check_part(const double *got, const double *expected, int64_t count) {
    double most = 0;
    for (int64_t i = 0; i < count; i++) most = fmax(most, fabs(expected[i]));
    ck_assert(most > 0);
    for (int64_t i = 0; i < count; i++) CHECK_NEAR(got[i], expected[i], 2e-5 * most);
}

static void check_sums(const sums *got, const sums *expected) {
    check_part(got->fisher_in, expected->fisher_in, got->in);
    check_part(got->fisher_out, expected->fisher_out, got->out);
    check_part(got->importance_in, expected->importance_in, got->in);
    check_part(got->importance_out, expected->importance_out, got->out);
    check_part(got->gram, expected->gram, got->out * got->out);
}

/* Two texts of unlike length, mixed 1 to 3. */
START_TEST(sums_are_those_of_plain_loops) {
    open_named(models[_i]);
    captures *a = learn_windows(ids, WINDOWS), *b = learn_windows(more, OTHER);
    lr_stats *stats = gradients_of(ids, TEXT);
    CHECK_OK(lr_stats_collect(stats, more, OTHER * WINDOW + 3, WINDOW, 3));
    ck_assert_int_eq(a->count, stats->module_count);
    for (int i = 0; i < a->count; i++) {
        const capture *first = &a->items[i], *second = captured(b, first->module);
        double *w = matrix_of(model, first->module);
        sums expected = sums_new(first->out, first->in);
        add_windows(&expected, first, w, WINDOWS, 0.25 / WINDOWS);
        add_windows(&expected, second, w, OTHER, 0.75 / OTHER);
        sums got = sums_read(stats, first->module, first->out, first->in, WINDOWS + OTHER);
        check_sums(&got, &expected);
        free(w);
        free(got.numbers);
        free(expected.numbers);
    }
    captures_free(a);
    captures_free(b);
    lr_stats_free(stats);
}
END_TEST

/* The Fisher sums are squares of the gradients that training itself uses. */
START_TEST(fisher_is_of_trained_gradients) {
    lr_stats *stats = gradients_of(ids, TEXT);
    lr__graph *graph = lr__model_graph(model);
    const lr_linear *linear = *lr__graph_linear(graph, LR__DOWN);
    const lr__param *weight = linear->terms[0].ops[0].param;
    lr_session *session = tiny_session(model, 1, LR_STEP_BATCH, 1, NULL);
    sums got = sums_read(stats, linear->name, linear->out, linear->in, WINDOWS);
    sums expected = sums_new(linear->out, linear->in);
    for (int32_t k = 0; k < WINDOWS; k++) {
        lr__gradients gradients = {0};
        lr__loss_sums unused;
        lr_segment segment = {0, WINDOW, ids + k * WINDOW};
        const lr__lesson lesson = {.gradients = &gradients, .temperature = 1, .scale = 1};
        CHECK_OK(lr__gradients_add(&gradients, (lr__param *)weight));
        CHECK_OK(lr__session_learn(session, &segment, 1, &lesson, &unused));
        const float *slope = lr__gradient_of(&gradients, weight);
        for (int64_t i = 0; i < linear->out * linear->in; i++) {
            double square = (double)slope[i] * (double)slope[i] / WINDOWS;
            expected.fisher_in[i % linear->in] += square;
            expected.fisher_out[i / linear->in] += square;
        }
        lr__gradients_clear(&gradients);
    }
    check_part(got.fisher_in, expected.fisher_in, got.in);
    check_part(got.fisher_out, expected.fisher_out, got.out);
    free(got.numbers);
    free(expected.numbers);
    lr_session_free(session);
    lr__graph_drop(graph);
    lr_stats_free(stats);
}
END_TEST

/* Tokens of very different weight: a tenth and ten times the mean length are the bounds, and a
 * token without a derivative stays without. */
START_TEST(lengths_are_clipped) {
    static const double sizes[WINDOW] = {50, 50, 1e-4, 1, 0, 2, 500, 1, 3, 1, 1, 1, 1, 1, 50, 50};
    lr_linear *linear = linear_of(model, q0);
    int64_t out = lr_linear_out(linear), in = lr_linear_in(linear);
    float *x = malloc((size_t)(WINDOW * in) * sizeof *x);
    float *dy = malloc((size_t)(WINDOW * out) * sizeof *dy);
    double *slopes = calloc((size_t)(WINDOW * out), sizeof *slopes), *gram;
    lr__slopes s;
    lr__arena arena = {0};
    sums expected = sums_new(out, in);
    for (int64_t i = 0; i < WINDOW * in; i++) x[i] = (float)tiny_uniform((uint64_t)i);
    for (int64_t i = 0; i < WINDOW * out; i++) {
        dy[i] = (float)(tiny_uniform((uint64_t)(i + 1000)) * sizes[i / out]);
        slopes[i] = (double)dy[i] / (WINDOW - 1);
    }
    const lr__slope_rows rows = {x, dy, 1, WINDOW, 0.5};
    CHECK_OK(lr__slopes_new(&s, out, in));
    CHECK_OK(lr__slopes_count(&s, linear, &arena, &rows));
    add_clipped(&expected, slopes, 1);
    gram = calloc((size_t)(out * out), sizeof *gram);
    CHECK_OK(lr__moments_read(&s.outputs, gram, NULL));
    check_part(gram, expected.gram, out * out);
    dy[WINDOW / 2 * out + 2] = NAN;
    CHECK_FAILS(lr__slopes_count(&s, linear, &arena, &rows), LR_E_NUMERIC,
                "q_proj: derivative by output 2 is not finite");
    lr__slopes_clear(&s);
    lr__arena_clear(&arena);
    lr_linear_free(linear);
    free(expected.numbers);
    free(gram);
    free(slopes);
    free(dy);
    free(x);
}
END_TEST

static void check_same_gradients(const lr_stats *a, const lr_stats *b, double tolerance) {
    for (int32_t i = 0; i < a->module_count; i++) {
        const lr__slopes *s = &a->slopes[i];
        int64_t out = s->outputs.size;
        sums x = sums_read(a, a->modules[i], out, s->in, s->windows);
        sums y = sums_read(b, a->modules[i], out, s->in, s->windows);
        for (int64_t k = 0; k < x.count; k++)
            CHECK_NEAR(x.numbers[k], y.numbers[k], tolerance * fabs(x.numbers[k]));
        free(x.numbers);
        free(y.numbers);
    }
}

/* O20 for derivatives, and the files. */
START_TEST(parts_and_files_add_up) {
    lr_stats *whole = gradients_of(ids, TEXT), *a = gradients_of(ids, 2 * WINDOW);
    lr_stats *b = gradients_of(ids + 2 * WINDOW, 3 * WINDOW), *sum = gradients_new(), *opened;
    CHECK_OK(lr_stats_save(a, scratch_path("a"), 0));
    CHECK_OK(lr_stats_open(&opened, model, scratch_path("a")));
    check_same_gradients(a, opened, 1e-14);
    CHECK_OK(lr_stats_add(sum, opened, 2));
    CHECK_OK(lr_stats_add(sum, b, 3));
    ck_assert_int_eq(sum->slopes[0].windows, WINDOWS);
    ck_assert_int_eq(lr_stats_tokens(sum), TEXT);
    ck_assert_int_eq(sum->slopes[0].outputs.tokens, WINDOWS * (WINDOW - 2 * EDGE));
    for (int32_t i = 0; i < whole->module_count; i++) {
        const lr__slopes *s = &whole->slopes[i];
        sums x = sums_read(whole, whole->modules[i], s->outputs.size, s->in, WINDOWS);
        sums y = sums_read(sum, whole->modules[i], s->outputs.size, s->in, WINDOWS);
        check_sums(&y, &x);
        free(x.numbers);
        free(y.numbers);
    }
    /* An opened file is collected into as if it had never been away. */
    CHECK_OK(lr_stats_collect(opened, ids + 2 * WINDOW, 3 * WINDOW, WINDOW, 1));
    CHECK_OK(lr_stats_collect(a, ids + 2 * WINDOW, 3 * WINDOW, WINDOW, 1));
    check_same_gradients(a, opened, 1e-9);
    lr_stats_free(whole);
    lr_stats_free(a);
    lr_stats_free(b);
    lr_stats_free(sum);
    lr_stats_free(opened);
}
END_TEST

/* Inputs are those of a plain run, exact or not; the model is as it was; threads change no bit. */
START_TEST(nothing_else_changes) {
    lr_stats_opts opts = stats_options(1);
    lr_stats *plain = stats_of(model, ids, TEXT, WINDOW), *exact, *alone;
    lr__graph *before = lr__model_graph(model);
    lr_stats *stats = gradients_of(ids, TEXT);
    lr__graph *after = lr__model_graph(model);
    ck_assert_ptr_eq(before, after);
    lr__graph_drop(before);
    lr__graph_drop(after);
    opts.exact = 1;
    CHECK_OK(lr_stats_new(&exact, model, &opts));
    CHECK_OK(lr_stats_collect(exact, ids, TEXT, WINDOW, 1));
    check_same_gradients(stats, exact, 0);
    for (int32_t i = 0; i < plain->moments_count; i++) {
        const lr__moments *x = &plain->moments[i], *y = &stats->moments[i];
        ck_assert_ptr_nonnull(exact->moments[i].root);
        ck_assert_int_eq(x->tokens, y->tokens);
        for (int64_t k = 0; k < x->size * (x->size + 1) / 2; k++)
            CHECK_NEAR(x->gram[k], y->gram[k], 1e-5 * (x->gram[0] + fabs(x->gram[k])));
    }
    lr_model *single = tiny_open_path(golden_model("llama-tied"), 1);
    opts.exact = 0;
    CHECK_OK(lr_stats_new(&alone, single, &opts));
    CHECK_OK(lr_stats_collect(alone, ids, TEXT, WINDOW, 1));
    check_same_gradients(stats, alone, 0);
    lr_stats_free(alone);
    lr_model_free(single);
    lr_stats_free(exact);
    lr_stats_free(stats);
    lr_stats_free(plain);
}
END_TEST

/* The backward pass ends at the lowest watched block. */
START_TEST(some_modules_alone) {
    lr_stats_opts opts = stats_options(1);
    lr_stats *some, *all = gradients_of(ids, TEXT);
    opts.pattern = "model.layers.1.mlp.*";
    CHECK_OK(lr_stats_new(&some, model, &opts));
    CHECK_OK(lr_stats_collect(some, ids, TEXT, WINDOW, 1));
    ck_assert_int_eq(some->module_count, 3);
    check_same_gradients(some, all, 0);
    lr_stats_free(some);
    lr_stats_free(all);
}
END_TEST

START_TEST(what_cannot_be_is_refused) {
    lr_stats_opts opts = stats_options(2);
    lr_stats *stats = NULL, *plain = stats_of(model, ids, TEXT, WINDOW);
    lr_stats_gradients room = {.size = sizeof room};
    lr_plan *plan;
    lr_plan_opts plan_opts;
    lr_compress_opts how;
    CHECK_FAILS(lr_stats_new(&stats, model, &opts), LR_E_INVALID, "gradients 2, expected 0 or 1");
    opts.gradients = 1;
    opts.pattern = "*";
    CHECK_FAILS(lr_stats_new(&stats, model, &opts), LR_E_UNSUPPORTED, "lm_head: no gradients");
    ck_assert_ptr_null(stats);
    stats = gradients_new();
    CHECK_FAILS(lr_stats_collect(stats, ids, TEXT, 1, 1), LR_E_INVALID, "window 1, expected 2");
    CHECK_FAILS(lr_stats_add(stats, plain, 1), LR_E_INVALID, "without gradients do not mix");
    CHECK_FAILS(lr_stats_add(plain, stats, 1), LR_E_INVALID, "without gradients do not mix");
    lr_stats *shorter = gradients_of(ids, TEXT); /* of a model with fewer heads of keys */
    shorter->outs[1] = 4;
    CHECK_FAILS(lr_stats_add(stats, shorter, 1), LR_E_SHAPE, "k_proj with 4 outputs, expected 18");
    lr_stats_free(shorter);
    CHECK_FAILS(lr_stats_read_gradients(plain, q0, &room), LR_E_NOTFOUND, "no gradient was");
    CHECK_FAILS(lr_stats_read_gradients(stats, q0, &room), LR_E_NOTFOUND, "no gradient was");
    CHECK_FAILS(lr_stats_read_gradients(plain, "q", &room), LR_E_NOTFOUND, "q: no statistics");
    room.size = 8;
    CHECK_FAILS(lr_stats_read_gradients(plain, q0, &room), LR_E_INVALID, "a sized struct");
    lr_stats_free(stats);
    /* Inputs alone were counted, through the host's own session. */
    stats = gradients_new();
    CHECK_OK(lr_stats_collect(stats, ids, TEXT, WINDOW, 1));
    lr__slopes_clear(&stats->slopes[3]);
    CHECK_FAILS(lr_stats_save(stats, scratch_path("s"), 0), LR_E_INVALID, "no gradient was");
    ck_assert_int_eq(access(scratch_path("s"), F_OK), -1);
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.ranks = "{\"*\": 3}";
    CHECK_OK(lr_plan_new(&plan, model, &plan_opts));
    lr_compress_opts_init(&how, sizeof how);
    static const char *const names[] = {"fwsvd", "iwsvd", "kfac"};
    for (int i = 0; i < 3; i++) {
        how.method = names[i];
        CHECK_FAILS(lr_compress(model, plan, plain, &how, NULL, NULL), LR_E_NOTFOUND,
                    "q_proj: the statistics hold no gradients");
        CHECK_FAILS(lr_compress(model, plan, stats, &how, NULL, NULL), LR_E_NOTFOUND,
                    "the statistics hold no gradients");
        CHECK_FAILS(lr_compress(model, plan, NULL, &how, NULL, NULL), LR_E_INVALID,
                    "needs statistics");
        const lr_text text = {ids, TEXT, 1, WINDOW, 0};
        CHECK_FAILS(lr_compress_texts(model, plan, &text, 1, &how, NULL, NULL), LR_E_UNSUPPORTED,
                    "needs gradients");
    }
    how.output_shrinkage = 1.5;
    CHECK_FAILS(lr_compress(model, plan, stats, &how, NULL, NULL), LR_E_INVALID, "and 1.5");
    how.output_shrinkage = NAN;
    CHECK_FAILS(lr_compress(model, plan, stats, &how, NULL, NULL), LR_E_INVALID, "and nan");
    how.output_shrinkage = 0.3;
    how.input_shrinkage = -1;
    CHECK_FAILS(lr_compress(model, plan, stats, &how, NULL, NULL), LR_E_INVALID, "shrinkage -1");
    lr_plan_free(plan);
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.keep = 0.5;
    plan_opts.allocation = "first-order";
    CHECK_FAILS(lr_plan_new(&plan, model, &plan_opts), LR_E_INVALID, "with gradients");
    plan_opts.stats = plain;
    CHECK_FAILS(lr_plan_new(&plan, model, &plan_opts), LR_E_NOTFOUND, "hold no gradients");
    lr_stats_free(stats);
    lr_stats_free(plain);
    /* A factorised model. */
    stats = stats_of(model, ids, TEXT, WINDOW);
    plan_opts.allocation = "uniform";
    CHECK_OK(lr_plan_new(&plan, model, &plan_opts));
    CHECK_OK(lr_compress(model, plan, stats, NULL, NULL, NULL));
    lr_stats_free(stats);
    opts.pattern = NULL;
    CHECK_FAILS(lr_stats_new(&stats, model, &opts), LR_E_UNSUPPORTED, "already factorised");
    lr_plan_free(plan);
}
END_TEST

/* ---- damaged files ---- */

/* The first `from` in a file becomes `to`, of the same length. */
static const char *damaged(const char *path, const char *from, const char *to) {
    FILE *file = fopen(path, "rb");
    static char bytes[1 << 21];
    size_t count = fread(bytes, 1, sizeof bytes, file);
    ck_assert_uint_lt(count, sizeof bytes);
    fclose(file);
    char *place = memmem(bytes, count, from, strlen(from));
    ck_assert_ptr_nonnull(place);
    memcpy(place, to, strlen(to));
    return scratch_write("damaged", bytes, count);
}

START_TEST(damaged_files_are_refused) {
    static const struct {
        const char *from, *to;
        lr_status status;
        const char *text;
    } cases[] = {
        {"\"gradients\"", "\"gradientz\"", LR_OK, ""},
        {"self_attn.q_proj.fisher_in", "self_attn.q_proj.fisher_im", LR_E_NOTFOUND, "fisher_in"},
        {"self_attn.q_proj.gradient_gram", "self_attn.q_proj.gradient_gran", LR_E_NOTFOUND,
         "gradient_gram"},
        {"q_proj\\\",\\\"windows\\\":5", "k_proj\\\",\\\"windows\\\":5", LR_E_FORMAT,
         "stand twice"},
        {"\\\"windows\\\":5", "\\\"windows\\\":0", LR_E_FORMAT, "0 windows"},
        {"\\\"windows\\\":5", "\\\"windowz\\\":5", LR_E_FORMAT, "windows"},
        {"\\\"windows\\\":5,\\\"tokens\\\":60,\\\"weight\\\":",
         "\\\"windows\\\":9223372036854775807,\\\"ww\\\":", LR_E_FORMAT,
         "9223372036854775807 windows"},
        {"[{\\\"module\\\"", "[{\\\"modulo\\\"", LR_E_FORMAT, "without a name"},
        {"[{\\\"module\\\"", "{[\\\"module\\\"", LR_E_FORMAT, "damaged"},
    };
    lr_stats *stats = gradients_of(ids, TEXT), *opened;
    CHECK_OK(lr_stats_save(stats, scratch_path("stats"), 0));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = damaged(scratch_path("stats"), cases[i].from, cases[i].to);
        lr_status status = lr_stats_open(&opened, model, path);
        ck_assert_msg(status == cases[i].status, "case %zu: %s, %s", i, lr_status_name(status),
                      lr_last_error());
        if (status == LR_OK) {
            ck_assert_ptr_null(opened->slopes);
            lr_stats_free(opened);
            continue;
        }
        ck_assert_ptr_null(opened);
        ck_assert_msg(strstr(lr_last_error(), cases[i].text), "case %zu: %s", i, lr_last_error());
    }
    stats->slopes[2].fisher_out[1] = -1;
    CHECK_OK(lr_stats_save(stats, scratch_path("stats"), 1));
    CHECK_FAILS(lr_stats_open(&opened, model, scratch_path("stats")), LR_E_FORMAT,
                "fisher_out: number 1 is");
    stats->slopes[2].fisher_out[1] = INFINITY;
    CHECK_FAILS(lr_stats_save(stats, scratch_path("stats"), 1), LR_E_NUMERIC, "not finite");
    lr_stats_free(stats);
}
END_TEST

/* What is no moments of anything: below zero on the diagonal, or larger than Cauchy and Schwarz
 * allow. */
START_TEST(grams_of_nothing_are_refused) {
    static const struct {
        int64_t place; /* in the packed triangle */
        double value;
        const char *text;
    } cases[] = {
        {5, -1, "k_proj.gradient_gram: [2, 2] is -"},
        {5, 0, "k_proj.gradient_gram: [2, 0] is "},
        {4, 1e6, "k_proj.gradient_gram: [2, 1] is "},
        {4, -1e6, "k_proj.gradient_gram: [2, 1] is -"},
    };
    lr_stats *stats = gradients_of(ids, TEXT), *opened;
    double *gram = stats->slopes[1].outputs.gram;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double kept = gram[cases[i].place];
        gram[cases[i].place] = cases[i].value;
        CHECK_OK(lr_stats_save(stats, scratch_path("stats"), 1));
        CHECK_FAILS(lr_stats_open(&opened, model, scratch_path("stats")), LR_E_FORMAT,
                    cases[i].text);
        gram[cases[i].place] = kept;
    }
    CHECK_OK(lr_stats_save(stats, scratch_path("stats"), 1));
    CHECK_OK(lr_stats_open(&opened, model, scratch_path("stats")));
    lr_stats_free(opened);
    lr_stats_free(stats);
}
END_TEST

Suite *slopes_suite(void) {
    Suite *suite = suite_create("slopes");
    TCase *sums_case = tcase_create("sums");
    tcase_add_checked_fixture(sums_case, setup, teardown);
    tcase_add_loop_test(sums_case, sums_are_those_of_plain_loops, 0, MODELS);
    tcase_add_test(sums_case, fisher_is_of_trained_gradients);
    tcase_add_test(sums_case, lengths_are_clipped);
    tcase_add_test(sums_case, parts_and_files_add_up);
    tcase_add_test(sums_case, nothing_else_changes);
    tcase_add_test(sums_case, some_modules_alone);
    tcase_add_test(sums_case, what_cannot_be_is_refused);
    tcase_add_test(sums_case, damaged_files_are_refused);
    tcase_add_test(sums_case, grams_of_nothing_are_refused);
    suite_add_tcase(suite, sums_case);
    return suite;
}
