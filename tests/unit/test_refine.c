/* Block refinement: losses against differences and plain sums, what it wins, what it refuses. */
#include "hash.h"
#include "run/stream_loss.h"
#include "run_fixture.h"

#include <lowrank/refine.h>
#include <sys/stat.h>

enum { WINDOW = 16, WINDOWS = 80, SOME = 40, IDS = WINDOW * WINDOWS, MOST = 4 };
static const char *const name = "llama-bias-sharded"; /* of two blocks */

static lr_model *teacher, *student;
static int32_t ids[IDS];

static lr_model *factorised(const lr_model *model) {
    lr_model *small;
    lr_plan *plan;
    lr_plan_opts plan_opts;
    lr_stats *stats = stats_of(model, ids, IDS, WINDOW);
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.keep = 0.6;
    CHECK_OK(lr_model_clone(&small, model));
    CHECK_OK(lr_plan_new(&plan, small, &plan_opts));
    CHECK_OK(lr_compress(small, plan, stats, NULL, NULL, NULL));
    lr_plan_free(plan);
    lr_stats_free(stats);
    return small;
}

static void setup(void) {
    teacher = golden_open(name);
    tiny_text(5, IDS, tiny_vocabulary(teacher), ids);
    student = factorised(teacher);
}

static void teardown(void) {
    lr_model_free(student);
    lr_model_free(teacher);
}

static lr_refine_opts options(void) {
    lr_refine_opts opts;
    lr_refine_opts_init(&opts, sizeof opts);
    opts.window = WINDOW;
    opts.batch = 2;
    opts.learning_rate = 2e-3;
    opts.held_out = 0.25;
    return opts;
}

typedef struct course {
    lr_refine_event events[MOST];
    int32_t count, stop_at;
} course;

static int32_t note(const lr_refine_event *event, void *user) {
    course *c = user;
    ck_assert_int_eq(event->layer, c->count);
    c->events[c->count++] = *event;
    return c->count == c->stop_at;
}

static course refined(lr_model *model, const lr_refine_opts *opts) {
    course c = {.count = 0};
    CHECK_OK(lr_refine(model, teacher, ids, IDS, opts, note, &c));
    ck_assert_int_eq(c.count, 2);
    return c;
}

/* ---- losses of streams ---- */

START_TEST(slopes_are_differences) {
    enum { ROWS = 2, WIDTH = 7, NUMBERS = ROWS * WIDTH };
    float y[NUMBERS], target[NUMBERS], slope[NUMBERS];
    double scale = 0.75, step = 1.0 / 512;
    for (int i = 0; i < NUMBERS; i++) {
        y[i] = (float)tiny_uniform((uint64_t)i);
        target[i] = (float)(2 * tiny_uniform((uint64_t)(100 + i)));
    }
    lr__stream_loss(_i, ROWS, WIDTH, y, target, scale, slope);
    for (int i = 0; i < NUMBERS; i++) {
        float kept = y[i];
        y[i] = (float)((double)kept + step);
        double up = lr__stream_loss(_i, ROWS, WIDTH, y, target, 1, NULL), above = (double)y[i];
        y[i] = (float)((double)kept - step);
        double down = lr__stream_loss(_i, ROWS, WIDTH, y, target, 1, NULL), below = (double)y[i];
        y[i] = kept;
        CHECK_NEAR((double)slope[i], scale * (up - down) / (above - below), 2e-6);
    }
}
END_TEST

START_TEST(losses_have_closed_forms) {
    float y[4] = {3, 4, 0, 0}, t[4] = {0, 0, 6, 8}, same[4] = {1, 2, 3, 4};
    CHECK_NEAR(lr__stream_loss(LR_STREAM_RELATIVE, 1, 4, y, t, 1, NULL), 125.0 / 100, 1e-12);
    CHECK_NEAR(lr__stream_loss(LR_STREAM_SQUARES, 1, 4, y, t, 1, NULL), 125.0 / 4, 1e-12);
    CHECK_NEAR(lr__stream_loss(LR_STREAM_COSINE, 1, 4, y, t, 1, NULL), 21.0 / 4 + log(2), 1e-12);
    CHECK_NEAR(lr__stream_loss(LR_STREAM_COSINE, 1, 4, same, same, 1, NULL), log1p(exp(-1)), 1e-12);
    CHECK_NEAR(lr__stream_loss(LR_STREAM_RELATIVE, 1, 4, same, same, 1, NULL), 0, 0);
}
END_TEST

/* Derivatives may take the place of the target. */
START_TEST(slopes_lie_over_targets) {
    float y[4] = {3, 4, -1, 2}, t[4] = {1, 0.5f, 6, 8}, slope[4];
    double apart = lr__stream_loss(_i, 2, 2, y, t, 0.5, slope);
    ck_assert(lr__stream_loss(_i, 2, 2, y, t, 0.5, t) == apart);
    ck_assert_mem_eq(t, slope, sizeof t);
}
END_TEST

START_TEST(empty_targets_stay_finite) {
    float zero[3] = {0}, slope[3] = {1, 1, 1}, y[3] = {1, 2, 3};
    ck_assert(lr__stream_loss(LR_STREAM_RELATIVE, 1, 3, y, zero, 1, slope) == 0);
    for (int i = 0; i < 3; i++) ck_assert(slope[i] == 0);
    y[1] = NAN;
    ck_assert(isnan(lr__stream_loss(LR_STREAM_RELATIVE, 1, 3, y, zero, 1, slope)));
    for (int32_t kind = LR_STREAM_RELATIVE; kind <= LR_STREAM_COSINE; kind++) {
        ck_assert(isfinite(lr__stream_loss(kind, 1, 3, zero, zero, 1, slope)));
        for (int i = 0; i < 3; i++) ck_assert(isfinite(slope[i]));
    }
}
END_TEST

/* ---- what is measured ---- */

/* |y - t|^2 / |t|^2 behind block `layer`, mean over tokens of windows first .. last - 1; the
 * teacher's blocks below `from` are in the place of the model's. */
static double distance_from(const lr_model *model, int32_t from, int32_t layer, int32_t first,
                            int32_t last) {
    lr_session *sessions[2] = {tiny_session(model, 1, LR_STEP_BATCH, 1, NULL),
                               tiny_session(teacher, 1, LR_STEP_BATCH, 1, NULL)};
    lr_model_info info = {.size = sizeof info};
    double sum = 0;
    CHECK_OK(lr_model_get_info(model, &info));
    size_t width = (size_t)info.hidden_size;
    float *y = calloc(WINDOW * width, sizeof *y), *t = calloc(WINDOW * width, sizeof *t);
    for (int32_t w = first; w < last; w++) {
        lr_segment segment = {0, WINDOW, ids + w * WINDOW};
        if (from) CHECK_OK(lr_session_blocks(sessions[1], &segment, 1, 0, from, y));
        CHECK_OK(lr_session_blocks(sessions[0], &segment, 1, from, layer + 1, y));
        CHECK_OK(lr_session_blocks(sessions[1], &segment, 1, 0, layer + 1, t));
        for (size_t row = 0; row < WINDOW; row++) {
            double off = 0, energy = 0;
            for (size_t i = row * width; i < (row + 1) * width; i++) {
                off += ((double)y[i] - (double)t[i]) * ((double)y[i] - (double)t[i]);
                energy += (double)t[i] * (double)t[i];
            }
            sum += off / energy;
        }
    }
    free(y);
    free(t);
    lr_session_free(sessions[0]);
    lr_session_free(sessions[1]);
    return sum / (double)((last - first) * WINDOW);
}

static double distance(const lr_model *model, int32_t layer, int32_t first) {
    return distance_from(model, 0, layer, first, WINDOWS);
}

/* A quarter of the windows judges, behind the refined blocks. */
START_TEST(losses_are_those_of_the_streams) {
    lr_refine_opts opts = options();
    opts.epochs = 6;
    double first = distance(student, 0, WINDOWS * 3 / 4);
    course c = refined(student, &opts);
    CHECK_NEAR(c.events[0].before, first, 1e-5 * first);
    for (int i = 0; i < 2; i++) {
        double now = distance(student, i, WINDOWS * 3 / 4);
        ck_assert(c.events[i].after < 0.95 * c.events[i].before);
        CHECK_NEAR(c.events[i].after, now, 1e-5 * now);
        ck_assert_int_eq(c.events[i].epochs, opts.epochs);
        ck_assert_int_eq(c.events[i].steps, opts.epochs * 30);
    }
}
END_TEST

START_TEST(look_ahead_counts_the_next_block) {
    lr_refine_opts opts = options();
    opts.look_ahead = 0.5;
    int32_t first = WINDOWS * 3 / 4;
    double wanted = distance(student, 0, first) + 0.5 * distance(student, 1, first);
    course c = refined(student, &opts);
    CHECK_NEAR(c.events[0].before, wanted, 1e-5 * wanted);
    double last = distance(student, 1, first);
    CHECK_NEAR(c.events[1].after, last, 1e-5 * last);
}
END_TEST

static double divergence(const lr_model *model) {
    lr_eval_result found = {.size = sizeof found};
    lr_eval_opts opts;
    lr_eval_opts_init(&opts, sizeof opts);
    opts.window = WINDOW;
    opts.reference = teacher;
    CHECK_OK(lr_eval(&found, model, ids, IDS, &opts));
    return found.kl;
}

START_TEST(predictions_come_nearer) {
    for (int32_t kind = LR_STREAM_RELATIVE; kind <= LR_STREAM_COSINE; kind++) {
        lr_model *own;
        lr_refine_opts opts = options();
        opts.loss = kind;
        opts.epochs = 6;
        CHECK_OK(lr_model_clone(&own, student));
        double before = divergence(own);
        refined(own, &opts);
        ck_assert_msg(divergence(own) < 0.8 * before, "loss %d: %g, before %g", kind,
                      divergence(own), before);
        lr_model_free(own);
    }
}
END_TEST

/* ---- the first step, against differences ---- */

enum { PLACES = 12, MANY_PLACES = 36 };

typedef double (*loss_fn)(const lr_model *model, double share);

static double loss_ahead(const lr_model *model, double share) {
    double loss = distance_from(model, 0, 0, 0, SOME);
    return share > 0 ? loss + share * distance_from(model, 0, 1, 0, SOME) : loss;
}

static double loss_of_both_streams(const lr_model *model, double share) {
    return (1 - share) * distance_from(model, 0, 1, 0, SOME) +
           share * distance_from(model, 1, 1, 0, SOME);
}

static float *weight_of(const lr_model *model, const char *module, int64_t *count) {
    lr_linear *linear = linear_of(model, module);
    *count = lr_linear_out(linear) * lr_linear_in(linear);
    float *dense = malloc((size_t)*count * sizeof *dense);
    CHECK_OK(lr_linear_densify(linear, dense));
    lr_linear_free(linear);
    return dense;
}

/* Loss when one number of a dense module is moved. */
static double moved_loss(const lr_model *model, const lr_linear *whole, int64_t at, float by,
                         loss_fn loss_of, double share) {
    int64_t shape[2] = {lr_linear_out(whole), lr_linear_in(whole)};
    float *weight = malloc((size_t)(shape[0] * shape[1]) * sizeof *weight);
    float *bias = malloc((size_t)shape[0] * sizeof *bias);
    lr_linear_opts opts;
    lr_linear *changed;
    lr_tensor view;
    lr_model *probe;
    CHECK_OK(lr_linear_densify(whole, weight));
    CHECK_OK(lr_linear_bias(whole, bias));
    weight[at] += by;
    lr_linear_opts_init(&opts, sizeof opts);
    opts.bias = bias;
    opts.rank = shape[0] < shape[1] ? shape[0] : shape[1];
    CHECK_OK(lr_tensor_view(&view, weight, LR_F32, 2, shape));
    CHECK_OK(lr_linear_from_weight(&changed, whole->ctx, &view, &opts));
    CHECK_OK(lr_model_clone(&probe, model));
    CHECK_OK(lr_model_set_linear(probe, lr_linear_name(whole), changed));
    double loss = loss_of(probe, share);
    lr_model_free(probe);
    lr_linear_free(changed);
    free(weight);
    free(bias);
    return loss;
}

static double rise_of(const lr_model *model, const lr_linear *whole, int64_t at, loss_fn loss_of,
                      double share) {
    return moved_loss(model, whole, at, 0.02f, loss_of, share) -
           moved_loss(model, whole, at, -0.02f, loss_of, share);
}

/* One step of AdamW moves each number by the learning rate, against the sign of its derivative.
 * Returns at how many of the places the sign is not that of share 0. */
static int check_first_step(const lr_model *own, const lr_model *moved, const char *module,
                            int places, loss_fn loss_of, double share) {
    int64_t count;
    int checked = 0, differ = 0;
    lr_linear *whole = linear_of(own, module);
    float *before = weight_of(own, module, &count), *after = weight_of(moved, module, &count);
    for (int p = 0; p < places; p++) {
        int64_t at = count * p / places + p % PLACES;
        double rise = rise_of(own, whole, at, loss_of, share);
        if (fabs(rise) < 1e-6 * (1 + share)) continue;
        CHECK_NEAR((double)after[at] - (double)before[at], rise > 0 ? -1e-4 : 1e-4, 2e-6);
        checked++;
        if (share > 0) differ += (rise > 0) != (rise_of(own, whole, at, loss_of, 0) > 0);
    }
    ck_assert_int_ge(checked, places / 2);
    lr_linear_free(whole);
    free(before);
    free(after);
    return differ;
}

static void put_module(lr_model *to, const lr_model *from, const char *module) {
    lr_linear *linear = linear_of(from, module);
    CHECK_OK(lr_model_set_linear(to, module, linear));
    lr_linear_free(linear);
}

/* The teacher but for one factorised module of each block. */
static lr_model *nearly_teacher(void) {
    lr_model *own;
    CHECK_OK(lr_model_clone(&own, teacher));
    put_module(own, student, "model.layers.0.mlp.up_proj");
    put_module(own, student, "model.layers.1.mlp.up_proj");
    return own;
}

/* Of each block, by one step. */
static lr_model *stepped(const lr_model *own, double look_ahead, double dense_inputs) {
    lr_refine_opts opts = options();
    course c = {.count = 0};
    lr_model *moved;
    CHECK_OK(lr_model_clone(&moved, own));
    opts.pattern = "mlp.down_proj.weight";
    opts.epochs = 1;
    opts.batch = SOME;
    opts.held_out = 0;
    opts.learning_rate = 1e-4;
    opts.look_ahead = look_ahead;
    opts.dense_inputs = dense_inputs;
    CHECK_OK(lr_refine(moved, teacher, ids, SOME * WINDOW, &opts, note, &c));
    ck_assert_int_eq(c.events[0].steps, 1);
    return moved;
}

START_TEST(first_step_goes_down) {
    lr_model *own = nearly_teacher(), *moved = stepped(own, 0, 0);
    check_first_step(own, moved, "model.layers.0.mlp.down_proj", PLACES, loss_ahead, 0);
    lr_model_free(moved);
    lr_model_free(own);
}
END_TEST

START_TEST(first_step_looks_ahead) {
    lr_model *own = nearly_teacher(), *moved = stepped(own, 30, 0);
    int differ =
        check_first_step(own, moved, "model.layers.0.mlp.down_proj", MANY_PLACES, loss_ahead, 30);
    ck_assert_int_gt(differ, 0);
    lr_model_free(moved);
    lr_model_free(own);
}
END_TEST

/* Block 0 has learnt when the streams of block 1 are. */
START_TEST(first_step_is_of_both_streams) {
    lr_model *own = nearly_teacher(), *moved = stepped(own, 0, 0.7);
    put_module(own, moved, "model.layers.0.mlp.down_proj");
    int differ = check_first_step(own, moved, "model.layers.1.mlp.down_proj", MANY_PLACES,
                                  loss_of_both_streams, 0.7);
    ck_assert_int_gt(differ, 0);
    lr_model_free(moved);
    lr_model_free(own);
}
END_TEST

/* ---- options ---- */

static uint64_t bits_of(const lr_refine_opts *opts) {
    lr_model *own;
    uint64_t hash = hash_begin;
    int64_t count;
    CHECK_OK(lr_model_clone(&own, student));
    refined(own, opts);
    for (int32_t i = 0; i < lr_model_linear_count(own); i++) {
        lr_linear *linear;
        CHECK_OK(lr_model_linear(own, i, &linear));
        float *dense = weight_of(own, lr_linear_name(linear), &count);
        hash = hash_bytes(hash, dense, (size_t)count * sizeof *dense);
        free(dense);
        lr_linear_free(linear);
    }
    lr_model_free(own);
    return hash;
}

START_TEST(same_seed_same_bits) {
    lr_refine_opts opts = options();
    uint64_t bits = bits_of(&opts);
    ck_assert(bits == bits_of(&opts));
    opts.seed = 1;
    ck_assert(bits != bits_of(&opts));
}
END_TEST

START_TEST(threads_change_no_bit) {
    lr_refine_opts opts = options();
    opts.dense_inputs = 0.5;
    uint64_t bits = bits_of(&opts);
    teardown();
    teacher = tiny_open_path(golden_model(name), 1);
    student = factorised(teacher);
    ck_assert(bits_of(&opts) == bits);
}
END_TEST

/* Both streams enter block 0 alike, so there only the second share tells. */
START_TEST(inputs_of_the_dense_model_can_be_learnt_from) {
    lr_refine_opts opts = options();
    lr_model *own;
    CHECK_OK(lr_model_clone(&own, student));
    course behind = refined(own, &opts);
    opts.dense_inputs = 1;
    course dense = refined(student, &opts);
    CHECK_NEAR(behind.events[0].after, dense.events[0].after, 1e-6);
    ck_assert(dense.events[1].after != behind.events[1].after);
    ck_assert(dense.events[1].after < dense.events[1].before);
    lr_model_free(own);
}
END_TEST

START_TEST(patience_ends_a_block) {
    lr_refine_opts opts = options();
    opts.learning_rate = 5; /* nothing is won so */
    opts.epochs = 6;
    opts.patience = 2;
    double before = distance(student, 1, 0);
    course c = refined(student, &opts);
    ck_assert_int_eq(c.events[0].epochs, 2);
    ck_assert(c.events[0].after == c.events[0].before);
    CHECK_NEAR(distance(student, 1, 0), before, 1e-6 * before);
}
END_TEST

START_TEST(norms_learn_alone) {
    lr_refine_opts opts = options();
    int64_t count;
    opts.pattern = "*norm.weight";
    float *before = weight_of(student, "model.layers.0.mlp.up_proj", &count);
    course c = refined(student, &opts);
    float *after = weight_of(student, "model.layers.0.mlp.up_proj", &count);
    ck_assert_mem_eq(before, after, (size_t)count * sizeof *before);
    ck_assert(c.events[0].after < c.events[0].before);
    free(before);
    free(after);
}
END_TEST

START_TEST(presets_differ) {
    lr_refine_opts opts = options();
    CHECK_OK(lr_refine_opts_preset(&opts, "gpu"));
    ck_assert_int_eq(opts.epochs, 25);
    ck_assert_int_eq(opts.batch, 32);
    ck_assert_int_eq(opts.window, WINDOW);
    ck_assert(opts.dense_inputs > 0 && opts.look_ahead > 0);
    CHECK_OK(lr_refine_opts_preset(&opts, "cpu"));
    ck_assert_int_eq(opts.batch, 4);
    ck_assert(opts.look_ahead == 0);
    CHECK_FAILS(lr_refine_opts_preset(&opts, "tpu"), LR_E_INVALID, "cpu or gpu");
    CHECK_FAILS(lr_refine_opts_preset(NULL, "cpu"), LR_E_INVALID, "preset");
}
END_TEST

/* ---- refusals ---- */

static void refuse(const lr_refine_opts *opts, lr_status wanted, const char *words) {
    double before = distance(student, 1, 0);
    CHECK_FAILS(lr_refine(student, teacher, ids, IDS, opts, NULL, NULL), wanted, words);
    ck_assert(distance(student, 1, 0) == before);
}

START_TEST(wrong_requests_are_refused) {
    lr_refine_opts opts = options();
    lr_model *other = golden_open("llama-f32");
    opts.pattern = "nothing*";
    refuse(&opts, LR_E_NOTFOUND, "nothing*");
    opts = options();
    opts.epochs = 0;
    refuse(&opts, LR_E_INVALID, "epochs 0");
    opts = options();
    opts.window = IDS + 1;
    refuse(&opts, LR_E_INVALID, "no window of");
    opts = options();
    opts.held_out = 1;
    refuse(&opts, LR_E_INVALID, "held out 1");
    opts = options();
    opts.held_out = NAN;
    refuse(&opts, LR_E_INVALID, "held out nan");
    opts = options();
    opts.held_out = 1e300;
    refuse(&opts, LR_E_INVALID, "held out 1e+300");
    opts = options();
    opts.dense_inputs = 1.5;
    refuse(&opts, LR_E_INVALID, "dense inputs 1.5");
    opts = options();
    opts.learning_rate = NAN;
    refuse(&opts, LR_E_INVALID, "nan");
    CHECK_FAILS(lr_refine(student, other, ids, IDS, NULL, NULL, NULL), LR_E_SHAPE, "blocks");
    CHECK_FAILS(lr_refine(student, NULL, ids, IDS, NULL, NULL, NULL), LR_E_INVALID, "teacher");
    lr_model_free(other);
}
END_TEST

START_TEST(cancelling_leaves_the_student) {
    course c = {.stop_at = 1};
    lr_refine_opts opts = options();
    double before = distance(student, 1, 0);
    CHECK_FAILS(lr_refine(student, teacher, ids, IDS, &opts, note, &c), LR_E_CANCELLED, "block 0");
    ck_assert(distance(student, 1, 0) == before);
}
END_TEST

typedef struct progress {
    int64_t calls, stop_at, done, total;
} progress;

static int32_t tell(const char *stage, int64_t done, int64_t total, void *user) {
    progress *p = user;
    ck_assert_str_eq(stage, "refine");
    ck_assert_int_ge(done, p->done);
    ck_assert_int_le(done, total);
    p->done = done;
    p->total = total;
    return ++p->calls == p->stop_at;
}

/* Progress is told behind each batch, so that a long block can be left. */
START_TEST(blocks_can_be_left) {
    progress p = {0};
    course c = {0};
    lr_refine_opts opts = options();
    lr_ctx *ctx = tiny_ctx(1);
    lr_model_free(student);
    lr_model_free(teacher);
    ctx->opts.progress = tell;
    ctx->opts.progress_user = &p;
    CHECK_OK(lr_model_open(&teacher, ctx, golden_model(name), NULL));
    CHECK_OK(lr_model_clone(&student, teacher));
    lr_ctx_free(ctx);
    refined(student, &opts);
    ck_assert_int_eq(p.done, p.total);
    ck_assert_int_gt(p.calls, 2 * WINDOWS / opts.batch);
    p = (progress){.stop_at = 60};
    CHECK_FAILS(lr_refine(student, teacher, ids, IDS, &opts, note, &c), LR_E_CANCELLED,
                "refine: cancelled");
    ck_assert_int_eq(c.count, 0);
}
END_TEST

/* A run that ended behind block 0, and one that goes on from there. */
START_TEST(interrupted_runs_go_on) {
    lr_refine_opts opts = options();
    uint64_t wanted = bits_of(&opts);
    course c = {.stop_at = 1};
    scratch_make();
    opts.work = scratch_path("work");
    ck_assert_int_eq(mkdir(opts.work, 0700), 0);
    CHECK_FAILS(lr_refine(student, teacher, ids, IDS, &opts, note, &c), LR_E_CANCELLED, "block 0");
    ck_assert(bits_of(&opts) == wanted);
    course again = refined(student, &opts);
    ck_assert_int_eq(again.events[0].epochs, 0);
    CHECK_NEAR(again.events[0].after, c.events[0].after, 0);
    opts.pattern = "mlp.*";
    CHECK_FAILS(lr_refine(student, teacher, ids, IDS, &opts, NULL, NULL), LR_E_FORMAT,
                "block-0.safetensors");
    scratch_remove();
}
END_TEST

START_TEST(losses_that_are_not_finite_are_named) {
    lr_refine_opts opts = options();
    int64_t shape[2] = {0, 1};
    lr_linear *whole = linear_of(student, "model.layers.1.mlp.down_proj"), *huge;
    lr_tensor left, right;
    shape[0] = lr_linear_out(whole);
    float *a = malloc((size_t)shape[0] * sizeof *a);
    for (int64_t i = 0; i < shape[0]; i++) a[i] = 3e38f;
    CHECK_OK(lr_tensor_view(&left, a, LR_F32, 2, shape));
    int64_t across[2] = {1, lr_linear_in(whole)};
    float *b = malloc((size_t)across[1] * sizeof *b);
    for (int64_t i = 0; i < across[1]; i++) b[i] = 3e38f;
    CHECK_OK(lr_tensor_view(&right, b, LR_F32, 2, across));
    CHECK_OK(lr_linear_from_factors(&huge, whole->ctx, &left, &right, NULL, lr_linear_name(whole)));
    CHECK_OK(lr_model_set_linear(student, lr_linear_name(whole), huge));
    CHECK_FAILS(lr_refine(student, teacher, ids, IDS, &opts, NULL, NULL), LR_E_NUMERIC,
                "block 1, step 1: the loss is not finite; there is no checkpoint");
    scratch_make();
    opts.work = scratch_path("work");
    ck_assert_int_eq(mkdir(opts.work, 0700), 0);
    CHECK_FAILS(lr_refine(student, teacher, ids, IDS, &opts, NULL, NULL), LR_E_NUMERIC,
                "work/block-0.safetensors");
    opts.learning_rate = 1e30;
    scratch_remove();
    opts.work = NULL;
    CHECK_FAILS(lr_refine(student, teacher, ids, IDS, &opts, NULL, NULL), LR_E_NUMERIC,
                "block 0, step 3: the loss is not finite; there is no checkpoint");
    lr_linear_free(huge);
    lr_linear_free(whole);
    free(a);
    free(b);
}
END_TEST

Suite *refine_suite(void) {
    Suite *suite = suite_create("refine");
    TCase *losses = tcase_create("losses"), *tests = tcase_create("refine");
    tcase_add_loop_test(losses, slopes_are_differences, LR_STREAM_RELATIVE, LR_STREAM_COSINE + 1);
    tcase_add_loop_test(losses, slopes_lie_over_targets, LR_STREAM_RELATIVE, LR_STREAM_COSINE + 1);
    tcase_add_test(losses, losses_have_closed_forms);
    tcase_add_test(losses, empty_targets_stay_finite);
    suite_add_tcase(suite, losses);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, losses_are_those_of_the_streams);
    tcase_add_test(tests, look_ahead_counts_the_next_block);
    tcase_add_test(tests, predictions_come_nearer);
    tcase_add_test(tests, first_step_goes_down);
    tcase_add_test(tests, first_step_looks_ahead);
    tcase_add_test(tests, first_step_is_of_both_streams);
    tcase_add_test(tests, same_seed_same_bits);
    tcase_add_test(tests, threads_change_no_bit);
    tcase_add_test(tests, inputs_of_the_dense_model_can_be_learnt_from);
    tcase_add_test(tests, patience_ends_a_block);
    tcase_add_test(tests, norms_learn_alone);
    tcase_add_test(tests, presets_differ);
    tcase_add_test(tests, wrong_requests_are_refused);
    tcase_add_test(tests, cancelling_leaves_the_student);
    tcase_add_test(tests, blocks_can_be_left);
    tcase_add_test(tests, interrupted_runs_go_on);
    tcase_add_test(tests, losses_that_are_not_finite_are_named);
    suite_add_tcase(suite, tests);
    return suite;
}
