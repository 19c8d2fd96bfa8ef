/* Through the public interface: what a program does with a file, and what it may expect. Every
 * block of memory that was asked for is given back, and none is beyond what the file can need. */
#include "damage.h"

#include <lowrank.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_BYTES = 256 << 20, TOKENS = 64 };

/* --- memory --- */

static long alive;
static size_t most;

static void note(size_t size) {
    if (size > most) most = size;
}

static void *take(size_t size, void *user) {
    (void)user;
    note(size);
    void *block = size > MOST_BYTES ? NULL : malloc(size);
    alive += block != NULL;
    return block;
}

static void *resize(void *block, size_t size, void *user) {
    (void)user;
    note(size);
    void *moved = size > MOST_BYTES ? NULL : realloc(block, size);
    alive += moved && !block;
    return moved;
}

static void give(void *block, void *user) {
    (void)user;
    alive -= block != NULL;
    free(block);
}

/* --- one life --- */

static life now;

/* Keeps the first refusal, and checks that it can be read. */
static lr_status see(lr_status status) {
    if (status >= 0) return status;
    const char *text = lr_last_error();
    if (!now.refusal) {
        now.refusal = status;
        snprintf(now.sentence, sizeof now.sentence, "%s", text);
    }
    if (status < LR_E_EXISTS) now.problem = "a status that is not ours";
    if (strlen(text) < 8) now.problem = "a refusal without a sentence";
    for (; *text; text++)
        if ((unsigned char)*text < 0x20) now.problem = "a sentence of several lines";
    return status;
}

static lr_ctx *context(void) {
    static lr_ctx *ctx;
    lr_ctx_opts opts;
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.threads = 1;
    if (!ctx && lr_ctx_new(&ctx, &opts) < 0) abort();
    return ctx;
}

static size_t use_tokenizer(const lr_tokenizer *tokenizer, int32_t ids[TOKENS]) {
    static const char text[] = "It's the 12th  caf\xc3\xa9\n<|im_end|> \xff.";
    char back[400];
    size_t count = 0, size;
    lr_status status =
        see(lr_tokenizer_encode(tokenizer, text, sizeof text - 1, ids, TOKENS, &count));
    if (status < 0) return 0;
    if (count > TOKENS) count = TOKENS;
    if (see(lr_tokenizer_decode(tokenizer, ids, count, 1, back, sizeof back, &size)) < 0)
        now.problem = "ids of its own that a tokenizer refuses";
    return count;
}

/* Golden folders have no tokenizer. */
static int has_tokenizer(const lr_model *model) {
    char file[PATH_MAX];
    snprintf(file, sizeof file, "%s/tokenizer.json", lr_model_path(model));
    return strstr(lr_model_path(model), ".gguf") || !access(file, F_OK);
}

static void use_model(const lr_model *model) {
    int32_t ids[TOKENS] = {1, 2, 3, 4};
    lr_model_info info = {.size = sizeof info};
    lr_session_opts opts;
    lr_session *session = NULL;
    const lr_tokenizer *tokenizer = NULL;
    double losses[3];
    lr_segment segment = {0, 4, ids};
    if (see(lr_model_get_info(model, &info)) < 0) return;
    if (has_tokenizer(model) && see(lr_model_tokenizer(model, &tokenizer)) >= 0 &&
        use_tokenizer(tokenizer, ids) < 4)
        segment.count = 1;
    float *logits = malloc((size_t)info.vocabulary_size * sizeof *logits);
    lr_session_opts_init(&opts, sizeof opts);
    opts.positions = 16;
    if (logits && see(lr_session_new(&session, model, &opts)) >= 0) {
        see(lr_session_forward(session, &segment, 1, logits));
        if (segment.count > 1) see(lr_session_loss(session, &segment, 1, losses));
    }
    lr_session_free(session);
    free(logits);
}

static void live_model(const char *path) {
    lr_model *model = NULL;
    if (see(lr_model_open(&model, context(), path, NULL)) < 0) {
        if (model) now.problem = "a model beside a refusal";
        return;
    }
    use_model(model);
    lr_model_free(model);
}

static void live_tokenizer(const char *path) {
    int32_t ids[TOKENS];
    lr_tokenizer *tokenizer = NULL;
    if (see(lr_tokenizer_open(&tokenizer, path)) >= 0) use_tokenizer(tokenizer, ids);
    lr_tokenizer_free(tokenizer);
}

/* The undamaged model to which statistics and plans belong. */
static lr_model *source(const char *root) {
    static lr_model *model;
    char path[600];
    snprintf(path, sizeof path, "%s/source", root);
    const lr_tokenizer *tokenizer; /* made once for all copies */
    if (!model && (lr_model_open(&model, context(), path, NULL) < 0 ||
                   lr_model_tokenizer(model, &tokenizer) < 0))
        abort();
    return model;
}

static void compress(const char *root, const lr_plan *plan, const lr_stats *stats,
                     const char *method) {
    lr_model *copy = NULL;
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = method;
    if (see(lr_model_clone(&copy, source(root))) < 0) return;
    if (see(lr_compress(copy, plan, stats, &opts, NULL, NULL)) >= 0) use_model(copy);
    lr_model_free(copy);
}

/* Sums, a plan and factors by all that a file of gradients serves. */
static void use_gradients(const char *root, const lr_stats *stats) {
    static const char *const methods[] = {"kfac", "fwsvd", "iwsvd"};
    lr_stats *sum = NULL;
    lr_stats_opts opts;
    lr_plan *plan = NULL;
    lr_plan_opts plan_opts;
    lr_stats_opts_init(&opts, sizeof opts);
    opts.gradients = 1;
    if (lr_stats_new(&sum, source(root), &opts) < 0) abort();
    see(lr_stats_add(sum, stats, 0.5));
    lr_stats_free(sum);
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.keep = 0.6;
    plan_opts.allocation = "first-order";
    plan_opts.stats = stats;
    if (see(lr_plan_new(&plan, source(root), &plan_opts)) < 0) return;
    for (int i = 0; i < 3; i++) compress(root, plan, stats, methods[i]);
    lr_plan_free(plan);
}

static void live_gradients(const char *root, const char *path) {
    lr_stats *stats = NULL;
    if (see(lr_stats_open(&stats, source(root), path)) >= 0) use_gradients(root, stats);
    lr_stats_free(stats);
}

static void live_stats(const char *root, const char *path) {
    char good[600];
    lr_plan *plan = NULL;
    lr_stats *stats = NULL;
    snprintf(good, sizeof good, "%s/plan.json", root);
    if (lr_plan_open(&plan, source(root), good) < 0) abort();
    if (see(lr_stats_open(&stats, source(root), path)) >= 0) compress(root, plan, stats, "pca");
    lr_stats_free(stats);
    lr_plan_free(plan);
}

static void live_plan(const char *root, const char *path) {
    lr_plan *plan = NULL;
    if (see(lr_plan_open(&plan, source(root), path)) >= 0) compress(root, plan, NULL, "svd");
    lr_plan_free(plan);
}

life life_run(int what, const char *root, const char *path) {
    static int is_counting;
    const lr_alloc_ops ops = {sizeof ops, take, resize, give, NULL};
    if (!is_counting && lr_set_alloc(&ops) < 0) abort();
    is_counting = 1;
    source(root);
    long before = alive;
    memset(&now, 0, sizeof now);
    most = 0;
    switch (what) {
    case MODEL: live_model(path); break;
    case TOKENIZER: live_tokenizer(path); break;
    case STATS: live_stats(root, path); break;
    case GRADIENTS: live_gradients(root, path); break;
    default: live_plan(root, path); break;
    }
    if (alive != before) now.problem = "memory left behind";
    if (most > MOST_BYTES) now.problem = "a request for memory beyond what the file can need";
    return now;
}

/* --- sources --- */

static lr_status save(const lr_model *model, const char *root, const char *name) {
    char path[600];
    lr_save_opts opts;
    lr_save_opts_init(&opts, sizeof opts);
    opts.dtype = LR_F32;
    snprintf(path, sizeof path, "%s/%s", root, name);
    return lr_model_save(model, path, &opts);
}

static lr_status save_gradients(const lr_model *model, const char *root, const int32_t *ids) {
    char path[600];
    lr_stats *stats = NULL;
    lr_stats_opts opts;
    lr_stats_opts_init(&opts, sizeof opts);
    opts.gradients = 1;
    snprintf(path, sizeof path, "%s/gradients", root);
    lr_status status = lr_stats_new(&stats, model, &opts);
    if (status >= 0) status = lr_stats_collect(stats, ids, 48, 16, 1);
    if (status >= 0) status = lr_stats_save(stats, path, 0);
    lr_stats_free(stats);
    return status;
}

/* A folder made from the GGUF, its statistics, plan, and factors in both forms. */
static lr_status prepare(const char *golden, const char *root) {
    static const char *const storages[] = {"pivot", "two-factor"};
    static const char *const folders[] = {"pivot", "factors"};
    char path[600];
    int32_t ids[48];
    lr_model *model = NULL, *copy = NULL;
    lr_stats *stats = NULL;
    lr_plan *plan = NULL;
    lr_plan_opts opts;
    lr_status status;
    snprintf(path, sizeof path, "%s/models/gguf-mixed/model.gguf", golden);
    if ((status = lr_model_open(&model, context(), path, NULL)) < 0) return status;
    for (int32_t i = 0; i < 48; i++) ids[i] = i * 7 % 250;
    status = save(model, root, "source");
    if (status >= 0) status = save_gradients(model, root, ids);
    if (status >= 0) status = lr_stats_new(&stats, model, NULL);
    if (status >= 0) status = lr_stats_collect(stats, ids, 48, 16, 1);
    snprintf(path, sizeof path, "%s/stats", root);
    if (status >= 0) status = lr_stats_save(stats, path, 0);
    for (int i = 0; i < 2 && status >= 0; i++) {
        lr_plan_free(plan);
        plan = NULL;
        lr_model_free(copy);
        copy = NULL;
        lr_plan_opts_init(&opts, sizeof opts);
        opts.keep = 0.6;
        opts.storage = storages[i];
        status = lr_plan_new(&plan, model, &opts);
        if (status >= 0) status = lr_model_clone(&copy, model);
        if (status >= 0) status = lr_compress(copy, plan, stats, NULL, NULL, NULL);
        if (status >= 0) status = save(copy, root, folders[i]);
    }
    snprintf(path, sizeof path, "%s/plan.json", root);
    if (status >= 0) status = lr_plan_save(plan, path, 0);
    lr_plan_free(plan);
    lr_stats_free(stats);
    lr_model_free(copy);
    lr_model_free(model);
    return status;
}

int life_prepare(const char *golden, const char *root) {
    if (prepare(golden, root) >= 0) return 1;
    fprintf(stderr, "damage: %s\n", lr_last_error());
    return 0;
}
