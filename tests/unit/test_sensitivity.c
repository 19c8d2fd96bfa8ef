/* Sensitivities against the same cut made by hand through the public calls; files that go on. */
#include "run_fixture.h"

#include <jansson.h>

enum { WINDOW = 16, WINDOWS = 6, TEXT = WINDOW * WINDOWS, EVENTS_MOST = 32 };

static lr_model *model;
static lr_stats *stats;
static lr_plan *plan;
static int32_t ids[TEXT];

static void setup(void) {
    lr_plan_opts opts;
    scratch_make();
    model = golden_open("llama-tied");
    tiny_text(5, TEXT, tiny_vocabulary(model), ids);
    stats = stats_of(model, ids, TEXT, WINDOW);
    tiny_text(6, TEXT, tiny_vocabulary(model), ids);
    lr_plan_opts_init(&opts, sizeof opts);
    opts.keep = 0.5;
    CHECK_OK(lr_plan_new(&plan, model, &opts));
}

static void teardown(void) {
    lr_plan_free(plan);
    lr_stats_free(stats);
    lr_model_free(model);
    scratch_remove();
}

typedef struct events {
    lr_sensitivity_event items[EVENTS_MOST];
    char names[EVENTS_MOST][64];
    int count, stop_at; /* 0: never */
} events;

static int32_t record(const lr_sensitivity_event *event, void *user) {
    events *all = user;
    ck_assert_uint_eq(event->size, sizeof *event);
    snprintf(all->names[all->count], sizeof all->names[0], "%s", event->module);
    all->items[all->count] = *event;
    return ++all->count == all->stop_at;
}

static lr_status measure(const char *path, events *all) {
    lr_sensitivity_opts opts;
    lr_sensitivity_opts_init(&opts, sizeof opts);
    opts.window = WINDOW;
    opts.path = path;
    return lr_sensitivity(model, plan, stats, ids, TEXT, &opts, record, all);
}

static void evaluate(lr_eval_result *result, const lr_model *target) {
    lr_eval_opts opts;
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = WINDOW;
    opts.reference = model;
    *result = (lr_eval_result){.size = sizeof *result};
    CHECK_OK(lr_eval(result, target, ids, TEXT, &opts));
}

static int32_t keep_share(const lr_compress_event *event, void *user) {
    *(double *)user = event->measured / event->total;
    return 0;
}

START_TEST(test_by_hand) {
    static events all;
    lr_eval_result whole, cut;
    CHECK_OK(measure(NULL, &all));
    ck_assert_int_eq(all.count, 14);
    evaluate(&whole, model);
    for (int i = 0; i < all.count; i++) {
        const lr_sensitivity_event *e = &all.items[i];
        char ranks[128];
        double share = 0;
        lr_model *copy;
        lr_plan *alone;
        lr_plan_opts opts;
        lr_plan_opts_init(&opts, sizeof opts);
        snprintf(ranks, sizeof ranks, "{\"%s\": %lld}", all.names[i], (long long)e->rank);
        opts.ranks = ranks;
        CHECK_OK(lr_plan_new(&alone, model, &opts));
        CHECK_OK(lr_model_clone(&copy, model));
        CHECK_OK(lr_compress(copy, alone, stats, NULL, keep_share, &share));
        evaluate(&cut, copy);
        ck_assert_str_eq(all.names[i], lr_plan_module(plan, i));
        ck_assert_int_eq(e->rank, lr_plan_rank(plan, i));
        CHECK_NEAR(e->kl, cut.kl, 1e-6 + 1e-4 * cut.kl);
        CHECK_NEAR(e->nll, cut.nll - whole.nll, 1e-6);
        CHECK_NEAR(e->share, share, 1e-9);
        CHECK_NEAR(e->weight, e->kl / e->share, 1e-9 * e->weight);
        lr_model_free(copy);
        lr_plan_free(alone);
    }
    evaluate(&cut, model); /* it is as it was */
    ck_assert(cut.nll == whole.nll);
}
END_TEST

/* Less memory, so that windows take many steps: the same figures. */
START_TEST(test_many_steps) {
    static events once, steps;
    CHECK_OK(measure(NULL, &once));
    lr_ctx *ctx;
    lr_ctx_opts opts;
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.threads = 2;
    opts.memory = 1;
    CHECK_OK(lr_ctx_new(&ctx, &opts));
    lr_model_free(model);
    CHECK_OK(lr_model_open(&model, ctx, golden_model("llama-tied"), NULL));
    lr_ctx_free(ctx);
    CHECK_OK(measure(NULL, &steps));
    ck_assert_int_eq(once.count, steps.count);
    for (int i = 0; i < once.count; i++) {
        CHECK_NEAR(once.items[i].kl, steps.items[i].kl, 1e-6);
        CHECK_NEAR(once.items[i].nll, steps.items[i].nll, 1e-6);
    }
}
END_TEST

START_TEST(test_goes_on) {
    static events whole, first, rest, again;
    const char *path = scratch_path("sensitivity.json");
    CHECK_OK(measure(NULL, &whole));
    first.stop_at = 5;
    CHECK_FAILS(measure(path, &first), LR_E_CANCELLED, "cancelled at");
    json_t *json = json_load_file(path, 0, NULL);
    ck_assert_uint_eq(json_object_size(json_object_get(json, "weights")), 5);
    /* A mark that a second measurement would wipe out. */
    json_t *one = json_object_get(json_object_get(json, "modules"), whole.names[2]);
    json_object_set_new(one, "kl", json_real(123));
    ck_assert_int_eq(json_dump_file(json, path, 0), 0);
    json_decref(json);
    CHECK_OK(measure(path, &rest));
    ck_assert_int_eq(rest.count, whole.count);
    for (int i = 0; i < whole.count; i++)
        CHECK_NEAR(rest.items[i].kl, i == 2 ? 123 : whole.items[i].kl, 1e-6);
    /* Another rank is measured anew; weights of the file are those of plans. */
    CHECK_OK(lr_plan_set_rank(plan, whole.names[2], whole.items[2].rank + 1));
    CHECK_OK(measure(path, &again));
    ck_assert_double_lt(again.items[2].kl, 100);
    json = json_load_file(path, 0, NULL);
    char *weights = json_dumps(json_object_get(json, "weights"), 0);
    lr_plan_opts opts;
    lr_plan *next;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.keep = 0.5;
    opts.allocation = "sensitivity";
    opts.weights = weights;
    opts.stats = stats;
    CHECK_OK(lr_plan_new(&next, model, &opts));
    lr_plan_free(next);
    free(weights);
    json_decref(json);
}
END_TEST

START_TEST(test_refused) {
    static events all;
    const char *path = scratch_path("sensitivity.json");
    CHECK_OK(measure(path, &all));
    ids[3] = (ids[3] + 1) % tiny_vocabulary(model);
    CHECK_FAILS(measure(path, &all), LR_E_INVALID, "another model, text or statistics");
    ids[3] = (ids[3] + tiny_vocabulary(model) - 1) % tiny_vocabulary(model);
    CHECK_OK(measure(path, &all));
    CHECK_OK(lr_stats_collect(stats, ids, WINDOW, WINDOW, 1));
    CHECK_FAILS(measure(path, &all), LR_E_INVALID, "another model, text or statistics");
    CHECK_FAILS(measure(scratch_write("none", "{}", 2), &all), LR_E_FORMAT, "sensitivities");
    CHECK_FAILS(measure(scratch_write("none", "[", 1), &all), LR_E_FORMAT, "line 1");
    static const char next[] = "{\"format\":\"lowrank-sensitivity\",\"version\":2,\"key\":\"\","
                               "\"modules\":{},\"weights\":{}}";
    CHECK_FAILS(measure(scratch_write("none", next, sizeof next - 1), &all), LR_E_UNSUPPORTED,
                "version");
    lr_sensitivity_opts opts;
    lr_sensitivity_opts_init(&opts, sizeof opts);
    CHECK_FAILS(lr_sensitivity(model, plan, stats, ids, TEXT, &opts, NULL, NULL), LR_E_INVALID,
                "holds no window");
    opts.window = 1;
    CHECK_FAILS(lr_sensitivity(model, plan, stats, ids, TEXT, &opts, NULL, NULL), LR_E_INVALID,
                "window 1");
    CHECK_FAILS(lr_sensitivity(NULL, plan, stats, ids, TEXT, NULL, NULL, NULL), LR_E_INVALID,
                "needed");
}
END_TEST

Suite *sensitivity_suite(void) {
    Suite *suite = suite_create("sensitivity");
    TCase *tests = tcase_create("sensitivity");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, test_by_hand);
    tcase_add_test(tests, test_many_steps);
    tcase_add_test(tests, test_goes_on);
    tcase_add_test(tests, test_refused);
    suite_add_tcase(suite, tests);
    return suite;
}
