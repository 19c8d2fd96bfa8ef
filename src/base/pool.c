/*
 * A team of threads. A run is opened by a new generation number; workers that are awake join it by
 * raising `active` before they look whether it is still open, so the caller never waits for one
 * that sleeps: it closes the run and waits for those that joined. In a forked child, where the
 * workers are gone, every run is done by the caller alone.
 */
#include "base/pool.h"

#include "base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SPINS_IDLE = 2000, SPINS_HELD = 20000, SPINS_BEFORE_YIELD = 2000, MOST_THREADS = 1024 };

typedef struct worker {
    lr__pool *pool;
    pthread_t handle;
    int32_t thread;
} worker;

struct lr__pool {
    pthread_mutex_t busy; /* held by the caller whose run is under way */
    int32_t threads;
    worker *workers;
    unsigned fork_epoch;

    _Atomic uint32_t generation;
    _Atomic int32_t is_open, active, held, stopping, sleepers;
    _Atomic int64_t next;
    int64_t count;
    lr__pool_fn fn;
    void *work;

    pthread_mutex_t sleep_lock;
    pthread_cond_t wake;
};

static atomic_uint fork_epoch;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static _Thread_local int32_t is_inside;

static void note_fork(void) { atomic_fetch_add(&fork_epoch, 1); }

static void watch_fork(void) { pthread_atfork(NULL, NULL, note_fork); }

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static void take_items(lr__pool *pool, int32_t thread) {
    int64_t index;
    while ((index = atomic_fetch_add(&pool->next, 1)) < pool->count)
        pool->fn(pool->work, index, thread);
}

static void sleep_until_wanted(lr__pool *pool, uint32_t seen) {
    pthread_mutex_lock(&pool->sleep_lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->generation) == seen && !atomic_load(&pool->stopping))
        pthread_cond_wait(&pool->wake, &pool->sleep_lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->sleep_lock);
}

static void wait_for_run(lr__pool *pool, uint32_t seen) {
    for (int64_t spins = 0;; spins++) {
        if (atomic_load(&pool->generation) != seen || atomic_load(&pool->stopping)) return;
        if (spins >= (atomic_load(&pool->held) ? SPINS_HELD : SPINS_IDLE)) break;
        relax();
    }
    sleep_until_wanted(pool, seen);
}

static void *work_loop(void *argument) {
    worker *self = argument;
    lr__pool *pool = self->pool;
    uint32_t seen = 0;
    is_inside = 1;
    for (;;) {
        wait_for_run(pool, seen);
        if (atomic_load(&pool->stopping)) return NULL;
        seen = atomic_load(&pool->generation);
        atomic_fetch_add(&pool->active, 1);
        if (atomic_load(&pool->is_open)) take_items(pool, self->thread);
        atomic_fetch_sub(&pool->active, 1);
    }
}

static void wake_sleepers(lr__pool *pool) {
    if (!atomic_load(&pool->sleepers)) return;
    pthread_mutex_lock(&pool->sleep_lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->sleep_lock);
}

static void run_alone(int64_t count, lr__pool_fn fn, void *work) {
    for (int64_t i = 0; i < count; i++) fn(work, i, 0);
}

void lr__pool_run(lr__pool *pool, int64_t count, lr__pool_fn fn, void *work) {
    if (count <= 1 || pool->threads == 1 || is_inside ||
        pool->fork_epoch != atomic_load(&fork_epoch) || pthread_mutex_trylock(&pool->busy)) {
        run_alone(count, fn, work);
        return;
    }
    is_inside = 1;
    pool->fn = fn;
    pool->work = work;
    pool->count = count;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->is_open, 1);
    atomic_fetch_add(&pool->generation, 1);
    wake_sleepers(pool);
    take_items(pool, 0);
    atomic_store(&pool->is_open, 0);
    for (int64_t spins = 0; atomic_load(&pool->active); spins++) {
        if (spins < SPINS_BEFORE_YIELD)
            relax();
        else
            sched_yield();
    }
    is_inside = 0;
    pthread_mutex_unlock(&pool->busy);
}

void lr__pool_hold(lr__pool *pool) { atomic_fetch_add(&pool->held, 1); }

void lr__pool_release(lr__pool *pool) { atomic_fetch_sub(&pool->held, 1); }

int32_t lr__pool_threads(const lr__pool *pool) { return pool->threads; }

/* The host's signals stay with the host's threads. */
static void start_workers(lr__pool *pool, int32_t wanted) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int32_t i = 0; i + 1 < wanted; i++) {
        worker *w = &pool->workers[i];
        w->pool = pool;
        w->thread = i + 1;
        if (pthread_create(&w->handle, NULL, work_loop, w)) break;
        pool->threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

lr_status lr__pool_new(lr__pool **out, int32_t threads) {
    lr_status status = LR_OK;
    lr__pool *pool = NULL;
    *out = NULL;
    if (threads < 1 || threads > MOST_THREADS)
        return lr__fail(LR_E_INVALID, "threads: %d, expected 1 to %d", threads, MOST_THREADS);
    pthread_once(&fork_once, watch_fork);
    LR_TRY(lr__new(&pool, 1, sizeof *pool));
    pthread_mutex_init(&pool->busy, NULL);
    pthread_mutex_init(&pool->sleep_lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->threads = 1;
    pool->fork_epoch = atomic_load(&fork_epoch);
    LR_TRY(lr__new(&pool->workers, (size_t)threads, sizeof *pool->workers));
    start_workers(pool, threads);
    *out = pool;
    pool = NULL;
done:
    lr__pool_free(pool);
    return status;
}

void lr__pool_free(lr__pool *pool) {
    if (!pool) return;
    if (pool->fork_epoch == atomic_load(&fork_epoch)) {
        pthread_mutex_lock(&pool->sleep_lock);
        atomic_store(&pool->stopping, 1);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->sleep_lock);
        for (int32_t i = 0; i + 1 < pool->threads; i++) pthread_join(pool->workers[i].handle, NULL);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->sleep_lock);
        pthread_mutex_destroy(&pool->busy);
    }
    lr__free(pool->workers);
    lr__free(pool);
}

/* CPUs' worth of time a cgroup grants, rounded up; `most` when there is no limit. */
static int32_t quota_of_file(const char *path, const char *period_path, int32_t most) {
    char text[128];
    FILE *file = fopen(path, "re");
    if (!file) return most;
    size_t used = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[used] = '\0';
    char *end;
    long long quota = strtoll(text, &end, 10), period = strtoll(end, NULL, 10);
    if (end == text) return most;
    if (period_path) {
        file = fopen(period_path, "re");
        if (!file) return most;
        used = fread(text, 1, sizeof text - 1, file);
        fclose(file);
        text[used] = '\0';
        period = strtoll(text, NULL, 10);
    }
    if (quota <= 0 || period <= 0) return most;
    long long cpus = (quota + period - 1) / period;
    return cpus < most ? (int32_t)cpus : most;
}

int32_t lr__default_threads(void) {
    cpu_set_t set;
    int32_t count = 1;
    if (!sched_getaffinity(0, sizeof set, &set)) count = CPU_COUNT(&set);
    count = quota_of_file("/sys/fs/cgroup/cpu.max", NULL, count);
    count = quota_of_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                          "/sys/fs/cgroup/cpu/cpu.cfs_period_us", count);
    return count < 1 ? 1 : count > MOST_THREADS ? MOST_THREADS : count;
}
