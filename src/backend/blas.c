/* Guards around OpenBLAS; which build is loaded is asked at run time. */
#include "backend/blas.h"

#include "backend/onednn.h"

#include <cblas.h>
#include <pthread.h>

enum { SERIAL = 0, PTHREAD = 1, OPENMP = 2 };

static pthread_mutex_t region_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t call_lock = PTHREAD_MUTEX_INITIALIZER;
static int region_count, host_threads;
static _Thread_local int caller_threads, caller_depth, openmp_threads;

const char *lr__blas_build(void) {
    static const char *const names[] = {"serial", "pthread", "openmp"};
    int build = openblas_get_parallel();
    return names[build == PTHREAD || build == OPENMP ? build : SERIAL];
}

const char *lr__blas_config(void) { return openblas_get_config(); }

void lr__blas_enter(void) {
    int is_openmp = openblas_get_parallel() == OPENMP;
    if (!caller_depth++) {
        openmp_threads = lr__onednn_threads();
        if (is_openmp) caller_threads = openblas_get_num_threads();
        if (is_openmp) openblas_set_num_threads(1);
    }
    if (is_openmp) return;
    pthread_mutex_lock(&region_lock);
    if (!region_count++) {
        host_threads = openblas_get_num_threads();
        if (host_threads != 1) openblas_set_num_threads(1);
    }
    pthread_mutex_unlock(&region_lock);
}

void lr__blas_leave(void) {
    int is_openmp = openblas_get_parallel() == OPENMP;
    if (!--caller_depth) {
        if (is_openmp) openblas_set_num_threads(caller_threads);
        lr__onednn_restore(openmp_threads);
    }
    if (is_openmp) return;
    pthread_mutex_lock(&region_lock);
    if (!--region_count && host_threads != 1) openblas_set_num_threads(host_threads);
    pthread_mutex_unlock(&region_lock);
}

void lr__blas_call_begin(void) {
    int build = openblas_get_parallel();
    if (build == OPENMP && !caller_depth) openblas_set_num_threads(1);
    if (build == SERIAL) pthread_mutex_lock(&call_lock);
}

void lr__blas_call_end(void) {
    if (openblas_get_parallel() == SERIAL) pthread_mutex_unlock(&call_lock);
}

void lr__blas_nt(int64_t m, int64_t n, int64_t k, float alpha, const float *x, int64_t ldx,
                 const float *w, int64_t ldw, float beta, float *y, int64_t ldy) {
    if (lr__onednn_nt(m, n, k, alpha, x, ldx, w, ldw, beta, y, ldy)) return;
    lr__blas_call_begin();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)k, alpha, x, (int)ldx,
                w, (int)ldw, beta, y, (int)ldy);
    lr__blas_call_end();
}

void lr__blas_nn(int64_t m, int64_t n, int64_t k, const float *x, int64_t ldx, const float *w,
                 int64_t ldw, float *y, int64_t ldy) {
    lr__blas_call_begin();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, 1.0f, x,
                (int)ldx, w, (int)ldw, 1.0f, y, (int)ldy);
    lr__blas_call_end();
}
