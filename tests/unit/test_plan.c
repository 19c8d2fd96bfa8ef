/* Plans: exact budgets, patterns, files and what is refused. */
#include "compress/plan.h"
#include "compress/ranks.h"
#include "run_fixture.h"

static lr_model *model;

static void setup(void) {
    scratch_make();
    model = golden_open("llama-tied");
}

static void teardown(void) {
    lr_model_free(model);
    scratch_remove();
}

static const char *const models[] = {"llama-tied", "llama-bias-sharded", "gguf-mixed/model.gguf",
                                     "llama-f16", "qwen2"};
enum { MODELS = sizeof models / sizeof *models };

static const char *storage = "two-factor";

static lr_plan *plan_keep(double keep, double keep_model) {
    lr_plan *plan;
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.storage = storage;
    opts.keep = keep;
    opts.keep_model = keep_model;
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    return plan;
}

static lr_status plan_ranks(lr_plan **plan, const char *ranks, const char *pattern) {
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.ranks = ranks;
    if (pattern) opts.pattern = pattern;
    return lr_plan_new(plan, model, &opts);
}

static int64_t rank_of(const lr_plan *plan, const char *module) {
    for (int32_t i = 0; i < lr_plan_count(plan); i++)
        if (!strcmp(lr_plan_module(plan, i), module)) return lr_plan_rank(plan, i);
    return -1;
}

/* The form with pivots only where it saves more numbers than it needs indices. */
static int64_t cost(const lr__rank_item *item, int64_t rank) {
    int64_t sum = item->out + item->in, saved = rank * rank;
    int is_thin = (item->in - 1) * (item->in - 1) <= 4 * item->out;
    int has_pivots = item->storage == LR__STORAGE_PIVOT && (saved > item->out || is_thin);
    return rank * sum - (has_pivots ? saved : 0);
}

/* What one more rank costs, 0 for a dense matrix; the last one makes it dense. */
static int64_t next_cost(const lr__rank_item *item) {
    if (!item->rank) return 0;
    int64_t dense = item->out * item->in, next = cost(item, item->rank + 1);
    return (next < dense ? next : dense) - cost(item, item->rank);
}

/* At most `keep` of `whole`, and one more rank anywhere would exceed it. */
static void check_exact(const lr_plan *plan, double keep, int64_t rest) {
    int64_t before, after, dense = 0, factors = 0;
    lr_plan_parameters(plan, &before, &after);
    for (int32_t i = 0; i < plan->count; i++) {
        const lr__rank_item *item = &plan->items[i];
        dense += item->out * item->in;
        factors += item->rank ? cost(item, item->rank) : item->out * item->in;
        ck_assert(cost(item, item->rank) < item->out * item->in);
    }
    ck_assert_int_eq(before, dense);
    ck_assert_int_eq(after, factors);
    double whole = (double)(before + rest);
    ck_assert((double)(after + rest) / whole <= keep);
    for (int32_t i = 0; i < plan->count; i++) {
        const lr__rank_item *item = &plan->items[i];
        int64_t more = next_cost(item);
        if (more) ck_assert((double)(after + more + rest) / whole > keep);
    }
}

/* The plan's figures are those of the model it makes. */
static void check_model(const lr_plan *plan) {
    lr_model *copy;
    lr_model_info info = {.size = sizeof info};
    lr_compress_opts opts;
    int64_t before, after, whole = parameters_of(model);
    lr_plan_parameters(plan, &before, &after);
    CHECK_OK(lr_model_clone(&copy, model));
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = "svd";
    CHECK_OK(lr_compress(copy, plan, NULL, &opts, NULL, NULL));
    CHECK_OK(lr_model_get_info(copy, &info));
    ck_assert_int_eq(info.parameters, whole - before + after);
    if (!strstr(lr_plan_module(plan, 0), "head")) ck_assert_int_eq(info.linear_parameters, after);
    lr_model_free(copy);
}

static const char *const storages[] = {"two-factor", "pivot"};
enum { STORAGES = sizeof storages / sizeof *storages };

START_TEST(test_keep) {
    lr_model_free(model);
    model = golden_open(models[_i % MODELS]);
    storage = storages[_i / MODELS];
    for (int k = 14; k <= 100; k++) {
        lr_plan *plan = plan_keep(k / 100.0, 0);
        check_exact(plan, k / 100.0, 0);
        if (k % 29 == 0) check_model(plan);
        lr_plan_free(plan);
    }
}
END_TEST

START_TEST(test_keep_model) {
    lr_model_free(model);
    model = golden_open(models[_i % MODELS]);
    storage = storages[_i / MODELS];
    lr_plan *all = plan_keep(1, 0);
    int64_t before, after, whole = parameters_of(model);
    lr_plan_parameters(all, &before, &after);
    double rest = (double)(whole - before) / (double)whole;
    for (double share = 0.2; share <= 1; share += 0.04) {
        double keep = rest + (1 - rest) * share;
        lr_plan *plan = plan_keep(0, keep);
        check_exact(plan, keep, whole - before);
        lr_plan_free(plan);
    }
    lr_plan *plan = plan_keep(0, rest + (1 - rest) / 2);
    check_model(plan);
    lr_plan_free(plan);
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.keep_model = rest * 0.9;
    CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, "keep-model");
    lr_plan_free(all);
}
END_TEST

/* Any shapes: exact, and nearly the same share everywhere. */
START_TEST(test_random_shapes) {
    for (uint64_t round = 0; round < 600; round++) {
        lr__rank_item items[12];
        lr_plan plan = {.items = items, .count = 1 + (int32_t)(tiny_mix(round) % 12)};
        int64_t dense, budget;
        for (int32_t i = 0; i < plan.count; i++) {
            uint64_t bits = tiny_mix(round * 100 + (uint64_t)i);
            items[i] = (lr__rank_item){
                .out = 1 + (int64_t)(bits % 3000),
                .in = 1 + (int64_t)(bits >> 32) % 3000,
                .storage = round < 400 ? LR__STORAGE_TWO_FACTOR : LR__STORAGE_PIVOT};
        }
        double keep = 0.05 + 0.95 * fabs(tiny_uniform(round));
        CHECK_OK(lr__ranks_dense(&dense, items, plan.count));
        CHECK_OK(lr__ranks_budget(&budget, keep, dense));
        lr_status status = lr__ranks_uniform(items, plan.count, budget);
        if (status < 0) {
            ck_assert_int_eq(status, LR_E_INVALID);
            continue;
        }
        check_exact(&plan, keep, 0);
        for (int32_t i = 0; i < plan.count; i++) {
            double share =
                keep * (double)(items[i].out * items[i].in) / (double)(items[i].out + items[i].in);
            if (items[i].rank > 1 && !items[i].storage)
                ck_assert(fabs((double)items[i].rank - share) <= 13);
        }
    }
}
END_TEST

START_TEST(test_keep_refused) {
    static const struct {
        double keep, keep_model;
        const char *ranks, *text;
    } cases[] = {
        {0, 0, NULL, "exactly one of"},
        {0.5, 0.5, NULL, "exactly one of"},
        {-0.5, 0, NULL, "keep -0.5"},
        {0, -1, NULL, "keep -1"},
        {NAN, 0, NULL, "keep"},
        {1e-6, 0, NULL, "smallest possible"},
        {0, 1e-6, NULL, "keep-model 1e-06"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lr_plan *plan;
        lr_plan_opts opts;
        lr_plan_opts_init(&opts, sizeof opts);
        opts.keep = cases[i].keep;
        opts.keep_model = cases[i].keep_model;
        opts.ranks = cases[i].ranks;
        CHECK_FAILS(lr_plan_new(&plan, model, &opts), LR_E_INVALID, cases[i].text);
        ck_assert_ptr_null(plan);
    }
    lr_plan *plan;
    CHECK_FAILS(lr_plan_new(&plan, model, NULL), LR_E_INVALID, "exactly one of");
    CHECK_FAILS(lr_plan_new(NULL, model, NULL), LR_E_INVALID, "needed");
}
END_TEST

START_TEST(test_ranks) {
    lr_plan *plan;
    CHECK_OK(plan_ranks(&plan, "{\"*\": 3, \"q_proj\": 5, \"model.layers.1.*\": 7, \"o_proj\": 0}",
                        NULL));
    ck_assert_int_eq(lr_plan_count(plan), 14);
    ck_assert_int_eq(rank_of(plan, "model.layers.0.self_attn.q_proj"), 5);
    ck_assert_int_eq(rank_of(plan, "model.layers.0.mlp.up_proj"), 3);
    ck_assert_int_eq(rank_of(plan, "model.layers.1.self_attn.q_proj"), 7);
    ck_assert_int_eq(rank_of(plan, "model.layers.0.self_attn.o_proj"), 0);
    ck_assert_int_eq(rank_of(plan, "model.layers.1.self_attn.o_proj"), 0);
    lr_plan_free(plan);
    /* Last, so the earlier ones are overruled; unmatched modules stay dense. */
    CHECK_OK(plan_ranks(&plan, "{\"q_proj\": 5, \"{q,k}_proj\": 2}", NULL));
    ck_assert_int_eq(rank_of(plan, "model.layers.0.self_attn.q_proj"), 2);
    ck_assert_int_eq(rank_of(plan, "model.layers.0.self_attn.v_proj"), 0);
    lr_plan_free(plan);
    /* Full rank is the caller's to choose: here two factors are larger than the matrix. */
    CHECK_OK(plan_ranks(&plan, "{\"k_proj\": 18}", "k_proj"));
    ck_assert_int_eq(lr_plan_count(plan), 2);
    ck_assert_int_eq(rank_of(plan, "model.layers.1.self_attn.k_proj"), 18);
    lr_plan_free(plan);
}
END_TEST

START_TEST(test_ranks_refused) {
    static const struct {
        const char *ranks;
        lr_status status;
        const char *text;
    } cases[] = {
        {"", LR_E_FORMAT, "ranks"},
        {"[]", LR_E_INVALID, "expected an object"},
        {"{\"q_proj\": 3.5}", LR_E_INVALID, "whole number"},
        {"{\"q_proj\": \"3\"}", LR_E_INVALID, "whole number"},
        {"{\"q_proj\": -1}", LR_E_INVALID, "rank -1, expected 1 to 36"},
        {"{\"k_proj\": 19}", LR_E_INVALID, "k_proj: rank 19, expected 1 to 18"},
        {"{\"q_proj\": 99999999999999999999}", LR_E_FORMAT, "ranks"},
        {"{\"r_proj\": 3}", LR_E_NOTFOUND, "\"r_proj\": no linear module matches"},
        {"{\"{q\": 3}", LR_E_INVALID, "expected a pattern"},
        {"{\"q_proj\": 3, \"q_proj\": 4}", LR_E_FORMAT, "ranks"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lr_plan *plan;
        CHECK_FAILS(plan_ranks(&plan, cases[i].ranks, NULL), cases[i].status, cases[i].text);
        ck_assert_ptr_null(plan);
    }
    lr_plan *plan;
    CHECK_FAILS(plan_ranks(&plan, "{\"*\": 1}", "nobody"), LR_E_NOTFOUND, "nobody");
    CHECK_FAILS(plan_ranks(&plan, "{\"*\": 1}", "{a"), LR_E_INVALID, "not well formed");
    CHECK_FAILS(plan_ranks(&plan, "{\"*\": 1}", "*"), LR_E_UNSUPPORTED, "lm_head: shares");
}
END_TEST

START_TEST(test_set_rank) {
    lr_plan *plan = plan_keep(0.5, 0);
    const char *module = lr_plan_module(plan, 3);
    ck_assert_str_eq(module, "model.layers.0.self_attn.o_proj");
    CHECK_OK(lr_plan_set_rank(plan, module, 11));
    ck_assert_int_eq(lr_plan_rank(plan, 3), 11);
    ck_assert_str_eq(lr_plan_storage(plan), "two-factor");
    CHECK_OK(lr_plan_set_rank(plan, module, 0));
    ck_assert_int_eq(lr_plan_rank(plan, 3), 0);
    CHECK_FAILS(lr_plan_set_rank(plan, module, 37), LR_E_INVALID, "rank 37, expected 1 to 36");
    CHECK_FAILS(lr_plan_set_rank(plan, module, -1), LR_E_INVALID, "rank -1");
    CHECK_FAILS(lr_plan_set_rank(plan, "lm_head", 1), LR_E_NOTFOUND, "lm_head: not in the plan");
    CHECK_FAILS(lr_plan_set_rank(plan, NULL, 1), LR_E_INVALID, "lr_plan_set_rank");
    ck_assert_int_eq(lr_plan_rank(plan, 3), 0);
    ck_assert_int_eq(lr_plan_rank(plan, -1), -1);
    ck_assert_int_eq(lr_plan_rank(plan, 14), -1);
    ck_assert_ptr_null(lr_plan_module(plan, 14));
    ck_assert_int_eq(lr_plan_count(NULL), 0);
    lr_plan_free(plan);
    lr_plan_free(NULL);
}
END_TEST

START_TEST(test_file) {
    lr_plan *plan = plan_keep(0.4, 0), *opened;
    const char *path = scratch_path("plan.json");
    CHECK_OK(lr_plan_set_rank(plan, lr_plan_module(plan, 2), 0));
    CHECK_OK(lr_plan_save(plan, path, 0));
    CHECK_FAILS(lr_plan_save(plan, path, 0), LR_E_EXISTS, "plan.json");
    CHECK_OK(lr_plan_save(plan, path, 1));
    CHECK_OK(lr_plan_open(&opened, model, path));
    ck_assert_int_eq(lr_plan_count(opened), lr_plan_count(plan));
    for (int32_t i = 0; i < lr_plan_count(plan); i++) {
        ck_assert_str_eq(lr_plan_module(opened, i), lr_plan_module(plan, i));
        ck_assert_int_eq(lr_plan_rank(opened, i), lr_plan_rank(plan, i));
    }
    lr_plan_free(opened);
    lr_plan_free(plan);
}
END_TEST

/* Written by a person: fewer modules, another order, no counts. */
START_TEST(test_edited) {
    static const char text[] =
        "{\"ranks\": {\"model.layers.1.mlp.down_proj\": 9,\n"
        "\"model.layers.0.self_attn.q_proj\": 0},\n"
        "\"version\": 1, \"format\": \"lowrank-plan\", \"note\": \"mine\"}\n";
    lr_plan *plan;
    CHECK_OK(lr_plan_open(&plan, model, scratch_write("plan", text, strlen(text))));
    ck_assert_int_eq(lr_plan_count(plan), 2);
    ck_assert_int_eq(rank_of(plan, "model.layers.1.mlp.down_proj"), 9);
    ck_assert_int_eq(rank_of(plan, "model.layers.0.self_attn.q_proj"), 0);
    lr_plan_free(plan);
    lr_model_free(model);
    model = golden_open("llama-bias-sharded"); /* not tied: the head may be planned */
    static const char head[] =
        "{\"format\":\"lowrank-plan\",\"version\":1,\"ranks\":{\"lm_head\":4}}";
    CHECK_OK(lr_plan_open(&plan, model, scratch_write("plan", head, strlen(head))));
    ck_assert_str_eq(lr_plan_module(plan, 0), "lm_head");
    check_model(plan);
    lr_plan_free(plan);
}
END_TEST

#define PLAN(ranks) "{\"format\":\"lowrank-plan\",\"version\":1,\"ranks\":" ranks "}"
#define Q "\"model.layers.0.self_attn.q_proj\""

START_TEST(test_hostile) {
    static const struct {
        const char *text;
        lr_status status;
        const char *message;
    } cases[] = {
        {"{", LR_E_FORMAT, "line 1"},
        {"[]", LR_E_FORMAT, "not a plan"},
        {"{\"format\":\"lowrank-stats\",\"version\":1,\"ranks\":{}}", LR_E_FORMAT, "not a plan"},
        {"{\"format\":\"lowrank-plan\",\"version\":2,\"ranks\":{}}", LR_E_UNSUPPORTED, "version"},
        {PLAN("{" Q ":1},\"storage\":\"folded\""), LR_E_UNSUPPORTED, "plan: storage \"folded\""},
        {PLAN("{" Q ":1},\"storage\":7"), LR_E_UNSUPPORTED, "plan: storage"},
        {PLAN("[]"), LR_E_FORMAT, "not a plan"},
        {PLAN("{}"), LR_E_FORMAT, "without modules"},
        {PLAN("{" Q ":-1}"), LR_E_INVALID, "rank -1"},
        {PLAN("{" Q ":37}"), LR_E_INVALID, "rank 37, expected 1 to 36"},
        {PLAN("{" Q ":9223372036854775807}"), LR_E_INVALID, "rank 9223372036854775807"},
        {PLAN("{" Q ":1e3}"), LR_E_FORMAT, "not a whole number"},
        {PLAN("{" Q ":null}"), LR_E_FORMAT, "not a whole number"},
        {PLAN("{" Q ":1," Q ":2}"), LR_E_FORMAT, "duplicate"},
        {PLAN("{" Q ":1,\"model.layers.9.mlp.up_proj\":1}"), LR_E_NOTFOUND, "model.layers.9"},
        {PLAN("{\"q_proj\":1}"), LR_E_NOTFOUND, "q_proj: no such linear module"},
        {PLAN("{\"lm_head\":1}"), LR_E_NOTFOUND, "lm_head"},
        {"{\"a\":" PLAN("{}"), LR_E_FORMAT, "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lr_plan *plan;
        CHECK_FAILS(
            lr_plan_open(&plan, model, scratch_write("plan", cases[i].text, strlen(cases[i].text))),
            cases[i].status, cases[i].message);
        ck_assert_ptr_null(plan);
    }
    lr_plan *plan;
    CHECK_FAILS(lr_plan_open(&plan, model, scratch_path("none")), LR_E_NOTFOUND, "none");
    CHECK_FAILS(lr_plan_open(&plan, model, scratch), LR_E_IO, "");
}
END_TEST

START_TEST(test_already_factorised) {
    lr_plan *plan, *next;
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = "svd";
    CHECK_OK(plan_ranks(&plan, "{\"model.layers.0.mlp.up_proj\": 4}", NULL));
    CHECK_OK(lr_compress(model, plan, NULL, &opts, NULL, NULL));
    CHECK_FAILS(plan_ranks(&next, "{\"*\": 4}", NULL), LR_E_UNSUPPORTED, "already factorised");
    CHECK_OK(lr_plan_save(plan, scratch_path("plan"), 0));
    CHECK_FAILS(lr_plan_open(&next, model, scratch_path("plan")), LR_E_UNSUPPORTED,
                "up_proj: already factorised");
    CHECK_FAILS(lr_compress(model, plan, NULL, &opts, NULL, NULL), LR_E_UNSUPPORTED,
                "already factorised");
    CHECK_OK(plan_ranks(&next, "{\"*\": 4}", "down_proj")); /* the others may still be */
    lr_plan_free(next);
    lr_plan_free(plan);
}
END_TEST

Suite *plan_suite(void) {
    Suite *suite = suite_create("plan");
    TCase *tests = tcase_create("plan");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, test_keep, 0, MODELS * STORAGES);
    tcase_add_loop_test(tests, test_keep_model, 0, MODELS * STORAGES);
    tcase_add_test(tests, test_random_shapes);
    tcase_add_test(tests, test_keep_refused);
    tcase_add_test(tests, test_ranks);
    tcase_add_test(tests, test_ranks_refused);
    tcase_add_test(tests, test_set_rank);
    tcase_add_test(tests, test_file);
    tcase_add_test(tests, test_edited);
    tcase_add_test(tests, test_hostile);
    tcase_add_test(tests, test_already_factorised);
    suite_add_tcase(suite, tests);
    return suite;
}
