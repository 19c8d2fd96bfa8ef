/* Rules, schedules and clipping: against torch's numbers, and against their formulas in binary64
 * written here. */
#include "optimizer_fixture.h"

#include "format/safetensors.h"

enum { STEPS = 10 };

static void set_up(void) { fixture_make(); }
static void tear_down(void) { fixture_drop(); }

/* --- torch --- */

typedef struct golden_case {
    const char *name;
    lr_optimizer_opts opts;
    lr_group_opts groups[2];
} golden_case;

static void make_cases(golden_case cases[8]) {
    static const char *const names[8] = {"adamw",        "adamw-decay",    "adamw-clip",
                                         "adamw-cosine", "adamw-groups",   "sgd",
                                         "sgd-momentum", "sgd-linear-clip"};
    static const double rates[8] = {1e-2, 3e-2, 1e-2, 5e-2, 1e-2, 1e-2, 1e-2, 0.1};
    static const double decays[8] = {0, 0.1, 0.01, 0.1, 0, 0, 0.1, 0};
    for (int i = 0; i < 8; i++) {
        cases[i].name = names[i];
        cases[i].opts = optimizer_opts(i < 5 ? LR_ADAMW : LR_SGD, rates[i]);
        cases[i].opts.weight_decay = decays[i];
        for (int g = 0; g < 2; g++) lr_group_opts_init(&cases[i].groups[g], sizeof(lr_group_opts));
    }
    cases[1].opts.beta1 = 0.8;
    cases[1].opts.beta2 = 0.95;
    cases[1].opts.epsilon = 1e-6;
    cases[2].opts.clip = 0.5;
    cases[3].opts.schedule = LR_COSINE;
    cases[3].opts.warm_up = 2;
    cases[3].opts.steps = 10;
    cases[4].groups[0].learning_rate = 1e-3;
    cases[4].groups[1].weight_decay = 0.5;
    cases[6].opts.momentum = 0.9;
    cases[7].opts.momentum = 0.5;
    cases[7].opts.clip = 2;
    cases[7].opts.schedule = LR_LINEAR;
    cases[7].opts.warm_up = 3;
    cases[7].opts.steps = 8;
    cases[7].opts.final_share = 0.1;
}

static const float *golden_numbers(const lr__stored_list *list, const char *stem, int part) {
    char name[64];
    snprintf(name, sizeof name, "%s.%d", stem, part);
    const lr__stored *stored = lr__stored_find(list, name);
    ck_assert_msg(stored != NULL, "no golden %s", name);
    return stored->data;
}

static void check_step(const lr_linear *linear, const float *wanted, int64_t count,
                       const char *name, int step) {
    for (int64_t i = 0; i < count; i++)
        ck_assert_msg(fabs(values_of(linear)[i] - wanted[i]) <= 1e-6 * (1 + fabs(wanted[i])),
                      "%s, step %d: %lld: %.9g, expected %.9g", name, step + 1, (long long)i,
                      values_of(linear)[i], wanted[i]);
}

START_TEST(test_torch) {
    static const int64_t sizes[2] = {30, 7};
    golden_case cases[8];
    lr__stored_list list = {0};
    make_cases(cases);
    const golden_case *c = &cases[_i];
    CHECK_OK(lr__safetensors_add(&list, golden_path("optim.safetensors"), 0, NULL));
    lr_linear *linears[2] = {dense_of("a", golden_numbers(&list, "start", 0), 6, 5),
                             diagonal_of("b", golden_numbers(&list, "start", 1), 7)};
    lr_optimizer *optimizer = optimizer_of(&c->opts);
    for (int i = 0; i < 2; i++)
        CHECK_OK(lr_optimizer_add_linear(optimizer, linears[i], "*", &c->groups[i], NULL));
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < 2; i++)
            set_gradient(optimizer, linears[i],
                         golden_numbers(&list, "gradients", i) + step * sizes[i]);
        CHECK_OK(lr_optimizer_step(optimizer, NULL));
        for (int i = 0; i < 2; i++)
            check_step(linears[i], golden_numbers(&list, c->name, i) + step * sizes[i], sizes[i],
                       c->name, step);
    }
    ck_assert_int_eq(lr_optimizer_steps(optimizer), STEPS);
    lr_optimizer_free(optimizer);
    for (int i = 0; i < 2; i++) lr_linear_free(linears[i]);
    lr__stored_list_clear(&list);
}
END_TEST

/* --- formulas --- */

typedef struct oracle {
    double w, m, v;
} oracle;

static void oracle_adamw(oracle *o, const lr_optimizer_opts *opts, double g, int step) {
    double rate = opts->learning_rate;
    o->m = opts->beta1 * o->m + (1 - opts->beta1) * g;
    o->v = opts->beta2 * o->v + (1 - opts->beta2) * g * g;
    double m = o->m / (1 - pow(opts->beta1, step)), v = o->v / (1 - pow(opts->beta2, step));
    o->w -= rate * opts->weight_decay * o->w + rate * m / (sqrt(v) + opts->epsilon);
}

static void oracle_sgd(oracle *o, const lr_optimizer_opts *opts, double g) {
    o->m = opts->momentum * o->m + g + opts->weight_decay * o->w;
    o->w -= opts->learning_rate * o->m;
}

/* Sizes around the chunks that the work is cut into. */
START_TEST(test_formulas) {
    static const int64_t sizes[] = {
        1, 9, LR__CHUNK - 1, LR__CHUNK, LR__CHUNK + 1, 2 * LR__CHUNK + 7};
    int64_t size = sizes[_i / 2];
    lr_optimizer_opts opts = optimizer_opts(_i % 2 ? LR_SGD : LR_ADAMW, 3e-3);
    opts.weight_decay = 0.05;
    opts.momentum = 0.8;
    float *start = fixture_numbers(size), *g = malloc((size_t)size * sizeof *g);
    oracle *wanted = calloc((size_t)size, sizeof *wanted);
    lr_linear *linear = dense_of("m", start, size, 1);
    lr_optimizer *optimizer = optimizer_of(&opts);
    add(optimizer, linear);
    for (int64_t i = 0; i < size; i++) wanted[i].w = start[i];
    for (int step = 1; step <= 5; step++) {
        lr_step_result result = {.size = sizeof result};
        double squares = 0;
        for (int64_t i = 0; i < size; i++) {
            g[i] = fixture_number() * (float)step;
            squares += (double)g[i] * g[i];
            if (opts.rule == LR_SGD)
                oracle_sgd(&wanted[i], &opts, g[i]);
            else
                oracle_adamw(&wanted[i], &opts, g[i], step);
        }
        set_gradient(optimizer, linear, g);
        CHECK_OK(lr_optimizer_step(optimizer, &result));
        ck_assert_int_eq(result.step, step);
        ck_assert_double_le(fabs(result.norm - sqrt(squares)), 1e-12 * (1 + result.norm));
        ck_assert(result.learning_rate == 3e-3);
        for (int64_t i = 0; i < size; i++)
            ck_assert_double_le(fabs(values_of(linear)[i] - wanted[i].w), 2e-6);
        CHECK_OK(lr_optimizer_gradient(optimizer, 0, g));
        for (int64_t i = 0; i < size; i++) ck_assert(g[i] == 0);
    }
    lr_optimizer_free(optimizer);
    lr_linear_free(linear);
    free(start);
    free(g);
    free(wanted);
}
END_TEST

static double rate_at(const lr_optimizer_opts *opts, int made) {
    if (made < opts->warm_up) return opts->learning_rate * made / (double)opts->warm_up;
    double way = ((double)made - (double)opts->warm_up) / (double)(opts->steps - opts->warm_up);
    if (way > 1) way = 1;
    double low = opts->final_share * opts->learning_rate, high = opts->learning_rate;
    if (opts->schedule == LR_CONSTANT) return high;
    if (opts->schedule == LR_LINEAR) return high + (low - high) * way;
    return low + (high - low) * (1 + cos(acos(-1) * way)) / 2;
}

START_TEST(test_schedules) {
    static const float one = 1;
    for (int warm_up = 0; warm_up < 4; warm_up++) {
        lr_optimizer_opts opts = optimizer_opts(LR_SGD, 0.5);
        opts.schedule = _i;
        opts.warm_up = warm_up;
        opts.steps = _i == LR_CONSTANT ? 0 : 7;
        opts.final_share = 0.25;
        lr_linear *linear = dense_of("m", &one, 1, 1);
        lr_optimizer *optimizer = optimizer_of(&opts);
        add(optimizer, linear);
        for (int made = 0; made < 10; made++) {
            lr_step_result result = {.size = sizeof result};
            float before = *values_of(linear);
            set_gradient(optimizer, linear, &one);
            CHECK_OK(lr_optimizer_step(optimizer, &result));
            ck_assert_double_le(fabs(result.learning_rate - rate_at(&opts, made)), 1e-15);
            ck_assert_double_le(fabs(before - *values_of(linear) - result.learning_rate), 3e-7);
        }
        lr_optimizer_free(optimizer);
        lr_linear_free(linear);
    }
}
END_TEST

/* --- clipping --- */

START_TEST(test_clipping) {
    static const float zeros[4] = {0};
    static const float g[2][4] = {{3, 0, 0, 4}, {0, 6, 8, 0}}; /* norms 5 and 10 */
    lr_optimizer_opts opts = optimizer_opts(LR_SGD, 1);
    lr_group_opts group;
    lr_group_opts_init(&group, sizeof group);
    for (int mode = 0; mode < 4; mode++) {
        lr_step_result result = {.size = sizeof result};
        group.clip = mode & 1 ? 2.5 : 0; /* of the first group: 5 becomes 2.5 */
        opts.clip = mode & 2 ? 2 : 0;
        double share = mode & 1 ? 0.5 : 1;
        double all = mode & 2 ? 2 / sqrt(25 * share * share + 100) : 1;
        lr_linear *linears[2] = {dense_of("a", zeros, 2, 2), dense_of("b", zeros, 2, 2)};
        lr_optimizer *optimizer = optimizer_of(&opts);
        CHECK_OK(lr_optimizer_add_linear(optimizer, linears[0], NULL, &group, NULL));
        add(optimizer, linears[1]);
        for (int i = 0; i < 2; i++) set_gradient(optimizer, linears[i], g[i]);
        CHECK_OK(lr_optimizer_step(optimizer, &result));
        ck_assert_double_le(fabs(result.norm - sqrt(125)), 1e-12);
        for (int i = 0; i < 4; i++) {
            ck_assert_double_le(fabs(values_of(linears[0])[i] + share * all * g[0][i]), 1e-6);
            ck_assert_double_le(fabs(values_of(linears[1])[i] + all * g[1][i]), 1e-6);
        }
        lr_optimizer_free(optimizer);
        for (int i = 0; i < 2; i++) lr_linear_free(linears[i]);
    }
}
END_TEST

/* Three steps on `threads` threads; the values, freed by the caller. */
static float *trained_with(int32_t threads, int32_t rule, const float *numbers, int64_t size,
                           double *norm) {
    lr_optimizer_opts opts = optimizer_opts(rule, 1e-2);
    lr_optimizer *optimizer;
    lr_ctx *ctx = tiny_ctx(threads);
    lr_linear *linear = dense_of("m", numbers, size, 1);
    opts.clip = 1;
    opts.momentum = 0.9;
    CHECK_OK(lr_optimizer_new(&optimizer, ctx, &opts));
    add(optimizer, linear);
    for (int step = 0; step < 3; step++) {
        lr_step_result result = {.size = sizeof result};
        set_gradient(optimizer, linear, numbers + step);
        CHECK_OK(lr_optimizer_step(optimizer, &result));
        *norm = result.norm;
    }
    float *out = malloc((size_t)size * sizeof *out);
    memcpy(out, values_of(linear), (size_t)size * sizeof *out);
    lr_optimizer_free(optimizer);
    lr_linear_free(linear);
    lr_ctx_free(ctx);
    return out;
}

static void backward_of_ones(lr_linear *linear, lr_optimizer *optimizer, float x, float dy) {
    lr_tensor in, out;
    float xs[3] = {x, x, x}, dys[2] = {dy, dy};
    CHECK_OK(lr_tensor_view(&in, xs, LR_F32, 2, (int64_t[]){1, 3}));
    CHECK_OK(lr_tensor_view(&out, dys, LR_F32, 2, (int64_t[]){1, 2}));
    CHECK_OK(lr_linear_backward(linear, &in, &out, NULL, optimizer));
}

/* Derivatives of one step are gone in the next, also of a module that takes no part in it, and
 * passes of one step add up. */
START_TEST(test_steps_begin_at_zero) {
    static const float zeros[6];
    lr_optimizer_opts opts = optimizer_opts(LR_SGD, 1);
    lr_optimizer *optimizer = optimizer_of(&opts);
    lr_linear *a = dense_of("a", zeros, 2, 3), *b = dense_of("b", zeros, 2, 3);
    float gradient[6];
    add(optimizer, a);
    add(optimizer, b);
    backward_of_ones(a, optimizer, 1, 2);
    backward_of_ones(a, optimizer, 1, 3);
    backward_of_ones(b, optimizer, 1, 7);
    CHECK_OK(lr_optimizer_step(optimizer, NULL));
    backward_of_ones(a, optimizer, 2, 4);
    CHECK_OK(lr_optimizer_gradient(optimizer, 1, gradient));
    for (int i = 0; i < 6; i++) ck_assert(gradient[i] == 0);
    CHECK_OK(lr_optimizer_step(optimizer, NULL));
    backward_of_ones(a, optimizer, 1, 100);
    lr_optimizer_zero(optimizer);
    CHECK_OK(lr_optimizer_step(optimizer, NULL));
    for (int i = 0; i < 6; i++) {
        ck_assert(values_of(a)[i] == -5 - 8);
        ck_assert(values_of(b)[i] == -7);
    }
    lr_optimizer_free(optimizer);
    lr_linear_free(a);
    lr_linear_free(b);
}
END_TEST

START_TEST(test_threads) {
    int64_t size = 5 * LR__CHUNK + 3;
    float *numbers = fixture_numbers(size + 3);
    double norms[2];
    float *one = trained_with(1, _i, numbers, size, &norms[0]);
    float *four = trained_with(4, _i, numbers, size, &norms[1]);
    CHECK_SAME_BITS(one, four, size);
    ck_assert(norms[0] == norms[1]);
    free(one);
    free(four);
    free(numbers);
}
END_TEST

/* --- what is not finite --- */

START_TEST(test_bad_gradient) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    int64_t size = 2 * LR__CHUNK;
    float *numbers = fixture_numbers(size), *g = fixture_numbers(size);
    lr_optimizer_opts opts = optimizer_opts(LR_ADAMW, 1e-2);
    opts.clip = 1;
    lr_linear *linears[2] = {dense_of("a", numbers, size, 1), dense_of("b", numbers, size, 1)};
    lr_optimizer *optimizer = optimizer_of(&opts);
    for (int i = 0; i < 2; i++) add(optimizer, linears[i]);
    for (int i = 0; i < 2; i++) set_gradient(optimizer, linears[i], g);
    g[LR__CHUNK + 5] = bad[_i];
    set_gradient(optimizer, linears[1], g);
    CHECK_FAILS(lr_optimizer_step(optimizer, NULL), LR_E_NUMERIC,
                "b.weight: number 16389 of the gradient is ");
    ck_assert_int_eq(lr_optimizer_steps(optimizer), 0);
    for (int i = 0; i < 2; i++) {
        CHECK_SAME_BITS(values_of(linears[i]), numbers, size);
        for (int64_t k = 0; k < 2 * size; k++) ck_assert(optimizer->items[i].state[k] == 0);
    }
    ck_assert(gradient_of(optimizer, op_param(linears[0], 0, 0))[3] == g[3]);
    lr_optimizer_zero(optimizer); /* and it goes on */
    g[LR__CHUNK + 5] = 1;
    set_gradient(optimizer, linears[1], g);
    CHECK_OK(lr_optimizer_step(optimizer, NULL));
    ck_assert_int_eq(lr_optimizer_steps(optimizer), 1);
    lr_optimizer_free(optimizer);
    for (int i = 0; i < 2; i++) lr_linear_free(linears[i]);
    free(numbers);
    free(g);
}
END_TEST

START_TEST(test_overflow) {
    static const float start[2] = {1, 1};
    const float huge[2] = {0, _i ? 1e38f : 1e25f};
    lr_optimizer_opts opts = optimizer_opts(_i ? LR_SGD : LR_ADAMW, _i ? 1e30 : 1e-3);
    lr_linear *linear = dense_of("m", start, 2, 1);
    lr_optimizer *optimizer = optimizer_of(&opts);
    add(optimizer, linear);
    set_gradient(optimizer, linear, huge);
    CHECK_FAILS(lr_optimizer_step(optimizer, NULL), LR_E_NUMERIC,
                "m.weight: left the range of binary32 in step 1");
    lr_optimizer_free(optimizer);
    lr_linear_free(linear);
}
END_TEST

/* --- a rule of the host's --- */

typedef struct own {
    int calls;
    lr_status status;
    float last;
} own;

/* Sign descent that counts in its state. */
static lr_status sign_descent(const lr_update *update, void *user) {
    own *o = user;
    if (o->calls++ && o->status < 0) return o->status;
    ck_assert_uint_eq(update->size, sizeof *update);
    for (int64_t i = 0; i < update->count; i++) {
        ck_assert(update->state[i] == (float)(update->step - 1));
        ck_assert(update->state[update->count + i] == 0);
        update->state[i]++;
        update->values[i] -=
            (float)update->learning_rate * copysignf(1, update->gradient[i]) * (o->last ? NAN : 1);
    }
    return LR_OK;
}

START_TEST(test_own_rule) {
    static const float zeros[2] = {0}, g[2] = {3, -4};
    own o = {0};
    lr_optimizer_opts opts = optimizer_opts(LR_OWN_RULE, 0.25);
    opts.update = sign_descent;
    opts.user = &o;
    opts.update_state = 2;
    lr_linear *linears[2] = {dense_of("a", zeros, 1, 2), dense_of("b", zeros, 1, 2)};
    lr_optimizer *optimizer = optimizer_of(&opts);
    for (int i = 0; i < 2; i++) add(optimizer, linears[i]);
    for (int step = 1; step <= 3; step++) {
        for (int i = 0; i < 2; i++) set_gradient(optimizer, linears[i], g);
        CHECK_OK(lr_optimizer_step(optimizer, NULL));
        ck_assert_int_eq(o.calls, 2 * step);
        for (int i = 0; i < 2; i++) {
            ck_assert(values_of(linears[i])[0] == -0.25f * (float)step);
            ck_assert(values_of(linears[i])[1] == 0.25f * (float)step);
        }
    }
    o.status = LR_E_USER - 7;
    ck_assert_int_eq(lr_optimizer_step(optimizer, NULL), LR_E_USER - 7);
    ck_assert_int_eq(lr_optimizer_steps(optimizer), 3);
    o.status = 0;
    o.last = 1;
    CHECK_FAILS(lr_optimizer_step(optimizer, NULL), LR_E_NUMERIC, "a.weight: number 0 is");
    lr_optimizer_free(optimizer);
    for (int i = 0; i < 2; i++) lr_linear_free(linears[i]);
}
END_TEST

/* A host's rule gets clipped gradients, and the rate, decay and state of its group. */
START_TEST(test_own_rule_in_groups) {
    float *numbers = fixture_numbers(200);
    lr_linear *linears[2][2];
    for (int host = 0; host < 2; host++) {
        lr_optimizer_opts opts = optimizer_opts(host ? LR_OWN_RULE : LR_SGD, 0.05);
        lr_group_opts group;
        lr_group_opts_init(&group, sizeof group);
        group.learning_rate = 0.02;
        group.weight_decay = 0.3;
        group.clip = 0.4;
        opts.momentum = 0.9;
        opts.clip = 0.9;
        opts.schedule = LR_LINEAR;
        opts.steps = 9;
        opts.update = host ? heavy_ball : NULL;
        opts.update_state = host;
        lr_optimizer *optimizer = optimizer_of(&opts);
        for (int i = 0; i < 2; i++) {
            linears[host][i] = dense_of(i ? "b" : "a", numbers + i, 3, 4);
            CHECK_OK(lr_optimizer_add_linear(optimizer, linears[host][i], NULL, i ? &group : NULL,
                                             NULL));
        }
        for (int step = 0; step < 6; step++) {
            for (int i = 0; i < 2; i++)
                set_gradient(optimizer, linears[host][i], numbers + 20 * step + 5 * i);
            CHECK_OK(lr_optimizer_step(optimizer, NULL));
        }
        lr_optimizer_free(optimizer);
    }
    for (int i = 0; i < 2; i++) {
        const float *sgd = values_of(linears[0][i]), *hosts = values_of(linears[1][i]);
        ck_assert_double_ge(tiny_distance(sgd, numbers + i, 12), 1e-2);
        ck_assert_double_le(tiny_distance(sgd, hosts, 12), 1e-6);
    }
    for (int i = 0; i < 4; i++) lr_linear_free(linears[i / 2][i % 2]);
    free(numbers);
}
END_TEST

/* --- refusals --- */

static void refuse(lr_optimizer_opts opts, const char *text) {
    lr_optimizer *optimizer = (lr_optimizer *)&opts;
    CHECK_FAILS(lr_optimizer_new(&optimizer, fixture_ctx, &opts), LR_E_INVALID, text);
    ck_assert_ptr_null(optimizer);
}

#define REFUSE(member, value, text)                            \
    do {                                                       \
        lr_optimizer_opts o_ = optimizer_opts(LR_ADAMW, 1e-3); \
        o_.member = (value);                                   \
        refuse(o_, text);                                      \
    } while (0)

START_TEST(test_refused_opts) {
    lr_optimizer *optimizer;
    REFUSE(rule, 3, "rule 3");
    REFUSE(rule, -1, "rule -1");
    REFUSE(rule, LR_OWN_RULE, "without update");
    REFUSE(schedule, 3, "schedule 3");
    REFUSE(schedule, LR_COSINE, "a schedule of 0 steps");
    REFUSE(warm_up, -1, "-1 of them");
    REFUSE(learning_rate, -1, "learning_rate is -1");
    REFUSE(learning_rate, NAN, "learning_rate is nan");
    REFUSE(weight_decay, INFINITY, "weight_decay is inf");
    REFUSE(beta1, 1, "beta1 is 1");
    REFUSE(beta2, -0.1, "beta2 is -0.1");
    REFUSE(epsilon, 0, "epsilon is 0");
    REFUSE(momentum, 1, "momentum is 1");
    REFUSE(final_share, 1.5, "final_share is 1.5");
    REFUSE(clip, -1, "clip is -1");
    REFUSE(update_state, 65, "update_state 65");
    CHECK_FAILS(lr_optimizer_new(NULL, fixture_ctx, NULL), LR_E_INVALID, "are needed");
    CHECK_FAILS(lr_optimizer_new(&optimizer, NULL, NULL), LR_E_INVALID, "are needed");
    lr_optimizer_free(NULL);
    optimizer = optimizer_of(NULL);
    ck_assert_int_eq(lr_optimizer_count(optimizer), 0);
    CHECK_FAILS(lr_optimizer_step(optimizer, NULL), LR_E_INVALID, "no parameters were added");
    CHECK_FAILS(lr_optimizer_step(NULL, NULL), LR_E_INVALID, "are needed");
    lr_step_result result = {0};
    CHECK_FAILS(lr_optimizer_step(optimizer, &result), LR_E_INVALID, "with its size");
    lr_optimizer_free(optimizer);
}
END_TEST

START_TEST(test_refused_adding) {
    static const float start[2] = {1, 2}, broken[2] = {1, NAN};
    lr_linear *linear = dense_of("m", start, 2, 1), *nan = dense_of("n", broken, 2, 1);
    lr_optimizer *optimizer = optimizer_of(NULL);
    lr_group_opts group;
    int64_t count = 7;
    const float *before = values_of(linear);
    CHECK_FAILS(lr_optimizer_add_linear(optimizer, NULL, NULL, NULL, NULL), LR_E_INVALID, "needed");
    CHECK_FAILS(lr_optimizer_add_linear(NULL, linear, NULL, NULL, NULL), LR_E_INVALID, "needed");
    CHECK_FAILS(lr_optimizer_add_model(optimizer, NULL, NULL, NULL, NULL), LR_E_INVALID, "needed");
    CHECK_FAILS(lr_optimizer_add_linear(optimizer, linear, "{", NULL, NULL), LR_E_INVALID,
                "not a pattern");
    CHECK_FAILS(lr_optimizer_add_linear(optimizer, linear, "*.bias", NULL, &count), LR_E_NOTFOUND,
                "m: no parameter matches \"*.bias\"");
    ck_assert_int_eq(count, 0);
    CHECK_FAILS(lr_optimizer_add_linear(optimizer, nan, NULL, NULL, NULL), LR_E_NUMERIC,
                "n.weight: number 1 is nan");
    for (int i = 0; i < 3; i++) {
        lr_group_opts_init(&group, sizeof group);
        if (i == 0) group.learning_rate = NAN;
        if (i == 1) group.weight_decay = INFINITY;
        if (i == 2) group.clip = -1;
        CHECK_FAILS(lr_optimizer_add_linear(optimizer, linear, NULL, &group, NULL), LR_E_INVALID,
                    "lr_group_opts");
    }
    ck_assert_ptr_eq(values_of(linear), before);
    ck_assert_int_eq(lr_optimizer_count(optimizer), 0);
    add(optimizer, linear);
    CHECK_FAILS(lr_optimizer_add_linear(optimizer, linear, NULL, NULL, NULL), LR_E_NOTFOUND,
                "trained already");
    float gradient[2];
    CHECK_FAILS(lr_optimizer_gradient(optimizer, 1, gradient), LR_E_INVALID, "parameter 1 of 1");
    CHECK_FAILS(lr_optimizer_gradient(optimizer, 0, NULL), LR_E_INVALID, "are needed");
    ck_assert_ptr_null(lr_optimizer_name(optimizer, -1));
    ck_assert_int_eq(lr_optimizer_size(optimizer, 1), 0);
    lr_optimizer_free(optimizer);
    lr_linear_free(linear);
    lr_linear_free(nan);
}
END_TEST

Suite *optimizer_suite(void) {
    Suite *suite = suite_create("optimizer");
    TCase *tests = tcase_create("optimizer");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_loop_test(tests, test_torch, 0, 8);
    tcase_add_loop_test(tests, test_formulas, 0, 12);
    tcase_add_loop_test(tests, test_schedules, 0, 3);
    tcase_add_test(tests, test_clipping);
    tcase_add_test(tests, test_steps_begin_at_zero);
    tcase_add_loop_test(tests, test_threads, 0, 2);
    tcase_add_loop_test(tests, test_bad_gradient, 0, 3);
    tcase_add_loop_test(tests, test_overflow, 0, 2);
    tcase_add_test(tests, test_own_rule);
    tcase_add_test(tests, test_own_rule_in_groups);
    tcase_add_test(tests, test_refused_opts);
    tcase_add_test(tests, test_refused_adding);
    suite_add_tcase(suite, tests);
    return suite;
}
