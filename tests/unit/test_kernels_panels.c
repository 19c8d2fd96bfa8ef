/* pack and multiply_panels: against binary64, and bit by bit against each row and part alone. */
#include "kernels_guard.h"

static const lr__kernels *level;

/* Numbers that panels of [depth, cols] take in memory. */
static int64_t panel_numbers(int64_t cols, int64_t depth) {
    int64_t width = level->panel_columns;
    return (cols + width - 1) / width * width * depth;
}

static float *packed(int slot, int64_t cols, int64_t depth, const float *w, int64_t ldw) {
    int64_t count = panel_numbers(cols, depth);
    float *panels = guard_matrix(slot, 1, count, count);
    for (int64_t i = 0; i < count; i++) panels[i] = NAN; /* what is not in use is not read */
    level->pack(cols, depth, w, ldw, panels);
    guard_check_front(panels);
    return panels;
}

static void check_product(int64_t rows, int64_t cols, int64_t depth, int64_t gap, int add) {
    int64_t ldx = depth + gap, ldw = depth + 2 * gap, ldy = cols + gap;
    float *x = guard_matrix(0, rows, depth, ldx), *w = guard_matrix(1, cols, depth, ldw);
    float *y = guard_matrix(2, rows, cols, ldy), *before = guard_matrix(3, rows, cols, ldy);
    guard_fill(x, rows, depth, ldx);
    guard_fill(w, cols, depth, ldw);
    guard_fill(y, rows, cols, ldy);
    for (int64_t r = 0; r < rows; r++)
        memcpy(before + r * ldy, y + r * ldy, (size_t)cols * sizeof *y);
    lr__panel_task task = {.rows = rows, .cols = cols, .depth = depth, .x = x, .ldx = ldx};
    task.panels = packed(4, cols, depth, w, ldw);
    task.y = y;
    task.ldy = ldy;
    task.add = add;
    level->multiply_panels(&task);
    guard_check_gaps(y, rows, cols, ldy);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            double sum = add ? before[r * ldy + c] : 0, size = fabs(sum);
            for (int64_t i = 0; i < depth; i++) {
                double product = (double)x[r * ldx + i] * w[c * ldw + i];
                sum += product;
                size += fabs(product);
            }
            if (!(fabs(y[r * ldy + c] - sum) <= 3e-6 * size))
                ck_abort_msg("%s %dx%dx%d at %d, %d: %.9g, expected %.9g", level->name, (int)rows,
                             (int)cols, (int)depth, (int)r, (int)c, (double)y[r * ldy + c], sum);
        }
}

START_TEST(matches_binary64) {
    if (!(level = guard_level(_i))) return;
    for (int64_t depth = 1; depth <= 20; depth++)
        for (int64_t rows = 1; rows <= 13; rows++)
            for (int64_t cols = 1; cols <= 130; cols += 1 + (rows * depth) % 7)
                check_product(rows, cols, depth, (rows + cols) % 3, (rows + depth) % 2);
    check_product(33, 200, 576, 1, 0);
    check_product(14, 65, 1536, 0, 1); /* deeper than one pass */
    check_product(0, 5, 8, 0, 0);
    check_product(5, 0, 8, 0, 0);
}
END_TEST

START_TEST(is_row_invariant) {
    enum { ROWS = 15, COLS = 150, DEPTH = 2100 };
    if (!(level = guard_level(_i))) return;
    float *x = guard_matrix(0, ROWS, DEPTH, DEPTH), *w = guard_matrix(1, COLS, DEPTH, DEPTH);
    guard_fill(x, ROWS, DEPTH, DEPTH);
    guard_fill(w, COLS, DEPTH, DEPTH);
    float all[ROWS * COLS], part[ROWS * COLS];
    lr__panel_task task = {.rows = ROWS, .cols = COLS, .depth = DEPTH, .x = x, .ldx = DEPTH};
    task.panels = packed(2, COLS, DEPTH, w, DEPTH);
    task.y = all;
    task.ldy = COLS;
    level->multiply_panels(&task);
    for (int row = 0; row < ROWS; row++)
        for (int rows = 1; row + rows <= ROWS; rows += 1 + row % 2) {
            task.x = x + row * DEPTH;
            task.rows = rows;
            task.cols = 1 + (row * 31 + rows * 7) % COLS;
            task.y = part;
            level->multiply_panels(&task);
            for (int r = 0; r < rows; r++)
                ck_assert_mem_eq(part + r * COLS, all + (row + r) * COLS,
                                 (size_t)task.cols * sizeof(float));
        }
}
END_TEST

/* A NaN stays in its row, an infinity in its column. */
START_TEST(keeps_special_values_apart) {
    enum { ROWS = 9, COLS = 70, DEPTH = 21 };
    if (!(level = guard_level(_i))) return;
    float *x = guard_matrix(0, ROWS, DEPTH, DEPTH), *w = guard_matrix(1, COLS, DEPTH, DEPTH);
    float y[ROWS * COLS];
    guard_fill(x, ROWS, DEPTH, DEPTH);
    guard_fill(w, COLS, DEPTH, DEPTH);
    x[3 * DEPTH + 20] = NAN;
    w[66 * DEPTH + 2] = INFINITY;
    lr__panel_task task = {.rows = ROWS, .cols = COLS, .depth = DEPTH, .x = x, .ldx = DEPTH};
    task.panels = packed(2, COLS, DEPTH, w, DEPTH);
    task.y = y;
    task.ldy = COLS;
    level->multiply_panels(&task);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++)
            if (r == 3)
                ck_assert(isnan(y[r * COLS + c]));
            else
                ck_assert_int_eq(isinf(y[r * COLS + c]) != 0, c == 66);
}
END_TEST

Suite *kernels_panels_suite(void) {
    Suite *suite = suite_create("kernels_panels");
    TCase *tests = tcase_create("multiply_panels");
    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, matches_binary64, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, is_row_invariant, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, keeps_special_values_apart, 0, GUARD_LEVELS);
    suite_add_tcase(suite, tests);
    return suite;
}
