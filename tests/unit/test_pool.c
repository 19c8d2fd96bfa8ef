/* The team of threads, and scratch memory that is given back to a mark. */
#include "base/arena.h"
#include "base/pool.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct tally {
    lr__pool *pool;
    _Atomic int32_t seen[300];
    _Atomic int32_t inside[64]; /* of each thread number */
    _Atomic int32_t clashes, nested, wrong_thread;
    pthread_t owner;
} tally;

static lr__pool *new_pool(int32_t threads) {
    lr__pool *pool;
    ck_assert_msg(lr__pool_new(&pool, threads) == LR_OK, "%s", lr_last_error());
    return pool;
}

/* Two items never run under one thread number at once: scratch memory hangs on that. */
static void count_item(void *work, int64_t index, int32_t thread) {
    tally *t = work;
    if (thread < 0 || thread >= lr__pool_threads(t->pool))
        t->wrong_thread++;
    else if (t->inside[thread]++)
        t->clashes++;
    t->seen[index]++;
    if (thread >= 0 && thread < 64) t->inside[thread]--;
}

static void check_counts(tally *t, int64_t count, int32_t expected) {
    for (int64_t i = 0; i < count; i++) ck_assert_int_eq(t->seen[i], expected);
    ck_assert_int_eq(t->clashes, 0);
    ck_assert_int_eq(t->wrong_thread, 0);
}

static const int32_t team_sizes[] = {1, 2, 3, 8};

START_TEST(many_small_runs) {
    lr__pool *pool = new_pool(team_sizes[_i]);
    tally *t = calloc(1, sizeof *t);
    t->pool = pool;
    ck_assert_int_eq(lr__pool_threads(pool), team_sizes[_i]);
    for (int32_t run = 0; run < 3000; run++) {
        if (run % 500 == 0) usleep(3000); /* workers fall asleep */
        if (run % 100 == 50) lr__pool_hold(pool);
        if (run % 100 == 90) lr__pool_release(pool);
        lr__pool_run(pool, run % 7, count_item, t);
    }
    for (int64_t i = 0; i < 7; i++) { /* runs of more than i items */
        int32_t expected = 0;
        for (int32_t run = 0; run < 3000; run++) expected += run % 7 > i;
        ck_assert_int_eq(t->seen[i], expected);
    }
    ck_assert_int_eq(t->clashes + t->wrong_thread, 0);
    lr__pool_free(pool);
    free(t);
}
END_TEST

static void run_nested(void *work, int64_t index, int32_t thread) {
    tally *t = work;
    (void)index;
    (void)thread;
    tally *inner = calloc(1, sizeof *inner);
    inner->pool = t->pool;
    lr__pool_run(t->pool, 20, count_item, inner);
    for (int i = 0; i < 20; i++) t->nested += inner->seen[i];
    t->clashes += inner->clashes;
    free(inner);
}

START_TEST(nested_runs) {
    tally *t = calloc(1, sizeof *t);
    t->pool = new_pool(4);
    for (int i = 0; i < 50; i++) lr__pool_run(t->pool, 30, run_nested, t);
    ck_assert_int_eq(t->nested, 50 * 30 * 20);
    ck_assert_int_eq(t->clashes, 0);
    lr__pool_free(t->pool);
    free(t);
}
END_TEST

static void *run_often(void *user) {
    tally *t = user;
    for (int i = 0; i < 2000; i++) lr__pool_run(t->pool, 40, count_item, t);
    return NULL;
}

START_TEST(runs_from_several_threads) {
    enum { CALLERS = 4 };
    lr__pool *pool = new_pool(3);
    tally *t = calloc(CALLERS, sizeof *t);
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        t[i].pool = pool;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, run_often, &t[i]), 0);
    }
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
        check_counts(&t[i], 40, 2000);
    }
    lr__pool_free(pool);
    free(t);
}
END_TEST

static void note_owner(void *work, int64_t index, int32_t thread) {
    tally *t = work;
    count_item(work, index, thread);
    if (!pthread_equal(t->owner, pthread_self())) t->nested++;
}

static int run_in_child(lr__pool *pool) {
    tally *t = calloc(1, sizeof *t);
    t->pool = pool;
    t->owner = pthread_self();
    for (int i = 0; i < 10; i++) lr__pool_run(pool, 100, note_owner, t);
    int wrong = t->nested != 0 || t->clashes != 0;
    for (int i = 0; i < 100; i++) wrong |= t->seen[i] != 10;
    free(t);
#ifndef __SANITIZE_THREAD__ /* which ends a child that makes threads */
    lr__pool *fresh;
    if (lr__pool_new(&fresh, 2)) return 2;
    lr__pool_free(fresh);
#endif
    lr__pool_free(pool);
    return wrong;
}

static void fork_item(void *work, int64_t index, int32_t thread) {
    (void)thread;
    if (index != 5) return;
    pid_t child = fork(), *out = work;
    if (!child) _exit(0);
    *out = child;
}

/* A child's runs are its own thread's; also when the fork happens in the middle of a run. */
START_TEST(fork_leaves_the_caller_alone) {
    lr__pool *pool = new_pool(4);
    tally *t = calloc(1, sizeof *t);
    int state = -1;
    pid_t inside = 0;
    t->pool = pool;
    lr__pool_run(pool, 100, count_item, t);
    lr__pool_hold(pool);
    pid_t child = fork();
    if (!child) _exit(run_in_child(pool));
    ck_assert_int_eq(waitpid(child, &state, 0), child);
    ck_assert(WIFEXITED(state) && WEXITSTATUS(state) == 0);
    lr__pool_run(pool, 30, fork_item, &inside);
    ck_assert_int_eq(waitpid(inside, &state, 0), inside);
    ck_assert(WIFEXITED(state) && WEXITSTATUS(state) == 0);
    lr__pool_release(pool);
    lr__pool_run(pool, 100, count_item, t);
    check_counts(t, 100, 2);
    lr__pool_free(pool);
    free(t);
}
END_TEST

/* Stacks that no address space holds: the system refuses every thread. */
START_TEST(refused_threads) {
    pthread_attr_t usual, huge;
    lr__pool *pool = NULL;
    tally *t = calloc(1, sizeof *t);
    ck_assert_int_eq(pthread_getattr_default_np(&usual), 0);
    pthread_attr_init(&huge);
    ck_assert_int_eq(pthread_attr_setstacksize(&huge, (size_t)1 << 50), 0);
    ck_assert_int_eq(pthread_setattr_default_np(&huge), 0);
    lr_status status = lr__pool_new(&pool, 8);
    pthread_setattr_default_np(&usual);
    ck_assert_int_eq(status, LR_OK);
    ck_assert_int_eq(lr__pool_threads(pool), 1);
    t->pool = pool;
    lr__pool_run(pool, 100, count_item, t);
    check_counts(t, 100, 1);
    lr__pool_free(pool);
    ck_assert_int_eq(lr__pool_new(&pool, 0), LR_E_INVALID);
    ck_assert_int_eq(lr__pool_new(&pool, 100000), LR_E_INVALID);
    ck_assert_ptr_null(pool);
    lr__pool_free(NULL);
    ck_assert_int_ge(lr__default_threads(), 1);
    pthread_attr_destroy(&huge);
    pthread_attr_destroy(&usual);
    free(t);
}
END_TEST

/* ---- scratch memory ---- */

/* Takes of all sizes, nested marks; what lives is never handed out twice. */
START_TEST(takes_do_not_overlap) {
    enum { DEPTH = 40 };
    lr__arena arena = {0};
    lr__arena_mark marks[DEPTH];
    unsigned char *blocks[DEPTH];
    size_t sizes[DEPTH];
    uint64_t random = 1;
    int depth = 0;
    for (int turn = 0; turn < 20000; turn++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        if (depth == DEPTH || (depth && random >> 62 == 0)) { /* back to a random mark */
            depth = (int)((random >> 32) % (uint64_t)depth);
            lr__arena_release(&arena, marks[depth]);
            continue;
        }
        size_t size = (random >> 60) % 5 ? (random >> 33) % 3000 : (random >> 33) % 3000000;
        if (turn > 2000) size %= 100000;
        marks[depth] = lr__arena_here(&arena);
        ck_assert_int_eq(lr__arena_take(&arena, &blocks[depth], size, 1), LR_OK);
        ck_assert_uint_eq((uintptr_t)blocks[depth] % 64, 0);
        sizes[depth] = size;
        if (size) blocks[depth][0] = blocks[depth][size - 1] = (unsigned char)depth;
        depth++;
        for (int i = 0; i < depth; i++) {
            if (!sizes[i]) continue;
            ck_assert_int_eq(blocks[i][0], i);
            ck_assert_int_eq(blocks[i][sizes[i] - 1], i);
        }
    }
    lr__arena_clear(&arena);
    lr__arena_clear(&arena);
}
END_TEST

START_TEST(impossible_takes) {
    lr__arena arena = {0};
    float *out;
    ck_assert_int_eq(lr__arena_take(&arena, &out, SIZE_MAX / 2, 4), LR_E_NOMEM);
    ck_assert_int_eq(lr__arena_take(&arena, &out, SIZE_MAX - 3, 1), LR_E_NOMEM);
    ck_assert_int_eq(lr__arena_take(&arena, &out, 10, 4), LR_OK);
    out[9] = 1;
    lr__arena_clear(&arena);
}
END_TEST

Suite *pool_suite(void) {
    Suite *suite = suite_create("pool");
    TCase *threads = tcase_create("threads"), *arena = tcase_create("arena");
    tcase_set_timeout(threads, 60);
    tcase_add_loop_test(threads, many_small_runs, 0, 4);
    tcase_add_test(threads, nested_runs);
    tcase_add_test(threads, runs_from_several_threads);
    tcase_add_test(threads, fork_leaves_the_caller_alone);
    tcase_add_test(threads, refused_threads);
    tcase_add_test(arena, takes_do_not_overlap);
    tcase_add_test(arena, impossible_takes);
    suite_add_tcase(suite, threads);
    suite_add_tcase(suite, arena);
    return suite;
}
