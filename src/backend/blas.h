/* OpenBLAS as the library uses it: one thread for each call, many calls at once (docs/threads.md).
 */
#ifndef LR_BACKEND_BLAS_H
#define LR_BACKEND_BLAS_H

#include <stdint.h>

/* Around every region whose calls reach BLAS or LAPACK: OpenBLAS's own threading is off inside. */
void lr__blas_enter(void);
void lr__blas_leave(void);

/* Around each single call, on the thread that makes it: serialises builds that are not safe for
 * concurrent callers, and sets the per-thread count of the OpenMP build. */
void lr__blas_call_begin(void);
void lr__blas_call_end(void);

/* "pthread", "openmp" or "serial". */
const char *lr__blas_build(void);
/* Version and kernel, "OpenBLAS 0.3.21 ... SkylakeX MAX_THREADS=64". */
const char *lr__blas_config(void);

/* Y[m, n] += X[m, k] W[k, n], row-major, as one call. */
void lr__blas_nn(int64_t m, int64_t n, int64_t k, const float *x, int64_t ldx, const float *w,
                 int64_t ldw, float *y, int64_t ldy);

#endif
