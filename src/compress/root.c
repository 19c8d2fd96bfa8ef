/*
 * The triangle L of inputs X [size, tokens], X = L Q with Q orthonormal, block of tokens by block:
 * [L | X_block] = [L_new | 0] Q (the flat tree of TSQR, Demmel et al., arXiv 0808.2664; as COALA
 * uses it, arXiv 2507.07580). Nothing is squared, so L keeps directions of the inputs that C = L L'
 * loses below 1e-16 of its largest. Twice the arithmetic of C. A panel of channels is decomposed on
 * one thread, the channels behind it follow on all of them, in tiles that do not depend on threads.
 */
#include "compress/root.h"

#include "backend/blas.h"
#include "backend/lapack.h"

enum { PANEL = 64, FOLLOWERS = 64 };

typedef struct fold {
    double *root, *rows, *t, *work;
    int64_t size, tokens, first, width; /* channels of the panel */
    lr_status status;
} fold;

static void follow_item(void *work, int64_t index, int32_t thread) {
    fold *f = work;
    int64_t n = f->size, begin = f->first + f->width + index * FOLLOWERS;
    int64_t count = n - begin < FOLLOWERS ? n - begin : FOLLOWERS;
    lr__dview panel = {f->rows + f->first * f->tokens, f->width, f->tokens, f->tokens, 0};
    lr__dview left = {f->root + begin * n + f->first, count, f->width, n, 0};
    lr__dview right = {f->rows + begin * f->tokens, count, f->tokens, f->tokens, 0};
    double *scratch = f->work + (int64_t)thread * FOLLOWERS * LR__LQ_BLOCK;
    lr_status status = lr__dlq_follow(panel, f->t, left, right, scratch);
    if (status < 0) __atomic_store_n(&f->status, status, __ATOMIC_RELAXED);
}

lr_status lr__root_fold(double *root, int64_t size, double *rows, int64_t tokens,
                        const lr__device *device, lr__arena *arena) {
    lr_status status = LR_OK;
    lr__arena_mark mark = lr__arena_here(arena);
    int64_t threads = lr__pool_threads(device->pool);
    fold f = {.root = root, .rows = rows, .size = size, .tokens = tokens};
    LR_TRY(lr__arena_take(arena, &f.t, PANEL * LR__LQ_BLOCK, sizeof *f.t));
    LR_TRY(lr__arena_take(arena, &f.work, (size_t)(threads * FOLLOWERS * LR__LQ_BLOCK),
                          sizeof *f.work));
    lr__blas_enter();
    for (f.first = 0; f.first < size && status >= 0; f.first += PANEL) {
        f.width = size - f.first < PANEL ? size - f.first : PANEL;
        int64_t behind = size - f.first - f.width;
        lr__dview corner = {root + f.first * (size + 1), f.width, f.width, size, 0};
        lr__dview panel = {rows + f.first * tokens, f.width, tokens, tokens, 0};
        status = lr__dlq_fold(corner, panel, f.t, f.work);
        if (status >= 0 && behind > 0)
            lr__pool_run(device->pool, (behind + FOLLOWERS - 1) / FOLLOWERS, follow_item, &f);
        if (status >= 0) status = f.status;
    }
    lr__blas_leave();
done:
    lr__arena_release(arena, mark);
    return status;
}
