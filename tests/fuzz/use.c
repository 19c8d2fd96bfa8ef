/* What a program does with what it opened, and what it may expect of a refusal. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

lr_status fuzz_check(lr_status status) {
    const char *text = lr_last_error();
    if (status >= 0 || (status >= LR_E_EXISTS && *text && !strchr(text, '\n'))) return status;
    fprintf(stderr, "status %d with \"%s\"\n", status, text);
    abort();
}

lr_ctx *fuzz_ctx(void) {
    static lr_ctx *ctx;
    lr_ctx_opts opts;
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.threads = 1;
    if (!ctx && lr_ctx_new(&ctx, &opts) < 0) abort();
    return ctx;
}

lr_model *fuzz_model(void) {
    static lr_model *model;
    if (model) return model;
    if (lr_model_open(&model, fuzz_ctx(), fuzz_folder("beside.json"), NULL) >= 0) return model;
    fprintf(stderr, "the small model: %s\n", lr_last_error());
    abort();
}

/* Tokens beyond a vocabulary are refused; so may be numbers that are not finite. */
static void run(const lr_model *model, int32_t vocabulary) {
    const int32_t ids[] = {1, 2, 3};
    lr_segment segment = {0, 3, ids};
    lr_session_opts opts;
    lr_session *session = NULL;
    float *logits = malloc((size_t)vocabulary * sizeof *logits);
    double losses[2];
    lr_session_opts_init(&opts, sizeof opts);
    opts.positions = 8;
    if (logits && fuzz_check(lr_session_new(&session, model, &opts)) >= 0) {
        fuzz_check(lr_session_forward(session, &segment, 1, logits));
        fuzz_check(lr_session_loss(session, &segment, 1, losses));
    }
    lr_session_free(session);
    free(logits);
}

void fuzz_use_model(const lr_model *model) {
    lr_model_info info = {.size = sizeof info};
    if (fuzz_check(lr_model_get_info(model, &info)) < 0) return;
    if (!strlen(lr_model_config(model))) abort();
    for (int32_t i = 0; i < lr_model_linear_count(model); i++) {
        lr_linear *linear = NULL;
        if (fuzz_check(lr_model_linear(model, i, &linear)) < 0) abort();
        if (lr_linear_param_count(linear) < 0 || lr_linear_rank(linear) < 0) abort();
        lr_linear_free(linear);
    }
    run(model, info.vocabulary_size);
}

void fuzz_open_model(const char *path) {
    lr_model *model = NULL;
    if (fuzz_check(lr_model_open(&model, fuzz_ctx(), path, NULL)) < 0) return;
    fuzz_use_model(model);
    lr_model_free(model);
}

static void encode(const lr_tokenizer *tokenizer, const char *text, size_t size) {
    size_t count = 0, bytes = 0;
    if (fuzz_check(lr_tokenizer_encode(tokenizer, text, size, NULL, 0, &count)) < 0) return;
    int32_t *ids = malloc((count + 1) * sizeof *ids);
    if (fuzz_check(lr_tokenizer_encode(tokenizer, text, size, ids, count, &count)) >= 0)
        for (size_t i = 0; i < count; i++)
            if (ids[i] < 0 || ids[i] >= lr_tokenizer_size(tokenizer)) abort();
    char *back = NULL;
    if (fuzz_check(lr_tokenizer_decode(tokenizer, ids, count, 1, NULL, 0, &bytes)) >= 0 &&
        (back = malloc(bytes + 1)))
        fuzz_check(lr_tokenizer_decode(tokenizer, ids, count, 1, back, bytes, &bytes));
    free(back);
    free(ids);
}

void fuzz_use_tokenizer(const lr_tokenizer *tokenizer, const uint8_t *data, size_t size) {
    static const char text[] =
        "It's 12345  <s> caf\xc3\xa9 e\xcc\x81\n\t\xe4\xbd\xa0 \xff\x80 end ";
    size_t tail = size < 300 ? size : 300;
    encode(tokenizer, text, sizeof text - 1);
    encode(tokenizer, (const char *)data + size - tail, tail);
}
