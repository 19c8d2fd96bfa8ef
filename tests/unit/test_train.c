/* Training as a host sees it: losses fall, checkpoints go on bit for bit, refusals. */
#include "golden_model.h"
#include "hash.h"

enum { IDS = 400 };

static lr_model *model;
static lr_ctx *ctx;
static int32_t ids[IDS];

static void setup(void) {
    scratch_make();
    CHECK_OK(lr_ctx_new(&ctx, NULL));
    CHECK_OK(lr_model_open(&model, ctx, golden_model_path("llama-f32"), NULL));
    for (int32_t i = 0; i < IDS; i++) ids[i] = (i * i) % 7 + 3; /* what can be learnt */
}

static void teardown(void) {
    lr_model_free(model);
    lr_ctx_free(ctx);
    scratch_remove();
}

static lr_optimizer *optimizer_of(lr_model *of, const char *pattern, double rate) {
    lr_optimizer *optimizer;
    lr_optimizer_opts opts;
    lr_optimizer_opts_init(&opts, sizeof opts);
    opts.learning_rate = rate;
    CHECK_OK(lr_optimizer_new(&optimizer, ctx, &opts));
    CHECK_OK(lr_optimizer_add_model(optimizer, of, pattern, NULL, NULL));
    return optimizer;
}

typedef struct course {
    double losses[64];
    int count, stop_at;
} course;

static int32_t note(const lr_train_event *event, void *user) {
    course *c = user;
    ck_assert_int_eq(event->step, c->count + 1);
    ck_assert(event->norm > 0 && event->seconds >= 0);
    c->losses[c->count++] = event->loss;
    return c->count == c->stop_at;
}

static lr_train_opts options(int64_t steps) {
    lr_train_opts opts;
    lr_train_opts_init(&opts, sizeof opts);
    opts.steps = steps;
    opts.batch = 3;
    opts.window = 16;
    opts.at_once = 2; /* the third window of a step is a pass of its own */
    return opts;
}

START_TEST(losses_fall) {
    lr_optimizer *optimizer = optimizer_of(model, "*", 1e-2);
    course c = {.count = 0};
    lr_train_opts opts = options(40);
    CHECK_OK(lr_train(model, optimizer, ids, IDS, &opts, note, &c));
    ck_assert_int_eq(c.count, 40);
    ck_assert(c.losses[39] < 0.5 * c.losses[0]);
    ck_assert_int_eq(lr_optimizer_steps(optimizer), 40);
    lr_optimizer_free(optimizer);
}
END_TEST

/* Cuts of a step change its gradients by rounding alone. */
START_TEST(passes_add_up) {
    double norms[2];
    for (int i = 0; i < 2; i++) {
        lr_model *own;
        CHECK_OK(lr_model_clone(&own, model));
        lr_optimizer *optimizer = optimizer_of(own, "*", 1e-2);
        course c = {.count = 0};
        lr_train_opts opts = options(3);
        opts.at_once = i ? 3 : 1;
        CHECK_OK(lr_train(own, optimizer, ids, IDS, &opts, note, &c));
        norms[i] = c.losses[2];
        lr_optimizer_free(optimizer);
        lr_model_free(own);
    }
    ck_assert(fabs(norms[0] - norms[1]) <= 1e-5 * norms[0]);
}
END_TEST

static uint64_t bits_of(const lr_model *of) {
    lr__graph *graph = lr__model_graph(of);
    uint64_t hash = hash_begin;
    for (int32_t i = 0; i < lr__graph_linear_count(graph); i++) {
        const lr__matrix *m = &(*lr__graph_linear(graph, i))->terms[0].ops[0].param->matrix;
        hash = hash_bytes(hash, m->data, (size_t)(m->rows * m->cols) * sizeof(float));
    }
    lr__graph_drop(graph);
    return hash;
}

/* Stopped by the host after 5 of 9 steps, or by a crash after the checkpoint of step 4. */
START_TEST(checkpoints_go_on_bit_for_bit) {
    uint64_t whole = 0;
    for (int i = 0; i < 3; i++) {
        lr_model *own;
        const char *path = scratch_path(i == 1 ? "cancelled" : i ? "crashed" : "whole");
        lr_train_opts opts = options(9);
        course c = {.stop_at = i == 1 ? 5 : i ? 6 : 0};
        opts.checkpoint = path;
        opts.checkpoint_every = 4;
        CHECK_OK(lr_model_clone(&own, model));
        lr_optimizer *optimizer = optimizer_of(own, "*", 1e-2);
        lr_status status = lr_train(own, optimizer, ids, IDS, &opts, note, &c);
        ck_assert_int_eq(status, i ? LR_E_CANCELLED : LR_OK);
        if (i) { /* another process goes on */
            lr_optimizer_free(optimizer);
            lr_model_free(own);
            CHECK_OK(lr_model_clone(&own, model));
            optimizer = optimizer_of(own, "*", 1e-2);
            CHECK_OK(lr_train(own, optimizer, ids, IDS, &opts, NULL, NULL));
        }
        ck_assert_int_eq(lr_optimizer_steps(optimizer), 9);
        if (!i) whole = bits_of(own);
        ck_assert(bits_of(own) == whole);
        lr_optimizer_free(optimizer);
        lr_model_free(own);
    }
}
END_TEST

START_TEST(teacher_draws_its_student_back) {
    lr_model *student;
    course c = {.count = 0};
    lr_train_opts opts = options(40);
    CHECK_OK(lr_model_clone(&student, model));
    lr_optimizer *away = optimizer_of(student, "*.mlp.*", 1e-2);
    CHECK_OK(lr_train(student, away, ids, IDS, &opts, NULL, NULL));
    lr_optimizer_free(away);
    lr_optimizer *back = optimizer_of(student, "*.mlp.*", 3e-3);
    opts.teacher = model;
    CHECK_OK(lr_train(student, back, ids, IDS, &opts, note, &c));
    ck_assert(c.losses[39] < 0.3 * c.losses[0]);
    lr_optimizer_free(back);
    lr_model_free(student);
}
END_TEST

START_TEST(what_makes_no_sense_is_refused) {
    lr_optimizer *optimizer = optimizer_of(model, "*", 1e-2);
    lr_train_opts opts = options(0);
    CHECK_FAILS(lr_train(model, optimizer, ids, IDS, &opts, NULL, NULL), LR_E_INVALID, "steps 0");
    opts = options(3);
    CHECK_FAILS(lr_train(model, optimizer, ids, 15, &opts, NULL, NULL), LR_E_INVALID,
                "holds no window of 16");
    CHECK_FAILS(lr_train(NULL, optimizer, ids, IDS, &opts, NULL, NULL), LR_E_INVALID, "needed");
    ids[7] = 1 << 20;
    CHECK_FAILS(lr_train(model, optimizer, ids, 16, &opts, NULL, NULL), LR_E_INVALID, "step 1: ");
    ck_assert_int_eq(lr_optimizer_steps(optimizer), 0);
    lr_optimizer_free(optimizer);
}
END_TEST

/* ---- a module of the host's ---- */

START_TEST(modules_learn_too) {
    enum { OUT = 5, IN = 4, ROWS = 32 };
    float weight[OUT * IN], x[ROWS * IN], y[ROWS * OUT], dx[ROWS * IN];
    int64_t shape[2] = {OUT, IN}, x_shape[2] = {ROWS, IN}, y_shape[2] = {ROWS, OUT};
    lr_tensor w, xs, ys, dxs;
    lr_linear *linear;
    lr_linear_opts opts;
    lr_optimizer *optimizer;
    lr_optimizer_opts learning;
    for (int i = 0; i < OUT * IN; i++) weight[i] = (float)((i * 7) % 5) - 2;
    for (int i = 0; i < ROWS * IN; i++) x[i] = (float)((i * 11) % 13) / 6 - 1;
    CHECK_OK(lr_tensor_view(&w, weight, LR_F32, 2, shape));
    CHECK_OK(lr_tensor_view(&xs, x, LR_F32, 2, x_shape));
    CHECK_OK(lr_tensor_view(&ys, y, LR_F32, 2, y_shape));
    CHECK_OK(lr_tensor_view(&dxs, dx, LR_F32, 2, x_shape));
    lr_linear_opts_init(&opts, sizeof opts);
    opts.rank = 2;
    CHECK_OK(lr_linear_from_weight(&linear, ctx, &w, &opts));
    lr_optimizer_opts_init(&learning, sizeof learning);
    learning.learning_rate = 0.05;
    CHECK_OK(lr_optimizer_new(&optimizer, ctx, &learning));
    CHECK_OK(lr_optimizer_add_linear(optimizer, linear, NULL, NULL, NULL));
    double first = 0, last = 0;
    for (int step = 0; step < 200; step++) { /* towards y = 0 */
        CHECK_OK(lr_linear_apply(linear, &xs, &ys));
        last = 0;
        for (int i = 0; i < ROWS * OUT; i++) {
            last += (double)y[i] * y[i];
            y[i] *= 2;
        }
        if (!step) first = last;
        CHECK_OK(lr_linear_backward(linear, &xs, &ys, &dxs, optimizer));
        CHECK_OK(lr_optimizer_step(optimizer, NULL));
    }
    ck_assert(last < 1e-3 * first);
    y_shape[1] = OUT - 1;
    CHECK_OK(lr_tensor_view(&ys, y, LR_F32, 2, y_shape));
    CHECK_FAILS(lr_linear_backward(linear, &xs, &ys, NULL, optimizer), LR_E_SHAPE, "dy is [32, 4]");
    CHECK_FAILS(lr_linear_backward(NULL, &xs, &ys, NULL, optimizer), LR_E_INVALID, "needed");
    lr_optimizer_free(optimizer);
    lr_linear_free(linear);
}
END_TEST

Suite *train_suite(void) {
    Suite *suite = suite_create("train");
    TCase *tests = tcase_create("train");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, losses_fall);
    tcase_add_test(tests, passes_add_up);
    tcase_add_test(tests, checkpoints_go_on_bit_for_bit);
    tcase_add_test(tests, teacher_draws_its_student_back);
    tcase_add_test(tests, what_makes_no_sense_is_refused);
    tcase_add_test(tests, modules_learn_too);
    suite_add_tcase(suite, tests);
    return suite;
}
