/* Modules that learn from their own inputs and outputs: losses, streams and single steps against
 * plain loops over what hooks saw, the optimum from singular values of those outputs, and what is
 * kept, stopped, refused and written. */
#include "jacobi.h"
#include "run_fixture.h"

enum { WINDOW = 16, WINDOWS = 6, TEXT = WINDOW * WINDOWS, NOTES_MOST = 4096 };

static lr_model *teacher, *student;
static int32_t ids[TEXT];
static const char all[] = "{\"q_proj\": 7, \"v_proj\": 4, \"o_proj\": 6, \"gate_proj\": 8, "
                          "\"down_proj\": 9}";

static void setup(void) {
    scratch_make();
    teacher = tiny_open_path(tiny_write(&tiny_model, "model"), 2);
    tiny_text(1, TEXT, tiny_vocabulary(teacher), ids);
}

static void teardown(void) {
    lr_model_free(student);
    lr_model_free(teacher);
    student = teacher = NULL;
    scratch_remove();
}

static lr_model *clone_of(const lr_model *source) {
    lr_model *copy;
    CHECK_OK(lr_model_clone(&copy, source));
    return copy;
}

static void compress(const char *method, const char *storage, const char *ranks) {
    lr_plan_opts plan_opts;
    lr_compress_opts opts;
    lr_plan *plan;
    lr_stats *stats = stats_of(teacher, ids, TEXT, WINDOW);
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.ranks = ranks;
    plan_opts.storage = storage;
    CHECK_OK(lr_plan_new(&plan, teacher, &plan_opts));
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = method;
    lr_model_free(student);
    student = clone_of(teacher);
    CHECK_OK(lr_compress(student, plan, stats, &opts, NULL, NULL));
    lr_plan_free(plan);
    lr_stats_free(stats);
}

/* All windows at once, none held out. */
static lr_distill_opts options(int64_t steps, double rate) {
    lr_distill_opts opts;
    lr_distill_opts_init(&opts, sizeof opts);
    opts.steps = steps;
    opts.batch = WINDOWS;
    opts.window = WINDOW;
    opts.learning_rate = rate;
    opts.held_out = 0;
    opts.log_every = 1;
    return opts;
}

typedef struct notes {
    lr_distill_event items[NOTES_MOST];
    char modules[NOTES_MOST][64];
    int count, stop_at; /* 0: never */
} notes;

static notes seen;

static int32_t note(const lr_distill_event *event, void *user) {
    notes *n = user;
    ck_assert_int_lt(n->count, NOTES_MOST);
    ck_assert_uint_eq(event->size, sizeof *event);
    ck_assert(event->losses[event->step - 1] == event->loss);
    snprintf(n->modules[n->count], sizeof n->modules[0], "%s", event->module);
    n->items[n->count] = *event;
    return ++n->count == n->stop_at;
}

static lr_status distill(const char *pattern, const lr_distill_opts *opts) {
    int stop_at = seen.stop_at;
    memset(&seen, 0, sizeof seen);
    seen.stop_at = stop_at;
    return lr_distill(student, teacher, pattern, ids, TEXT, opts, note, &seen);
}

static const lr_distill_event *last_of(const char *module) {
    for (int i = seen.count - 1; i >= 0; i--)
        if (seen.items[i].is_last && !strcmp(seen.modules[i], module)) return &seen.items[i];
    ck_abort_msg("%s: no last event", module);
}

/* ---- losses by plain loops ---- */

/* Mean of (M x - y)^2 over the tokens [first, last) of x and y, M the student's module. */
static double loss_of(const lr_model *model, const capture *x, const capture *y, int64_t first,
                      int64_t last) {
    double *m = matrix_of(model, x->module), sum = 0;
    for (int64_t t = first; t < last; t++)
        for (int64_t o = 0; o < x->out; o++) {
            double made = m[o * (x->in + 1) + x->in];
            for (int64_t i = 0; i < x->in; i++)
                made += m[o * (x->in + 1) + i] * x->x[t * x->in + i];
            sum += (made - y->y[t * y->out + o]) * (made - y->y[t * y->out + o]);
        }
    free(m);
    return sum / (double)((last - first) * x->out);
}

/* Least such loss at this rank: the tail of the squared singular values of all outputs. */
static double tail_of(const capture *c, int64_t rank) {
    double *y = malloc((size_t)(c->out * c->tokens) * sizeof *y), tail = 0;
    for (int64_t t = 0; t < c->tokens; t++)
        for (int64_t o = 0; o < c->out; o++) y[o * c->tokens + t] = c->y[t * c->out + o];
    double *squares = jacobi_squares(y, c->out, c->tokens);
    for (int64_t i = rank; i < c->out; i++) tail += squares[i];
    free(squares);
    free(y);
    return tail / (double)(c->out * c->tokens);
}

/* ---- the notebook and the closed form (O26, O27) ---- */

static const char gate[] = "model.layers.1.mlp.gate_proj";

START_TEST(notebook_nears_the_optimum_and_never_passes_it) {
    compress("svd", "two-factor", "{\"model.layers.1.mlp.gate_proj\": 8}");
    captures *dense = capture_windows(teacher, ids, WINDOW, WINDOWS);
    capture *c = captured(dense, gate);
    double tail = tail_of(c, 8), start = loss_of(student, c, c, 0, TEXT);
    lr_distill_opts opts = options(1200, 3e-3);
    CHECK_OK(distill("gate_proj", &opts));
    const lr_distill_event *e = last_of(gate);
    ck_assert_int_eq(e->step, 1200);
    CHECK_NEAR(seen.items[0].loss, start, 1e-6 * start);
    ck_assert_double_gt(start, 1.3 * tail); /* there was something to learn */
    for (int i = 0; i < seen.count; i++) ck_assert_double_ge(seen.items[i].loss, (1 - 1e-6) * tail);
    ck_assert_double_lt(e->best, 1.05 * tail);
    CHECK_NEAR(loss_of(student, c, c, 0, TEXT), e->best, 0.02 * tail); /* a mean of ten */
    captures_free(dense);
}
END_TEST

START_TEST(closed_form_stays_at_the_optimum) {
    compress("pca", _i ? "pivot" : "two-factor", "{\"model.layers.1.mlp.gate_proj\": 8}");
    captures *dense = capture_windows(teacher, ids, WINDOW, WINDOWS);
    double tail = tail_of(captured(dense, gate), 8), energy = 0;
    const capture *c = captured(dense, gate);
    for (int64_t i = 0; i < c->tokens * c->out; i++) energy += c->y[i] * c->y[i];
    lr_distill_opts opts = options(40, 8.6e-5);
    CHECK_OK(distill(NULL, &opts));
    CHECK_NEAR(seen.items[0].loss, tail, 1e-6 * tail);
    CHECK_NEAR(seen.items[0].energy, energy / (double)(c->tokens * c->out), 1e-5);
    for (int i = 0; i < seen.count; i++) {
        ck_assert_double_ge(seen.items[i].loss, (1 - 1e-6) * tail);
        ck_assert_double_le(seen.items[i].loss, 1.001 * tail);
    }
    captures_free(dense);
}
END_TEST

/* ---- one step of each stream, by plain loops ---- */

typedef struct factors {
    int64_t out, rank, in;
    float *left, *right;
} factors;

static factors factors_of(const lr_model *model, const char *name) {
    lr_linear *linear = linear_of(model, name);
    factors f = {lr_linear_out(linear), lr_linear_rank(linear), lr_linear_in(linear), NULL, NULL};
    f.left = malloc((size_t)(f.out * f.rank) * sizeof *f.left);
    f.right = malloc((size_t)(f.rank * f.in) * sizeof *f.right);
    CHECK_OK(lr_linear_factors(linear, f.left, f.right));
    lr_linear_free(linear);
    return f;
}

static void factors_free(factors *f) {
    free(f->left);
    free(f->right);
}

/* Derivatives of the mean of (L R x - y)^2 by L and R, behind one another. */
static double *gradient_of(const factors *f, const capture *x, const capture *y) {
    double *g = calloc((size_t)(f->out * f->rank + f->rank * f->in), sizeof *g);
    double *gr = g + f->out * f->rank, *h = calloc((size_t)f->rank, sizeof *h), scale;
    scale = 2.0 / (double)(x->tokens * f->out);
    for (int64_t t = 0; t < x->tokens; t++) {
        const double *in = x->x + t * x->in;
        for (int64_t k = 0; k < f->rank; k++) {
            h[k] = 0;
            for (int64_t i = 0; i < f->in; i++) h[k] += (double)f->right[k * f->in + i] * in[i];
        }
        for (int64_t o = 0; o < f->out; o++) {
            double off = -y->y[t * f->out + o];
            for (int64_t k = 0; k < f->rank; k++) off += (double)f->left[o * f->rank + k] * h[k];
            for (int64_t k = 0; k < f->rank; k++) {
                g[o * f->rank + k] += scale * off * h[k];
                double back = scale * off * (double)f->left[o * f->rank + k];
                for (int64_t i = 0; i < f->in; i++) gr[k * f->in + i] += back * in[i];
            }
        }
    }
    free(h);
    return g;
}

static double norm_of(const double *g, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += g[i] * g[i];
    return sqrt(sum);
}

/* From the SVD, and the closed form too, the right factor has no gradient to begin with. */
static void disturb(const char *name) {
    factors f = factors_of(student, name);
    int64_t shapes[2][2] = {{f.out, f.rank}, {f.rank, f.in}};
    lr_tensor left, right;
    lr_linear *made;
    lr_ctx *ctx = tiny_ctx(2);
    for (int64_t i = 0; i < f.out * f.rank; i++) f.left[i] += tiny_number(name, 0, i) / 4;
    for (int64_t i = 0; i < f.rank * f.in; i++) f.right[i] += tiny_number(name, 1, i) / 4;
    CHECK_OK(lr_tensor_view(&left, f.left, LR_F32, 2, shapes[0]));
    CHECK_OK(lr_tensor_view(&right, f.right, LR_F32, 2, shapes[1]));
    CHECK_OK(lr_linear_from_factors(&made, ctx, &left, &right, NULL, name));
    CHECK_OK(lr_model_set_linear(student, name, made));
    lr_linear_free(made);
    lr_ctx_free(ctx);
    factors_free(&f);
}

static void disturb_all(void) {
    for (int32_t i = 0; i < lr_model_linear_count(student); i++) {
        lr_linear *linear;
        CHECK_OK(lr_model_linear(student, i, &linear));
        if (lr_linear_kind(linear) == LR_LINEAR_LOW_RANK) disturb(lr_linear_name(linear));
        lr_linear_free(linear);
    }
}

/* The first step of AdamW, torch's way; where a gradient is next to nothing its sign is rounding.
 */
static void check_step(const float *before, const float *after, const double *g, int64_t count,
                       double rate) {
    double least = 1e-2 * norm_of(g, count) / sqrt((double)count);
    for (int64_t i = 0; i < count; i++) {
        if (fabs(g[i]) < least) continue;
        double wanted = (double)before[i] * (1 - rate * 0.01);
        wanted -= rate * g[i] / (fabs(g[i]) + 1e-8);
        CHECK_NEAR((double)after[i], wanted, 2e-3 * rate + 1e-7 * fabs(wanted));
    }
}

static const char *const streams[] = {"teacher", "shift", "anchored"};

/* y of a module on other inputs than it had. */
static capture applied(const lr_model *model, const capture *x) {
    capture made = *x;
    double *m = matrix_of(model, x->module);
    made.y = calloc((size_t)(x->tokens * x->out), sizeof *made.y);
    for (int64_t t = 0; t < x->tokens; t++)
        for (int64_t o = 0; o < x->out; o++)
            for (int64_t i = 0; i < x->in; i++)
                made.y[t * x->out + o] += m[o * (x->in + 1) + i] * x->x[t * x->in + i];
    free(m);
    return made;
}

/* Values behind the first step are the best when the second call finds less loss with them. */
START_TEST(streams_differ_in_what_is_read_and_met) {
    const double rate = 1e-4;
    int better = 0;
    compress("svd", "two-factor", all);
    disturb_all();
    lr_model *start = clone_of(student);
    captures *dense = capture_windows(teacher, ids, WINDOW, WINDOWS);
    captures *behind = capture_windows(student, ids, WINDOW, WINDOWS);
    lr_distill_opts opts = options(2, rate);
    opts.check_every = 1;
    opts.stream = streams[_i];
    CHECK_OK(distill(NULL, &opts));
    ck_assert_int_eq(seen.items[0].count, 15);
    for (int i = 0; i < 15; i++) { /* first calls, in the order of computation */
        const char *name = seen.modules[i];
        capture *x = captured(_i ? behind : dense, name), *y = captured(dense, name);
        capture own = applied(teacher, x);
        factors before = factors_of(start, name), after = factors_of(student, name);
        if (_i == 1) y = &own;
        double loss = loss_of(start, x, y, 0, TEXT);
        CHECK_NEAR(seen.items[i].loss, loss, 2e-5 * loss);
        ck_assert_int_eq(seen.items[i].index, i);
        if (last_of(name)->best_step) {
            double *g = gradient_of(&before, x, y);
            int64_t lefts = before.out * before.rank, rights = before.rank * before.in;
            check_step(before.left, after.left, g, lefts, rate);
            check_step(before.right, after.right, g + lefts, rights, rate);
            better++;
            free(g);
        } else {
            CHECK_SAME_BITS(before.left, after.left, before.out * before.rank);
        }
        factors_free(&before);
        factors_free(&after);
        free(own.y);
    }
    ck_assert_int_ge(better, 12);
    captures_free(dense);
    captures_free(behind);
    lr_model_free(start);
}
END_TEST

START_TEST(every_module_is_clipped_by_itself) {
    compress("svd", "two-factor", "{\"gate_proj\": 8}");
    disturb_all();
    lr_model *start = clone_of(student);
    captures *dense = capture_windows(teacher, ids, WINDOW, WINDOWS);
    lr_distill_opts opts = options(2, 1e-4);
    opts.check_every = 1;
    opts.clip = 1e-7; /* so that epsilon, 1e-8, is felt */
    CHECK_OK(distill(gate, &opts));
    factors before = factors_of(start, gate), after = factors_of(student, gate);
    const capture *c = captured(dense, gate);
    double *g = gradient_of(&before, c, c);
    int64_t lefts = before.out * before.rank, rights = before.rank * before.in;
    double scale = opts.clip / norm_of(g, lefts + rights);
    for (int64_t i = 0; i < lefts + rights; i++) g[i] *= scale;
    ck_assert_int_eq(last_of(gate)->best_step, 1);
    check_step(before.left, after.left, g, lefts, 1e-4);
    check_step(before.right, after.right, g + lefts, rights, 1e-4);
    free(g);
    factors_free(&before);
    factors_free(&after);
    captures_free(dense);
    lr_model_free(start);
}
END_TEST

START_TEST(pivot_forms_learn_as_they_are) {
    compress("svd", "pivot", all);
    lr_distill_opts opts = options(60, 1e-3);
    int pivots = 0;
    CHECK_OK(distill(NULL, &opts));
    int32_t count = seen.items[0].count;
    for (int i = 0; i < seen.count; i++) {
        const lr_distill_event *e = &seen.items[i];
        if (!e->is_last) continue;
        lr_linear *linear = linear_of(student, seen.modules[i]);
        pivots += lr_linear_kind(linear) == LR_LINEAR_PIVOT;
        ck_assert_double_lt(e->best, 0.95 * seen.items[i % count].loss);
        lr_linear_free(linear);
    }
    ck_assert_int_ge(pivots, 6);
}
END_TEST

/* ---- what is kept ---- */

/* Windows of the end judge, and nothing of them is learnt. */
START_TEST(best_of_the_held_out_is_kept) {
    compress("svd", "two-factor", "{\"gate_proj\": 8, \"o_proj\": 6}");
    lr_model *start = clone_of(student);
    captures *dense = capture_windows(teacher, ids, WINDOW, WINDOWS);
    lr_distill_opts opts = options(60, 3e-3);
    opts.held_out = 2;
    opts.check_every = 7;
    CHECK_OK(distill(NULL, &opts));
    for (int i = 0; i < seen.count; i++) {
        const lr_distill_event *e = &seen.items[i];
        if (!e->is_last) continue;
        const capture *c = captured(dense, seen.modules[i]);
        double from = loss_of(start, c, c, TEXT - 2 * WINDOW, TEXT);
        double to = loss_of(student, c, c, TEXT - 2 * WINDOW, TEXT);
        CHECK_NEAR(e->start, from, 1e-5 * from);
        CHECK_NEAR(e->best, to, 1e-5 * to);
        ck_assert_double_lt(e->best, e->start);
        ck_assert_double_le(e->best, e->held_out);
        ck_assert(e->best_step == 60 || e->best_step % 7 == 0);
    }
    captures_free(dense);
    lr_model_free(start);
}
END_TEST

static void check_same(const lr_model *a, const lr_model *b, const char *name) {
    factors x = factors_of(a, name), y = factors_of(b, name);
    CHECK_SAME_BITS(x.left, y.left, x.out * x.rank);
    CHECK_SAME_BITS(x.right, y.right, x.rank * x.in);
    factors_free(&x);
    factors_free(&y);
}

START_TEST(what_only_gets_worse_stays_as_it_was) {
    compress("pca", "two-factor", "{\"gate_proj\": 8}");
    lr_model *start = clone_of(student);
    lr_distill_opts opts = options(40, 0.3);
    opts.held_out = 2;
    opts.check_every = 3;
    opts.patience = _i ? 2 : 0;
    CHECK_OK(distill("gate_proj", &opts));
    const lr_distill_event *e = last_of(gate);
    ck_assert_int_eq(e->step, _i ? 6 : 40); /* stopped early */
    ck_assert_int_eq(e->best_step, 0);
    ck_assert(e->best == e->start);
    ck_assert_double_gt(e->held_out, 2 * e->best);
    check_same(student, start, gate);
    lr_model_free(start);
}
END_TEST

/* Without held-out windows, by means over check_every calls. */
START_TEST(running_means_decide) {
    compress("svd", "two-factor", "{\"gate_proj\": 8}");
    lr_distill_opts opts = options(20, 0.05);
    double least = INFINITY;
    opts.batch = 1;
    opts.check_every = 4;
    CHECK_OK(distill(gate, &opts));
    const lr_distill_event *e = last_of(gate);
    for (int64_t i = 4; i <= 20; i += 4) {
        double mean = 0;
        for (int64_t k = i - 4; k < i; k++) mean += seen.items[k].loss / 4;
        if (mean < least) least = mean;
    }
    ck_assert_int_eq(e->best_step % 4, 3);
    CHECK_NEAR(e->best, least, 1e-12 * least);
    ck_assert_double_lt(e->held_out, 0);
    ck_assert_double_lt(e->start, 0);
}
END_TEST

START_TEST(numbers_that_leave_the_range_are_put_back) {
    compress("svd", "two-factor", "{\"gate_proj\": 8}");
    lr_model *start = clone_of(student);
    lr_distill_opts opts = options(10, 1e30);
    opts.weight_decay = 0;
    CHECK_FAILS(distill("gate_proj", &opts), LR_E_NUMERIC, "step 2: model.layers.0.mlp.gate_proj");
    check_same(student, start, gate);
    opts.held_out = 1;
    opts.check_every = 1;
    CHECK_FAILS(distill("gate_proj", &opts), LR_E_NUMERIC, "step 1: model.layers.0.mlp.gate_proj");
    check_same(student, start, gate);
    lr_model_free(start);
}
END_TEST

START_TEST(cancelled_runs_keep_the_best) {
    compress("svd", "two-factor", "{\"model.layers.1.mlp.gate_proj\": 8}");
    captures *dense = capture_windows(teacher, ids, WINDOW, WINDOWS);
    lr_distill_opts opts = options(100, 1e-3);
    opts.check_every = 1;
    seen.stop_at = 30;
    CHECK_FAILS(distill(gate, &opts), LR_E_CANCELLED, "gate_proj");
    seen.stop_at = 0;
    ck_assert_int_eq(seen.count, 30);
    const capture *c = captured(dense, gate);
    double now = loss_of(student, c, c, 0, TEXT);
    ck_assert_double_lt(now, seen.items[0].loss);
    CHECK_NEAR(now, seen.items[29].best, 1e-5 * now);
    captures_free(dense);
}
END_TEST

/* ---- events, files, bits ---- */

START_TEST(events_come_as_often_as_asked) {
    compress("svd", "two-factor", "{\"gate_proj\": 8, \"o_proj\": 6}");
    lr_distill_opts opts = options(20, 1e-3);
    int64_t step = 1;
    opts.log_every = 8;
    CHECK_OK(distill("gate_proj", &opts));
    ck_assert_int_eq(seen.count, 3 * 3 + 3);
    for (int i = 0; i < seen.count; i++) {
        const lr_distill_event *e = &seen.items[i];
        ck_assert_int_eq(e->index, i % 3);
        ck_assert_int_eq(e->count, 3);
        ck_assert_int_eq(e->is_last, i >= 9);
        ck_assert_int_eq(e->step, i >= 9 ? 20 : step);
        if (i % 3 == 2) step += 8;
    }
}
END_TEST

START_TEST(files_hold_losses_and_factors) {
    static char text[1 << 16];
    char name[200];
    compress("svd", "two-factor", "{\"gate_proj\": 8}");
    lr_distill_opts opts = options(12, 1e-3);
    opts.folder = scratch_path("weights");
    for (int again = 0; again < 2; again++) CHECK_OK(distill("gate_proj", &opts));
    snprintf(name, sizeof name, "weights/%s.losses", gate);
    text[scratch_read(scratch_path(name), text, sizeof text - 1)] = '\0';
    ck_assert_int_ne(text[strlen(text) - 1], '\n');
    char *rest = text, *line;
    int64_t lines = 0;
    for (int i = 0; i < seen.count && (line = strsep(&rest, "\n")); lines++) {
        while (strcmp(seen.modules[i], gate)) i++;
        ck_assert(strtod(line, NULL) == seen.items[i++].loss);
    }
    ck_assert_int_eq(lines, 12);
    ck_assert_ptr_null(rest);
    lr_linear *opened;
    lr_ctx *ctx = tiny_ctx(1);
    factors f = factors_of(student, gate);
    snprintf(name, sizeof name, "weights/%s.safetensors", gate);
    CHECK_OK(lr_linear_open(&opened, ctx, scratch_path(name)));
    float *left = malloc((size_t)(f.out * f.rank) * sizeof *left);
    CHECK_OK(lr_linear_factors(opened, left, NULL));
    CHECK_SAME_BITS(left, f.left, f.out * f.rank);
    free(left);
    factors_free(&f);
    lr_linear_free(opened);
    lr_ctx_free(ctx);
}
END_TEST

START_TEST(seeds_decide_every_bit) {
    float *made[3];
    factors f;
    for (int i = 0; i < 3; i++) {
        compress("svd", "two-factor", all);
        lr_distill_opts opts = options(15, 1e-3);
        opts.stream = streams[_i];
        opts.batch = 2;
        opts.held_out = 1;
        opts.seed = i == 2;
        CHECK_OK(distill(NULL, &opts));
        f = factors_of(student, gate);
        made[i] = f.left;
        free(f.right);
    }
    CHECK_SAME_BITS(made[0], made[1], f.out * f.rank);
    ck_assert_mem_ne(made[0], made[2], (size_t)(f.out * f.rank) * sizeof(float));
    for (int i = 0; i < 3; i++) free(made[i]);
}
END_TEST

/* ---- refusals ---- */

START_TEST(what_cannot_be_met_is_refused) {
    lr_distill_opts opts = options(3, 1e-3);
    compress("svd", "shared", "{\"gate_proj\": 8, \"up_proj\": 8}");
    CHECK_FAILS(distill(NULL, &opts), LR_E_UNSUPPORTED, "gate_proj: shares model.layers.0.mlp.");
    CHECK_FAILS(distill("q_proj", &opts), LR_E_NOTFOUND, "\"q_proj\"");
    compress("svd", "two-factor", "{\"gate_proj\": 8}");
    CHECK_FAILS(lr_distill(student, student, NULL, ids, TEXT, &opts, NULL, NULL), LR_E_INVALID,
                "is the teacher");
    CHECK_FAILS(lr_distill(NULL, teacher, NULL, ids, TEXT, &opts, NULL, NULL), LR_E_INVALID,
                "needed");
    opts.stream = "both";
    CHECK_FAILS(distill(NULL, &opts), LR_E_INVALID, "\"both\", expected teacher, shift or");
    opts = options(0, 1e-3);
    CHECK_FAILS(distill(NULL, &opts), LR_E_INVALID, "steps 0");
    opts = options(3, -1);
    CHECK_FAILS(distill(NULL, &opts), LR_E_INVALID, "learning_rate is -1");
    opts = options(3, 1e-3);
    opts.batch = 65;
    CHECK_FAILS(distill(NULL, &opts), LR_E_INVALID, "batch 65");
    opts = options(3, 1e-3);
    opts.check_every = 0;
    CHECK_FAILS(distill(NULL, &opts), LR_E_INVALID, "check_every 0");
    opts = options(3, 1e-3);
    opts.held_out = WINDOWS;
    CHECK_FAILS(distill(NULL, &opts), LR_E_INVALID, "expected one beside 6 held out");
    opts = options(3, 1e-3);
    ids[7] = 1 << 20;
    CHECK_FAILS(distill(NULL, &opts), LR_E_INVALID, "step 1: ");
    ids[7] = 1;
    opts.folder = "/dev/null/weights";
    CHECK_FAILS(distill(NULL, &opts), LR_E_NOTFOUND, "/dev/null/weights");
}
END_TEST

START_TEST(other_models_are_no_teachers) {
    tiny narrow = tiny_model;
    lr_distill_opts opts = options(3, 1e-3);
    narrow.wide = 19;
    compress("svd", "two-factor", "{\"gate_proj\": 8}");
    lr_model *other = tiny_open_path(tiny_write(&narrow, "narrow"), 1);
    CHECK_FAILS(lr_distill(student, other, NULL, ids, TEXT, &opts, NULL, NULL), LR_E_SHAPE,
                "[20, 24] in the student, [19, 24] in the teacher");
    lr_model_free(other);
    narrow.layers = 2;
    other = tiny_open_path(tiny_write(&narrow, "short"), 1);
    CHECK_FAILS(lr_distill(student, other, NULL, ids, TEXT, &opts, NULL, NULL), LR_E_SHAPE,
                "3 blocks");
    lr_model_free(other);
}
END_TEST

Suite *distill_suite(void) {
    Suite *suite = suite_create("distill");
    TCase *tests = tcase_create("distill");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, notebook_nears_the_optimum_and_never_passes_it);
    tcase_add_loop_test(tests, closed_form_stays_at_the_optimum, 0, 2);
    tcase_add_loop_test(tests, streams_differ_in_what_is_read_and_met, 0, 3);
    tcase_add_test(tests, every_module_is_clipped_by_itself);
    tcase_add_test(tests, pivot_forms_learn_as_they_are);
    tcase_add_test(tests, best_of_the_held_out_is_kept);
    tcase_add_loop_test(tests, what_only_gets_worse_stays_as_it_was, 0, 2);
    tcase_add_test(tests, running_means_decide);
    tcase_add_test(tests, numbers_that_leave_the_range_are_put_back);
    tcase_add_test(tests, cancelled_runs_keep_the_best);
    tcase_add_test(tests, events_come_as_often_as_asked);
    tcase_add_test(tests, files_hold_losses_and_factors);
    tcase_add_loop_test(tests, seeds_decide_every_bit, 0, 3);
    tcase_add_test(tests, what_cannot_be_met_is_refused);
    tcase_add_test(tests, other_models_are_no_teachers);
    suite_add_tcase(suite, tests);
    return suite;
}
