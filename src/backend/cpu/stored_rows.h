/*
 * dot_stored and widen of one instruction level, both over load(), which widens a vector of stored
 * numbers: so they give the same bits. The file that includes this has defined LEVEL and
 * LEVEL_INLINE, the marks of its functions; VECTOR, of LANES binary32; zero, get, put, hold,
 * multiply_add, sum_four and put_four on them; and load.
 */
#include "backend/cpu/plain.h"

#include "tensor/dtype.h"

enum { OUTS = 4, PARTS = LR__BLOCK / LANES };

/* The sum of one output, before its lanes are joined, in the order of dot_tile. */
LEVEL_INLINE VECTOR sum_row(const int dtype, const lr__stored_task *task, int64_t out) {
    int64_t at = task->take ? task->take[out] : out;
    const unsigned char *row = (const unsigned char *)task->w + at * task->row_bytes;
    const unsigned char *scales =
        dtype == LR_I8 ? (const unsigned char *)task->scales + at * task->scale_bytes : NULL;
    VECTOR acc = zero();
    int64_t i = 0, k = task->k;
    for (; i + LR__BLOCK <= k; i += LR__BLOCK) {
        lr__ask_ahead(dtype, row, i);
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++)
            acc = multiply_add(get(task->x + i + LANES * part, LANES),
                               load(dtype, part, row, scales, i, LANES), acc);
    }
#pragma GCC unroll 4
    for (int part = 0; part < PARTS; part++) {
        int64_t left = k - i - LANES * part;
        if (left > 0)
            acc = multiply_add(get(task->x + i + LANES * part, left),
                               load(dtype, part, row, scales, i, left), acc);
    }
    return acc;
}

/* Row after row, the order in which memory is read fastest; those past the last output repeat it
 * and are not stored. */
LEVEL_INLINE void dot_rows(const int dtype, const lr__stored_task *task) {
    for (int64_t out = 0; out < task->outs; out += OUTS) {
        int64_t valid = task->outs - out < OUTS ? task->outs - out : OUTS;
        VECTOR acc[OUTS];
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
            acc[o] = hold(sum_row(dtype, task, out + (o < valid ? o : valid - 1)));
        put_four(task->y + out, valid, sum_four(acc[0], acc[1], acc[2], acc[3]));
    }
}

LEVEL static void dot_stored(const lr__stored_task *task) {
    switch (task->dtype) {
    case LR_F32: dot_rows(LR_F32, task); break;
    case LR_BF16: dot_rows(LR_BF16, task); break;
    case LR_F16: dot_rows(LR_F16, task); break;
    case LR_I8: dot_rows(LR_I8, task); break;
    case LR_Q8_0: dot_rows(LR_Q8_0, task); break;
    default: dot_rows(LR_Q4_1, task); break;
    }
}

/* Whole blocks; returns how many numbers that is. */
LEVEL_INLINE size_t widen_blocks(const int dtype, const unsigned char *src, size_t n, float *dst) {
    size_t i = 0;
    for (; i + LR__BLOCK <= n; i += LR__BLOCK)
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++)
            put(dst + i + LANES * part, LANES, load(dtype, part, src, NULL, (int64_t)i, LANES));
    return i;
}

/* What fills no block goes through the plain C form, whose bits are the same. */
LEVEL static void widen(int32_t dtype, const void *src, size_t n, float *dst) {
    const unsigned char *bytes = src;
    size_t done = 0;
    switch (dtype) {
    case LR_F64: done = widen_f64(bytes, n, dst); break;
    case LR_BF16: done = widen_blocks(LR_BF16, bytes, n, dst); break;
    case LR_F16: done = widen_blocks(LR_F16, bytes, n, dst); break;
    case LR_Q8_0: done = widen_blocks(LR_Q8_0, bytes, n, dst); break;
    case LR_Q4_1: done = widen_blocks(LR_Q4_1, bytes, n, dst); break;
    default: break;
    }
    if (done < n)
        lr__widen_c(dtype, bytes + lr__dtype_bytes(dtype, (int64_t)done), n - done, dst + done);
}
