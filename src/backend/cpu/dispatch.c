/* Which kernels this machine runs: each level is filled from plain C upwards, so a slot that a
 * level lacks keeps the form below it. */
#include "backend/kernels.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include "backend/cpu/level_avx512.h"

#include <cpuid.h>
#endif

enum { LEVELS = 3 };

static const char *const level_names[LEVELS] = {"c", "avx2", "avx512"};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static lr__kernels tables[LEVELS];
static int levels_here; /* how many of the tables this machine can run */
static int best;
static lr__panels_fn pairs;

#if defined(__x86_64__)
/* Clang's __builtin_cpu_supports does not know F16C. */
static int has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static int count_levels(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return 2;
    return 3;
}

static lr__panels_fn choose_pairs(void) {
    const char *form = getenv("LOWRANK_BF16");
    if (best + 1 < LEVELS) return NULL;
    if (form && !strcmp(form, "plain")) return lr__multiply_pairs_avx512;
    return __builtin_cpu_supports("avx512bf16") ? lr__multiply_pairs_avx512bf16 : NULL;
}
#else
static int count_levels(void) { return 1; }
static lr__panels_fn choose_pairs(void) { return NULL; }
#endif

/* A value we do not know caps nothing. */
static int capped(int level) {
    const char *cap = getenv("LOWRANK_MAX_ISA");
    for (int i = 0; cap && i < level; i++)
        if (!strcmp(cap, level_names[i])) return i;
    return level;
}

static void fill_tables(void) {
    void (*const fill[LEVELS])(lr__kernels *) = {lr__kernels_fill_c, lr__kernels_fill_avx2,
                                                 lr__kernels_fill_avx512};
    levels_here = count_levels();
    for (int level = 0; level < levels_here; level++) {
        for (int i = 0; i <= level; i++) fill[i](&tables[level]);
        tables[level].name = level_names[level];
    }
    best = capped(levels_here - 1);
    pairs = choose_pairs();
}

const lr__kernels *lr__kernels_best(void) {
    pthread_once(&once, fill_tables);
    return &tables[best];
}

lr__panels_fn lr__multiply_pairs_best(void) {
    pthread_once(&once, fill_tables);
    return pairs;
}

const lr__kernels *lr__kernels_named(const char *name) {
    pthread_once(&once, fill_tables);
    for (int level = 0; level < levels_here; level++)
        if (!strcmp(name, level_names[level])) return &tables[level];
    return NULL;
}
