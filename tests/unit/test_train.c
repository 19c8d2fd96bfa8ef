/* Training as a host sees it: losses fall, checkpoints go on bit for bit, refusals. */
#include "golden_model.h"
#include "hash.h"

enum { IDS = 400 };

static lr_model *model;
static lr_ctx *ctx;
static int32_t ids[IDS];

static void open_model(const char *name) {
    scratch_make();
    CHECK_OK(lr_ctx_new(&ctx, NULL));
    CHECK_OK(lr_model_open(&model, ctx, golden_model_path(name), NULL));
    for (int32_t i = 0; i < IDS; i++) ids[i] = (i * i) % 7 + 3; /* what can be learnt */
}

static void setup(void) { open_model("llama-f32"); }
static void setup_two_blocks(void) { open_model("llama-tied"); }

static void teardown(void) {
    lr_model_free(model);
    lr_ctx_free(ctx);
    scratch_remove();
}

static lr_optimizer *optimizer_of(lr_model *of, const char *pattern, double rate) {
    lr_optimizer *optimizer;
    lr_optimizer_opts opts;
    lr_optimizer_opts_init(&opts, sizeof opts);
    opts.learning_rate = rate;
    CHECK_OK(lr_optimizer_new(&optimizer, ctx, &opts));
    CHECK_OK(lr_optimizer_add_model(optimizer, of, pattern, NULL, NULL));
    return optimizer;
}

typedef struct course {
    double losses[64];
    int count, stop_at;
} course;

static int32_t note(const lr_train_event *event, void *user) {
    course *c = user;
    ck_assert_int_eq(event->step, c->count + 1);
    ck_assert(event->norm > 0 && event->seconds >= 0);
    c->losses[c->count++] = event->loss;
    return c->count == c->stop_at;
}

static lr_train_opts options(int64_t steps) {
    lr_train_opts opts;
    lr_train_opts_init(&opts, sizeof opts);
    opts.steps = steps;
    opts.batch = 3;
    opts.window = 16;
    opts.at_once = 2; /* the third window of a step is a pass of its own */
    return opts;
}

/* ---- ten steps of PyTorch ---- */

static const char *const golden_names[] = {"llama-tied", "qwen3"};
enum { GOLDEN_NAMES = sizeof golden_names / sizeof *golden_names, GOLDEN_STEPS = 10 };

typedef struct golden_course {
    const double *losses, *norms;
    int count;
} golden_course;

static int32_t check_step(const lr_train_event *event, void *user) {
    golden_course *c = user;
    int i = c->count++;
    ck_assert_msg(fabs(event->loss / c->losses[i] - 1) <= 2e-5, "step %d: loss %.9g, expected %.9g",
                  i + 1, event->loss, c->losses[i]);
    ck_assert_msg(fabs(event->norm / c->norms[i] - 1) <= 2e-4, "step %d: norm %.9g, expected %.9g",
                  i + 1, event->norm, c->norms[i]);
    return 0;
}

static const void *step_data(const lr__stored_list *wanted, const char *name) {
    const lr__stored *stored = lr__stored_find(wanted, name);
    ck_assert_msg(stored && stored->bytes == GOLDEN_STEPS * sizeof(double), "no golden %s", name);
    return stored->data;
}

/* Each parameter moves by up to 0.03 in these steps. */
static void check_parameters(const lr_model *of, const lr__stored_list *wanted) {
    lr__stored_list got = {0};
    lr_save_opts opts;
    lr_save_opts_init(&opts, sizeof opts);
    opts.dtype = LR_F32;
    CHECK_OK(lr_model_save(of, scratch_path("trained"), &opts));
    CHECK_OK(lr__safetensors_add(&got, scratch_path("trained/model.safetensors"), 0, NULL));
    ck_assert_uint_eq(wanted->count, got.count + 2); /* and the losses and norms */
    for (size_t i = 0; i < got.count; i++) {
        const lr__stored *a = &got.items[i], *b = lr__stored_find(wanted, a->name);
        ck_assert_msg(b && b->bytes == a->bytes, "%s: no golden values", a->name);
        for (size_t n = 0; n < a->bytes / sizeof(float); n++) {
            double off =
                fabs((double)((const float *)a->data)[n] - (double)((const float *)b->data)[n]);
            ck_assert_msg(off <= 3e-5, "%s[%zu]: off by %g", a->name, n, off);
        }
    }
    lr__stored_list_clear(&got);
}

START_TEST(ten_steps_are_those_of_pytorch) {
    const char *name = golden_names[_i];
    golden g = golden_open(name);
    lr__stored_list wanted = {0};
    lr_model *own;
    lr_optimizer *optimizer;
    lr_optimizer_opts learning;
    lr_train_opts opts;
    CHECK_OK(lr__safetensors_add(&wanted, golden_folder(name, "steps.safetensors"), 0, NULL));
    golden_course c = {.losses = step_data(&wanted, "losses"),
                       .norms = step_data(&wanted, "norms")};
    lr_optimizer_opts_init(&learning, sizeof learning);
    learning.learning_rate = 3e-3;
    learning.beta2 = 0.99;
    learning.epsilon = 1e-6;
    learning.weight_decay = 0.1;
    learning.clip = 0.5;
    CHECK_OK(lr_model_open(&own, ctx, golden_model_path(name), NULL));
    CHECK_OK(lr_optimizer_new(&optimizer, ctx, &learning));
    CHECK_OK(lr_optimizer_add_model(optimizer, own, "*", NULL, NULL));
    lr_train_opts_init(&opts, sizeof opts);
    opts.steps = GOLDEN_STEPS;
    opts.batch = 1;
    opts.window = g.length;
    CHECK_OK(lr_train(own, optimizer, g.ids, (size_t)g.length, &opts, check_step, &c));
    ck_assert_int_eq(c.count, GOLDEN_STEPS);
    check_parameters(own, &wanted);
    lr_optimizer_free(optimizer);
    lr_model_free(own);
    lr__stored_list_clear(&wanted);
    golden_close(&g);
}
END_TEST

START_TEST(losses_fall) {
    lr_optimizer *optimizer = optimizer_of(model, "*", 1e-2);
    course c = {.count = 0};
    lr_train_opts opts = options(40);
    CHECK_OK(lr_train(model, optimizer, ids, IDS, &opts, note, &c));
    ck_assert_int_eq(c.count, 40);
    ck_assert(c.losses[39] < 0.5 * c.losses[0]);
    ck_assert_int_eq(lr_optimizer_steps(optimizer), 40);
    lr_optimizer_free(optimizer);
}
END_TEST

/* Cuts of a step change its gradients by rounding alone. */
START_TEST(passes_add_up) {
    double norms[2];
    for (int i = 0; i < 2; i++) {
        lr_model *own;
        CHECK_OK(lr_model_clone(&own, model));
        lr_optimizer *optimizer = optimizer_of(own, "*", 1e-2);
        course c = {.count = 0};
        lr_train_opts opts = options(3);
        opts.at_once = i ? 3 : 1;
        CHECK_OK(lr_train(own, optimizer, ids, IDS, &opts, note, &c));
        norms[i] = c.losses[2];
        lr_optimizer_free(optimizer);
        lr_model_free(own);
    }
    ck_assert(fabs(norms[0] - norms[1]) <= 1e-5 * norms[0]);
}
END_TEST

static uint64_t bits_of(const lr_model *of) {
    lr__graph *graph = lr__model_graph(of);
    uint64_t hash = hash_begin;
    for (int32_t i = 0; i < lr__graph_linear_count(graph); i++) {
        const lr__matrix *m = &(*lr__graph_linear(graph, i))->terms[0].ops[0].param->matrix;
        hash = hash_bytes(hash, m->data, (size_t)(m->rows * m->cols) * sizeof(float));
    }
    lr__graph_drop(graph);
    return hash;
}

/* Stopped by the host after 5 of 9 steps, or by a crash after the checkpoint of step 4. */
START_TEST(checkpoints_go_on_bit_for_bit) {
    uint64_t whole = 0;
    for (int i = 0; i < 3; i++) {
        lr_model *own;
        const char *path = scratch_path(i == 1 ? "cancelled" : i ? "crashed" : "whole");
        lr_train_opts opts = options(9);
        course c = {.stop_at = i == 1 ? 5 : i ? 6 : 0};
        opts.checkpoint = path;
        opts.checkpoint_every = 4;
        CHECK_OK(lr_model_clone(&own, model));
        lr_optimizer *optimizer = optimizer_of(own, "*", 1e-2);
        lr_status status = lr_train(own, optimizer, ids, IDS, &opts, note, &c);
        ck_assert_int_eq(status, i ? LR_E_CANCELLED : LR_OK);
        if (i) { /* another process goes on */
            lr_optimizer_free(optimizer);
            lr_model_free(own);
            CHECK_OK(lr_model_clone(&own, model));
            optimizer = optimizer_of(own, "*", 1e-2);
            CHECK_OK(lr_train(own, optimizer, ids, IDS, &opts, NULL, NULL));
        }
        ck_assert_int_eq(lr_optimizer_steps(optimizer), 9);
        if (!i) whole = bits_of(own);
        ck_assert(bits_of(own) == whole);
        lr_optimizer_free(optimizer);
        lr_model_free(own);
    }
}
END_TEST

/* ---- a teacher ---- */

static float *logits_of(const lr_model *of, const int32_t *tokens, int32_t count) {
    float *logits = malloc((size_t)count * (size_t)tiny_vocabulary(of) * sizeof *logits);
    lr_segment segment = {0, count, tokens};
    lr_session *session = tiny_session(of, 1, LR_STEP_BATCH, 0, NULL);
    CHECK_OK(lr_session_forward_all(session, &segment, 1, logits));
    lr_session_free(session);
    return logits;
}

static double log_share(const float *z, int32_t n, int32_t which, double temperature) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += exp(((double)z[i] - (double)z[which]) / temperature);
    return -log(sum);
}

static int32_t keep_event(const lr_train_event *event, void *user) {
    *(lr_train_event *)user = *event;
    return 0;
}

/* The losses of a step are means over the window's next tokens of what the logits say. */
START_TEST(losses_are_those_of_the_logits) {
    enum { TOKENS = 16 };
    static const double temperatures[] = {1, 2.5, 0.6};
    double t = temperatures[_i], next = 0, divergence = 0;
    lr_train_opts opts = options(1);
    lr_train_event e = {0};
    lr_model *student;
    CHECK_OK(lr_model_clone(&student, model));
    lr_optimizer *optimizer = optimizer_of(student, "*.mlp.*", 1e-2);
    lr_train_opts away = options(5);
    CHECK_OK(lr_train(student, optimizer, ids, IDS, &away, NULL, NULL));
    int32_t n = tiny_vocabulary(model);
    float *z = logits_of(student, ids, TOKENS), *r = logits_of(model, ids, TOKENS);
    for (int k = 0; k + 1 < TOKENS; k++) {
        next -= log_share(z + k * n, n, ids[k + 1], 1) / (TOKENS - 1);
        for (int32_t i = 0; i < n; i++) {
            double taught = log_share(r + k * n, n, i, t), made = log_share(z + k * n, n, i, t);
            divergence += t * t * exp(taught) * (taught - made) / (TOKENS - 1);
        }
    }
    opts.steps = 6;
    opts.batch = 1;
    opts.teacher = model;
    opts.alpha = 0.7;
    opts.temperature = t;
    CHECK_OK(lr_train(student, optimizer, ids, TOKENS, &opts, keep_event, &e));
    ck_assert_int_eq(e.step, 6);
    ck_assert_double_gt(divergence, 0.01);
    ck_assert_double_eq_tol(e.next_token, next, 1e-5 * next);
    ck_assert_double_eq_tol(e.divergence, divergence, 1e-5 * divergence);
    ck_assert_double_eq_tol(e.loss, 0.3 * next + 0.7 * divergence, 1e-5 * e.loss);
    free(z);
    free(r);
    lr_optimizer_free(optimizer);
    lr_model_free(student);
}
END_TEST

START_TEST(teacher_draws_its_student_back) {
    lr_model *student;
    course c = {.count = 0};
    lr_train_opts opts = options(40);
    CHECK_OK(lr_model_clone(&student, model));
    lr_optimizer *away = optimizer_of(student, "*.mlp.*", 1e-2);
    CHECK_OK(lr_train(student, away, ids, IDS, &opts, NULL, NULL));
    lr_optimizer_free(away);
    lr_optimizer *back = optimizer_of(student, "*.mlp.*", 3e-3);
    opts.teacher = model;
    CHECK_OK(lr_train(student, back, ids, IDS, &opts, note, &c));
    ck_assert(c.losses[39] < 0.3 * c.losses[0]);
    lr_optimizer_free(back);
    lr_model_free(student);
}
END_TEST

START_TEST(what_makes_no_sense_is_refused) {
    lr_optimizer *optimizer = optimizer_of(model, "*", 1e-2);
    lr_train_opts opts = options(0);
    CHECK_FAILS(lr_train(model, optimizer, ids, IDS, &opts, NULL, NULL), LR_E_INVALID, "steps 0");
    opts = options(3);
    CHECK_FAILS(lr_train(model, optimizer, ids, 15, &opts, NULL, NULL), LR_E_INVALID,
                "holds no window of 16");
    CHECK_FAILS(lr_train(NULL, optimizer, ids, IDS, &opts, NULL, NULL), LR_E_INVALID, "needed");
    ids[7] = 1 << 20;
    CHECK_FAILS(lr_train(model, optimizer, ids, 16, &opts, NULL, NULL), LR_E_INVALID, "step 1: ");
    ck_assert_int_eq(lr_optimizer_steps(optimizer), 0);
    lr_optimizer_free(optimizer);
}
END_TEST

/* ---- hidden states ---- */

/* A model that was led away from `model`: one to draw back. */
static lr_model *stray(const char *pattern) {
    lr_model *away;
    lr_train_opts opts = options(20);
    CHECK_OK(lr_model_clone(&away, model));
    lr_optimizer *optimizer = optimizer_of(away, pattern, 1e-2);
    CHECK_OK(lr_train(away, optimizer, ids, IDS, &opts, NULL, NULL));
    lr_optimizer_free(optimizer);
    return away;
}

enum { BLOCKS = 2, WIDTH_MOST = 64, WINDOW = 16 };
static double streams[2][BLOCKS][WINDOW * WIDTH_MOST];
static int64_t stream_width;

static lr_status note_stream(const lr_hook_event *event, void *user) {
    double(*to)[WINDOW * WIDTH_MOST] = user;
    const float *x = event->output.data;
    if (event->linear) return LR_OK;
    stream_width = event->output.shape[1];
    ck_assert_int_le(event->layer, BLOCKS - 1);
    ck_assert_int_le(stream_width, WIDTH_MOST);
    for (int64_t i = 0; i < event->output.shape[0] * stream_width; i++) to[event->layer][i] = x[i];
    return LR_OK;
}

/* The definition, by plain loops over what hooks of a forward see. */
static double hidden_loss(const lr_model *student, const lr_model *teacher) {
    const lr_model *both[2] = {student, teacher};
    double sum = 0;
    for (int m = 0; m < 2; m++) {
        lr_hooks *hooks;
        lr_segment segment = {0, WINDOW, ids};
        CHECK_OK(lr_hooks_new(&hooks));
        CHECK_OK(
            lr_hook_add(hooks, "model.layers.*", LR_AFTER_FORWARD, note_stream, streams[m], NULL));
        lr_session *session = tiny_session(both[m], 1, LR_STEP_BATCH, 1, hooks);
        CHECK_OK(lr_session_forward(session, &segment, 1, NULL));
        lr_session_free(session);
        lr_hooks_free(hooks);
    }
    for (int b = 0; b < BLOCKS; b++)
        for (int64_t t = 0; t < WINDOW; t++) {
            double distance = 0, size = 0;
            for (int64_t i = t * stream_width; i < (t + 1) * stream_width; i++) {
                distance += pow(streams[0][b][i] - streams[1][b][i], 2);
                size += pow(streams[1][b][i], 2);
            }
            sum += distance / size;
        }
    return sum / (BLOCKS * WINDOW);
}

/* A rule that learns nothing: it keeps the gradient of step 1, and then goes along it by +h and
 * from there by -2h. */
typedef struct probe {
    float *gradient[64];
    double norm, losses[4], hidden, next_token, divergence;
    int count, next;
} probe;
static const double probe_h = 2e-3;

static lr_status probe_rule(const lr_update *update, void *user) {
    probe *p = user;
    size_t bytes = (size_t)update->count * sizeof(float);
    if (update->step == 1) {
        ck_assert_int_lt(p->count, 64);
        p->gradient[p->count] = malloc(bytes);
        memcpy(p->gradient[p->count++], update->gradient, bytes);
        return LR_OK;
    }
    const float *g = p->gradient[p->next++ % p->count];
    double far = update->step == 2 ? probe_h : update->step == 3 ? -2 * probe_h : 0;
    for (int64_t i = 0; i < update->count; i++)
        update->values[i] = (float)(update->values[i] + far * g[i] / p->norm);
    return LR_OK;
}

static int32_t probe_event(const lr_train_event *event, void *user) {
    probe *p = user;
    p->losses[event->step - 1] = event->loss;
    if (event->step > 1) return 0;
    p->norm = event->norm;
    p->hidden = event->hidden;
    p->next_token = event->next_token;
    p->divergence = event->divergence;
    return 0;
}

static probe probe_losses(lr_model *student, const char *pattern, const lr_train_opts *opts) {
    lr_optimizer *optimizer;
    lr_optimizer_opts own;
    probe p = {.count = 0};
    lr_model *mine;
    CHECK_OK(lr_model_clone(&mine, student));
    lr_optimizer_opts_init(&own, sizeof own);
    own.rule = LR_OWN_RULE;
    own.update = probe_rule;
    own.user = &p;
    CHECK_OK(lr_optimizer_new(&optimizer, ctx, &own));
    CHECK_OK(lr_optimizer_add_model(optimizer, mine, pattern, NULL, NULL));
    CHECK_OK(lr_train(mine, optimizer, ids, WINDOW, opts, probe_event, &p));
    lr_optimizer_free(optimizer);
    lr_model_free(mine);
    return p;
}

static const char *const parts[] = {"*", "model.layers.1.mlp.*", "model.layers.0.*norm*",
                                    "model.norm.weight"};
enum { PARTS = sizeof parts / sizeof *parts };

/* There is one window, so all steps lose the same; its three uses in a step are two passes. */
START_TEST(hidden_states_have_their_gradient) {
    lr_model *student = stray("*");
    lr_train_opts opts = options(4);
    opts.window = WINDOW;
    opts.teacher = model;
    opts.alpha = 0.25;
    opts.hidden = 3;
    probe p = probe_losses(student, parts[_i], &opts);
    double wanted = hidden_loss(student, model);
    ck_assert(wanted > 1e-3);
    ck_assert_msg(fabs(p.hidden / wanted - 1) <= 1e-5, "%.9g, expected %.9g", p.hidden, wanted);
    ck_assert(fabs(p.losses[0] - (0.75 * p.next_token + 0.25 * p.divergence + 3 * wanted)) <=
              1e-5 * p.losses[0]);
    double slope = (p.losses[2] - p.losses[3]) / (2 * probe_h);
    ck_assert_msg(fabs(slope / p.norm - 1) <= 2e-3, "%s: slope %.6g, norm %.6g", parts[_i], slope,
                  p.norm);
    opts.keeps_all = 1;
    opts.steps = 1;
    probe kept = probe_losses(student, parts[_i], &opts);
    ck_assert(kept.norm == p.norm && kept.hidden == p.hidden);
    for (int i = 0; i < p.count; i++) free(p.gradient[i]);
    for (int i = 0; i < kept.count; i++) free(kept.gradient[i]);
    lr_model_free(student);
}
END_TEST

static int32_t note_hidden(const lr_train_event *event, void *user) {
    course *c = user;
    c->losses[c->count++] = event->hidden;
    return 0;
}

START_TEST(hidden_states_draw_a_student_back) {
    lr_model *student = stray("*.mlp.*");
    course c = {.count = 0};
    lr_train_opts opts = options(40);
    opts.teacher = model;
    opts.alpha = 0;
    opts.hidden = 100;
    lr_optimizer *back = optimizer_of(student, "*.mlp.*", 3e-3);
    CHECK_OK(lr_train(student, back, ids, IDS, &opts, note_hidden, &c));
    ck_assert_msg(c.losses[39] < 0.5 * c.losses[0], "%g, at first %g", c.losses[39], c.losses[0]);
    lr_optimizer_free(back);
    lr_model_free(student);
}
END_TEST

START_TEST(threads_change_no_bit) {
    uint64_t bits = 0;
    lr_ctx *usual = ctx;
    lr_train_opts opts = options(4);
    opts.teacher = model;
    opts.alpha = 0.5;
    opts.hidden = 2;
    for (int32_t threads = 1; threads <= 3; threads++) {
        lr_model *own = tiny_open_path(golden_model_path("llama-tied"), threads);
        ctx = own->ctx;
        lr_optimizer *optimizer = optimizer_of(own, "*", 1e-2);
        ctx = usual;
        CHECK_OK(lr_train(own, optimizer, ids, IDS, &opts, NULL, NULL));
        if (threads == 1) bits = bits_of(own);
        ck_assert(bits_of(own) == bits);
        lr_optimizer_free(optimizer);
        lr_model_free(own);
    }
    ck_assert(bits != bits_of(model));
}
END_TEST

START_TEST(hidden_states_of_another_shape_are_refused) {
    tiny other = tiny_model;
    lr_model *student, *teacher;
    lr_train_opts opts = options(3);
    scratch_remove();
    student = tiny_open(&other, 1);
    other.hidden += 8;
    teacher = tiny_open(&other, 1);
    scratch_make();
    lr_optimizer *optimizer = optimizer_of(student, "*norm*", 1e-3);
    opts.hidden = 1;
    CHECK_FAILS(lr_train(student, optimizer, ids, IDS, &opts, NULL, NULL), LR_E_INVALID,
                "without a teacher");
    opts.teacher = teacher;
    CHECK_FAILS(lr_train(student, optimizer, ids, IDS, &opts, NULL, NULL), LR_E_SHAPE,
                "of 3 blocks and width 32 for a model of 3 blocks and width 24");
    opts.hidden = -1;
    CHECK_FAILS(lr_train(student, optimizer, ids, IDS, &opts, NULL, NULL), LR_E_INVALID,
                "weight -1");
    opts.hidden = 0;
    CHECK_OK(lr_train(student, optimizer, ids, IDS, &opts, NULL, NULL));
    lr_optimizer_free(optimizer);
    lr_model_free(teacher);
    lr_model_free(student);
}
END_TEST

/* ---- numbers that are not finite ---- */

typedef struct plant {
    const char *poisoned; /* its first number is NaN */
    const char *said;
} plant;

static const plant plants[] = {
    {"model.layers.1.mlp.up_proj.weight", "the output of model.layers.1.mlp.up_proj is the lowest"},
    {"model.layers.2.self_attn.o_proj.weight", "the output of model.layers.2.self_attn.o_proj is"},
    {"model.layers.1.input_layernorm.weight", "the input of model.layers.1.self_attn.q_proj is"},
    {"lm_head.weight", "all blocks are finite"},
};
enum { PLANTS = sizeof plants / sizeof *plants };

START_TEST(place_of_a_bad_number_is_named) {
    tiny bad = tiny_model, good = tiny_model;
    lr_train_opts opts = options(3);
    bad.poisoned = plants[_i].poisoned;
    scratch_remove();
    lr_model *sick = tiny_open(&bad, 2), *sound = tiny_open(&good, 2);
    scratch_make();
    lr_optimizer *optimizer = optimizer_of(sick, "model.layers.0.*norm*", 1e-3);
    CHECK_FAILS(lr_train(sick, optimizer, ids, IDS, &opts, NULL, NULL), LR_E_NUMERIC, "step 1: ");
    CHECK_FAILS(lr_train(sick, optimizer, ids, IDS, &opts, NULL, NULL), LR_E_NUMERIC,
                plants[_i].said);
    CHECK_FAILS(lr_train(sick, optimizer, ids, IDS, &opts, NULL, NULL), LR_E_NUMERIC,
                "there is no checkpoint");
    ck_assert_int_eq(lr_optimizer_steps(optimizer), 0);
    lr_optimizer_free(optimizer);
    optimizer = optimizer_of(sound, "*norm*", 1e-3);
    opts.teacher = sick;
    opts.hidden = _i == 3 ? 0 : 1;
    CHECK_FAILS(lr_train(sound, optimizer, ids, IDS, &opts, NULL, NULL), LR_E_NUMERIC,
                _i == 3 ? plants[_i].said : " of the teacher is the lowest");
    lr_optimizer_free(optimizer);
    lr_model_free(sick);
    lr_model_free(sound);
}
END_TEST

static uint64_t bytes_of(const char *path) {
    static char bytes[1 << 22];
    size_t count = scratch_read(path, bytes, sizeof bytes);
    ck_assert(count > 0 && count < sizeof bytes);
    return hash_bytes(hash_begin, bytes, count);
}

/* Rates that ruin the model at once, and that are beyond binary32; a checkpoint is due after each
 * step, but none of the ruins is kept. */
START_TEST(ruins_are_not_kept) {
    const char *path = scratch_path("kept");
    lr_train_opts opts = options(4);
    course c = {.count = 4};
    lr_model *own;
    opts.checkpoint = path;
    opts.checkpoint_every = 1;
    CHECK_OK(lr_model_clone(&own, model));
    lr_optimizer *optimizer = optimizer_of(own, "*", 1e-3);
    CHECK_OK(lr_train(own, optimizer, ids, IDS, &opts, NULL, NULL));
    lr_optimizer_free(optimizer);
    lr_model_free(own);
    uint64_t kept = bytes_of(path);
    CHECK_OK(lr_model_clone(&own, model));
    optimizer = optimizer_of(own, "*", _i ? 3e38 : 1e30);
    opts.steps = 9;
    CHECK_FAILS(lr_train(own, optimizer, ids, IDS, &opts, note, &c), LR_E_NUMERIC,
                "kept of step 4");
    ck_assert_msg(strstr(lr_last_error(), _i ? "step 5: " : "step 6: ") &&
                      strstr(lr_last_error(), "model.layers.0."),
                  "%s", lr_last_error());
    ck_assert(bytes_of(path) == kept);
    lr_optimizer_free(optimizer);
    lr_model_free(own);
}
END_TEST

/* ---- a module of the host's ---- */

START_TEST(modules_learn_too) {
    enum { OUT = 5, IN = 4, ROWS = 32 };
    float weight[OUT * IN], x[ROWS * IN], y[ROWS * OUT], dx[ROWS * IN];
    int64_t shape[2] = {OUT, IN}, x_shape[2] = {ROWS, IN}, y_shape[2] = {ROWS, OUT};
    lr_tensor w, xs, ys, dxs;
    lr_linear *linear;
    lr_linear_opts opts;
    lr_optimizer *optimizer;
    lr_optimizer_opts learning;
    for (int i = 0; i < OUT * IN; i++) weight[i] = (float)((i * 7) % 5) - 2;
    for (int i = 0; i < ROWS * IN; i++) x[i] = (float)((i * 11) % 13) / 6 - 1;
    CHECK_OK(lr_tensor_view(&w, weight, LR_F32, 2, shape));
    CHECK_OK(lr_tensor_view(&xs, x, LR_F32, 2, x_shape));
    CHECK_OK(lr_tensor_view(&ys, y, LR_F32, 2, y_shape));
    CHECK_OK(lr_tensor_view(&dxs, dx, LR_F32, 2, x_shape));
    lr_linear_opts_init(&opts, sizeof opts);
    opts.rank = 2;
    CHECK_OK(lr_linear_from_weight(&linear, ctx, &w, &opts));
    lr_optimizer_opts_init(&learning, sizeof learning);
    learning.learning_rate = 0.05;
    CHECK_OK(lr_optimizer_new(&optimizer, ctx, &learning));
    CHECK_OK(lr_optimizer_add_linear(optimizer, linear, NULL, NULL, NULL));
    double first = 0, last = 0;
    for (int step = 0; step < 200; step++) { /* towards y = 0 */
        CHECK_OK(lr_linear_apply(linear, &xs, &ys));
        last = 0;
        for (int i = 0; i < ROWS * OUT; i++) {
            last += (double)y[i] * y[i];
            y[i] *= 2;
        }
        if (!step) first = last;
        CHECK_OK(lr_linear_backward(linear, &xs, &ys, &dxs, optimizer));
        CHECK_OK(lr_optimizer_step(optimizer, NULL));
    }
    ck_assert(last < 1e-3 * first);
    y_shape[1] = OUT - 1;
    CHECK_OK(lr_tensor_view(&ys, y, LR_F32, 2, y_shape));
    CHECK_FAILS(lr_linear_backward(linear, &xs, &ys, NULL, optimizer), LR_E_SHAPE, "dy is [32, 4]");
    CHECK_FAILS(lr_linear_backward(NULL, &xs, &ys, NULL, optimizer), LR_E_INVALID, "needed");
    lr_optimizer_free(optimizer);
    lr_linear_free(linear);
}
END_TEST

Suite *train_suite(void) {
    Suite *suite = suite_create("train");
    TCase *tests = tcase_create("train");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, ten_steps_are_those_of_pytorch, 0, GOLDEN_NAMES);
    tcase_add_test(tests, losses_fall);
    tcase_add_test(tests, passes_add_up);
    tcase_add_test(tests, checkpoints_go_on_bit_for_bit);
    tcase_add_loop_test(tests, losses_are_those_of_the_logits, 0, 3);
    tcase_add_test(tests, teacher_draws_its_student_back);
    tcase_add_test(tests, what_makes_no_sense_is_refused);
    tcase_add_loop_test(tests, place_of_a_bad_number_is_named, 0, PLANTS);
    tcase_add_loop_test(tests, ruins_are_not_kept, 0, 2);
    tcase_add_test(tests, modules_learn_too);
    suite_add_tcase(suite, tests);
    tests = tcase_create("hidden");
    tcase_add_checked_fixture(tests, setup_two_blocks, teardown);
    tcase_add_loop_test(tests, hidden_states_have_their_gradient, 0, PARTS);
    tcase_add_test(tests, hidden_states_draw_a_student_back);
    tcase_add_test(tests, threads_change_no_bit);
    tcase_add_test(tests, hidden_states_of_another_shape_are_refused);
    suite_add_tcase(suite, tests);
    return suite;
}
