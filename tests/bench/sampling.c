/* New tokens per second of batched sampling at temperature 1, every row from its own first token,
 * and what the library says of its build, as JSON.
 *     sampling MODEL THREADS ROWS TOKENS */
#include <lowrank.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_ROWS = 256 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int fail(void) {
    fprintf(stderr, "%s\n", lr_last_error());
    return 1;
}

int main(int argc, char **argv) {
    lr_ctx *ctx;
    lr_model *model;
    lr_ctx_opts ctx_opts;
    lr_generate_opts opts;
    lr_segment prompts[MOST_ROWS];
    int32_t first[MOST_ROWS], counts[MOST_ROWS];
    if (argc != 5) return 2;
    int32_t rows = atoi(argv[3]), tokens = atoi(argv[4]);
    if (rows < 1 || rows > MOST_ROWS || tokens < 1) return 2;

    lr_ctx_opts_init(&ctx_opts, sizeof ctx_opts);
    ctx_opts.threads = atoi(argv[2]);
    if (lr_ctx_new(&ctx, &ctx_opts) < 0) return fail();
    if (lr_model_open(&model, ctx, argv[1], NULL) < 0) return fail();
    for (int32_t r = 0; r < rows; r++) {
        first[r] = 100 + r;
        prompts[r] = (lr_segment){.row = r, .count = 1, .tokens = &first[r]};
    }
    int32_t *ids = malloc((size_t)rows * (size_t)tokens * sizeof *ids);
    if (!ids) return 1;
    lr_generate_opts_init(&opts, sizeof opts);
    opts.temperature = 1;
    opts.max_tokens = 2; /* warms up */
    if (lr_generate(model, prompts, rows, &opts, ids, counts, NULL, NULL) < 0) return fail();
    opts.max_tokens = tokens;
    double start = now();
    if (lr_generate(model, prompts, rows, &opts, ids, counts, NULL, NULL) < 0) return fail();
    printf("{\"tokens_per_second\": %.6g, \"build\": %s}\n",
           (double)rows * tokens / (now() - start), lr_build_info());
    free(ids);
    lr_model_free(model);
    lr_ctx_free(ctx);
    return 0;
}
