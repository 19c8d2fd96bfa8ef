/* The two functions of oneDNN's C interface that are used, and the OpenMP count of the thread. */
#include "backend/onednn.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*sgemm_fn)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t,
                        const float *, int64_t, float, float *, int64_t);
typedef struct version_info {
    int major, minor, patch;
} version_info;
typedef const version_info *(*version_fn)(void);
typedef void (*set_threads_fn)(int);
typedef int (*get_threads_fn)(void);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static sgemm_fn sgemm;
static set_threads_fn set_threads; /* NULL in builds without OpenMP */
static get_threads_fn get_threads;
static char version[32] = "none";

/* Functions are taken by copying their address: ISO C has no conversion for it. */
static void load(void) {
    static const char *const names[] = {"libdnnl.so.3", "libdnnl.so.2"};
    const char *wanted = getenv("LOWRANK_SGEMM");
    void *library = NULL, *address;
    version_fn get_version;
    if (wanted && !strcmp(wanted, "openblas")) return;
    for (size_t i = 0; !library && i < sizeof names / sizeof *names; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    address = dlsym(library, "omp_set_num_threads");
    memcpy(&set_threads, &address, sizeof address);
    address = dlsym(library, "omp_get_max_threads");
    memcpy(&get_threads, &address, sizeof address);
    address = dlsym(library, "dnnl_version");
    memcpy(&get_version, &address, sizeof address);
    if (get_version)
        snprintf(version, sizeof version, "%d.%d.%d", get_version()->major, get_version()->minor,
                 get_version()->patch);
    address = dlsym(library, "dnnl_sgemm");
    memcpy(&sgemm, &address, sizeof address);
}

int lr__onednn_nt(int64_t m, int64_t n, int64_t k, float alpha, const float *x, int64_t ldx,
                  const float *w, int64_t ldw, float beta, float *y, int64_t ldy) {
    pthread_once(&once, load);
    if (!sgemm) return 0;
    if (set_threads) set_threads(1);
    return sgemm('N', 'T', m, n, k, alpha, x, ldx, w, ldw, beta, y, ldy) == 0;
}

int lr__onednn_threads(void) {
    pthread_once(&once, load);
    return sgemm && set_threads && get_threads ? get_threads() : 0;
}

void lr__onednn_restore(int threads) {
    if (threads) set_threads(threads);
}

const char *lr__onednn_version(void) {
    pthread_once(&once, load);
    return version;
}
