/* Memory that runs out at any request, the library's or Jansson's: every call then fails with
 * LR_E_NOMEM or goes on, can be made again on the same objects, and leaves neither memory nor half
 * an output behind. Jansson's parser has its memory always: up to 2.14 it loses characters when
 * its buffer cannot grow, and then reads beyond it. */
#include "faults.h"
#include "run_fixture.h"

#include <dirent.h>
#include <dlfcn.h>
#include <jansson.h>
#include <lowrank/refine.h>
#include <lowrank/train.h>

enum { WINDOW = 6, TEXT = 20 };

static lr_ctx *ctx;
static lr_model *model; /* made before memory gets short */
static int32_t ids[TEXT], vocabulary;
static int is_refused;

static int is_json; /* Jansson's requests are refused, not the library's */
static int is_parsing;

/* Stand before Jansson's own for the objects linked into the test. */
json_t *json_loadb(const char *text, size_t size, size_t flags, json_error_t *error) {
    json_t *(*real)(const char *, size_t, size_t, json_error_t *);
    *(void **)&real = dlsym(RTLD_NEXT, "json_loadb");
    is_parsing++;
    json_t *json = real(text, size, flags, error);
    is_parsing--;
    return json;
}

json_t *json_loads(const char *text, size_t flags, json_error_t *error) {
    return json_loadb(text, strlen(text), flags, error);
}

static void *json_alloc(size_t bytes) {
    if (is_json && !is_parsing) return faults_alloc(bytes, NULL);
    void *block = malloc(bytes);
    if (block) faults_alive++;
    return block;
}

static void json_free(void *block) { faults_free(block, NULL); }

static void *library_alloc(size_t bytes, void *user) {
    if (!is_json) return faults_alloc(bytes, user);
    void *block = malloc(bytes);
    if (block) faults_alive++;
    return block;
}

static void *library_realloc(void *block, size_t bytes, void *user) {
    if (!is_json) return faults_realloc(block, bytes, user);
    void *moved = realloc(block, bytes);
    if (moved && !block) faults_alive++;
    return moved;
}

/* What must be said of a first failure; from here on there is memory. */
static void check_refusal(lr_status status, const char *call) {
    ck_assert_msg(!is_refused && status == LR_E_NOMEM, "%s gave %s: %s", call,
                  lr_status_name(status), lr_last_error());
    is_refused = 1;
    faults_refuse_at = -1;
}

#define ATTEMPT(call)                 \
    do {                              \
        lr_status given_ = (call);    \
        if (given_ >= 0) break;       \
        check_refusal(given_, #call); \
        CHECK_OK(call);               \
    } while (0)

static int entries(void) {
    int count = 0;
    DIR *dir = opendir(scratch);
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

/* The same for a call that makes scratch/name, which is there afterwards or not at all. */
#define ATTEMPT_OUTPUT(call, name)                             \
    do {                                                       \
        int before_ = entries();                               \
        lr_status given_ = (call);                             \
        if (given_ >= 0) break;                                \
        check_refusal(given_, #call);                          \
        ck_assert_int_eq(entries(), before_);                  \
        ck_assert_int_ne(access(scratch_path(name), F_OK), 0); \
        CHECK_OK(call);                                        \
    } while (0)

static int drop_file(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)info;
    (void)kind;
    if (where->level) remove(path);
    return 0;
}

/* Runs a scenario with every request refused in turn, until there are no more requests. */
static void refuse_each(void (*scenario)(void)) {
    const lr_alloc_ops ops = {sizeof ops, library_alloc, library_realloc, faults_free, NULL};
    long n = 0, asked;
    do {
        is_refused = 0;
        nftw(scratch, drop_file, 16, FTW_PHYS | FTW_DEPTH);
        json_set_alloc_funcs(json_alloc, json_free);
        faults_begin(n);
        lr_set_alloc(&ops);
        scenario();
        asked = faults_asked;
        long alive = faults_end();
        json_set_alloc_funcs(malloc, free);
        ck_assert_msg(alive == 0, "request %ld refused: %ld blocks left", n, alive);
    } while (n++ < asked);
    ck_assert(!is_refused);
}

static void run_with_faults(void (*scenario)(void)) {
    for (is_json = 0; is_json < 2; is_json++) refuse_each(scenario);
}

static lr_ctx *ctx_alone(void) {
    lr_ctx *out;
    lr_ctx_opts opts;
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.threads = 1;
    ATTEMPT(lr_ctx_new(&out, &opts));
    return out;
}

static void open_named(const char *name) {
    const lr_tokenizer *tokenizer;
    CHECK_OK(lr_model_open(&model, ctx, golden_model(name), NULL));
    vocabulary = tiny_vocabulary(model);
    tiny_text(1, TEXT, vocabulary, ids);
    if (strstr(name, "gguf")) CHECK_OK(lr_model_tokenizer(model, &tokenizer));
}

static void setup(void) {
    if (!access("/dev/shm", W_OK)) setenv("TMPDIR", "/dev/shm", 1); /* thousands of synced files */
    scratch_make();
    ctx = tiny_ctx(1);
    model = NULL;
}

static void teardown(void) {
    lr_model_free(model);
    lr_ctx_free(ctx);
    scratch_remove();
}

/* --- opening --- */

static const char *opened_name;

static void open_model(void) {
    static const char name[] = "model.layers.0.mlp.up_proj";
    lr_ctx *own = ctx_alone();
    lr_model *opened, *clone;
    lr_model_info info = {.size = sizeof info};
    lr_linear *linear;
    ATTEMPT(lr_model_open(&opened, own, golden_model(opened_name), NULL));
    ATTEMPT(lr_model_clone(&clone, opened));
    ATTEMPT(lr_model_find_linear(opened, name, &linear));
    ATTEMPT(lr_model_set_linear(clone, name, linear));
    ATTEMPT(lr_model_get_info(clone, &info));
    lr_linear_free(linear);
    lr_model_free(clone);
    lr_model_free(opened);
    lr_ctx_free(own);
}

START_TEST(test_open) {
    static const char *const names[] = {"llama-bias-sharded", "llama-f32", "rope-yarn",
                                        "gguf-mixed/model.gguf"};
    opened_name = names[_i];
    run_with_faults(open_model);
}
END_TEST

static void tokenize(void) {
    static const char text[] = "<|im_start|>user\nth\xc3\xa9 12\t3.<|im_end|> and\xff";
    lr_tokenizer *tokenizer;
    int32_t tokens[64];
    char back[200];
    size_t count, bytes;
    ATTEMPT(lr_tokenizer_open(&tokenizer, golden_model("gguf-mixed/model.gguf")));
    ATTEMPT(lr_tokenizer_encode(tokenizer, text, sizeof text - 1, tokens, 64, &count));
    ck_assert_uint_le(count, 64);
    ATTEMPT(lr_tokenizer_decode(tokenizer, tokens, count, 0, back, sizeof back, &bytes));
    ck_assert_int_eq(strncmp(back, text, sizeof text - 2), 0);
    lr_tokenizer_free(tokenizer);
}

START_TEST(test_tokenizer) { run_with_faults(tokenize); }
END_TEST

/* --- sessions --- */

static lr_status no_change(const lr_hook_event *event, void *user) {
    (void)event;
    ++*(int *)user;
    return LR_OK;
}

static void forward(void) {
    static float logits[TEXT * 300];
    double nll[TEXT];
    int calls = 0;
    lr_hooks *hooks;
    lr_session *session;
    lr_session_opts opts;
    lr_segment segments[2] = {{0, 5, ids}, {1, 2, ids + 5}};
    ATTEMPT(lr_hooks_new(&hooks));
    ATTEMPT(lr_hook_add(hooks, "*", LR_BEFORE_FORWARD | LR_AFTER_FORWARD, no_change, &calls, NULL));
    lr_session_opts_init(&opts, sizeof opts);
    opts.rows = 2;
    opts.hooks = hooks;
    ATTEMPT(lr_session_new(&session, model, &opts));
    ATTEMPT(lr_session_set_extent(session, "model.layers.0.intermediate", 7));
    ATTEMPT(lr_session_forward(session, segments, 2, logits));
    ck_assert_int_eq(lr_session_length(session, 0), 5);
    ATTEMPT(lr_session_forward_all(session, segments, 2, logits));
    ATTEMPT(lr_session_loss(session, segments, 2, nll));
    ck_assert_int_eq(lr_session_length(session, 0), 15);
    ck_assert_int_eq(lr_session_length(session, 1), 6);
    ck_assert(isfinite(nll[0]) && calls > 0);
    lr_session_free(session);
    lr_hooks_free(hooks);
}

START_TEST(test_session) {
    open_named(_i ? "gguf-mixed/model.gguf" : "llama-f32");
    run_with_faults(forward);
}
END_TEST

/* --- statistics, plans, compression --- */

static int32_t with_gradients;

static lr_stats_opts stats_options(void) {
    lr_stats_opts opts;
    lr_stats_opts_init(&opts, sizeof opts);
    opts.gradients = with_gradients;
    return opts;
}

static void collect(void) {
    lr_stats *stats, *sum, *opened;
    lr_stats_opts opts = stats_options();
    ATTEMPT(lr_stats_new(&stats, model, &opts));
    ATTEMPT(lr_stats_collect(stats, ids, TEXT, WINDOW, 1));
    ATTEMPT(lr_stats_new(&sum, model, &opts));
    ATTEMPT(lr_stats_add(sum, stats, 2));
    ATTEMPT_OUTPUT(lr_stats_save(sum, scratch_path("stats"), 0), "stats");
    ATTEMPT(lr_stats_open(&opened, model, scratch_path("stats")));
    ck_assert_int_eq(lr_stats_tokens(opened), lr_stats_tokens(stats));
    ck_assert(is_refused || lr_stats_tokens(opened) == 18);
    lr_stats_free(opened);
    lr_stats_free(sum);
    lr_stats_free(stats);
}

START_TEST(test_stats) {
    open_named("llama-f32");
    with_gradients = _i;
    run_with_faults(collect);
}
END_TEST

static void make_plan(void) {
    lr_plan *plan, *ranks, *opened;
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.keep_model = 0.7;
    ATTEMPT(lr_plan_new(&plan, model, &opts));
    opts.keep_model = 0;
    opts.ranks = "{\"*\": 3, \"q_proj\": 5}";
    ATTEMPT(lr_plan_new(&ranks, model, &opts));
    ATTEMPT_OUTPUT(lr_plan_save(ranks, scratch_path("plan"), 0), "plan");
    ATTEMPT(lr_plan_open(&opened, model, scratch_path("plan")));
    ck_assert_int_eq(lr_plan_count(opened), 7);
    for (int32_t i = 0; i < 7; i++) ck_assert_int_eq(lr_plan_rank(opened, i), i ? 3 : 5);
    lr_plan_free(opened);
    lr_plan_free(ranks);
    lr_plan_free(plan);
}

START_TEST(test_plan) {
    open_named("llama-f32");
    run_with_faults(make_plan);
}
END_TEST

static lr_plan *given_plan;
static lr_model *given_student;
static lr_stats *given_stats;
static const char *given_method;

static int32_t dense_linears(const lr_model *of) {
    int32_t dense = 0;
    lr__graph *graph = lr__model_graph(of);
    for (int32_t i = 0; i < lr__graph_linear_count(graph); i++)
        dense += lr_linear_kind(*lr__graph_linear(graph, i)) == LR_LINEAR_DENSE;
    lr__graph_drop(graph);
    return dense;
}

static void compress(void) {
    lr_model *copy;
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = given_method;
    opts.dtype = with_gradients ? LR_BF16 : LR_F32;
    ATTEMPT(lr_model_clone(&copy, model));
    lr_status status = lr_compress(copy, given_plan, given_stats, &opts, NULL, NULL);
    if (status < 0) {
        check_refusal(status, "lr_compress");
        ck_assert_int_eq(dense_linears(copy), 8);
        CHECK_OK(lr_compress(copy, given_plan, given_stats, &opts, NULL, NULL));
    }
    ck_assert_int_eq(dense_linears(copy), 6);
    lr_model_free(copy);
}

START_TEST(test_compress) {
    static const char *const methods[] = {"svd", "whiten", "whiten-eig", "pca",
                                          "afm", "fwsvd",  "iwsvd",      "kfac"};
    lr_plan_opts opts;
    open_named("llama-f32");
    given_method = methods[_i];
    with_gradients = _i > 4;
    lr_stats_opts stats_opts = stats_options();
    CHECK_OK(lr_stats_new(&given_stats, model, &stats_opts));
    CHECK_OK(lr_stats_collect(given_stats, ids, TEXT, WINDOW, 1));
    lr_plan_opts_init(&opts, sizeof opts);
    opts.ranks = "{\"v_proj\": 3, \"down_proj\": 5}";
    CHECK_OK(lr_plan_new(&given_plan, model, &opts));
    run_with_faults(compress);
    lr_plan_free(given_plan);
    lr_stats_free(given_stats);
}
END_TEST

/* --- modules and files --- */

static void linears(void) {
    float weight[12 * 8], bias[12] = {0}, x[2 * 8] = {1, 2}, y[2 * 12];
    lr_tensor w, in, out;
    lr_linear *linear, *opened, *made;
    lr_linear_opts opts;
    for (int i = 0; i < 12 * 8; i++) weight[i] = (float)tiny_uniform((uint64_t)i);
    lr_tensor_view(&w, weight, LR_F32, 2, (int64_t[]){12, 8});
    lr_tensor_view(&in, x, LR_F32, 2, (int64_t[]){2, 8});
    lr_tensor_view(&out, y, LR_F32, 2, (int64_t[]){2, 12});
    lr_linear_opts_init(&opts, sizeof opts);
    opts.rank = 4;
    opts.bias = bias;
    ATTEMPT(lr_linear_from_weight(&linear, ctx, &w, &opts));
    ATTEMPT(lr_linear_apply(linear, &in, &out));
    ATTEMPT(lr_linear_densify(linear, weight));
    ATTEMPT_OUTPUT(lr_linear_save(linear, scratch_path("linear"), LR_F32, 0), "linear");
    ATTEMPT(lr_linear_open(&opened, ctx, scratch_path("linear")));
    lr_tensor left, right;
    float factors[2][12 * 4];
    CHECK_OK(lr_linear_factors(opened, factors[0], factors[1]));
    lr_tensor_view(&left, factors[0], LR_F32, 2, (int64_t[]){12, 4});
    lr_tensor_view(&right, factors[1], LR_F32, 2, (int64_t[]){4, 8});
    ATTEMPT(lr_linear_from_factors(&made, ctx, &left, &right, NULL, "made"));
    ck_assert_int_eq(lr_linear_rank(made), 4);
    lr_linear_free(made);
    lr_linear_free(opened);
    lr_linear_free(linear);
}

START_TEST(test_linear) { run_with_faults(linears); }
END_TEST

static void save(void) {
    lr_save_opts opts;
    lr_model *opened;
    lr_save_opts_init(&opts, sizeof opts);
    ATTEMPT_OUTPUT(lr_model_save(model, scratch_path("saved"), &opts), "saved");
    ATTEMPT(lr_model_open(&opened, ctx, scratch_path("saved"), NULL));
    ck_assert_int_eq(dense_linears(opened), dense_linears(model));
    lr_model_free(opened);
}

START_TEST(test_save) {
    lr_compress_opts compress_opts;
    lr_plan_opts opts;
    open_named(_i ? "gguf-mixed/model.gguf" : "llama-f32");
    lr_plan_opts_init(&opts, sizeof opts);
    opts.ranks = "{\"v_proj\": 3, \"down_proj\": 5}";
    CHECK_OK(lr_plan_new(&given_plan, model, &opts));
    lr_compress_opts_init(&compress_opts, sizeof compress_opts);
    compress_opts.method = "svd";
    CHECK_OK(lr_compress(model, given_plan, NULL, &compress_opts, NULL, NULL));
    lr_plan_free(given_plan);
    run_with_faults(save);
}
END_TEST

/* --- learning --- */

static void learn(void) {
    lr_model *copy;
    lr_optimizer *optimizer;
    int64_t count;
    ATTEMPT(lr_model_clone(&copy, model));
    ATTEMPT(lr_optimizer_new(&optimizer, ctx, NULL));
    ATTEMPT(lr_optimizer_add_model(optimizer, copy, "*.{norm,v_proj}.*", NULL, &count));
    ck_assert_int_eq(count, 2);
    ATTEMPT(lr_optimizer_step(optimizer, NULL));
    ATTEMPT_OUTPUT(lr_optimizer_save(optimizer, scratch_path("state"), 0), "state");
    ATTEMPT(lr_optimizer_restore(optimizer, scratch_path("state")));
    ck_assert_int_eq(lr_optimizer_steps(optimizer), 1);
    lr_optimizer_free(optimizer);
    lr_model_free(copy);
}

START_TEST(test_optimizer) {
    open_named("llama-f32");
    run_with_faults(learn);
}
END_TEST

/* A call that fails may leave masters in the student, of the same values. */
static void distil(void) {
    lr_model *copy;
    lr_distill_opts opts;
    lr_distill_opts_init(&opts, sizeof opts);
    opts.steps = 2;
    opts.batch = 1;
    opts.window = WINDOW;
    opts.held_out = 1;
    opts.stream = given_method;
    opts.folder = scratch_path("weights");
    ATTEMPT(lr_model_clone(&copy, given_student));
    ATTEMPT(lr_distill(copy, model, NULL, ids, TEXT, &opts, NULL, NULL));
    lr_model_free(copy);
}

START_TEST(test_distill) {
    static const char *const streams[] = {"teacher", "shift", "anchored"};
    lr_plan_opts opts;
    lr_compress_opts compress_opts;
    open_named("llama-f32");
    lr_plan_opts_init(&opts, sizeof opts);
    opts.ranks = "{\"v_proj\": 3, \"down_proj\": 5}";
    CHECK_OK(lr_plan_new(&given_plan, model, &opts));
    lr_compress_opts_init(&compress_opts, sizeof compress_opts);
    compress_opts.method = "svd";
    CHECK_OK(lr_model_clone(&given_student, model));
    CHECK_OK(lr_compress(given_student, given_plan, NULL, &compress_opts, NULL, NULL));
    lr_plan_free(given_plan);
    given_method = streams[_i];
    refuse_each(distil);
    lr_model_free(given_student);
}
END_TEST

/* The text is short, and so are blocks and steps. */
static void refine(void) {
    lr_model *copy;
    lr_refine_opts opts;
    lr_refine_opts_init(&opts, sizeof opts);
    opts.window = WINDOW;
    opts.epochs = 1;
    opts.held_out = 0.3;
    ATTEMPT(lr_model_clone(&copy, model));
    ATTEMPT(lr_refine(copy, model, ids, TEXT, &opts, NULL, NULL));
    lr_model_free(copy);
}

START_TEST(test_refine) {
    open_named("llama-f32");
    run_with_faults(refine);
}
END_TEST

static void train(void) {
    lr_model *copy;
    lr_optimizer *optimizer;
    lr_train_opts opts;
    lr_train_opts_init(&opts, sizeof opts);
    opts.window = WINDOW;
    opts.batch = 2;
    opts.steps = 1;
    opts.teacher = model;
    opts.hidden = 1;
    ATTEMPT(lr_model_clone(&copy, model));
    ATTEMPT(lr_optimizer_new(&optimizer, ctx, NULL));
    ATTEMPT(lr_optimizer_add_model(optimizer, copy, "*norm*", NULL, NULL));
    ATTEMPT(lr_train(copy, optimizer, ids, TEXT, &opts, NULL, NULL));
    ck_assert_int_eq(lr_optimizer_steps(optimizer), 1);
    lr_optimizer_free(optimizer);
    lr_model_free(copy);
}

START_TEST(test_train) {
    open_named("llama-f32");
    run_with_faults(train);
}
END_TEST

/* --- judging --- */

static void evaluate(void) {
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = WINDOW;
    opts.reference = model;
    ATTEMPT(lr_eval(&result, model, ids, TEXT, &opts));
    ck_assert_int_eq(result.tokens, 15);
    ck_assert(result.agreement == 1);
}

START_TEST(test_eval) {
    open_named("llama-f32");
    run_with_faults(evaluate);
}
END_TEST

static int32_t expected[2 * 8];

static void generate(void) {
    lr_generate_opts opts;
    lr_segment prompts[2] = {{0, 3, ids}, {1, 5, ids + 3}};
    int32_t out[2 * 8], counts[2];
    lr_generate_opts_init(&opts, sizeof opts);
    opts.max_tokens = 8;
    opts.temperature = 1;
    opts.top_k = 9;
    ATTEMPT(lr_generate(model, prompts, 2, &opts, out, counts, NULL, NULL));
    if (!expected[0] && !expected[1]) memcpy(expected, out, sizeof out);
    ck_assert_mem_eq(expected, out, sizeof out);
}

START_TEST(test_generate) {
    open_named("llama-f32");
    memset(expected, 0, sizeof expected);
    run_with_faults(generate);
}
END_TEST

static void self_text(void) {
    int32_t out[2 * 8];
    ATTEMPT(lr_self_text(model, 0, 2, 8, out));
    if (!expected[0] && !expected[1]) memcpy(expected, out, sizeof out);
    ck_assert_mem_eq(expected, out, sizeof out);
    ATTEMPT(lr_self_text(model, 0, 2, 8, out));
    ck_assert_mem_eq(expected, out, sizeof out);
}

START_TEST(test_self_text) {
    setenv("XDG_CACHE_HOME", scratch_path("cache"), 1);
    open_named("gguf-mixed/model.gguf");
    memset(expected, 0, sizeof expected);
    run_with_faults(self_text);
}
END_TEST

Suite *faults_suite(void) {
    Suite *suite = suite_create("faults");
    TCase *tests = tcase_create("faults");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, test_open, 0, 4);
    tcase_add_test(tests, test_tokenizer);
    tcase_add_loop_test(tests, test_session, 0, 2);
    tcase_add_loop_test(tests, test_stats, 0, 2);
    tcase_add_test(tests, test_plan);
    tcase_add_loop_test(tests, test_compress, 0, 8);
    tcase_add_test(tests, test_linear);
    tcase_add_loop_test(tests, test_save, 0, 2);
    tcase_add_test(tests, test_optimizer);
    tcase_add_loop_test(tests, test_distill, 0, 3);
    tcase_add_test(tests, test_refine);
    tcase_add_test(tests, test_train);
    tcase_add_test(tests, test_eval);
    tcase_add_test(tests, test_generate);
    tcase_add_test(tests, test_self_text);
    suite_add_tcase(suite, tests);
    return suite;
}
