/* One right factor for all modules of an input: the loss of the stacked weights, numbers counted
 * and stored once; and the bytes of every storage. */
#include "compress/plan.h"
#include "compress/ranks.h"
#include "jacobi.h"
#include "run_fixture.h"

enum { WINDOW = 32, TEXT = 512, MODULES = 7 };

static const char *const suffixes[MODULES] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
/* The modules of one input stand on one another: first and count. */
static const int sets[][2] = {{0, 3}, {3, 1}, {4, 2}, {6, 1}};
enum { SETS = sizeof sets / sizeof *sets };

static lr_model *model;
static lr_stats *stats;

static void open_named(const char *name) {
    int32_t ids[TEXT];
    model = golden_open(name);
    tiny_text(1, TEXT, tiny_vocabulary(model), ids);
    stats = stats_of(model, ids, TEXT, WINDOW);
}

static void close_model(void) {
    lr_stats_free(stats);
    lr_model_free(model);
    stats = NULL;
    model = NULL;
}

static void setup(void) {
    scratch_make();
    open_named("llama-tied");
}

static void teardown(void) {
    close_model();
    scratch_remove();
}

static const char *name_of(int block, int which) {
    static char name[64];
    snprintf(name, sizeof name, "model.layers.%d.%s", block, suffixes[which]);
    return name;
}

static lr_linear *module_of(const lr_model *target, int block, int which) {
    lr_linear *linear;
    CHECK_OK(lr_model_find_linear(target, name_of(block, which), &linear));
    return linear;
}

static lr_plan *plan_of(const char *ranks, double keep) {
    lr_plan *plan;
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.ranks = ranks;
    opts.keep = keep;
    opts.storage = "shared";
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    return plan;
}

typedef struct events {
    lr_compress_event items[64];
    char names[64][64];
    int count;
} events;

static int32_t record(const lr_compress_event *event, void *user) {
    events *all = user;
    snprintf(all->names[all->count], sizeof all->names[0], "%s", event->module);
    all->items[all->count++] = *event;
    return 0;
}

static lr_model *compressed(const lr_plan *plan, const char *method, events *all) {
    lr_model *copy;
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = method;
    CHECK_OK(lr_model_clone(&copy, model));
    CHECK_OK(lr_compress(copy, plan, stats, &opts, all ? record : NULL, all));
    return copy;
}

static float *weight_of(const lr_model *target, int block, int which, int64_t *out, int64_t *in) {
    lr_linear *linear = module_of(target, block, which);
    *out = lr_linear_out(linear);
    *in = lr_linear_in(linear);
    float *weight = malloc((size_t)(*out * *in) * sizeof *weight);
    ck_assert_ptr_nonnull(weight);
    CHECK_OK(lr_linear_densify(linear, weight));
    lr_linear_free(linear);
    return weight;
}

/* tr(E C E') of one module by plain loops. */
static double loss_of(const lr_model *target, int block, int which) {
    int64_t m, n;
    float *w = weight_of(model, block, which, &m, &n);
    float *after = target ? weight_of(target, block, which, &m, &n) : NULL;
    double *gram = malloc((size_t)(n * n) * sizeof *gram), loss = 0;
    double *mean = malloc((size_t)n * sizeof *mean);
    CHECK_OK(lr_stats_read(stats, name_of(block, which), gram, mean));
    for (int64_t r = 0; r < m; r++)
        for (int64_t i = 0; i < n; i++) {
            double e = w[r * n + i] - (after ? after[r * n + i] : 0), sum = 0;
            for (int64_t j = 0; j < n; j++)
                sum += gram[i * n + j] * (w[r * n + j] - (after ? after[r * n + j] : 0));
            loss += e * sum;
        }
    free(w);
    free(after);
    free(gram);
    free(mean);
    return loss;
}

/* Sum of the eigenvalues from `rank` on of S C S', S the stack of the weights of a set: those of a
 * semidefinite matrix are its singular values. */
static double tail_of_stack(int block, const int *set, int64_t rank) {
    int64_t rows = 0, m, n = 0;
    float *stack = NULL;
    for (int k = 0; k < set[1]; k++) {
        float *w = weight_of(model, block, set[0] + k, &m, &n);
        stack = realloc(stack, (size_t)((rows + m) * n) * sizeof *stack);
        memcpy(stack + rows * n, w, (size_t)(m * n) * sizeof *stack);
        rows += m;
        free(w);
    }
    double *gram = malloc((size_t)(n * n) * sizeof *gram), tail = 0;
    double *square = calloc((size_t)(rows * rows), sizeof *square);
    CHECK_OK(lr_stats_read(stats, name_of(block, set[0]), gram, NULL));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t p = 0; p < n; p++) {
            double sum = 0;
            for (int64_t q = 0; q < n; q++) sum += (double)stack[i * n + q] * gram[q * n + p];
            for (int64_t j = 0; j < rows; j++)
                square[i * rows + j] += sum * (double)stack[j * n + p];
        }
    double *values = jacobi_squares(square, rows, rows);
    for (int64_t i = rows; i-- > rank;) tail += sqrt(values[i]);
    free(values);
    free(square);
    free(gram);
    free(stack);
    return tail;
}

/* O24: predicted is the tail of the stack; measured by loops it is the sum over its modules. */
static void check_set(const lr_model *copy, const events *all, int block, const int *set) {
    double loss = 0, total = 0, tail = tail_of_stack(block, set, 7);
    for (int k = 0; k < set[1]; k++) {
        loss += loss_of(copy, block, set[0] + k);
        total += loss_of(NULL, block, set[0] + k);
    }
    for (int k = 0; k < set[1]; k++) {
        const lr_compress_event *event = &all->items[block * MODULES + set[0] + k];
        ck_assert_str_eq(all->names[block * MODULES + set[0] + k], name_of(block, set[0] + k));
        ck_assert_int_eq(event->sharers, set[1]);
        ck_assert_str_eq(event->storage, set[1] > 1 ? "shared" : "two-factor");
        CHECK_NEAR(event->total, total, 1e-6 * total);
        CHECK_NEAR(event->predicted, tail, 1e-9 * total);
        CHECK_NEAR(event->predicted, loss, 1e-5 * total);
    }
}

static void check_losses(const char *method) {
    events all = {0};
    lr_plan *plan = plan_of("{\"*\": 7}", 0);
    lr_model *copy = compressed(plan, method, &all);
    ck_assert_int_eq(all.count, 2 * MODULES);
    for (int block = 0; block < 2; block++)
        for (int s = 0; s < SETS; s++) check_set(copy, &all, block, sets[s]);
    lr_model_free(copy);
    lr_plan_free(plan);
}

START_TEST(loses_the_tail_of_the_stack) {
    check_losses("pca");
    check_losses("whiten");
}
END_TEST

/* O24: at one rank, apart is never worse than together; with every direction nothing is lost. */
START_TEST(is_bounded_by_separate_factors) {
    events together = {0}, apart = {0};
    lr_plan *plan = plan_of("{\"*\": 7}", 0), *separate;
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.ranks = "{\"*\": 7}";
    opts.storage = "two-factor";
    CHECK_OK(lr_plan_new(&separate, model, &opts));
    lr_model_free(compressed(plan, "pca", &together));
    lr_model_free(compressed(separate, "pca", &apart));
    for (int i = 0; i < 2 * MODULES; i += MODULES)
        for (int s = 0; s < SETS; s++) {
            double sum = 0;
            for (int k = 0; k < sets[s][1]; k++) sum += apart.items[i + sets[s][0] + k].predicted;
            ck_assert(sum <= together.items[i + sets[s][0]].predicted * (1 + 1e-9));
        }
    lr_plan_free(separate);
    lr_plan_free(plan);
    plan = plan_of("{\"*\": 36}", 0); /* more than k and v have outputs */
    lr_model *whole = compressed(plan, "pca", NULL);
    int64_t count = (int64_t)24 * tiny_vocabulary(model);
    float *a = tiny_logits(model, LR_STEP_BATCH, 2, 24);
    float *b = tiny_logits(whole, LR_STEP_BATCH, 2, 24);
    ck_assert_double_le(tiny_distance(a, b, count), 1e-4);
    free(a);
    free(b);
    lr_model_free(whole);
    lr_plan_free(plan);
}
END_TEST

static int64_t stacked_params(const lr_plan *plan, int block, const int *set) {
    int64_t rank = lr_plan_rank(plan, block * MODULES + set[0]), outs = 0, in = 0;
    for (int k = 0; k < set[1]; k++) {
        lr_linear *linear = module_of(model, block, set[0] + k);
        ck_assert_int_eq(lr_plan_rank(plan, block * MODULES + set[0] + k), rank);
        outs += lr_linear_out(linear);
        in = lr_linear_in(linear);
        lr_linear_free(linear);
    }
    ck_assert_int_lt(rank * (outs + in), outs * in);
    return rank ? rank * (outs + in) : outs * in;
}

START_TEST(counts_once) {
    for (int percent = 20; percent <= 100; percent += 16) {
        lr_plan *plan = plan_of(NULL, percent / 100.0);
        int64_t before, after, sum = 0, whole = parameters_of(model);
        lr_plan_parameters(plan, &before, &after);
        for (int block = 0; block < 2; block++)
            for (int s = 0; s < SETS; s++) sum += stacked_params(plan, block, sets[s]);
        ck_assert_int_eq(after, sum);
        ck_assert_double_le((double)after / (double)before, percent / 100.0);
        lr_model *copy = compressed(plan, "pca", NULL);
        ck_assert_int_eq(parameters_of(copy), whole - before + after);
        lr_model_free(copy);
        lr_plan_free(plan);
    }
}
END_TEST

/* Ranks by hand: equal ones share, others do not, and the counts follow. */
START_TEST(shares_at_equal_ranks) {
    lr_plan *plan = plan_of("{\"{q,v}_proj\": 6, \"k_proj\": 5}", 0);
    events all = {0};
    int64_t before, after;
    lr_plan_parameters(plan, &before, &after);
    lr_model *copy = compressed(plan, "svd", &all);
    ck_assert_int_eq(parameters_of(copy) - parameters_of(model), after - before);
    static const char *const order[] = {"q_proj", "v_proj", "k_proj"};
    for (int i = 0; i < 6; i++) {
        ck_assert_ptr_nonnull(strstr(all.names[i], order[i % 3]));
        ck_assert_int_eq(all.items[i].sharers, i % 3 < 2 ? 2 : 1);
    }
    lr_model_free(copy);
    CHECK_OK(lr_plan_save(plan, scratch_path("plan"), 0));
    lr_plan *opened;
    int64_t again;
    CHECK_OK(lr_plan_open(&opened, model, scratch_path("plan")));
    lr_plan_parameters(opened, &before, &again);
    ck_assert_int_eq(again, after);
    lr_plan_free(opened);
    CHECK_FAILS(lr_plan_set_rank(plan, "model.layers.0.self_attn.k_proj", 37), LR_E_INVALID,
                "rank 37, expected 1 to 36");
    lr_plan_free(plan);
}
END_TEST

/* Through files of every type, once in each: counts, bytes of the arithmetic and its bits. */
static void check_saved(int32_t dtype, const char *ranks) {
    lr_plan *plan = plan_of(ranks, 0);
    lr_model *copy = compressed(plan, "afm", NULL), *again, *twice;
    lr_save_opts opts;
    int64_t count = (int64_t)24 * tiny_vocabulary(model);
    lr_save_opts_init(&opts, sizeof opts);
    opts.dtype = dtype;
    opts.force = 1;
    CHECK_OK(lr_model_save(copy, scratch_path("a"), &opts));
    again = tiny_open_path(scratch_path("a"), 2);
    ck_assert_int_eq(parameters_of(again), parameters_of(copy));
    CHECK_OK(lr_model_save(again, scratch_path("b"), &opts));
    twice = tiny_open_path(scratch_path("b"), 2);
    ck_assert_int_eq(parameters_of(twice), parameters_of(copy));
    float *a = tiny_logits(dtype == LR_F32 ? copy : again, LR_STEP_BATCH, 2, 24);
    float *b = tiny_logits(dtype == LR_F32 ? again : twice, LR_STEP_BATCH, 2, 24);
    if (dtype == LR_Q8_0)
        ck_assert_double_le(tiny_distance(a, b, count), 1e-2);
    else
        ck_assert_mem_eq(a, b, (size_t)count * sizeof *a);
    free(a);
    free(b);
    lr_model_free(twice);
    lr_model_free(again);
    lr_model_free(copy);
    lr_plan_free(plan);
}

START_TEST(survives_saving) {
    check_saved(LR_F32, "{\"*\": 9}");
    check_saved(LR_F32, "{\"*\": 30}"); /* more than k and v have outputs */
    check_saved(LR_BF16, "{\"*\": 9}");
    check_saved(LR_Q8_0, "{\"*\": 9}");
}
END_TEST

/* Bytes behind the header of a safetensors file. */
static int64_t data_bytes(const char *path) {
    unsigned char length[8];
    int64_t header = 0;
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fread(length, 1, 8, file), 8);
    for (int i = 8; i-- > 0;) header = header << 8 | length[i];
    ck_assert_int_eq(fseek(file, 0, SEEK_END), 0);
    int64_t bytes = (int64_t)ftell(file) - 8 - header;
    fclose(file);
    return bytes;
}

/* Every storage in every type, ranks that are no multiples of the 32 columns of a scale. */
START_TEST(tells_the_bytes_of_its_file) {
    static const char *const storages[] = {"two-factor", "pivot", "shared"};
    static const int32_t types[] = {LR_F32, LR_BF16, LR_Q8_0};
    lr_plan *plan;
    lr_plan_opts opts;
    lr_save_opts save;
    lr_model_info info = {.size = sizeof info};
    int32_t dtype = types[_i % 3];
    int64_t count = (int64_t)24 * tiny_vocabulary(model);
    lr_plan_opts_init(&opts, sizeof opts);
    opts.ranks = "{\"*\": 9, \"{o,down,up}_proj\": 35}";
    opts.storage = storages[_i / 3];
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    lr_model *copy = compressed(plan, "pca", NULL);
    lr_save_opts_init(&save, sizeof save);
    save.dtype = dtype;
    CHECK_OK(lr_model_save(copy, scratch_path("out"), &save));
    lr_model *opened = tiny_open_path(scratch_path("out"), 2);
    CHECK_OK(lr_model_get_info(opened, &info));
    ck_assert_int_eq(info.parameters, parameters_of(copy));
    ck_assert_int_eq(info.bytes, data_bytes(scratch_path("out/model.safetensors")));
    float *a = tiny_logits(copy, LR_STEP_BATCH, 2, 24);
    float *b = tiny_logits(opened, LR_STEP_BATCH, 2, 24);
    ck_assert_double_le(tiny_distance(a, b, count), dtype == LR_F32    ? 0
                                                    : dtype == LR_BF16 ? 0.1
                                                                       : 1);
    free(a);
    free(b);
    lr_model_free(opened);
    lr_model_free(copy);
    lr_plan_free(plan);
}
END_TEST

/* A live forward of the group is what each module does by itself. */
START_TEST(forwards_the_product) {
    close_model();
    open_named("llama-bias-sharded");
    lr_plan *plan = plan_of("{\"*\": 9}", 0);
    lr_model *copy = compressed(plan, "afm", NULL);
    int32_t ids[2 * WINDOW];
    tiny_text(3, 2 * WINDOW, tiny_vocabulary(model), ids);
    captures *now = capture_windows(copy, ids, WINDOW, 2);
    for (int i = 0; i < now->count; i++) {
        const capture *c = &now->items[i];
        lr_linear *linear;
        float *w = malloc((size_t)(c->out * c->in) * sizeof *w), bias[512];
        ck_assert_int_le(c->out, 512);
        CHECK_OK(lr_model_find_linear(copy, c->module, &linear));
        CHECK_OK(lr_linear_densify(linear, w));
        CHECK_OK(lr_linear_bias(linear, bias));
        for (int64_t t = 0; t < c->tokens; t++)
            for (int64_t r = 0; r < c->out; r++) {
                double sum = bias[r];
                for (int64_t j = 0; j < c->in; j++)
                    sum += (double)w[r * c->in + j] * c->x[t * c->in + j];
                CHECK_NEAR(c->y[t * c->out + r], sum, 1e-4);
            }
        lr_linear_free(linear);
        free(w);
    }
    captures_free(now);
    lr_model_free(copy);
    lr_plan_free(plan);
}
END_TEST

Suite *shared_suite(void) {
    Suite *suite = suite_create("shared");
    TCase *tests = tcase_create("shared");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 30);
    tcase_add_test(tests, loses_the_tail_of_the_stack);
    tcase_add_test(tests, is_bounded_by_separate_factors);
    tcase_add_test(tests, counts_once);
    tcase_add_test(tests, shares_at_equal_ranks);
    tcase_add_test(tests, survives_saving);
    tcase_add_loop_test(tests, tells_the_bytes_of_its_file, 0, 9);
    tcase_add_test(tests, forwards_the_product);
    suite_add_tcase(suite, tests);
    return suite;
}
