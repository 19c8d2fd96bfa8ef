/* Configurations: Hugging Face's keys old and new, GGUF metadata, and rotary frequencies against
 * the formulas of their papers. */
#include "format/config.h"
#include "model/rope.h"
#include "model_fixture.h"

static const char base_text[] =
    "{\"model_type\":\"llama\",\"hidden_size\":48,\"intermediate_size\":80,"
    "\"num_hidden_layers\":4,\"num_attention_heads\":6,\"num_key_value_heads\":2,"
    "\"vocab_size\":100,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5}";

static json_t *value_of(const char *text) {
    json_error_t error;
    json_t *value = json_loads(text, JSON_DECODE_ANY, &error);
    ck_assert_msg(value != NULL, "%s: %s", text, error.text);
    return value;
}

/* The base configuration with the members of `changes`; a null takes one away. */
static json_t *config_json(const char *changes) {
    json_t *json = value_of(base_text), *more = value_of(changes), *value;
    const char *key;
    json_object_foreach(more, key, value) {
        if (json_is_string(value) && !strcmp(json_string_value(value), "(none)"))
            json_object_del(json, key);
        else
            json_object_set(json, key, value);
    }
    json_decref(more);
    return json;
}

static lr_status read_config(lr__config *config, const char *changes) {
    json_t *json = config_json(changes);
    lr_status status = lr__config_from_json(config, json, "here/config.json");
    json_decref(json);
    return status;
}

static void check_refused(const char *changes, lr_status expected, const char *key) {
    lr__config config;
    lr_status status = read_config(&config, changes);
    ck_assert_msg(status == expected, "%s gave %s: %s", changes, lr_status_name(status),
                  lr_last_error());
    ck_assert_msg(strstr(lr_last_error(), key), "\"%s\" lacks \"%s\"", lr_last_error(), key);
    ck_assert_msg(strstr(lr_last_error(), "here/config.json"), "%s", lr_last_error());
    ck_assert_ptr_null(config.json);
}

START_TEST(sizes_and_defaults) {
    lr__config c;
    CHECK_OK(read_config(&c, "{}"));
    ck_assert_int_eq(c.architecture, LR__ARCH_LLAMA);
    ck_assert_int_eq(c.layers, 4);
    ck_assert_int_eq(c.head_size, 8);
    ck_assert_int_eq(c.key_value_heads, 2);
    ck_assert_int_eq(c.context_length, 64);
    ck_assert(!c.is_tied && !c.attention_bias && !c.output_bias && !c.mlp_bias && !c.has_qk_norm);
    ck_assert(c.norm_epsilon == 1e-5 && c.rope.theta == 10000);
    ck_assert_int_eq(c.rope.type, LR__ROPE_DEFAULT);
    lr__config_clear(&c);
    CHECK_OK(read_config(&c, "{\"num_key_value_heads\":\"(none)\",\"head_dim\":null,"
                             "\"max_position_embeddings\":\"(none)\",\"rms_norm_eps\":null,"
                             "\"rope_scaling\":null,\"sliding_window\":7,\"odd\":[1]}"));
    ck_assert_int_eq(c.key_value_heads, 6);
    ck_assert_int_eq(c.head_size, 8);
    ck_assert_int_eq(c.context_length, 2048);
    ck_assert_int_eq(c.sliding_window, 0); /* not Llama's */
    ck_assert(c.norm_epsilon == 1e-6);
    ck_assert(json_is_array(json_object_get(c.json, "odd")));
    lr__config_clear(&c);
    CHECK_OK(read_config(&c, "{\"head_dim\":16,\"tie_word_embeddings\":true}"));
    ck_assert_int_eq(c.head_size, 16);
    ck_assert_int_eq(c.is_tied, 1);
    lr__config_clear(&c);
}
END_TEST

START_TEST(families) {
    lr__config c;
    CHECK_OK(read_config(&c, "{\"attention_bias\":true,\"mlp_bias\":true}"));
    ck_assert(c.attention_bias && c.output_bias && c.mlp_bias);
    lr__config_clear(&c);
    CHECK_OK(read_config(&c, "{\"model_type\":\"qwen2\",\"attention_bias\":false}"));
    ck_assert(c.attention_bias && !c.output_bias && !c.mlp_bias && !c.has_qk_norm);
    lr__config_clear(&c);
    CHECK_OK(read_config(&c, "{\"model_type\":\"qwen3\"}"));
    ck_assert(!c.attention_bias && c.has_qk_norm);
    lr__config_clear(&c);
    CHECK_OK(read_config(&c, "{\"model_type\":\"lowrank_llama\","
                             "\"lowrank\":{\"base_model_type\":\"mistral\"}}"));
    ck_assert_int_eq(c.architecture, LR__ARCH_MISTRAL);
    lr__config_clear(&c);
}
END_TEST

static void check_window(const char *changes, int32_t window, int32_t first) {
    lr__config c;
    CHECK_OK(read_config(&c, changes));
    ck_assert_msg(c.sliding_window == window && c.first_sliding_layer == first,
                  "%s gave window %d from layer %d", changes, c.sliding_window,
                  c.first_sliding_layer);
    lr__config_clear(&c);
}

START_TEST(windows) {
    check_window("{\"model_type\":\"mistral\",\"sliding_window\":9}", 9, 0);
    check_window("{\"model_type\":\"mistral\",\"sliding_window\":null}", 0, 0);
    check_window("{\"model_type\":\"qwen2\",\"sliding_window\":9}", 0, 0);
    check_window("{\"model_type\":\"qwen2\",\"sliding_window\":9,\"use_sliding_window\":false,"
                 "\"max_window_layers\":2}",
                 0, 0);
    check_window("{\"model_type\":\"qwen2\",\"sliding_window\":9,\"use_sliding_window\":true,"
                 "\"max_window_layers\":2}",
                 9, 2);
    check_window("{\"model_type\":\"qwen3\",\"sliding_window\":9,\"use_sliding_window\":true,"
                 "\"max_window_layers\":90}",
                 9, 4);
    check_window("{\"model_type\":\"qwen3\",\"sliding_window\":9,\"use_sliding_window\":true}", 9,
                 4); /* transformers: 28 when it is not said */
    check_window("{\"model_type\":\"qwen2\",\"sliding_window\":9,\"use_sliding_window\":true,"
                 "\"max_window_layers\":2,\"layer_types\":[\"full_attention\","
                 "\"full_attention\",\"sliding_attention\",\"sliding_attention\"]}",
                 9, 2);
    check_refused("{\"model_type\":\"qwen2\",\"sliding_window\":9,\"use_sliding_window\":true,"
                  "\"max_window_layers\":2,\"layer_types\":[\"full_attention\","
                  "\"sliding_attention\",\"full_attention\",\"sliding_attention\"]}",
                  LR_E_UNSUPPORTED, "layer_types");
    check_refused("{\"model_type\":\"mistral\",\"sliding_window\":9,\"layer_types\":[]}",
                  LR_E_FORMAT, "layer_types");
}
END_TEST

START_TEST(absurd_values) {
    static const struct {
        const char *key, *value;
    } wrong[] = {
        {"num_hidden_layers", "0"},
        {"num_hidden_layers", "-3"},
        {"num_hidden_layers", "1000000"},
        {"num_hidden_layers", "\"(none)\""},
        {"num_hidden_layers", "4.0"},
        {"num_hidden_layers", "\"4\""},
        {"hidden_size", "0"},
        {"hidden_size", "47"},
        {"hidden_size", "9223372036854775807"},
        {"hidden_size", "\"(none)\""},
        {"intermediate_size", "-80"},
        {"intermediate_size", "1000000000"},
        {"intermediate_size", "null"},
        {"num_attention_heads", "0"},
        {"num_attention_heads", "5"},
        {"num_attention_heads", "100000"},
        {"num_key_value_heads", "4"},
        {"num_key_value_heads", "12"},
        {"num_key_value_heads", "0"},
        {"vocab_size", "0"},
        {"vocab_size", "4294967297"},
        {"max_position_embeddings", "0"},
        {"max_position_embeddings", "4294967296"},
        {"max_position_embeddings", "true"},
        {"rms_norm_eps", "0"},
        {"rms_norm_eps", "-1e-5"},
        {"rms_norm_eps", "\"small\""},
        {"head_dim", "0"},
        {"head_dim", "-2"},
        {"head_dim", "2000000"},
        {"rope_theta", "0"},
        {"rope_theta", "-1"},
        {"rope_theta", "\"big\""},
        {"tie_word_embeddings", "1"},
        {"attention_bias", "\"yes\""},
        {"mlp_bias", "0"},
        {"model_type", "5"},
        {"model_type", "\"(none)\""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char changes[200];
        snprintf(changes, sizeof changes, "{\"%s\":%s}", wrong[i].key, wrong[i].value);
        check_refused(changes, LR_E_FORMAT, wrong[i].key);
    }
    check_refused("{\"head_dim\":7}", LR_E_FORMAT, "head size 7");
    check_refused("{\"head_dim\":65536,\"num_attention_heads\":65536,"
                  "\"num_key_value_heads\":1}",
                  LR_E_FORMAT, "65536 heads");
    check_refused("{\"model_type\":\"mistral\",\"sliding_window\":0}", LR_E_FORMAT,
                  "sliding_window");
    check_refused("{\"model_type\":\"mistral\",\"sliding_window\":\"9\"}", LR_E_FORMAT,
                  "sliding_window");
    check_refused("{\"model_type\":\"gpt2\"}", LR_E_UNSUPPORTED, "model_type");
    check_refused("{\"hidden_act\":\"gelu\"}", LR_E_UNSUPPORTED, "hidden_act");
}
END_TEST

START_TEST(absurd_rope) {
    static const struct {
        const char *rope, *key;
    } wrong[] = {
        {"{\"rope_type\":\"linear\",\"factor\":0}", "factor"},
        {"{\"rope_type\":\"linear\",\"factor\":-2}", "factor"},
        {"{\"rope_type\":\"linear\",\"factor\":\"2\"}", "factor"},
        {"{\"rope_type\":\"linear\"}", "factor"},
        {"{\"rope_type\":\"llama3\"}", "factor"},
        {"{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}",
         "high_freq_factor"},
        {"{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":0}", "low_freq_factor"},
        {"{\"rope_type\":\"llama3\",\"factor\":8,\"original_max_position_embeddings\":0}",
         "original_max_position_embeddings"},
        {"{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":0}", "beta_fast"},
        {"{\"rope_type\":\"yarn\",\"factor\":4,\"beta_slow\":-1}", "beta_slow"},
        {"{\"rope_type\":\"yarn\",\"factor\":4,\"attention_factor\":-1}", "attention_factor"},
        {"{\"rope_type\":\"yarn\",\"factor\":4,\"rope_theta\":1}", "rope_theta"},
        {"{\"rope_type\":\"yarn\",\"factor\":4,\"truncate\":1}", "truncate"},
        {"{\"rope_type\":\"default\",\"rope_theta\":0}", "rope_theta"},
    };
    char changes[300];
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        for (int old = 0; old < 2; old++) {
            snprintf(changes, sizeof changes, "{\"%s\":%s}",
                     old ? "rope_scaling" : "rope_parameters", wrong[i].rope);
            check_refused(changes, LR_E_FORMAT, wrong[i].key);
        }
    check_refused("{\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", LR_E_UNSUPPORTED,
                  "dynamic");
    check_refused("{\"rope_scaling\":{\"rope_type\":\"longrope\"}}", LR_E_UNSUPPORTED, "longrope");
    check_refused("{\"rope_scaling\":{\"rope_type\":3}}", LR_E_UNSUPPORTED, "rope type");
}
END_TEST

/* Old and new spelling of the same rope. */
START_TEST(rope_spellings) {
    lr__config old, new;
    CHECK_OK(read_config(&old, "{\"rope_theta\":500,\"rope_scaling\":{\"type\":\"yarn\","
                               "\"factor\":4,\"original_max_position_embeddings\":32}}"));
    CHECK_OK(read_config(&new, "{\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":500,"
                               "\"factor\":4.0,\"original_max_position_embeddings\":32}}"));
    ck_assert_int_eq(old.rope.type, LR__ROPE_YARN);
    ck_assert_mem_eq(&old.rope, &new.rope, sizeof old.rope);
    ck_assert(old.rope.beta_fast == 32 && old.rope.beta_slow == 1 && old.rope.truncate == 1);
    lr__config_clear(&old);
    lr__config_clear(&new);
    CHECK_OK(read_config(&old, "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}"));
    ck_assert(old.rope.type == LR__ROPE_LINEAR && old.rope.original_context == 64);
    lr__config_clear(&old);
}
END_TEST

/* ---- rotary frequencies ---- */

static void check_frequencies(const char *changes, const double *expected) {
    lr__config c;
    CHECK_OK(read_config(&c, changes));
    float found[64];
    lr__rope_frequencies(&c, found);
    for (int i = 0; i < c.head_size / 2; i++)
        ck_assert_msg(fabs(found[i] - expected[i]) <= 1e-7 * expected[i],
                      "%s: frequency %d is %.9g, expected %.9g", changes, i, (double)found[i],
                      expected[i]);
    lr__config_clear(&c);
}

START_TEST(plain_and_linear) {
    double expected[16];
    for (int i = 0; i < 16; i++) expected[i] = exp(-i / 16.0 * log(10000));
    check_frequencies("{\"head_dim\":32}", expected);
    for (int i = 0; i < 16; i++) expected[i] /= 2.5;
    check_frequencies("{\"head_dim\":32,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}}",
                      expected);
}
END_TEST

/* "The Llama 3 Herd of Models": waves longer than original / low are divided by the factor, those
 * shorter than original / high stay, between them a blend that is linear in original / wave. */
START_TEST(llama3) {
    double expected[32];
    int bands[3] = {0};
    for (int i = 0; i < 32; i++) {
        double f = exp(-i / 32.0 * log(5e5)), turns = 256 * f / (2 * 3.14159265358979323846);
        double kept = (turns - 1) / (4 - 1);
        kept = kept < 0 ? 0 : kept > 1 ? 1 : kept;
        bands[kept == 0 ? 0 : kept == 1 ? 2 : 1]++;
        expected[i] = f * (kept + (1 - kept) / 8);
    }
    ck_assert(bands[0] && bands[1] && bands[2]);
    check_frequencies("{\"head_dim\":64,\"rope_parameters\":{\"rope_type\":\"llama3\","
                      "\"rope_theta\":500000,\"factor\":8,\"low_freq_factor\":1,"
                      "\"high_freq_factor\":4,\"original_max_position_embeddings\":256}}",
                      expected);
}
END_TEST

/* YaRN, section 3.2: the ramp runs over pair numbers between those that turn beta_fast and
 * beta_slow times within the original context; rounded outwards unless truncate is false. */
static void yarn_expected(double *expected, int rounds) {
    const double pi = 3.14159265358979323846, theta = 10000, length = 128;
    double ends[2], turns[2] = {32, 1};
    for (int k = 0; k < 2; k++) /* the i with length * theta^(-2i/64) = 2 pi turns */
        ends[k] = 32 * (log(length) - log(2 * pi * turns[k])) / log(theta);
    if (rounds) {
        ends[0] = floor(ends[0]);
        ends[1] = ceil(ends[1]);
    }
    if (ends[0] < 0) ends[0] = 0;
    for (int i = 0; i < 32; i++) {
        double ramp = (i - ends[0]) / (ends[1] - ends[0]), f = pow(theta, -i / 32.0);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        expected[i] = f * (1 - ramp) + f / 4 * ramp;
    }
}

START_TEST(yarn) {
    double expected[32];
    yarn_expected(expected, 1);
    check_frequencies("{\"head_dim\":64,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,"
                      "\"original_max_position_embeddings\":128}}",
                      expected);
    yarn_expected(expected, 0);
    check_frequencies("{\"head_dim\":64,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,"
                      "\"truncate\":false,\"original_max_position_embeddings\":128}}",
                      expected);
}
END_TEST

static void check_magnitude(const char *more, double expected) {
    char changes[300];
    lr__config c;
    snprintf(changes, sizeof changes, "{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4%s}}",
             more);
    CHECK_OK(read_config(&c, changes));
    ck_assert_double_eq_tol(lr__rope_magnitude(&c), expected, 1e-6);
    lr__config_clear(&c);
}

START_TEST(magnitudes) {
    lr__config c;
    check_magnitude("", 1 + 0.1 * log(4));
    check_magnitude(",\"attention_factor\":1.25", 1.25);
    check_magnitude(",\"mscale\":0.7,\"mscale_all_dim\":0.3",
                    (1 + 0.07 * log(4)) / (1 + 0.03 * log(4)));
    CHECK_OK(read_config(&c, "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}"));
    ck_assert(lr__rope_magnitude(&c) == 1);
    lr__config_clear(&c);
}
END_TEST

START_TEST(tables) {
    lr__config c;
    const int32_t positions[5] = {0, 1, 17, 3, 60};
    float frequencies[4], cosine[20], sine[20];
    CHECK_OK(read_config(&c, "{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,"
                             "\"attention_factor\":1.5}}"));
    lr__rope_frequencies(&c, frequencies);
    lr__rope_table(&c, frequencies, positions, 5, cosine, sine);
    for (int t = 0; t < 5; t++)
        for (int i = 0; i < 4; i++) {
            double angle = positions[t] * (double)frequencies[i];
            ck_assert_double_eq_tol(cosine[t * 4 + i], 1.5 * cos(angle), 1e-5);
            ck_assert_double_eq_tol(sine[t * 4 + i], 1.5 * sin(angle), 1e-5);
        }
    lr__config_clear(&c);
}
END_TEST

/* ---- GGUF metadata ---- */

typedef struct gguf_bytes {
    unsigned char data[8192];
    size_t size, pairs;
} gguf_bytes;

static void put(gguf_bytes *g, const void *data, size_t bytes) {
    ck_assert_uint_le(g->size + bytes, sizeof g->data);
    memcpy(g->data + g->size, data, bytes);
    g->size += bytes;
}

static void put_number(gguf_bytes *g, uint64_t value, size_t bytes) { put(g, &value, bytes); }

static void put_name(gguf_bytes *g, const char *text) {
    put_number(g, strlen(text), 8);
    put(g, text, strlen(text));
}

static void pair_int(gguf_bytes *g, const char *key, int32_t value) {
    put_name(g, key);
    put_number(g, LR__GGUF_I32, 4);
    put(g, &value, 4);
    g->pairs++;
}

static void pair_real(gguf_bytes *g, const char *key, float value) {
    put_name(g, key);
    put_number(g, LR__GGUF_F32, 4);
    put(g, &value, 4);
    g->pairs++;
}

static void pair_text(gguf_bytes *g, const char *key, const char *value) {
    put_name(g, key);
    put_number(g, LR__GGUF_STRING, 4);
    put_name(g, value);
    g->pairs++;
}

static void tensor_info(gguf_bytes *g, const char *name, uint64_t rows, uint64_t cols,
                        uint64_t offset) {
    put_name(g, name);
    put_number(g, rows ? 2 : 1, 4);
    put_number(g, cols, 8);
    if (rows) put_number(g, rows, 8);
    put_number(g, 0, 4); /* F32 */
    put_number(g, offset, 8);
}

/* `pairs` of metadata, an embedding [9, 48] and, for `extra`, one more vector. */
static lr_status read_gguf(lr__config *config, const gguf_bytes *pairs, const char *extra) {
    gguf_bytes g = {.size = 0};
    lr__gguf *gguf = NULL;
    put(&g, "GGUF", 4);
    put_number(&g, 3, 4);
    put_number(&g, extra ? 2 : 1, 8);
    put_number(&g, pairs->pairs, 8);
    put(&g, pairs->data, pairs->size);
    tensor_info(&g, "token_embd.weight", 9, 48, 0);
    if (extra) tensor_info(&g, extra, 0, 48, 9 * 48 * 4);
    while (g.size % 32) put_number(&g, 0, 1);
    for (int i = 0; i < 9 * 48 + 48; i++) put_number(&g, 0, 4);
    CHECK_OK(lr__gguf_open(&gguf, scratch_memory(g.data, g.size), 1));
    lr_status status = lr__config_from_gguf(config, gguf);
    lr__gguf_free(gguf);
    return status;
}

static gguf_bytes gguf_base(const char *arch) {
    gguf_bytes g = {.size = 0};
    static const struct {
        const char *key;
        int32_t value;
    } sizes[] = {
        {"block_count", 3},          {"embedding_length", 48},       {"feed_forward_length", 80},
        {"attention.head_count", 6}, {"attention.head_count_kv", 2}, {"context_length", 77}};
    char key[100];
    pair_text(&g, "general.architecture", arch);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, sizes[i].key);
        pair_int(&g, key, sizes[i].value);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    pair_real(&g, key, 1e-5f);
    return g;
}

START_TEST(gguf_llama) {
    lr__config c;
    gguf_bytes g = gguf_base("llama");
    pair_real(&g, "llama.rope.freq_base", 100000.0f);
    pair_int(&g, "llama.rope.dimension_count", 8);
    pair_int(&g, "tokenizer.ggml.bos_token_id", 1);
    CHECK_OK(read_gguf(&c, &g, NULL));
    ck_assert_int_eq(c.architecture, LR__ARCH_LLAMA);
    ck_assert_int_eq(c.layers, 3);
    ck_assert_int_eq(c.hidden_size, 48);
    ck_assert_int_eq(c.intermediate_size, 80);
    ck_assert_int_eq(c.heads, 6);
    ck_assert_int_eq(c.key_value_heads, 2);
    ck_assert_int_eq(c.head_size, 8);
    ck_assert_int_eq(c.context_length, 77);
    ck_assert_int_eq(c.vocabulary_size, 9);
    ck_assert(c.is_tied && !c.attention_bias && !c.mlp_bias && c.norm_epsilon == 1e-5);
    ck_assert(c.rope.theta == 100000 && c.rope.type == LR__ROPE_DEFAULT);
    ck_assert_int_eq(json_integer_value(json_object_get(c.json, "bos_token_id")), 1);
    ck_assert_str_eq(json_string_value(json_object_get(c.json, "model_type")), "llama");
    lr__config_clear(&c);
    CHECK_OK(read_gguf(&c, &g, "output.weight"));
    ck_assert_int_eq(c.is_tied, 0);
    lr__config_clear(&c);
    CHECK_OK(read_gguf(&c, &g, "blk.0.attn_q.bias"));
    ck_assert(c.attention_bias && !c.mlp_bias);
    lr__config_clear(&c);
}
END_TEST

START_TEST(gguf_rope) {
    lr__config c;
    gguf_bytes g = gguf_base("qwen2");
    pair_text(&g, "qwen2.rope.scaling.type", "yarn");
    pair_real(&g, "qwen2.rope.scaling.factor", 4);
    pair_real(&g, "qwen2.rope.scaling.attn_factor", 1);
    pair_int(&g, "qwen2.rope.scaling.original_context_length", 32);
    pair_real(&g, "qwen2.rope.scaling.yarn_beta_fast", 16);
    CHECK_OK(read_gguf(&c, &g, NULL));
    ck_assert(c.architecture == LR__ARCH_QWEN2 && c.attention_bias && !c.output_bias);
    ck_assert(c.rope.type == LR__ROPE_YARN && c.rope.factor == 4 && c.rope.beta_fast == 16);
    ck_assert_int_eq(c.rope.original_context, 32);
    ck_assert_double_eq_tol(lr__rope_magnitude(&c), 1 + 0.1 * log(4), 1e-6);
    lr__config_clear(&c);
    g = gguf_base("llama");
    pair_text(&g, "llama.rope.scaling.type", "none");
    CHECK_OK(read_gguf(&c, &g, NULL));
    ck_assert_int_eq(c.rope.type, LR__ROPE_DEFAULT);
    lr__config_clear(&c);
}
END_TEST

START_TEST(gguf_refused) {
    lr__config c;
    gguf_bytes g = {.size = 0};
    CHECK_FAILS(read_gguf(&c, &g, NULL), LR_E_FORMAT, "general.architecture");
    g = gguf_base("mamba");
    CHECK_FAILS(read_gguf(&c, &g, NULL), LR_E_UNSUPPORTED, "mamba");
    g = gguf_base("llama");
    pair_int(&g, "llama.rope.dimension_count", 4);
    CHECK_FAILS(read_gguf(&c, &g, NULL), LR_E_UNSUPPORTED, "llama.rope.dimension_count 4");
    g = gguf_base("llama");
    pair_text(&g, "llama.rope.scaling.type", "yarn");
    pair_real(&g, "llama.rope.scaling.factor", 4);
    pair_real(&g, "llama.rope.scaling.attn_factor", 2);
    CHECK_FAILS(read_gguf(&c, &g, NULL), LR_E_UNSUPPORTED, "llama.rope.scaling.attn_factor 2");
    g = gguf_base("llama");
    pair_text(&g, "llama.rope.scaling.type", "\xff");
    CHECK_FAILS(read_gguf(&c, &g, NULL), LR_E_FORMAT, "llama.rope.scaling.type");
    g = gguf_base("llama");
    pair_real(&g, "llama.rope.freq_base", NAN);
    CHECK_FAILS(read_gguf(&c, &g, NULL), LR_E_FORMAT, "llama.rope.freq_base");
    g = gguf_base("llama");
    pair_real(&g, "llama.rope.freq_base", -1); /* a value like any other */
    CHECK_FAILS(read_gguf(&c, &g, NULL), LR_E_FORMAT, "rope_theta -1");
    g = gguf_base("llama");
    pair_text(&g, "llama.attention.key_length", "8");
    CHECK_FAILS(read_gguf(&c, &g, NULL), LR_E_FORMAT, "llama.attention.key_length");
    g = gguf_base("llama");
    pair_int(&g, "llama.attention.key_length", -8);
    CHECK_FAILS(read_gguf(&c, &g, NULL), LR_E_FORMAT, "head_dim");
}
END_TEST

Suite *config_suite(void) {
    Suite *suite = suite_create("config");
    TCase *json = tcase_create("json"), *rope = tcase_create("rope"), *gguf = tcase_create("gguf");
    tcase_add_test(json, sizes_and_defaults);
    tcase_add_test(json, families);
    tcase_add_test(json, windows);
    tcase_add_test(json, absurd_values);
    tcase_add_test(json, absurd_rope);
    tcase_add_test(json, rope_spellings);
    tcase_add_test(rope, plain_and_linear);
    tcase_add_test(rope, llama3);
    tcase_add_test(rope, yarn);
    tcase_add_test(rope, magnitudes);
    tcase_add_test(rope, tables);
    tcase_add_test(gguf, gguf_llama);
    tcase_add_test(gguf, gguf_rope);
    tcase_add_test(gguf, gguf_refused);
    suite_add_tcase(suite, json);
    suite_add_tcase(suite, rope);
    suite_add_tcase(suite, gguf);
    return suite;
}
