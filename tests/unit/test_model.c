/* Model files: what transformers computes on them, what is refused, and the handles. */
#include "faults.h"
#include "golden_model.h"

#include <pthread.h>

static const char *const golden_names[] = {"llama-tied",     "llama-bias-sharded",
                                           "llama-f16",      "llama-f32",
                                           "rope-linear",    "rope-linear-new",
                                           "rope-llama3",    "rope-llama3-new",
                                           "rope-yarn",      "rope-yarn-new",
                                           "mistral-window", "qwen2",
                                           "qwen2-window",   "qwen3",
                                           "gguf-mixed"};
enum { GOLDEN_MODELS = sizeof golden_names / sizeof *golden_names };

static void check_logits(const golden *g, const float *logits, const char *how) {
    int64_t count = (int64_t)g->rows * g->length * g->vocabulary;
    double distance = tiny_distance(logits, g->logits, count);
    ck_assert_msg(distance <= 5e-5, "%s, %s: logits are %g away", g->name, how, distance);
}

/* The rows' tokens in two steps of different sizes, the second row's cut elsewhere. */
static void run_in_pieces(const golden *g, lr_session *session, float *logits) {
    const int32_t v = g->vocabulary, n = g->length, cut[2] = {n / 3, n - 2};
    float *part = malloc((size_t)(g->rows * n * v) * sizeof *part);
    lr_segment first[2], second[2];
    ck_assert_int_eq(g->rows, 2);
    for (int32_t r = 0; r < 2; r++) {
        first[1 - r] = (lr_segment){r, cut[r], g->ids + r * n};
        second[r] = (lr_segment){r, n - cut[r], g->ids + r * n + cut[r]};
    }
    CHECK_OK(lr_session_forward_all(session, first, 2, part));
    memcpy(logits + n * v, part, (size_t)(cut[1] * v) * sizeof *part);
    memcpy(logits, part + cut[1] * v, (size_t)(cut[0] * v) * sizeof *part);
    CHECK_OK(lr_session_forward_all(session, second, 2, part));
    memcpy(logits + cut[0] * v, part, (size_t)((n - cut[0]) * v) * sizeof *part);
    memcpy(logits + (n + cut[1]) * v, part + (n - cut[0]) * v,
           (size_t)((n - cut[1]) * v) * sizeof *part);
    ck_assert_int_eq(lr_session_length(session, 0), n);
    ck_assert_int_eq(lr_session_length(session, 1), n);
    free(part);
}

static void check_loss(const golden *g, const lr_model *model, int32_t kind) {
    double nll[256];
    lr_segment segments[8];
    golden_segments(g, segments);
    lr_session *session = tiny_session(model, g->rows, kind, 1, NULL);
    CHECK_OK(lr_session_loss(session, segments, g->rows, nll));
    for (int32_t r = 0; r < g->rows; r++) {
        double sum = 0;
        for (int32_t t = 0; t + 1 < g->length; t++) sum += nll[r * (g->length - 1) + t];
        ck_assert_double_eq_tol(sum / (g->length - 1), g->nll[r], 2e-5);
    }
    lr_session_free(session);
}

static void check_golden(const char *name, int32_t copy) {
    static const int32_t kinds[2] = {LR_STEP_ROWS, LR_STEP_BATCH};
    golden g = golden_open(name);
    lr_segment segments[8];
    lr_model *model;
    lr_ctx *ctx = tiny_ctx(2);
    lr_model_opts opts;
    lr_model_opts_init(&opts, sizeof opts);
    opts.copy = copy;
    CHECK_OK(lr_model_open(&model, ctx, golden_model_path(name), &opts));
    lr_ctx_free(ctx);
    float *logits = malloc((size_t)(g.rows * g.length * g.vocabulary) * sizeof *logits);
    golden_segments(&g, segments);
    for (int k = 0; k < 2; k++) {
        for (int32_t no_cache = 0; no_cache < 2; no_cache++) {
            lr_session *session = tiny_session(model, g.rows, kinds[k], no_cache, NULL);
            CHECK_OK(lr_session_forward_all(session, segments, g.rows, logits));
            check_logits(&g, logits, no_cache ? "no cache" : "cache");
            ck_assert_int_eq(lr_session_length(session, 0), no_cache ? 0 : g.length);
            lr_session_free(session);
        }
        lr_session *session = tiny_session(model, g.rows, kinds[k], 0, NULL);
        run_in_pieces(&g, session, logits);
        check_logits(&g, logits, "in pieces");
        lr_session_free(session);
        check_loss(&g, model, kinds[k]);
    }
    free(logits);
    lr_model_free(model);
    golden_close(&g);
}

START_TEST(golden_logits) { check_golden(golden_names[_i], _i & 1); }
END_TEST

START_TEST(dynamic_rope_is_refused) {
    lr_ctx *ctx = tiny_ctx(1);
    lr_model *model = (lr_model *)&ctx;
    CHECK_FAILS(lr_model_open(&model, ctx, golden_model_path("rope-dynamic"), NULL),
                LR_E_UNSUPPORTED, "\"dynamic\"");
    ck_assert_ptr_null(model);
    lr_ctx_free(ctx);
}
END_TEST

/* ---- what transformers captured inside ---- */

typedef struct captures {
    golden g;
    int32_t compared;
} captures;

static void compare(captures *c, const char *name, const lr_tensor *found, int64_t width) {
    ck_assert_int_eq(found->ndim, 2);
    ck_assert_int_eq(found->dtype, LR_F32);
    ck_assert_int_eq(found->shape[0], c->g.rows * c->g.length);
    ck_assert_int_eq(found->shape[1], width);
    ck_assert(lr_tensor_is_contiguous(found));
    int64_t count = lr_tensor_count(found);
    const float *expected = golden_data(&c->g, name, (size_t)count * sizeof(float));
    double distance = tiny_distance(found->data, expected, count);
    ck_assert_msg(distance <= 2e-5, "%s is %g away", name, distance);
    c->compared++;
}

static lr_status on_block(const lr_hook_event *e, void *user) {
    char name[32];
    ck_assert_ptr_null(e->linear);
    if (e->event == LR_BEFORE_FORWARD) ck_assert_ptr_null(e->output.data);
    snprintf(name, sizeof name, "hidden.%d", e->layer);
    compare(user, name, &e->input, 36);
    if (e->event == LR_BEFORE_FORWARD) return LR_OK;
    snprintf(name, sizeof name, "hidden.%d", e->layer + 1);
    compare(user, name, &e->output, 36);
    return LR_OK;
}

static lr_status on_linear(const lr_hook_event *e, void *user) {
    char name[100];
    ck_assert_str_eq(lr_linear_name(e->linear), e->module);
    snprintf(name, sizeof name, "%s.input", e->module + strlen("model."));
    compare(user, name, &e->input, lr_linear_in(e->linear));
    if (e->event == LR_BEFORE_FORWARD) {
        ck_assert_ptr_null(e->output.data);
        ck_assert_int_eq(e->output.shape[1], lr_linear_out(e->linear));
        return LR_OK;
    }
    snprintf(name, sizeof name, "%s.output", e->module + strlen("model."));
    compare(user, name, &e->output, lr_linear_out(e->linear));
    return LR_OK;
}

static lr_status on_head(const lr_hook_event *e, void *user) {
    ck_assert_int_eq(e->layer, -1);
    compare(user, "norm.output", &e->input, 36);
    if (e->event == LR_AFTER_FORWARD) compare(user, "logits", &e->output, 131);
    return LR_OK;
}

START_TEST(golden_captures) {
    captures c = {.g = golden_open("llama-tied")};
    lr_model *model = tiny_open_path(golden_model_path("llama-tied"), 2);
    lr_segment segments[8];
    lr_hooks *hooks;
    const int32_t both = LR_BEFORE_FORWARD | LR_AFTER_FORWARD;
    float *logits = malloc((size_t)(c.g.rows * c.g.length * c.g.vocabulary) * sizeof *logits);
    golden_segments(&c.g, segments);
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_hook_add(hooks, "model.layers.?", both, on_block, &c, NULL));
    CHECK_OK(lr_hook_add(hooks, "model.layers.0.*", both, on_linear, &c, NULL));
    CHECK_OK(lr_hook_add(hooks, "lm_head", both, on_head, &c, NULL));
    for (int32_t kind = LR_STEP_ROWS; kind <= LR_STEP_BATCH; kind++) {
        lr_session *session = tiny_session(model, c.g.rows, kind, 0, hooks);
        c.compared = 0;
        CHECK_OK(lr_session_forward_all(session, segments, c.g.rows, logits));
        ck_assert_int_eq(c.compared, 2 * 3 + 7 * 3 + 3);
        lr_session_free(session);
    }
    lr_hooks_free(hooks);
    free(logits);
    lr_model_free(model);
    golden_close(&c.g);
}
END_TEST

/* ---- refused files ---- */

static const char *const tensor_names[] = {"model.embed_tokens.weight",
                                           "model.layers.1.self_attn.q_proj.weight",
                                           "model.layers.1.self_attn.k_proj.weight",
                                           "model.layers.1.self_attn.v_proj.weight",
                                           "model.layers.1.self_attn.o_proj.weight",
                                           "model.layers.1.mlp.gate_proj.weight",
                                           "model.layers.1.mlp.up_proj.weight",
                                           "model.layers.1.mlp.down_proj.weight",
                                           "model.layers.1.input_layernorm.weight",
                                           "model.layers.1.post_attention_layernorm.weight",
                                           "model.norm.weight",
                                           "lm_head.weight"};
enum { TENSOR_NAMES = sizeof tensor_names / sizeof *tensor_names };

static void check_open_fails(const tiny *t, lr_status expected, const char *text) {
    lr_ctx *ctx = tiny_ctx(1);
    lr_model *model = NULL;
    CHECK_FAILS(lr_model_open(&model, ctx, tiny_write(t, "model"), NULL), expected, text);
    ck_assert_ptr_null(model);
    lr_ctx_free(ctx);
}

START_TEST(missing_and_misshapen_tensors) {
    const char *name = tensor_names[_i];
    char text[200];
    tiny missing = tiny_model, shorter = tiny_model, odd = tiny_model, unknown = tiny_model;
    scratch_make();
    missing.omitted = shorter.shortened = odd.retyped = unknown.retyped = name;
    check_open_fails(&missing, LR_E_NOTFOUND, name);
    snprintf(text, sizeof text, "%s: shape [", name);
    check_open_fails(&shorter, LR_E_SHAPE, text);
    odd.type = "I64";
    odd.type_bytes = 8;
    check_open_fails(&odd, LR_E_UNSUPPORTED, name);
    unknown.type = "F8_E4M3";
    unknown.type_bytes = 1;
    check_open_fails(&unknown, LR_E_UNSUPPORTED, name);
    scratch_remove();
}
END_TEST

START_TEST(other_refusals) {
    tiny t = tiny_model;
    lr_ctx *ctx = tiny_ctx(1);
    lr_model *model = NULL;
    lr_model_opts opts = {0};
    scratch_make();
    t.config = ",\"attention_bias\":true";
    check_open_fails(&t, LR_E_NOTFOUND, "model.layers.0.self_attn.q_proj.bias");
    t.config = ",\"quantization_config\":{\"bits\":4}";
    check_open_fails(&t, LR_E_UNSUPPORTED, "quantization_config");
    t.config = ",\"lowrank\":{\"version\":2,\"modules\":{}}";
    check_open_fails(&t, LR_E_UNSUPPORTED, "version 2");
    t.config = ",\"lowrank\":{\"version\":1}";
    check_open_fails(&t, LR_E_UNSUPPORTED, "lowrank");
    CHECK_FAILS(lr_model_open(&model, ctx, scratch_path("nowhere"), NULL), LR_E_NOTFOUND,
                "nowhere");
    CHECK_FAILS(lr_model_open(&model, ctx, NULL, NULL), LR_E_INVALID, "path");
    CHECK_FAILS(lr_model_open(NULL, ctx, "x", NULL), LR_E_INVALID, "out");
    CHECK_FAILS(lr_model_open(&model, NULL, "x", NULL), LR_E_INVALID, "ctx");
    CHECK_FAILS(lr_model_open(&model, ctx, scratch, &opts), LR_E_INVALID, "lr_model_opts");
    CHECK_FAILS(lr_model_open(&model, ctx, scratch, NULL), LR_E_NOTFOUND, "config.json");
    lr_ctx_free(ctx);
    scratch_remove();
}
END_TEST

/* A "lowrank" section over the tensors the model has anyway. */
static void check_structure_fails(const char *module, const char *json, lr_status expected,
                                  const char *text) {
    char config[1000];
    tiny t = tiny_model;
    t.extra = "places";
    t.retyped = "places";
    t.type = "I32"; /* four zeros */
    t.type_bytes = 4;
    snprintf(config, sizeof config, ",\"lowrank\":{\"version\":1,\"modules\":{\"%s\":%s}}", module,
             json);
    t.config = config;
    check_open_fails(&t, expected, text);
}

START_TEST(structures_that_lie) {
    static const char q[] = "model.layers.0.self_attn.q_proj";
    scratch_make();
    check_structure_fails(q, "{\"terms\":[]}", LR_E_FORMAT, q);
    check_structure_fails(q, "[]", LR_E_FORMAT, "terms");
    check_structure_fails(q, "{\"terms\":[{\"ops\":[]}]}", LR_E_FORMAT, q);
    check_structure_fails(q, "{\"terms\":[{\"ops\":[{}]}]}", LR_E_FORMAT, q);
    check_structure_fails(q, "{\"terms\":[{\"ops\":[{\"matrix\":\"gone\"}]}]}", LR_E_NOTFOUND,
                          "gone");
    check_structure_fails(q, "{\"terms\":[{\"ops\":[{\"matrix\":\"model.norm.weight\"}]}]}",
                          LR_E_SHAPE, q);
    check_structure_fails(q,
                          "{\"terms\":[{\"scale\":1e300,\"ops\":[{\"matrix\":"
                          "\"model.layers.0.self_attn.q_proj.weight\"}]}]}",
                          LR_E_FORMAT, "scale");
    check_structure_fails(q,
                          "{\"terms\":[{\"ops\":[{\"scatter\":\"places\",\"size\":48},"
                          "{\"gather\":\"places\"}]}]}",
                          LR_E_FORMAT, "twice");
    check_structure_fails(q,
                          "{\"terms\":[{\"ops\":[{\"scatter\":\"places\",\"size\":0},"
                          "{\"gather\":\"places\"}]}]}",
                          LR_E_FORMAT, "size");
    check_structure_fails(q,
                          "{\"terms\":[{\"ops\":[{\"gather\":\"places\"},{\"scatter\":\"places\","
                          "\"size\":2147483647},{\"gather\":\"places\"}]}]}",
                          LR_E_FORMAT, "scatter of size 2147483647, expected 1 to 48");
    check_structure_fails(q,
                          "{\"bias\":\"model.norm.weight\",\"terms\":[{\"ops\":[{\"matrix\":"
                          "\"model.layers.0.self_attn.q_proj.weight\"}]}]}",
                          LR_E_SHAPE, "model.norm.weight");
    check_structure_fails("model.embed_tokens",
                          "{\"terms\":[{\"ops\":[{\"matrix\":\"lm_head.weight\"},{\"diagonal\":"
                          "\"model.norm.weight\"}]}]}",
                          LR_E_UNSUPPORTED, "model.embed_tokens");
    scratch_remove();
}
END_TEST

/* The golden GGUF with a few bytes after one of its names (or the name itself) overwritten. */
static void check_patched_gguf(const char *name, size_t skip, const void *bytes, size_t count,
                               lr_status expected, const char *text) {
    static char file[1 << 18];
    lr_model *model = NULL;
    lr_ctx *ctx = tiny_ctx(1);
    size_t size = scratch_read(golden_model_path("gguf-mixed"), file, sizeof file);
    ck_assert_uint_lt(size, sizeof file);
    char *at = memmem(file, size, name, strlen(name));
    ck_assert_ptr_nonnull(at);
    memcpy(at + skip, bytes, count);
    CHECK_FAILS(lr_model_open(&model, ctx, scratch_memory(file, size), NULL), expected, text);
    lr_ctx_free(ctx);
}

START_TEST(gguf_beyond_this_version) {
    static const char gate[] = "blk.0.ffn_gate.weight", embedding[] = "token_embd.weight";
    const uint32_t iq4_nl = 20; /* blocks of the size of Q4_0's */
    check_patched_gguf(gate, strlen(gate) + 4 + 16, &iq4_nl, 4, LR_E_UNSUPPORTED,
                       "blk.0.ffn_gate.weight: type IQ4_NL");
    check_patched_gguf(embedding, 0, "token_EMBD.weight", strlen(embedding), LR_E_NOTFOUND,
                       embedding);
    check_patched_gguf(gate, 0, "blk.0.ffn_GATE.weight", strlen(gate), LR_E_NOTFOUND, gate);
}
END_TEST

/* Every allocation refused in turn: an error, nothing left alive. */
START_TEST(out_of_memory) {
    scratch_make();
    tiny t = tiny_model;
    t.layers = 1;
    const char *path = tiny_write(&t, "model");
    lr_status status = LR_E_NOMEM;
    for (long n = 0; status < 0; n++) {
        lr_ctx *ctx = NULL;
        lr_model *model = NULL, *copy = NULL;
        lr_session *session = NULL;
        lr_linear *linear = NULL;
        const int32_t tokens[3] = {1, 2, 3};
        const lr_segment segment = {0, 3, tokens};
        double nll[2];
        faults_begin(n);
        status = lr_ctx_new(&ctx, NULL);
        if (status >= 0) status = lr_model_open(&model, ctx, path, NULL);
        if (status >= 0) status = lr_model_clone(&copy, model);
        if (status >= 0) status = lr_model_linear(copy, 0, &linear);
        if (status >= 0) status = lr_model_set_linear(model, lr_linear_name(linear), linear);
        if (status >= 0) status = lr_session_new(&session, model, NULL);
        if (status >= 0) status = lr_session_set_extent(session, "*.intermediate", 3);
        if (status >= 0) status = lr_session_loss(session, &segment, 1, nll);
        lr_linear_free(linear);
        lr_session_free(session);
        lr_model_free(copy);
        lr_model_free(model);
        lr_ctx_free(ctx);
        long alive = faults_end();
        ck_assert_msg(alive == 0, "request %ld refused: %ld blocks left", n, alive);
        ck_assert_msg(status >= 0 || status == LR_E_NOMEM, "request %ld refused: %s", n,
                      lr_last_error());
        ck_assert_int_lt(n, 5000);
    }
    scratch_remove();
}
END_TEST

/* ---- handles ---- */

START_TEST(information) {
    tiny t = tiny_model;
    t.is_tied = 1;
    t.extra = "model.layers.0.self_attn.rotary_emb.inv_freq";
    lr_model *model = tiny_open(&t, 1), *untied;
    lr_model_info info = {.size = sizeof info}, other = {.size = sizeof other};
    CHECK_OK(lr_model_get_info(model, &info));
    int64_t linears = 3 * (2 * 48 * 24 + 2 * 16 * 24 + 3 * 20 * 24);
    ck_assert_int_eq(info.linear_parameters, linears);
    ck_assert_int_eq(info.parameters, linears + 41 * 24 + 7 * 24);
    ck_assert_int_eq(info.bytes, 4 * info.parameters);
    ck_assert(info.layers == 3 && info.hidden_size == 24 && info.intermediate_size == 20);
    ck_assert(info.attention_heads == 6 && info.key_value_heads == 2 && info.head_size == 8);
    ck_assert(info.vocabulary_size == 41 && info.context_length == 48);
    untied = tiny_open(&tiny_model, 1);
    CHECK_OK(lr_model_get_info(untied, &other));
    ck_assert_int_eq(other.parameters, info.parameters + 41 * 24);
    ck_assert_int_eq(other.linear_parameters, info.linear_parameters);
    lr_model_info small;
    memset(&small, 0x55, sizeof small);
    small.size = offsetof(lr_model_info, bytes);
    CHECK_OK(lr_model_get_info(model, &small));
    ck_assert_int_eq(small.linear_parameters, linears);
    ck_assert_int_eq(small.bytes, 0x5555555555555555);
    small.size = 0;
    CHECK_FAILS(lr_model_get_info(model, &small), LR_E_INVALID, "size");
    lr_model_free(untied);
    lr_model_free(model);
}
END_TEST

START_TEST(getters) {
    const char *path = golden_model_path("gguf-mixed");
    lr_model *model = tiny_open_path(path, 1);
    const lr_tokenizer *one, *two;
    ck_assert_str_eq(lr_model_path(model), path);
    ck_assert(strstr(lr_model_config(model), "\"hidden_size\":96"));
    ck_assert(strstr(lr_model_config(model), "\"model_type\":\"llama\""));
    CHECK_OK(lr_model_tokenizer(model, &one));
    CHECK_OK(lr_model_tokenizer(model, &two));
    ck_assert_ptr_eq(one, two);
    lr_model_free(model);
    model = tiny_open(&tiny_model, 1);
    ck_assert(lr_model_tokenizer(model, &one) < 0);
    ck_assert_ptr_null(one);
    lr_model_free(model);
}
END_TEST

START_TEST(linears_by_index_and_name) {
    lr_model *model = tiny_open(&tiny_model, 1);
    lr_linear *linear, *same;
    static const char *const order[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                        "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                        "mlp.down_proj"};
    ck_assert_int_eq(lr_model_linear_count(model), 22);
    for (int32_t i = 0; i < 22; i++) {
        char name[100];
        snprintf(name, sizeof name, "model.layers.%d.%s", i / 7, order[i % 7]);
        CHECK_OK(lr_model_linear(model, i, &linear));
        ck_assert_str_eq(lr_linear_name(linear), i == 21 ? "lm_head" : name);
        CHECK_OK(lr_model_find_linear(model, lr_linear_name(linear), &same));
        ck_assert_ptr_eq(linear, same);
        lr_linear_free(same);
        lr_linear_free(linear);
    }
    CHECK_FAILS(lr_model_linear(model, 22, &linear), LR_E_INVALID, "22");
    ck_assert_ptr_null(linear);
    CHECK_FAILS(lr_model_linear(model, -1, &linear), LR_E_INVALID, "-1");
    CHECK_FAILS(lr_model_find_linear(model, "model.layers.3.mlp.up_proj", &linear), LR_E_NOTFOUND,
                "model.layers.3.mlp.up_proj");
    ck_assert_ptr_null(linear);
    lr_model_free(model);
}
END_TEST

/* left of ones and right of a step, so that the product is known. */
static lr_linear *rank_one(lr_ctx *ctx, int64_t outs, int64_t ins, float value) {
    lr_linear *linear;
    lr_tensor left, right;
    float *numbers = malloc((size_t)(outs + ins) * sizeof *numbers);
    for (int64_t i = 0; i < outs; i++) numbers[i] = 1;
    for (int64_t i = 0; i < ins; i++) numbers[outs + i] = value;
    const int64_t l[2] = {outs, 1}, r[2] = {1, ins};
    CHECK_OK(lr_tensor_view(&left, numbers, LR_F32, 2, l));
    CHECK_OK(lr_tensor_view(&right, numbers + outs, LR_F32, 2, r));
    CHECK_OK(lr_linear_from_factors(&linear, ctx, &left, &right, NULL, "mine"));
    free(numbers);
    return linear;
}

START_TEST(replacing_and_cloning) {
    lr_model *model = tiny_open(&tiny_model, 1), *clone;
    lr_linear *kept, *now, *narrow, *mine = rank_one(model->ctx, 20, 24, 0.01f);
    static const char name[] = "model.layers.1.mlp.up_proj";
    float *before = tiny_logits(model, LR_STEP_ROWS, 1, 5);
    CHECK_OK(lr_model_find_linear(model, name, &kept));
    CHECK_OK(lr_model_clone(&clone, model));
    CHECK_OK(lr_model_set_linear(clone, name, mine));
    float *after = tiny_logits(clone, LR_STEP_ROWS, 1, 5);
    float *original = tiny_logits(model, LR_STEP_ROWS, 1, 5);
    CHECK_SAME_BITS(original, before, 5 * 41);
    ck_assert_double_gt(tiny_distance(after, before, 5 * 41), 1e-3);
    CHECK_OK(lr_model_find_linear(clone, name, &now));
    ck_assert_str_eq(lr_linear_name(now), name);
    ck_assert_str_eq(lr_linear_name(mine), "mine");
    ck_assert_int_eq(lr_linear_rank(now), 1);
    ck_assert_int_eq(lr_linear_kind(kept), LR_LINEAR_DENSE);
    CHECK_OK(lr_model_set_linear(clone, name, kept));
    float *restored = tiny_logits(clone, LR_STEP_ROWS, 1, 5);
    CHECK_SAME_BITS(restored, before, 5 * 41);
    narrow = rank_one(model->ctx, 19, 24, 1);
    CHECK_FAILS(lr_model_set_linear(model, name, narrow), LR_E_SHAPE, name);
    CHECK_FAILS(lr_model_set_linear(model, "mlp.up_proj", mine), LR_E_NOTFOUND, "mlp.up_proj");
    CHECK_FAILS(lr_model_set_linear(model, name, NULL), LR_E_INVALID, "linear");
    lr_model_free(model);
    lr_model_free(clone);
    ck_assert_str_eq(lr_linear_name(kept), name); /* outlives both */
    lr_linear_free(narrow);
    lr_linear_free(kept);
    lr_linear_free(now);
    lr_linear_free(mine);
    free(before);
    free(after);
    free(original);
    free(restored);
}
END_TEST

/* A module keeps nothing of the axes of the place it comes from. */
START_TEST(moved_modules_lose_their_axes) {
    tiny t = tiny_model;
    t.wide = 48; /* as q_proj */
    lr_model *model = tiny_open(&t, 1);
    lr_linear *up;
    CHECK_OK(lr_model_find_linear(model, "model.layers.0.mlp.up_proj", &up));
    CHECK_OK(lr_model_set_linear(model, "model.layers.0.self_attn.q_proj", up));
    CHECK_OK(lr_model_set_linear(model, "model.layers.2.mlp.gate_proj", up));
    lr_linear_free(up);
    for (int32_t i = 0; i < lr_model_linear_count(model); i++) {
        lr_linear *linear;
        char expected[100] = "", axis[100];
        CHECK_OK(lr_model_linear(model, i, &linear));
        const lr__op *op = linear->terms[0].ops;
        if (i < 21 && i % 7 >= 4)
            snprintf(expected, sizeof expected, "model.layers.%d.intermediate", i / 7);
        const lr__axis *named = op->out_axis ? op->out_axis : op->in_axis;
        snprintf(axis, sizeof axis, "%s", named ? named->name : "");
        ck_assert_str_eq(axis, expected);
        ck_assert(!op->out_axis || !op->in_axis);
        lr_linear_free(linear);
    }
    lr_model_free(model);
}
END_TEST

typedef struct editor {
    lr_model *model;
    const char *name;
    pthread_barrier_t *start;
    int32_t lost;
} editor;

static void *edit(void *user) {
    editor *e = user;
    lr_linear *mine[2], *now;
    for (int i = 0; i < 2; i++) mine[i] = rank_one(e->model->ctx, 20, 24, (float)i);
    pthread_barrier_wait(e->start);
    for (int i = 0; i < 4000; i++) {
        lr_model_set_linear(e->model, e->name, mine[i % 2]);
        lr_model_find_linear(e->model, e->name, &now);
        e->lost += now->terms[0].ops[1].param != mine[i % 2]->terms[0].ops[1].param;
        lr_linear_free(now);
    }
    for (int i = 0; i < 2; i++) lr_linear_free(mine[i]);
    return NULL;
}

/* Two threads that replace different modules: no replacement is lost. */
START_TEST(edits_from_two_threads) {
    lr_model *model = tiny_open(&tiny_model, 1);
    pthread_barrier_t start;
    pthread_t thread;
    editor one = {model, "model.layers.0.mlp.up_proj", &start, 0};
    editor two = {model, "model.layers.2.mlp.gate_proj", &start, 0};
    pthread_barrier_init(&start, NULL, 2);
    ck_assert_int_eq(pthread_create(&thread, NULL, edit, &one), 0);
    edit(&two);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&start);
    ck_assert_int_eq(one.lost + two.lost, 0);
    lr_model_free(model);
}
END_TEST

Suite *model_suite(void) {
    Suite *suite = suite_create("model");
    TCase *files = tcase_create("files"), *refused = tcase_create("refused");
    TCase *handles = tcase_create("handles");
    tcase_set_timeout(refused, 60);
    tcase_add_loop_test(files, golden_logits, 0, GOLDEN_MODELS);
    tcase_add_test(files, dynamic_rope_is_refused);
    tcase_add_test(files, golden_captures);
    tcase_add_loop_test(refused, missing_and_misshapen_tensors, 0, TENSOR_NAMES);
    tcase_add_test(refused, other_refusals);
    tcase_add_test(refused, structures_that_lie);
    tcase_add_test(refused, gguf_beyond_this_version);
    tcase_add_test(refused, out_of_memory);
    tcase_add_test(handles, information);
    tcase_add_test(handles, getters);
    tcase_add_test(handles, linears_by_index_and_name);
    tcase_add_test(handles, replacing_and_cloning);
    tcase_add_test(handles, moved_modules_lose_their_axes);
    tcase_add_test(handles, edits_from_two_threads);
    suite_add_tcase(suite, files);
    suite_add_tcase(suite, refused);
    suite_add_tcase(suite, handles);
    return suite;
}
