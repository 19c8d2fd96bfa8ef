/* dot_tile: against binary64, and bit by bit against each number computed alone. */
#include "kernels_guard.h"

static const lr__kernels *level;

static void check_product(int64_t rows, int64_t outs, int64_t k, int64_t ldx, int64_t ldw,
                          int64_t ldy) {
    float *x = guard_matrix(0, rows, k, ldx), *w = guard_matrix(1, outs, k, ldw);
    float *y = guard_matrix(2, rows, outs, ldy);
    guard_fill(x, rows, k, ldx);
    guard_fill(w, outs, k, ldw);
    level->dot_tile(rows, outs, k, x, ldx, w, ldw, y, ldy);
    guard_check_gaps(y, rows, outs, ldy);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < outs; o++) {
            double sum = 0, size = 0;
            for (int64_t i = 0; i < k; i++) {
                double product = (double)x[r * ldx + i] * w[o * ldw + i];
                sum += product;
                size += fabs(product);
            }
            if (!(fabs(y[r * ldy + o] - sum) <= 1e-6 * size))
                ck_abort_msg("%s %dx%dx%d at %d, %d: %.9g, expected %.9g", level->name, (int)rows,
                             (int)outs, (int)k, (int)r, (int)o, (double)y[r * ldy + o], sum);
        }
}

START_TEST(matches_binary64) {
    if (!(level = guard_level(_i))) return;
    for (int64_t k = 0; k <= 70; k++)
        for (int64_t rows = 1; rows <= 8; rows++)
            for (int64_t outs = 1; outs <= 13; outs += 2)
                check_product(rows, outs, k, k + rows % 3, k + outs % 4, outs + rows % 2);
    check_product(33, 65, 576, 576, 577, 80);
    check_product(7, 100, 1536, 1600, 1536, 100);
    check_product(0, 5, 8, 8, 8, 5);
    check_product(5, 0, 8, 8, 8, 5);
}
END_TEST

enum { ROWS = 17, OUTS = 37 };

/* Each number from a call of one row and one output. */
static void compute_alone(int64_t k, const float *x, const float *w, float alone[ROWS][OUTS]) {
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OUTS; o++)
            level->dot_tile(1, 1, k, x + r * k, k, w + o * k, k, &alone[r][o], 1);
}

static void check_part(int64_t k, const float *x, const float *w, float alone[ROWS][OUTS],
                       const int part[4]) {
    float y[ROWS * OUTS];
    int row = part[0], rows = part[1], out = part[2], outs = part[3];
    level->dot_tile(rows, outs, k, x + row * k, k, w + out * k, k, y, outs);
    for (int r = 0; r < rows; r++)
        if (memcmp(y + r * outs, &alone[row + r][out], (size_t)outs * sizeof(float)))
            ck_abort_msg("%s k %d: row %d of %d from %d, outputs %d from %d", level->name, (int)k,
                         r, rows, row, outs, out);
}

START_TEST(is_row_invariant) {
    static const int64_t sizes[] = {1,  3,  7,  8,  9,  15, 16, 17,  23,  24,
                                    31, 32, 33, 47, 63, 64, 65, 100, 576, 1001};
    float alone[ROWS][OUTS];
    if (!(level = guard_level(_i))) return;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t k = sizes[s];
        float *x = guard_matrix(0, ROWS, k, k), *w = guard_matrix(1, OUTS, k, k);
        guard_fill(x, ROWS, k, k);
        guard_fill(w, OUTS, k, k);
        compute_alone(k, x, w, alone);
        for (int row = 0; row < ROWS; row++)
            for (int rows = 1; row + rows <= ROWS; rows++) {
                int cut = (row * 5 + rows * 7) % OUTS;
                check_part(k, x, w, alone, (int[]){row, rows, 0, cut});
                check_part(k, x, w, alone, (int[]){row, rows, cut, OUTS - cut});
            }
        for (int cut = 0; cut <= OUTS; cut++) {
            check_part(k, x, w, alone, (int[]){0, ROWS, 0, cut});
            check_part(k, x, w, alone, (int[]){0, ROWS, cut, OUTS - cut});
        }
    }
}
END_TEST

/* Long k and many outputs go through cache blocks. */
START_TEST(is_invariant_across_cache_blocks) {
    enum { K = 3001, WIDE = 150 };
    if (!(level = guard_level(_i))) return;
    float *x = guard_matrix(0, 7, K, K), *w = guard_matrix(1, WIDE, K, K);
    float *y = guard_matrix(2, 7, WIDE, WIDE);
    guard_fill(x, 7, K, K);
    guard_fill(w, WIDE, K, K);
    level->dot_tile(7, WIDE, K, x, K, w, K, y, WIDE);
    for (int r = 0; r < 7; r++)
        for (int o = 0; o < WIDE; o += 3) {
            float alone;
            level->dot_tile(1, 1, K, x + r * K, K, w + o * K, K, &alone, 1);
            ck_assert_uint_eq(guard_bits(alone), guard_bits(y[r * WIDE + o]));
        }
}
END_TEST

/* A NaN or an infinity stays in its row or its output. */
START_TEST(keeps_special_values_apart) {
    enum { K = 21 };
    if (!(level = guard_level(_i))) return;
    float *x = guard_matrix(0, 9, K, K), *w = guard_matrix(1, 11, K, K);
    float *y = guard_matrix(2, 9, 11, 11);
    guard_fill(x, 9, K, K);
    guard_fill(w, 11, K, K);
    x[3 * K + 20] = NAN;
    w[10 * K + 2] = INFINITY;
    level->dot_tile(9, 11, K, x, K, w, K, y, 11);
    for (int r = 0; r < 9; r++)
        for (int o = 0; o < 11; o++) {
            if (r == 3)
                ck_assert(isnan(y[r * 11 + o]));
            else
                ck_assert_int_eq(isinf(y[r * 11 + o]) != 0, o == 10);
        }
}
END_TEST

START_TEST(keeps_subnormals_and_zeros) {
    if (!(level = guard_level(_i))) return;
    float *x = guard_vector(0, 9), *w = guard_vector(1, 9), y[1];
    for (int i = 0; i < 9; i++) x[i] = i == 8 ? 0x1p-140f : 0.0f;
    for (int i = 0; i < 9; i++) w[i] = 1.0f;
    level->dot_tile(1, 1, 9, x, 9, w, 9, y, 1);
    ck_assert_uint_eq(guard_bits(y[0]), guard_bits(0x1p-140f));
    level->dot_tile(1, 1, 8, x, 9, w, 9, y, 1);
    ck_assert_uint_eq(guard_bits(y[0]), 0);
}
END_TEST

Suite *kernels_dot_suite(void) {
    Suite *suite = suite_create("kernels_dot");
    TCase *tests = tcase_create("dot_tile");
    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, matches_binary64, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, is_row_invariant, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, is_invariant_across_cache_blocks, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, keeps_special_values_apart, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, keeps_subnormals_and_zeros, 0, GUARD_LEVELS);
    suite_add_tcase(suite, tests);
    return suite;
}
