/*
 * Opens a model, a Hugging Face folder or a GGUF file, and continues a prompt.
 *
 *     cc open_and_generate.c $(pkg-config --cflags --libs lowrank) -o open_and_generate
 *     ./open_and_generate MODEL "The capital of France is"
 */
#include <lowrank.h>

#include <stdio.h>
#include <string.h>

enum { MAX_PROMPT = 1024, MAX_NEW = 48, MAX_TEXT = 4096 };

static int fail(void) {
    fprintf(stderr, "%s\n", lr_last_error());
    return 1;
}

int main(int argc, char **argv) {
    lr_ctx *ctx = NULL;
    lr_model *model = NULL;
    const lr_tokenizer *tokenizer;
    int32_t prompt[MAX_PROMPT], ids[MAX_NEW], count;
    size_t prompt_count, bytes;
    char text[MAX_TEXT];

    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL PROMPT\n", argv[0]);
        return 2;
    }

    /* NULL options are the defaults. The model keeps its context alive. */
    if (lr_ctx_new(&ctx, NULL) < 0) return fail();
    if (lr_model_open(&model, ctx, argv[1], NULL) < 0) return fail();
    if (lr_model_tokenizer(model, &tokenizer) < 0) return fail();

    /* Every buffer is the caller's: the library says how much it would have filled. */
    if (lr_tokenizer_encode(tokenizer, argv[2], strlen(argv[2]), prompt, MAX_PROMPT,
                            &prompt_count) < 0)
        return fail();
    if (prompt_count > MAX_PROMPT) {
        fprintf(stderr, "the prompt has %zu tokens, expected at most %d\n", prompt_count,
                MAX_PROMPT);
        return 1;
    }

    /* Several prompts would be several segments: they run as rows of one batch. */
    int32_t end = lr_tokenizer_find(tokenizer, "<|im_end|>"); /* -1 where there is none */
    lr_segment segment = {.count = (int32_t)prompt_count, .tokens = prompt};
    lr_generate_opts opts;
    lr_generate_opts_init(&opts, sizeof opts);
    opts.max_tokens = MAX_NEW;
    opts.temperature = 0.7;
    opts.top_p = 0.9;
    opts.stop = &end;
    opts.stop_count = end >= 0;
    if (lr_generate(model, &segment, 1, &opts, ids, &count, NULL, NULL) < 0) return fail();

    if (lr_tokenizer_decode(tokenizer, ids, (size_t)count, 1, text, sizeof text, &bytes) < 0)
        return fail();
    printf("%s%.*s\n", argv[2], (int)(bytes < sizeof text ? bytes : sizeof text), text);

    lr_model_free(model);
    lr_ctx_free(ctx);
    return 0;
}
