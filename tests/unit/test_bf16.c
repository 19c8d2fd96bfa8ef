/* Batch products in BF16: through lr__matmul against binary64 over rounded numbers, through models
 * against binary32, and what asking for them says. On machines without AVX512-BF16 by the form that
 * takes its place, and nothing but the asking without AVX-512. */
#include "run_fixture.h"

#include "backend/cpu/level_avx512.h"
#include "backend/matmul.h"
#include "cli_fixture.h"
#include "ctx/ctx.h"
#include "tensor/dtype.h"

#include <lowrank/eval.h>

static lr__panels_fn pairs_here(void) {
    lr__panels_fn pairs = lr__multiply_pairs_best();
#if defined(__x86_64__)
    if (!pairs && lr__kernels_named("avx512")) return lr__multiply_pairs_avx512;
#endif
    return pairs;
}

static int has_packing(void) { return !strcmp(lr__kernels_best()->name, "avx512"); }

/* To eight leading bits, a tie to the even one. */
static double rounded(float value) {
    int exponent;
    double part = frexp((double)value, &exponent);
    return ldexp(nearbyint(ldexp(part, 8)), exponent - 8);
}

/* ---- one product ---- */

typedef struct product {
    int64_t out, in, tokens, gap;
    int32_t dtype;
    int is_taken, accumulate;
    float scale;
} product;

enum { ROWS_MORE = 5 };

typedef struct operands {
    void *stored;
    float *wide, *x, *before;
    int32_t *take;
} operands;

static float *numbers(int64_t count, int32_t text) {
    float *x = malloc((size_t)(count + 1) * sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)((double)tiny_mix((uint64_t)(text * 7919 + i)) * 0x1p-63 - 1.0);
    return x;
}

static operands make(const product *p) {
    int64_t rows = p->out + ROWS_MORE, count = rows * p->in;
    operands o = {.stored = malloc((size_t)count * sizeof(float)), .wide = numbers(count, 1)};
    if (p->dtype == LR_F32)
        memcpy(o.stored, o.wide, (size_t)count * sizeof(float));
    else {
        lr__kernels_named("c")->narrow(p->dtype, o.wide, (size_t)count, o.stored);
        lr__kernels_named("c")->widen(p->dtype, o.stored, (size_t)count, o.wide);
    }
    o.x = numbers(p->tokens * (p->in + p->gap), 2);
    o.before = numbers(p->tokens * (p->out + p->gap), 3);
    o.take = malloc((size_t)p->out * sizeof *o.take);
    for (int64_t i = 0; i < p->out; i++) o.take[i] = (int32_t)((i * 3 + 1) % rows);
    return o;
}

static void drop(operands *o) {
    free(o->stored);
    free(o->wide);
    free(o->x);
    free(o->before);
    free(o->take);
}

/* What is read and was never written is a NaN. */
static void dirty(lr__arena *arena) {
    enum { BYTES = 1 << 22 };
    lr__arena_mark mark = lr__arena_here(arena);
    char *data;
    CHECK_OK(lr__arena_take(arena, &data, BYTES, 1));
    memset(data, 0xff, BYTES);
    lr__arena_release(arena, mark);
}

/* The rows of y lie p->gap apart; freed by the caller. */
static float *multiplied(const product *p, const operands *o, lr__panels_fn pairs,
                         int32_t threads) {
    int64_t rows = p->out + ROWS_MORE, ldy = p->out + p->gap;
    lr__arena arena = {0};
    lr__device device = {.kernels = lr__kernels_best(), .multiply_pairs = pairs};
    lr__matrix w = {.dtype = p->dtype, .rows = rows, .cols = p->in, .data = o->stored};
    float *y = malloc((size_t)(p->tokens * ldy) * sizeof *y);
    memcpy(y, o->before, (size_t)(p->tokens * ldy) * sizeof *y);
    lr__matmul m = {.w = &w,
                    .out = p->out,
                    .in = p->in,
                    .take = p->is_taken ? o->take : NULL,
                    .take_limit = rows - 2,
                    .tokens = p->tokens,
                    .x = o->x,
                    .ldx = p->in + p->gap,
                    .y = y,
                    .ldy = ldy,
                    .scale = p->scale,
                    .accumulate = p->accumulate,
                    .batch = 1};
    CHECK_OK(lr__pool_new(&device.pool, threads));
    dirty(&arena);
    CHECK_OK(lr__matmul_run(&device, &arena, &m));
    lr__pool_free(device.pool);
    lr__arena_clear(&arena);
    return y;
}

/* The bound of test_kernels_pairs.c, for two roundings of each product. */
static void check_rounded(const product *p, const operands *o, const float *y) {
    int64_t ldy = p->out + p->gap;
    double nu = 2 * (double)(p->in + 1) * 0x1p-24;
    for (int64_t t = 0; t < p->tokens; t++)
        for (int64_t i = 0; i < ldy; i++) {
            double was = o->before[t * ldy + i], sum = p->accumulate ? was : 0, size = fabs(sum);
            int64_t row = p->is_taken && i < p->out ? o->take[i] : i;
            int is_zero = p->is_taken && row >= p->out + ROWS_MORE - 2;
            for (int64_t j = 0; j < p->in && i < p->out && !is_zero; j++) {
                double each = rounded(o->x[t * (p->in + p->gap) + j]) *
                              rounded(p->scale * o->wide[row * p->in + j]);
                sum += each;
                size += fabs(each);
            }
            double expected = i < p->out ? sum : was;
            double bound = i < p->out ? nu / (1 - nu) * size * (1 + 0x1p-20) : 0;
            ck_assert_msg(fabs((double)y[t * ldy + i] - expected) <= bound,
                          "%dx%dx%d at %d, %d: %.9g, expected %.9g", (int)p->tokens, (int)p->out,
                          (int)p->in, (int)t, (int)i, (double)y[t * ldy + i], expected);
        }
}

static const product products[] = {
    {1, 1, 1, 0, LR_BF16, 0, 0, 1},        {7, 33, 5, 1, LR_BF16, 0, 1, 1},
    {65, 20, 130, 0, LR_BF16, 0, 0, 1},    {64, 21, 64, 3, LR_F16, 0, 0, 1},
    {130, 47, 67, 2, LR_BF16, 1, 1, 0.3f}, {40, 96, 70, 0, LR_F16, 1, 0, 0.5f},
    {1601, 18, 9, 1, LR_BF16, 0, 1, 1}, /* more than one slab */
    {20, 2207, 11, 0, LR_BF16, 0, 0, 1},   {100, 63, 700, 1, LR_F16, 0, 0, 1},
};
enum { PRODUCTS = sizeof products / sizeof *products };

START_TEST(product_matches_rounded_binary64) {
    if (!has_packing()) return;
    operands o = make(&products[_i]);
    int64_t count = products[_i].tokens * (products[_i].out + products[_i].gap);
    float *y = multiplied(&products[_i], &o, pairs_here(), 1);
    float *again = multiplied(&products[_i], &o, pairs_here(), 3);
    check_rounded(&products[_i], &o, y);
    CHECK_SAME_BITS(y, again, count);
    free(y);
    free(again);
    drop(&o);
}
END_TEST

START_TEST(weights_of_binary32_stay) {
    if (!has_packing()) return;
    product p = {70, 41, 90, 1, LR_F32, _i, _i, _i ? 0.5f : 1};
    operands o = make(&p);
    float *plain = multiplied(&p, &o, NULL, 2), *asked = multiplied(&p, &o, pairs_here(), 2);
    CHECK_SAME_BITS(plain, asked, p.tokens * (p.out + p.gap));
    free(plain);
    free(asked);
    drop(&o);
}
END_TEST

/* ---- models ---- */

static lr_model *open_with(const char *path, lr__panels_fn pairs, int32_t threads) {
    lr_ctx *ctx = tiny_ctx(threads);
    lr_model *model;
    ctx->device.multiply_pairs = pairs;
    CHECK_OK(lr_model_open(&model, ctx, path, NULL));
    lr_ctx_free(ctx);
    return model;
}

static const char *in_bf16(const char *name) {
    lr_model *model = golden_open(name);
    lr_save_opts opts;
    lr_save_opts_init(&opts, sizeof opts);
    opts.dtype = LR_BF16;
    CHECK_OK(lr_model_save(model, scratch_path("bf16"), &opts));
    lr_model_free(model);
    return scratch_path("bf16");
}

enum { LENGTH = 60 };

START_TEST(model_is_near_binary32) {
    if (!has_packing()) return;
    static const char *const names[] = {"llama-f32", "qwen3"};
    const char *path = in_bf16(names[_i]);
    lr_model *exact = open_with(path, NULL, 2), *model = open_with(path, pairs_here(), 2);
    int32_t ids[LENGTH], vocabulary = tiny_vocabulary(model);
    tiny_text(1, LENGTH, vocabulary, ids);
    lr_eval_result result = {.size = sizeof result}, alone = {.size = sizeof alone};
    lr_eval_opts opts;
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = 20;
    opts.reference = exact;
    CHECK_OK(lr_eval(&result, model, ids, LENGTH, &opts));
    opts.reference = NULL;
    CHECK_OK(lr_eval(&alone, exact, ids, LENGTH, &opts));
    ck_assert_msg(result.kl > 0 && result.kl < 1e-3, "KL %g", result.kl);
    CHECK_NEAR(result.nll, alone.nll, 0.02);
    lr_model_free(model);
    lr_model_free(exact);
}
END_TEST

START_TEST(threads_change_no_bit) {
    if (!has_packing()) return;
    const char *path = in_bf16("llama-f32");
    lr_model *one = open_with(path, pairs_here(), 1), *three = open_with(path, pairs_here(), 3);
    int64_t count = (int64_t)LENGTH * tiny_vocabulary(one);
    float *a = tiny_logits(one, LR_STEP_BATCH, 1, LENGTH);
    float *b = tiny_logits(three, LR_STEP_BATCH, 1, LENGTH);
    CHECK_SAME_BITS(a, b, count);
    free(a);
    free(b);
    lr_model_free(one);
    lr_model_free(three);
}
END_TEST

/* Row-invariant steps, and models in binary32. */
START_TEST(the_rest_keeps_its_bits) {
    if (!has_packing()) return;
    const char *path = in_bf16("llama-f32");
    const char *paths[] = {path, golden_model("llama-f32"), path};
    const int32_t kinds[] = {LR_STEP_ROWS, LR_STEP_BATCH, LR_STEP_BATCH};
    lr_model *plain = open_with(paths[_i], NULL, 2), *asked = open_with(paths[_i], pairs_here(), 2);
    int64_t count = (int64_t)LENGTH * tiny_vocabulary(plain);
    float *a = tiny_logits(plain, kinds[_i], 1, LENGTH);
    float *b = tiny_logits(asked, kinds[_i], 1, LENGTH);
    ck_assert_int_eq(memcmp(a, b, (size_t)count * sizeof *a) == 0, _i < 2);
    free(a);
    free(b);
    lr_model_free(plain);
    lr_model_free(asked);
}
END_TEST

/* ---- asking ---- */

static void count_line(int32_t level, const char *line, void *user) {
    int *lines = user;
    ck_assert_int_eq(level, LR_LOG_WARNING);
    ck_assert_ptr_nonnull(strstr(line, "AVX512-BF16"));
    ++*lines;
}

START_TEST(context_takes_what_there_is) {
    lr_ctx *ctx;
    lr_ctx_opts opts;
    int lines = 0;
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.threads = 1;
    opts.log = count_line;
    opts.log_user = &lines;
    CHECK_OK(lr_ctx_new(&ctx, &opts));
    ck_assert_ptr_null(ctx->device.multiply_pairs);
    ck_assert_int_eq(lines, 0);
    lr_ctx_free(ctx);
    opts.bf16_products = 1;
    CHECK_OK(lr_ctx_new(&ctx, &opts));
    ck_assert(ctx->device.multiply_pairs == lr__multiply_pairs_best());
    ck_assert_int_eq(lines, lr__multiply_pairs_best() == NULL);
    lr_ctx_free(ctx);
    for (opts.bf16_products = -1; opts.bf16_products <= 2; opts.bf16_products += 3)
        CHECK_FAILS(lr_ctx_new(&ctx, &opts), LR_E_INVALID, "expected 0 or 1");
}
END_TEST

static double perplexity(const char *option) {
    RUN(0, "eval", cli_model(), "--text", scratch_path("text"), "--window", "32", "--json", option);
    ck_assert_msg(run.json != NULL, "not one JSON object: %s", run.out);
    return cli_number("perplexity");
}

START_TEST(command_takes_it) {
    static const char text[] =
        "The river ran over the stones and the other side of the valley. The "
        "rest of the story is about the people who lived beside the river.";
    scratch_write("text", text, sizeof text - 1);
    setenv("LOWRANK_BF16", "plain", 1);
    double plain = perplexity("--force"), asked = perplexity("--bf16");
    ck_assert_int_eq(plain == asked, !has_packing());
    ck_assert_int_eq(strstr(run.err, "AVX512-BF16") == NULL, has_packing());
    CHECK_NEAR(asked, plain, 0.02 * plain);
    setenv("LOWRANK_MAX_ISA", "avx2", 1);
    asked = perplexity("--bf16");
    ck_assert_ptr_nonnull(strstr(run.err, "AVX512-BF16"));
    ck_assert(asked == perplexity("--force"));
}
END_TEST

Suite *bf16_suite(void) {
    Suite *suite = suite_create("bf16");
    TCase *tests = tcase_create("bf16");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, product_matches_rounded_binary64, 0, PRODUCTS);
    tcase_add_loop_test(tests, weights_of_binary32_stay, 0, 2);
    tcase_add_loop_test(tests, model_is_near_binary32, 0, 2);
    tcase_add_test(tests, threads_change_no_bit);
    tcase_add_loop_test(tests, the_rest_keeps_its_bits, 0, 3);
    tcase_add_test(tests, context_takes_what_there_is);
    tcase_add_test(tests, command_takes_it);
    suite_add_tcase(suite, tests);
    return suite;
}
