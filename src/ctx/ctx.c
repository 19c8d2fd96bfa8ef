/* Contexts: threads, log, progress, and what this build is made of. */
#include "ctx/ctx.h"

#include "backend/blas.h"
#include "base/mem.h"
#include "base/opts.h"

#include <lowrank/base.h>

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

#ifdef __clang__
#define COMPILER __VERSION__
#else
#define COMPILER "gcc " __VERSION__
#endif

int32_t lr_version(void) {
    return LR_VERSION_MAJOR * 10000 + LR_VERSION_MINOR * 100 + LR_VERSION_PATCH;
}

const char *lr_version_string(void) {
    return TEXT(LR_VERSION_MAJOR) "." TEXT(LR_VERSION_MINOR) "." TEXT(LR_VERSION_PATCH);
}

static char build_info[512];

static void describe_build(void) {
    snprintf(build_info, sizeof build_info,
             "{\"version\": \"%s\", \"compiler\": \"%s\", \"blas\": \"%s (%s)\", \"isa\": \"%s\"}",
             lr_version_string(), COMPILER, lr__blas_config(), lr__blas_build(),
             lr__kernels_best()->name);
}

const char *lr_build_info(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, describe_build);
    return build_info;
}

void lr_ctx_opts_init(lr_ctx_opts *opts, size_t size) {
    lr_ctx_opts defaults = {.size = sizeof defaults};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

static lr_status choose_products(lr_ctx *ctx) {
    int32_t wanted = ctx->opts.bf16_products;
    if (wanted != 0 && wanted != 1)
        return lr__fail(LR_E_INVALID, "lr_ctx_opts: bf16_products %d, expected 0 or 1", wanted);
    if (wanted) ctx->device.multiply_pairs = lr__multiply_pairs_best();
    if (wanted && !ctx->device.multiply_pairs)
        lr__log(ctx, LR_LOG_WARNING,
                "bf16_products: no AVX512-BF16 here, all products stay in binary32");
    return LR_OK;
}

lr_status lr_ctx_new(lr_ctx **out, const lr_ctx_opts *opts) {
    lr_status status = LR_OK;
    lr_ctx *ctx = NULL;
    if (!out) return lr__fail(LR_E_INVALID, "lr_ctx_new: out is NULL");
    *out = NULL;
    LR_TRY(lr__new(&ctx, 1, sizeof *ctx));
    ctx->references = 1;
    lr_ctx_opts_init(&ctx->opts, sizeof ctx->opts);
    LR_TRY(lr__opts_merge(&ctx->opts, sizeof ctx->opts, opts, "lr_ctx_opts"));
    int32_t threads = ctx->opts.threads ? ctx->opts.threads : lr__default_threads();
    LR_TRY(lr__pool_new(&ctx->device.pool, threads));
    ctx->device.kernels = lr__kernels_best();
    LR_TRY(choose_products(ctx));
    if (lr__pool_threads(ctx->device.pool) < threads)
        lr__log(ctx, LR_LOG_WARNING, "the system allows %d threads of the %d wanted",
                lr__pool_threads(ctx->device.pool), threads);
    *out = ctx;
    ctx = NULL;
done:
    lr_ctx_free(ctx);
    return status;
}

lr_ctx *lr__ctx_keep(lr_ctx *ctx) {
    __atomic_add_fetch(&ctx->references, 1, __ATOMIC_RELAXED);
    return ctx;
}

void lr_ctx_free(lr_ctx *ctx) {
    if (!ctx || __atomic_sub_fetch(&ctx->references, 1, __ATOMIC_ACQ_REL)) return;
    lr__pool_free(ctx->device.pool);
    lr__free(ctx);
}

int32_t lr_ctx_threads(const lr_ctx *ctx) { return lr__pool_threads(ctx->device.pool); }

void lr__log(const lr_ctx *ctx, int32_t level, const char *format, ...) {
    if (!ctx->opts.log) return;
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ctx->opts.log(level, line, ctx->opts.log_user);
}

lr_status lr__progress(const lr_ctx *ctx, const char *stage, int64_t done, int64_t total) {
    if (!ctx->opts.progress || !ctx->opts.progress(stage, done, total, ctx->opts.progress_user))
        return LR_OK;
    return lr__fail(LR_E_CANCELLED, "%s: cancelled after %lld of %lld", stage, (long long)done,
                    (long long)total);
}
