/* Guards around OpenBLAS; which build is loaded is asked at run time. */
#include "backend/blas.h"

#include <cblas.h>
#include <pthread.h>

enum { SERIAL = 0, PTHREAD = 1, OPENMP = 2 };

static pthread_mutex_t region_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t call_lock = PTHREAD_MUTEX_INITIALIZER;
static int region_count, host_threads;
static _Thread_local int caller_threads, caller_depth;

const char *lr__blas_build(void) {
    static const char *const names[] = {"serial", "pthread", "openmp"};
    int build = openblas_get_parallel();
    return names[build == PTHREAD || build == OPENMP ? build : SERIAL];
}

const char *lr__blas_config(void) { return openblas_get_config(); }

void lr__blas_enter(void) {
    if (openblas_get_parallel() == OPENMP) {
        if (!caller_depth++) {
            caller_threads = openblas_get_num_threads();
            openblas_set_num_threads(1);
        }
        return;
    }
    pthread_mutex_lock(&region_lock);
    if (!region_count++) {
        host_threads = openblas_get_num_threads();
        if (host_threads != 1) openblas_set_num_threads(1);
    }
    pthread_mutex_unlock(&region_lock);
}

void lr__blas_leave(void) {
    if (openblas_get_parallel() == OPENMP) {
        if (!--caller_depth) openblas_set_num_threads(caller_threads);
        return;
    }
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

void lr__blas_nn(int64_t m, int64_t n, int64_t k, const float *x, int64_t ldx, const float *w,
                 int64_t ldw, float *y, int64_t ldy) {
    lr__blas_call_begin();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, 1.0f, x,
                (int)ldx, w, (int)ldw, 1.0f, y, (int)ldy);
    lr__blas_call_end();
}
