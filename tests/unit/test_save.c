/* Models out: every golden model in every type, factorised, multiplied out, and what goes wrong. */
#include "faults.h"
#include "save_fixture.h"

#include "format/config.h"
#include "model/save.h"

static const char *const goldens[] = {
    "llama-f32",   "llama-f16",       "llama-tied", "llama-bias-sharded", "mistral-window",
    "qwen2",       "qwen2-window",    "qwen3",      "rope-linear",        "rope-linear-new",
    "rope-llama3", "rope-llama3-new", "rope-yarn",  "rope-yarn-new",      "gguf-mixed/model.gguf"};
/* One of each kind, for what costs more. */
static const char *const families[] = {"llama-tied",     "llama-bias-sharded",
                                       "mistral-window", "qwen2",
                                       "qwen3",          "gguf-mixed/model.gguf"};
enum { GOLDENS = sizeof goldens / sizeof *goldens, FAMILIES = sizeof families / sizeof *families };

/* The source's own configuration but for the type it is stored in. */
static void check_plain_config(const char *folder, const lr_model *model, const char *dtype) {
    static const char *const ours[] = {"dtype", "torch_dtype", "tie_word_embeddings"};
    json_t *config = config_of(folder), *before = json_loads(lr_model_config(model), 0, NULL);
    ck_assert_str_eq(text_of(config, "dtype"), dtype);
    ck_assert_str_eq(text_of(config, "torch_dtype"), dtype);
    ck_assert_int_eq(json_is_true(json_object_get(config, "tie_word_embeddings")),
                     json_is_true(json_object_get(before, "tie_word_embeddings")));
    for (int i = 0; i < 3; i++) {
        json_object_del(config, ours[i]);
        json_object_del(before, ours[i]);
    }
    ck_assert(json_equal(config, before));
    ck_assert(!has_file(folder, "modeling_lowrank.py"));
    json_decref(config);
    json_decref(before);
}

START_TEST(test_goldens) {
    static const int32_t dtypes[] = {LR_F32, LR_BF16, LR_F16};
    static const char *const names[] = {"float32", "bfloat16", "float16"};
    const char *where;
    lr_model *model = open_model(model_path(goldens[_i]));
    for (int k = 0; k < 3; k++) {
        lr_model *copy = saved(model, dtypes[k], k == 1, &where);
        check_model(model, copy, dtypes[k]);
        check_plain_config(where, model, names[k]);
        if (k == 0) check_same_logits(model, copy, 0);
        lr_model_free(copy);
    }
    lr_model_free(model);
}
END_TEST

START_TEST(test_q8) {
    const char *where;
    lr_model *model = open_model(model_path(families[_i]));
    lr_model *copy = saved(model, LR_Q8_0, 0, &where), *again, *plain;
    json_t *config = config_of(where), *before = json_loads(lr_model_config(model), 0, NULL);
    const json_t *section = json_object_get(config, "lowrank");
    char type[64];
    snprintf(type, sizeof type, "lowrank_%s", text_of(before, "model_type"));
    ck_assert_str_eq(text_of(config, "model_type"), type);
    ck_assert_str_eq(text_of(section, "base_model_type"), text_of(before, "model_type"));
    ck_assert(has_file(where, "modeling_lowrank.py"));
    ck_assert_uint_eq(json_object_size(json_object_get(section, "modules")),
                      (size_t)lr_model_linear_count(model) + 1);
    check_model(model, copy, LR_Q8_0);
    for (int32_t i = 0; i < lr_model_linear_count(copy); i++) {
        lr_linear *linear = linear_at(copy, i);
        ck_assert_int_eq(lr_linear_kind(linear), LR_LINEAR_DENSE);
        ck_assert_int_eq(linear->terms[0].ops[0].param->matrix.dtype, LR_I8);
        lr_linear_free(linear);
    }
    again = saved(copy, LR_Q8_0, 0, &where); /* the same levels and scales again */
    check_model(copy, again, LR_F32);
    plain = saved(copy, LR_F32, 0, &where); /* and plain once more */
    check_model(copy, plain, LR_F32);
    check_plain_config(where, model, "float32");
    check_same_logits(copy, plain, 0);
    json_decref(config);
    json_decref(before);
    lr_model_free(plain);
    lr_model_free(again);
    lr_model_free(copy);
    lr_model_free(model);
}
END_TEST

/* --- factorised --- */

static lr__param *random_param(int64_t rows, int64_t cols, int32_t ndim) {
    lr__param *param;
    ck_assert_int_ge(lr__param_new(&param, "linear.weight", rows, cols, ndim), 0);
    for (int64_t i = 0; i < rows * cols; i++) lr__param_floats(param)[i] = fixture_number() / 4;
    return param;
}

static void put_low_rank(lr_model *model, const char *name, int64_t rank, lr__param *right,
                         int with_bias) {
    lr_linear *before, *after;
    ck_assert_int_ge(lr_model_find_linear(model, name, &before), 0);
    lr__param *left = random_param(before->out, rank, 2);
    lr__param *bias = with_bias ? random_param(before->out, 1, 1) : NULL;
    right = right ? lr__param_keep(right) : random_param(rank, before->in, 2);
    ck_assert_int_ge(lr__linear_low_rank(&after, fixture_ctx, "linear", left, right, bias), 0);
    ck_assert_int_ge(lr_model_set_linear(model, name, after), 0);
    lr_linear_free(before);
    lr_linear_free(after);
    lr__param_drop(left);
    lr__param_drop(right);
    lr__param_drop(bias);
}

/* scatter [I; D] over a shared tail, twice: the pivot form. */
static void put_chain(lr_model *model, const char *name) {
    lr_linear *before;
    ck_assert_int_ge(lr_model_find_linear(model, name, &before), 0);
    int64_t out = before->out, in = before->in;
    both_op tail = make_matrix(LR_F32, 4, in);
    both_op one[] = {make_map(LR__OP_SCATTER, 4, out), tail};
    both_op two[] = {make_map(LR__OP_SCATTER, out - 4, out), make_matrix(LR_F32, out - 4, 4),
                     make_diagonal(LR_F32, 4), tail};
    both_op three[] = {make_matrix(LR_F32, out, 6), make_map(LR__OP_GATHER, 6, in)};
    lr_linear *chain = new_linear("chain", out, in);
    add_chain(chain, 0.125f, one, 2, NULL);
    add_chain(chain, -0.1f, two, 4, NULL);
    add_chain(chain, 0.01f, three, 2, NULL);
    ck_assert_int_ge(lr_model_set_linear(model, name, chain), 0);
    lr_linear_free(chain);
    lr_linear_free(before);
    drop_ops(one, 2);
    drop_ops(two, 3);
    drop_ops(three, 2);
}

/* Every form once: factors with and without biases, a shared one, chains, a factorised head. */
static void factorise(lr_model *model) {
    lr_model_info info = {.size = sizeof info};
    ck_assert_int_ge(lr_model_get_info(model, &info), 0);
    lr__param *shared = random_param(5, info.hidden_size, 2);
    put_low_rank(model, "model.layers.0.self_attn.q_proj", 5, shared, 0);
    put_low_rank(model, "model.layers.0.self_attn.k_proj", 5, shared, 1);
    put_low_rank(model, "model.layers.0.self_attn.v_proj", 5, shared, 0);
    put_low_rank(model, "model.layers.0.mlp.up_proj", 7, NULL, 1);
    put_chain(model, "model.layers.0.mlp.down_proj");
    put_low_rank(model, "lm_head", 6, NULL, 0);
    lr__param_drop(shared);
}

static int64_t parameters_of(const lr_model *model) {
    lr_model_info info = {.size = sizeof info};
    ck_assert_int_ge(lr_model_get_info(model, &info), 0);
    return info.parameters;
}

static void check_kinds(const lr_model *one, const lr_model *two) {
    for (int32_t i = 0; i < lr_model_linear_count(one); i++) {
        lr_linear *a = linear_at(one, i), *b = linear_at(two, i);
        ck_assert_str_eq(lr_linear_name(a), lr_linear_name(b));
        ck_assert_int_eq(lr_linear_kind(a), lr_linear_kind(b));
        ck_assert_int_eq(lr_linear_rank(a), lr_linear_rank(b));
        lr_linear_free(a);
        lr_linear_free(b);
    }
}

START_TEST(test_factorised) {
    const char *where;
    lr_model *model = open_model(model_path(families[_i]));
    factorise(model);
    lr_model *copy = saved(model, LR_F32, 0, &where), *again;
    json_t *config = config_of(where);
    const json_t *modules = json_object_get(json_object_get(config, "lowrank"), "modules");
    check_kinds(model, copy);
    check_model(model, copy, LR_F32);
    check_same_logits(model, copy, 0);
    ck_assert_int_eq(parameters_of(model), parameters_of(copy));
    ck_assert_uint_eq(json_object_size(modules), 6);
    ck_assert_ptr_nonnull(json_object_get(modules, "lm_head"));
    ck_assert_ptr_null(json_object_get(modules, "model.layers.0.mlp.gate_proj"));
    ck_assert(!json_is_true(json_object_get(config, "tie_word_embeddings")));
    again = saved(copy, LR_BF16, 0, &where); /* names do not pile up */
    check_kinds(model, again);
    lr_model_free(again);
    again = saved(copy, LR_Q8_0, 0, &where);
    check_kinds(model, again);
    ck_assert_int_eq(parameters_of(model), parameters_of(again));
    lr_model_free(again);
    json_decref(config);
    lr_model_free(copy);
    lr_model_free(model);
}
END_TEST

/* Densified: plain, and biases become the configuration's where it can promise them. */
START_TEST(test_densified) {
    static const char *const names[] = {"llama-tied", "llama-bias-sharded", "llama-f16",
                                        "gguf-mixed/model.gguf"};
    for (size_t k = 0; k < 4; k++) {
        const char *where;
        lr_model *model = open_model(model_path(names[k]));
        factorise(model);
        lr_model *copy = saved(model, LR_F32, 1, &where);
        json_t *config = config_of(where);
        check_model(model, copy, LR_F32);
        check_same_logits(model, copy, 1e-4f);
        ck_assert_str_eq(text_of(config, "model_type"), "llama");
        ck_assert_ptr_null(json_object_get(config, "lowrank"));
        ck_assert(json_is_true(json_object_get(config, "attention_bias")));
        ck_assert(json_is_true(json_object_get(config, "mlp_bias")));
        ck_assert(!has_file(where, "modeling_lowrank.py"));
        for (int32_t i = 0; i < lr_model_linear_count(copy); i++) {
            lr_linear *linear = linear_at(copy, i);
            ck_assert_int_eq(lr_linear_kind(linear), LR_LINEAR_DENSE);
            lr_linear_free(linear);
        }
        json_decref(config);
        lr_model_free(copy);
        copy = saved(model, LR_Q8_0, 1, &where);
        check_model(model, copy, LR_Q8_0);
        lr_model_free(copy);
        lr_model_free(model);
    }
}
END_TEST

START_TEST(test_bias_without_a_place) {
    lr_model *model = open_model(model_path("qwen2"));
    put_low_rank(model, "model.layers.0.mlp.up_proj", 3, NULL, 1);
    ck_assert_int_eq(save(model, scratch_path("out"), LR_F32, 1), LR_E_UNSUPPORTED);
    ck_assert_str_eq(lr_last_error(), "model.layers.0.mlp.up_proj: has a bias, for which the "
                                      "configuration of a plain model has no place");
    ck_assert_int_eq(entries(), 0);
    lr_model_free(model);
}
END_TEST

START_TEST(test_overlay_is_left_out) {
    static const int adapter;
    const char *where;
    lr_model *model = open_model(model_path("llama-f32"));
    lr_linear *before = linear_at(model, 0), *adapted = new_linear("x", before->out, before->in);
    both_op ops[] = {make_matrix(LR_F32, before->out, 2), make_matrix(LR_F32, 2, before->in)};
    ck_assert_int_ge(lr__linear_add_term(adapted, 1, before->terms[0].ops, 1, NULL), 0);
    add_chain(adapted, 1, ops, 2, &adapter);
    ck_assert_int_ge(lr_model_set_linear(model, before->name, adapted), 0);
    lr_model *copy = saved(model, LR_F32, 0, &where), *source = open_model(model_path("llama-f32"));
    check_plain_config(where, source, "float32");
    check_model(source, copy, LR_F32);
    lr_linear_free(before);
    lr_linear_free(adapted);
    drop_ops(ops, 2);
    lr_model_free(source);
    lr_model_free(copy);
    lr_model_free(model);
}
END_TEST

/* --- files beside the weights --- */

static void copy_into(const char *folder, const char *from, const char *name) {
    char source[700], target[700];
    static char bytes[1 << 20];
    snprintf(source, sizeof source, "%s/%s", from, name);
    snprintf(target, sizeof target, "%s/%s", folder, name);
    size_t size = scratch_read(source, bytes, sizeof bytes);
    FILE *file = fopen(target, "wb");
    fwrite(bytes, 1, size, file);
    fclose(file);
}

static void write_into(const char *folder, const char *name, const char *text) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    fputs(text, file);
    fclose(file);
}

static const char *copied_model(const char *name) {
    char from[700];
    const char *folder = scratch_path("source");
    ck_assert_int_eq(mkdir(folder, 0700), 0);
    snprintf(from, sizeof from, "%s", model_path(name));
    copy_into(folder, from, "config.json");
    copy_into(folder, from, "model.safetensors");
    return folder;
}

START_TEST(test_companions) {
    static const char *const carried[] = {"tokenizer.json",
                                          "tokenizer.model",
                                          "tokenizer_config.json",
                                          "special_tokens_map.json",
                                          "vocab.json",
                                          "added_tokens.json",
                                          "merges.txt",
                                          "generation_config.json",
                                          "LICENSE",
                                          "license.txt",
                                          "LICENCE.md",
                                          "NOTICE",
                                          "USE_POLICY.md",
                                          "chat_template.jinja",
                                          "Notice-third-party"};
    static const char *const left[] = {"README.md", "model.gguf", "pytorch_model.bin", "MYLICENSE"};
    const char *source = copied_model("llama-f32"), *where;
    for (size_t i = 0; i < sizeof carried / sizeof *carried; i++)
        write_into(source, carried[i], i % 2 ? carried[i] : "");
    for (size_t i = 0; i < 4; i++) write_into(source, left[i], "x");
    char path[700], text[64];
    snprintf(path, sizeof path, "%s/LICENSE.d", source);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/LICENSE.fifo", source);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    lr_model *model = open_model(source), *copy = saved(model, LR_F32, 0, &where);
    for (size_t i = 0; i < sizeof carried / sizeof *carried; i++) {
        snprintf(path, sizeof path, "%s/%s", where, carried[i]);
        size_t size = scratch_read(path, text, sizeof text);
        ck_assert_uint_eq(size, i % 2 ? strlen(carried[i]) : 0);
        ck_assert_mem_eq(text, carried[i], size);
    }
    for (size_t i = 0; i < 4; i++) ck_assert(!has_file(where, left[i]));
    ck_assert(!has_file(where, "LICENSE.d"));
    ck_assert(!has_file(where, "LICENSE.fifo"));
    lr_model_free(copy);
    lr_model_free(model);
}
END_TEST

START_TEST(test_gguf_companions) {
    static const char text[] = "Hello there, 1234 words\n";
    const char *where;
    int32_t ids[2][64];
    size_t counts[2];
    lr_model *model = open_model(model_path("gguf-mixed/model.gguf"));
    lr_model *copy = saved(model, LR_F32, 0, &where);
    for (int i = 0; i < 2; i++) {
        const lr_tokenizer *tokenizer;
        ck_assert_msg(lr_model_tokenizer(i ? copy : model, &tokenizer) >= 0, "%s", lr_last_error());
        ck_assert_int_ge(lr_tokenizer_encode(tokenizer, text, strlen(text), ids[i], 64, &counts[i]),
                         0);
    }
    ck_assert_uint_eq(counts[0], counts[1]);
    ck_assert_mem_eq(ids[0], ids[1], counts[0] * sizeof(int32_t));
    ck_assert(has_file(where, "tokenizer_config.json"));
    lr_model_free(copy);
    lr_model_free(model);
}
END_TEST

/* --- shards --- */

START_TEST(test_shards) {
    static const uint64_t most[] = {1, 4000, 1000000000};
    for (size_t i = 0; i < 3; i++) {
        lr__save_plan plan;
        lr_model *model = open_model(model_path("qwen3")), *copy;
        lr__graph *graph = lr__model_graph(model);
        const char *folder = scratch_path(i ? i == 1 ? "b" : "c" : "a");
        json_t *config;
        factorise(model);
        lr__graph_drop(graph);
        graph = lr__model_graph(model);
        ck_assert_int_eq(mkdir(folder, 0700), 0);
        ck_assert_int_ge(lr__save_plan_make(&plan, graph, LR_F32, 0), 0);
        ck_assert_int_ge(lr__save_config(&config, graph, &plan), 0);
        ck_assert_int_ge(lr__outgoing_write_folder(&plan.tensors, folder, most[i]), 0);
        char *text = json_dumps(config, 0);
        write_into(folder, "config.json", text);
        ck_assert_int_eq(has_file(folder, "model.safetensors"), i == 2);
        ck_assert_int_eq(has_file(folder, "model.safetensors.index.json"), i < 2);
        copy = open_model(folder);
        check_model(model, copy, LR_F32);
        check_kinds(model, copy);
        free(text);
        json_decref(config);
        lr__save_plan_clear(&plan);
        lr__graph_drop(graph);
        lr_model_free(copy);
        lr_model_free(model);
    }
}
END_TEST

/* --- failures --- */

START_TEST(test_bad_calls) {
    lr_save_opts opts;
    lr_model *model = open_model(model_path("llama-f32"));
    const char *out = scratch_path("out");
    lr_save_opts_init(&opts, sizeof opts);
    ck_assert_int_eq(lr_model_save(NULL, out, &opts), LR_E_INVALID);
    ck_assert_int_eq(lr_model_save(model, NULL, &opts), LR_E_INVALID);
    ck_assert_int_eq(lr_model_save(model, "", &opts), LR_E_INVALID);
    ck_assert_int_eq(save(model, out, LR_I8, 0), LR_E_INVALID);
    ck_assert_int_eq(save(model, out, LR_Q4_1, 0), LR_E_INVALID);
    ck_assert_int_eq(save(model, out, -5, 0), LR_E_INVALID);
    ck_assert_int_eq(save(model, scratch_path("none/out"), LR_F32, 0), LR_E_NOTFOUND);
    opts.size = 1;
    ck_assert_int_eq(lr_model_save(model, out, &opts), LR_E_INVALID);
    ck_assert_int_eq(entries(), 0);
    ck_assert_int_ge(lr_model_save(model, out, NULL), 0);
    lr_model_free(model);
}
END_TEST

START_TEST(test_existing_output) {
    lr_save_opts opts;
    lr_model *model = open_model(model_path("llama-f32")), *copy;
    const char *out = scratch_path("out"), *file = scratch_write("file", "text", 4);
    ck_assert_int_eq(mkdir(out, 0700), 0);
    write_into(out, "mine", "kept");
    ck_assert_int_eq(save(model, out, LR_F32, 0), LR_E_EXISTS);
    ck_assert(has_file(out, "mine"));
    ck_assert_int_eq(save(model, file, LR_F32, 0), LR_E_EXISTS);
    lr_save_opts_init(&opts, sizeof opts);
    opts.force = 1;
    ck_assert_int_ge(lr_model_save(model, out, &opts), 0);
    ck_assert(!has_file(out, "mine"));
    copy = open_model(out); /* over the folder it was opened from */
    ck_assert_int_ge(lr_model_save(copy, out, &opts), 0);
    check_model(model, copy, LR_BF16);
    ck_assert_int_eq(entries(), 2);
    lr_model_free(copy);
    lr_model_free(model);
}
END_TEST

START_TEST(test_full_disk) { check_full_disk(save, "out", "model.safetensors"); }
END_TEST

static int32_t stop_at(const char *stage, int64_t done, int64_t total, void *user) {
    ck_assert_str_eq(stage, "save");
    ck_assert(done <= total);
    return done >= *(int64_t *)user;
}

START_TEST(test_cancelled) {
    int64_t stop = 5;
    lr_ctx_opts ctx_opts;
    lr_save_opts opts;
    lr_ctx *ctx;
    lr_model *model;
    const char *out = scratch_path("out");
    lr_ctx_opts_init(&ctx_opts, sizeof ctx_opts);
    ctx_opts.progress = stop_at;
    ctx_opts.progress_user = &stop;
    ck_assert_int_ge(lr_ctx_new(&ctx, &ctx_opts), 0);
    ck_assert_int_ge(lr_model_open(&model, ctx, model_path("llama-f32"), NULL), 0);
    ck_assert_int_eq(mkdir(out, 0700), 0);
    write_into(out, "mine", "kept");
    lr_save_opts_init(&opts, sizeof opts);
    opts.force = 1;
    ck_assert_int_eq(lr_model_save(model, out, &opts), LR_E_CANCELLED);
    ck_assert(has_file(out, "mine"));
    ck_assert_int_eq(entries(), 1);
    lr_model_free(model);
    lr_ctx_free(ctx);
}
END_TEST

static void put_number(lr_model *model, float number) {
    lr_linear *after, *before = linear_at(model, 0);
    lr__param *left = random_param(before->out, 2, 2), *right = random_param(2, before->in, 2);
    lr__param_floats(right)[3] = number;
    ck_assert_int_ge(lr__linear_low_rank(&after, fixture_ctx, "m", left, right, NULL), 0);
    ck_assert_int_ge(lr_model_set_linear(model, before->name, after), 0);
    lr__param_drop(left);
    lr__param_drop(right);
    lr_linear_free(before);
    lr_linear_free(after);
}

/* Blocks whose scale lies where binary16 is coarse, or below it, a block of zeros and one cut
 * short: each number is within half a step of the finest scale that reaches the largest. */
START_TEST(test_small_blocks) {
    enum { COLS = 5 * 32 + 3 };
    static const float sizes[] = {0, 1e-9f, 1e-6f, 5e-6f, 2.3e-5f, 3e-4f, 7e-3f, 1, 3e6f};
    const float step = ldexpf(1, -24);
    lr_model *model = open_model(model_path("llama-f32"));
    lr_linear *before = linear_at(model, 0), *after;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const char *where;
        lr__param *left = random_param(before->out, COLS, 2);
        lr__param *right = random_param(COLS, before->in, 2);
        float *numbers = lr__param_floats(left), kept[COLS];
        for (int64_t i = 0; i < before->out * COLS; i++)
            numbers[i] *= sizes[((size_t)(i % COLS) / 32 + s) % (sizeof sizes / sizeof *sizes)];
        ck_assert_int_ge(lr__linear_low_rank(&after, fixture_ctx, "m", left, right, NULL), 0);
        ck_assert_int_ge(lr_model_set_linear(model, before->name, after), 0);
        lr_model *copy = saved(model, LR_Q8_0, 0, &where);
        lr_linear *read = linear_at(copy, 0);
        for (int64_t r = 0; r < before->out; r++) {
            const float *row = numbers + r * COLS;
            lr__matrix_widen(fixture_ctx->device.kernels, &read->terms[0].ops[0].param->matrix, r,
                             1, COLS, kept, COLS);
            for (int c = 0; c < COLS; c++) {
                float most = 0;
                for (int k = c / 32 * 32; k < COLS && k < c / 32 * 32 + 32; k++)
                    most = fmaxf(most, fabsf(row[k]));
                float scale = most / 127;
                if (scale < 1024 * step) scale = ceilf(scale / step) * step;
                ck_assert_msg(fabsf(row[c] - kept[c]) <= 0.51f * scale, "%g of %g became %g",
                              row[c], most, kept[c]);
            }
        }
        lr_linear_free(read);
        lr_linear_free(after);
        lr_model_free(copy);
        lr__param_drop(left);
        lr__param_drop(right);
    }
    lr_linear_free(before);
    lr_model_free(model);
}
END_TEST

START_TEST(test_numbers_that_do_not_fit) {
    static const struct {
        float number;
        int32_t dtype;
        const char *message;
    } cases[] = {{65504, LR_F16, NULL},
                 {65520, LR_F16, "65520 at [0, 3] is beyond f16"},
                 {-1e30f, LR_F16, "-1e+30 at [0, 3] is beyond f16"},
                 {-1e30f, LR_BF16, NULL},
                 {3.4e38f, LR_BF16, "3.4e+38 at [0, 3] is beyond bf16"},
                 {3.4e38f, LR_F32, NULL},
                 {NAN, LR_F32, "nan at [0, 3]"},
                 {NAN, LR_BF16, "nan at [0, 3]"},
                 {-INFINITY, LR_F16, "-inf at [0, 3]"},
                 {8e6f, LR_Q8_0, NULL},
                 {9e6f, LR_Q8_0, "9e+06 at [0, 3] is beyond q8_0"},
                 {INFINITY, LR_Q8_0, "inf at [0, 3]"},
                 {NAN, LR_Q8_0, "nan at [0, 3]"}};
    lr_model *model = open_model(model_path("llama-f32"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char expected[200];
        put_number(model, cases[i].number);
        snprintf(expected, sizeof expected, "out-%zu", i);
        lr_status status = save(model, scratch_path(expected), cases[i].dtype, 0);
        if (!cases[i].message) {
            ck_assert_msg(status >= 0, "%s", lr_last_error());
            continue;
        }
        ck_assert_int_eq(status, LR_E_NUMERIC);
        snprintf(expected, sizeof expected, "model.layers.0.self_attn.q_proj.right.weight: %s",
                 cases[i].message);
        ck_assert_str_eq(lr_last_error(), expected);
    }
    lr_model_free(model);
}
END_TEST

START_TEST(test_without_memory) {
    lr_model *model = open_model(model_path("llama-f32"));
    lr_status status = LR_E_NOMEM;
    factorise(model);
    for (long n = 0; status < 0; n += 1 + n / 32) {
        faults_begin(n);
        status = save(model, scratch_path("out"), LR_Q8_0, 0);
        long alive = faults_end();
        ck_assert_msg(alive == 0, "request %ld: %ld blocks are left", n, alive);
        if (status < 0) {
            ck_assert_int_eq(status, LR_E_NOMEM);
            ck_assert_int_eq(entries(), 0);
        }
    }
    lr_model_free(model);
}
END_TEST

Suite *save_suite(void) {
    Suite *suite = suite_create("save");
    TCase *tests = tcase_create("save");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, test_goldens, 0, GOLDENS);
    tcase_add_loop_test(tests, test_q8, 0, FAMILIES);
    tcase_add_loop_test(tests, test_factorised, 0, FAMILIES);
    tcase_add_test(tests, test_densified);
    tcase_add_test(tests, test_bias_without_a_place);
    tcase_add_test(tests, test_overlay_is_left_out);
    tcase_add_test(tests, test_companions);
    tcase_add_test(tests, test_gguf_companions);
    tcase_add_test(tests, test_shards);
    tcase_add_test(tests, test_bad_calls);
    tcase_add_test(tests, test_existing_output);
    tcase_add_test(tests, test_full_disk);
    tcase_add_test(tests, test_cancelled);
    tcase_add_test(tests, test_small_blocks);
    tcase_add_test(tests, test_numbers_that_do_not_fit);
    tcase_add_test(tests, test_without_memory);
    suite_add_tcase(suite, tests);
    return suite;
}
