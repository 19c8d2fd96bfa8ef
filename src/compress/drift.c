/* Cross moments of two streams and the weights corrected by them. Products are in binary32, sums
 * in binary64: the difference of the streams is formed before, so nothing cancels. */
#include "compress/drift.h"

#include "backend/blas.h"
#include "backend/lapack.h"

#include <cblas.h>
#include <float.h>
#include <math.h>
#include <string.h>

enum { CHUNK_TOKENS = 512, TILE = 384, ROWS_AT_ONCE = 256 };

lr_status lr__drift_new(lr__drift *drift, int64_t size) {
    lr_status status = LR_OK;
    *drift = (lr__drift){.size = size};
    LR_TRY(lr__new_aligned(&drift->cross, (size_t)size * (size_t)size, sizeof(double)));
    memset(drift->cross, 0, (size_t)size * (size_t)size * sizeof(double));
done:
    return status;
}

void lr__drift_clear(lr__drift *drift) {
    lr__aligned_free(drift->cross);
    lr__aligned_free(drift->ratio);
    *drift = (lr__drift){0};
}

typedef struct job {
    lr__drift *drift;
    float *moved; /* x, then x - z */
    const float *z;
    float *scratch; /* [threads][TILE * TILE] */
    int64_t tokens, across;
    double weight;
} job;

static void subtract_item(void *work, int64_t t, int32_t thread) {
    (void)thread;
    const job *j = work;
    int64_t n = j->drift->size;
    for (int64_t i = 0; i < n; i++) j->moved[t * n + i] -= j->z[t * n + i];
}

static void fold_item(void *work, int64_t index, int32_t thread) {
    const job *j = work;
    int64_t n = j->drift->size, row = index / j->across * TILE, col = index % j->across * TILE;
    int64_t rows = n - row < TILE ? n - row : TILE, cols = n - col < TILE ? n - col : TILE;
    float *tile = j->scratch + (int64_t)thread * TILE * TILE;
    lr__blas_call_begin();
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)rows, (int)cols, (int)j->tokens, 1,
                j->moved + row, (int)n, j->z + col, (int)n, 0, tile, (int)cols);
    lr__blas_call_end();
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < cols; k++)
            j->drift->cross[(row + i) * n + col + k] += j->weight * (double)tile[i * cols + k];
}

lr_status lr__drift_count(lr__drift *drift, const lr__device *device, lr__arena *arena,
                          float *dense, const float *compressed, int64_t tokens, double weight) {
    lr_status status = LR_OK;
    lr__arena_mark mark = lr__arena_here(arena);
    int64_t n = drift->size;
    job j = {.drift = drift, .across = (n + TILE - 1) / TILE, .weight = weight};
    size_t threads = (size_t)lr__pool_threads(device->pool);
    LR_TRY(lr__arena_take(arena, &j.scratch, threads * TILE * TILE, sizeof(float)));
    lr__blas_enter();
    for (int64_t t = 0; t < tokens; t += CHUNK_TOKENS) {
        j.moved = dense + t * n;
        j.z = compressed + t * n;
        j.tokens = tokens - t < CHUNK_TOKENS ? tokens - t : CHUNK_TOKENS;
        lr__pool_run(device->pool, j.tokens, subtract_item, &j);
        lr__pool_run(device->pool, j.across * j.across, fold_item, &j);
    }
    lr__blas_leave();
    drift->weight += weight * (double)tokens;
done:
    lr__arena_release(arena, mark);
    return status;
}

lr_status lr__drift_solve(lr__drift *drift, double *gram, double ridge) {
    lr_status status = LR_OK;
    int64_t n = drift->size;
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, gram[i * n + i]);
    LR_FAIL_IF(!(drift->weight > 0) || !isfinite(most), LR_E_NUMERIC, "drift of %g over %g", most,
               drift->weight);
    for (int64_t i = 0; i < n; i++)
        gram[i * n + i] += ridge * gram[i * n + i] + DBL_EPSILON * (most > 0 ? most : 1);
    for (int64_t i = 0; i < n * n; i++) {
        drift->cross[i] /= drift->weight;
        LR_FAIL_IF(!isfinite(drift->cross[i]), LR_E_NUMERIC, "drift [%lld, %lld] is %g",
                   (long long)(i / n), (long long)(i % n), drift->cross[i]);
    }
    lr__blas_enter();
    status = lr__dsolve(n, n, gram, drift->cross);
    lr__blas_leave();
    drift->ratio = drift->cross;
    drift->cross = NULL;
done:
    return status;
}

lr_status lr__drift_correct(const lr__drift *drift, double blend, int64_t rows, float *weight) {
    lr_status status = LR_OK;
    int64_t n = drift->size, most = rows < ROWS_AT_ONCE ? rows : ROWS_AT_ONCE;
    double *wide = NULL, *added = NULL;
    lr__dview ratio = lr__dview_of(drift->ratio, n, n);
    lr__blas_enter();
    LR_TRY(lr__new_aligned(&wide, (size_t)(most * n), sizeof *wide));
    LR_TRY(lr__new_aligned(&added, (size_t)(most * n), sizeof *added));
    for (int64_t row = 0; row < rows; row += most) {
        int64_t now = rows - row < most ? rows - row : most;
        float *w = weight + row * n;
        for (int64_t i = 0; i < now * n; i++) wide[i] = (double)w[i];
        LR_TRY(lr__dgemm(blend, lr__dview_of(wide, now, n), ratio, 0, lr__dview_of(added, now, n)));
        for (int64_t i = 0; i < now * n; i++) {
            w[i] = (float)(wide[i] + added[i]);
            LR_FAIL_IF(!isfinite(w[i]), LR_E_NUMERIC, "corrected weight [%lld, %lld] is %g",
                       (long long)(row + i / n), (long long)(i % n), (double)w[i]);
        }
    }
done:
    lr__blas_leave();
    lr__aligned_free(wide);
    lr__aligned_free(added);
    return status;
}
