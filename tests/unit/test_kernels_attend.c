/* Attention, one query and blocks, against binary64. */
#include "kernels_guard.h"

static const lr__kernels *level;

typedef struct sizes {
    int64_t queries;
    int64_t first;
    int64_t dim;
    int64_t ldq;
    int64_t ldk;
    int64_t ldv;
    int64_t ldo;
    float scale;
} sizes;

static double score(const lr__attend_task *task, int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t d = 0; d < task->dim; d++)
        sum += (double)task->q[i * task->ldq + d] * task->keys[j * task->ldk + d];
    return sum * task->scale;
}

/* Query i of a task in binary64. */
static void expected_row(const lr__attend_task *task, int64_t i, double *out) {
    int64_t count = task->first + i + 1;
    double most = -INFINITY, total = 0;
    for (int64_t j = 0; j < count; j++) most = fmax(most, score(task, i, j));
    for (int64_t d = 0; d < task->dim; d++) out[d] = 0;
    for (int64_t j = 0; j < count; j++) {
        double p = exp(score(task, i, j) - most);
        total += p;
        for (int64_t d = 0; d < task->dim; d++) out[d] += p * task->values[j * task->ldv + d];
    }
    for (int64_t d = 0; d < task->dim; d++) out[d] /= total;
}

static lr__attend_task make_task(const sizes *s) {
    int64_t keys = s->first + s->queries;
    lr__attend_task task = {.queries = s->queries,
                            .first = s->first,
                            .dim = s->dim,
                            .ldq = s->ldq,
                            .ldk = s->ldk,
                            .ldv = s->ldv,
                            .ldo = s->ldo,
                            .scale = s->scale};
    float *q = guard_matrix(0, s->queries, s->dim, s->ldq);
    float *k = guard_matrix(1, keys, s->dim, s->ldk);
    float *v = guard_matrix(2, keys, s->dim, s->ldv);
    guard_fill(q, s->queries, s->dim, s->ldq);
    guard_fill(k, keys, s->dim, s->ldk);
    guard_fill(v, keys, s->dim, s->ldv);
    task.q = q;
    task.keys = k;
    task.values = v;
    task.out = guard_matrix(3, s->queries, s->dim, s->ldo);
    task.scratch = guard_vector(4, LR__ATTEND_SCRATCH(s->queries, s->first));
    return task;
}

static void check_rows(const lr__attend_task *task, double bound) {
    double expected[256];
    guard_check_gaps(task->out, task->queries, task->dim, task->ldo);
    guard_check_front(task->scratch);
    for (int64_t i = 0; i < task->queries; i++) {
        expected_row(task, i, expected);
        for (int64_t d = 0; d < task->dim; d++)
            if (!(fabs(task->out[i * task->ldo + d] - expected[d]) <= bound))
                ck_abort_msg("%s %d queries from %d, dim %d: query %d, %d: %g, expected %g",
                             level->name, (int)task->queries, (int)task->first, (int)task->dim,
                             (int)i, (int)d, (double)task->out[i * task->ldo + d], expected[d]);
    }
}

static void run_one(const lr__attend_task *task) {
    level->attend(task->first + 1, task->dim, task->q, task->keys, task->ldk, task->values,
                  task->ldv, task->scale, task->scratch, task->out);
}

START_TEST(one_query_matches_binary64) {
    static const int64_t dims[] = {1, 3, 8, 15, 16, 17, 33, 64, 80, 96, 128, 131};
    static const int64_t counts[] = {1, 2, 5, 8, 16, 31, 33, 64, 65, 130, 300};
    if (!(level = guard_level(_i))) return;
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            int64_t dim = dims[d];
            sizes s = {1, counts[c] - 1, dim, dim, dim + (int64_t)c % 4, dim + 3, dim, 0.3f};
            lr__attend_task task = make_task(&s);
            run_one(&task);
            check_rows(&task, 2e-6);
        }
}
END_TEST

/* Neither alignment nor the distance of rows changes a bit. */
START_TEST(one_query_is_invariant) {
    float first[80];
    if (!(level = guard_level(_i))) return;
    sizes s = {1, 76, 80, 80, 80, 80, 80, 0.3f};
    guard_state = 1;
    lr__attend_task task = make_task(&s);
    run_one(&task);
    memcpy(first, task.out, sizeof first);
    for (int64_t gap = 1; gap < 5; gap++) {
        s.ldk = 80 + gap;
        s.ldv = 80 + 2 * gap;
        guard_state = 1;
        task = make_task(&s);
        run_one(&task);
        ck_assert_mem_eq(first, task.out, sizeof first);
    }
}
END_TEST

START_TEST(blocks_match_binary64) {
    static const int64_t dims[] = {1, 7, 16, 40, 64, 65, 80, 96, 131};
    static const int64_t queries[] = {1, 2, 6, 7, 13, 63, 64, 65, 100};
    if (!(level = guard_level(_i))) return;
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t n = 0; n < sizeof queries / sizeof *queries; n++) {
            int64_t dim = dims[d];
            int64_t first = n % 3 == 0 ? 0 : n % 3 == 1 ? 1 : 37;
            sizes s = {queries[n], first, dim, dim + 2, dim, dim + 1, dim + 3, 0.3f};
            lr__attend_task task = make_task(&s);
            level->attend_block(&task);
            check_rows(&task, 2e-6);
        }
}
END_TEST

/* What a query does not see cannot reach it, not even as NaN. */
START_TEST(blocks_hide_the_future) {
    enum { QUERIES = 70 };
    if (!(level = guard_level(_i))) return;
    for (int64_t bad = 0; bad < QUERIES; bad++) {
        sizes s = {QUERIES, 0, 20, 20, 20, 20, 20, 0.3f};
        lr__attend_task task = make_task(&s);
        ((float *)task.values)[bad * 20 + 19] = NAN;
        if (bad % 2) ((float *)task.keys)[bad * 20] = NAN;
        level->attend_block(&task);
        for (int64_t i = 0; i < QUERIES; i++)
            ck_assert_int_eq(!isnan(task.out[i * 20 + 19]), i < bad);
    }
}
END_TEST

START_TEST(blocks_are_deterministic) {
    static float first[90 * 64];
    if (!(level = guard_level(_i))) return;
    sizes s = {90, 11, 64, 64, 64, 64, 64, 0.125f};
    lr__attend_task task = make_task(&s);
    level->attend_block(&task);
    memcpy(first, task.out, sizeof first);
    memset(task.scratch, 0xff, sizeof(float) * LR__ATTEND_SCRATCH(90, 11));
    level->attend_block(&task);
    ck_assert_mem_eq(first, task.out, sizeof first);
}
END_TEST

/* Scores of thousands: the softmax must not overflow, and picks the largest. */
START_TEST(large_scores_pick_one_key) {
    if (!(level = guard_level(_i))) return;
    sizes s = {1, 40, 16, 16, 16, 16, 16, 1e6f};
    for (int sign = -1; sign <= 1; sign += 2) {
        s.scale = (float)sign * 1e6f;
        lr__attend_task task = make_task(&s);
        run_one(&task);
        check_rows(&task, 2e-6);
        level->attend_block(&task);
        check_rows(&task, 2e-6);
    }
}
END_TEST

Suite *kernels_attend_suite(void) {
    Suite *suite = suite_create("kernels_attend");
    TCase *tests = tcase_create("attention");
    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, one_query_matches_binary64, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, one_query_is_invariant, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, blocks_match_binary64, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, blocks_hide_the_future, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, blocks_are_deterministic, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, large_scores_pick_one_key, 0, GUARD_LEVELS);
    suite_add_tcase(suite, tests);
    return suite;
}
