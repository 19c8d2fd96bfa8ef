/*
 * Gradients through derived parameters. Modules: losses in binary64 by plain loops over the stored
 * sources, central differences. Models: the gradient of the multiplied-out weight in another model
 * that derives nothing, taken to the source by the chain rule in binary64, and differences of the
 * loss itself.
 */
#include "faults.h"
#include "lesson_fixture.h"
#include "optimizer_fixture.h"

#include <lowrank/learn.h>

static void set_up(void) {
    fixture_make();
    scratch_make();
}

static void tear_down(void) {
    scratch_remove();
    fixture_drop();
}

/* ---- producers ---- */

typedef struct counts {
    int refreshed, backward, freed;
    int64_t offset; /* into the first source */
} counts;

static const float *source(const lr__param *param, int32_t i) {
    ck_assert_int_eq(param->sources[i]->matrix.dtype, LR_F32);
    return param->sources[i]->matrix.data;
}

static void count_freed(void *user) { ((counts *)user)->freed++; }

/* sigmoid(s) */
static lr_status open_gate(const lr__param *param, float *values, int64_t step, void *user) {
    (void)step;
    ((counts *)user)->refreshed++;
    for (int64_t i = 0; i < lr__param_count(param); i++)
        values[i] = (float)(1 / (1 + exp(-(double)source(param, 0)[i])));
    return LR_OK;
}

static lr_status open_gate_back(const lr__param *param, const float *gradient,
                                float *const *gradients, void *user) {
    const float *value = param->owned;
    ((counts *)user)->backward++;
    for (int64_t i = 0; i < lr__param_count(param); i++)
        gradients[0][i] += gradient[i] * value[i] * (1 - value[i]);
    return LR_OK;
}

/* A part of h, squared, times t. */
static lr_status square(const lr__param *param, float *values, int64_t step, void *user) {
    const float *h = source(param, 0) + ((counts *)user)->offset, *t = source(param, 1);
    (void)step;
    ((counts *)user)->refreshed++;
    for (int64_t i = 0; i < lr__param_count(param); i++) values[i] = h[i] * h[i] * t[i];
    return LR_OK;
}

static lr_status square_back(const lr__param *param, const float *gradient, float *const *gradients,
                             void *user) {
    int64_t offset = ((counts *)user)->offset;
    const float *h = source(param, 0) + offset, *t = source(param, 1);
    ((counts *)user)->backward++;
    for (int64_t i = 0; i < lr__param_count(param); i++) {
        if (gradients[0]) gradients[0][offset + i] += gradient[i] * 2 * h[i] * t[i];
        if (gradients[1]) gradients[1][i] += gradient[i] * h[i] * h[i];
    }
    return LR_OK;
}

static lr__param *gate_over(lr__param *logits, counts *c) {
    const lr__producer producer = {.size = sizeof producer,
                                   .refresh = open_gate,
                                   .backward = open_gate_back,
                                   .free = count_freed,
                                   .user = c,
                                   .source_count = 1};
    lr__param *gate;
    CHECK_OK(lr__param_derived(&gate, "gate", logits->matrix.rows, 1, 1, &producer, &logits));
    return gate;
}

static lr__param *square_over(lr__param *h, lr__param *t, counts *c) {
    lr__param *part, *sources[] = {h, t};
    const lr__producer producer = {.size = sizeof producer,
                                   .refresh = square,
                                   .backward = square_back,
                                   .free = count_freed,
                                   .user = c,
                                   .source_count = 2};
    CHECK_OK(lr__param_derived(&part, "part", t->matrix.rows, 1, 1, &producer, sources));
    return part;
}

/* left * diag(gate) * right */
static lr_linear *gated(const char *name, lr__param *left, lr__param *gate, lr__param *right) {
    lr_linear *linear = new_linear(name, left->matrix.rows, right->matrix.cols);
    int64_t rank = right->matrix.rows;
    const lr__op ops[] = {
        {.kind = LR__OP_MATRIX, .out = left->matrix.rows, .in = rank, .param = left},
        {.kind = LR__OP_DIAGONAL, .out = rank, .in = rank, .param = gate},
        {.kind = LR__OP_MATRIX, .out = rank, .in = right->matrix.cols, .param = right}};
    CHECK_OK(lr__linear_add_term(linear, 1, ops, 3, NULL));
    return linear;
}

/* ---- two modules ---- */

enum { TOKENS = 5, RANK = 3, IN = 9, MOST_OUT = 7, LOGITS = 2 * RANK };
static const int64_t outs[2] = {7, 5};

/* Every number twice: of the modules, and of the oracle. */
typedef struct pair {
    int levels; /* 1: both modules read sigmoid(s); 2: parts of it, squared, times t */
    double s[LOGITS], t[RANK], left[2][MOST_OUT * RANK], right[2][RANK * IN];
    float x[TOKENS * IN], dy[2][TOKENS * MOST_OUT];
    lr__param *logits, *times, *gate, *parts[2], *lefts[2], *rights[2];
    lr_linear *linears[2];
    counts whole, part[2];
} pair;

static double gate_at(const pair *p, int m, int64_t i) {
    if (p->levels == 1) return 1 / (1 + exp(-p->s[i]));
    double h = 1 / (1 + exp(-p->s[m * RANK + i]));
    return h * h * p->t[i];
}

static double pair_loss(const pair *p) {
    double sum = 0;
    for (int m = 0; m < 2; m++)
        for (int64_t n = 0; n < TOKENS; n++)
            for (int64_t r = 0; r < RANK; r++) {
                double inner = 0, outer = 0;
                for (int64_t i = 0; i < IN; i++)
                    inner += p->right[m][r * IN + i] * (double)p->x[n * IN + i];
                for (int64_t o = 0; o < outs[m]; o++)
                    outer += p->left[m][o * RANK + r] * (double)p->dy[m][n * outs[m] + o];
                sum += outer * gate_at(p, m, r) * inner;
            }
    return sum;
}

/* Central differences with a step of 1e-4 are right to 1e-8. */
static void check_slopes(pair *p, double *numbers, const float *got, int64_t count, double times,
                         const char *what) {
    for (int64_t i = 0; i < count; i++) {
        double was = numbers[i], wanted;
        numbers[i] = was + 1e-4;
        wanted = pair_loss(p);
        numbers[i] = was - 1e-4;
        wanted = times * (wanted - pair_loss(p)) / 2e-4;
        numbers[i] = was;
        ck_assert_msg(fabs((double)got[i] - wanted) <= 2e-5 * (1 + fabs(wanted)),
                      "%s: %d: %g, expected %g", what, (int)i, (double)got[i], wanted);
    }
}

static lr__param *random_param(const char *name, double *numbers, int64_t rows, int64_t cols,
                               int32_t ndim) {
    float *narrow = fixture_numbers(rows * cols);
    for (int64_t i = 0; i < rows * cols; i++) numbers[i] = (double)narrow[i];
    lr__param *param = param_of(name, narrow, rows, cols, ndim);
    free(narrow);
    return param;
}

static void make_pair(pair *p, int levels) {
    static const char *const names[] = {"q", "k"};
    memset(p, 0, sizeof *p);
    p->levels = levels;
    p->logits = random_param("gate.logits", p->s, levels == 1 ? RANK : LOGITS, 1, 1);
    p->times = random_param("gate.times", p->t, RANK, 1, 1);
    p->gate = gate_over(p->logits, &p->whole);
    for (int i = 0; i < TOKENS * IN; i++) p->x[i] = fixture_number();
    for (int m = 0; m < 2; m++) {
        p->part[m].offset = m * RANK;
        p->parts[m] =
            levels == 1 ? lr__param_keep(p->gate) : square_over(p->gate, p->times, &p->part[m]);
        p->lefts[m] = random_param("left", p->left[m], outs[m], RANK, 2);
        p->rights[m] = random_param("right", p->right[m], RANK, IN, 2);
        p->linears[m] = gated(names[m], p->lefts[m], p->parts[m], p->rights[m]);
        for (int i = 0; i < TOKENS * outs[m]; i++) p->dy[m][i] = fixture_number();
    }
}

static void drop_pair(pair *p) {
    for (int m = 0; m < 2; m++) {
        lr_linear_free(p->linears[m]);
        lr__param_drop(p->parts[m]);
        lr__param_drop(p->lefts[m]);
        lr__param_drop(p->rights[m]);
    }
    lr__param_drop(p->gate);
    lr__param_drop(p->logits);
    lr__param_drop(p->times);
    ck_assert_int_eq(p->whole.freed, 1); /* by the last version */
    if (p->levels == 2) ck_assert_int_eq(p->part[0].freed + p->part[1].freed, 2);
}

static lr_status backward(pair *p, int m, lr_optimizer *optimizer) {
    lr_tensor x, dy;
    lr_tensor_view(&x, p->x, LR_F32, 2, (int64_t[]){TOKENS, IN});
    lr_tensor_view(&dy, p->dy[m], LR_F32, 2, (int64_t[]){TOKENS, outs[m]});
    return lr_linear_backward(p->linears[m], &x, &dy, NULL, optimizer);
}

static const float *gradient_named(lr_optimizer *optimizer, const char *name) {
    for (int32_t i = 0; i < lr_optimizer_count(optimizer); i++)
        if (!strcmp(lr_optimizer_name(optimizer, i), name)) return optimizer->items[i].gradient;
    ck_abort_msg("%s is not trained", name);
    return NULL;
}

START_TEST(sources_learn_through_modules) {
    int levels = _i + 1;
    pair p;
    make_pair(&p, levels);
    lr_optimizer *o = optimizer_of(NULL);
    for (int m = 0; m < 2; m++) add(o, p.linears[m]);
    ck_assert_int_eq(lr_optimizer_count(o), 4 + levels); /* factors, logits, times */
    if (levels == 1) ck_assert_ptr_eq(op_param(p.linears[0], 0, 1), op_param(p.linears[1], 0, 1));
    ck_assert_ptr_ne(op_param(p.linears[0], 0, 1), p.parts[0]);
    ck_assert_ptr_eq(op_param(p.linears[0], 0, 1)->sources[0],
                     levels == 1 ? o->items[1].param : op_param(p.linears[1], 0, 1)->sources[0]);
    for (int times = 1; times <= 3; times++) {
        for (int m = 0; m < 2; m++) CHECK_OK(backward(&p, m, o));
        check_slopes(&p, p.s, gradient_named(o, "gate.logits"), levels * RANK, times, "logits");
        if (levels == 2)
            check_slopes(&p, p.t, gradient_named(o, "gate.times"), RANK, times, "times");
        check_slopes(&p, p.left[0], gradient_named(o, "q.chain.0.0.weight"), 7 * RANK, times, "q");
        ck_assert_int_eq(p.whole.backward, 2 * times); /* once in a pass */
        for (int m = 0; levels == 2 && m < 2; m++) ck_assert_int_eq(p.part[m].backward, times);
    }
    lr_optimizer_free(o);
    drop_pair(&p);
}
END_TEST

/* Behind a step a module used alone has the values of its sources. */
START_TEST(modules_follow_their_sources) {
    pair p;
    float y[TOKENS * 7];
    lr_tensor xs, ys;
    make_pair(&p, 2);
    lr_optimizer_opts opts = optimizer_opts(LR_SGD, 0.5);
    lr_optimizer *o = optimizer_of(&opts);
    CHECK_OK(lr_optimizer_add_linear(o, p.linears[0], "gate.*", NULL, NULL));
    CHECK_OK(backward(&p, 0, o));
    CHECK_OK(lr_optimizer_step(o, NULL));
    for (int i = 0; i < LOGITS; i++) p.s[i] = (double)lr__param_floats(o->items[0].param)[i];
    for (int i = 0; i < RANK; i++) p.t[i] = (double)lr__param_floats(o->items[1].param)[i];
    ck_assert(p.s[0] != (double)lr__param_floats(p.logits)[0]);
    lr_tensor_view(&xs, p.x, LR_F32, 2, (int64_t[]){TOKENS, IN});
    lr_tensor_view(&ys, y, LR_F32, 2, (int64_t[]){TOKENS, 7});
    CHECK_OK(lr_linear_apply(p.linears[0], &xs, &ys));
    for (int64_t n = 0; n < TOKENS; n++)
        for (int64_t k = 0; k < 7; k++) {
            double wanted = 0;
            for (int64_t r = 0; r < RANK; r++)
                for (int64_t i = 0; i < IN; i++)
                    wanted += p.left[0][k * RANK + r] * gate_at(&p, 0, r) * p.right[0][r * IN + i] *
                              (double)p.x[n * IN + i];
            ck_assert(fabs((double)y[n * 7 + k] - wanted) <= 2e-5);
        }
    lr_optimizer_free(o);
    drop_pair(&p);
}
END_TEST

/* A pass over both modules at once, by the gradients alone: nothing is swapped, and what is asked
 * of a derived parameter itself is its own gradient. */
START_TEST(one_pass_hands_on_once) {
    pair p;
    lr__gradients gradients = {0};
    lr__arena arena = {0};
    lr__derived derived = {0};
    lr__derived_pass pass;
    lr__linear_tape *tape;
    float first[TOKENS * MOST_OUT], second[TOKENS * MOST_OUT], *y[2] = {first, second};
    const float *dy[2];
    make_pair(&p, 2);
    const lr__evaluation e = {.device = &fixture_ctx->device, .arena = &arena, .batch = 1};
    const lr_linear *const *read = (const lr_linear *const *)p.linears;
    CHECK_OK(lr__gradients_add(&gradients, p.logits));
    CHECK_OK(lr__gradients_add(&gradients, p.parts[1]));
    for (int m = 0; m < 2; m++) {
        CHECK_OK(lr__derived_add_linear(&derived, p.linears[m]));
        dy[m] = p.dy[m];
    }
    ck_assert_uint_eq(derived.count, 3);
    ck_assert_ptr_eq(derived.items[0], p.gate);
    CHECK_OK(lr__derived_refresh(&derived, 4));
    ck_assert_int_eq(p.whole.refreshed, 1);
    ck_assert_int_eq(p.parts[0]->step, 4);
    for (int times = 1; times <= 2; times++) {
        CHECK_OK(lr__derived_begin(&pass, &derived, &gradients, &arena));
        CHECK_OK(lr__linear_forward_kept(&e, read, 2, p.x, TOKENS, y, outs, &tape));
        CHECK_OK(lr__linear_backward(tape, dy, outs, &pass.gradients, NULL, 0, 0));
        CHECK_OK(lr__derived_end(&pass));
        check_slopes(&p, p.s, lr__gradient_of(&gradients, p.logits), LOGITS, times, "logits");
        ck_assert_int_eq(p.whole.backward, times);
        for (int64_t i = 0; i < RANK; i++) { /* dL/ds = dL/dpart * t * 2 h * h (1 - h) */
            double h = 1 / (1 + exp(-p.s[RANK + i]));
            double own = (double)lr__gradient_of(&gradients, p.parts[1])[i];
            double whole = (double)lr__gradient_of(&gradients, p.logits)[RANK + i];
            ck_assert(fabs(own * p.t[i] * 2 * h * h * (1 - h) - whole) <= 1e-5);
        }
    }
    ck_assert_uint_eq(gradients.count, 2); /* the caller's table is as it was */
    lr__derived_clear(&derived);
    lr__arena_clear(&arena);
    lr__gradients_clear(&gradients);
    drop_pair(&p);
}
END_TEST

/* Nothing is computed for sources that are frozen, at either level. */
START_TEST(frozen_sources_cost_nothing) {
    pair p;
    make_pair(&p, 2);
    lr_optimizer *o = optimizer_of(NULL);
    for (int m = 0; m < 2; m++)
        CHECK_OK(lr_optimizer_add_linear(o, p.linears[m], "*.weight", NULL, NULL));
    for (int m = 0; m < 2; m++) CHECK_OK(backward(&p, m, o));
    ck_assert_int_eq(p.whole.backward + p.part[0].backward + p.part[1].backward, 0);
    ck_assert_ptr_eq(op_param(p.linears[0], 0, 1), p.parts[0]);
    check_slopes(&p, p.left[1], gradient_named(o, "k.chain.0.0.weight"), 5 * RANK, 1, "k");
    CHECK_OK(lr_optimizer_add_linear(o, p.linears[0], "gate.times", NULL, NULL));
    CHECK_OK(backward(&p, 0, o));
    ck_assert_int_eq(p.part[0].backward, 1); /* and not beyond: the logits are frozen */
    ck_assert_int_eq(p.whole.backward + p.part[1].backward, 0);
    ck_assert_ptr_eq(op_param(p.linears[0], 0, 1)->sources[0], p.gate);
    lr_optimizer_free(o);
    drop_pair(&p);
}
END_TEST

START_TEST(what_cannot_learn_is_refused) {
    pair p;
    int64_t count;
    make_pair(&p, 1);
    lr_optimizer *o = optimizer_of(NULL);
    CHECK_FAILS(lr_optimizer_add_linear(o, p.linears[0], "*.{diagonal,weight}", NULL, NULL),
                LR_E_UNSUPPORTED, "q.chain.0.1.diagonal: derived from other parameters");
    ck_assert_int_eq(lr_optimizer_count(o), 0);
    ck_assert_ptr_eq(op_param(p.linears[0], 0, 0), p.lefts[0]);
    CHECK_OK(lr_optimizer_add_linear(o, p.linears[0], "gate.logits", NULL, &count));
    ck_assert_int_eq(count, 1);
    CHECK_OK(lr_optimizer_add_linear(o, p.linears[0], "*.{diagonal,weight}", NULL, &count));
    ck_assert_int_eq(count, 2);
    CHECK_FAILS(lr_optimizer_add_linear(o, p.linears[0], NULL, NULL, NULL), LR_E_NOTFOUND, "q: no");
    lr_optimizer_free(o);
    drop_pair(&p);
}
END_TEST

/* Memory that runs out in adding and in a pass. */
START_TEST(memory_may_run_out) {
    int refused = 1, steps = 0;
    for (long n = 0; refused; n++, steps++) {
        pair p;
        fixture_drop();
        faults_begin(-1);
        fixture_make();
        make_pair(&p, 2);
        lr_optimizer *o = optimizer_of(NULL);
        faults_refuse_at = faults_asked + n;
        refused = 0;
        for (int m = 0; m < 2 && !refused; m++) {
            refused = lr_optimizer_add_linear(o, p.linears[m], NULL, NULL, NULL) < 0;
            if (refused) ck_assert_ptr_eq(op_param(p.linears[m], 0, 1), p.parts[m]);
            if (refused) ck_assert_int_eq(lr_optimizer_count(o), m ? 4 : 0);
            if (!refused) refused = backward(&p, m, o) < 0;
        }
        if (refused) ck_assert_msg(strstr(lr_last_error(), "memory"), "%s", lr_last_error());
        lr_optimizer_free(o);
        drop_pair(&p);
        fixture_drop();
        ck_assert_int_eq(faults_end(), 0);
        fixture_make();
    }
    ck_assert_int_gt(steps, 30);
}
END_TEST

/* ---- a model ---- */

static const char *const places[] = {"model.layers.0.mlp.down_proj",
                                     "model.layers.1.mlp.down_proj"};

typedef struct whole {
    golden g;
    lr_model *model;
    lr_session *session;
    lr_optimizer *optimizer;
} whole;

/* Numbers that do not depend on what was drawn before. */
static float number_at(int which, int64_t i) {
    return 0.5f * (float)tiny_uniform((uint64_t)which * 1000003u + (uint64_t)i);
}

static lr__param *numbers_of(int which, int64_t rows, int64_t cols) {
    lr__param *param;
    CHECK_OK(lr__param_new(&param, which % 2 ? "right" : "left", rows, cols, 2));
    for (int64_t i = 0; i < rows * cols; i++) lr__param_floats(param)[i] = number_at(which, i);
    return param;
}

static const float logits_begin[RANK] = {-0.7f, 0.4f, 1.3f};

static void put(whole *w, int place, lr_linear *linear) {
    CHECK_OK(lr_model_set_linear(w->model, places[place], linear));
    lr_linear_free(linear);
}

static void shape_of(const whole *w, int place, int64_t *out, int64_t *in) {
    lr_linear *linear;
    CHECK_OK(lr_model_find_linear(w->model, places[place], &linear));
    *out = lr_linear_out(linear);
    *in = lr_linear_in(linear);
    lr_linear_free(linear);
}

/* Both modules gated by one derived parameter; freed with the model. */
static void put_gated(whole *w, counts *c) {
    lr__param *logits = param_of("gate.logits", logits_begin, RANK, 1, 1);
    lr__param *gate = gate_over(logits, c);
    for (int m = 0; m < 2; m++) {
        int64_t out, in;
        shape_of(w, m, &out, &in);
        lr__param *left = numbers_of(2 * m, out, RANK), *right = numbers_of(2 * m + 1, RANK, in);
        put(w, m, gated("m", left, gate, right));
        lr__param_drop(left);
        lr__param_drop(right);
    }
    lr__param_drop(gate);
    lr__param_drop(logits);
}

/* left * diag(sigmoid(s)) * right */
static void multiply_out(int place, int64_t out, int64_t in, const float *s, float *weight) {
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++) {
            double sum = 0;
            for (int64_t r = 0; r < RANK; r++)
                sum += (double)number_at(2 * place, o * RANK + r) / (1 + exp(-(double)s[r])) *
                       (double)number_at(2 * place + 1, r * in + i);
            weight[o * in + i] = (float)sum;
        }
}

/* The same model with nothing derived. */
static void put_dense(whole *w) {
    for (int m = 0; m < 2; m++) {
        int64_t out, in;
        lr__param *weight;
        lr_linear *linear;
        shape_of(w, m, &out, &in);
        CHECK_OK(lr__param_new(&weight, "weight", out, in, 2));
        multiply_out(m, out, in, logits_begin, lr__param_floats(weight));
        CHECK_OK(lr__linear_dense(&linear, fixture_ctx, "m", weight, NULL));
        put(w, m, linear);
        lr__param_drop(weight);
    }
}

static whole open_whole(counts *c, const char *pattern) {
    whole w = {.g = golden_open("llama-tied")};
    lr_optimizer_opts opts = optimizer_opts(LR_ADAMW, 0.05);
    CHECK_OK(lr_model_open(&w.model, fixture_ctx, golden_model_path("llama-tied"), NULL));
    w.session = tiny_session(w.model, w.g.rows, LR_STEP_BATCH, 1, NULL);
    w.optimizer = optimizer_of(&opts);
    if (c)
        put_gated(&w, c);
    else
        put_dense(&w);
    if (pattern) CHECK_OK(lr_optimizer_add_model(w.optimizer, w.model, pattern, NULL, NULL));
    return w;
}

static void close_whole(whole *w) {
    lr_optimizer_free(w->optimizer);
    lr_session_free(w->session);
    lr_model_free(w->model);
    golden_close(&w->g);
}

static double learn_whole(whole *w, int32_t keeps_all) {
    lr_segment segments[MOST_ROWS];
    lr_learn_opts opts;
    lr_learn_result result = {.size = sizeof result};
    lr_learn_opts_init(&opts, sizeof opts);
    opts.keeps_all = keeps_all;
    golden_segments(&w->g, segments);
    CHECK_OK(lr_session_learn(w->session, segments, w->g.rows, w->optimizer, &opts, &result));
    return result.loss;
}

static double loss_of(const whole *w) {
    lr_segment segments[MOST_ROWS];
    double nll[4096], sum = 0;
    int64_t scored = (int64_t)w->g.rows * (w->g.length - 1);
    golden_segments(&w->g, segments);
    ck_assert_int_le(scored, 4096);
    CHECK_OK(lr_session_loss(w->session, segments, w->g.rows, nll));
    for (int64_t i = 0; i < scored; i++) sum += nll[i];
    return sum / (double)scored;
}

/* Blocks 0 and 1 with numbers as the derivative behind the last. */
static lr_status push(const lr_hook_event *event, void *user) {
    int64_t count = event->output.shape[0] * event->output.shape[1];
    (void)user;
    for (int64_t i = 0; i < count; i++) ((float *)event->output.data)[i] += number_at(9, i);
    return LR_OK;
}

static void learn_blocks(whole *w) {
    static float x[1 << 16];
    lr_segment segments[MOST_ROWS];
    lr_hooks *hooks;
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_hook_add(hooks, "model.layers.1", LR_BEFORE_BACKWARD | LR_HOOK_CHANGES, push, NULL,
                         NULL));
    lr_session *session = tiny_session(w->model, w->g.rows, LR_STEP_BATCH, 1, hooks);
    golden_segments(&w->g, segments);
    CHECK_OK(lr_session_learn_blocks(session, segments, w->g.rows, 0, 2, x, NULL, w->optimizer));
    lr_session_free(session);
    lr_hooks_free(hooks);
}

/* Of the logits, from the gradients of the dense weights. */
static void chain_rule(const whole *dense, double *wanted) {
    for (int64_t r = 0; r < RANK; r++) wanted[r] = 0;
    for (int m = 0; m < 2; m++) {
        int64_t out, in;
        char name[80];
        shape_of(dense, m, &out, &in);
        snprintf(name, sizeof name, "%s.weight", places[m]);
        const float *dw = gradient_named(dense->optimizer, name);
        for (int64_t r = 0; r < RANK; r++) {
            double open = 1 / (1 + exp(-(double)logits_begin[r]));
            for (int64_t o = 0; o < out; o++)
                for (int64_t i = 0; i < in; i++)
                    wanted[r] += (double)dw[o * in + i] * (double)number_at(2 * m, o * RANK + r) *
                                 (double)number_at(2 * m + 1, r * in + i) * open * (1 - open);
        }
    }
}

START_TEST(source_learns_through_a_model) {
    counts c = {0};
    double wanted[RANK], most = 0;
    whole w = open_whole(&c, "gate.logits"), dense = open_whole(NULL, "*.down_proj.weight");
    ck_assert_int_eq(lr_optimizer_count(w.optimizer), 1);
    if (_i < 2) {
        learn_whole(&w, _i);
        learn_whole(&dense, _i);
    } else {
        learn_blocks(&w);
        learn_blocks(&dense);
    }
    chain_rule(&dense, wanted);
    ck_assert_int_eq(c.refreshed, 1); /* recomputation or not */
    ck_assert_int_eq(c.backward, 1);  /* shared or not */
    const float *got = w.optimizer->items[0].gradient;
    for (int r = 0; r < RANK; r++) most = fmax(most, fabs(wanted[r]));
    for (int r = 0; r < RANK; r++)
        ck_assert_msg(fabs((double)got[r] - wanted[r]) <= 2e-5 * most, "%d: %g, expected %g", r,
                      (double)got[r], wanted[r]);
    ck_assert(most > 1e-3);
    close_whole(&w);
    close_whole(&dense);
    ck_assert_int_eq(c.freed, 1);
}
END_TEST

/* Differences of the loss over h and 2h, without their error in h^2; what remains is binary32. */
START_TEST(gradient_is_that_of_the_loss) {
    static const double h = 0.125;
    counts c = {0};
    whole w = open_whole(&c, "gate.logits");
    float *s = lr__param_floats(w.optimizer->items[0].param);
    learn_whole(&w, 0);
    for (int r = 0; r < RANK; r++) {
        double slope[2], got = (double)w.optimizer->items[0].gradient[r];
        for (int wide = 0; wide < 2; wide++) {
            s[r] = logits_begin[r] + (float)(h * (1 + wide));
            slope[wide] = loss_of(&w);
            s[r] = logits_begin[r] - (float)(h * (1 + wide));
            slope[wide] = (slope[wide] - loss_of(&w)) / (2 * h * (1 + wide));
        }
        s[r] = logits_begin[r];
        double wanted = (4 * slope[0] - slope[1]) / 3;
        ck_assert_msg(fabs(got - wanted) <= 1e-3 * fabs(wanted) + 1e-5, "%d: %g, expected %g", r,
                      got, wanted);
    }
    close_whole(&w);
}
END_TEST

static const lr__param *gate_of(const lr_model *model) {
    lr_linear *linear;
    CHECK_OK(lr_model_find_linear(model, places[1], &linear));
    const lr__param *gate = op_param(linear, 0, 1);
    lr_linear_free(linear);
    return gate;
}

static void check_gate(const lr__param *gate, const float *s) {
    for (int r = 0; r < RANK; r++)
        ck_assert(((float *)gate->owned)[r] == (float)(1 / (1 + exp(-(double)s[r]))));
}

static void check_follows(const whole *w, const float *s) {
    enum { TOKENS_READ = 11 };
    int64_t out, in;
    lr_linear *linear;
    shape_of(w, 1, &out, &in);
    float *got = malloc((size_t)(2 * out * in) * sizeof *got), *wanted = got + out * in;
    lr_save_opts opts;
    lr_save_opts_init(&opts, sizeof opts);
    opts.dtype = LR_F32;
    CHECK_OK(lr_model_save(w->model, scratch_path("saved"), &opts)); /* before the next forward */
    CHECK_OK(lr_model_find_linear(w->model, places[1], &linear));
    CHECK_OK(lr_linear_densify(linear, got));
    multiply_out(1, out, in, s, wanted);
    for (int64_t i = 0; i < out * in; i++) ck_assert(fabsf(got[i] - wanted[i]) <= 1e-6f);
    lr_linear_free(linear);
    free(got);
    lr_model *again = tiny_open_path(scratch_path("saved"), 1);
    float *a = tiny_logits(w->model, 0, 1, TOKENS_READ), *b = tiny_logits(again, 0, 1, TOKENS_READ);
    ck_assert_double_le(tiny_distance(a, b, TOKENS_READ * tiny_vocabulary(again)), 2e-4);
    free(a);
    free(b);
    lr_model_free(again);
}

START_TEST(ten_steps_move_the_source) {
    enum { STEPS = 10, READ = 11 };
    counts c = {0};
    double first = 0, last = 0;
    lr_model *clone;
    whole w = open_whole(&c, NULL);
    CHECK_OK(lr_model_clone(&clone, w.model));
    int32_t vocabulary = tiny_vocabulary(clone);
    float *before = tiny_logits(clone, 0, 1, READ);
    loss_of(&w); /* the session knows this version of the graph */
    CHECK_OK(lr_optimizer_add_model(w.optimizer, w.model, "gate.*", NULL, NULL));
    ck_assert_ptr_ne(gate_of(w.model), gate_of(clone));
    const lr__param *master = w.optimizer->items[0].param;
    const float *s = lr__param_floats((lr__param *)master);
    ck_assert_ptr_eq(gate_of(w.model)->sources[0], master);
    for (int step = 0; step < STEPS; step++) {
        float was[RANK];
        memcpy(was, s, sizeof was);
        last = learn_whole(&w, step % 2);
        if (!step) first = last;
        check_gate(gate_of(w.model), was);
        CHECK_OK(lr_optimizer_step(w.optimizer, NULL));
        for (int r = 0; r < RANK; r++) ck_assert(fabsf(s[r] - was[r]) > 1e-4f);
    }
    ck_assert_double_lt(last, first);
    check_follows(&w, s);
    check_gate(gate_of(w.model), s);
    check_gate(gate_of(clone), logits_begin);
    float *after = tiny_logits(clone, 0, 1, READ);
    CHECK_SAME_BITS(before, after, READ * vocabulary);
    lr_model_free(clone);
    free(before);
    free(after);
    close_whole(&w);
    ck_assert_int_eq(c.freed, 1);
}
END_TEST

/* Without the source among what is trained, a model's pass ends where it did. */
START_TEST(frozen_source_of_a_model) {
    counts c = {0};
    whole w = open_whole(&c, "model.norm.weight");
    learn_whole(&w, 0);
    ck_assert_int_eq(c.refreshed, 1);
    ck_assert_int_eq(c.backward, 0);
    close_whole(&w);
}
END_TEST

/* A failure of a producer is the pass's. */
static lr_status refuse(const lr__param *param, const float *gradient, float *const *gradients,
                        void *user) {
    (void)param, (void)gradient, (void)gradients, (void)user;
    return LR_E_USER;
}

START_TEST(producer_may_fail) {
    pair p;
    make_pair(&p, 1);
    p.gate->producer->backward = refuse;
    lr_optimizer *o = optimizer_of(NULL);
    add(o, p.linears[0]);
    ck_assert_int_eq(backward(&p, 0, o), LR_E_USER);
    lr_optimizer_free(o);
    drop_pair(&p);
}
END_TEST

Suite *derived_suite(void) {
    Suite *suite = suite_create("derived");
    TCase *tests = tcase_create("derived");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_loop_test(tests, sources_learn_through_modules, 0, 2);
    tcase_add_test(tests, modules_follow_their_sources);
    tcase_add_test(tests, one_pass_hands_on_once);
    tcase_add_test(tests, frozen_sources_cost_nothing);
    tcase_add_test(tests, what_cannot_learn_is_refused);
    tcase_add_test(tests, memory_may_run_out);
    tcase_add_loop_test(tests, source_learns_through_a_model, 0, 3);
    tcase_add_test(tests, gradient_is_that_of_the_loss);
    tcase_add_test(tests, ten_steps_move_the_source);
    tcase_add_test(tests, frozen_source_of_a_model);
    tcase_add_test(tests, producer_may_fail);
    suite_add_tcase(suite, tests);
    return suite;
}
