/*
 * Watches the layers of a live model with a hook: what each MLP adds to the residual stream, and
 * how many of its neurons do most of the work. A second hook then silences the modules of a
 * pattern, and the next token shows what they were for.
 *
 *     cc watch_layer.c $(pkg-config --cflags --libs lowrank) -lm -o watch_layer
 *     ./watch_layer MODEL "The capital of France is" "model.layers.{0,1}.mlp.down_proj"
 */
#include <lowrank.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROMPT = 256, MAX_WORD = 64 };

static int fail(void) {
    fprintf(stderr, "%s\n", lr_last_error());
    return 1;
}

static double root_mean_square(const float *x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += (double)x[i] * x[i];
    return sqrt(sum / (double)count);
}

/* An observer: reads the tensors of the event, which are views of the model's own memory. */
static lr_status watch(const lr_hook_event *event, void *user) {
    const float *neurons = event->input.data, *added = event->output.data;
    int64_t count = lr_tensor_count(&event->input), loud = 0;
    double level = root_mean_square(neurons, count);
    for (int64_t i = 0; i < count; i++) loud += fabsf(neurons[i]) > level;
    printf("%-32s adds %8.4f rms, %4.1f %% of its neurons above their rms\n", event->module,
           root_mean_square(added, lr_tensor_count(&event->output)),
           100.0 * (double)loud / (double)count);
    ++*(int *)user;
    return LR_OK;
}

/* A hook that changes values says so with LR_HOOK_CHANGES when it is registered. */
static lr_status silence(const lr_hook_event *event, void *user) {
    (void)user;
    memset(event->output.data, 0, (size_t)lr_tensor_count(&event->output) * sizeof(float));
    return LR_OK;
}

/* One forward over the prompt, and the likeliest token after it. */
static lr_status next_token(lr_session *session, const lr_segment *prompt, float *logits,
                            int32_t vocabulary, int32_t *best) {
    lr_status status = lr_session_truncate(session, 0, 0);
    if (status >= 0) status = lr_session_forward(session, prompt, 1, logits);
    if (status < 0) return status;
    *best = 0;
    for (int32_t id = 1; id < vocabulary; id++)
        if (logits[id] > logits[*best]) *best = id;
    return LR_OK;
}

static void print_token(const char *label, const lr_tokenizer *tokenizer, int32_t id) {
    char word[MAX_WORD];
    size_t bytes = 0;
    lr_tokenizer_decode(tokenizer, &id, 1, 0, word, sizeof word, &bytes);
    printf("%s \"%.*s\"\n", label, (int)(bytes < sizeof word ? bytes : sizeof word), word);
}

int main(int argc, char **argv) {
    lr_ctx *ctx = NULL;
    lr_model *model = NULL;
    lr_hooks *hooks = NULL;
    lr_session *session = NULL;
    const lr_tokenizer *tokenizer;
    int32_t prompt[MAX_PROMPT], watching, best, calls = 0;
    size_t count;

    if (argc != 4) {
        fprintf(stderr, "usage: %s MODEL PROMPT PATTERN\n", argv[0]);
        return 2;
    }
    if (lr_ctx_new(&ctx, NULL) < 0) return fail();
    if (lr_model_open(&model, ctx, argv[1], NULL) < 0) return fail();
    if (lr_model_tokenizer(model, &tokenizer) < 0) return fail();
    if (lr_tokenizer_encode(tokenizer, argv[2], strlen(argv[2]), prompt, MAX_PROMPT, &count) < 0)
        return fail();

    lr_model_info info = {.size = sizeof info};
    if (lr_model_get_info(model, &info) < 0) return fail();
    float *logits = malloc((size_t)info.vocabulary_size * sizeof *logits);
    if (!logits) return 1;

    /* Hooks live in a registry; a session is given one, and pays only for layers that match. */
    if (lr_hooks_new(&hooks) < 0) return fail();
    if (lr_hook_add(hooks, "down_proj", LR_AFTER_FORWARD, watch, &calls, &watching) < 0)
        return fail();

    lr_session_opts opts;
    lr_session_opts_init(&opts, sizeof opts);
    opts.positions = MAX_PROMPT;
    opts.hooks = hooks;
    if (lr_session_new(&session, model, &opts) < 0) return fail();

    lr_segment segment = {.count = (int32_t)(count < MAX_PROMPT ? count : MAX_PROMPT),
                          .tokens = prompt};
    if (next_token(session, &segment, logits, info.vocabulary_size, &best) < 0) return fail();
    printf("%d layers watched\n", calls);
    print_token("next token:", tokenizer, best);

    if (lr_hook_remove(hooks, watching) < 0) return fail();
    if (lr_hook_add(hooks, argv[3], LR_AFTER_FORWARD | LR_HOOK_CHANGES, silence, NULL, NULL) < 0)
        return fail();
    if (next_token(session, &segment, logits, info.vocabulary_size, &best) < 0) return fail();
    print_token("next token without them:", tokenizer, best);

    lr_session_free(session);
    lr_hooks_free(hooks);
    lr_model_free(model);
    lr_ctx_free(ctx);
    free(logits);
    return 0;
}
