/* Arrays that end where memory ends: reading or writing one byte too far is a fault, and the bytes
 * before and between rows are checked for change. Shared by the suites of the kernels. */
#ifndef TESTS_KERNELS_GUARD_H
#define TESTS_KERNELS_GUARD_H

#include "backend/kernels.h"

#include <check.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GUARD_SLOTS = 8, GUARD_BYTES = 1 << 23, GUARD_FRONT = 128 };

static const char *const guard_levels[] = {"c", "avx2", "avx512"};
enum { GUARD_LEVELS = 3 };

/* The level of a loop test; NULL where this machine lacks it. */
static inline const lr__kernels *guard_level(int i) { return lr__kernels_named(guard_levels[i]); }

/* `bytes` bytes that end at a page without access; a slot holds one array at a time. */
static inline void *guard_bytes(int slot, size_t bytes) {
    static unsigned char *maps[GUARD_SLOTS];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes + GUARD_FRONT > GUARD_BYTES) ck_abort_msg("%zu bytes do not fit", bytes);
    if (!maps[slot]) {
        maps[slot] = mmap(NULL, GUARD_BYTES + page, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (maps[slot] == MAP_FAILED) ck_abort_msg("mmap");
        if (mprotect(maps[slot] + GUARD_BYTES, page, PROT_NONE)) ck_abort_msg("mprotect");
    }
    unsigned char *data = maps[slot] + GUARD_BYTES - bytes;
    memset(data - GUARD_FRONT, 0xa5, bytes + GUARD_FRONT);
    return data;
}

static inline void guard_check_front(const void *data) {
    const unsigned char *bytes = data;
    for (int i = 1; i <= GUARD_FRONT; i++)
        if (bytes[-i] != 0xa5) ck_abort_msg("byte -%d was written", i);
}

/* A matrix whose rows are ld apart; the last ends the array. */
static inline float *guard_matrix(int slot, int64_t rows, int64_t cols, int64_t ld) {
    return guard_bytes(slot, rows ? (size_t)((rows - 1) * ld + cols) * sizeof(float) : 0);
}

static inline void guard_check_gaps(const float *data, int64_t rows, int64_t cols, int64_t ld) {
    guard_check_front(data);
    for (int64_t r = 0; r + 1 < rows; r++)
        for (int64_t c = cols; c < ld; c++) {
            uint32_t bits;
            memcpy(&bits, data + r * ld + c, sizeof bits);
            if (bits != 0xa5a5a5a5u) ck_abort_msg("gap written at row %d", (int)r);
        }
}

static uint64_t guard_state = 88172645463325252u;

static inline uint64_t guard_random(void) {
    guard_state ^= guard_state << 13;
    guard_state ^= guard_state >> 7;
    guard_state ^= guard_state << 17;
    return guard_state;
}

/* Uniform in [-1, 1). */
static inline float guard_uniform(void) {
    return (float)((double)(guard_random() >> 11) * 0x1p-52 - 1.0);
}

static inline void guard_fill(float *data, int64_t rows, int64_t cols, int64_t ld) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) data[r * ld + c] = guard_uniform();
}

static inline float *guard_vector(int slot, int64_t n) {
    float *data = guard_matrix(slot, 1, n, n);
    guard_fill(data, 1, n, n);
    return data;
}

static inline uint32_t guard_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float guard_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline int guard_same(float a, float b) {
    return guard_bits(a) == guard_bits(b) || (isnan(a) && isnan(b));
}

#endif
