/* Products of pairs of BF16: both forms against binary64 over numbers that are rounded and laid
 * into pairs and panels here, and bit by bit against each row alone. */
#include "kernels_guard.h"

#include "backend/cpu/level_avx512.h"

enum { FORMS = 2, WIDTH = 64 };

static lr__panels_fn multiply;
static double roundings; /* most roundings of a sum for each product */

/* 0: in place of the instruction, 1: by it. */
static int has_form(int i) {
#if defined(__x86_64__)
    if (!lr__kernels_named("avx512")) return 0;
    if (i == 1 && !__builtin_cpu_supports("avx512bf16")) return 0;
    multiply = i ? lr__multiply_pairs_avx512bf16 : lr__multiply_pairs_avx512;
    roundings = i ? 2 : 1;
    return 1;
#else
    (void)i;
    return 0;
#endif
}

static int64_t words_of(int64_t depth) { return (depth + 1) / 2; }

/* Of eight leading bits, a number of binary32's normal range. */
static float some_number(int whole) {
    if (whole) return (float)((int)(guard_random() % 17) - 8);
    return guard_float(guard_bits(guard_uniform()) & 0xffff0000u);
}

static void fill(float *data, int64_t count, int whole) {
    for (int64_t i = 0; i < count; i++) data[i] = some_number(whole);
}

static float pair(const float *row, int64_t depth, int64_t word) {
    uint32_t low = guard_bits(row[2 * word]) >> 16;
    uint32_t high = 2 * word + 1 < depth ? guard_bits(row[2 * word + 1]) & 0xffff0000u : 0;
    return guard_float(high | low);
}

static void *copy_pairs(int slot, int64_t rows, int64_t depth, const float *from, int64_t ld) {
    int64_t words = words_of(depth);
    float *to = guard_matrix(slot, rows, words, ld);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < words; i++) {
            float both = pair(from + r * depth, depth, i);
            memcpy(to + r * ld + i, &both, sizeof both);
        }
    return to;
}

/* What is not in use is a NaN. */
static const float *panels_of(int slot, int64_t cols, int64_t depth, const float *w) {
    int64_t words = words_of(depth), count = (cols + WIDTH - 1) / WIDTH * WIDTH * words;
    float *panels = guard_matrix(slot, 1, count, count);
    for (int64_t i = 0; i < count; i++) panels[i] = NAN;
    for (int64_t c = 0; c < cols; c++)
        for (int64_t i = 0; i < words; i++) {
            float both = pair(w + c * depth, depth, i);
            int64_t at = c / WIDTH * WIDTH * words + i * WIDTH + c % WIDTH;
            memcpy(panels + at, &both, sizeof both);
        }
    return panels;
}

typedef struct shape {
    int64_t rows, cols, depth, gap;
    int add, whole;
} shape;

/* A sum of n terms by steps of binary32 is within n u / (1 - n u) of the sum of their sizes, u =
 * 2^-24 (Higham, Accuracy and Stability, 3.1); sums of small whole numbers are exact. */
static void check_sums(const shape *s, const float *x, const float *w, const float *before,
                       const float *y, int64_t ldy) {
    double nu = roundings * 2 * (double)words_of(s->depth) * 0x1p-24;
    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t c = 0; c < s->cols; c++) {
            double sum = s->add ? before[r * ldy + c] : 0, size = fabs(sum);
            for (int64_t i = 0; i < s->depth; i++) {
                double product = (double)x[r * s->depth + i] * w[c * s->depth + i];
                sum += product;
                size += fabs(product);
            }
            double bound = s->whole ? 0 : nu / (1 - nu) * size * (1 + 0x1p-20);
            if (!(fabs(y[r * ldy + c] - sum) <= bound))
                ck_abort_msg("%dx%dx%d at %d, %d: %.9g, expected %.9g", (int)s->rows, (int)s->cols,
                             (int)s->depth, (int)r, (int)c, (double)y[r * ldy + c], sum);
        }
}

static void check_product(const shape *s) {
    int64_t words = words_of(s->depth), ldx = words + s->gap, ldy = s->cols + s->gap;
    float *x = malloc((size_t)(s->rows * s->depth + 1) * sizeof *x);
    float *w = malloc((size_t)(s->cols * s->depth + 1) * sizeof *w);
    float *y = guard_matrix(2, s->rows, s->cols, ldy);
    float *before = guard_matrix(3, s->rows, s->cols, ldy);
    fill(x, s->rows * s->depth, s->whole);
    fill(w, s->cols * s->depth, s->whole);
    for (int64_t r = 0; r < s->rows; r++) {
        fill(y + r * ldy, s->cols, s->whole);
        memcpy(before + r * ldy, y + r * ldy, (size_t)s->cols * sizeof *y);
    }
    lr__panel_task task = {.rows = s->rows, .cols = s->cols, .depth = words, .ldx = ldx};
    task.x = copy_pairs(0, s->rows, s->depth, x, ldx);
    task.panels = panels_of(1, s->cols, s->depth, w);
    task.y = y;
    task.ldy = ldy;
    task.add = s->add;
    multiply(&task);
    guard_check_gaps(y, s->rows, s->cols, ldy);
    check_sums(s, x, w, before, y, ldy);
    free(x);
    free(w);
}

START_TEST(matches_binary64) {
    if (!has_form(_i)) return;
    for (int64_t depth = 1; depth <= 21; depth++)
        for (int64_t rows = 1; rows <= 13; rows++)
            for (int64_t cols = 1; cols <= 130; cols += 1 + (rows * depth) % 11) {
                shape s = {rows, cols, depth, (rows + cols) % 3, (rows + depth) % 2, cols % 2};
                check_product(&s);
            }
    const shape more[] = {{33, 200, 577, 1, 0, 0},
                          {14, 65, 4201, 0, 1, 0}, /* deeper than one pass */
                          {14, 65, 4201, 0, 1, 1},
                          {0, 5, 8, 0, 0, 0},
                          {5, 0, 8, 0, 0, 0}};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) check_product(&more[i]);
}
END_TEST

START_TEST(is_row_invariant) {
    enum { ROWS = 15, COLS = 150, DEPTH = 4200, WORDS = DEPTH / 2 };
    if (!has_form(_i)) return;
    float *x = malloc(ROWS * DEPTH * sizeof *x), *w = malloc(COLS * DEPTH * sizeof *w);
    float all[ROWS * COLS], part[ROWS * COLS];
    fill(x, ROWS * DEPTH, 0);
    fill(w, COLS * DEPTH, 0);
    const float *pairs = copy_pairs(0, ROWS, DEPTH, x, WORDS);
    lr__panel_task task = {.rows = ROWS, .cols = COLS, .depth = WORDS, .x = pairs, .ldx = WORDS};
    task.panels = panels_of(1, COLS, DEPTH, w);
    task.y = all;
    task.ldy = COLS;
    multiply(&task);
    for (int row = 0; row < ROWS; row++)
        for (int rows = 1; row + rows <= ROWS; rows += 1 + row % 2) {
            task.x = pairs + row * WORDS;
            task.rows = rows;
            task.cols = 1 + (row * 31 + rows * 7) % COLS;
            task.y = part;
            multiply(&task);
            for (int r = 0; r < rows; r++)
                ck_assert_mem_eq(part + r * COLS, all + (row + r) * COLS,
                                 (size_t)task.cols * sizeof(float));
        }
    free(x);
    free(w);
}
END_TEST

/* A NaN stays in its row, an infinity in its column; in either half of a pair. */
START_TEST(keeps_special_values_apart) {
    enum { ROWS = 9, COLS = 70, DEPTH = 21 };
    if (!has_form(_i)) return;
    float x[ROWS * DEPTH], w[COLS * DEPTH], y[ROWS * COLS];
    fill(x, ROWS * DEPTH, 0);
    fill(w, COLS * DEPTH, 0);
    x[3 * DEPTH + 20] = x[5 * DEPTH + 7] = NAN;
    w[66 * DEPTH + 2] = w[11 * DEPTH + 9] = INFINITY;
    lr__panel_task task = {.rows = ROWS, .cols = COLS, .depth = words_of(DEPTH)};
    task.x = copy_pairs(0, ROWS, DEPTH, x, words_of(DEPTH));
    task.ldx = words_of(DEPTH);
    task.panels = panels_of(1, COLS, DEPTH, w);
    task.y = y;
    task.ldy = COLS;
    multiply(&task);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++)
            if (r == 3 || r == 5)
                ck_assert(isnan(y[r * COLS + c]));
            else
                ck_assert_int_eq(isinf(y[r * COLS + c]) != 0, c == 66 || c == 11);
}
END_TEST

Suite *kernels_pairs_suite(void) {
    Suite *suite = suite_create("kernels_pairs");
    TCase *tests = tcase_create("multiply_pairs");
    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, matches_binary64, 0, FORMS);
    tcase_add_loop_test(tests, is_row_invariant, 0, FORMS);
    tcase_add_loop_test(tests, keeps_special_values_apart, 0, FORMS);
    suite_add_tcase(suite, tests);
    return suite;
}
