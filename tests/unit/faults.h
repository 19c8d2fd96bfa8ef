/* An allocator that counts what is alive and refuses the n-th request. */
#ifndef TESTS_FAULTS_H
#define TESTS_FAULTS_H

#include <lowrank/base.h>

#include <stdlib.h>

static long faults_asked, faults_alive, faults_refuse_at = -1;

static inline void *faults_alloc(size_t bytes, void *user) {
    (void)user;
    if (faults_asked++ == faults_refuse_at) return NULL;
    void *block = malloc(bytes);
    if (block) faults_alive++;
    return block;
}

static inline void *faults_realloc(void *block, size_t bytes, void *user) {
    (void)user;
    if (faults_asked++ == faults_refuse_at) return NULL;
    void *moved = realloc(block, bytes);
    if (moved && !block) faults_alive++;
    return moved;
}

static inline void faults_free(void *block, void *user) {
    (void)user;
    if (block) faults_alive--;
    free(block);
}

/* From here on request number `refuse_at` (from 0) fails; -1 only counts. */
static inline void faults_begin(long refuse_at) {
    lr_alloc_ops ops = {sizeof ops, faults_alloc, faults_realloc, faults_free, NULL};
    faults_asked = faults_alive = 0;
    faults_refuse_at = refuse_at;
    lr_set_alloc(&ops);
}

/* Returns what was left alive. */
static inline long faults_end(void) {
    lr_set_alloc(NULL);
    return faults_alive;
}

#endif
