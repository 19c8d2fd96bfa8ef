/* Next-token loss and distillation against closed formulas in binary64 and central differences of
 * them; the head's products by a module of two factors. */
#include "kernels_guard.h"
#include "linear_fixture.h"

#include "nn/loss.h"
#include "nn/loss_head.h"

/* Logits as tables: student and teacher [tokens, vocabulary], and what came back. */
typedef struct table {
    int64_t tokens, vocabulary;
    float *logits, *teacher, *slopes;
    int32_t *targets;
    double alpha, temperature, scale;
    int32_t chunks, stops_at; /* the chunk whose callback fails; 0: none */
} table;

static lr_status give_logits(int64_t first, int64_t rows, float *logits, void *user) {
    const table *t = user;
    ck_assert(rows >= 1 && rows <= LR__LOSS_ROWS && first + rows <= t->tokens);
    memcpy(logits, t->logits + first * t->vocabulary,
           (size_t)(rows * t->vocabulary) * sizeof *logits);
    return LR_OK;
}

static lr_status give_teacher(int64_t first, int64_t rows, float *logits, void *user) {
    const table *t = user;
    memcpy(logits, t->teacher + first * t->vocabulary,
           (size_t)(rows * t->vocabulary) * sizeof *logits);
    return LR_OK;
}

static lr_status take_slopes(int64_t first, int64_t rows, const float *dlogits, void *user) {
    table *t = user;
    if (++t->chunks == t->stops_at) return LR_E_USER;
    memcpy(t->slopes + first * t->vocabulary, dlogits,
           (size_t)(rows * t->vocabulary) * sizeof *dlogits);
    return LR_OK;
}

static table make_table(int64_t tokens, int64_t vocabulary, float spread) {
    size_t count = (size_t)(tokens * vocabulary);
    table t = {.tokens = tokens,
               .vocabulary = vocabulary,
               .logits = malloc(count * sizeof(float)),
               .teacher = malloc(count * sizeof(float)),
               .slopes = calloc(count, sizeof(float)),
               .targets = malloc((size_t)tokens * sizeof(int32_t)),
               .scale = 1};
    guard_fill(t.logits, 1, tokens * vocabulary, 0);
    guard_fill(t.teacher, 1, tokens * vocabulary, 0);
    for (size_t i = 0; i < count; i++) t.logits[i] *= spread, t.teacher[i] *= spread;
    for (int64_t i = 0; i < tokens; i++)
        t.targets[i] = (int32_t)(guard_random() % (uint64_t)vocabulary);
    return t;
}

static void free_table(table *t) {
    free(t->logits);
    free(t->teacher);
    free(t->slopes);
    free(t->targets);
}

static lr__loss loss_of(table *t) {
    return (lr__loss){.tokens = t->tokens,
                      .vocabulary = t->vocabulary,
                      .chunk_rows = LR__LOSS_ROWS,
                      .targets = t->targets,
                      .logits = give_logits,
                      .dlogits = take_slopes,
                      .user = t,
                      .teacher = t->temperature > 0 ? give_teacher : NULL,
                      .teacher_user = t,
                      .alpha = t->alpha,
                      .temperature = t->temperature,
                      .scale = t->scale};
}

static lr_status run(const lr__loss *loss, int level, int32_t threads, lr__loss_sums *sums) {
    lr__device device = {.kernels = guard_level(level)};
    lr__arena arena = {0};
    ck_assert_int_eq(lr__pool_new(&device.pool, threads), LR_OK);
    lr_status status = lr__loss_run(&device, &arena, loss, sums);
    lr__arena_clear(&arena);
    lr__pool_free(device.pool);
    return status;
}

/* ---- closed formulas ---- */

static double log_sum(const double *z, int64_t n, double temperature) {
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, z[i]);
    for (int64_t i = 0; i < n; i++) sum += exp((z[i] - most) / temperature);
    return most / temperature + log(sum);
}

static double next_token(const double *z, int64_t n, int32_t target) {
    return log_sum(z, n, 1) - z[target];
}

static double divergence(const double *z, const float *teacher, int64_t n, double temperature) {
    double *r = calloc((size_t)n, sizeof *r), kl = 0;
    for (int64_t i = 0; i < n; i++) r[i] = teacher[i];
    double r_all = log_sum(r, n, temperature), z_all = log_sum(z, n, temperature);
    for (int64_t i = 0; i < n; i++) {
        double q = exp(r[i] / temperature - r_all);
        if (q > 0) kl += q * (r[i] / temperature - r_all - z[i] / temperature + z_all);
    }
    free(r);
    return temperature * temperature * kl;
}

static double row_total(const table *t, int64_t row, const double *z) {
    int64_t n = t->vocabulary;
    double own = next_token(z, n, t->targets[row]);
    if (!(t->temperature > 0)) return own;
    double kl = divergence(z, t->teacher + row * n, n, t->temperature);
    return (1 - t->alpha) * own + t->alpha * kl;
}

/* Rows of one step of `stride`, and the sums. */
static void check_table(const table *t, const lr__loss_sums *sums, int64_t stride) {
    int64_t n = t->vocabulary;
    double *z = malloc((size_t)n * sizeof *z), total = 0, own = 0;
    int64_t scored = 0;
    for (int64_t row = 0; row < t->tokens; row++) {
        const float *slopes = t->slopes + row * n;
        if (t->targets[row] < 0) {
            for (int64_t i = 0; i < n; i++) ck_assert(slopes[i] == 0);
            continue;
        }
        for (int64_t i = 0; i < n; i++) z[i] = t->logits[row * n + i];
        total += row_total(t, row, z);
        own += next_token(z, n, t->targets[row]);
        scored++;
        for (int64_t i = 0; row % stride == 0 && i < n; i++) {
            double h = 1e-5, was = z[i];
            z[i] = was + h;
            double above = row_total(t, row, z);
            z[i] = was - h;
            double slope = t->scale * (above - row_total(t, row, z)) / (2 * h);
            z[i] = was;
            if (!(fabs(slopes[i] - slope) <= 1e-6 * t->scale * (1 + t->temperature)))
                ck_abort_msg("row %d, %d of %d: %.9g, expected %.9g", (int)row, (int)i, (int)n,
                             (double)slopes[i], slope);
        }
    }
    ck_assert_int_eq(sums->scored, scored);
    ck_assert_double_eq_tol(sums->total, total, 1e-6 * (1 + fabs(total)));
    ck_assert_double_eq_tol(sums->next_token, own, 1e-6 * (1 + fabs(own)));
    free(z);
}

static void check(table *t, int level, int64_t stride) {
    lr__loss loss = loss_of(t);
    lr__loss_sums sums;
    ck_assert_msg(run(&loss, level, 2, &sums) == LR_OK, "%s", lr_last_error());
    check_table(t, &sums, stride);
}

START_TEST(next_token_matches_closed_form) {
    static const int64_t sizes[][2] = {{1, 1}, {1, 2}, {7, 5}, {40, 33}, {3, 300}, {1100, 9}};
    if (!guard_level(_i)) return;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        table t = make_table(sizes[s][0], sizes[s][1], s % 2 ? 8 : 1);
        t.scale = s % 3 ? 1.0 : 0.25;
        check(&t, _i, t.tokens > 100 ? 37 : 1);
        free_table(&t);
    }
}
END_TEST

START_TEST(distillation_matches_closed_form) {
    static const int64_t sizes[][2] = {{1, 1}, {5, 2}, {9, 31}, {600, 17}};
    static const double alphas[] = {0, 0.3, 1};
    if (!guard_level(_i)) return;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int temperature = 1; temperature <= 2; temperature++)
            for (int a = 0; a < 3; a++) {
                table t = make_table(sizes[s][0], sizes[s][1], 3);
                t.alpha = alphas[a];
                t.temperature = temperature;
                t.scale = 0.5;
                check(&t, _i, t.tokens > 100 ? 29 : 1);
                free_table(&t);
            }
}
END_TEST

/* A student that is its teacher: no divergence, and only the token pulls. */
START_TEST(equals_do_not_diverge) {
    if (!guard_level(_i)) return;
    table t = make_table(20, 100, 5);
    memcpy(t.teacher, t.logits, 2000 * sizeof(float));
    t.alpha = 1;
    t.temperature = 2;
    lr__loss loss = loss_of(&t);
    lr__loss_sums sums;
    ck_assert_int_eq(run(&loss, _i, 1, &sums), LR_OK);
    ck_assert_double_le(fabs(sums.divergence), 1e-9);
    for (int i = 0; i < 2000; i++) ck_assert(fabsf(t.slopes[i]) < 1e-7f);
    free_table(&t);
}
END_TEST

/* Rows without a target count for nothing, whatever they hold; chunks of such rows are left out. */
START_TEST(masked_rows_count_for_nothing) {
    if (!guard_level(_i)) return;
    for (int distils = 0; distils < 2; distils++) {
        table t = make_table(1300, 6, 2);
        t.temperature = distils * 2;
        t.alpha = 0.5;
        for (int64_t row = 0; row < t.tokens; row++)
            if (row % 3 == 0 || (row >= 500 && row < 1030)) {
                t.targets[row] = row % 2 ? -1 : INT32_MIN;
                for (int i = 0; i < 6; i++) t.logits[row * 6 + i] = i % 2 ? NAN : INFINITY;
            }
        check(&t, _i, 7);
        ck_assert_int_eq(t.chunks, 2);
        free_table(&t);
    }
}
END_TEST

/* Sure rows, right and wrong, and words the teacher rules out. */
START_TEST(extremes_are_borne) {
    if (!guard_level(_i)) return;
    table t = make_table(2, 40, 1);
    t.logits[5] = t.logits[45] = 3e4f;
    t.targets[0] = 5;
    t.targets[1] = 6;
    lr__loss loss = loss_of(&t);
    lr__loss_sums sums;
    ck_assert_int_eq(run(&loss, _i, 1, &sums), LR_OK);
    ck_assert_double_eq_tol(sums.next_token, 3e4 - (double)t.logits[46], 1e-2);
    ck_assert(t.slopes[5] == 0 && t.slopes[45] == 1 && t.slopes[46] == -1);
    t.logits[5] = t.logits[45] = 0;
    for (int i = 0; i < 80; i += 2) t.teacher[i] = -INFINITY;
    t.temperature = t.alpha = 1;
    loss = loss_of(&t);
    ck_assert_int_eq(run(&loss, _i, 1, &sums), LR_OK);
    check_table(&t, &sums, 1);
    free_table(&t);
}
END_TEST

/* The difference of a good row is small and kept to its digits: p - 1 for p near 1. */
START_TEST(small_slopes_keep_their_digits) {
    if (!guard_level(_i)) return;
    table t = make_table(1, 2, 1);
    t.logits[0] = 20;
    t.logits[1] = 0;
    t.targets[0] = 0;
    lr__loss loss = loss_of(&t);
    lr__loss_sums sums;
    ck_assert_int_eq(run(&loss, _i, 1, &sums), LR_OK);
    double p = exp(-20) / (1 + exp(-20));
    ck_assert_double_eq_tol(t.slopes[0] / -p, 1, 1e-6);
    ck_assert_double_eq_tol(t.slopes[1] / p, 1, 1e-6);
    free_table(&t);
}
END_TEST

START_TEST(threads_and_chunks_change_no_bit) {
    static const int64_t chunk_rows[] = {LR__LOSS_ROWS, 1, 77, 512};
    if (!guard_level(_i)) return;
    table t = make_table(700, 41, 4);
    t.temperature = 2;
    t.alpha = 0.4;
    float *slopes = malloc(700 * 41 * sizeof *slopes);
    lr__loss_sums first, sums;
    for (int i = 0; i < 4; i++) {
        lr__loss loss = loss_of(&t);
        loss.chunk_rows = chunk_rows[i];
        ck_assert_int_eq(run(&loss, _i, i % 3 + 1, &sums), LR_OK);
        if (!i) {
            first = sums;
            memcpy(slopes, t.slopes, 700 * 41 * sizeof *slopes);
        }
        ck_assert(!memcmp(&first, &sums, sizeof sums));
        ck_assert(!memcmp(slopes, t.slopes, 700 * 41 * sizeof *slopes));
    }
    free(slopes);
    free_table(&t);
}
END_TEST

/* ---- errors ---- */

static void check_refused(const lr__loss *loss, lr_status status, const char *sentence) {
    lr__loss_sums sums;
    ck_assert_int_eq(run(loss, 0, 2, &sums), status);
    ck_assert_msg(strstr(lr_last_error(), sentence) != NULL, "%s", lr_last_error());
}

START_TEST(losses_that_are_not_finite_name_their_row) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        table t = make_table(800, 4, 1);
        t.logits[700 * 4 + t.targets[700]] = t.logits[750 * 4] = bad[i];
        lr__loss loss = loss_of(&t);
        check_refused(&loss, LR_E_NUMERIC, "loss of row 700 ");
        ck_assert_int_eq(t.chunks, 1);
        free_table(&t);
    }
    table t = make_table(800, 4, 1);
    t.teacher[600 * 4 + 1] = NAN;
    t.temperature = t.alpha = 1;
    lr__loss loss = loss_of(&t);
    check_refused(&loss, LR_E_NUMERIC, "divergence of row 600 ");
    free_table(&t);
}
END_TEST

START_TEST(senseless_losses_are_refused) {
    table t = make_table(20, 4, 1);
    t.temperature = 1;
    lr__loss loss = loss_of(&t), other = loss;
    other.chunk_rows = 0;
    check_refused(&other, LR_E_INVALID, "chunks of 0 rows");
    other.chunk_rows = 513;
    check_refused(&other, LR_E_INVALID, "chunks of 513 rows");
    other = loss;
    other.alpha = 1.5;
    check_refused(&other, LR_E_INVALID, "alpha 1.5");
    other.alpha = NAN;
    check_refused(&other, LR_E_INVALID, "alpha nan");
    other = loss;
    other.temperature = 0;
    check_refused(&other, LR_E_INVALID, "temperature 0");
    other = loss;
    other.scale = INFINITY;
    check_refused(&other, LR_E_INVALID, "inf");
    t.targets[13] = 4;
    check_refused(&loss, LR_E_INVALID, "target 4 of row 13");
    free_table(&t);
}
END_TEST

START_TEST(callbacks_stop_the_loss) {
    table t = make_table(1600, 3, 1);
    lr__loss_sums sums;
    t.stops_at = 2;
    lr__loss loss = loss_of(&t);
    ck_assert_int_eq(run(&loss, 0, 1, &sums), LR_E_USER);
    ck_assert_int_eq(t.chunks, 2);
    loss.dlogits = NULL;
    loss.tokens = 0;
    ck_assert_int_eq(run(&loss, 0, 1, &sums), LR_OK);
    ck_assert(sums.scored == 0 && sums.total == 0);
    loss.tokens = 1600;
    ck_assert_int_eq(run(&loss, 0, 1, &sums), LR_OK);
    ck_assert_int_eq(sums.scored, 1600);
    free_table(&t);
}
END_TEST

/* ---- the head ---- */

enum { TOKENS = 23, HIDDEN = 6, RANK = 3, WORDS = 11 };

typedef struct heads {
    both_op student[2], teacher;
    float *hidden, *teacher_hidden;
    int32_t targets[TOKENS];
} heads;

static double total_of(const heads *h) {
    double sum = 0;
    for (int64_t row = 0; row < TOKENS; row++) {
        double z[WORDS] = {0}, r[WORDS] = {0};
        float r32[WORDS];
        if (h->targets[row] < 0) continue;
        oracle_ops(h->student, 2, 1, h->hidden + row * HIDDEN, z);
        oracle_ops(&h->teacher, 1, 1, h->teacher_hidden + row * HIDDEN, r);
        for (int i = 0; i < WORDS; i++) r32[i] = (float)r[i];
        sum += 0.25 * next_token(z, WORDS, h->targets[row]);
        sum += 0.75 * divergence(z, r32, WORDS, 2);
    }
    return sum;
}

static void check_slopes(const heads *h, float *numbers, const float *got, int64_t count,
                         double more) {
    for (int64_t i = 0; i < count; i++) {
        float was = numbers[i];
        numbers[i] = was + 0x1p-10f;
        double above = total_of(h);
        numbers[i] = was - 0x1p-10f;
        double wanted = (above - total_of(h)) * 0x1p9 + more;
        numbers[i] = was;
        ck_assert_msg(fabs(got[i] - wanted) <= 3e-5 * (1 + fabs(wanted)), "%d: %g, expected %g",
                      (int)i, (double)got[i], wanted);
    }
}

static lr_linear *linear_of(const both_op *ops, int32_t count) {
    lr_linear *linear = new_linear("head", WORDS, HIDDEN);
    add_chain(linear, 1, ops, count, NULL);
    return linear;
}

/* Both factors and the hidden rows learn. */
START_TEST(heads_of_factors_learn) {
    heads h = {.student = {make_matrix(LR_F32, WORDS, RANK), make_matrix(LR_F32, RANK, HIDDEN)},
               .teacher = make_matrix(LR_F32, WORDS, HIDDEN),
               .hidden = fixture_numbers(TOKENS * HIDDEN),
               .teacher_hidden = fixture_numbers(TOKENS * HIDDEN)};
    for (int i = 0; i < TOKENS; i++) h.targets[i] = i % 5 ? i % WORDS : -1;
    lr_linear *student = linear_of(h.student, 2), *teacher = linear_of(&h.teacher, 1);
    lr__gradients gradients = {0};
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(lr__gradients_add(&gradients, h.student[i].op.param), LR_OK);
    float dhidden[TOKENS * HIDDEN];
    for (int i = 0; i < TOKENS * HIDDEN; i++) dhidden[i] = 0.5f;
    lr__arena arena = {0};
    lr__evaluation e = {.device = &fixture_ctx->device, .arena = &arena, .batch = 1};
    lr__loss_head own = {
        .e = &e, .head = student, .hidden = h.hidden, .dhidden = dhidden, .gradients = &gradients};
    lr__loss_head other = {.e = &e, .head = teacher, .hidden = h.teacher_hidden};
    lr__loss loss = {.tokens = TOKENS,
                     .vocabulary = WORDS,
                     .chunk_rows = 7,
                     .targets = h.targets,
                     .logits = lr__loss_head_logits,
                     .dlogits = lr__loss_head_dlogits,
                     .user = &own,
                     .teacher = lr__loss_head_logits,
                     .teacher_user = &other,
                     .alpha = 0.75,
                     .temperature = 2,
                     .scale = 1};
    lr__loss_sums sums;
    ck_assert_msg(lr__loss_run(e.device, &arena, &loss, &sums) == LR_OK, "%s", lr_last_error());
    ck_assert_double_eq_tol(sums.total, total_of(&h), 1e-5);
    check_slopes(&h, h.hidden, dhidden, TOKENS * HIDDEN, 0.5);
    for (int i = 0; i < 2; i++)
        check_slopes(&h, h.student[i].plain.w, lr__gradient_of(&gradients, h.student[i].op.param),
                     h.student[i].plain.out * h.student[i].plain.in, 0);
    lr__arena_clear(&arena);
    lr__gradients_clear(&gradients);
    lr_linear_free(student);
    lr_linear_free(teacher);
    drop_ops(h.student, 2);
    drop_ops(&h.teacher, 1);
    free(h.hidden);
    free(h.teacher_hidden);
}
END_TEST

Suite *loss_suite(void) {
    Suite *suite = suite_create("loss");
    TCase *rows = tcase_create("rows"), *heads_case = tcase_create("heads");
    tcase_set_timeout(rows, 30);
    tcase_add_loop_test(rows, next_token_matches_closed_form, 0, GUARD_LEVELS);
    tcase_add_loop_test(rows, distillation_matches_closed_form, 0, GUARD_LEVELS);
    tcase_add_loop_test(rows, equals_do_not_diverge, 0, GUARD_LEVELS);
    tcase_add_loop_test(rows, masked_rows_count_for_nothing, 0, GUARD_LEVELS);
    tcase_add_loop_test(rows, extremes_are_borne, 0, GUARD_LEVELS);
    tcase_add_loop_test(rows, small_slopes_keep_their_digits, 0, GUARD_LEVELS);
    tcase_add_loop_test(rows, threads_and_chunks_change_no_bit, 0, GUARD_LEVELS);
    tcase_add_test(rows, losses_that_are_not_finite_name_their_row);
    tcase_add_test(rows, senseless_losses_are_refused);
    tcase_add_test(rows, callbacks_stop_the_loss);
    suite_add_tcase(suite, rows);
    tcase_add_checked_fixture(heads_case, fixture_make, fixture_drop);
    tcase_add_test(heads_case, heads_of_factors_learn);
    suite_add_tcase(suite, heads_case);
    return suite;
}
