/*
 * The whole flow: observe the inputs of every layer on a text, decide a rank for each, rewrite the
 * layers as factors, judge the result against the source, and save a folder for `transformers`.
 *
 *     cc compress_and_save.c $(pkg-config --cflags --libs lowrank) -o compress_and_save
 *     ./compress_and_save MODEL TEXT 0.8 OUT
 */
#include <lowrank.h>

#include <stdio.h>
#include <stdlib.h>

enum { WINDOW = 512, MAX_BYTES = 1 << 18, SELF_SAMPLES = 32 };

static int fail(void) {
    fprintf(stderr, "%s\n", lr_last_error());
    return 1;
}

static lr_status encode_file(const lr_model *model, const char *path, int32_t *ids, size_t *count) {
    static char text[MAX_BYTES];
    const lr_tokenizer *tokenizer;
    FILE *file = fopen(path, "rb");
    size_t bytes = file ? fread(text, 1, sizeof text, file) : 0;
    if (file)
        fclose(file);
    else
        perror(path);
    lr_status status = lr_model_tokenizer(model, &tokenizer);
    if (status < 0) return status;
    return lr_tokenizer_encode(tokenizer, text, bytes, ids, MAX_BYTES, count);
}

/* Statistics of the text and, with equal weight, of text the model writes for itself: the second
 * keeps what the first does not speak of. */
static lr_status observe(lr_stats **out, const lr_model *model, const int32_t *ids, size_t count,
                         int32_t window) {
    lr_status status = lr_stats_new(out, model, NULL);
    int32_t *own = malloc((size_t)SELF_SAMPLES * (size_t)window * sizeof *own);
    if (status >= 0 && !own) status = LR_E_NOMEM;
    if (status >= 0) status = lr_stats_collect(*out, ids, count, window, 1);
    if (status >= 0) status = lr_self_text(model, 0, SELF_SAMPLES, window, own);
    if (status >= 0)
        status = lr_stats_collect(*out, own, (size_t)SELF_SAMPLES * (size_t)window, window, 1);
    free(own);
    return status;
}

static int32_t report(const lr_compress_event *event, void *user) {
    (void)user;
    printf("%-34s rank %4lld  loses %5.2f %% of its output\n", event->module,
           (long long)event->rank, event->total > 0 ? 100 * event->measured / event->total : 0);
    return 0;
}

int main(int argc, char **argv) {
    static int32_t ids[MAX_BYTES];
    lr_ctx *ctx = NULL;
    lr_model *model = NULL, *source = NULL;
    lr_stats *stats = NULL;
    lr_plan *plan = NULL;
    lr_model_info info = {.size = sizeof info};
    lr_eval_result result = {.size = sizeof result};
    size_t count;

    if (argc != 5) {
        fprintf(stderr, "usage: %s MODEL TEXT KEEP OUT\n", argv[0]);
        return 2;
    }
    if (lr_ctx_new(&ctx, NULL) < 0) return fail();
    if (lr_model_open(&model, ctx, argv[1], NULL) < 0) return fail();
    if (lr_model_clone(&source, model) < 0) return fail(); /* shares every weight */
    if (lr_model_get_info(model, &info) < 0) return fail();
    if (encode_file(model, argv[2], ids, &count) < 0) return fail();
    int32_t window = info.context_length < WINDOW ? info.context_length : WINDOW;

    /* The first 70 % of the text calibrate, the rest judges. */
    size_t seen = count / 10 * 7;
    if (observe(&stats, model, ids, seen, window) < 0) return fail();

    lr_plan_opts plan_opts;
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.keep = atof(argv[3]);
    if (lr_plan_new(&plan, model, &plan_opts) < 0) return fail();

    if (lr_compress(model, plan, stats, NULL, report, NULL) < 0) return fail();

    lr_eval_opts eval_opts;
    lr_eval_opts_init(&eval_opts, sizeof eval_opts);
    eval_opts.window = window;
    eval_opts.windows = 16;
    eval_opts.reference = source;
    if (lr_eval(&result, model, ids + seen, count - seen, &eval_opts) < 0) return fail();

    int64_t before, after;
    lr_plan_parameters(plan, &before, &after);
    printf("%lld of %lld numbers kept; perplexity %.2f, KL to the source %.4f, same next token "
           "%.1f %%\n",
           (long long)after, (long long)before, result.perplexity, result.kl,
           100 * result.agreement);

    /* BF16 by default; an existing folder is left alone. */
    if (lr_model_save(model, argv[4], NULL) < 0) return fail();

    lr_plan_free(plan);
    lr_stats_free(stats);
    lr_model_free(source);
    lr_model_free(model);
    lr_ctx_free(ctx);
    return 0;
}
