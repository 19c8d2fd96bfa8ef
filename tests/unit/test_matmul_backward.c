/* Derivatives of products over stored weights, against plain sums in binary64. */
#include "backend/matmul.h"
#include "hash.h"
#include "linear_fixture.h"

#include "tensor/dtype.h"

typedef struct product {
    int64_t rows, cols, out, in, tokens; /* rows x cols are stored, out x in are used */
    int32_t dtype, threads;
    int32_t *take;
    int64_t take_limit;
    float scale;
} product;

/* Weights in `dtype` and what they widen to. */
static void *stored(const product *p, float **wide) {
    size_t count = (size_t)(p->rows * p->cols);
    float *numbers = fixture_numbers((int64_t)count);
    char *bytes = malloc(count * sizeof(float));
    if (p->dtype == LR_F32)
        memcpy(bytes, numbers, count * sizeof(float));
    else
        lr__kernels_named("c")->narrow(p->dtype, numbers, count, bytes);
    if (p->dtype != LR_F32) lr__kernels_named("c")->widen(p->dtype, bytes, count, numbers);
    *wide = numbers;
    return bytes;
}

static const float *row_at(const product *p, const float *wide, int64_t out) {
    if (p->take && p->take[out] >= p->take_limit) return NULL;
    return wide + (p->take ? p->take[out] : out) * p->cols;
}

static void check_dx(const product *p, const float *wide, const float *dy, const float *before,
                     const float *dx) {
    for (int64_t t = 0; t < p->tokens; t++)
        for (int64_t i = 0; i < p->in; i++) {
            double sum = before ? before[t * p->in + i] : 0, size = fabs(sum) + 1e-6;
            for (int64_t o = 0; o < p->out; o++) {
                const float *row = row_at(p, wide, o);
                double each = row ? (double)p->scale * dy[t * p->out + o] * row[i] : 0;
                sum += each;
                size += fabs(each);
            }
            ck_assert_msg(fabs(dx[t * p->in + i] - sum) <= 3e-6 * size, "dx[%d][%d] %g, not %g",
                          (int)t, (int)i, (double)dx[t * p->in + i], sum);
        }
}

static void check_dw(const product *p, const float *x, const float *dy, double before,
                     const float *dw) {
    double *sums = calloc((size_t)(p->rows * p->cols), sizeof *sums);
    for (int64_t t = 0; t < p->tokens; t++)
        for (int64_t o = 0; o < p->out; o++) {
            int64_t row = p->take ? p->take[o] : o;
            if (p->take && row >= p->take_limit) continue;
            for (int64_t i = 0; i < p->in; i++)
                sums[row * p->cols + i] += (double)p->scale * dy[t * p->out + o] * x[t * p->in + i];
        }
    for (int64_t i = 0; i < p->rows * p->cols; i++)
        ck_assert_msg(fabs(dw[i] - (before + sums[i])) <= 2e-6 * (double)p->tokens + 1e-6,
                      "dw[%d] %g, not %g", (int)i, (double)dw[i], before + sums[i]);
    free(sums);
}

static void check(const product *p) {
    lr__device device = {.kernels = lr__kernels_best()};
    lr__arena arena = {0};
    float *wide, *x = fixture_numbers(p->tokens * p->in), *dy = fixture_numbers(p->tokens * p->out);
    float *dx = fixture_numbers(p->tokens * p->in), *before = NULL;
    float *dw = malloc((size_t)(p->rows * p->cols) * sizeof *dw);
    void *bytes = stored(p, &wide);
    lr__matrix w = {.dtype = p->dtype, .rows = p->rows, .cols = p->cols, .data = bytes};
    ck_assert_int_ge(lr__pool_new(&device.pool, p->threads), 0);
    for (int64_t i = 0; i < p->rows * p->cols; i++) dw[i] = 1;
    lr__matmul_backward m = {.w = &w,
                             .out = p->out,
                             .in = p->in,
                             .take = p->take,
                             .take_limit = p->take_limit,
                             .tokens = p->tokens,
                             .x = x,
                             .ldx = p->in,
                             .dy = dy,
                             .lddy = p->out,
                             .scale = p->scale,
                             .dx = dx,
                             .lddx = p->in,
                             .dw = dw,
                             .dw_adds = 1};
    ck_assert_int_ge(lr__matmul_backward_run(&device, &arena, &m), 0);
    check_dx(p, wide, dy, NULL, dx);
    check_dw(p, x, dy, 1, dw);
    before = malloc((size_t)(p->tokens * p->in) * sizeof *before);
    memcpy(before, dx, (size_t)(p->tokens * p->in) * sizeof *before);
    for (int64_t i = 0; i < p->rows * p->cols; i++) dw[i] = NAN;
    int is_whole = p->rows == p->out && p->cols == p->in && !p->take;
    if (!is_whole) m.dw = NULL;
    m.dw_adds = 0;
    m.accumulate = 1;
    ck_assert_int_ge(lr__matmul_backward_run(&device, &arena, &m), 0);
    check_dx(p, wide, dy, before, dx);
    if (is_whole) check_dw(p, x, dy, 0, dw);
    lr__arena_clear(&arena);
    lr__pool_free(device.pool);
    free(wide), free(x), free(dy), free(dx), free(before), free(dw), free(bytes);
}

START_TEST(matches_binary64) {
    for (int64_t tokens = 1; tokens <= 40; tokens += 13)
        for (int64_t out = 1; out <= 70; out += 23)
            for (int64_t in = 1; in <= 80; in += 26) {
                product p = {.rows = out + (int64_t)(tokens % 2) * 3,
                             .cols = in + (int64_t)(out % 2),
                             .out = out,
                             .in = in,
                             .tokens = tokens,
                             .dtype = (int32_t[]){LR_F32, LR_BF16, LR_F16}[(tokens + in) % 3],
                             .threads = 1 + (int32_t)(in % 3),
                             .scale = out % 2 ? 1 : -0.75f};
                check(&p);
            }
}
END_TEST

/* Wider than a slab, deeper than one, more tokens than one. */
START_TEST(cuts_what_is_large) {
    product wide = {.rows = 5, .cols = 1601, .out = 5, .in = 1600, .tokens = 9, .scale = 1};
    product deep = {.rows = 1600, .cols = 7, .out = 1599, .in = 7, .tokens = 9, .scale = 2};
    product many = {.rows = 6, .cols = 7, .out = 6, .in = 7, .tokens = 2050, .scale = 1};
    product *all[] = {&wide, &deep, &many};
    for (int i = 0; i < 3; i++) {
        all[i]->dtype = LR_F32;
        all[i]->threads = 2;
        check(all[i]);
    }
}
END_TEST

/* Rows in another order, one of them twice, one beyond the limit. */
START_TEST(takes_rows) {
    int32_t take[] = {4, 2, 0, 6, 2, 5, 1};
    product p = {.rows = 7, .cols = 33, .out = 7, .in = 33, .tokens = 21, .dtype = LR_BF16};
    p.threads = 2;
    p.scale = 1.5f;
    p.take = take;
    p.take_limit = 6;
    check(&p);
}
END_TEST

static uint64_t bits_of(int32_t threads) {
    enum { TOKENS = 700, OUT = 130, IN = 200 };
    static float w[OUT * IN], x[TOKENS * IN], dy[TOKENS * OUT], dx[TOKENS * IN], dw[OUT * IN];
    lr__device device = {.kernels = lr__kernels_best()};
    lr__arena arena = {0};
    for (int i = 0; i < OUT * IN; i++) w[i] = (float)(i % 37) / 19;
    for (int i = 0; i < TOKENS * IN; i++) x[i] = (float)(i % 41) / 23;
    for (int i = 0; i < TOKENS * OUT; i++) dy[i] = (float)(i % 43) / 29;
    memset(dw, 0, sizeof dw);
    lr__matrix stored_w = {.dtype = LR_F32, .rows = OUT, .cols = IN, .data = w};
    lr__matmul_backward m = {.w = &stored_w,
                             .out = OUT,
                             .in = IN,
                             .tokens = TOKENS,
                             .x = x,
                             .ldx = IN,
                             .dy = dy,
                             .lddy = OUT,
                             .scale = 1,
                             .dx = dx,
                             .lddx = IN,
                             .dw = dw,
                             .dw_adds = 1};
    ck_assert_int_ge(lr__pool_new(&device.pool, threads), 0);
    ck_assert_int_ge(lr__matmul_backward_run(&device, &arena, &m), 0);
    lr__arena_clear(&arena);
    lr__pool_free(device.pool);
    return hash_bytes(hash_bytes(hash_begin, dx, sizeof dx), dw, sizeof dw);
}

START_TEST(threads_change_no_bit) {
    uint64_t one = bits_of(1);
    ck_assert(one == bits_of(2));
    ck_assert(one == bits_of(5));
}
END_TEST

Suite *matmul_backward_suite(void) {
    Suite *suite = suite_create("matmul_backward");
    TCase *tests = tcase_create("matmul_backward");
    tcase_add_test(tests, matches_binary64);
    tcase_add_test(tests, cuts_what_is_large);
    tcase_add_test(tests, takes_rows);
    tcase_add_test(tests, threads_change_no_bit);
    suite_add_tcase(suite, tests);
    return suite;
}
