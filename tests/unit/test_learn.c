/* A session's forward and backward pass: golden gradients of PyTorch, and what must not change
 * them. */
#include "hash.h"
#include "lesson_fixture.h"

static void train_nothing(const lr__param *param, int32_t is_bias, void *user) {
    (void)param, (void)is_bias, (void)user;
}

/* ---- golden gradients ---- */

static const char *const golden_names[] = {"llama-bias-sharded", "llama-tied", "mistral-window",
                                           "qwen3"};
enum { GOLDEN_NAMES = sizeof golden_names / sizeof *golden_names };

START_TEST(gradients_are_those_of_pytorch) {
    const char *name = golden_names[_i % GOLDEN_NAMES];
    lr_ctx *ctx = context_of(2);
    golden g = golden_open(name);
    lr__stored_list tensors = {0};
    CHECK_OK(lr__safetensors_add(&tensors, golden_folder(name, "gradients.safetensors"), 0, NULL));
    lesson l = open_lesson(ctx, name, g.rows, NULL, train);
    learn(&l, &g, NULL, 0, 1, _i / GOLDEN_NAMES);
    const lr__stored *loss = lr__stored_find(&tensors, "loss");
    double wanted;
    memcpy(&wanted, loss->data, sizeof wanted);
    double mean = l.sums.total / (double)l.sums.scored;
    ck_assert_msg(fabs(mean / wanted - 1) <= 2e-6, "%s: loss %.9g, expected %.9g", name, mean,
                  wanted);
    ck_assert_uint_eq(l.gradients.count + 1, tensors.count);
    for (size_t i = 0; i < l.gradients.count; i++)
        check_golden_gradient(name, &tensors, &l.gradients.items[i]);
    close_lesson(&l);
    lr__stored_list_clear(&tensors);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

/* ---- what must not change them ---- */

static uint64_t bits_of(int32_t threads, int32_t keeps_all) {
    lr_ctx *ctx = context_of(threads);
    golden g = golden_open("qwen3");
    lesson l = open_lesson(ctx, "qwen3", g.rows, NULL, train);
    uint64_t hash = hash_begin;
    learn(&l, &g, NULL, 0, 1, keeps_all);
    for (int32_t i = 0; i < lr__graph_linear_count(l.graph); i++) {
        const lr__param *weight = (*lr__graph_linear(l.graph, i))->terms[0].ops[0].param;
        hash = hash_bytes(hash, lr__gradient_of(&l.gradients, weight),
                          (size_t)lr__param_count(weight) * sizeof(float));
    }
    close_lesson(&l);
    golden_close(&g);
    lr_ctx_free(ctx);
    return hash;
}

START_TEST(threads_and_recomputation_change_no_bit) {
    uint64_t bits = bits_of(1, 0);
    ck_assert(bits == bits_of(3, 0));
    ck_assert(bits == bits_of(2, 1));
}
END_TEST

static void train_some(const lr__param *param, int32_t is_bias, void *user) {
    static const char *const names[] = {"model.layers.1.mlp.down_proj.weight",
                                        "model.layers.1.input_layernorm.weight"};
    for (int i = 0; i < 2; i++)
        if (!strcmp(param->name, names[i])) train(param, is_bias, user);
}

/* A part alone has the gradients it has among all. */
START_TEST(frozen_parts_change_nothing) {
    lr_ctx *ctx = context_of(2);
    golden g = golden_open("llama-tied");
    lesson all = open_lesson(ctx, "llama-tied", g.rows, NULL, train);
    lesson some = open_lesson(ctx, "llama-tied", g.rows, NULL, train_some);
    ck_assert_uint_eq(some.gradients.count, 2);
    ck_assert_int_eq(1, some.graph->block_count - 1);
    learn(&all, &g, NULL, 0, 1, 0);
    learn(&some, &g, NULL, 0, 1, 0);
    for (size_t i = 0; i < some.gradients.count; i++) {
        const lr__gradient *part = &some.gradients.items[i];
        for (size_t k = 0; k < all.gradients.count; k++)
            if (!strcmp(all.gradients.items[k].param->name, part->param->name))
                ck_assert_mem_eq(part->values, all.gradients.items[k].values,
                                 (size_t)lr__param_count(part->param) * sizeof(float));
    }
    close_lesson(&all);
    close_lesson(&some);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

/* ---- a teacher ---- */

START_TEST(teacher_of_itself_teaches_nothing) {
    lr_ctx *ctx = context_of(2);
    golden g = golden_open("llama-f32");
    lesson l = open_lesson(ctx, "llama-f32", g.rows, NULL, train);
    lesson teacher = open_lesson(ctx, "llama-f32", g.rows, NULL, train_nothing);
    learn(&l, &g, teacher.session, 1, 1, 0);
    ck_assert(fabs(l.sums.total) <= 1e-4 * (double)l.sums.scored);
    for (size_t i = 0; i < l.gradients.count; i++)
        for (int64_t k = 0; k < lr__param_count(l.gradients.items[i].param); k++)
            ck_assert(fabsf(l.gradients.items[i].values[k]) <= 2e-6f);
    close_lesson(&teacher);
    close_lesson(&l);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

/* ---- hooks ---- */

typedef struct seen {
    char text[4000];
    double input, output;
} seen;

static lr_status note(const lr_hook_event *event, void *user) {
    seen *s = user;
    const char *name = strrchr(event->module, '.');
    char *end = s->text + strlen(s->text);
    snprintf(end, sizeof s->text - (size_t)(end - s->text), "%d%s ", event->event, name);
    ck_assert_ptr_nonnull(event->output.data);
    return LR_OK;
}

static lr_status count_calls(const lr_hook_event *event, void *user) {
    (void)event;
    ++*(int *)user;
    return LR_OK;
}

static void train_last_block(const lr__param *param, int32_t is_bias, void *user) {
    if (strstr(param->name, "layers.1.")) train(param, is_bias, user);
}

START_TEST(hooks_see_the_backward_pass) {
    lr_ctx *ctx = context_of(2);
    lr_hooks *hooks;
    seen s = {{0}, 0, 0};
    int changing = 0, observing = 0;
    golden g = golden_open("llama-tied");
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_hook_add(hooks, "*_proj", LR_BEFORE_BACKWARD | LR_AFTER_BACKWARD, note, &s, NULL));
    CHECK_OK(lr_hook_add(hooks, "down_proj", LR_AFTER_FORWARD | LR_HOOK_CHANGES, count_calls,
                         &changing, NULL));
    CHECK_OK(lr_hook_add(hooks, "down_proj", LR_AFTER_FORWARD, count_calls, &observing, NULL));
    lesson l = open_lesson(ctx, "llama-tied", g.rows, hooks, train_last_block);
    learn(&l, &g, NULL, 0, 1, 0);
    ck_assert_str_eq(s.text, "4.down_proj 8.down_proj 4.gate_proj 4.up_proj 8.gate_proj 8.up_proj "
                             "4.o_proj 8.o_proj 4.q_proj 4.k_proj 4.v_proj 8.q_proj 8.k_proj "
                             "8.v_proj ");
    ck_assert_int_eq(observing, 2);
    ck_assert_int_eq(changing, 3); /* the last block is computed again */
    close_lesson(&l);
    lr_hooks_free(hooks);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

/* What hooks saw of one block: derivatives by outputs, and by the inputs they share. */
enum { GROUPS = 4, GROUP_MOST = 3 };
static const char *const groups[GROUPS][GROUP_MOST] = {
    {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
    {"self_attn.o_proj"},
    {"mlp.gate_proj", "mlp.up_proj"},
    {"mlp.down_proj"}};

typedef struct derivatives {
    double *sum[GROUPS]; /* of W' dY by plain loops, [tokens, in] */
    float *told[GROUPS];
    int64_t tokens[GROUPS], in[GROUPS];
} derivatives;

static int group_of(const char *module) {
    for (int g = 0; g < GROUPS; g++)
        for (int i = 0; i < GROUP_MOST && groups[g][i]; i++)
            if (strstr(module, groups[g][i])) return g;
    ck_abort_msg("%s: of no group", module);
}

static void add_product(double *sum, const lr_linear *linear, const float *dy, int64_t tokens) {
    int64_t out = lr_linear_out(linear), in = lr_linear_in(linear);
    float *w = malloc((size_t)(out * in) * sizeof *w);
    CHECK_OK(lr_linear_densify(linear, w));
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t i = 0; i < in; i++)
                sum[t * in + i] += (double)dy[t * out + o] * (double)w[o * in + i];
    free(w);
}

static lr_status take_derivatives(const lr_hook_event *event, void *user) {
    derivatives *d = user;
    int g = group_of(event->module);
    int64_t tokens = event->input.shape[0], in = event->input.shape[1];
    size_t count = (size_t)(tokens * in);
    if (event->event == LR_BEFORE_BACKWARD) {
        if (!d->sum[g]) d->sum[g] = calloc(count, sizeof *d->sum[g]);
        d->tokens[g] = tokens;
        d->in[g] = lr_linear_in(event->linear);
        add_product(d->sum[g], event->linear, event->output.data, tokens);
        return LR_OK;
    }
    ck_assert_int_eq(in, d->in[g]);
    d->told[g] = realloc(d->told[g], count * sizeof *d->told[g]);
    memcpy(d->told[g], event->input.data, count * sizeof *d->told[g]);
    return LR_OK;
}

static void check_group(derivatives *d, int g) {
    double most = 0, worst = 0;
    ck_assert(d->sum[g] && d->told[g]);
    for (int64_t i = 0; i < d->tokens[g] * d->in[g]; i++) {
        most = fmax(most, fabs(d->sum[g][i]));
        worst = fmax(worst, fabs(d->sum[g][i] - (double)d->told[g][i]));
    }
    ck_assert_msg(most > 0 && worst <= 2e-6 * most, "%s: off by %g of %g", groups[g][0], worst,
                  most);
    free(d->sum[g]);
    free(d->told[g]);
}

/* The derivative by an input is that of all modules which read it, each by its own outputs'. */
START_TEST(hooks_are_told_the_derivatives_by_inputs) {
    lr_ctx *ctx = context_of(2);
    lr_hooks *hooks;
    derivatives d = {0};
    golden g = golden_open(golden_names[_i]);
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_hook_add(hooks, "model.layers.0.*_proj", LR_BEFORE_BACKWARD | LR_AFTER_BACKWARD,
                         take_derivatives, &d, NULL));
    lesson l = open_lesson(ctx, golden_names[_i], g.rows, hooks, train);
    learn(&l, &g, NULL, 0, 1, 1);
    for (int i = 0; i < GROUPS; i++) check_group(&d, i);
    close_lesson(&l);
    lr_hooks_free(hooks);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

/* ---- the end of the pass ---- */

typedef struct ending {
    const char *trained; /* of the only block, alone */
    const char *seen;    /* modules whose backward pass runs */
} ending;

#define MLP ".down_proj .gate_proj .up_proj "
static const ending endings[] = {
    {"mlp.down_proj.weight", ".down_proj "},
    {"mlp.up_proj.weight", MLP},
    {"mlp.gate_proj.weight", MLP},
    {"post_attention_layernorm.weight", MLP},
    {"self_attn.o_proj.weight", MLP ".o_proj "},
    {"self_attn.q_norm.weight", MLP ".o_proj "},
    {"self_attn.k_norm.weight", MLP ".o_proj "},
    {"self_attn.q_proj.weight", MLP ".o_proj .q_proj .k_proj .v_proj "},
    {"self_attn.v_proj.weight", MLP ".o_proj .q_proj .k_proj .v_proj "},
    {"input_layernorm.weight", MLP ".o_proj .q_proj .k_proj .v_proj "},
};
enum { ENDINGS = sizeof endings / sizeof *endings };

static lr_status note_name(const lr_hook_event *event, void *user) {
    seen *s = user;
    size_t used = strlen(s->text);
    snprintf(s->text + used, sizeof s->text - used, "%s ", strrchr(event->module, '.'));
    return LR_OK;
}

static const char *wanted_name;

static void train_wanted(const lr__param *param, int32_t is_bias, void *user) {
    if (!strcmp(param->name, wanted_name)) train(param, is_bias, user);
}

/* The pass ends at the lowest module that learns, whose gradient is the same as among all. */
START_TEST(nothing_runs_below_what_learns) {
    const ending *e = &endings[_i];
    lr_ctx *ctx = context_of(2);
    lr_hooks *hooks;
    char name[80];
    seen s = {{0}, 0, 0};
    golden g = golden_open("qwen3");
    snprintf(name, sizeof name, "model.layers.0.%s", e->trained);
    wanted_name = name;
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_hook_add(hooks, "*_proj", LR_BEFORE_BACKWARD, note_name, &s, NULL));
    lesson all = open_lesson(ctx, "qwen3", g.rows, NULL, train);
    lesson one = open_lesson(ctx, "qwen3", g.rows, hooks, train_wanted);
    ck_assert_int_eq(one.graph->block_count, 1);
    ck_assert_uint_eq(one.gradients.count, 1);
    learn(&all, &g, NULL, 0, 1, 0);
    learn(&one, &g, NULL, 0, 1, 0);
    ck_assert_msg(!strcmp(s.text, e->seen), "%s: \"%s\"", e->trained, s.text);
    const lr__gradient *part = &one.gradients.items[0];
    for (size_t k = 0; k < all.gradients.count; k++)
        if (!strcmp(all.gradients.items[k].param->name, name))
            ck_assert_mem_eq(part->values, all.gradients.items[k].values,
                             (size_t)lr__param_count(part->param) * sizeof(float));
    close_lesson(&all);
    close_lesson(&one);
    lr_hooks_free(hooks);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

/* ---- refusals ---- */

START_TEST(wrong_sessions_are_refused) {
    lr_ctx *ctx = context_of(1);
    golden g = golden_open("llama-f32");
    lesson l = open_lesson(ctx, "llama-f32", g.rows, NULL, train);
    lr_session *other;
    lr_segment segments[MOST_ROWS], one = {.row = 0, .count = 1, .tokens = g.ids};
    lr__lesson what = {.gradients = &l.gradients, .scale = 1, .temperature = 1};
    golden_segments(&g, segments);
    CHECK_OK(lr_session_new(&other, l.model, NULL));
    CHECK_FAILS(lr__session_learn(other, segments, 1, &what, &l.sums), LR_E_INVALID, "no_cache");
    CHECK_FAILS(lr__session_learn(NULL, segments, 1, &what, &l.sums), LR_E_INVALID, "NULL");
    CHECK_FAILS(lr__session_learn(l.session, &one, 1, &what, &l.sums), LR_E_INVALID, "two tokens");
    what.teacher = l.session;
    CHECK_FAILS(lr__session_learn(l.session, segments, 1, &what, &l.sums), LR_E_INVALID, "its own");
    what.teacher = NULL;
    CHECK_OK(lr__session_learn(l.session, segments, 1, &what, &l.sums));
    lr_session_free(other);
    close_lesson(&l);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

Suite *learn_suite(void) {
    Suite *suite = suite_create("learn");
    TCase *tests = tcase_create("learn");
    tcase_add_loop_test(tests, gradients_are_those_of_pytorch, 0, 2 * GOLDEN_NAMES);
    tcase_add_test(tests, threads_and_recomputation_change_no_bit);
    tcase_add_test(tests, frozen_parts_change_nothing);
    tcase_add_test(tests, teacher_of_itself_teaches_nothing);
    tcase_add_test(tests, hooks_see_the_backward_pass);
    tcase_add_loop_test(tests, hooks_are_told_the_derivatives_by_inputs, 0, GOLDEN_NAMES);
    tcase_add_loop_test(tests, nothing_runs_below_what_learns, 0, ENDINGS);
    tcase_add_test(tests, wrong_sessions_are_refused);
    suite_add_tcase(suite, tests);
    return suite;
}
