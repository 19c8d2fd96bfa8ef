/* The public LowRankLinear handle: made, read, applied, multiplied out, saved and opened. */
#include "linear_fixture.h"
#include "scratch.h"

#include "format/safetensors.h"

enum { OUT = 37, RANK = 5, IN = 41 };

static void set_up(void) {
    fixture_make();
    scratch_make();
}

static void tear_down(void) {
    scratch_remove();
    fixture_drop();
}

static lr_tensor view2(const void *data, int32_t dtype, int64_t rows, int64_t cols) {
    lr_tensor t;
    ck_assert_int_ge(lr_tensor_view(&t, (void *)data, dtype, 2, (int64_t[]){rows, cols}), 0);
    return t;
}

static lr_tensor view1(const void *data, int64_t count) {
    lr_tensor t;
    ck_assert_int_ge(lr_tensor_view(&t, (void *)data, LR_F32, 1, &count), 0);
    return t;
}

/* left and right as files of a type hold them, and as numbers. */
typedef struct pair {
    float left[OUT * RANK], right[RANK * IN], bias[OUT];
    void *stored_left, *stored_right;
    int32_t dtype;
} pair;

static void make_pair(pair *p, int32_t dtype) {
    void *scales;
    p->dtype = dtype;
    p->stored_left = encode(dtype, OUT, RANK, p->left, &scales);
    p->stored_right = encode(dtype, RANK, IN, p->right, &scales);
    for (int i = 0; i < OUT; i++) p->bias[i] = fixture_number();
}

static void free_pair(pair *p) {
    free(p->stored_left);
    free(p->stored_right);
}

static lr_linear *linear_of(const pair *p, int with_bias, const char *name) {
    lr_linear *linear;
    lr_tensor left = view2(p->stored_left, p->dtype, OUT, RANK);
    lr_tensor right = view2(p->stored_right, p->dtype, RANK, IN), bias = view1(p->bias, OUT);
    ck_assert_int_ge(
        lr_linear_from_factors(&linear, fixture_ctx, &left, &right, with_bias ? &bias : NULL, name),
        0);
    return linear;
}

/* out[o] = sum of left[o] right[., i] x[i] + bias[o] */
static void oracle(const pair *p, int with_bias, const float *x, double *out) {
    for (int o = 0; o < OUT; o++) {
        out[o] = with_bias ? p->bias[o] : 0;
        for (int r = 0; r < RANK; r++)
            for (int i = 0; i < IN; i++)
                out[o] += (double)p->left[o * RANK + r] * p->right[r * IN + i] * x[i];
    }
}

static void check_pair(const lr_linear *linear, const pair *p, int with_bias) {
    enum { ROWS = 4103 };
    float left[OUT * RANK], right[RANK * IN], bias[OUT], weight[OUT * IN];
    double wanted[OUT];
    ck_assert_int_eq(lr_linear_kind(linear), LR_LINEAR_LOW_RANK);
    ck_assert_int_eq(lr_linear_out(linear), OUT);
    ck_assert_int_eq(lr_linear_in(linear), IN);
    ck_assert_int_eq(lr_linear_rank(linear), RANK);
    ck_assert_int_eq(lr_linear_param_count(linear), RANK * (OUT + IN));
    ck_assert_int_ge(lr_linear_factors(linear, left, right), 0);
    ck_assert_int_ge(lr_linear_factors(linear, NULL, NULL), 0);
    ck_assert_mem_eq(left, p->left, sizeof left);
    ck_assert_mem_eq(right, p->right, sizeof right);
    ck_assert_int_ge(lr_linear_bias(linear, bias), 0);
    for (int o = 0; o < OUT; o++) ck_assert_float_eq(bias[o], with_bias ? p->bias[o] : 0);
    ck_assert_int_ge(lr_linear_densify(linear, weight), 0);
    for (int i = 0; i < IN; i++) {
        float unit[IN] = {0};
        unit[i] = 1;
        oracle(p, 0, unit, wanted);
        for (int o = 0; o < OUT; o++) check_close(&weight[o * IN + i], &wanted[o], 1, "densified");
    }
    float *x = fixture_numbers(ROWS * IN), *y = malloc(ROWS * OUT * sizeof *y);
    lr_tensor xs = view2(x, LR_F32, ROWS, IN), ys = view2(y, LR_F32, ROWS, OUT);
    ck_assert_int_ge(lr_linear_apply(linear, &xs, &ys), 0);
    for (int t = 0; t < ROWS; t += t < 10 || t > 4090 ? 1 : 64) {
        oracle(p, with_bias, x + t * IN, wanted);
        check_close(y + t * OUT, wanted, OUT, "applied");
    }
    xs = view2(x, LR_F32, 0, IN);
    ys = view2(y, LR_F32, 0, OUT);
    ck_assert_int_ge(lr_linear_apply(linear, &xs, &ys), 0);
    free(x);
    free(y);
}

START_TEST(test_factors) {
    static const int32_t dtypes[] = {LR_F32, LR_F16, LR_BF16};
    for (int k = 0; k < 6; k++) {
        pair p;
        make_pair(&p, dtypes[k / 2]);
        lr_linear *linear = linear_of(&p, k % 2, k ? "up_proj" : NULL);
        memset(p.stored_left, 0xff, 8); /* copied: what becomes of it does not matter */
        ck_assert_str_eq(lr_linear_name(linear), k ? "up_proj" : "linear");
        check_pair(linear, &p, k % 2);
        lr_linear_free(linear);
        free_pair(&p);
    }
    lr_linear_free(NULL);
}
END_TEST

START_TEST(test_bad_factors) {
    pair p;
    lr_linear *linear = (lr_linear *)&p;
    make_pair(&p, LR_F32);
    const lr_tensor left = view2(p.left, LR_F32, OUT, RANK),
                    good = view2(p.right, LR_F32, RANK, IN);
    lr_tensor bad[8], bias;
    for (int i = 0; i < 8; i++) bad[i] = good;
    bad[0].shape[0] = RANK - 1;
    bad[1].ndim = 1;
    bad[2].shape[1] = 0;
    bad[3].shape[1] = (int64_t)INT32_MAX + 1;
    bad[4].stride[0] = IN + 1;
    bad[5].device = LR_CUDA;
    bad[6].data = NULL;
    bad[7].dtype = LR_I8;
    static const lr_status expected[] = {LR_E_SHAPE,   LR_E_SHAPE,   LR_E_SHAPE,   LR_E_SHAPE,
                                         LR_E_INVALID, LR_E_INVALID, LR_E_INVALID, LR_E_INVALID};
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(lr_linear_from_factors(&linear, fixture_ctx, &left, &bad[i], NULL, "name"),
                         expected[i]);
        ck_assert_ptr_null(linear);
        ck_assert_ptr_nonnull(strstr(lr_last_error(), "name: "));
    }
    ck_assert_str_eq(
        (lr_linear_from_factors(&linear, fixture_ctx, &left, &bad[0], NULL, "m"), lr_last_error()),
        "m: left is [37, 5] and right [4, 41], their ranks differ");
    ck_assert_int_eq(lr_linear_from_factors(&linear, fixture_ctx, NULL, &good, NULL, NULL),
                     LR_E_INVALID);
    ck_assert_int_eq(lr_linear_from_factors(NULL, fixture_ctx, &left, &good, NULL, NULL),
                     LR_E_INVALID);
    ck_assert_int_eq(lr_linear_from_factors(&linear, NULL, &left, &good, NULL, NULL), LR_E_INVALID);
    bias = view1(p.bias, OUT - 1);
    ck_assert_int_eq(lr_linear_from_factors(&linear, fixture_ctx, &left, &good, &bias, NULL),
                     LR_E_SHAPE);
    bias = view1(p.bias, OUT);
    bias.dtype = LR_F16;
    ck_assert_int_eq(lr_linear_from_factors(&linear, fixture_ctx, &left, &good, &bias, NULL),
                     LR_E_INVALID);
    bias.dtype = LR_F32;
    p.bias[3] = INFINITY;
    ck_assert_int_eq(lr_linear_from_factors(&linear, fixture_ctx, &left, &good, &bias, NULL),
                     LR_E_NUMERIC);
    p.right[RANK * IN - 1] = NAN;
    ck_assert_int_eq(lr_linear_from_factors(&linear, fixture_ctx, &left, &good, NULL, NULL),
                     LR_E_NUMERIC);
    ck_assert_str_eq(lr_last_error(), "linear: right: number 204 is nan");
    free_pair(&p);
}
END_TEST

START_TEST(test_bad_calls) {
    pair p;
    float x[2 * IN] = {0}, y[2 * OUT];
    make_pair(&p, LR_F32);
    lr_linear *linear = linear_of(&p, 0, "m");
    lr_tensor xs = view2(x, LR_F32, 2, IN), ys = view2(y, LR_F32, 2, OUT), bad;
    ck_assert_int_eq(lr_linear_apply(NULL, &xs, &ys), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_apply(linear, NULL, &ys), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_apply(linear, &xs, NULL), LR_E_INVALID);
    bad = view2(x, LR_F32, 1, IN);
    ck_assert_int_eq(lr_linear_apply(linear, &bad, &ys), LR_E_SHAPE);
    bad = view2(x, LR_F32, 2, IN - 1);
    ck_assert_int_eq(lr_linear_apply(linear, &bad, &ys), LR_E_SHAPE);
    ck_assert_str_eq(lr_last_error(), "m: x is [2, 40], expected [rows, 41]");
    bad = view2(x, LR_BF16, 2, IN);
    ck_assert_int_eq(lr_linear_apply(linear, &bad, &ys), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_densify(linear, NULL), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_densify(NULL, x), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_bias(linear, NULL), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_factors(NULL, NULL, NULL), LR_E_INVALID);
    lr_linear_free(linear);
    both_op dense[] = {make_matrix(LR_F32, 3, 4)};
    linear = new_linear("dense", 3, 4);
    add_chain(linear, 1, dense, 1, NULL);
    ck_assert_int_eq(lr_linear_factors(linear, x, y), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_rank(linear), 3);
    lr_linear_free(linear);
    drop_ops(dense, 1);
    free_pair(&p);
}
END_TEST

/* --- from a weight --- */

enum { SIDE = 16, KNOWN = 6 };
static const double known_values[KNOWN] = {8, 4, 2, 1, 0.5, 0.25};

/* Singular vectors are columns of Hadamard's matrix, so the spectrum is known exactly. */
static void make_weight(float *weight) {
    memset(weight, 0, SIDE * SIDE * sizeof *weight);
    for (int k = 0; k < KNOWN; k++)
        for (int o = 0; o < SIDE; o++)
            for (int i = 0; i < SIDE; i++) {
                int u = __builtin_parity((unsigned)(o & (k + 1))) ? -1 : 1;
                int v = __builtin_parity((unsigned)(i & (15 - k))) ? -1 : 1;
                weight[o * SIDE + i] += (float)(known_values[k] * u * v / SIDE);
            }
}

static double tail_of(int64_t rank) {
    double sum = 0;
    for (int64_t k = rank; k < KNOWN; k++) sum += known_values[k] * known_values[k];
    return sum;
}

static lr_linear *from_weight(const float *weight, const lr_linear_opts *opts) {
    lr_linear *linear;
    lr_tensor w = view2(weight, LR_F32, SIDE, SIDE);
    ck_assert_msg(lr_linear_from_weight(&linear, fixture_ctx, &w, opts) >= 0, "%s",
                  lr_last_error());
    return linear;
}

/* |W - W~|_F^2 measured here equals what the spectrum leaves. */
static void check_truncated(const lr_linear *linear, const float *weight, int64_t rank) {
    float dense[SIDE * SIDE];
    double loss = 0;
    ck_assert_int_eq(lr_linear_rank(linear), rank);
    ck_assert_int_ge(lr_linear_densify(linear, dense), 0);
    for (int i = 0; i < SIDE * SIDE; i++) {
        double gap = (double)weight[i] - dense[i];
        loss += gap * gap;
    }
    ck_assert_double_le(fabs(loss - tail_of(rank)), 1e-6 * tail_of(0));
}

START_TEST(test_from_weight) {
    float weight[SIDE * SIDE];
    lr_linear_opts opts;
    make_weight(weight);
    for (int64_t rank = 1; rank <= KNOWN; rank++) {
        lr_linear_opts_init(&opts, sizeof opts);
        opts.rank = rank;
        opts.name = "weight";
        lr_linear *linear = from_weight(weight, &opts);
        check_truncated(linear, weight, rank);
        ck_assert_str_eq(lr_linear_name(linear), "weight");
        lr_linear_free(linear);
        double share = 1 - tail_of(rank) / tail_of(0);
        for (int side = -1; side <= 1; side += 2) { /* just within, just beyond this rank */
            int64_t expected = side < 0 || rank == KNOWN ? rank : rank + 1;
            lr_linear_opts_init(&opts, sizeof opts);
            opts.energy = fmin(1, share + side * 1e-6);
            if (rank == KNOWN) opts.energy = 1 - 1e-9;
            linear = from_weight(weight, &opts);
            check_truncated(linear, weight, expected);
            lr_linear_free(linear);
            if (rank == KNOWN) continue;
            lr_linear_opts_init(&opts, sizeof opts);
            opts.error = sqrt(tail_of(rank) / tail_of(0)) * (1 - side * 1e-6);
            linear = from_weight(weight, &opts);
            check_truncated(linear, weight, expected);
            lr_linear_free(linear);
        }
    }
}
END_TEST

START_TEST(test_from_weight_extremes) {
    float weight[SIDE * SIDE] = {0}, bias[SIDE], kept[SIDE];
    lr_linear_opts opts;
    for (int i = 0; i < SIDE; i++) bias[i] = fixture_number();
    lr_linear_opts_init(&opts, sizeof opts);
    opts.energy = 1;
    opts.bias = bias;
    lr_linear *linear = from_weight(weight, &opts);
    ck_assert_int_eq(lr_linear_rank(linear), 1);
    ck_assert_int_ge(lr_linear_bias(linear, kept), 0);
    ck_assert_mem_eq(kept, bias, sizeof bias);
    lr_linear_free(linear);
    make_weight(weight);
    lr_linear_opts_init(&opts, sizeof opts);
    opts.error = 3;
    linear = from_weight(weight, &opts);
    ck_assert_int_eq(lr_linear_rank(linear), 1);
    lr_linear_free(linear);
}
END_TEST

START_TEST(test_bad_weight) {
    float weight[SIDE * SIDE];
    lr_linear *linear;
    make_weight(weight);
    lr_tensor w = view2(weight, LR_F32, SIDE, SIDE), half = view2(weight, LR_F16, SIDE, SIDE);
    const struct {
        int64_t rank;
        double energy, error;
    } bad[] = {{0, 0, 0},  {1, 0.5, 0}, {0, 0.5, 0.5}, {-1, 0, 0},       {SIDE + 1, 0, 0},
               {0, -1, 0}, {0, 1.1, 0}, {0, NAN, 0},   {0, 0, INFINITY}, {0, 0, -0.1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lr_linear_opts opts;
        lr_linear_opts_init(&opts, sizeof opts);
        opts.rank = bad[i].rank;
        opts.energy = bad[i].energy;
        opts.error = bad[i].error;
        ck_assert_int_eq(lr_linear_from_weight(&linear, fixture_ctx, &w, &opts), LR_E_INVALID);
    }
    lr_linear_opts opts;
    lr_linear_opts_init(&opts, sizeof opts);
    opts.rank = 2;
    ck_assert_int_eq(lr_linear_from_weight(&linear, fixture_ctx, &w, NULL), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_from_weight(&linear, fixture_ctx, &half, &opts), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_from_weight(&linear, fixture_ctx, NULL, &opts), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_from_weight(&linear, NULL, &w, &opts), LR_E_INVALID);
    weight[7] = NAN;
    ck_assert_int_eq(lr_linear_from_weight(&linear, fixture_ctx, &w, &opts), LR_E_NUMERIC);
    ck_assert_ptr_null(linear);
}
END_TEST

/* --- files --- */

START_TEST(test_save_and_open) {
    static const int32_t dtypes[] = {LR_F32, LR_F16, LR_BF16};
    for (int k = 0; k < 3; k++) {
        pair p;
        lr_linear *opened;
        make_pair(&p, dtypes[k]);
        for (int i = 0; i < OUT; i++) p.bias[i] = ldexpf((float)(i % 16), -4);
        lr_linear *linear = linear_of(&p, 1, "model.layers.3.mlp.up_proj");
        const char *path = scratch_path("module.safetensors");
        ck_assert_msg(lr_linear_save(linear, path, dtypes[k], k > 0) >= 0, "%s", lr_last_error());
        lr_linear_free(linear);
        ck_assert_msg(lr_linear_open(&opened, fixture_ctx, path) >= 0, "%s", lr_last_error());
        ck_assert_str_eq(lr_linear_name(opened), "model.layers.3.mlp.up_proj");
        unlink(path);
        check_pair(opened, &p, 1);
        if (k < 2) ck_assert_int_ge(lr_linear_save(opened, path, dtypes[k], 0), 0);
        lr_linear_free(opened);
        free_pair(&p);
    }
}
END_TEST

static void check_same_product(const lr_linear *linear, const lr_linear *opened) {
    size_t bytes = (size_t)(lr_linear_out(linear) * lr_linear_in(linear)) * sizeof(float);
    float *one = malloc(bytes), *two = malloc(bytes);
    ck_assert_int_eq(lr_linear_kind(opened), lr_linear_kind(linear));
    ck_assert_int_eq(lr_linear_out(opened), lr_linear_out(linear));
    ck_assert_int_eq(lr_linear_in(opened), lr_linear_in(linear));
    ck_assert_int_eq(lr_linear_param_count(opened), lr_linear_param_count(linear));
    ck_assert_int_ge(lr_linear_densify(linear, one), 0);
    ck_assert_int_ge(lr_linear_densify(opened, two), 0);
    ck_assert_mem_eq(one, two, bytes);
    free(one);
    free(two);
}

/* Pivot form of two terms over one tail, with maps, a scale and an adapter that is left out. */
START_TEST(test_save_chain) {
    static const int adapter;
    both_op tail[] = {make_matrix(LR_F32, 6, 30), make_map(LR__OP_GATHER, 30, 44)};
    both_op first[] = {make_map(LR__OP_SCATTER, 6, 25), tail[0], tail[1]};
    both_op second[] = {make_map(LR__OP_SCATTER, 9, 25), make_matrix(LR_BF16, 9, 6),
                        make_diagonal(LR_F32, 6), tail[0], tail[1]};
    lr_linear *linear = new_linear("chain", 25, 44), *opened;
    const char *path = scratch_path("chain.safetensors");
    add_chain(linear, 1, first, 3, NULL);
    add_chain(linear, -0.3f, second, 5, NULL);
    ck_assert_int_ge(lr_linear_save(linear, path, LR_F32, 0), 0);
    ck_assert_int_eq(lr_linear_save(linear, path, LR_F32, 0), LR_E_EXISTS);
    ck_assert_int_ge(lr_linear_open(&opened, fixture_ctx, path), 0);
    check_same_product(linear, opened);
    lr_linear_free(opened);
    add_chain(linear, 5, second, 5, &adapter);
    ck_assert_int_ge(lr_linear_save(linear, path, LR_F32, 1), 0);
    ck_assert_int_ge(lr_linear_open(&opened, fixture_ctx, path), 0);
    ck_assert_int_eq(opened->term_count, 2);
    lr_linear_free(opened);
    lr_linear_free(linear);
    drop_ops(first, 1);
    drop_ops(second, 3);
    drop_ops(tail, 2);
}
END_TEST

START_TEST(test_save_dense) {
    both_op ops[] = {make_map(LR__OP_GATHER, 12, 12), make_matrix(LR_Q8_0, 12, 64)};
    lr_linear *linear = new_linear("q_proj", 12, 64), *opened;
    const char *path = scratch_path("dense.safetensors");
    add_chain(linear, 1, ops, 2, NULL);
    ck_assert_int_ge(lr_linear_save(linear, path, LR_F32, 0), 0);
    ck_assert_int_ge(lr_linear_open(&opened, fixture_ctx, path), 0);
    ck_assert_int_eq(opened->terms[0].count, 1);
    check_same_product(linear, opened);
    lr_linear_free(opened);
    lr_linear_free(linear);
    drop_ops(ops, 2);
}
END_TEST

static const char *file_with(const char *section) {
    static const int64_t shape[] = {2, 2};
    static const float numbers[4] = {1, 2, 3, 4};
    static const int32_t twice[2] = {1, 1};
    const char *path = scratch_path("hostile.safetensors");
    lr__safetensors_writer *file;
    json_t *metadata = section ? json_pack("{s:s}", "lowrank", section) : NULL;
    ck_assert_int_ge(lr__safetensors_new(&file), 0);
    ck_assert_int_ge(lr__safetensors_declare(file, "w", LR_F32, 2, shape), 0);
    ck_assert_int_ge(lr__safetensors_declare(file, "twice", LR_I32, 1, shape), 0);
    ck_assert_int_ge(lr__safetensors_begin(file, path, metadata), 0);
    ck_assert_int_ge(lr__safetensors_put(file, numbers, sizeof numbers), 0);
    ck_assert_int_ge(lr__safetensors_put(file, twice, sizeof twice), 0);
    ck_assert_int_ge(lr__safetensors_finish(file), 0);
    lr__safetensors_free(file);
    json_decref(metadata);
    return path;
}

#define MODULE(shape, terms) \
    "{\"version\":1,\"modules\":{\"m\":{\"shape\":" shape ",\"terms\":" terms "}}}"
#define ONE "[{\"ops\":[{\"matrix\":\"w\"}]}]"

START_TEST(test_hostile_files) {
    static const struct {
        const char *section;
        lr_status status;
    } cases[] = {{MODULE("[2,2]", ONE), LR_OK},
                 {NULL, LR_E_FORMAT},
                 {"", LR_E_FORMAT},
                 {"{", LR_E_FORMAT},
                 {"[]", LR_E_FORMAT},
                 {"{\"version\":1,\"modules\":{}}", LR_E_FORMAT},
                 {"{\"version\":2,\"modules\":{\"m\":{}}}", LR_E_FORMAT},
                 {"{\"version\":\"1\",\"modules\":{\"m\":{}}}", LR_E_FORMAT},
                 {"{\"version\":1,\"modules\":{\"m\":7}}", LR_E_FORMAT},
                 {MODULE("[2]", ONE), LR_E_FORMAT},
                 {MODULE("[2,-2]", ONE), LR_E_FORMAT},
                 {MODULE("[2,99999999999]", ONE), LR_E_FORMAT},
                 {MODULE("[3,2]", ONE), LR_E_SHAPE},
                 {MODULE("[2,2]", "[]"), LR_E_FORMAT},
                 {MODULE("[2,2]", "[{\"ops\":[]}]"), LR_E_FORMAT},
                 {MODULE("[2,2]", "[{\"ops\":[{\"matrix\":\"v\"}]}]"), LR_E_NOTFOUND},
                 {MODULE("[2,2]", "[{\"ops\":[{\"gather\":\"twice\"}]}]"), LR_OK},
                 {MODULE("[2,2]", "[{\"ops\":[{\"scatter\":\"twice\",\"size\":2}]}]"), LR_E_FORMAT},
                 {MODULE("[2,2]", "[{\"ops\":[{\"gather\":\"w\"}]}]"), LR_E_SHAPE}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lr_linear *linear = NULL;
        const char *path = file_with(cases[i].section);
        lr_status status = lr_linear_open(&linear, fixture_ctx, path);
        ck_assert_msg(status == cases[i].status, "case %zu: %d, %s", i, status, lr_last_error());
        ck_assert((linear != NULL) == (status == LR_OK));
        lr_linear_free(linear);
    }
}
END_TEST

START_TEST(test_bad_saves) {
    pair p;
    lr_linear *opened;
    make_pair(&p, LR_F32);
    p.left[8] = 1e6f;
    memcpy(p.stored_left, p.left, sizeof p.left);
    lr_linear *linear = linear_of(&p, 0, "m");
    const char *path = scratch_path("file");
    ck_assert_int_eq(lr_linear_save(linear, path, LR_Q8_0, 0), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_save(linear, NULL, LR_F32, 0), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_save(NULL, path, LR_F32, 0), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_save(linear, scratch_path("none/file"), LR_F32, 0), LR_E_NOTFOUND);
    ck_assert_int_eq(lr_linear_save(linear, path, LR_F16, 0), LR_E_NUMERIC);
    ck_assert_str_eq(lr_last_error(), "m.left.weight: 1e+06 at [1, 3] is beyond f16");
    ck_assert_int_ne(access(path, F_OK), 0);
    ck_assert_int_eq(lr_linear_open(&opened, fixture_ctx, path), LR_E_NOTFOUND);
    ck_assert_int_eq(lr_linear_open(NULL, fixture_ctx, path), LR_E_INVALID);
    ck_assert_int_eq(lr_linear_open(&opened, NULL, path), LR_E_INVALID);
    lr_linear_free(linear);
    linear = linear_of(&p, 0, "\xff");
    ck_assert_int_eq(lr_linear_save(linear, path, LR_F32, 0), LR_E_INVALID);
    lr_linear_free(linear);
    free_pair(&p);
}
END_TEST

Suite *linear_handle_suite(void) {
    Suite *suite = suite_create("linear_handle");
    TCase *tests = tcase_create("linear_handle");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_factors);
    tcase_add_test(tests, test_bad_factors);
    tcase_add_test(tests, test_bad_calls);
    tcase_add_test(tests, test_from_weight);
    tcase_add_test(tests, test_from_weight_extremes);
    tcase_add_test(tests, test_bad_weight);
    tcase_add_test(tests, test_save_and_open);
    tcase_add_test(tests, test_save_chain);
    tcase_add_test(tests, test_save_dense);
    tcase_add_test(tests, test_hostile_files);
    tcase_add_test(tests, test_bad_saves);
    suite_add_tcase(suite, tests);
    return suite;
}
