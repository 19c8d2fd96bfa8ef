/* Greedy ranks against every choice there is, and the promises they share with uniform ones. */
#include "compress/greedy.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ITEMS = 3, ALL_MOST = 700, ROUNDS = 60 };

static double values[8][ALL_MOST];
static const double *worth[8];

static double uniform_draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) / 9007199254740992.0;
}

static int64_t smaller(const lr__rank_item *item) {
    return item->out < item->in ? item->out : item->in;
}

/* Written out once more from the header: numbers, 0 is dense. */
static int64_t cost_of(const lr__rank_item *item, int64_t r) {
    int64_t m = item->out, n = item->in;
    if (!r) return m * n;
    int pivots = r * r > m || (n - 1) * (n - 1) <= 4 * m;
    return item->storage == LR__STORAGE_PIVOT && pivots ? r * (m + n - r) : r * (m + n);
}

static double saved_of(const lr__rank_item *item, const double *each, int64_t r) {
    double sum = 0;
    for (int64_t i = 0; i < (r ? r : smaller(item)); i++) sum += each[i];
    return sum;
}

static void draw_values(const lr__rank_item *items, int count, uint64_t *state) {
    for (int i = 0; i < count; i++) {
        double value = 1 + 5 * uniform_draw(state), decay = 0.3 + 0.7 * uniform_draw(state);
        for (int64_t r = 0; r < smaller(&items[i]); r++) {
            values[i][r] = value;
            value *= decay * (0.7 + 0.3 * uniform_draw(state));
        }
        worth[i] = values[i];
    }
}

/* The most that ranks of at least `least` and dense ones can save within the budget. */
static double best_of_all(const lr__rank_item *items, int count, const int64_t *least,
                          int64_t budget) {
    double best = -INFINITY;
    if (!count) return 0;
    for (int64_t r = 0; r <= smaller(items); r++) {
        int64_t cost = cost_of(items, r);
        if ((r && (r < *least || cost >= cost_of(items, 0))) || cost > budget) continue;
        double rest = best_of_all(items + 1, count - 1, least + 1, budget - cost);
        double sum = saved_of(items, worth[ITEMS - count], r) + rest;
        if (sum > best) best = sum;
    }
    return best;
}

static int64_t total_cost(const lr__rank_item *items, int count) {
    int64_t sum = 0;
    for (int i = 0; i < count; i++) sum += cost_of(&items[i], items[i].rank);
    return sum;
}

static void check_promises(const lr__rank_item *items, int count, int64_t budget) {
    int64_t used = total_cost(items, count);
    ck_assert_int_le(used, budget);
    for (int i = 0; i < count; i++) {
        int64_t r = items[i].rank, dense = cost_of(&items[i], 0);
        if (!r) continue;
        int64_t now = cost_of(&items[i], r), next = cost_of(&items[i], r + 1);
        ck_assert_int_lt(now, dense);
        ck_assert_int_gt(used - now + (next < dense ? next : dense), budget);
    }
}

static void draw_items(lr__rank_item *items, int storage, uint64_t *state) {
    for (int i = 0; i < ITEMS; i++)
        items[i] = (lr__rank_item){.out = 2 + (int64_t)(7 * uniform_draw(state)),
                                   .in = 2 + (int64_t)(7 * uniform_draw(state)),
                                   .storage = storage};
}

/* For every budget: no better than the best of all choices, and worse by less than one edge of a
 * hull, which no item's range of choices can exceed. Over all budgets it is the very best often. */
START_TEST(near_the_best_of_all) {
    uint64_t state = 7;
    int exact = 0, all = 0;
    for (int round = 0; round < ROUNDS; round++) {
        lr__rank_item items[ITEMS];
        draw_items(items, _i, &state);
        draw_values(items, ITEMS, &state);
        int64_t least[ITEMS] = {1, 1, 1}, dense = 0;
        for (int i = 0; i < ITEMS; i++) dense += cost_of(&items[i], 0);
        for (int64_t budget = 1; budget <= dense; budget++) {
            if (lr__ranks_greedy(items, ITEMS, budget, 0, worth) < 0) continue;
            check_promises(items, ITEMS, budget);
            double found = 0, slack = 0;
            for (int i = 0; i < ITEMS; i++) {
                found += saved_of(&items[i], values[i], items[i].rank);
                double range = saved_of(&items[i], values[i], 0) - values[i][0];
                if (range > slack) slack = range;
            }
            double best = best_of_all(items, ITEMS, least, budget);
            ck_assert_double_le(found, best + 1e-12);
            ck_assert_double_ge(found, best - slack);
            exact += found >= best - 1e-12;
            all++;
        }
    }
    ck_assert_int_gt(all, 1000);
    ck_assert_int_gt(exact, all / 2);
}
END_TEST

/* Equal shapes in two factors, while dense is beyond reach: every rank costs the same, the largest
 * values win, and greedy is the best of all. */
START_TEST(equal_costs_are_exact) {
    uint64_t state = 3;
    for (int round = 0; round < ROUNDS; round++) {
        lr__rank_item items[ITEMS];
        int64_t least[ITEMS] = {1, 1, 1};
        for (int i = 0; i < ITEMS; i++) items[i] = (lr__rank_item){.out = 8, .in = 8};
        draw_values(items, ITEMS, &state);
        for (int i = 0; i < ITEMS; i++)
            for (int r = 2; r < 8; r++) values[i][r] *= 1e-3 * (r < 3); /* the jump pays nothing */
        for (int64_t ranks = ITEMS; ranks <= 3 * ITEMS; ranks++) {
            ck_assert_int_eq(lr__ranks_greedy(items, ITEMS, 16 * ranks, 0, worth), LR_OK);
            double found = 0;
            for (int i = 0; i < ITEMS; i++) found += saved_of(&items[i], values[i], items[i].rank);
            ck_assert_double_eq_tol(found, best_of_all(items, ITEMS, least, 16 * ranks), 1e-12);
        }
    }
}
END_TEST

/* O23: equal matrices with equal spectra and measures get equal ranks, but for what is left over.
 */
START_TEST(equal_spectra_share_equally) {
    enum { EQUAL = 5 };
    double measure[EQUAL];
    for (int i = 0; i < EQUAL; i++) {
        for (int r = 0; r < 30; r++) values[i][r] = pow(0.8, r);
        worth[i] = values[i];
        measure[i] = 3;
    }
    for (int64_t rank = 8; rank <= 10; rank++)
        for (int more = 0; more < EQUAL; more++) {
            lr__rank_item greedy[EQUAL], proportional[EQUAL];
            for (int i = 0; i < EQUAL; i++)
                greedy[i] = proportional[i] = (lr__rank_item){.out = 40, .in = 30, .storage = _i};
            int64_t one = cost_of(greedy, rank), step = cost_of(greedy, rank + 1) - one;
            int64_t budget = EQUAL * one + more * step;
            ck_assert_int_eq(lr__ranks_greedy(greedy, EQUAL, budget, 0, worth), LR_OK);
            ck_assert_int_eq(lr__ranks_proportional(proportional, EQUAL, budget, 0, measure),
                             LR_OK);
            int64_t over[2] = {0};
            for (int i = 0; i < EQUAL; i++) {
                ck_assert(greedy[i].rank == rank || greedy[i].rank == rank + 1);
                ck_assert(proportional[i].rank == rank || proportional[i].rank == rank + 1);
                over[0] += greedy[i].rank - rank;
                over[1] += proportional[i].rank - rank;
            }
            ck_assert_int_eq(over[0], more);
            ck_assert_int_eq(over[1], more);
        }
}
END_TEST

/* One flat spectrum and one steep one of the same shape: factors save nothing of the flat one for
 * their cost, so it stays dense and the steep one pays. */
START_TEST(flat_spectra_stay_dense) {
    lr__rank_item items[2] = {{.out = 40, .in = 40}, {.out = 40, .in = 40}};
    for (int r = 0; r < 40; r++) {
        values[0][r] = 1;
        values[1][r] = pow(0.5, r);
    }
    worth[0] = values[0];
    worth[1] = values[1];
    ck_assert_int_eq(lr__ranks_greedy(items, 2, 1600 + 5 * 80, 0, worth), LR_OK);
    ck_assert_int_eq(items[0].rank, 0);
    ck_assert_int_eq(items[1].rank, 5);
}
END_TEST

START_TEST(floors_are_shares_of_uniform) {
    uint64_t state = 11;
    for (int storage = 0; storage < 2; storage++)
        for (int step = 0; step <= 10; step++) {
            double floor = step / 10.0, measure[3] = {1, 7, 0.2};
            lr__rank_item uniform[3] = {{.out = 60, .in = 90, .storage = storage},
                                        {.out = 200, .in = 50, .storage = storage},
                                        {.out = 70, .in = 70, .storage = storage}},
                          greedy[3], proportional[3];
            memcpy(greedy, uniform, sizeof greedy);
            memcpy(proportional, uniform, sizeof greedy);
            draw_values(uniform, 3, &state);
            ck_assert_int_eq(lr__ranks_uniform(uniform, 3, 14000), LR_OK);
            ck_assert_int_eq(lr__ranks_greedy(greedy, 3, 14000, floor, worth), LR_OK);
            ck_assert_int_eq(lr__ranks_proportional(proportional, 3, 14000, floor, measure), LR_OK);
            check_promises(greedy, 3, 14000);
            check_promises(proportional, 3, 14000);
            for (int i = 0; i < 3; i++) {
                int64_t least = (int64_t)(floor * (double)uniform[i].rank);
                ck_assert(!greedy[i].rank || greedy[i].rank >= least);
                ck_assert(!proportional[i].rank || proportional[i].rank >= least);
            }
        }
}
END_TEST

/* Without a floor that matters, ranks stand to each other as the measures do. */
START_TEST(proportions_are_kept) {
    lr__rank_item items[4];
    double measure[4] = {1, 2, 3, 4};
    for (int i = 0; i < 4; i++)
        items[i] = (lr__rank_item){.out = 500, .in = 300, .storage = LR__STORAGE_PIVOT};
    ck_assert_int_eq(lr__ranks_proportional(items, 4, 250000, 0, measure), LR_OK);
    check_promises(items, 4, 250000);
    for (int i = 1; i < 4; i++)
        ck_assert_double_eq_tol((double)items[i].rank / (double)items[0].rank, i + 1, 0.05);
}
END_TEST

/* Bytes of the formats, written out: two bytes a number, or rows of 32 with a scale; index maps of
 * four bytes for each output. */
START_TEST(bytes_are_those_of_the_format) {
    lr__rank_item item = {.out = 100, .in = 70, .rank = 33, .width = 2};
    ck_assert_int_eq(lr__rank_cost(&item, 33), 2 * 33 * 170);
    ck_assert_int_eq(lr__rank_cost(&item, 0), 2 * 7000);
    ck_assert_int_eq(lr__rank_params(&item), 33 * 170);
    item.width = 1;
    ck_assert_int_eq(lr__rank_cost(&item, 33), 100 * (33 + 2 * 2) + 33 * (70 + 2 * 3));
    ck_assert_int_eq(lr__rank_cost(&item, 0), 100 * (70 + 2 * 3));
    item.storage = LR__STORAGE_PIVOT;
    item.width = 4;
    ck_assert_int_eq(lr__rank_cost(&item, 33), 4 * 33 * (170 - 33) + 4 * 100);
    ck_assert_int_eq(lr__rank_params(&item), 33 * (170 - 33));
    for (int width = 1; width <= 4; width += width) {
        lr__rank_item items[3] = {
            {.out = 90, .in = 300, .storage = LR__STORAGE_PIVOT, .width = width},
            {.out = 64, .in = 64, .storage = LR__STORAGE_PIVOT, .width = width},
            {.out = 200, .in = 80, .storage = LR__STORAGE_PIVOT, .width = width}};
        int64_t dense = 0, used = 0;
        ck_assert_int_eq(lr__ranks_dense(&dense, items, 3), LR_OK);
        for (int percent = 30; percent < 100; percent += 3) {
            ck_assert_int_eq(lr__ranks_uniform(items, 3, dense * percent / 100), LR_OK);
            used = 0;
            for (int i = 0; i < 3; i++) used += lr__rank_cost(&items[i], items[i].rank);
            ck_assert_int_le(used, dense * percent / 100);
            ck_assert_int_ge(used, dense * percent / 100 - 4 * 500);
        }
    }
}
END_TEST

START_TEST(wrong_calls) {
    lr__rank_item item = {.out = 8, .in = 8};
    double zero = 0;
    worth[0] = values[0];
    for (int r = 0; r < 8; r++) values[0][r] = 8 - r;
    ck_assert_int_eq(lr__ranks_greedy(&item, 1, 40, 1.5, worth), LR_E_INVALID);
    ck_assert_int_eq(lr__ranks_greedy(&item, 1, 40, NAN, worth), LR_E_INVALID);
    ck_assert_int_eq(lr__ranks_greedy(&item, 1, 8, 0, worth), LR_E_INVALID);
    ck_assert_int_eq(lr__ranks_proportional(&item, 1, 40, 0, &zero), LR_E_NUMERIC);
    values[0][3] = NAN;
    ck_assert_int_eq(lr__ranks_greedy(&item, 1, 40, 0, worth), LR_E_NUMERIC);
    values[0][3] = -1;
    ck_assert_int_eq(lr__ranks_greedy(&item, 1, 40, 0, worth), LR_E_NUMERIC);
}
END_TEST

Suite *greedy_suite(void) {
    Suite *suite = suite_create("greedy");
    TCase *tests = tcase_create("greedy");
    tcase_add_loop_test(tests, near_the_best_of_all, 0, 2);
    tcase_add_test(tests, equal_costs_are_exact);
    tcase_add_loop_test(tests, equal_spectra_share_equally, 0, 2);
    tcase_add_test(tests, flat_spectra_stay_dense);
    tcase_add_test(tests, floors_are_shares_of_uniform);
    tcase_add_test(tests, proportions_are_kept);
    tcase_add_test(tests, bytes_are_those_of_the_format);
    tcase_add_test(tests, wrong_calls);
    suite_add_tcase(suite, tests);
    return suite;
}
