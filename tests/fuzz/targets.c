/* The targets, one for each kind of file. */
#include "format/safetensors.h"
#include "format/tokenizer.h"
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile uint64_t result;

/* Reads every byte, so that a sanitizer sees what lies outside. */
static void touch(const lr__stored_list *list) {
    unsigned sum = 0;
    for (size_t i = 0; i < list->count; i++) {
        const lr__stored *stored = &list->items[i];
        const unsigned char *bytes = stored->data;
        if (strlen(stored->name) > 1 << 20 || stored->ndim > LR_MAX_DIMS) abort();
        for (size_t b = 0; b < stored->bytes; b++) sum += bytes[b];
    }
    result = sum;
}

int fuzz_safetensors(const uint8_t *data, size_t size) {
    lr__stored_list list = {0};
    json_t *metadata = NULL;
    lr_linear *linear = NULL;
    const char *path = fuzz_safetensors_file(data, size);
    if (fuzz_check(lr__safetensors_add(&list, path, size & 1, &metadata)) >= 0) touch(&list);
    lr__stored_list_clear(&list);
    json_decref(metadata);
    if (fuzz_check(lr_linear_open(&linear, fuzz_ctx(), path)) >= 0) lr_linear_free(linear);
    fuzz_open_model(fuzz_folder("model.safetensors"));
    if (!size || *data != '{') return 0;
    fuzz_file(data, size);
    if (fuzz_check(
            lr__safetensors_add_folder(&list, fuzz_folder("model.safetensors.index.json"), 0)) >= 0)
        touch(&list);
    lr__stored_list_clear(&list);
    return 0;
}

static void walk_values(const lr__gguf *gguf) {
    uint64_t sum = 0;
    for (size_t i = 0; i < gguf->value_count; i++) {
        const lr__gguf_value *value = &gguf->values[i];
        const unsigned char *cursor = value->data;
        int is_text = value->type == LR__GGUF_STRING ||
                      (value->type == LR__GGUF_ARRAY && value->element_type == LR__GGUF_STRING);
        for (uint64_t n = 0; n < value->count; n++)
            if (is_text) {
                lr__text text = lr__gguf_next_text(&cursor);
                for (size_t b = 0; b < text.size; b++) sum += (unsigned char)text.data[b];
            } else {
                sum += (uint64_t)lr__gguf_element(value, n);
            }
    }
    result = sum;
}

int fuzz_gguf(const uint8_t *data, size_t size) {
    lr__gguf *gguf = NULL;
    lr_tokenizer *tokenizer = NULL;
    lr__tokenizer_files files = {0};
    const char *path = fuzz_file(data, size);
    if (fuzz_check(lr__gguf_open(&gguf, path, size & 1)) < 0) return 0;
    walk_values(gguf);
    touch(&gguf->tensors);
    if (fuzz_check(lr__tokenizer_from_gguf(&tokenizer, gguf)) >= 0) {
        fuzz_use_tokenizer(tokenizer, data, size);
        fuzz_check(lr__tokenizer_files_from_gguf(&files, gguf, 32));
    }
    lr__tokenizer_files_clear(&files);
    lr_tokenizer_free(tokenizer);
    lr__gguf_free(gguf);
    fuzz_open_model(path);
    return 0;
}

int fuzz_config(const uint8_t *data, size_t size) {
    fuzz_file(data, size);
    fuzz_open_model(fuzz_folder("config.json"));
    return 0;
}

int fuzz_tokenizer(const uint8_t *data, size_t size) {
    lr_tokenizer *tokenizer = NULL;
    if (fuzz_check(lr_tokenizer_open(&tokenizer, fuzz_file(data, size))) < 0) return 0;
    fuzz_use_tokenizer(tokenizer, data, size);
    lr_tokenizer_free(tokenizer);
    return 0;
}

/* Compresses a copy of the small model. */
static void compress(const char *method, const lr_plan *plan, const lr_stats *stats) {
    lr_model *copy = NULL;
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = method;
    if (fuzz_check(lr_model_clone(&copy, fuzz_model())) < 0) return;
    if (fuzz_check(lr_compress(copy, plan, stats, &opts, NULL, NULL)) >= 0) fuzz_use_model(copy);
    lr_model_free(copy);
}

int fuzz_stats(const uint8_t *data, size_t size) {
    static const char *const methods[] = {"pca", "afm", "whiten", "whiten-eig"};
    static const char *const by_gradients[] = {"kfac", "fwsvd", "iwsvd"};
    static lr_plan *plan;
    lr_plan_opts opts;
    lr_stats_opts stats_opts;
    lr_stats_gradients none = {.size = sizeof none};
    lr_stats *stats = NULL, *sum = NULL;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.ranks = "{\"*\":2}";
    if (!plan && fuzz_check(lr_plan_new(&plan, fuzz_model(), &opts)) < 0) abort();
    if (fuzz_check(lr_stats_open(&stats, fuzz_model(), fuzz_safetensors_file(data, size))) < 0)
        return 0;
    lr_stats_opts_init(&stats_opts, sizeof stats_opts);
    stats_opts.gradients = lr_stats_read_gradients(stats, lr_plan_module(plan, 0), &none) == LR_OK;
    if (fuzz_check(lr_stats_new(&sum, fuzz_model(), &stats_opts)) < 0) abort();
    fuzz_check(lr_stats_add(sum, stats, 0.5));
    compress(methods[size % 4], plan, stats);
    for (int i = 0; i < 3 && stats_opts.gradients; i++) compress(by_gradients[i], plan, stats);
    lr_stats_free(stats);
    lr_stats_free(sum);
    return 0;
}

int fuzz_plan(const uint8_t *data, size_t size) {
    lr_plan *plan = NULL;
    int64_t before, after;
    const char *path = fuzz_file(data, size);
    if (fuzz_check(lr_plan_open(&plan, fuzz_model(), path)) < 0) return 0;
    lr_plan_parameters(plan, &before, &after);
    if (before < 1 || after < 0) abort();
    compress("svd", plan, NULL);
    lr_plan_free(plan);
    return 0;
}

/* The bytes are the section "lowrank" of a config.json. */
int fuzz_lowrank(const uint8_t *data, size_t size) {
    static const char begin[] =
        "{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"hidden_size\":8,"
        "\"intermediate_size\":6,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
        "\"head_dim\":4,\"vocab_size\":12,\"max_position_embeddings\":32,\"lowrank\":";
    size_t used = sizeof begin - 1;
    char *text = malloc(used + size + 1);
    if (!text) return 0;
    memcpy(text, begin, used);
    memcpy(text + used, data, size);
    text[used + size] = '}';
    fuzz_file((const uint8_t *)text, used + size + 1);
    free(text);
    fuzz_open_model(fuzz_folder("config.json"));
    return 0;
}
