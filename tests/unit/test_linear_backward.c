/* Derivatives of groups of linear modules. The loss, sum of dy * y in binary64 by the chains of the
 * fixture, is a polynomial of at most second degree in each number, so that central differences of
 * any width are exact. */
#include "linear_fixture.h"

enum { TOKENS = 9, MOST_CHAINS = 6, MOST_OPS = 4 };

typedef struct chain {
    int32_t module;
    float scale;
    int32_t count;
    const both_op *ops[MOST_OPS];
    const unsigned char *rows; /* of an overlay; NULL: the base */
} chain;

typedef struct group {
    chain chains[MOST_CHAINS];
    int32_t chain_count, module_count;
    int64_t out[2], in;
    float *x, *dy[2], *bias; /* the bias is module 0's */
    int64_t bias_extent;
} group;

static double loss(const group *g) {
    double sum = 0;
    for (int32_t c = 0; c < g->chain_count; c++) {
        const chain *each = &g->chains[c];
        int64_t out = g->out[each->module];
        plain_op ops[MOST_OPS];
        for (int32_t i = 0; i < each->count; i++) ops[i] = each->ops[i]->plain;
        double *y = calloc((size_t)out, sizeof *y);
        for (int64_t t = 0; t < TOKENS; t++) {
            if (each->rows && !each->rows[t]) continue;
            memset(y, 0, (size_t)out * sizeof *y);
            oracle_chain(ops, each->count, each->scale, g->x + t * g->in, y);
            for (int64_t o = 0; o < out; o++) sum += g->dy[each->module][t * out + o] * y[o];
        }
        free(y);
    }
    for (int64_t t = 0; g->bias && t < TOKENS; t++)
        for (int64_t o = 0; o < g->bias_extent; o++)
            sum += (double)g->bias[o] * g->dy[0][t * g->out[0] + o];
    return sum;
}

static double slope(const group *g, float *number) {
    float was = *number;
    *number = was + 1;
    double above = loss(g);
    *number = was - 1;
    double below = loss(g);
    *number = was;
    return (above - below) / 2;
}

static void check_slopes(const group *g, float *numbers, const float *got, int64_t count,
                         double more, const char *what) {
    for (int64_t i = 0; i < count; i++) {
        double wanted = more + slope(g, numbers + i);
        ck_assert_msg(fabs(got[i] - wanted) <= 2e-5 * (1 + fabs(wanted)), "%s: %d: %g, expected %g",
                      what, (int)i, (double)got[i], wanted);
    }
}

static void build(const group *g, lr_linear **modules, lr__param **bias) {
    for (int32_t m = 0; m < g->module_count; m++)
        modules[m] = new_linear(m ? "second" : "first", g->out[m], g->in);
    for (int32_t c = 0; c < g->chain_count; c++) {
        const chain *each = &g->chains[c];
        lr__op ops[MOST_OPS];
        for (int32_t i = 0; i < each->count; i++) ops[i] = each->ops[i]->op;
        ck_assert_int_ge(
            lr__linear_add_term(modules[each->module], each->scale, ops, each->count, each->rows),
            0);
    }
    *bias = NULL;
    if (!g->bias) return;
    ck_assert_int_ge(lr__param_new(bias, "bias", g->out[0], 1, 1), 0);
    memcpy(lr__param_floats(*bias), g->bias, (size_t)g->out[0] * sizeof(float));
    modules[0]->bias = lr__param_keep(*bias);
}

/* Every parameter is trained but `frozen`; all gradients and dx must be right, at both ways of
 * giving dx, and nothing of the frozen one computed. */
static void check_group(group *g, const lr__extents *extents, const lr__param *frozen) {
    lr_linear *modules[2];
    lr__gradients gradients = {0};
    lr__arena arena = {0};
    lr__param *bias;
    lr__overlay_use uses[MOST_CHAINS];
    lr__evaluation e = {.device = &fixture_ctx->device, .arena = &arena, .batch = 1};
    float *y[2] = {0}, *dx = fixture_numbers(TOKENS * g->in);
    e.overlays = uses;
    e.extents = extents;
    g->x = fixture_numbers(TOKENS * g->in);
    for (int32_t m = 0; m < g->module_count; m++) {
        g->dy[m] = fixture_numbers(TOKENS * g->out[m]);
        y[m] = malloc((size_t)(TOKENS * g->out[m]) * sizeof(float));
    }
    build(g, modules, &bias);
    for (int32_t c = 0; c < g->chain_count; c++) {
        const chain *each = &g->chains[c];
        if (each->rows) uses[e.overlay_count++] = (lr__overlay_use){each->rows, each->rows};
        for (int32_t i = 0; i < each->count; i++)
            if (each->ops[i]->op.param && each->ops[i]->op.param != frozen)
                ck_assert_int_ge(lr__gradients_add(&gradients, each->ops[i]->op.param), 0);
    }
    if (bias) ck_assert_int_ge(lr__gradients_add(&gradients, bias), 0);
    lr__linear_tape *tape;
    const lr_linear *const *read = (const lr_linear *const *)modules;
    ck_assert_int_ge(
        lr__linear_forward_kept(&e, read, g->module_count, g->x, TOKENS, y, g->out, &tape), 0);
    const float *const *dy = (const float *const *)g->dy;
    ck_assert_int_ge(lr__linear_backward(tape, dy, g->out, &gradients, dx, g->in, 0), 0);
    check_slopes(g, g->x, dx, TOKENS * g->in, 0, "dx");
    for (int32_t c = 0; c < g->chain_count; c++)
        for (int32_t i = 0; i < g->chains[c].count; i++) {
            const both_op *op = g->chains[c].ops[i];
            float *got = op->op.param ? lr__gradient_of(&gradients, op->op.param) : NULL;
            if (got)
                check_slopes(g, op->plain.w, got, lr__param_count(op->op.param), 0, "parameter");
        }
    if (bias) check_slopes(g, g->bias, lr__gradient_of(&gradients, bias), g->out[0], 0, "bias");
    float *before = malloc((size_t)(TOKENS * g->in) * sizeof *before);
    memcpy(before, dx, (size_t)(TOKENS * g->in) * sizeof *before);
    ck_assert_int_ge(lr__linear_backward(tape, dy, g->out, &gradients, dx, g->in, 1), 0);
    for (int64_t i = 0; i < TOKENS * g->in; i++)
        ck_assert(fabs(dx[i] - 2.0 * before[i]) <= 1e-5 * (1 + fabs(before[i])));
    for (size_t i = 0; i < gradients.count; i++) gradients.items[i].values[0] = 0;
    ck_assert_int_ge(lr__linear_backward(tape, dy, g->out, &gradients, NULL, 0, 0), 0);
    lr__gradients_clear(&gradients);
    lr__arena_clear(&arena);
    for (int32_t m = 0; m < g->module_count; m++) {
        lr_linear_free(modules[m]);
        free(g->dy[m]);
        free(y[m]);
    }
    lr__param_drop(bias);
    free(g->x);
    free(dx);
    free(before);
}

START_TEST(test_dense_and_bias) {
    both_op w = make_matrix(LR_F32, 13, 11);
    float *bias = fixture_numbers(13);
    group g = {.chains = {{.scale = 0.5f, .count = 1, .ops = {&w}}},
               .chain_count = 1,
               .module_count = 1,
               .out = {13},
               .in = 11,
               .bias = bias,
               .bias_extent = 13};
    check_group(&g, NULL, NULL);
    free(bias);
    drop_ops(&w, 1);
}
END_TEST

/* Three modules' worth of sharing: one right factor for both, a gate on it, one matrix used twice
 * in a chain of its own. */
START_TEST(test_shared_factors) {
    both_op right = make_matrix(LR_BF16, 5, 11), gate = make_diagonal(LR_F32, 5);
    both_op left[] = {make_matrix(LR_F32, 13, 5), make_matrix(LR_F32, 9, 5)};
    both_op square = make_matrix(LR_F32, 11, 11), end = make_matrix(LR_F16, 9, 11);
    group g = {.chains = {{.module = 0, .scale = 1, .count = 3, .ops = {&left[0], &gate, &right}},
                          {.module = 1, .scale = -2, .count = 3, .ops = {&left[1], &gate, &right}},
                          {.module = 1, .scale = 1, .count = 3, .ops = {&end, &square, &square}},
                          {.module = 1, .scale = 0.5f, .count = 2, .ops = {&left[1], &right}}},
               .chain_count = 4,
               .module_count = 2,
               .out = {13, 9},
               .in = 11};
    check_group(&g, NULL, NULL);
    check_group(&g, NULL, right.op.param);
    check_group(&g, NULL, left[1].op.param);
    drop_ops(&right, 1);
    drop_ops(&gate, 1);
    drop_ops(left, 2);
    drop_ops(&square, 1);
    drop_ops(&end, 1);
}
END_TEST

/* The pivot form, and what GGUF needs: rows of a matrix in another order, and columns. */
START_TEST(test_index_maps) {
    both_op rows = make_matrix(LR_F32, 4, 11), mix = make_matrix(LR_F32, 9, 4);
    both_op picked = make_map(LR__OP_SCATTER, 4, 13), rest = make_map(LR__OP_SCATTER, 9, 13);
    both_op order = make_map(LR__OP_GATHER, 13, 13), whole = make_matrix(LR_BF16, 13, 8);
    both_op columns = make_map(LR__OP_GATHER, 8, 11), diagonal = make_diagonal(LR_F32, 13);
    group g = {.chains = {{.scale = 1, .count = 2, .ops = {&picked, &rows}},
                          {.scale = 1, .count = 3, .ops = {&rest, &mix, &rows}},
                          {.scale = 3, .count = 3, .ops = {&order, &whole, &columns}},
                          {.scale = 1, .count = 3, .ops = {&diagonal, &whole, &columns}}},
               .chain_count = 3,
               .module_count = 1,
               .out = {13},
               .in = 11};
    check_group(&g, NULL, NULL);
    g.chain_count = 4; /* the matrix has two readers now */
    check_group(&g, NULL, NULL);
    check_group(&g, NULL, mix.op.param);
    both_op *all[] = {&rows, &mix, &picked, &rest, &order, &whole, &columns, &diagonal};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) drop_ops(all[i], 1);
}
END_TEST

START_TEST(test_overlay_rows) {
    static const unsigned char some[TOKENS] = {1, 0, 0, 1, 1, 0, 1, 0, 1};
    both_op base = make_matrix(LR_BF16, 13, 11), left = make_matrix(LR_F32, 13, 3);
    both_op right = make_matrix(LR_F32, 3, 11);
    group g = {.chains = {{.scale = 1, .count = 1, .ops = {&base}},
                          {.scale = 2, .count = 2, .ops = {&left, &right}, .rows = some}},
               .chain_count = 2,
               .module_count = 1,
               .out = {13},
               .in = 11};
    check_group(&g, NULL, base.op.param);
    check_group(&g, NULL, NULL);
    drop_ops(&base, 1);
    drop_ops(&left, 1);
    drop_ops(&right, 1);
}
END_TEST

/* Ranks and outputs cut short. */
START_TEST(test_extents) {
    both_op left = make_matrix(LR_F32, 13, 6), right = make_matrix(LR_F32, 6, 11);
    float *bias = fixture_numbers(13);
    lr__axis *rank, *outs;
    ck_assert_int_ge(lr__axis_new(&rank, 6, "rank"), 0);
    ck_assert_int_ge(lr__axis_new(&outs, 13, "outs"), 0);
    left.op.in_axis = rank;
    right.op.out_axis = lr__axis_keep(rank);
    left.op.out_axis = outs;
    lr__extent cut[] = {{.axis = "rank", .extent = 4}, {.axis = "outs", .extent = 10}};
    lr__extents extents = {.items = cut, .count = 2, .capacity = 2};
    left.plain.in_extent = right.plain.out_extent = 4;
    left.plain.out_extent = 10;
    group g = {.chains = {{.scale = 1, .count = 2, .ops = {&left, &right}}},
               .chain_count = 1,
               .module_count = 1,
               .out = {13},
               .in = 11,
               .bias = bias,
               .bias_extent = 10};
    check_group(&g, &extents, NULL);
    free(bias);
    drop_ops(&left, 1);
    drop_ops(&right, 1);
}
END_TEST

Suite *linear_backward_suite(void) {
    Suite *suite = suite_create("linear_backward");
    TCase *tests = tcase_create("linear_backward");
    tcase_add_checked_fixture(tests, fixture_make, fixture_drop);
    tcase_add_test(tests, test_dense_and_bias);
    tcase_add_test(tests, test_shared_factors);
    tcase_add_test(tests, test_index_maps);
    tcase_add_test(tests, test_overlay_rows);
    tcase_add_test(tests, test_extents);
    suite_add_tcase(suite, tests);
    return suite;
}
