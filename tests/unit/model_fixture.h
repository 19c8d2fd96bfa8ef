/* Random models in temporary folders, and short ways to open and run one. The numbers of a tensor
 * depend on its name and on row and column alone, so that a narrower model is a slice of a wider
 * one. Files are written here without the library. */
#ifndef TESTS_MODEL_FIXTURE_H
#define TESTS_MODEL_FIXTURE_H

#include "model/session.h"
#include "scratch.h"

#include <lowrank.h>

#include <math.h>
#include <stdarg.h>

#define CHECK_OK(call)                                                  \
    do {                                                                \
        lr_status checked_ = (call);                                    \
        ck_assert_msg(checked_ >= 0, "%s: %s", #call, lr_last_error()); \
    } while (0)

/* The status and a piece of the message. */
#define CHECK_FAILS(call, expected, text)                                                     \
    do {                                                                                      \
        lr_status checked_ = (call);                                                          \
        ck_assert_msg(checked_ == (expected), "%s gave %s", #call, lr_status_name(checked_)); \
        ck_assert_msg(strstr(lr_last_error(), text), "\"%s\" lacks \"%s\"", lr_last_error(),  \
                      text);                                                                  \
    } while (0)

typedef struct tiny {
    int vocabulary, hidden, wide, layers, heads, kv_heads, dim, context;
    int is_tied;
    const char *config;    /* more members for config.json, each with a comma before it */
    const char *omitted;   /* a tensor that is left out */
    const char *shortened; /* a tensor that gets a row less */
    const char *retyped;   /* a tensor written as `type`, zeros */
    const char *type;
    size_t type_bytes;
    const char *poisoned; /* a tensor whose first number is NaN */
    const char *extra;    /* one more vector of four numbers */
} tiny;

static const tiny tiny_model = {.vocabulary = 41,
                                .hidden = 24,
                                .wide = 20,
                                .layers = 3,
                                .heads = 6,
                                .kv_heads = 2,
                                .dim = 8,
                                .context = 48};

static inline uint64_t tiny_mix(uint64_t x) { /* splitmix64 */
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static inline double tiny_uniform(uint64_t key) { /* -1 .. 1 */
    return (double)(tiny_mix(key) >> 11) * 0x1p-52 - 1;
}

static inline float tiny_number(const char *name, int64_t row, int64_t col) {
    uint64_t key = 7;
    for (const char *c = name; *c; c++) key = tiny_mix(key ^ (unsigned char)*c);
    double u = tiny_uniform(tiny_mix(key + (uint64_t)row) + (uint64_t)col);
    size_t length = strlen(name);
    if (length > 11 && !strcmp(name + length - 11, "norm.weight")) return (float)(1 + 0.3 * u);
    return (float)(0.4 * u);
}

typedef struct tiny_file {
    const tiny *t;
    FILE *header, *data;
    size_t bytes;
    int count;
} tiny_file;

static inline void tiny_put(tiny_file *f, const char *type, size_t bytes, int rows, int cols,
                            const char *name) {
    char shape[40];
    if (cols)
        snprintf(shape, sizeof shape, "%d,%d", rows, cols);
    else
        snprintf(shape, sizeof shape, "%d", rows);
    fprintf(f->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
            f->count++ ? "," : "", name, type, shape, f->bytes, f->bytes + bytes);
    f->bytes += bytes;
}

static inline void tiny_tensor(tiny_file *f, int rows, int cols, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static inline void tiny_tensor(tiny_file *f, int rows, int cols, const char *format, ...) {
    char name[128];
    const tiny *t = f->t;
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    if (t->omitted && !strcmp(name, t->omitted)) return;
    if (t->shortened && !strcmp(name, t->shortened)) rows--;
    int64_t width = cols ? cols : 1;
    if (t->retyped && !strcmp(name, t->retyped)) {
        size_t bytes = (size_t)(rows * width) * t->type_bytes;
        tiny_put(f, t->type, bytes, rows, cols, name);
        for (size_t i = 0; i < bytes; i++) fputc(0, f->data);
        return;
    }
    tiny_put(f, "F32", (size_t)(rows * width) * sizeof(float), rows, cols, name);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < width; c++) {
            float value = tiny_number(name, r, c);
            if (t->poisoned && !r && !c && !strcmp(name, t->poisoned)) value = NAN;
            fwrite(&value, sizeof value, 1, f->data);
        }
}

static inline void tiny_tensors(tiny_file *f) {
    const tiny *t = f->t;
    int q = t->heads * t->dim, kv = t->kv_heads * t->dim;
    tiny_tensor(f, t->vocabulary, t->hidden, "model.embed_tokens.weight");
    for (int i = 0; i < t->layers; i++) {
        tiny_tensor(f, q, t->hidden, "model.layers.%d.self_attn.q_proj.weight", i);
        tiny_tensor(f, kv, t->hidden, "model.layers.%d.self_attn.k_proj.weight", i);
        tiny_tensor(f, kv, t->hidden, "model.layers.%d.self_attn.v_proj.weight", i);
        tiny_tensor(f, t->hidden, q, "model.layers.%d.self_attn.o_proj.weight", i);
        tiny_tensor(f, t->wide, t->hidden, "model.layers.%d.mlp.gate_proj.weight", i);
        tiny_tensor(f, t->wide, t->hidden, "model.layers.%d.mlp.up_proj.weight", i);
        tiny_tensor(f, t->hidden, t->wide, "model.layers.%d.mlp.down_proj.weight", i);
        tiny_tensor(f, t->hidden, 0, "model.layers.%d.input_layernorm.weight", i);
        tiny_tensor(f, t->hidden, 0, "model.layers.%d.post_attention_layernorm.weight", i);
    }
    tiny_tensor(f, t->hidden, 0, "model.norm.weight");
    if (!t->is_tied) tiny_tensor(f, t->vocabulary, t->hidden, "lm_head.weight");
    if (t->extra) tiny_tensor(f, 4, 0, "%s", t->extra);
}

static inline void tiny_config(const tiny *t, const char *path) {
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fprintf(file,
            "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],"
            "\"vocab_size\":%d,\"hidden_size\":%d,\"intermediate_size\":%d,"
            "\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,"
            "\"head_dim\":%d,\"max_position_embeddings\":%d,\"tie_word_embeddings\":%s%s}\n",
            t->vocabulary, t->hidden, t->wide, t->layers, t->heads, t->kv_heads, t->dim, t->context,
            t->is_tied ? "true" : "false", t->config ? t->config : "");
    ck_assert_int_eq(fclose(file), 0);
}

/* Writes the model into a folder of the scratch folder; returns its path. */
static inline const char *tiny_write(const tiny *t, const char *folder) {
    char *header = NULL, *data = NULL, name[300];
    size_t header_bytes = 0, data_bytes = 0;
    tiny_file f = {.t = t,
                   .header = open_memstream(&header, &header_bytes),
                   .data = open_memstream(&data, &data_bytes)};
    mkdir(scratch_path(folder), 0777);
    fputc('{', f.header);
    tiny_tensors(&f);
    fputc('}', f.header);
    fclose(f.header);
    fclose(f.data);
    snprintf(name, sizeof name, "%s/model.safetensors", folder);
    FILE *file = fopen(scratch_path(name), "wb");
    uint64_t length = (header_bytes + 7) / 8 * 8;
    fwrite(&length, sizeof length, 1, file);
    fwrite(header, 1, header_bytes, file);
    for (uint64_t i = header_bytes; i < length; i++) fputc(' ', file);
    fwrite(data, 1, data_bytes, file);
    ck_assert_int_eq(fclose(file), 0);
    free(header);
    free(data);
    snprintf(name, sizeof name, "%s/config.json", folder);
    tiny_config(t, scratch_path(name));
    return scratch_path(folder);
}

static inline lr_ctx *tiny_ctx(int32_t threads) {
    lr_ctx *ctx;
    lr_ctx_opts opts;
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.threads = threads;
    CHECK_OK(lr_ctx_new(&ctx, &opts));
    return ctx;
}

/* Opens with a context of its own, which the model keeps. */
static inline lr_model *tiny_open_path(const char *path, int32_t threads) {
    lr_ctx *ctx = tiny_ctx(threads);
    lr_model *model;
    CHECK_OK(lr_model_open(&model, ctx, path, NULL));
    lr_ctx_free(ctx);
    return model;
}

static inline lr_model *tiny_open(const tiny *t, int32_t threads) {
    scratch_make();
    lr_model *model = tiny_open_path(tiny_write(t, "model"), threads);
    scratch_remove(); /* the mapping stays */
    return model;
}

static inline lr_session *tiny_session(const lr_model *model, int32_t rows, int32_t kind,
                                       int32_t no_cache, lr_hooks *hooks) {
    lr_session *session;
    lr_session_opts opts;
    lr_session_opts_init(&opts, sizeof opts);
    opts.rows = rows;
    opts.kind = kind;
    opts.no_cache = no_cache;
    opts.hooks = hooks;
    CHECK_OK(lr_session_new(&session, model, &opts));
    return session;
}

static inline int32_t tiny_vocabulary(const lr_model *model) {
    lr_model_info info = {.size = sizeof info};
    CHECK_OK(lr_model_get_info(model, &info));
    return info.vocabulary_size;
}

/* Token `at` of text number `text`. */
static inline int32_t tiny_token(int32_t text, int32_t at, int32_t vocabulary) {
    return (int32_t)(tiny_mix((uint64_t)text * 1000003u + (uint64_t)at) % (uint64_t)vocabulary);
}

static inline void tiny_text(int32_t text, int32_t count, int32_t vocabulary, int32_t *out) {
    for (int32_t i = 0; i < count; i++) out[i] = tiny_token(text, i, vocabulary);
}

/* Logits of every token of one text in a fresh session; freed by the caller. */
static inline float *tiny_logits(const lr_model *model, int32_t kind, int32_t text, int32_t count) {
    int32_t vocabulary = tiny_vocabulary(model), tokens[256];
    float *logits = malloc((size_t)count * (size_t)vocabulary * sizeof *logits);
    tiny_text(text, count, vocabulary, tokens);
    lr_segment segment = {0, count, tokens};
    lr_session *session = tiny_session(model, 1, kind, 0, NULL);
    CHECK_OK(lr_session_forward_all(session, &segment, 1, logits));
    lr_session_free(session);
    return logits;
}

static inline double tiny_distance(const float *a, const float *b, int64_t count) {
    double most = 0;
    for (int64_t i = 0; i < count; i++) {
        double distance = fabs((double)a[i] - (double)b[i]);
        if (!(distance <= most)) most = distance;
    }
    return most;
}

#define CHECK_SAME_BITS(a, b, count) ck_assert_mem_eq((a), (b), (size_t)(count) * sizeof(float))

#endif
