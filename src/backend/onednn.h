/* oneDNN's SGEMM where the library is installed: it packs less than OpenBLAS (docs/threads.md).
 * Loaded at run time, never linked. */
#ifndef LR_BACKEND_ONEDNN_H
#define LR_BACKEND_ONEDNN_H

#include <stdint.h>

/* Y[m, n] = alpha X[m, k] W[n, k]' + beta Y, row-major, on the calling thread. 0 where there is no
 * oneDNN, it refused the call, or $LOWRANK_SGEMM is "openblas": then nothing was written. */
int lr__onednn_nt(int64_t m, int64_t n, int64_t k, float alpha, const float *x, int64_t ldx,
                  const float *w, int64_t ldw, float beta, float *y, int64_t ldy);

/* OpenMP's count of this thread, which lr__onednn_nt sets to 1: around a region of calls on a
 * thread that is not the library's own. 0 where there is none to keep. */
int lr__onednn_threads(void);
void lr__onednn_restore(int threads);

/* "2.6.3", or "none". */
const char *lr__onednn_version(void);

#endif
