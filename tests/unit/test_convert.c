/* Models as GGUF: from every golden model and back, tokenizers, and what GGUF cannot hold. */
#include "faults.h"
#include "save_fixture.h"

static const char *const goldens[] = {"llama-f32",
                                      "llama-f16",
                                      "llama-tied",
                                      "llama-bias-sharded",
                                      "qwen2",
                                      "qwen3",
                                      "rope-linear",
                                      "rope-linear-new",
                                      "rope-llama3",
                                      "rope-yarn",
                                      "rope-llama3-new",
                                      "mistral-window",
                                      "gguf-mixed/model.gguf",
                                      "qwen2-window"};
static const char *const families[] = {"llama-tied", "llama-bias-sharded", "qwen2", "qwen3",
                                       "gguf-mixed/model.gguf"};
enum {
    GOLDENS = sizeof goldens / sizeof *goldens,
    FAMILIES = sizeof families / sizeof *families,
    WINDOW = 5 /* of the models that have one */
};

static lr_status save_gguf(const lr_model *model, const char *path, int32_t dtype, int densify) {
    lr_save_opts opts;
    lr_save_opts_init(&opts, sizeof opts);
    opts.dtype = dtype;
    opts.densify = densify;
    return lr_model_save_gguf(model, path, &opts);
}

static lr_model *saved_gguf(const lr_model *model, int32_t dtype, int densify) {
    static unsigned turn;
    char name[32];
    snprintf(name, sizeof name, "out-%u.gguf", turn++);
    const char *path = scratch_path(name);
    ck_assert_msg(save_gguf(model, path, dtype, densify) >= 0, "%s", lr_last_error());
    return open_model(path);
}

static lr_model_info info_of(const lr_model *model) {
    lr_model_info info = {.size = sizeof info};
    ck_assert_int_ge(lr_model_get_info(model, &info), 0);
    return info;
}

/* Logits of tokens that all see each other, window or not. */
static void check_window(const lr_model *one, const lr_model *two) {
    static const int32_t ids[WINDOW] = {3, 1, 4, 1, 5};
    const lr_segment segment = {0, WINDOW, ids};
    const lr_model *const models[] = {one, two};
    size_t count = (size_t)(WINDOW * info_of(one).vocabulary_size);
    float *logits[2];
    for (int i = 0; i < 2; i++) {
        lr_session *session;
        logits[i] = malloc(count * sizeof **logits);
        ck_assert_int_ge(lr_session_new(&session, models[i], NULL), 0);
        ck_assert_int_ge(lr_session_forward_all(session, &segment, 1, logits[i]), 0);
        lr_session_free(session);
    }
    ck_assert_mem_eq(logits[0], logits[1], count * sizeof **logits);
    free(logits[0]);
    free(logits[1]);
}

/* To GGUF and to a folder again nothing is lost. */
START_TEST(round_trip) {
    const char *where;
    lr_model *model = open_model(model_path(goldens[_i]));
    lr_model *file = saved_gguf(model, LR_F32, 0), *folder = saved(file, LR_F32, 0, &where);
    int has_window = strstr(goldens[_i], "window") != NULL;
    lr_model_info before = info_of(model), after = info_of(file);
    check_model(model, file, LR_F32);
    check_model(model, folder, LR_F32);
    check_window(model, file);
    check_window(model, folder);
    ck_assert_int_eq(after.context_length, has_window ? WINDOW : before.context_length);
    ck_assert_int_eq(after.head_size, before.head_size);
    ck_assert_int_eq(after.parameters, before.parameters);
    lr_model_free(folder);
    lr_model_free(file);
    lr_model_free(model);
}
END_TEST

START_TEST(types) {
    static const int32_t dtypes[] = {LR_BF16, LR_F16, LR_Q8_0};
    lr_model *model = open_model(model_path(families[_i]));
    int64_t width = info_of(model).hidden_size;
    for (int k = 0; k < 3; k++) {
        lr_model *copy = saved_gguf(model, dtypes[k], 0);
        lr__graph *one = lr__model_graph(model), *two = lr__model_graph(copy);
        int is_cut = dtypes[k] == LR_Q8_0 && width % 32;
        check_param(one->embedding, two->embedding, is_cut ? LR_F16 : dtypes[k]);
        ck_assert_int_eq(two->embedding->matrix.dtype, is_cut ? LR_F16 : dtypes[k]);
        check_param(one->final_norm, two->final_norm, LR_F32); /* vectors stay exact */
        ck_assert_int_eq(two->final_norm->matrix.dtype, LR_F32);
        for (int32_t i = 0; i + 1 < lr__graph_linear_count(one); i++) {
            const lr_linear *from = *lr__graph_linear(one, i), *to = *lr__graph_linear(two, i);
            int is_half = dtypes[k] == LR_Q8_0 && from->in % 32;
            float *a = dense_of(from), *b = dense_of(to);
            check_numbers(a, b, from->out, from->in, is_half ? LR_F16 : dtypes[k], from->name);
            free(a);
            free(b);
        }
        lr__graph_drop(one);
        lr__graph_drop(two);
        lr_model_free(copy);
    }
    lr_model_free(model);
}
END_TEST

/* Q8_0 and Q8_0 again gives the same blocks. */
START_TEST(quantised_twice) {
    lr_model *model = open_model(model_path("gguf-mixed/model.gguf"));
    lr_model *one = saved_gguf(model, LR_Q8_0, 0), *two = saved_gguf(one, LR_Q8_0, 0);
    check_model(one, two, LR_F32);
    lr_model_free(two);
    lr_model_free(one);
    lr_model_free(model);
}
END_TEST

static void put_low_rank(lr_model *model, const char *name, int with_bias) {
    lr_linear *before, *after;
    lr__param *parts[3];
    ck_assert_int_ge(lr_model_find_linear(model, name, &before), 0);
    const int64_t sizes[3][2] = {{before->out, 4}, {4, before->in}, {before->out, 1}};
    for (int k = 0; k < 3; k++) {
        ck_assert_int_ge(
            lr__param_new(&parts[k], "x.weight", sizes[k][0], sizes[k][1], k < 2 ? 2 : 1), 0);
        for (int64_t i = 0; i < sizes[k][0] * sizes[k][1]; i++)
            lr__param_floats(parts[k])[i] = fixture_number() / 4;
    }
    ck_assert_int_ge(lr__linear_low_rank(&after, fixture_ctx, "m", parts[0], parts[1],
                                         with_bias ? parts[2] : NULL),
                     0);
    ck_assert_int_ge(lr_model_set_linear(model, name, after), 0);
    lr_linear_free(before);
    lr_linear_free(after);
    for (int k = 0; k < 3; k++) lr__param_drop(parts[k]);
}

/* Factors are refused, and multiplied out when asked; new biases come with zeros beside them. */
START_TEST(factorised) {
    lr_model *model = open_model(model_path(families[_i]));
    int is_llama = _i != 2 && _i != 3;
    put_low_rank(model, "model.layers.0.self_attn.q_proj", is_llama);
    put_low_rank(model, "model.layers.0.mlp.down_proj", is_llama);
    put_low_rank(model, "lm_head", 0);
    ck_assert_int_eq(save_gguf(model, scratch_path("out.gguf"), LR_F32, 0), LR_E_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "q_proj: is factorised"));
    ck_assert_int_eq(entries(), 0);
    lr_model *copy = saved_gguf(model, LR_F32, 1);
    check_model(model, copy, LR_F32);
    check_same_logits(model, copy, 1e-4f);
    lr_model_free(copy);
    lr_model_free(model);
}
END_TEST

START_TEST(bias_without_a_place) {
    static const char *const cases[][3] = {
        {"qwen2", "model.layers.0.self_attn.o_proj", "qwen2"},
        {"qwen3", "model.layers.0.self_attn.q_proj", "qwen3"},
        {"llama-f32", "lm_head", "lm_head: has a bias"},
    };
    for (int k = 0; k < 3; k++) {
        lr_model *model = open_model(model_path(cases[k][0]));
        put_low_rank(model, cases[k][1], 1);
        ck_assert_int_eq(save_gguf(model, scratch_path("out"), LR_F32, 1), LR_E_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(lr_last_error(), cases[k][1]));
        ck_assert_ptr_nonnull(strstr(lr_last_error(), cases[k][2]));
        lr_model_free(model);
    }
    ck_assert_int_eq(entries(), 0);
}
END_TEST

/* --- folders made for a case --- */

static void write_into(const char *folder, const char *name, const char *text) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

/* A golden model's folder with `change` merged into its configuration. */
static const char *changed_model(const char *name, const char *change) {
    static char bytes[1 << 20];
    static unsigned turn;
    char path[700], folder_name[32];
    snprintf(folder_name, sizeof folder_name, "source-%u", turn++);
    const char *folder = scratch_path(folder_name);
    ck_assert_int_eq(mkdir(folder, 0700), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", model_path(name));
    size_t size = scratch_read(path, bytes, sizeof bytes);
    snprintf(path, sizeof path, "%s/model.safetensors", folder_name);
    scratch_write(path, bytes, size);
    json_t *config = config_of(model_path(name)), *more = json_loads(change, 0, NULL);
    ck_assert_ptr_nonnull(more);
    ck_assert_int_eq(json_object_update(config, more), 0);
    char *text = json_dumps(config, 0);
    write_into(folder, "config.json", text);
    free(text);
    json_decref(config);
    json_decref(more);
    return folder;
}

START_TEST(unusual_yarn) {
    static const char *const cases[][2] = {
        {"\"attention_factor\":1.5", "magnitude"},
        {"\"mscale\":0.7,\"mscale_all_dim\":0.7", "magnitude"},
        {"\"truncate\":false", "truncate"},
    };
    char change[200];
    for (int k = 0; k < 3; k++) {
        snprintf(change, sizeof change,
                 "{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_"
                 "embeddings\":32,%s}}",
                 cases[k][0]);
        lr_model *model = open_model(changed_model("rope-yarn", change));
        ck_assert_int_eq(save_gguf(model, scratch_path("out.gguf"), LR_F32, 0), LR_E_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(lr_last_error(), cases[k][1]));
        lr_model_free(model);
    }
}
END_TEST

/* Frequency factors that Llama 3's rule does not give are not guessed at. */
START_TEST(foreign_factors) {
    static char bytes[1 << 20];
    const char *path = scratch_path("out.gguf");
    lr_model *model = open_model(model_path("rope-llama3")), *again = NULL;
    ck_assert_int_ge(save_gguf(model, path, LR_F32, 0), 0);
    size_t size = scratch_read(path, bytes, sizeof bytes);
    lr_model *file = open_model(path);
    lr__graph *graph = lr__model_graph(file);
    const lr__gguf *gguf = graph->origin->gguf;
    const lr__stored *stored = lr__stored_find(&gguf->tensors, "rope_freqs.weight");
    size_t at = (size_t)((const unsigned char *)stored->data - gguf->mapping->data);
    const float numbers[] = {1.001f, NAN, INFINITY, -1, 0};
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
        memcpy(bytes + at, &numbers[k], sizeof *numbers);
        lr_status status =
            lr_model_open(&again, fixture_ctx, scratch_write("bad.gguf", bytes, size), NULL);
        ck_assert_int_eq(status, isinf(numbers[k]) ? LR_E_FORMAT : LR_E_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(lr_last_error(), "bad.gguf"));
    }
    lr__graph_drop(graph);
    lr_model_free(file);
    lr_model_free(model);
}
END_TEST

/* --- tokenizers --- */

static const char text[] = "ab abab <s>ab<tool> c\xc3\xa9 <s>";

static size_t ids_of(const lr_model *model, int32_t ids[64]) {
    const lr_tokenizer *tokenizer;
    size_t count;
    ck_assert_msg(lr_model_tokenizer(model, &tokenizer) >= 0, "%s", lr_last_error());
    ck_assert_int_ge(lr_tokenizer_encode(tokenizer, text, sizeof text - 1, ids, 64, &count), 0);
    return count;
}

static void check_same_ids(const lr_model *one, const lr_model *two) {
    int32_t a[64], b[64];
    size_t count = ids_of(one, a);
    ck_assert_uint_gt(count, 5);
    ck_assert_uint_eq(count, ids_of(two, b));
    ck_assert_mem_eq(a, b, count * sizeof *a);
}

#define TOKENIZER(pre, vocab)                                                                  \
    "{\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true,\"normalized\":false}," \
    "{\"id\":9,\"content\":\"<tool>\",\"special\":false,\"normalized\":false}],"               \
    "\"normalizer\":null,\"pre_tokenizer\":" pre ",\"decoder\":{\"type\":\"ByteLevel\"},"      \
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"      \
    "\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]},"            \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"\xc4\xa0\":2,\"ab\":3,"          \
    "\"abab\":4,\"c\":5" vocab "},\"merges\":[\"a b\",[\"ab\",\"ab\"]]}}"
#define GPT2                                                                                       \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\",\"add_prefix_space\":false" \
    "}]}"

static const char *text_key(const lr__gguf *gguf, const char *key) {
    static char out[200];
    lr__text value = {"", 0};
    ck_assert_int_ge(lr__gguf_text(gguf, key, &value), 0);
    snprintf(out, sizeof out, "%.*s", (int)value.size, value.data);
    return out;
}

static int64_t int_key(const lr__gguf *gguf, const char *key) {
    int64_t value = -1;
    ck_assert_int_ge(lr__gguf_int(gguf, key, &value), 0);
    return value;
}

static void write_tokenizer(const char *folder) {
    write_into(folder, "tokenizer.json", TOKENIZER(GPT2, ""));
    write_into(folder, "tokenizer_config.json",
               "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"c\",\"unk_token\":null,"
               "\"chat_template\":[{\"name\":\"other\",\"template\":\"no\"},{\"name\":\"default\","
               "\"template\":\"{{ x }}\"}]}");
    write_into(folder, "generation_config.json", "{\"eos_token_id\":[5,4,3]}");
}

START_TEST(tokenizer_of_a_folder) {
    const char *where,
        *folder = changed_model("llama-f32", "{\"pad_token_id\":2,\"eos_token_id\":1,"
                                             "\"_name_or_path\":\"some/Tiny\"}");
    write_tokenizer(folder);
    lr_model *model = open_model(folder), *file = saved_gguf(model, LR_F32, 0);
    lr_model *again = saved_gguf(file, LR_F16, 0), *back = saved(again, LR_F32, 0, &where);
    lr_model *last = saved_gguf(back, LR_F32, 0);
    const lr_model *const all[] = {file, again, last};
    for (int k = 0; k < 3; k++) {
        lr__graph *graph = lr__model_graph(all[k]);
        const lr__gguf *gguf = graph->origin->gguf;
        const lr__gguf_value *tokens = lr__gguf_find(gguf, "tokenizer.ggml.tokens");
        const lr__gguf_value *kinds = lr__gguf_find(gguf, "tokenizer.ggml.token_type");
        static const int32_t expected[] = {1, 1, 1, 1, 1, 1, 3};
        ck_assert_uint_eq(tokens->count, 37);
        for (uint64_t i = 0; i < 7; i++) ck_assert_int_eq(lr__gguf_element(kinds, i), expected[i]);
        ck_assert_int_eq(lr__gguf_element(kinds, 9), 4);
        if (k < 2) ck_assert_int_eq(lr__gguf_element(kinds, 36), 5);
        if (k < 2) ck_assert_str_eq(text_key(gguf, "general.name"), "Tiny");
        ck_assert_str_eq(text_key(gguf, "tokenizer.ggml.model"), "gpt2");
        ck_assert_str_eq(text_key(gguf, "tokenizer.ggml.pre"), "gpt-2");
        ck_assert_str_eq(text_key(gguf, "tokenizer.chat_template"), "{{ x }}");
        ck_assert_int_eq(int_key(gguf, "tokenizer.ggml.bos_token_id"), 6);
        ck_assert_int_eq(int_key(gguf, "tokenizer.ggml.eos_token_id"), 5);
        ck_assert_int_eq(int_key(gguf, "tokenizer.ggml.eot_token_id"), 4);
        ck_assert_int_eq(int_key(gguf, "tokenizer.ggml.eom_token_id"), 3);
        ck_assert_int_eq(int_key(gguf, "tokenizer.ggml.padding_token_id"), 2);
        ck_assert_int_eq(int_key(gguf, "tokenizer.ggml.unknown_token_id"), -1);
        ck_assert_int_eq(int_key(gguf, "tokenizer.ggml.add_bos_token"), 1);
        ck_assert_int_eq(int_key(gguf, "tokenizer.ggml.add_eos_token"), 0);
        check_same_ids(model, all[k]);
        lr__graph_drop(graph);
    }
    check_same_ids(model, back);
    lr_model *const opened[] = {model, file, again, back, last};
    for (int k = 0; k < 5; k++) lr_model_free(opened[k]);
}
END_TEST

static void expect_warning(int32_t level, const char *line, void *user) {
    if (level == LR_LOG_WARNING) snprintf(user, 400, "%s", line);
}

/* A tokenizer that GGUF cannot name must not keep the weights from being saved. */
START_TEST(tokenizers_left_out) {
    static const char *const cases[][2] = {
        {NULL, "no tokenizer.json"},
        {TOKENIZER("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", ""), "pre-tokenizer"},
        {TOKENIZER(GPT2, ",\"z\":50"), "51 tokens"},
        {TOKENIZER(GPT2, ",\"[PAD36]\":7"), "[PAD36]"},
    };
    for (int k = 0; k < 4; k++) {
        char warning[400] = "";
        lr_ctx_opts opts;
        lr_ctx *ctx;
        lr_model *model, *file;
        lr_ctx_opts_init(&opts, sizeof opts);
        opts.log = expect_warning;
        opts.log_user = warning;
        ck_assert_int_ge(lr_ctx_new(&ctx, &opts), 0);
        const char *folder = changed_model("llama-f32", "{}");
        if (cases[k][0]) write_into(folder, "tokenizer.json", cases[k][0]);
        ck_assert_int_ge(lr_model_open(&model, ctx, folder, NULL), 0);
        file = saved_gguf(model, LR_F32, 0);
        ck_assert_msg(strstr(warning, cases[k][1]) != NULL, "%s", warning);
        lr__graph *graph = lr__model_graph(file);
        ck_assert_str_eq(text_key(graph->origin->gguf, "tokenizer.ggml.model"), "none");
        ck_assert_ptr_null(lr__gguf_find(graph->origin->gguf, "tokenizer.ggml.tokens"));
        lr__graph_drop(graph);
        lr_model_free(file);
        lr_model_free(model);
        lr_ctx_free(ctx);
    }
}
END_TEST

START_TEST(gguf_keeps_its_tokenizer) {
    lr_model *model = open_model(model_path("gguf-mixed/model.gguf"));
    lr_model *file = saved_gguf(model, LR_BF16, 0);
    lr__graph *one = lr__model_graph(model), *two = lr__model_graph(file);
    static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges",
                                       "tokenizer.ggml.pre", "general.name"};
    for (int k = 0; k < 4; k++) {
        const lr__gguf_value *a = lr__gguf_find(one->origin->gguf, keys[k]);
        const lr__gguf_value *b = lr__gguf_find(two->origin->gguf, keys[k]);
        ck_assert_int_eq(!a, !b);
        if (a) ck_assert_mem_eq(a->data, b->data, lr__gguf_value_bytes(a));
    }
    ck_assert_int_eq(int_key(two->origin->gguf, "general.file_type"), 32);
    check_same_ids(model, file);
    lr__graph_drop(one);
    lr__graph_drop(two);
    lr_model_free(file);
    lr_model_free(model);
}
END_TEST

/* --- failures --- */

START_TEST(bad_calls) {
    lr_model *model = open_model(model_path("llama-f32"));
    const char *out = scratch_path("out");
    ck_assert_int_eq(lr_model_save_gguf(NULL, out, NULL), LR_E_INVALID);
    ck_assert_int_eq(lr_model_save_gguf(model, NULL, NULL), LR_E_INVALID);
    ck_assert_int_eq(save_gguf(model, out, LR_Q4_1, 0), LR_E_INVALID);
    ck_assert_int_eq(save_gguf(model, scratch_path("none/out"), LR_F32, 0), LR_E_NOTFOUND);
    ck_assert_int_eq(entries(), 0);
    lr_model_free(model);
}
END_TEST

START_TEST(existing_output) {
    lr_save_opts opts;
    char kept[8] = "";
    lr_model *model = open_model(model_path("llama-f32"));
    const char *out = scratch_write("out.gguf", "mine", 4);
    ck_assert_int_eq(save_gguf(model, out, LR_F32, 0), LR_E_EXISTS);
    scratch_read(out, kept, sizeof kept);
    ck_assert_str_eq(kept, "mine");
    lr_save_opts_init(&opts, sizeof opts);
    opts.force = 1;
    ck_assert_int_ge(lr_model_save_gguf(model, out, &opts), 0);
    lr_model *copy = open_model(out); /* over the file it was opened from */
    opts.dtype = LR_F32;
    ck_assert_int_ge(lr_model_save_gguf(copy, out, &opts), 0);
    ck_assert_int_eq(lr_model_save_gguf(copy, scratch, &opts), LR_E_INVALID);
    ck_assert_int_eq(entries(), 1);
    lr_model_free(copy);
    lr_model_free(model);
}
END_TEST

START_TEST(full_disk) { check_full_disk(save_gguf, "out.gguf", "out.gguf"); }
END_TEST

START_TEST(without_memory) {
    const char *folder = changed_model("llama-f32", "{}");
    write_tokenizer(folder);
    lr_model *model = open_model(folder);
    lr_status status = LR_E_NOMEM;
    int before = entries();
    put_low_rank(model, "model.layers.0.self_attn.q_proj", 1);
    for (long n = 0; status < 0; n += 1 + n / 64) {
        faults_begin(n);
        status = save_gguf(model, scratch_path("out"), LR_Q8_0, 1);
        long alive = faults_end();
        ck_assert_msg(alive == 0, "request %ld: %ld blocks are left", n, alive);
        if (status < 0) {
            ck_assert_msg(status == LR_E_NOMEM, "request %ld: %s", n, lr_last_error());
            ck_assert_int_eq(entries(), before);
        }
    }
    lr_model *file = open_model(scratch_path("out"));
    check_same_ids(model, file);
    lr_model_free(file);
    lr_model_free(model);
}
END_TEST

Suite *convert_suite(void) {
    Suite *suite = suite_create("convert");
    TCase *tests = tcase_create("convert");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, round_trip, 0, GOLDENS);
    tcase_add_loop_test(tests, types, 0, FAMILIES);
    tcase_add_test(tests, quantised_twice);
    tcase_add_loop_test(tests, factorised, 0, FAMILIES);
    tcase_add_test(tests, bias_without_a_place);
    tcase_add_test(tests, unusual_yarn);
    tcase_add_test(tests, foreign_factors);
    tcase_add_test(tests, tokenizer_of_a_folder);
    tcase_add_test(tests, tokenizers_left_out);
    tcase_add_test(tests, gguf_keeps_its_tokenizer);
    tcase_add_test(tests, bad_calls);
    tcase_add_test(tests, existing_output);
    tcase_add_test(tests, full_disk);
    tcase_add_test(tests, without_memory);
    suite_add_tcase(suite, tests);
    return suite;
}
