/* Backward of attention against central differences, in binary64, of a naive attention. */
#include "kernels_guard.h"

#include "nn/attention_backward.h"

enum { SPANS = 2 };

typedef struct shape {
    int32_t heads, key_value_heads, head_size, window;
    int64_t queries[SPANS], first[SPANS]; /* no queries: no second span */
} shape;

static const shape small[] = {
    {1, 1, 1, 0, {1}, {0}},        {1, 1, 5, 0, {2}, {0}},       {3, 1, 3, 0, {5}, {0}},
    {3, 3, 7, 0, {4}, {6}},        {6, 2, 5, 0, {5, 3}, {3, 0}}, {4, 2, 8, 3, {9}, {0}},
    {3, 1, 6, 4, {3, 7}, {11, 2}}, {5, 5, 2, 1, {4}, {3}},       {2, 1, 9, 100, {6}, {2}},
    {7, 1, 3, 5, {8, 1}, {0, 9}},
};
static const shape large[] = {
    {3, 1, 17, 0, {64}, {0}},          {2, 1, 33, 0, {65, 63}, {0, 70}}, {3, 3, 20, 0, {130}, {5}},
    {2, 2, 64, 0, {100}, {128}},       {2, 1, 16, 7, {150}, {0}},        {3, 1, 8, 64, {131}, {90}},
    {2, 1, 80, 65, {67, 129}, {1, 0}}, {1, 1, 131, 0, {70}, {3}},
};
enum { SMALL = sizeof small / sizeof *small, LARGE = sizeof large / sizeof *large };

/* Spans lie one behind the other in each array; those written end at a page without access. */
typedef struct problem {
    const shape *s;
    int64_t ldq, ldk;
    int64_t q_rows, k_rows;
    float *q, *keys, *values, *dout;
    float *dq, *dkeys, *dvalues;
    lr__attention attention;
    lr__attention_span spans[SPANS];
    lr__attention_slope slopes[SPANS];
} problem;

static void place_spans(problem *p) {
    const shape *s = p->s;
    int64_t q = 0, k = 0;
    for (int i = 0; i < p->attention.span_count; i++) {
        p->spans[i] = (lr__attention_span){.queries = s->queries[i],
                                           .first = s->first[i],
                                           .q = p->q + q * p->ldq,
                                           .keys = p->keys + k * p->ldk,
                                           .values = p->values + k * p->ldk};
        p->slopes[i] = (lr__attention_slope){.dout = p->dout + q * p->ldq,
                                             .dq = p->dq + q * p->ldq,
                                             .dkeys = p->dkeys + k * p->ldk,
                                             .dvalues = p->dvalues + k * p->ldk};
        q += s->queries[i];
        k += s->queries[i] + s->first[i];
    }
}

static void make_problem(problem *p, const shape *s) {
    *p =
        (problem){.s = s, .ldq = s->heads * s->head_size, .ldk = s->key_value_heads * s->head_size};
    p->attention = (lr__attention){.spans = p->spans,
                                   .span_count = s->queries[1] ? 2 : 1,
                                   .heads = s->heads,
                                   .key_value_heads = s->key_value_heads,
                                   .head_size = s->head_size,
                                   .window = s->window,
                                   .scale = 0.7f};
    for (int i = 0; i < p->attention.span_count; i++) {
        p->q_rows += s->queries[i];
        p->k_rows += s->queries[i] + s->first[i];
    }
    p->q = guard_vector(0, p->q_rows * p->ldq);
    p->keys = guard_vector(1, p->k_rows * p->ldk);
    p->values = guard_vector(2, p->k_rows * p->ldk);
    p->dout = guard_vector(3, p->q_rows * p->ldq);
    p->dq = guard_vector(4, p->q_rows * p->ldq);
    p->dkeys = guard_vector(5, p->k_rows * p->ldk);
    p->dvalues = guard_vector(6, p->k_rows * p->ldk);
    place_spans(p);
}

static void run(problem *p, const lr__kernels *kernels, int32_t threads) {
    lr__device device = {.kernels = kernels};
    lr__arena arena = {0};
    ck_assert_int_eq(lr__pool_new(&device.pool, threads), LR_OK);
    ck_assert_int_eq(lr__attention_backward(&device, &arena, &p->attention, p->slopes), LR_OK);
    lr__arena_clear(&arena);
    lr__pool_free(device.pool);
    guard_check_front(p->dq);
    guard_check_front(p->dkeys);
    guard_check_front(p->dvalues);
}

/* ---- the naive attention ---- */

/* One number of the input, moved. */
typedef struct nudge {
    const float *at;
    double by;
} nudge;

static double nudged(const nudge *n, const float *at) { return *at + (at == n->at ? n->by : 0); }

static double row_loss(const problem *p, const nudge *n, int span, int64_t i, int32_t head) {
    const lr__attention_span *s = &p->spans[span];
    int64_t size = p->s->head_size, shared = head / (p->s->heads / p->s->key_value_heads) * size;
    int64_t position = s->first + i, from = 0;
    const float *dout = p->slopes[span].dout + i * p->ldq + head * size;
    const float *q = s->q + i * p->ldq + head * size;
    double total = 0, sum = 0;
    if (p->s->window && position >= p->s->window) from = position - p->s->window + 1;
    for (int64_t j = from; j <= position; j++) {
        double score = 0, value = 0;
        for (int64_t d = 0; d < size; d++) {
            score += nudged(n, q + d) * nudged(n, s->keys + j * p->ldk + shared + d);
            value += dout[d] * nudged(n, s->values + j * p->ldk + shared + d);
        }
        total += exp(score * (double)p->attention.scale);
        sum += exp(score * (double)p->attention.scale) * value;
    }
    return sum / total;
}

static double loss(const problem *p, const float *at, double by) {
    nudge n = {at, by};
    double sum = 0;
    for (int span = 0; span < p->attention.span_count; span++)
        for (int64_t i = 0; i < p->spans[span].queries; i++)
            for (int32_t head = 0; head < p->s->heads; head++)
                sum += row_loss(p, &n, span, i, head);
    return sum;
}

static void check_slope(const problem *p, const char *what, const float *x, const float *dx,
                        int64_t i) {
    double h = 1e-5, slope = (loss(p, x + i, h) - loss(p, x + i, -h)) / (2 * h);
    if (!(fabs(dx[i] - slope) <= 2e-6 * (1 + fabs(slope))))
        ck_abort_msg("%s %d: %.9g, expected %.9g (%d heads of %d, %d queries)", what, (int)i,
                     (double)dx[i], slope, p->s->heads, p->s->head_size, (int)p->s->queries[0]);
}

START_TEST(every_number_matches_differences) {
    problem p;
    if (!guard_level(_i)) return;
    for (int c = 0; c < SMALL; c++) {
        make_problem(&p, &small[c]);
        run(&p, guard_level(_i), 1);
        for (int64_t i = 0; i < p.q_rows * p.ldq; i++) check_slope(&p, "dq", p.q, p.dq, i);
        for (int64_t i = 0; i < p.k_rows * p.ldk; i++) {
            check_slope(&p, "dkeys", p.keys, p.dkeys, i);
            check_slope(&p, "dvalues", p.values, p.dvalues, i);
        }
    }
}
END_TEST

START_TEST(large_shapes_match_differences) {
    enum { PROBES = 5 };
    problem p;
    if (!guard_level(_i)) return;
    for (int c = 0; c < LARGE; c++) {
        make_problem(&p, &large[c]);
        run(&p, guard_level(_i), 1);
        for (int k = 0; k < PROBES; k++) {
            int64_t q = (int64_t)(guard_random() % (uint64_t)(p.q_rows * p.ldq));
            int64_t key = (int64_t)(guard_random() % (uint64_t)(p.k_rows * p.ldk));
            check_slope(&p, "dq", p.q, p.dq, q);
            check_slope(&p, "dkeys", p.keys, p.dkeys, key);
            check_slope(&p, "dvalues", p.values, p.dvalues, key);
        }
    }
}
END_TEST

/* ---- levels and threads ---- */

static float *copy(const float *x, int64_t n) {
    float *out = malloc((size_t)n * sizeof *out);
    memcpy(out, x, (size_t)n * sizeof *out);
    return out;
}

static double distance(const float *x, const float *y, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs((double)x[i] - y[i]));
    return most;
}

START_TEST(levels_match_the_plain_form) {
    problem p;
    if (!guard_level(_i)) return;
    for (int c = 0; c < LARGE; c++) {
        make_problem(&p, &large[c]);
        int64_t q_count = p.q_rows * p.ldq, k_count = p.k_rows * p.ldk;
        run(&p, guard_level(0), 1);
        float *dq = copy(p.dq, q_count), *dkeys = copy(p.dkeys, k_count);
        float *dvalues = copy(p.dvalues, k_count);
        run(&p, guard_level(_i), 1);
        ck_assert_double_le(distance(dq, p.dq, q_count), 3e-6);
        ck_assert_double_le(distance(dkeys, p.dkeys, k_count), 3e-6);
        ck_assert_double_le(distance(dvalues, p.dvalues, k_count), 3e-6);
        free(dq);
        free(dkeys);
        free(dvalues);
    }
}
END_TEST

START_TEST(threads_change_no_bit) {
    problem p;
    if (!guard_level(_i)) return;
    for (int c = 0; c < LARGE; c++) {
        make_problem(&p, &large[c]);
        size_t q_bytes = (size_t)(p.q_rows * p.ldq) * sizeof(float);
        size_t k_bytes = (size_t)(p.k_rows * p.ldk) * sizeof(float);
        run(&p, guard_level(_i), 1);
        float *dq = copy(p.dq, p.q_rows * p.ldq), *dkeys = copy(p.dkeys, p.k_rows * p.ldk);
        float *dvalues = copy(p.dvalues, p.k_rows * p.ldk);
        for (int32_t threads = 2; threads <= 3; threads++) {
            memset(p.dq, 0xff, q_bytes);
            memset(p.dkeys, 0xff, k_bytes);
            memset(p.dvalues, 0xff, k_bytes);
            run(&p, guard_level(_i), threads);
            ck_assert(!memcmp(dq, p.dq, q_bytes));
            ck_assert(!memcmp(dkeys, p.dkeys, k_bytes) && !memcmp(dvalues, p.dvalues, k_bytes));
        }
        free(dq);
        free(dkeys);
        free(dvalues);
    }
}
END_TEST

/* The slot itself, rows apart: gaps stay, and scratch is as large as promised. */
START_TEST(slots_stay_within_their_arrays) {
    enum { QUERIES = 70, FIRST = 9, DIM = 19, STEP = 23, KEYS = QUERIES + FIRST };
    const lr__kernels *level = guard_level(_i);
    for (int64_t window = 0; level && window <= 80; window += 8) {
        int64_t seen = window && window + LR__ATTEND_QUERIES - 1 < KEYS
                           ? window + LR__ATTEND_QUERIES - 1
                           : KEYS;
        float *q = guard_matrix(0, QUERIES, DIM, STEP), *keys = guard_matrix(1, KEYS, DIM, STEP);
        float *values = guard_matrix(2, KEYS, DIM, STEP),
              *dout = guard_matrix(3, QUERIES, DIM, STEP);
        guard_fill(q, QUERIES, DIM, STEP);
        guard_fill(keys, KEYS, DIM, STEP);
        guard_fill(values, KEYS, DIM, STEP);
        guard_fill(dout, QUERIES, DIM, STEP);
        lr__attend_backward_task task = {.of = {.queries = QUERIES,
                                                .first = FIRST,
                                                .dim = DIM,
                                                .q = q,
                                                .ldq = STEP,
                                                .keys = keys,
                                                .ldk = STEP,
                                                .values = values,
                                                .ldv = STEP,
                                                .scale = 0.25f,
                                                .ldo = STEP},
                                         .window = window,
                                         .dout = dout,
                                         .dq = guard_matrix(4, QUERIES, DIM, STEP),
                                         .dkeys = guard_matrix(5, KEYS, DIM, STEP),
                                         .dvalues = guard_matrix(6, KEYS, DIM, STEP)};
        task.of.scratch = guard_vector(7, LR__ATTEND_BACKWARD_SCRATCH(QUERIES, seen));
        level->attend_backward(&task);
        guard_check_gaps(task.dq, QUERIES, DIM, STEP);
        guard_check_gaps(task.dkeys, KEYS, DIM, STEP);
        guard_check_gaps(task.dvalues, KEYS, DIM, STEP);
        guard_check_front(task.of.scratch);
    }
}
END_TEST

/* Scores of thousands: each query sees one key as good as alone, so scores have no slope. */
START_TEST(large_scores_have_no_slope) {
    problem p;
    if (!guard_level(_i)) return;
    make_problem(&p, &large[0]);
    p.attention.scale = 1e6f;
    run(&p, guard_level(_i), 1);
    for (int64_t i = 0; i < p.q_rows * p.ldq; i++)
        ck_assert_msg(fabsf(p.dq[i]) < 1e-3f, "%g", (double)p.dq[i]);
}
END_TEST

Suite *attention_backward_suite(void) {
    Suite *suite = suite_create("attention_backward");
    TCase *tests = tcase_create("attention");
    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, every_number_matches_differences, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, large_shapes_match_differences, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, levels_match_the_plain_form, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, threads_change_no_bit, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, slots_stay_within_their_arrays, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, large_scores_have_no_slope, 0, GUARD_LEVELS);
    suite_add_tcase(suite, tests);
    return suite;
}
