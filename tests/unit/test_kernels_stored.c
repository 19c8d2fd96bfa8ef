/* dot_stored: bit by bit what widen and dot_tile give, at the ends of arrays and of memory. */
#include "kernels_guard.h"

#include "tensor/dtype.h"

static const int32_t types[] = {LR_F32, LR_BF16, LR_F16, LR_I8, LR_Q8_0, LR_Q4_1};
enum { TYPES = sizeof types / sizeof *types };

/* Random bytes, with binary16 scales that are numbers; other types take the bits of numbers. */
static void fill(int32_t dtype, unsigned char *w, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) w[i] = (unsigned char)guard_random();
    size_t block = dtype == LR_Q8_0 ? 34 : dtype == LR_Q4_1 ? 20 : 0;
    for (size_t i = 0; block && i < bytes; i += block) {
        w[i + 1] = 0x2c; /* 2^-4 and a fraction */
        if (dtype == LR_Q4_1) w[i + 3] = 0xac;
    }
    for (size_t i = 0; dtype == LR_F32 && i < bytes; i += 4) {
        float value = guard_uniform();
        memcpy(w + i, &value, sizeof value);
    }
    for (size_t i = 1; (dtype == LR_BF16 || dtype == LR_F16) && i < bytes; i += 2)
        w[i] = (unsigned char)(0x38 | (w[i] & 0x83)); /* of moderate size, either sign */
}

static void widen_row(const lr__kernels *level, const lr__stored_task *task, int64_t at,
                      float *row) {
    const unsigned char *from = (const unsigned char *)task->w + at * task->row_bytes;
    if (task->dtype != LR_I8) {
        level->widen(task->dtype, from, (size_t)task->k, row);
        return;
    }
    for (int64_t i = 0; i < task->k; i++) {
        float scale;
        const unsigned char *scales = (const unsigned char *)task->scales + at * task->scale_bytes;
        level->widen(LR_F16, scales + i / 32 * 2, 1, &scale);
        row[i] = scale * (float)((const int8_t *)from)[i];
    }
}

static void compare(const lr__kernels *level, const lr__stored_task *task) {
    float *row = guard_matrix(4, 1, task->k, task->k), expected;
    level->dot_stored(task);
    guard_check_front(task->y);
    for (int64_t o = 0; o < task->outs; o++) {
        widen_row(level, task, task->take ? task->take[o] : o, row);
        level->dot_tile(1, 1, task->k, task->x, task->k, row, task->k, &expected, 1);
        if (guard_bits(expected) != guard_bits(task->y[o]) || !isfinite(expected))
            ck_abort_msg("%s type %d, %d x %d, output %d: %.9g, expected %.9g", level->name,
                         task->dtype, (int)task->outs, (int)task->k, (int)o, (double)task->y[o],
                         (double)expected);
    }
}

static void check(const lr__kernels *level, int32_t dtype, int64_t outs, int64_t k) {
    int64_t blocks = (k + 31) / 32, bytes = (int64_t)lr__dtype_bytes(dtype, k);
    unsigned char *w = guard_bytes(0, (size_t)(outs * bytes));
    unsigned char *scales = guard_bytes(1, (size_t)(outs * blocks * 2));
    float *x = guard_vector(2, k), *y = guard_matrix(3, 1, outs, outs);
    fill(dtype, w, (size_t)(outs * bytes));
    fill(LR_F16, scales, (size_t)(outs * blocks * 2));
    lr__stored_task task = {.dtype = dtype, .outs = outs, .k = k, .x = x, .w = w, .y = y};
    task.row_bytes = bytes;
    task.scales = dtype == LR_I8 ? scales : NULL;
    task.scale_bytes = blocks * 2;
    compare(level, &task);
    int32_t backwards[64];
    for (int32_t o = 0; o < outs; o++) backwards[o] = (int32_t)outs - 1 - o;
    task.take = backwards;
    compare(level, &task);
}

START_TEST(equals_widen_and_dot_tile) {
    const lr__kernels *level = guard_level(_i / TYPES);
    int32_t dtype = types[_i % TYPES];
    int64_t step = dtype == LR_Q8_0 || dtype == LR_Q4_1 ? 32 : 1;
    if (!level) return;
    for (int64_t k = step; k <= 100; k += step)
        for (int64_t outs = 1; outs <= 9; outs++) check(level, dtype, outs, k);
    check(level, dtype, 33, 576);
    check(level, dtype, 0, 32);
}
END_TEST

Suite *kernels_stored_suite(void) {
    Suite *suite = suite_create("kernels_stored");
    TCase *tests = tcase_create("dot_stored");
    tcase_add_loop_test(tests, equals_widen_and_dot_tile, 0, GUARD_LEVELS * TYPES);
    suite_add_tcase(suite, tests);
    return suite;
}
