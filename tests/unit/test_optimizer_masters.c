/* What is trained: masters of every stored type, shared parameters, models; saving and going on;
 * memory that runs out. */
#include "optimizer_fixture.h"

#include "faults.h"
#include "golden_model.h"
#include "model/learn.h"

static void set_up(void) {
    fixture_make();
    scratch_make();
}

static void tear_down(void) {
    scratch_remove();
    fixture_drop();
}

/* --- masters of modules --- */

START_TEST(test_stored_types) {
    static const int32_t dtypes[] = {LR_F32, LR_F16, LR_BF16, LR_I8, LR_Q8_0, LR_Q4_1, LR_F64};
    enum { ROWS = 5, COLS = 64 };
    both_op op = make_matrix(dtypes[_i], ROWS, COLS);
    lr_linear *linear = new_linear("m", ROWS, COLS);
    int64_t count;
    float y[ROWS], *x = fixture_numbers(COLS);
    double wanted[ROWS] = {0};
    add_chain(linear, 1, &op, 1, NULL);
    lr_optimizer *optimizer = optimizer_of(NULL);
    CHECK_OK(lr_optimizer_add_linear(optimizer, linear, NULL, NULL, &count));
    ck_assert_int_eq(count, 1);
    ck_assert_int_eq(lr_optimizer_numbers(optimizer), ROWS * COLS);
    ck_assert_str_eq(lr_optimizer_name(optimizer, 0), "m.weight"); /* it was called "w" */
    lr__param *master = op_param(linear, 0, 0);
    ck_assert_ptr_ne(master, op.op.param);
    ck_assert_int_eq(master->matrix.dtype, LR_F32);
    ck_assert_ptr_null(master->mapping);
    CHECK_SAME_BITS(lr__param_floats(master), op.plain.w, ROWS * COLS);
    lr_tensor xs, ys;
    lr_tensor_view(&xs, x, LR_F32, 2, (int64_t[]){1, COLS});
    lr_tensor_view(&ys, y, LR_F32, 2, (int64_t[]){1, ROWS});
    CHECK_OK(lr_linear_apply(linear, &xs, &ys));
    oracle_ops(&op, 1, 1, x, wanted);
    check_close(y, wanted, ROWS, "applied");
    lr_optimizer_free(optimizer);
    CHECK_OK(lr_linear_apply(linear, &xs, &ys)); /* the master outlives it */
    check_close(y, wanted, ROWS, "applied");
    lr_linear_free(linear);
    drop_ops(&op, 1);
    free(x);
}
END_TEST

/* left * right + diagonal, with a bias: names, patterns, groups in the order of adding. */
START_TEST(test_patterns) {
    both_op ops[3] = {make_matrix(LR_BF16, 6, 2), make_matrix(LR_BF16, 2, 6),
                      make_diagonal(LR_F32, 6)};
    float bias[6] = {1, 2, 3, 4, 5, 6};
    lr_linear *linear = new_linear("up_proj", 6, 6);
    int64_t count;
    add_chain(linear, 1, ops, 2, NULL);
    add_chain(linear, 2, ops + 2, 1, NULL);
    linear->bias = param_of("up_proj.bias", bias, 6, 1, 1);
    lr_optimizer *optimizer = optimizer_of(NULL);
    CHECK_OK(lr_optimizer_add_linear(optimizer, linear, "*.bias", NULL, &count));
    ck_assert_int_eq(count, 1);
    CHECK_OK(lr_optimizer_add_linear(optimizer, linear, "*.chain.0.1.*", NULL, &count));
    ck_assert_int_eq(count, 1);
    ck_assert_ptr_eq(op_param(linear, 0, 0), ops[0].op.param); /* frozen: as it was */
    CHECK_OK(lr_optimizer_add_linear(optimizer, linear, NULL, NULL, &count));
    ck_assert_int_eq(count, 2);
    static const char *const names[] = {"up_proj.bias", "up_proj.chain.0.1.weight",
                                        "up_proj.chain.0.0.weight", "up_proj.chain.1.0.diagonal"};
    static const int64_t sizes[] = {6, 12, 12, 6};
    ck_assert_int_eq(lr_optimizer_count(optimizer), 4);
    for (int32_t i = 0; i < 4; i++) {
        ck_assert_str_eq(lr_optimizer_name(optimizer, i), names[i]);
        ck_assert_int_eq(lr_optimizer_size(optimizer, i), sizes[i]);
    }
    ck_assert_uint_eq(optimizer->group_count, 3);
    lr_optimizer_free(optimizer);
    lr_linear_free(linear);
    drop_ops(ops, 3);
}
END_TEST

/* Two modules end in one matrix; it is trained once, with the gradients of both. */
START_TEST(test_shared) {
    both_op right = make_matrix(LR_BF16, 2, 4);
    both_op a[2] = {make_matrix(LR_F32, 3, 2), right}, b[2] = {make_matrix(LR_F32, 5, 2), right};
    lr_linear *linears[2] = {new_linear("q", 3, 4), new_linear("k", 5, 4)};
    int64_t count;
    add_chain(linears[0], 1, a, 2, NULL);
    add_chain(linears[1], 1, b, 2, NULL);
    lr_optimizer_opts opts = optimizer_opts(LR_SGD, 1);
    lr_optimizer *optimizer = optimizer_of(&opts);
    CHECK_OK(lr_optimizer_add_linear(optimizer, linears[0], NULL, NULL, &count));
    ck_assert_int_eq(count, 2);
    CHECK_OK(lr_optimizer_add_linear(optimizer, linears[1], "*.right.*", NULL, &count));
    ck_assert_int_eq(count, 0); /* joined, not added */
    CHECK_OK(lr_optimizer_add_linear(optimizer, linears[1], NULL, NULL, &count));
    ck_assert_int_eq(count, 1);
    ck_assert_int_eq(lr_optimizer_count(optimizer), 3);
    ck_assert_int_eq(lr_optimizer_numbers(optimizer), 6 + 8 + 10);
    lr__param *shared = op_param(linears[0], 0, 1);
    ck_assert_ptr_eq(op_param(linears[1], 0, 1), shared);
    float before = *lr__param_floats(shared), *gradient = gradient_of(optimizer, shared);
    gradient[0] += 0.25f;
    gradient[0] += 0.5f;
    CHECK_OK(lr_optimizer_step(optimizer, NULL));
    ck_assert(*lr__param_floats(shared) == before - 0.75f);
    ck_assert(gradient_of(optimizer, shared)[0] == 0);
    lr_optimizer_free(optimizer);
    for (int i = 0; i < 2; i++) lr_linear_free(linears[i]);
    drop_ops(a, 1);
    drop_ops(b, 2);
}
END_TEST

static lr_status refresh(const lr__param *param, float *values, int64_t step, void *user) {
    (void)step;
    (void)user;
    for (int64_t i = 0; i < lr__param_count(param); i++) values[i] = 1;
    return LR_OK;
}

START_TEST(test_derived) {
    both_op ops[3] = {make_matrix(LR_F32, 3, 2), make_diagonal(LR_F32, 2),
                      make_matrix(LR_F32, 2, 4)};
    const lr__producer producer = {.size = sizeof producer, .refresh = refresh};
    lr__param *gate;
    CHECK_OK(lr__param_derived(&gate, "gate", 2, 1, 1, &producer, NULL));
    lr__param_drop(ops[1].op.param);
    ops[1].op.param = gate;
    lr_linear *linear = new_linear("m", 3, 4);
    add_chain(linear, 1, ops, 3, NULL);
    lr_optimizer *optimizer = optimizer_of(NULL);
    CHECK_FAILS(lr_optimizer_add_linear(optimizer, linear, NULL, NULL, NULL), LR_E_UNSUPPORTED,
                "m.chain.0.1.diagonal: derived from other parameters");
    ck_assert_int_eq(lr_optimizer_count(optimizer), 0);
    for (int i = 0; i < 3; i++) ck_assert_ptr_eq(op_param(linear, 0, i), ops[i].op.param);
    CHECK_OK(lr_optimizer_add_linear(optimizer, linear, "*.weight", NULL, NULL));
    ck_assert_int_eq(lr_optimizer_count(optimizer), 2);
    lr_optimizer_free(optimizer);
    lr_linear_free(linear);
    drop_ops(ops, 3);
}
END_TEST

/* --- models --- */

static lr_optimizer *optimizer_over(lr_model *model, const char *pattern, int64_t *count) {
    lr_optimizer_opts opts = optimizer_opts(LR_SGD, 1);
    lr_optimizer *optimizer = optimizer_of(&opts);
    CHECK_OK(lr_optimizer_add_model(optimizer, model, pattern, NULL, count));
    return optimizer;
}

static int64_t parameters_of(const lr_model *model) {
    lr_model_info info = {.size = sizeof info};
    CHECK_OK(lr_model_get_info(model, &info));
    return info.parameters;
}

static void check_is_trained(const lr__param *param, int32_t is_bias, void *user) {
    (void)is_bias;
    ck_assert_msg(lr__gradient_of(user, param) != NULL, "%s is not trained", param->name);
    ck_assert_int_eq(param->matrix.dtype, LR_F32);
}

/* All of a model of each kind, GGUF's types and order of rows among them: the function stays, as do
 * counts, axes and a clone made before. */
START_TEST(test_models) {
    static const char *const names[] = {"llama-tied", "qwen3", "llama-bias-sharded", "gguf-mixed"};
    enum { TOKENS = 9 };
    int64_t count;
    lr_model *model = tiny_open_path(golden_model_path(names[_i]), 2), *clone;
    int32_t vocabulary = tiny_vocabulary(model);
    CHECK_OK(lr_model_clone(&clone, model));
    float *before = tiny_logits(model, 0, 1, TOKENS);
    int64_t parameters = parameters_of(model);
    lr_optimizer *optimizer = optimizer_over(model, NULL, &count);
    ck_assert_int_eq(lr_optimizer_numbers(optimizer), parameters);
    ck_assert_int_eq(lr_optimizer_count(optimizer), (int32_t)count);
    ck_assert_str_eq(lr_optimizer_name(optimizer, 0), "model.embed_tokens.weight");
    ck_assert_int_eq(parameters_of(model), parameters);
    lr__graph *graph = lr__model_graph(model), *old = lr__model_graph(clone);
    lr__graph_each_param(graph, check_is_trained, lr__optimizer_gradients(optimizer));
    for (int32_t i = 0; i < lr__graph_linear_count(graph); i++) {
        const lr_linear *now = *lr__graph_linear(graph, i), *then = *lr__graph_linear(old, i);
        ck_assert_str_eq(now->name, then->name);
        for (int32_t k = 0; k < now->terms[0].count; k++) {
            ck_assert_ptr_eq(now->terms[0].ops[k].index, then->terms[0].ops[k].index);
            ck_assert_ptr_eq(now->terms[0].ops[k].out_axis, then->terms[0].ops[k].out_axis);
            ck_assert_ptr_eq(now->terms[0].ops[k].in_axis, then->terms[0].ops[k].in_axis);
        }
    }
    if (!_i) ck_assert_ptr_eq(op_param(graph->head, 0, 0), graph->embedding);
    float *after = tiny_logits(model, 0, 1, TOKENS);
    ck_assert_double_le(tiny_distance(before, after, TOKENS * vocabulary), 1e-4);
    for (size_t i = 0; i < optimizer->count; i++)
        for (int64_t k = 0; k < optimizer->items[i].count; k++)
            optimizer->items[i].gradient[k] = 0.01f * fixture_number();
    CHECK_OK(lr_optimizer_step(optimizer, NULL));
    float *trained = tiny_logits(model, 0, 1, TOKENS), *kept = tiny_logits(clone, 0, 1, TOKENS);
    ck_assert_double_ge(tiny_distance(before, trained, TOKENS * vocabulary), 1e-3);
    CHECK_SAME_BITS(before, kept, TOKENS * vocabulary);
    lr__graph_drop(graph);
    lr__graph_drop(old);
    lr_optimizer_free(optimizer);
    lr_model_free(model);
    lr_model_free(clone);
    free(before);
    free(after);
    free(trained);
    free(kept);
}
END_TEST

/* A part of a model, then another; the rest is shared with the version before. */
START_TEST(test_model_parts) {
    int64_t count;
    lr_model *model = tiny_open(&tiny_model, 2);
    lr__graph *before = lr__model_graph(model);
    lr_optimizer *optimizer = optimizer_over(model, "*.{q_proj.weight,mlp.up_proj.weight}", &count);
    ck_assert_int_eq(count, 6);
    CHECK_OK(lr_optimizer_add_model(optimizer, model, "*norm.weight", NULL, &count));
    ck_assert_int_eq(count, 7);
    CHECK_FAILS(lr_optimizer_add_model(optimizer, model, "*norm.weight", NULL, &count),
                LR_E_NOTFOUND, "the model: no parameter matches");
    ck_assert_int_eq(lr_optimizer_count(optimizer), 13);
    lr__graph *after = lr__model_graph(model);
    for (int32_t i = 0; i < lr__graph_linear_count(after); i++) {
        int is_one = i % LR__BLOCK_LINEARS == LR__Q || i % LR__BLOCK_LINEARS == LR__UP;
        int is_same = *lr__graph_linear(after, i) == *lr__graph_linear(before, i);
        ck_assert_int_eq(is_same, i == lr__graph_linear_count(after) - 1 || !is_one);
    }
    ck_assert_ptr_eq(after->embedding, before->embedding);
    ck_assert_ptr_ne(after->final_norm, before->final_norm);
    lr__graph_drop(before);
    lr__graph_drop(after);
    lr_optimizer_free(optimizer);
    lr_model_free(model);
}
END_TEST

/* A module put into a model keeps the names of its own parameters, but is trained by its place. */
START_TEST(test_foreign_name) {
    enum { HIDDEN = 24, WIDE = 20 };
    static const char name[] = "model.layers.1.mlp.up_proj";
    float left[WIDE * 2] = {1}, right[2 * HIDDEN] = {1};
    lr_model *model = tiny_open(&tiny_model, 1);
    lr_tensor l, r;
    lr_linear *linear;
    lr_tensor_view(&l, left, LR_F32, 2, (int64_t[]){WIDE, 2});
    lr_tensor_view(&r, right, LR_F32, 2, (int64_t[]){2, HIDDEN});
    CHECK_OK(lr_linear_from_factors(&linear, fixture_ctx, &l, &r, NULL, NULL));
    CHECK_OK(lr_model_set_linear(model, name, linear));
    lr_optimizer *optimizer = optimizer_over(model, "model.layers.1.mlp.up_proj.*", NULL);
    ck_assert_int_eq(lr_optimizer_count(optimizer), 2);
    ck_assert_str_eq(lr_optimizer_name(optimizer, 0), "model.layers.1.mlp.up_proj.left.weight");
    ck_assert_str_eq(lr_optimizer_name(optimizer, 1), "model.layers.1.mlp.up_proj.right.weight");
    lr_optimizer_free(optimizer);
    lr_linear_free(linear);
    lr_model_free(model);
}
END_TEST

/* Everything together on a tied model: the loss of one text falls, in the forward that everybody
 * uses too. */
START_TEST(test_learns) {
    enum { TOKENS = 24 };
    int32_t tokens[TOKENS];
    double nll[TOKENS - 1], sum = 0, first = 0, last = 0;
    tiny small = tiny_model;
    small.is_tied = 1;
    lr_model *model = tiny_open(&small, 2);
    lr_session *session = tiny_session(model, 1, LR_STEP_BATCH, 1, NULL);
    lr_optimizer_opts opts = optimizer_opts(LR_ADAMW, 1e-2);
    lr_optimizer *optimizer = optimizer_of(&opts);
    CHECK_OK(lr_optimizer_add_model(optimizer, model, NULL, NULL, NULL));
    const lr__lesson lesson = {.gradients = lr__optimizer_gradients(optimizer), .scale = 1};
    tiny_text(3, TOKENS, small.vocabulary, tokens);
    const lr_segment segment = {0, TOKENS, tokens};
    for (int step = 0; step < 30; step++) {
        lr__loss_sums sums;
        CHECK_OK(lr__session_learn(session, &segment, 1, &lesson, &sums));
        CHECK_OK(lr_optimizer_step(optimizer, NULL));
        last = sums.total / (double)sums.scored;
        if (!step) first = last;
    }
    ck_assert_double_ge(first, 3);
    ck_assert_double_le(last, 0.1);
    CHECK_OK(lr_session_loss(session, &segment, 1, nll));
    for (int i = 0; i < TOKENS - 1; i++) sum += nll[i];
    ck_assert_double_le(sum / (TOKENS - 1), last);
    lr_optimizer_free(optimizer);
    lr_session_free(session);
    lr_model_free(model);
}
END_TEST

/* --- saving and going on --- */

enum { ROWS = 7, COLS = 9 };

typedef struct run {
    lr_linear *linears[2];
    lr_optimizer *optimizer;
} run;

static run run_new(int32_t rule, const float *numbers) {
    lr_optimizer_opts opts = optimizer_opts(rule, 1e-2);
    opts.momentum = 0.9;
    opts.weight_decay = 0.1;
    opts.schedule = LR_COSINE;
    opts.steps = 12;
    opts.update = rule == LR_OWN_RULE ? heavy_ball : NULL;
    opts.update_state = rule == LR_OWN_RULE;
    run r = {.linears = {dense_of("m", numbers, ROWS, COLS), dense_of("m", numbers + 5, COLS, 1)},
             .optimizer = optimizer_of(&opts)};
    for (int i = 0; i < 2; i++) add(r.optimizer, r.linears[i]);
    return r;
}

static void run_step(run *r, const float *numbers) {
    for (int i = 0; i < 2; i++) set_gradient(r->optimizer, r->linears[i], numbers + 3 * i);
    CHECK_OK(lr_optimizer_step(r->optimizer, NULL));
}

static void run_free(run *r) {
    lr_optimizer_free(r->optimizer);
    for (int i = 0; i < 2; i++) lr_linear_free(r->linears[i]);
}

START_TEST(test_resume) {
    float *numbers = fixture_numbers(400);
    run whole = run_new(_i, numbers), first = run_new(_i, numbers),
        second = run_new(_i, numbers + 9);
    for (int step = 0; step < 8; step++) run_step(&whole, numbers + 20 * step);
    for (int step = 0; step < 4; step++) run_step(&first, numbers + 20 * step);
    CHECK_OK(lr_optimizer_save(first.optimizer, scratch_path("state"), 0));
    CHECK_FAILS(lr_optimizer_save(first.optimizer, scratch_path("state"), 0), LR_E_EXISTS,
                "exists");
    CHECK_OK(lr_optimizer_save(first.optimizer, scratch_path("state"), 1));
    set_gradient(second.optimizer, second.linears[0], numbers);
    CHECK_OK(lr_optimizer_restore(second.optimizer, scratch_path("state")));
    ck_assert_int_eq(lr_optimizer_steps(second.optimizer), 4);
    ck_assert(*gradient_of(second.optimizer, op_param(second.linears[0], 0, 0)) == 0);
    for (int step = 4; step < 8; step++) run_step(&second, numbers + 20 * step);
    CHECK_SAME_BITS(values_of(whole.linears[0]), values_of(second.linears[0]), ROWS * COLS);
    CHECK_SAME_BITS(values_of(whole.linears[1]), values_of(second.linears[1]), COLS);
    run_free(&whole);
    run_free(&first);
    run_free(&second);
    free(numbers);
}
END_TEST

static void check_not_restored(run *r, const float *numbers, lr_status expected, const char *text) {
    CHECK_FAILS(lr_optimizer_restore(r->optimizer, scratch_path("bad")), expected, text);
    CHECK_SAME_BITS(values_of(r->linears[0]), numbers, ROWS * COLS);
    ck_assert_int_eq(lr_optimizer_steps(r->optimizer), 0);
}

/* The file with a piece of its header replaced by one as long, or a number of its data. */
static void spoil(const char *from, const char *to, size_t number, float value) {
    char bytes[8192];
    size_t size = scratch_read(scratch_path("state"), bytes, sizeof bytes);
    uint64_t header;
    memcpy(&header, bytes, sizeof header);
    if (from) {
        char *at = memmem(bytes, size, from, strlen(from));
        ck_assert_msg(at != NULL, "no %s", from);
        memcpy(at, to, strlen(to));
    } else {
        memcpy(bytes + 8 + header + 4 * number, &value, sizeof value);
    }
    scratch_write("bad", bytes, size);
}

START_TEST(test_hostile) {
    static const struct {
        const char *from, *to;
        lr_status status;
        const char *text;
    } header[] = {
        {"lowrank optimizer", "lowrank optimiser", LR_E_FORMAT, "format \"lowrank optimiser\""},
        {"\"version\":\"1\"", "\"version\":\"2\"", LR_E_FORMAT, "version \"2\""},
        {"adamw", "adamz", LR_E_FORMAT, "rule \"adamz\", expected \"adamw\""},
        {"\"state\":\"2\"", "\"state\":\"1\"", LR_E_FORMAT, "state \"1\""},
        {"\"step\":\"1\"", "\"step\":\"x\"", LR_E_FORMAT, "step \"x\""},
        {"\"step\":", "\"stop\":", LR_E_FORMAT, "no \"step\""},
        {"values.1.m.weight", "values.1.n.weight", LR_E_FORMAT, "no tensor \"values.1.m.weight\""},
        {"[7,9]", "[9,7]", LR_E_FORMAT, "of another shape, expected [7, 9]"},
        {"F32", "I32", LR_E_FORMAT, "of another shape"},
        {"\"values.0", "\xff\"alues", LR_E_FORMAT, "bad"},
    };
    float *numbers = fixture_numbers(100);
    run saved = run_new(LR_ADAMW, numbers), r = run_new(LR_ADAMW, numbers);
    run_step(&saved, numbers);
    CHECK_OK(lr_optimizer_save(saved.optimizer, scratch_path("state"), 0));
    for (size_t i = 0; i < sizeof header / sizeof *header; i++) {
        spoil(header[i].from, header[i].to, 0, 0);
        check_not_restored(&r, numbers, header[i].status, header[i].text);
    }
    spoil(NULL, NULL, 3, NAN); /* a value, m, v */
    check_not_restored(&r, numbers, LR_E_NUMERIC, "\"values.0.m.weight\": number 3 is nan");
    spoil(NULL, NULL, ROWS * COLS + 1, INFINITY);
    check_not_restored(&r, numbers, LR_E_NUMERIC, "\"state.0.m.weight\": number 1 is inf");
    spoil(NULL, NULL, 2 * ROWS * COLS + 2, -1);
    check_not_restored(&r, numbers, LR_E_FORMAT, "a mean of squares of -1");
    CHECK_FAILS(lr_optimizer_restore(r.optimizer, scratch_path("none")), LR_E_NOTFOUND, "none");
    CHECK_FAILS(lr_optimizer_restore(r.optimizer, NULL), LR_E_INVALID, "needed");
    CHECK_FAILS(lr_optimizer_save(NULL, "x", 0), LR_E_INVALID, "needed");
    lr_linear *more = dense_of("more", numbers, 1, 1);
    add(saved.optimizer, more);
    CHECK_OK(lr_optimizer_save(saved.optimizer, scratch_path("bad"), 1));
    check_not_restored(&r, numbers, LR_E_FORMAT, "6 tensors, expected 4");
    ((float *)values_of(more))[0] = NAN;
    CHECK_FAILS(lr_optimizer_save(saved.optimizer, scratch_path("nan"), 0), LR_E_NUMERIC,
                "values.2.more.weight: number 0 is nan");
    ck_assert_int_ne(access(scratch_path("nan"), F_OK), 0);
    lr_linear_free(more);
    run_free(&saved);
    run_free(&r);
    free(numbers);
}
END_TEST

/* --- memory --- */

static int was_refused;

/* The first failure says so and leaves nothing behind; from then on there is memory. */
#define ATTEMPT(call, unchanged)                                                               \
    do {                                                                                       \
        lr_status given_ = (call);                                                             \
        if (given_ >= 0) break;                                                                \
        ck_assert_msg(!was_refused && given_ == LR_E_NOMEM, "%s: %s", #call, lr_last_error()); \
        ck_assert(unchanged);                                                                  \
        was_refused = 1;                                                                       \
        faults_refuse_at = -1;                                                                 \
        CHECK_OK(call);                                                                        \
    } while (0)

static void train(const char *path) {
    static const float numbers[40] = {1, 2, 3};
    lr_optimizer_opts opts = optimizer_opts(LR_ADAMW, 1e-2);
    lr_ctx *ctx = NULL;
    lr_ctx_opts one;
    lr_model *model = NULL;
    lr_optimizer *o = NULL;
    lr_ctx_opts_init(&one, sizeof one);
    one.threads = 1;
    ATTEMPT(lr_ctx_new(&ctx, &one), !ctx);
    ATTEMPT(lr_model_open(&model, ctx, path, NULL), !model);
    ATTEMPT(lr_optimizer_new(&o, ctx, &opts), !o);
    lr__graph *before = lr__model_graph(model);
    ATTEMPT(lr_optimizer_add_model(o, model, "*norm.weight", NULL, NULL),
            !lr_optimizer_count(o) && !o->gradients.count && !o->chunks && !o->group_count &&
                model->graph == before);
    lr__graph_drop(before);
    int32_t count = lr_optimizer_count(o);
    before = lr__model_graph(model);
    ATTEMPT(lr_optimizer_add_model(o, model, "*.{embed_tokens,k_proj}.*", NULL, NULL),
            lr_optimizer_count(o) == count && o->gradients.count == (size_t)count &&
                model->graph == before);
    lr__graph_drop(before);
    for (size_t i = 0; i < o->count; i++) memcpy(o->items[i].gradient, numbers, sizeof numbers / 8);
    ATTEMPT(lr_optimizer_step(o, NULL), 0);
    ATTEMPT(lr_optimizer_save(o, scratch_path("saved"), 0), access(scratch_path("saved"), F_OK));
    for (size_t i = 0; i < o->count; i++) memset(lr__param_floats(o->items[i].param), 0, 4);
    ATTEMPT(lr_optimizer_restore(o, scratch_path("saved")),
            *lr__param_floats(o->items[o->count - 1].param) == 0);
    ck_assert(*lr__param_floats(o->items[o->count - 1].param) != 0);
    lr_optimizer_free(o);
    lr_model_free(model);
    lr_ctx_free(ctx);
}

START_TEST(test_memory) {
    if (!access("/dev/shm", W_OK)) { /* hundreds of synced files */
        scratch_remove();
        setenv("TMPDIR", "/dev/shm", 1);
        scratch_make();
    }
    tiny small = tiny_model;
    small.layers = 1;
    small.is_tied = 1;
    char *path = strdup(tiny_write(&small, "model"));
    long n = 0, asked;
    do {
        was_refused = 0;
        unlink(scratch_path("saved"));
        faults_begin(n);
        train(path);
        asked = faults_asked;
        long alive = faults_end();
        ck_assert_msg(!alive, "request %ld refused: %ld blocks left", n, alive);
    } while (n++ < asked);
    ck_assert_int_gt(n, 100);
    free(path);
}
END_TEST

static void add_two(void) {
    both_op right = make_matrix(LR_BF16, 2, 4);
    both_op a[2] = {make_matrix(LR_F32, 3, 2), right}, b[2] = {make_matrix(LR_F32, 5, 2), right};
    lr_linear *linears[2] = {new_linear("q", 3, 4), new_linear("k", 5, 4)};
    add_chain(linears[0], 1, a, 2, NULL);
    add_chain(linears[1], 1, b, 2, NULL);
    lr_optimizer *o = optimizer_of(NULL);
    long first = faults_asked;
    if (was_refused >= 0) faults_refuse_at = first + was_refused;
    was_refused = 0;
    for (int i = 0; i < 2; i++)
        ATTEMPT(lr_optimizer_add_linear(o, linears[i], NULL, NULL, NULL),
                lr_optimizer_count(o) == 2 * i && op_param(linears[i], 0, 1) == right.op.param);
    ck_assert_int_eq(lr_optimizer_count(o), 3);
    lr_optimizer_free(o);
    for (int i = 0; i < 2; i++) lr_linear_free(linears[i]);
    drop_ops(a, 1);
    drop_ops(b, 2);
}

START_TEST(test_memory_of_linears) {
    for (int n = 0, refused = 1; refused; n++) {
        fixture_drop();
        faults_begin(-1);
        fixture_make();
        was_refused = n;
        add_two();
        refused = was_refused;
        fixture_drop();
        ck_assert_int_eq(faults_end(), 0);
        fixture_make();
    }
}
END_TEST

Suite *optimizer_masters_suite(void) {
    Suite *suite = suite_create("optimizer_masters");
    TCase *tests = tcase_create("optimizer_masters");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, test_stored_types, 0, 7);
    tcase_add_test(tests, test_patterns);
    tcase_add_test(tests, test_shared);
    tcase_add_test(tests, test_derived);
    tcase_add_loop_test(tests, test_models, 0, 4);
    tcase_add_test(tests, test_model_parts);
    tcase_add_test(tests, test_foreign_name);
    tcase_add_test(tests, test_learns);
    tcase_add_loop_test(tests, test_resume, 0, 3);
    tcase_add_test(tests, test_hostile);
    tcase_add_test(tests, test_memory);
    tcase_add_test(tests, test_memory_of_linears);
    suite_add_tcase(suite, tests);
    return suite;
}
