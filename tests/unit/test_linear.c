/* Chains of operators against plain double loops, and what the row-invariant form promises. */
#include "linear_fixture.h"
#include "nn/linear_rows.h"

enum { GUARD = 3 };
static const float untouched = 12345.0f;

/* Runs modules over rows with steps wider than their sizes; y[m] is [tokens, out + GUARD]. */
static void forward(const lr__evaluation *with, const lr_linear *const *modules, int32_t count,
                    const float *x, int64_t tokens, float *const *y) {
    lr__arena arena = {0};
    lr__evaluation e = *with;
    int64_t ldy[LR__GROUP_MOST];
    e.device = &fixture_ctx->device;
    e.arena = &arena;
    for (int32_t m = 0; m < count; m++) {
        ldy[m] = modules[m]->out + GUARD;
        for (int64_t i = 0; i < tokens * ldy[m]; i++) y[m][i] = untouched;
    }
    ck_assert_int_ge(lr__linear_forward(&e, modules, count, x, modules[0]->in, tokens, y, ldy), 0);
    lr__arena_clear(&arena);
}

static float *room_for(const lr_linear *linear, int64_t tokens) {
    return malloc((size_t)(tokens * (linear->out + GUARD)) * sizeof(float));
}

/* `wanted` is [tokens, out]; what lies beyond `extent` must not be written. */
static void check_rows(const lr_linear *linear, const float *y, const double *wanted,
                       int64_t tokens, int64_t extent, const char *what) {
    for (int64_t t = 0; t < tokens; t++) {
        const float *row = y + t * (linear->out + GUARD);
        check_close(row, wanted + t * linear->out, extent, what);
        for (int64_t i = extent; i < linear->out + GUARD; i++)
            ck_assert_msg(row[i] == untouched, "%s: row %lld: %lld is written", what, (long long)t,
                          (long long)i);
    }
}

/* One chain, both kinds of step, several numbers of rows, and its product row by row. */
static void check_chain(const both_op *ops, int32_t count, const char *what) {
    static const int64_t tokens[] = {1, 7, 67};
    int64_t out = ops[0].op.out, in = ops[count - 1].op.in;
    lr_linear *linear = new_linear("module", out, in);
    add_chain(linear, 0.5f, ops, count, NULL);
    for (size_t k = 0; k < 6; k++) {
        int64_t n = tokens[k / 2];
        float *x = fixture_numbers(n * in), *y = room_for(linear, n);
        double *wanted = calloc((size_t)(n * out), sizeof *wanted);
        for (int64_t t = 0; t < n; t++) oracle_ops(ops, count, 0.5, x + t * in, wanted + t * out);
        const lr__evaluation e = {.batch = k % 2};
        forward(&e, (const lr_linear *const *)&linear, 1, x, n, &y);
        check_rows(linear, y, wanted, n, out, what);
        free(x);
        free(y);
        free(wanted);
    }
    lr__arena arena = {0};
    float *rows = malloc((size_t)(out * in) * sizeof *rows),
          *unit = calloc((size_t)in, sizeof *unit);
    double *column = malloc((size_t)out * sizeof *column);
    ck_assert_int_ge(lr__linear_rows(linear, &arena, 0, out / 2, rows), 0);
    ck_assert_int_ge(lr__linear_rows(linear, &arena, out / 2, out - out / 2, rows + out / 2 * in),
                     0);
    for (int64_t i = 0; i < in; i++) {
        memset(column, 0, (size_t)out * sizeof *column);
        unit[i] = 1;
        oracle_ops(ops, count, 0.5, unit, column);
        unit[i] = 0;
        for (int64_t o = 0; o < out; o++) check_close(rows + o * in + i, column + o, 1, what);
    }
    lr__arena_clear(&arena);
    free(rows);
    free(unit);
    free(column);
    lr_linear_free(linear);
}

START_TEST(test_operators) {
    static const int32_t dtypes[] = {LR_F32, LR_F16, LR_BF16, LR_F64, LR_I8};
    for (size_t i = 0; i < 5; i++) {
        both_op ops[] = {make_matrix(dtypes[i], 45, 37)};
        check_chain(ops, 1, lr_dtype_name(dtypes[i]));
        drop_ops(ops, 1);
    }
    for (size_t i = 0; i < 2; i++) {
        both_op ops[] = {make_matrix(i ? LR_Q8_0 : LR_Q4_1, 45, 64)};
        check_chain(ops, 1, lr_dtype_name(i ? LR_Q8_0 : LR_Q4_1));
        drop_ops(ops, 1);
    }
    both_op diagonal[] = {make_diagonal(LR_BF16, 33)}, gather[] = {make_map(LR__OP_GATHER, 9, 33)},
            scatter[] = {make_map(LR__OP_SCATTER, 9, 33)};
    check_chain(diagonal, 1, "diagonal");
    check_chain(gather, 1, "gather");
    check_chain(scatter, 1, "scatter");
    drop_ops(diagonal, 1);
    drop_ops(gather, 1);
    drop_ops(scatter, 1);
}
END_TEST

START_TEST(test_chains) {
    both_op pair[] = {make_matrix(LR_F32, 45, 11), make_matrix(LR_BF16, 11, 37)};
    check_chain(pair, 2, "left right");
    drop_ops(pair, 2);
    both_op gate[] = {make_matrix(LR_F16, 45, 11), make_diagonal(LR_F32, 11),
                      make_matrix(LR_F32, 11, 37)};
    check_chain(gate, 3, "left gate right");
    drop_ops(gate, 3);
    both_op pivot[] = {make_map(LR__OP_SCATTER, 30, 45), make_matrix(LR_F32, 30, 12),
                       make_matrix(LR_F32, 12, 37)};
    check_chain(pivot, 3, "scatter mix pivots");
    drop_ops(pivot, 3);
    both_op ends[] = {make_map(LR__OP_GATHER, 45, 45), make_diagonal(LR_F32, 45),
                      make_matrix(LR_I8, 45, 37), make_map(LR__OP_GATHER, 37, 50)};
    check_chain(ends, 4, "gather diagonal matrix gather");
    drop_ops(ends, 4);
    both_op inner[] = {make_matrix(LR_F32, 45, 20), make_map(LR__OP_SCATTER, 13, 20),
                       make_map(LR__OP_GATHER, 13, 40), make_matrix(LR_BF16, 40, 37)};
    check_chain(inner, 4, "maps in the middle");
    drop_ops(inner, 4);
    both_op maps[] = {make_map(LR__OP_SCATTER, 12, 45), make_map(LR__OP_GATHER, 12, 37)};
    check_chain(maps, 2, "maps alone");
    drop_ops(maps, 2);
}
END_TEST

START_TEST(test_wide_product) {
    both_op ops[] = {make_matrix(LR_F32, 5, 600), make_matrix(LR_BF16, 600, 3)};
    for (int64_t i = 0; i < 5 * 600; i++) ops[0].plain.w[i] *= 0.125f;
    memcpy((void *)ops[0].op.param->matrix.data, ops[0].plain.w, 5 * 600 * sizeof(float));
    check_chain(ops, 2, "panels");
    drop_ops(ops, 2);
}
END_TEST

static lr__param *float_param(const float *numbers, int64_t rows, int64_t cols, int32_t ndim) {
    lr__param *param;
    ck_assert_int_ge(lr__param_new(&param, "p", rows, cols, ndim), 0);
    memcpy(lr__param_floats(param), numbers, (size_t)(rows * cols) * sizeof *numbers);
    return param;
}

START_TEST(test_terms_and_bias) {
    enum { OUT = 29, IN = 23, TOKENS = 40 };
    both_op dense[] = {make_matrix(LR_F32, OUT, IN)};
    both_op pair[] = {make_matrix(LR_F32, OUT, 5), make_matrix(LR_F32, 5, IN)};
    lr_linear *linear = new_linear("sum", OUT, IN);
    float *bias = fixture_numbers(OUT), *x = fixture_numbers(TOKENS * IN);
    float *y = room_for(linear, TOKENS);
    double *wanted = calloc(TOKENS * OUT, sizeof *wanted);
    add_chain(linear, 1, dense, 1, NULL);
    add_chain(linear, -2.5f, pair, 2, NULL);
    add_chain(linear, 0.25f, dense, 1, NULL); /* shares the node of the first term */
    linear->bias = float_param(bias, OUT, 1, 1);
    for (int64_t t = 0; t < TOKENS; t++) {
        for (int64_t o = 0; o < OUT; o++) wanted[t * OUT + o] = bias[o];
        oracle_ops(dense, 1, 1.25, x + t * IN, wanted + t * OUT);
        oracle_ops(pair, 2, -2.5, x + t * IN, wanted + t * OUT);
    }
    for (int32_t batch = 0; batch < 2; batch++) {
        const lr__evaluation e = {.batch = batch};
        forward(&e, (const lr_linear *const *)&linear, 1, x, TOKENS, &y);
        check_rows(linear, y, wanted, TOKENS, OUT, "terms");
    }
    ck_assert_int_eq(lr_linear_kind(linear), LR_LINEAR_CHAIN);
    ck_assert_int_eq(lr_linear_rank(linear), IN);
    ck_assert_int_eq(lr_linear_param_count(linear), OUT * IN + 5 * (OUT + IN));
    lr_linear_free(linear);
    drop_ops(dense, 1);
    drop_ops(pair, 2);
    free(bias);
    free(x);
    free(y);
    free(wanted);
}
END_TEST

START_TEST(test_overlays) {
    enum { OUT = 29, IN = 23, TOKENS = 9 };
    static const int one, two;
    both_op dense[] = {make_matrix(LR_Q8_0, OUT, 32), make_map(LR__OP_SCATTER, IN, 32)};
    both_op a[] = {make_matrix(LR_F32, OUT, 3), make_matrix(LR_F32, 3, IN)};
    both_op b[] = {make_matrix(LR_F32, OUT, 4), make_matrix(LR_F32, 4, IN)};
    static const unsigned char rows[TOKENS] = {1, 0, 0, 1, 1, 0, 1, 0, 1};
    const lr__overlay_use none[1], all[] = {{&one, NULL}}, masked[] = {{&one, rows}},
                                   mixed[] = {{&two, NULL}, {&one, rows}};
    const struct {
        const lr__overlay_use *uses;
        int32_t count;
    } cases[] = {{NULL, 0}, {none, 0}, {all, 1}, {masked, 1}, {mixed, 2}};
    lr_linear *linear = new_linear("adapted", OUT, IN);
    float *x = fixture_numbers(TOKENS * IN), *y = room_for(linear, TOKENS);
    add_chain(linear, 1, dense, 2, NULL);
    add_chain(linear, 2, a, 2, &one);
    add_chain(linear, -0.5f, b, 2, &two);
    for (size_t k = 0; k < 10; k++) {
        double *wanted = calloc(TOKENS * OUT, sizeof *wanted);
        size_t c = k / 2;
        for (int64_t t = 0; t < TOKENS; t++) {
            oracle_ops(dense, 2, 1, x + t * IN, wanted + t * OUT);
            if (c == 2 || (c >= 3 && rows[t])) oracle_ops(a, 2, 2, x + t * IN, wanted + t * OUT);
            if (c == 4) oracle_ops(b, 2, -0.5, x + t * IN, wanted + t * OUT);
        }
        const lr__evaluation e = {
            .overlays = cases[c].uses, .overlay_count = cases[c].count, .batch = k % 2};
        forward(&e, (const lr_linear *const *)&linear, 1, x, TOKENS, &y);
        check_rows(linear, y, wanted, TOKENS, OUT, "overlays");
        free(wanted);
    }
    lr_linear_free(linear);
    drop_ops(dense, 2);
    drop_ops(a, 2);
    drop_ops(b, 2);
    free(x);
    free(y);
}
END_TEST

/* left [45, 64] right [64, 96] with a rank, an output or an input extent, in every stored type. */
START_TEST(test_extents) {
    static const int32_t dtypes[] = {LR_F32, LR_BF16, LR_Q8_0, LR_Q4_1, LR_I8};
    static const int64_t reach[][3] = {{45, 33, 96}, {45, 1, 96},  {45, 64, 41},
                                       {17, 64, 96}, {19, 50, 63}, {45, 32, 64}};
    enum { TOKENS = 6 };
    for (size_t k = 0; k < 5 * 6 * 2; k++) {
        int32_t dtype = dtypes[k / 12];
        const int64_t *at = reach[k / 2 % 6];
        both_op ops[] = {make_matrix(dtype, 45, 64), make_matrix(dtype, 64, 96)};
        lr__axis *rank, *wide, *deep;
        ck_assert_int_ge(lr__axis_new(&rank, 64, "m.rank"), 0);
        ck_assert_int_ge(lr__axis_new(&wide, 45, "wide"), 0);
        ck_assert_int_ge(lr__axis_new(&deep, 96, "deep"), 0);
        ops[0].op.in_axis = rank;
        ops[1].op.out_axis = lr__axis_keep(rank);
        ops[0].op.out_axis = wide;
        ops[1].op.in_axis = deep;
        ops[0].plain.out_extent = at[0];
        ops[0].plain.in_extent = ops[1].plain.out_extent = at[1];
        ops[1].plain.in_extent = at[2];
        lr__extent items[] = {{"m.rank", at[1]}, {"wide", at[0]}, {"deep", at[2]}, {"other", 1}};
        lr__extents extents = {items, 4, 4};
        lr_linear *linear = new_linear("m", 45, 96);
        add_chain(linear, 1, ops, 2, NULL);
        float bias[45], *x = fixture_numbers(TOKENS * 96), *y = room_for(linear, TOKENS);
        for (int i = 0; i < 45; i++) bias[i] = (float)i;
        linear->bias = float_param(bias, 45, 1, 1);
        double *wanted = calloc(TOKENS * 45, sizeof *wanted);
        for (int64_t t = 0; t < TOKENS; t++) {
            for (int64_t o = 0; o < 45; o++) wanted[t * 45 + o] = bias[o];
            oracle_ops(ops, 2, 1, x + t * 96, wanted + t * 45);
        }
        const lr__evaluation e = {.extents = &extents, .batch = k % 2};
        forward(&e, (const lr_linear *const *)&linear, 1, x, TOKENS, &y);
        check_rows(linear, y, wanted, TOKENS, at[0], lr_dtype_name(dtype));
        lr_linear_free(linear);
        drop_ops(ops, 2);
        free(x);
        free(y);
        free(wanted);
    }
}
END_TEST

/* q, k and v over one right factor, and one module with a tail and a head of its own. */
START_TEST(test_groups) {
    enum { IN = 31, RANK = 8, TOKENS = 21 };
    static const int64_t outs[] = {20, 12, 12};
    both_op right[] = {make_matrix(LR_F32, RANK, IN)}, lefts[3];
    lr_linear *modules[3];
    float *x = fixture_numbers(TOKENS * IN), *y[3], *alone;
    for (int m = 0; m < 3; m++) {
        lefts[m] = make_matrix(LR_F32, outs[m], RANK);
        modules[m] = new_linear(m ? m == 1 ? "k" : "v" : "q", outs[m], IN);
        both_op chain[] = {lefts[m], right[0]};
        add_chain(modules[m], 1, chain, 2, NULL);
        y[m] = room_for(modules[m], TOKENS);
    }
    for (int32_t batch = 0; batch < 2; batch++) {
        const lr__evaluation e = {.batch = batch};
        forward(&e, (const lr_linear *const *)modules, 3, x, TOKENS, y);
        for (int m = 0; m < 3; m++) {
            both_op chain[] = {lefts[m], right[0]};
            double *wanted = calloc((size_t)(TOKENS * outs[m]), sizeof *wanted);
            for (int64_t t = 0; t < TOKENS; t++)
                oracle_ops(chain, 2, 1, x + t * IN, wanted + t * outs[m]);
            check_rows(modules[m], y[m], wanted, TOKENS, outs[m], "group");
            alone = room_for(modules[m], TOKENS);
            forward(&e, (const lr_linear *const *)&modules[m], 1, x, TOKENS, &alone);
            ck_assert_mem_eq(alone, y[m], (size_t)(TOKENS * (outs[m] + GUARD)) * sizeof *alone);
            free(alone);
            free(wanted);
        }
    }
    for (int m = 0; m < 3; m++) {
        lr_linear_free(modules[m]);
        drop_ops(&lefts[m], 1);
        free(y[m]);
    }
    drop_ops(right, 1);
    free(x);
}
END_TEST

/* A tail that is a chain of its own: W x and diag W x. */
START_TEST(test_tail_is_an_end_too) {
    enum { OUT = 14, IN = 31, TOKENS = 5 };
    both_op ops[] = {make_diagonal(LR_F32, OUT), make_matrix(LR_F32, OUT, IN)};
    lr_linear *linear = new_linear("dora", OUT, IN);
    float *x = fixture_numbers(TOKENS * IN), *y = room_for(linear, TOKENS);
    add_chain(linear, 1, ops + 1, 1, NULL);
    add_chain(linear, 3, ops, 2, NULL);
    double *wanted = calloc(TOKENS * OUT, sizeof *wanted);
    for (int64_t t = 0; t < TOKENS; t++) {
        oracle_ops(ops + 1, 1, 1, x + t * IN, wanted + t * OUT);
        oracle_ops(ops, 2, 3, x + t * IN, wanted + t * OUT);
    }
    for (int32_t batch = 0; batch < 2; batch++) {
        const lr__evaluation e = {.batch = batch};
        forward(&e, (const lr_linear *const *)&linear, 1, x, TOKENS, &y);
        check_rows(linear, y, wanted, TOKENS, OUT, "tail");
    }
    lr_linear_free(linear);
    drop_ops(ops, 2);
    free(x);
    free(y);
    free(wanted);
}
END_TEST

typedef struct gate_maker {
    int32_t refreshed, freed;
} gate_maker;

static lr_status make_gate(const lr__param *param, float *values, int64_t step, void *user) {
    ((gate_maker *)user)->refreshed++;
    if (step < 0) return LR_E_USER;
    for (int64_t i = 0; i < param->matrix.rows; i++) values[i] = (float)(i % 2 == step % 2);
    return LR_OK;
}

static void free_gate(void *user) { ((gate_maker *)user)->freed++; }

START_TEST(test_derived) {
    enum { OUT = 14, RANK = 6, IN = 31 };
    gate_maker maker = {0, 0};
    const lr__producer producer = {
        .size = sizeof producer, .refresh = make_gate, .free = free_gate, .user = &maker};
    lr__param *gate;
    ck_assert_int_ge(lr__param_derived(&gate, "gate", RANK, 1, 1, &producer, NULL), 0);
    both_op ops[] = {make_matrix(LR_F32, OUT, RANK),
                     {{.kind = LR__OP_DIAGONAL, .out = RANK, .in = RANK},
                      {.kind = LR__OP_DIAGONAL, .out = RANK, .in = RANK, .param = gate}},
                     make_matrix(LR_F32, RANK, IN)};
    ops[1].plain.w = calloc(RANK, sizeof(float));
    lr_linear *linear = new_linear("gated", OUT, IN);
    float *x = fixture_numbers(IN), *y = room_for(linear, 1);
    add_chain(linear, 1, ops, 3, NULL);
    for (int64_t step = 0; step < 3; step++) {
        double wanted[OUT] = {0};
        ck_assert_int_ge(lr__param_refresh(gate, step), 0);
        for (int64_t i = 0; i < RANK; i++) ops[1].plain.w[i] = (float)((i + step) % 2 == 0);
        oracle_ops(ops, 3, 1, x, wanted);
        const lr__evaluation e = {0};
        forward(&e, (const lr_linear *const *)&linear, 1, x, 1, &y);
        check_rows(linear, y, wanted, 1, OUT, "derived");
    }
    ck_assert_int_eq(lr__param_refresh(gate, -1), LR_E_USER);
    ck_assert_int_eq(maker.refreshed, 4);
    lr_linear_free(linear);
    ck_assert_int_eq(maker.freed, 0);
    drop_ops(ops, 3);
    ck_assert_int_eq(maker.freed, 1);
    free(x);
    free(y);
}
END_TEST

/* Rows cut into steps at random: the bits of a row are those it has alone. */
static void check_invariance(const lr_linear *linear, const lr__evaluation *e) {
    enum { TOKENS = 83 };
    size_t row = (size_t)(linear->out + GUARD) * sizeof(float);
    float *x = fixture_numbers(TOKENS * linear->in), *all = room_for(linear, TOKENS);
    float *part = room_for(linear, TOKENS);
    for (int64_t t = 0; t < TOKENS; t++) {
        float *one = all + t * (linear->out + GUARD);
        forward(e, &linear, 1, x + t * linear->in, 1, &one);
    }
    for (int turn = 0; turn < 12; turn++) {
        int64_t from = turn ? fixture_bits() % TOKENS : 0;
        int64_t count = turn ? 1 + fixture_bits() % (uint32_t)(TOKENS - from) : TOKENS;
        forward(e, &linear, 1, x + from * linear->in, count, &part);
        ck_assert_mem_eq(part, all + from * (linear->out + GUARD), (size_t)count * row);
    }
    free(x);
    free(all);
    free(part);
}

START_TEST(test_rows_do_not_meet) {
    static const int32_t dtypes[] = {LR_F32, LR_BF16, LR_F16, LR_Q8_0, LR_Q4_1, LR_I8};
    lr__extent items[] = {{"m.rank", 37}};
    lr__extents extents = {items, 1, 1};
    for (size_t i = 0; i < 6; i++) {
        both_op ops[] = {make_matrix(dtypes[i], 70, 64), make_diagonal(LR_F32, 64),
                         make_matrix(dtypes[i], 64, 160)};
        ck_assert_int_ge(lr__axis_new(&ops[0].op.in_axis, 64, "m.rank"), 0);
        ops[1].op.out_axis = lr__axis_keep(ops[0].op.in_axis);
        ops[1].op.in_axis = lr__axis_keep(ops[0].op.in_axis);
        ops[2].op.out_axis = lr__axis_keep(ops[0].op.in_axis);
        lr_linear *linear = new_linear("m", 70, 160);
        add_chain(linear, 1, ops, 3, NULL);
        add_chain(linear, -1, ops, 3, NULL);
        add_chain(linear, 0.75f, ops, 3, NULL);
        const lr__evaluation full = {0}, cut = {.extents = &extents};
        check_invariance(linear, &full);
        check_invariance(linear, &cut);
        lr_linear_free(linear);
        drop_ops(ops, 3);
    }
}
END_TEST

START_TEST(test_refusals) {
    lr__index *index;
    static const int32_t outside[] = {0, 7};
    both_op ops[] = {make_matrix(LR_F32, 4, 3), make_matrix(LR_F32, 2, 5)};
    lr__op chain[] = {ops[0].op, ops[1].op};
    lr_linear *linear = new_linear("m", 4, 5);
    ck_assert_int_eq(lr__linear_add_term(linear, 1, chain, 2, NULL), LR_E_SHAPE);
    ck_assert_str_eq(lr_last_error(), "m: operator 0 reads 3 numbers, expected 2");
    ck_assert_int_eq(lr__linear_add_term(linear, 1, chain + 1, 1, NULL), LR_E_SHAPE);
    ck_assert_int_eq(lr__index_new(&index, "rows", outside, 2, 7), LR_E_FORMAT);
    ck_assert_ptr_null(index);
    lr_linear_free(linear);
    drop_ops(ops, 2);
}
END_TEST

START_TEST(test_too_many_operators) {
    both_op ops[70];
    lr__arena arena = {0};
    lr_linear *linear = new_linear("m", 4, 5);
    float x[5] = {0}, y[4], *rows = y;
    for (int i = 0; i < 70; i++) {
        ops[i] = make_matrix(LR_F32, 4, 5);
        add_chain(linear, 1, &ops[i], 1, NULL);
    }
    const lr__evaluation e = {.device = &fixture_ctx->device, .arena = &arena};
    ck_assert_int_eq(lr__linear_forward(&e, (const lr_linear *const *)&linear, 1, x, 5, 1, &rows,
                                        (int64_t[]){4}),
                     LR_E_UNSUPPORTED);
    lr__arena_clear(&arena);
    lr_linear_free(linear);
    drop_ops(ops, 70);
}
END_TEST

Suite *linear_suite(void) {
    Suite *suite = suite_create("linear");
    TCase *tests = tcase_create("linear");
    tcase_add_checked_fixture(tests, fixture_make, fixture_drop);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_operators);
    tcase_add_test(tests, test_chains);
    tcase_add_test(tests, test_wide_product);
    tcase_add_test(tests, test_terms_and_bias);
    tcase_add_test(tests, test_overlays);
    tcase_add_test(tests, test_extents);
    tcase_add_test(tests, test_groups);
    tcase_add_test(tests, test_tail_is_an_end_too);
    tcase_add_test(tests, test_derived);
    tcase_add_test(tests, test_rows_do_not_meet);
    tcase_add_test(tests, test_refusals);
    tcase_add_test(tests, test_too_many_operators);
    suite_add_tcase(suite, tests);
    return suite;
}
