/* Rank budgets: the two promises (within the budget, not one rank more) on many shapes. */
#include "compress/ranks.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 30, MODULES = 7 * LAYERS };

/* SmolLM2-135M: q, k, v, o, gate, up, down of each block. */
static void small_llama(lr__rank_item *items) {
    static const int64_t shapes[7][2] = {{576, 576},  {192, 576},  {192, 576}, {576, 576},
                                         {1536, 576}, {1536, 576}, {576, 1536}};
    for (int i = 0; i < MODULES; i++)
        items[i] =
            (lr__rank_item){shapes[i % 7][0], shapes[i % 7][1], 3, LR__STORAGE_TWO_FACTOR, 0, 0, 0};
}

/* Dense when rank is 0, as the header says, written out once more. */
static int64_t params_of(const lr__rank_item *items, int64_t count) {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += items[i].rank ? items[i].rank * (items[i].out + items[i].in)
                             : items[i].out * items[i].in;
    return sum;
}

static int64_t dense_of(const lr__rank_item *items, int64_t count) {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += items[i].out * items[i].in;
    return sum;
}

static void check_promises(const lr__rank_item *items, int64_t count, int64_t budget) {
    int64_t used = params_of(items, count), told = 0;
    ck_assert_int_le(used, budget);
    ck_assert_int_eq(lr__ranks_params(&told, items, count), LR_OK);
    ck_assert_int_eq(told, used);
    for (int64_t i = 0; i < count; i++) {
        int64_t m = items[i].out, n = items[i].in, r = items[i].rank, next = (r + 1) * (m + n);
        if (r == 0) continue;
        ck_assert_int_lt(r * (m + n), m * n);
        if (next > m * n) next = m * n;
        ck_assert_int_gt(used - r * (m + n) + next, budget);
    }
}

static void check_keep(lr__rank_item *items, int64_t count, double keep) {
    int64_t budget = 0, total = dense_of(items, count);
    ck_assert_int_eq(lr__ranks_budget(&budget, keep, total), LR_OK);
    ck_assert_msg(lr__ranks_uniform(items, count, budget) == LR_OK, "%s", lr_last_error());
    check_promises(items, count, budget);
    ck_assert_double_le((double)params_of(items, count) / (double)total, keep);
}

START_TEST(llama_at_every_keep) {
    lr__rank_item items[MODULES];
    small_llama(items);
    for (int percent = 1; percent < 100; percent++) check_keep(items, MODULES, percent / 100.0);
}
END_TEST

/* O22: floor(keep m n / (m + n)) for one matrix; monotone in keep; dense from break-even on. */
START_TEST(one_matrix_follows_the_formula) {
    static const int64_t shapes[][2] = {
        {2048, 2048}, {256, 2048}, {5632, 2048}, {2048, 5632}, {7, 3}};
    for (int s = 0; s < 5; s++) {
        int64_t m = shapes[s][0], n = shapes[s][1], last = 0;
        for (int thousandth = 600; thousandth < 1000; thousandth++) {
            lr__rank_item item = {m, n, 0, LR__STORAGE_TWO_FACTOR, 0, 0, 0};
            check_keep(&item, 1, thousandth / 1000.0);
            int64_t expected = thousandth * m * n / (1000 * (m + n));
            ck_assert_int_eq(item.rank, expected);
            ck_assert_int_ge(item.rank, last);
            last = item.rank;
        }
    }
}
END_TEST

/* O22 in pivot form: r (m + n - r) numbers within the budget, those of one rank more beyond it. */
START_TEST(one_pivot_matrix_follows_the_formula) {
    static const int64_t shapes[][2] = {
        {2048, 2048}, {256, 2048}, {5632, 2048}, {2048, 5632}, {7, 3}};
    for (int s = 0; s < 5; s++) {
        int64_t m = shapes[s][0], n = shapes[s][1], last = 0;
        for (int thousandth = 450; thousandth < 1000; thousandth++) {
            lr__rank_item item = {m, n, 0, LR__STORAGE_PIVOT, 0, 0, 0};
            int64_t budget = 0, told = thousandth * m * n / 1000;
            ck_assert_int_eq(lr__ranks_budget(&budget, thousandth / 1000.0, m * n), LR_OK);
            ck_assert_int_eq(budget, told);
            ck_assert_int_eq(lr__ranks_uniform(&item, 1, budget), LR_OK);
            int64_t r = item.rank;
            ck_assert_int_ge(r, 1);
            ck_assert_int_le(r * (m + n - r), budget);
            ck_assert_int_gt((r + 1) * (m + n - r - 1), budget);
            ck_assert_int_ge(r, last);
            last = r;
        }
    }
}
END_TEST

/* The ranks of TinyLlama's shapes (SVD-LLM and PIFA), one shape at a time, in both storages. */
START_TEST(tiny_llama_ranks) {
    static const int64_t shapes[3][2] = {{2048, 2048}, {256, 2048}, {5632, 2048}};
    static const struct {
        double keep;
        int64_t factors[3], pivots[3];
    } rows[] = {{0.8, {819, 182, 1201}, {1132, 199, 1490}},
                {0.6, {614, 136, 901}, {752, 145, 1042}},
                {0.5, {512, 113, 750}, {599, 120, 843}},
                {0.4, {409, 91, 600}, {461, 94, 656}}};
    for (int i = 0; i < 4; i++)
        for (int s = 0; s < 3; s++) {
            int64_t m = shapes[s][0], n = shapes[s][1], budget;
            lr__rank_item factors = {m, n, 0, LR__STORAGE_TWO_FACTOR, 0, 0, 0},
                          pivots = {m, n, 0, LR__STORAGE_PIVOT, 0, 0, 0};
            check_keep(&factors, 1, rows[i].keep);
            ck_assert_int_eq(factors.rank, rows[i].factors[s]);
            ck_assert_int_eq(lr__ranks_budget(&budget, rows[i].keep, m * n), LR_OK);
            ck_assert_int_eq(lr__ranks_uniform(&pivots, 1, budget), LR_OK);
            ck_assert_int_eq(pivots.rank, rows[i].pivots[s]);
        }
}
END_TEST

/* O23: equal shapes get equal ranks, but for what is left over, which goes to the first; the step
 * from rank 18 to dense is shorter than a rank, so it may be affordable when that is not. */
START_TEST(equal_shapes_share_equally) {
    lr__rank_item items[9];
    for (int i = 0; i < 9; i++)
        items[i] = (lr__rank_item){50, 30, 0, LR__STORAGE_TWO_FACTOR, 0, 0, 0};
    for (int64_t budget = 9 * 80; budget < 9 * 1500; budget += 13) {
        ck_assert_int_eq(lr__ranks_uniform(items, 9, budget), LR_OK);
        check_promises(items, 9, budget);
        ck_assert_int_ge(params_of(items, 9), budget - 79);
        for (int i = 1; i < 9; i++) {
            int64_t before = items[i - 1].rank ? items[i - 1].rank : 19;
            int64_t rank = items[i].rank ? items[i].rank : 19;
            ck_assert_int_le(rank, before);
            ck_assert_int_ge(rank, items[0].rank ? items[0].rank - 1 : 17);
        }
    }
}
END_TEST

/* Shares 25.3, 25.3, 25.3 and 7.59 leave 215: the largest shortfall is the last, of 60 a rank, and
 * afterwards nothing else fits. By parameters instead of ranks the first would have won. */
START_TEST(shortfall_is_counted_in_ranks) {
    lr__rank_item items[4] = {{100, 100, 0, LR__STORAGE_TWO_FACTOR, 0, 0, 0},
                              {100, 100, 0, LR__STORAGE_TWO_FACTOR, 0, 0, 0},
                              {100, 100, 0, LR__STORAGE_TWO_FACTOR, 0, 0, 0},
                              {30, 30, 0, LR__STORAGE_TWO_FACTOR, 0, 0, 0}};
    check_keep(items, 4, 0.506);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(items[i].rank, 25);
    ck_assert_int_eq(items[3].rank, 10);
}
END_TEST

/* Odd, tiny and very unequal shapes at random; the same twice. */
START_TEST(random_shapes_keep_the_promises) {
    uint64_t state = 1;
    for (int round = 0; round < 3000; round++) {
        lr__rank_item items[12], again[12];
        int64_t count = 1 + (int64_t)(state >> 33) % 12;
        for (int64_t i = 0; i < count; i++) {
            int64_t size[2];
            for (int k = 0; k < 2; k++) {
                state = state * 6364136223846793005u + 1442695040888963407u;
                size[k] = 1 + (int64_t)((state >> 33) % (round % 3 == 0   ? 6
                                                         : round % 3 == 1 ? 60
                                                                          : 4000));
            }
            items[i] = again[i] =
                (lr__rank_item){size[0], size[1], 0, LR__STORAGE_TWO_FACTOR, 0, 0, 0};
        }
        state = state * 6364136223846793005u + 1442695040888963407u;
        int64_t least = 0, total = dense_of(items, count);
        for (int64_t i = 0; i < count; i++) {
            int64_t dense = items[i].out * items[i].in, one = items[i].out + items[i].in;
            least += one < dense ? one : dense;
        }
        int64_t budget = least + (int64_t)((state >> 11) % (uint64_t)(total - least + 1));
        ck_assert_int_eq(lr__ranks_uniform(items, count, budget), LR_OK);
        check_promises(items, count, budget);
        ck_assert_int_eq(lr__ranks_uniform(again, count, budget), LR_OK);
        ck_assert_mem_eq(items, again, (size_t)count * sizeof *items);
        if (least < 1) continue;
        ck_assert_int_eq(lr__ranks_uniform(items, count, least - 1), LR_E_INVALID);
        ck_assert_int_eq(lr__ranks_uniform(items, count, least), LR_OK);
        ck_assert_int_eq(params_of(items, count), least);
    }
}
END_TEST

/* A share is what the division shows: 0.3 of 400 is 120, 0.1 + 0.2 too, and a hair less is not. */
START_TEST(budgets_are_decimal) {
    int64_t budget = 0;
    static const struct {
        double keep;
        int64_t total, expected;
    } cases[] = {{0.3, 400, 120},
                 {0.1 + 0.2, 400, 120},
                 {0.6, 106168320, 63700992},
                 {0.7, 1000, 700},
                 {0.29999999, 400, 119},
                 {0.5, 7, 3},
                 {1e-300, 400, 0},
                 {1, 7, 7},
                 {2.5, 7, 7},
                 {INFINITY, 7, 7},
                 {0.9999999, 7, 6},
                 {1.0 / 3, 9, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_int_eq(lr__ranks_budget(&budget, cases[i].keep, cases[i].total), LR_OK);
        ck_assert_int_eq(budget, cases[i].expected);
    }
    for (int64_t total = 1; total < 2000; total += 7)
        for (int64_t part = 1; part <= total; part++) {
            double keep = (double)part / (double)total;
            ck_assert_int_eq(lr__ranks_budget(&budget, keep, total), LR_OK);
            ck_assert_int_eq(budget, part);
            ck_assert_int_eq(lr__ranks_budget(&budget, nextafter(keep, 0), total), LR_OK);
            ck_assert_int_eq(budget, part - 1);
        }
}
END_TEST

START_TEST(all_dense_from_one_on) {
    lr__rank_item items[MODULES];
    small_llama(items);
    check_keep(items, MODULES, 1);
    for (int i = 0; i < MODULES; i++) ck_assert_int_eq(items[i].rank, 0);
    ck_assert_int_eq(lr__ranks_uniform(items, MODULES, INT64_MAX), LR_OK);
    for (int i = 0; i < MODULES; i++) ck_assert_int_eq(items[i].rank, 0);
}
END_TEST

/* The keep the message names works, and nothing below it does. */
START_TEST(smallest_keep_is_named) {
    lr__rank_item items[MODULES];
    small_llama(items);
    int64_t total = dense_of(items, MODULES), budget = 0, told = 0;
    ck_assert_int_eq(lr__ranks_dense(&told, items, MODULES), LR_OK);
    ck_assert_int_eq(told, total);
    ck_assert_int_eq(lr__ranks_budget(&budget, 1e-4, total), LR_OK);
    ck_assert_int_eq(lr__ranks_uniform(items, MODULES, budget), LR_E_INVALID);
    const char *text = strstr(lr_last_error(), "smallest possible keep is ");
    ck_assert_ptr_nonnull(text);
    double keep = strtod(text + strlen("smallest possible keep is "), NULL);
    check_keep(items, MODULES, keep);
    for (int i = 0; i < MODULES; i++) ck_assert_int_eq(items[i].rank, 1);
    ck_assert_int_eq(lr__ranks_budget(&budget, keep - 2e-9, total), LR_OK);
    ck_assert_int_eq(lr__ranks_uniform(items, MODULES, budget), LR_E_INVALID);
    ck_assert_int_eq(lr__ranks_uniform(items, MODULES, -5), LR_E_INVALID);
}
END_TEST

START_TEST(wrong_calls) {
    lr__rank_item item = {5, 0, 0, LR__STORAGE_TWO_FACTOR, 0, 0, 0};
    int64_t number = 0;
    ck_assert_int_eq(lr__ranks_uniform(&item, 1, 10), LR_E_SHAPE);
    item.in = ((int64_t)1 << 24) + 1;
    ck_assert_int_eq(lr__ranks_uniform(&item, 1, 10), LR_E_SHAPE);
    item = (lr__rank_item){5, 5, -1, LR__STORAGE_TWO_FACTOR, 0, 0, 0};
    ck_assert_int_eq(lr__ranks_params(&number, &item, 1), LR_E_INVALID);
    ck_assert_int_eq(lr__ranks_uniform(NULL, 0, 10), LR_E_INVALID);
    ck_assert_int_eq(lr__ranks_budget(&number, 0, 10), LR_E_INVALID);
    ck_assert_int_eq(lr__ranks_budget(&number, -0.5, 10), LR_E_INVALID);
    ck_assert_int_eq(lr__ranks_budget(&number, NAN, 10), LR_E_INVALID);
    ck_assert_int_eq(lr__ranks_budget(&number, 0.5, 0), LR_E_UNSUPPORTED);
    lr__rank_item huge[64];
    for (int i = 0; i < 64; i++)
        huge[i] = (lr__rank_item){1 << 24, 1 << 24, 0, LR__STORAGE_TWO_FACTOR, 0, 0, 0};
    ck_assert_int_eq(lr__ranks_uniform(huge, 64, 10), LR_E_UNSUPPORTED);
    ck_assert_int_eq(lr__ranks_uniform(huge, 32, (int64_t)1 << 52), LR_OK);
    check_promises(huge, 32, (int64_t)1 << 52);
}
END_TEST

Suite *ranks_suite(void);

Suite *ranks_suite(void) {
    Suite *suite = suite_create("ranks");
    TCase *tests = tcase_create("budgets");
    tcase_add_test(tests, llama_at_every_keep);
    tcase_add_test(tests, one_matrix_follows_the_formula);
    tcase_add_test(tests, one_pivot_matrix_follows_the_formula);
    tcase_add_test(tests, tiny_llama_ranks);
    tcase_add_test(tests, equal_shapes_share_equally);
    tcase_add_test(tests, shortfall_is_counted_in_ranks);
    tcase_add_test(tests, random_shapes_keep_the_promises);
    tcase_add_test(tests, budgets_are_decimal);
    tcase_add_test(tests, all_dense_from_one_on);
    tcase_add_test(tests, smallest_keep_is_named);
    tcase_add_test(tests, wrong_calls);
    suite_add_tcase(suite, tests);
    return suite;
}
