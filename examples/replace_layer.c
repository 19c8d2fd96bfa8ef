/*
 * Replaces one layer of a live model by LowRankLinear, two thin factors from the truncated SVD of
 * its weight, and shows what that did to the loss on a text.
 *
 *     cc replace_layer.c $(pkg-config --cflags --libs lowrank) -o replace_layer
 *     ./replace_layer MODEL model.layers.3.mlp.up_proj 256 TEXT
 */
#include <lowrank.h>

#include <stdio.h>
#include <stdlib.h>

enum { WINDOW = 256, WINDOWS = 8, MAX_BYTES = 1 << 16 };

static int fail(void) {
    fprintf(stderr, "%s\n", lr_last_error());
    return 1;
}

/* Mean loss in nats of the first windows of the text. */
static lr_status loss(const lr_model *model, const int32_t *ids, size_t count, double *nll) {
    lr_model_info info = {.size = sizeof info};
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    lr_status status = lr_model_get_info(model, &info);
    if (status < 0) return status;
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = info.context_length < WINDOW ? info.context_length : WINDOW;
    opts.windows = WINDOWS;
    status = lr_eval(&result, model, ids, count, &opts);
    *nll = result.nll;
    return status;
}

/* A low-rank twin of a module: the same name, bias and sizes, r * (out + in) numbers. */
static lr_status low_rank_twin(lr_linear **out, lr_ctx *ctx, const lr_linear *module,
                               int64_t rank) {
    int64_t shape[2] = {lr_linear_out(module), lr_linear_in(module)};
    float *weight = malloc((size_t)(shape[0] * shape[1]) * sizeof *weight);
    float *bias = malloc((size_t)shape[0] * sizeof *bias);
    lr_status status = weight && bias ? LR_OK : LR_E_NOMEM;
    lr_tensor view;
    lr_linear_opts opts;

    lr_linear_opts_init(&opts, sizeof opts);
    opts.rank = rank; /* or .energy, or .error: the least rank that keeps so much */
    opts.name = lr_linear_name(module);
    opts.bias = bias;
    if (status >= 0) status = lr_linear_densify(module, weight);
    if (status >= 0) status = lr_linear_bias(module, bias);
    if (status >= 0) status = lr_tensor_view(&view, weight, LR_F32, 2, shape);
    if (status >= 0) status = lr_linear_from_weight(out, ctx, &view, &opts);
    free(weight);
    free(bias);
    return status;
}

int main(int argc, char **argv) {
    static char text[MAX_BYTES];
    static int32_t ids[MAX_BYTES];
    lr_ctx *ctx = NULL;
    lr_model *model = NULL;
    lr_linear *dense = NULL, *low_rank = NULL;
    const lr_tokenizer *tokenizer;
    double before, after;
    size_t count;

    if (argc != 5) {
        fprintf(stderr, "usage: %s MODEL MODULE RANK TEXT\n", argv[0]);
        return 2;
    }
    FILE *file = fopen(argv[4], "rb");
    if (!file) {
        perror(argv[4]);
        return 1;
    }
    size_t bytes = fread(text, 1, sizeof text, file);
    fclose(file);

    if (lr_ctx_new(&ctx, NULL) < 0) return fail();
    if (lr_model_open(&model, ctx, argv[1], NULL) < 0) return fail();
    if (lr_model_tokenizer(model, &tokenizer) < 0) return fail();
    if (lr_tokenizer_encode(tokenizer, text, bytes, ids, MAX_BYTES, &count) < 0) return fail();
    if (lr_model_find_linear(model, argv[2], &dense) < 0) return fail();
    if (low_rank_twin(&low_rank, ctx, dense, atoll(argv[3])) < 0) return fail();

    /* Sessions see the new module from their next forward on; the old one stays valid here. */
    if (loss(model, ids, count, &before) < 0) return fail();
    if (lr_model_set_linear(model, argv[2], low_rank) < 0) return fail();
    if (loss(model, ids, count, &after) < 0) return fail();

    printf("%s: rank %lld of %lld, %lld numbers of %lld\n", argv[2],
           (long long)lr_linear_rank(low_rank), (long long)lr_linear_rank(dense),
           (long long)lr_linear_param_count(low_rank), (long long)lr_linear_param_count(dense));
    printf("loss %.4f before, %.4f after\n", before, after);

    lr_linear_free(low_rank);
    lr_linear_free(dense);
    lr_model_free(model);
    lr_ctx_free(ctx);
    return 0;
}
