/* A team of threads that splits outputs: the only parallelism of the library (docs/threads.md). */
#ifndef LR_BASE_POOL_H
#define LR_BASE_POOL_H

#include "base/status.h"

typedef struct lr__pool lr__pool;

/* Work on item `index`; `thread` is 0 .. lr__pool_threads() - 1 and picks scratch memory. */
typedef void (*lr__pool_fn)(void *work, int64_t index, int32_t thread);

/* Threads the process may use: the least of its affinity mask and its cgroup's CPU quota. */
int32_t lr__default_threads(void);

/* Makes threads - 1 workers; fewer, without an error, when the system refuses more. */
lr_status lr__pool_new(lr__pool **out, int32_t threads);
void lr__pool_free(lr__pool *pool);
int32_t lr__pool_threads(const lr__pool *pool);

/* Runs fn for index 0 .. count - 1 on all threads, the caller's included, and waits. Items are
 * handed out as they are asked for; fn must not depend on which thread runs it. A call from
 * another thread while the pool is busy, from inside fn, or in a forked child runs alone on its
 * own thread as `thread` 0: scratch memory must belong to the caller, never to the pool. */
void lr__pool_run(lr__pool *pool, int64_t count, lr__pool_fn fn, void *work);

/* Between hold and release workers wait by spinning, so that the many small runs of a decoding
 * step cost one wake-up. Calls may nest. */
void lr__pool_hold(lr__pool *pool);
void lr__pool_release(lr__pool *pool);

#endif
