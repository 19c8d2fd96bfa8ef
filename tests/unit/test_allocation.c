/* Allocations of whole models: losses that compression itself measures, exact budgets of bytes in
 * real files, patterns, weights, and what a plan says of itself. */
#include "compress/plan.h"
#include "jacobi.h"
#include "run_fixture.h"

#include <sys/stat.h>

enum { WINDOW = 16, WINDOWS = 8, TEXT = WINDOW * WINDOWS, MODULES_MOST = 32 };

static lr_model *model;
static lr_stats *stats;

static void open_named(const char *name) {
    int32_t ids[TEXT];
    lr_stats_free(stats);
    lr_model_free(model);
    model = golden_open(name);
    tiny_text(1, TEXT, tiny_vocabulary(model), ids);
    CHECK_OK(lr_stats_new(&stats, model, NULL));
    CHECK_OK(lr_stats_collect(stats, ids, TEXT, WINDOW, 1));
}

static void setup(void) {
    scratch_make();
    open_named("llama-tied");
}

static void teardown(void) {
    lr_stats_free(stats);
    lr_model_free(model);
    stats = NULL;
    model = NULL;
    scratch_remove();
}

static lr_plan_opts options(double keep, const char *allocation, const char *storage) {
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.keep = keep;
    opts.allocation = allocation;
    opts.storage = storage;
    opts.stats = stats;
    opts.floor = 0;
    return opts;
}

static lr_plan *plan_of(lr_plan_opts opts) {
    lr_plan *plan;
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    return plan;
}

static int64_t rank_of(const lr_plan *plan, const char *module) {
    for (int32_t i = 0; i < lr_plan_count(plan); i++)
        if (!strcmp(lr_plan_module(plan, i), module)) return lr_plan_rank(plan, i);
    return -1;
}

static void check_budget(const lr_plan *plan, double keep) {
    int64_t before, after;
    lr_plan_parameters(plan, &before, &after);
    ck_assert_double_le((double)after, keep * (double)before);
    for (int32_t i = 0; i < plan->count; i++) {
        lr__rank_item next = plan->items[i];
        int64_t now = lr__rank_params(&next);
        if (!next.rank) continue;
        next.rank = next.rank == lr__rank_most(&next) ? 0 : next.rank + 1;
        ck_assert_double_gt((double)(after - now + lr__rank_params(&next)), keep * (double)before);
    }
}

typedef struct losses {
    double sum, shares;
} losses;

static int32_t add_loss(const lr_compress_event *event, void *user) {
    losses *all = user;
    all->sum += event->measured;
    all->shares += event->measured / event->total;
    return 0;
}

/* Measured on the difference of the matrices by compression. */
static losses losses_of(const lr_plan *plan, int is_svd) {
    losses all = {0, 0};
    lr_model *copy;
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    if (is_svd) opts.method = "svd";
    CHECK_OK(lr_model_clone(&copy, model));
    CHECK_OK(lr_compress(copy, plan, is_svd ? NULL : stats, &opts, add_loss, &all));
    lr_model_free(copy);
    return all;
}

/* No exchange of a rank between two factorised modules of one shape lowers what was minimised. */
static void check_exchanges(lr_plan *plan, int is_normalised, int is_svd) {
    losses found = losses_of(plan, is_svd);
    double best = is_normalised ? found.shares : found.sum;
    for (int32_t a = 0; a < plan->count; a++)
        for (int32_t b = 0; b < plan->count; b++) {
            lr__rank_item *from = &plan->items[a], *to = &plan->items[b];
            if (a == b || from->out != to->out || from->in != to->in || from->rank < 2 ||
                !to->rank || to->rank >= lr__rank_most(to))
                continue;
            from->rank--;
            to->rank++;
            losses other = losses_of(plan, is_svd);
            from->rank++;
            to->rank--;
            ck_assert_double_ge(is_normalised ? other.shares : other.sum, best * (1 - 1e-5));
        }
}

static const char *const storages[] = {"two-factor", "pivot"};

START_TEST(energies_have_the_least_loss) {
    for (int k = 3; k <= 8; k += 5)
        for (int is_svd = 0; is_svd < 2; is_svd++) {
            lr_plan_opts opts = options(k / 10.0, "uniform", storages[_i]);
            lr_plan *uniform = plan_of(opts);
            losses least = losses_of(uniform, is_svd);
            if (is_svd) opts.stats = NULL;
            opts.allocation = "energy";
            lr_plan *energy = plan_of(opts);
            opts.allocation = "energy-normalised";
            lr_plan *normalised = plan_of(opts);
            check_budget(energy, k / 10.0);
            check_budget(normalised, k / 10.0);
            ck_assert_double_le(losses_of(energy, is_svd).sum, least.sum);
            ck_assert_double_le(losses_of(normalised, is_svd).shares, least.shares);
            if (_i == 0) check_exchanges(energy, 0, is_svd);
            if (_i == 0) check_exchanges(normalised, 1, is_svd);
            lr_plan_free(normalised);
            lr_plan_free(energy);
            lr_plan_free(uniform);
        }
}
END_TEST

START_TEST(weights_pull_ranks) {
    lr_plan_opts opts = options(0.5, "energy-normalised", "pivot");
    lr_plan *even = plan_of(opts);
    opts.allocation = "sensitivity";
    opts.weights = "{\"*\": 1}";
    lr_plan *same = plan_of(opts);
    opts.weights = "{\"q_proj\": 1000, \"model.layers.1.mlp.*\": 0}";
    lr_plan *pulled = plan_of(opts);
    for (int32_t i = 0; i < lr_plan_count(even); i++)
        ck_assert_int_eq(lr_plan_rank(even, i), lr_plan_rank(same, i));
    check_budget(pulled, 0.5);
    ck_assert_int_eq(rank_of(pulled, "model.layers.0.self_attn.q_proj"), 0);
    ck_assert_int_eq(rank_of(pulled, "model.layers.1.self_attn.q_proj"), 0);
    ck_assert_int_eq(rank_of(pulled, "model.layers.1.mlp.up_proj"), 1);
    ck_assert_ptr_nonnull(strstr(lr_plan_about(pulled), "\"model.layers.0.self_attn.q_proj\""));
    lr_plan_free(pulled);
    lr_plan_free(same);
    lr_plan_free(even);
}
END_TEST

/* Of the weights alone: entropies of spectra found by plain loops. */
START_TEST(effective_ranks_are_exp_of_entropy) {
    lr_plan_opts opts = options(0.4, "effective-rank", "two-factor");
    opts.stats = NULL;
    lr_plan *plan = plan_of(opts);
    double least = INFINITY, most = 0;
    check_budget(plan, 0.4);
    for (int32_t i = 0; i < plan->count; i++) {
        lr_linear *linear;
        CHECK_OK(lr_model_find_linear(model, plan->modules[i], &linear));
        int64_t m = lr_linear_out(linear), n = lr_linear_in(linear);
        float *w = malloc((size_t)(m * n) * sizeof *w);
        double *wide = malloc((size_t)(m * n) * sizeof *wide), total = 0, entropy = 0;
        CHECK_OK(lr_linear_densify(linear, w));
        for (int64_t k = 0; k < m * n; k++) wide[k] = (double)w[k];
        double *squares = jacobi_squares(wide, m, n);
        for (int64_t k = 0; k < m; k++) total += squares[k];
        for (int64_t k = 0; k < m; k++)
            if (squares[k] > 1e-20 * total) entropy -= squares[k] / total * log(squares[k] / total);
        if (plan->items[i].rank > 1) {
            double ratio = (double)plan->items[i].rank / exp(entropy);
            least = fmin(least, ((double)plan->items[i].rank + 1) / exp(entropy));
            most = fmax(most, ratio - 1 / exp(entropy));
        }
        free(squares);
        free(wide);
        free(w);
        lr_linear_free(linear);
    }
    ck_assert_double_le(most, least);
    lr_plan_free(plan);
}
END_TEST

START_TEST(patterns_overrule_a_budget) {
    static const char *const allocations[] = {"uniform", "energy-normalised", "effective-rank"};
    for (int a = 0; a < 3; a++) {
        lr_plan_opts opts = options(0.5, allocations[a], "pivot");
        opts.ranks = "{\"v_proj\": 0, \"model.layers.0.mlp.up_proj\": 3}";
        lr_plan *plan = plan_of(opts);
        int64_t before, after;
        lr_plan_parameters(plan, &before, &after);
        ck_assert_double_le((double)after, 0.5 * (double)before);
        ck_assert_double_ge((double)after, 0.48 * (double)before);
        ck_assert_int_eq(rank_of(plan, "model.layers.0.self_attn.v_proj"), 0);
        ck_assert_int_eq(rank_of(plan, "model.layers.1.self_attn.v_proj"), 0);
        ck_assert_int_eq(rank_of(plan, "model.layers.0.mlp.up_proj"), 3);
        lr_plan_free(plan);
    }
    lr_plan *plan;
    lr_plan_opts opts = options(0.5, "uniform", "pivot");
    opts.ranks = "{\"*\": 0}";
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "more than the budget");
    opts.ranks = "{\"*_proj\": 0, \"q_proj\": 1}";
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "more than the budget");
}
END_TEST

static int64_t file_bytes(const char *folder) {
    char path[700];
    struct stat info;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    ck_assert_int_eq(stat(path, &info), 0);
    return info.st_size;
}

static int64_t written_bytes(const lr_plan *plan, int32_t dtype) {
    lr_model *copy;
    lr_save_opts save;
    lr_compress_opts opts;
    lr_save_opts_init(&save, sizeof save);
    lr_compress_opts_init(&opts, sizeof opts);
    save.dtype = dtype;
    save.force = 1;
    CHECK_OK(lr_model_clone(&copy, model));
    if (plan) CHECK_OK(lr_compress(copy, plan, stats, &opts, NULL, NULL));
    CHECK_OK(lr_model_save(copy, scratch_path("out"), &save));
    lr_model_free(copy);
    return file_bytes(scratch_path("out"));
}

/* The file is no larger than asked for, and smaller by a rank and what headers may differ by. */
START_TEST(bytes_are_those_of_the_file) {
    static const int32_t dtypes[] = {LR_F32, LR_BF16, LR_F16, LR_Q8_0};
    static const char *const names[] = {"llama-tied", "llama-bias-sharded"};
    static const double shares[] = {0.85, 0.95};
    open_named(names[_i % 2]);
    for (int s = 0; s < 2; s++)
        for (int k = 0; k < 2; k++) {
            lr_plan_opts opts = options(0, s ? "energy-normalised" : "uniform", storages[s]);
            int32_t dtype = dtypes[_i / 2];
            int64_t whole = written_bytes(NULL, dtype), slack = 4 * 200 + 14 * 4 * 24 + 1000;
            opts.dtype = dtype;
            opts.keep_bytes = (int64_t)(shares[k] * (double)whole);
            lr_plan *plan;
            lr_status status = lr_plan_new(&plan, model, &opts);
            if (status == LR_E_INVALID && strstr(lr_last_error(), "alone takes")) continue;
            CHECK_OK(status);
            int64_t bytes = written_bytes(plan, dtype);
            ck_assert_int_le(bytes, opts.keep_bytes);
            ck_assert_int_ge(bytes, opts.keep_bytes - slack);
            lr_plan_free(plan);
        }
}
END_TEST

START_TEST(plans_say_how_they_came_about) {
    lr_plan_opts opts = options(0.5, "energy-normalised", "pivot");
    opts.floor = -1; /* the usual one */
    lr_plan *plan = plan_of(opts), *opened;
    ck_assert_str_eq(lr_plan_about(plan),
                     "{\"keep\":0.5,\"allocation\":\"energy-normalised\",\"floor\":0.95}");
    lr_plan_free(plan);
    opts.floor = 0.25;
    plan = plan_of(opts);
    ck_assert_str_eq(lr_plan_about(plan),
                     "{\"keep\":0.5,\"allocation\":\"energy-normalised\",\"floor\":0.25}");
    CHECK_OK(lr_plan_add_about(plan, "{\"held_out\": {\"kl\": 0.25}, \"floor\": 0.125}"));
    CHECK_OK(lr_plan_save(plan, scratch_path("plan"), 0));
    CHECK_OK(lr_plan_open(&opened, model, scratch_path("plan")));
    ck_assert_str_eq(lr_plan_about(opened),
                     "{\"keep\":0.5,\"allocation\":\"energy-normalised\",\"floor\":0.125,"
                     "\"held_out\":{\"kl\":0.25}}");
    CHECK_FAILS(lr_plan_add_about(plan, "[]"), LR_E_INVALID, "expected an object");
    CHECK_FAILS(lr_plan_add_about(plan, "{"), LR_E_FORMAT, "about");
    CHECK_FAILS(lr_plan_add_about(NULL, "{}"), LR_E_INVALID, "lr_plan_add_about");
    lr_plan_free(opened);
    lr_plan_free(plan);
    /* One of before, and one that lies. */
    static const char before[] = "{\"format\":\"lowrank-plan\",\"version\":1,\"ranks\":"
                                 "{\"model.layers.0.mlp.up_proj\":3}}";
    CHECK_OK(lr_plan_open(&opened, model, scratch_write("plan", before, strlen(before))));
    ck_assert_str_eq(lr_plan_about(opened), "{}");
    lr_plan_free(opened);
    static const char wrong[] = "{\"format\":\"lowrank-plan\",\"version\":1,\"about\":3,\"ranks\":"
                                "{\"model.layers.0.mlp.up_proj\":3}}";
    CHECK_FAILS(lr_plan_open(&opened, model, scratch_write("plan", wrong, strlen(wrong))),
                LR_E_FORMAT, "about");
}
END_TEST

START_TEST(wrong_options) {
    lr_plan *plan;
    lr_plan_opts opts = options(0.5, "entropy", "pivot");
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "allocation \"entropy\"");
    opts.allocation = "sensitivity";
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "needs weights");
    opts.weights = "{\"q_proj\": -1}";
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "0 or more");
    opts.weights = "{\"r_proj\": 1}";
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_NOTFOUND, "r_proj");
    opts.weights = "{\"q_proj\": 1}";
    opts.allocation = "uniform";
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "uniform takes none");
    opts.weights = NULL;
    opts.floor = 1.5;
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "floor 1.5");
    opts.floor = NAN;
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "floor");
    opts = options(0.5, "uniform", "pivot");
    opts.keep_bytes = 1000;
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "exactly one of");
    opts.keep = 0;
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "alone takes");
    opts.keep_bytes = -5;
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "keep -5");
    opts.keep_bytes = 1000;
    opts.dtype = LR_I64;
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "no models are written");
    opts.dtype = LR_BF16;
    opts.keep_bytes = INT64_MAX; /* everything dense */
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    for (int32_t i = 0; i < lr_plan_count(plan); i++) ck_assert_int_eq(lr_plan_rank(plan, i), 0);
    lr_plan_free(plan);
}
END_TEST

Suite *allocation_suite(void) {
    Suite *suite = suite_create("allocation");
    TCase *tests = tcase_create("allocation");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, energies_have_the_least_loss, 0, 2);
    tcase_add_test(tests, weights_pull_ranks);
    tcase_add_test(tests, effective_ranks_are_exp_of_entropy);
    tcase_add_test(tests, patterns_overrule_a_budget);
    tcase_add_loop_test(tests, bytes_are_those_of_the_file, 0, 8);
    tcase_add_test(tests, plans_say_how_they_came_about);
    tcase_add_test(tests, wrong_options);
    suite_add_tcase(suite, tests);
    return suite;
}
