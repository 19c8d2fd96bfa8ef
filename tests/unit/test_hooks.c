/* Hooks: who is called when and with what, what a changed value does, and what a hook may do. */
#include "model_fixture.h"

enum { NOTES = 400 };

typedef struct note {
    char module[64];
    int32_t event, layer;
    int64_t input_id, step;
} note;

/* What one recorder saw, and the numbers of hooks in the order they were called. */
typedef struct log {
    note notes[NOTES];
    int32_t count;
} log_book;

static tiny two_layers(void) {
    tiny t = tiny_model;
    t.layers = 2;
    return t;
}

static lr_status record(const lr_hook_event *e, void *user) {
    log_book *l = user;
    ck_assert_int_lt(l->count, NOTES);
    note *n = &l->notes[l->count++];
    snprintf(n->module, sizeof n->module, "%s", e->module);
    n->event = e->event;
    n->layer = e->layer;
    n->input_id = e->input_id;
    n->step = e->step;
    ck_assert_uint_eq(e->size, sizeof *e);
    ck_assert((e->output.data == NULL) == (e->event == LR_BEFORE_FORWARD));
    ck_assert_int_eq(e->input.ndim, 2);
    ck_assert_int_eq(e->output.ndim, 2);
    ck_assert_int_eq(e->output.dtype, LR_F32);
    ck_assert_int_eq(e->output.shape[0], e->input.shape[0]);
    return LR_OK;
}

static lr_hooks *new_hooks(void) {
    lr_hooks *hooks;
    CHECK_OK(lr_hooks_new(&hooks));
    return hooks;
}

static const int32_t both = LR_BEFORE_FORWARD | LR_AFTER_FORWARD;

/* One forward of `count` tokens of text 0 in row 0; logits of the last token. */
static lr_status forward(lr_session *session, int32_t count, float *logits) {
    int32_t tokens[64];
    tiny_text(0, count, 41, tokens);
    const lr_segment segment = {0, count, tokens};
    return lr_session_forward(session, &segment, 1, logits);
}

/* Logits of one forward under one hook. */
static void run_with(const lr_model *model, const char *pattern, int32_t events, lr_hook_fn fn,
                     void *user, float *logits) {
    lr_hooks *hooks = new_hooks();
    CHECK_OK(lr_hook_add(hooks, pattern, events, fn, user, NULL));
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, hooks);
    CHECK_OK(forward(session, 5, logits));
    lr_session_free(session);
    lr_hooks_free(hooks);
}

static void run_plain(const lr_model *model, float *logits) {
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
    CHECK_OK(forward(session, 5, logits));
    lr_session_free(session);
}

START_TEST(whole_sequence) {
    static const char *const block[] = {"<",
                                        "<self_attn.q_proj",
                                        "<self_attn.k_proj",
                                        "<self_attn.v_proj",
                                        ">self_attn.q_proj",
                                        ">self_attn.k_proj",
                                        ">self_attn.v_proj",
                                        "<self_attn.o_proj",
                                        ">self_attn.o_proj",
                                        "<mlp.gate_proj",
                                        "<mlp.up_proj",
                                        ">mlp.gate_proj",
                                        ">mlp.up_proj",
                                        "<mlp.down_proj",
                                        ">mlp.down_proj",
                                        ">"};
    enum { BLOCK = sizeof block / sizeof *block };
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 2);
    log_book l = {.count = 0};
    float logits[41];
    run_with(model, "*", both, record, &l, logits);
    ck_assert_int_eq(l.count, 2 * BLOCK + 2);
    for (int32_t i = 0; i < 2 * BLOCK; i++) {
        char expected[100];
        const char *part = block[i % BLOCK];
        snprintf(expected, sizeof expected, "model.layers.%d%s%s", i / BLOCK, part[1] ? "." : "",
                 part + 1);
        ck_assert_str_eq(l.notes[i].module, expected);
        ck_assert_int_eq(l.notes[i].event, *part == '<' ? LR_BEFORE_FORWARD : LR_AFTER_FORWARD);
        ck_assert_int_eq(l.notes[i].layer, i / BLOCK);
    }
    for (int32_t i = 2 * BLOCK; i < l.count; i++) {
        ck_assert_str_eq(l.notes[i].module, "lm_head");
        ck_assert_int_eq(l.notes[i].layer, -1);
    }
    lr_model_free(model);
}
END_TEST

START_TEST(matched_modules) {
    static const struct {
        const char *pattern;
        int32_t events, expected;
    } cases[] = {
        {"down_proj", LR_AFTER_FORWARD, 2},
        {"mlp.down_proj", LR_AFTER_FORWARD, 0},
        {"*.mlp.{gate,up}_proj", both, 8},
        {"model.layers.1", both, 2},
        {"model.layers.?", LR_BEFORE_FORWARD, 2},
        {"model.layers.1.*", LR_BEFORE_FORWARD, 7},
        {"lm_head", both, 2},
        {"nobody", both, 0},
        {"*", LR_AFTER_FORWARD | LR_HOOK_CHANGES, 2 * 8 + 1},
    };
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        log_book l = {.count = 0};
        float logits[41];
        run_with(model, cases[i].pattern, cases[i].events, record, &l, logits);
        ck_assert_msg(l.count == cases[i].expected, "%s: %d calls", cases[i].pattern, l.count);
    }
    lr_model_free(model);
}
END_TEST

static int32_t calls[64], call_count;

static lr_status call_one(const lr_hook_event *e, void *user) {
    (void)e;
    calls[call_count++] = *(int32_t *)user;
    return 7; /* positive: go on */
}

static void check_calls(lr_session *session, const char *expected) {
    char found[70] = "";
    call_count = 0;
    CHECK_OK(forward(session, 2, NULL));
    for (int32_t i = 0; i < call_count; i++) found[i] = (char)('0' + calls[i]);
    ck_assert_str_eq(found, expected);
}

START_TEST(order_of_registration) {
    static int32_t numbers[5] = {1, 2, 3, 4, 5};
    static const char *const patterns[5] = {"*.0.*.up_proj", "up_proj", "*.{up,gate}_proj",
                                            "*.up_*", "model.layers.0.mlp.up_proj"};
    int32_t ids[5];
    tiny t = two_layers();
    t.layers = 1;
    lr_model *model = tiny_open(&t, 1);
    lr_hooks *hooks = new_hooks();
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, hooks);
    check_calls(session, "");
    for (int i = 0; i < 4; i++)
        CHECK_OK(lr_hook_add(hooks, patterns[i], LR_AFTER_FORWARD, call_one, &numbers[i], &ids[i]));
    check_calls(session, "31234"); /* gate stands before up */
    CHECK_OK(lr_hook_remove(hooks, ids[1]));
    ck_assert_int_eq(lr_hook_count(hooks), 3);
    check_calls(session, "3134");
    CHECK_FAILS(lr_hook_remove(hooks, ids[1]), LR_E_NOTFOUND, "not registered");
    CHECK_OK(lr_hook_add(hooks, patterns[4], LR_AFTER_FORWARD, call_one, &numbers[4], &ids[4]));
    check_calls(session, "31345");
    for (int i = 0; i < 5; i++)
        if (i != 1) CHECK_OK(lr_hook_remove(hooks, ids[i]));
    ck_assert_int_eq(lr_hook_count(hooks), 0);
    check_calls(session, "");
    lr_session_free(session);
    lr_hooks_free(hooks);
    lr_model_free(model);
}
END_TEST

START_TEST(refused_hooks) {
    lr_hooks *hooks = new_hooks();
    CHECK_FAILS(lr_hook_add(hooks, "*", 0, record, NULL, NULL), LR_E_INVALID, "event");
    CHECK_FAILS(lr_hook_add(hooks, "*", LR_HOOK_CHANGES, record, NULL, NULL), LR_E_INVALID,
                "event");
    CHECK_FAILS(lr_hook_add(hooks, "*", both, NULL, NULL, NULL), LR_E_INVALID, "fn");
    CHECK_FAILS(lr_hook_add(hooks, NULL, both, record, NULL, NULL), LR_E_INVALID, "pattern");
    CHECK_FAILS(lr_hook_add(NULL, "*", both, record, NULL, NULL), LR_E_INVALID, "hooks");
    CHECK_FAILS(lr_hook_add(hooks, "a{b", both, record, NULL, NULL), LR_E_INVALID, "a{b");
    CHECK_FAILS(lr_hook_remove(hooks, 0), LR_E_NOTFOUND, "0");
    CHECK_FAILS(lr_hook_remove(NULL, 1), LR_E_NOTFOUND, "1");
    CHECK_FAILS(lr_hooks_new(NULL), LR_E_INVALID, "out");
    ck_assert_int_eq(lr_hook_count(hooks), 0);
    ck_assert_int_eq(lr_hook_count(NULL), 0);
    lr_hooks_free(NULL);
    lr_hooks_free(hooks);
}
END_TEST

/* Notes of two forwards share an id exactly when they are of one forward and one group. */
static int32_t group_of(const note *n) {
    static const char *const groups[] = {"q_proj|k_proj|v_proj", "o_proj", "gate_proj|up_proj",
                                         "down_proj", "lm_head"};
    const char *last = strrchr(n->module, '.');
    for (int32_t g = 0; g < 5; g++)
        if (strstr(groups[g], last ? last + 1 : n->module)) return g + 10 * n->layer;
    return 9 + 10 * n->layer; /* a block */
}

START_TEST(input_ids) {
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 1);
    lr_hooks *hooks = new_hooks();
    log_book l = {.count = 0};
    float logits[41];
    CHECK_OK(lr_hook_add(hooks, "*", both, record, &l, NULL));
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, hooks);
    for (int i = 0; i < 3; i++) CHECK_OK(forward(session, 2, logits));
    ck_assert_int_eq(l.count, 3 * 34);
    for (int32_t i = 0; i < l.count; i++) {
        ck_assert_int_eq(l.notes[i].step, i / 34);
        for (int32_t j = 0; j < i; j++) {
            int same = i / 34 == j / 34 && group_of(&l.notes[i]) == group_of(&l.notes[j]);
            ck_assert_msg(same == (l.notes[i].input_id == l.notes[j].input_id), "%s and %s",
                          l.notes[i].module, l.notes[j].module);
        }
    }
    lr_session_free(session);
    lr_hooks_free(hooks);
    lr_model_free(model);
}
END_TEST

/* ---- tokens and positions ---- */

typedef struct expected_rows {
    int32_t count, ids[16], positions[16];
    int32_t called;
} expected_rows;

static lr_status check_rows(const lr_hook_event *e, void *user) {
    expected_rows *r = user;
    ck_assert_int_eq(e->input.shape[0], r->count);
    ck_assert_mem_eq(e->tokens, r->ids, (size_t)r->count * sizeof(int32_t));
    ck_assert_mem_eq(e->positions, r->positions, (size_t)r->count * sizeof(int32_t));
    r->called++;
    return LR_OK;
}

START_TEST(tokens_of_each_row) {
    static const int32_t a[] = {5, 6, 7}, b[] = {9, 8}, first[] = {1, 2};
    const lr_segment begin = {2, 2, first}, step[2] = {{2, 3, a}, {0, 2, b}};
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 1);
    lr_hooks *hooks = new_hooks();
    expected_rows inner = {5, {5, 6, 7, 9, 8}, {2, 3, 4, 0, 1}, 0}, head;
    float logits[5 * 41];
    double nll[3];
    int32_t id;
    for (int how = 0; how < 3; how++) {
        lr_session *session = tiny_session(model, 3, LR_STEP_ROWS, 0, hooks);
        CHECK_OK(lr_session_forward(session, &begin, 1, NULL));
        head = how == 0   ? (expected_rows){2, {7, 8}, {4, 1}, 0}
               : how == 1 ? inner
                          : (expected_rows){3, {5, 6, 9}, {2, 3, 0}, 0};
        inner.called = head.called = 0;
        int32_t all;
        CHECK_OK(lr_hook_add(hooks, "model.*", both, check_rows, &inner, &all));
        CHECK_OK(lr_hook_add(hooks, "lm_head", both, check_rows, &head, &id));
        CHECK_OK(how == 0   ? lr_session_forward(session, step, 2, logits)
                 : how == 1 ? lr_session_forward_all(session, step, 2, logits)
                            : lr_session_loss(session, step, 2, nll));
        ck_assert_int_eq(inner.called, 32);
        ck_assert_int_eq(head.called, 2);
        CHECK_OK(lr_hook_remove(hooks, id));
        CHECK_OK(lr_hook_remove(hooks, all));
        lr_session_free(session);
    }
    lr_hooks_free(hooks);
    lr_model_free(model);
}
END_TEST

static lr_status check_head(const lr_hook_event *e, void *user) {
    int32_t *seen = user;
    ck_assert_int_eq(e->output.shape[0], e->input.shape[0]);
    ck_assert_int_eq(e->output.shape[1], 41);
    seen[e->event == LR_AFTER_FORWARD]++;
    if (seen[2])
        ck_assert_ptr_null(e->output.data); /* a loss */
    else
        ck_assert((e->output.data != NULL) == (e->event == LR_AFTER_FORWARD));
    return LR_OK;
}

START_TEST(head_with_loss_and_logits) {
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 1);
    lr_hooks *hooks = new_hooks();
    int32_t seen[3] = {0}, tokens[6];
    float logits[41];
    double nll[5];
    tiny_text(0, 6, 41, tokens);
    const lr_segment segment = {0, 6, tokens};
    CHECK_OK(lr_hook_add(hooks, "lm_head", both, check_head, seen, NULL));
    lr_session *session = tiny_session(model, 1, LR_STEP_BATCH, 1, hooks);
    CHECK_OK(lr_session_forward(session, &segment, 1, logits));
    ck_assert(seen[0] == 1 && seen[1] == 1);
    CHECK_OK(lr_session_forward(session, &segment, 1, NULL)); /* no logits: no head */
    ck_assert(seen[0] == 1 && seen[1] == 1);
    seen[2] = 1;
    CHECK_OK(lr_session_loss(session, &segment, 1, nll));
    ck_assert(seen[0] == 2 && seen[1] == 2);
    lr_session_free(session);
    lr_hooks_free(hooks);
    lr_model_free(model);
}
END_TEST

START_TEST(observers_change_no_bits) {
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 2);
    int32_t tokens[30];
    float plain[30 * 41], observed[30 * 41];
    log_book l = {.count = 0};
    lr_hooks *hooks = new_hooks();
    tiny_text(3, 30, 41, tokens);
    const lr_segment segment = {0, 30, tokens};
    CHECK_OK(lr_hook_add(hooks, "*", both, record, &l, NULL));
    for (int32_t kind = LR_STEP_ROWS; kind <= LR_STEP_BATCH; kind++) {
        lr_session *one = tiny_session(model, 1, kind, 0, NULL);
        lr_session *two = tiny_session(model, 1, kind, 0, hooks);
        CHECK_OK(lr_session_forward_all(one, &segment, 1, plain));
        CHECK_OK(lr_session_forward_all(two, &segment, 1, observed));
        CHECK_SAME_BITS(plain, observed, 30 * 41);
        lr_session_free(one);
        lr_session_free(two);
    }
    lr_hooks_free(hooks);
    lr_model_free(model);
}
END_TEST

/* ---- changed values ---- */

static lr_status multiply_data(const lr_tensor *t, float by) {
    for (int64_t i = 0; i < lr_tensor_count(t); i++) ((float *)t->data)[i] *= by;
    return LR_OK;
}

static lr_status double_output(const lr_hook_event *e, void *user) {
    (void)user;
    return multiply_data(&e->output, 2);
}

static lr_status double_input(const lr_hook_event *e, void *user) {
    (void)user;
    return multiply_data(&e->input, 2);
}

/* The same model, the weights of some modules doubled. */
static lr_model *doubled(const lr_model *model, const char *pattern) {
    lr_model *clone;
    CHECK_OK(lr_model_clone(&clone, model));
    for (int32_t i = 0; i < lr_model_linear_count(model); i++) {
        lr_linear *linear, *twice;
        lr__param *param;
        CHECK_OK(lr_model_linear(model, i, &linear));
        int64_t outs = linear->out, ins = linear->in;
        if (lr_name_matches(pattern, linear->name)) {
            CHECK_OK(lr__param_new(&param, "twice", outs, ins, 2));
            CHECK_OK(lr_linear_densify(linear, lr__param_floats(param)));
            for (int64_t j = 0; j < outs * ins; j++) lr__param_floats(param)[j] *= 2;
            CHECK_OK(lr__linear_dense(&twice, model->ctx, "twice", param, NULL));
            CHECK_OK(lr_model_set_linear(clone, linear->name, twice));
            lr_linear_free(twice);
            lr__param_drop(param);
        }
        lr_linear_free(linear);
    }
    return clone;
}

/* Doubling is exact, so the bits agree. */
START_TEST(doubled_values_are_doubled_weights) {
    static const struct {
        const char *hooked, *doubled;
        int32_t event;
    } cases[] = {
        {"v_proj", "v_proj", LR_AFTER_FORWARD},
        {"model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj", LR_AFTER_FORWARD},
        {"gate_proj", "gate_proj", LR_AFTER_FORWARD},
        {"o_proj", "o_proj", LR_BEFORE_FORWARD},
        {"down_proj", "down_proj", LR_BEFORE_FORWARD},
        {"q_proj", "{q,k,v}_proj", LR_BEFORE_FORWARD},
        {"model.layers.0.self_attn.v_proj", "model.layers.0.self_attn.{q,k,v}_proj",
         LR_BEFORE_FORWARD},
        {"up_proj", "{gate,up}_proj", LR_BEFORE_FORWARD},
        {"lm_head", "lm_head", LR_AFTER_FORWARD},
        {"lm_head", "lm_head", LR_BEFORE_FORWARD},
    };
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 1);
    float plain[41], hooked[41], expected[41];
    run_plain(model, plain);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lr_model *other = doubled(model, cases[i].doubled);
        run_plain(other, expected);
        ck_assert_double_gt(tiny_distance(plain, expected, 41), 1e-3);
        run_with(model, cases[i].hooked, cases[i].event | LR_HOOK_CHANGES,
                 cases[i].event == LR_BEFORE_FORWARD ? double_input : double_output, NULL, hooked);
        ck_assert_msg(!memcmp(hooked, expected, sizeof hooked), "%s, event %d", cases[i].hooked,
                      cases[i].event);
        lr_model_free(other);
    }
    lr_model_free(model);
}
END_TEST

static lr_status other_embedding(const lr_hook_event *e, void *user) {
    (void)user;
    for (int64_t t = 0; t < e->input.shape[0]; t++)
        for (int64_t i = 0; i < 24; i++)
            ((float *)e->input.data)[t * 24 + i] =
                tiny_number("model.embed_tokens.weight", 40 - e->tokens[t], i);
    return LR_OK;
}

static lr_status zero_output(const lr_hook_event *e, void *user) {
    ck_assert_double_gt(tiny_distance(e->input.data, e->output.data, 24), 0);
    (*(int32_t *)user)++;
    return multiply_data(&e->output, 0);
}

START_TEST(changed_blocks) {
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 1);
    float hooked[41], expected[41] = {0};
    int32_t tokens[5], seen = 0;
    run_with(model, "model.layers.1", LR_AFTER_FORWARD | LR_HOOK_CHANGES, zero_output, &seen,
             hooked);
    ck_assert_int_eq(seen, 1);
    ck_assert_double_eq(tiny_distance(hooked, expected, 41), 0);
    run_with(model, "model.layers.0", LR_BEFORE_FORWARD | LR_HOOK_CHANGES, other_embedding, NULL,
             hooked);
    tiny_text(0, 5, 41, tokens);
    for (int i = 0; i < 5; i++) tokens[i] = 40 - tokens[i];
    const lr_segment segment = {0, 5, tokens};
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
    CHECK_OK(lr_session_forward(session, &segment, 1, expected));
    CHECK_SAME_BITS(hooked, expected, 41);
    lr_session_free(session);
    lr_model_free(model);
}
END_TEST

static lr_status write_infinity(const lr_hook_event *e, void *user) {
    ((float *)e->output.data)[3] = *(float *)user;
    return LR_OK;
}

START_TEST(logits_a_hook_spoils) {
    static float values[] = {-INFINITY, INFINITY, NAN};
    lr_model *model = tiny_open(&tiny_model, 1);
    float logits[41], expected[41];
    run_plain(model, expected);
    for (int i = 0; i < 3; i++) {
        lr_hooks *hooks = new_hooks();
        int32_t id;
        CHECK_OK(lr_hook_add(hooks, "lm_head", LR_AFTER_FORWARD | LR_HOOK_CHANGES, write_infinity,
                             &values[i], &id));
        lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, hooks);
        CHECK_FAILS(forward(session, 5, logits), LR_E_NUMERIC, "logit");
        ck_assert_int_eq(lr_session_length(session, 0), 0);
        CHECK_OK(lr_hook_remove(hooks, id));
        CHECK_OK(forward(session, 5, logits));
        CHECK_SAME_BITS(logits, expected, 41);
        lr_session_free(session);
        lr_hooks_free(hooks);
    }
    lr_model_free(model);
}
END_TEST

/* ---- what a hook may do ---- */

static lr_status refuse(const lr_hook_event *e, void *user) {
    (void)e;
    return *(lr_status *)user;
}

START_TEST(negative_status) {
    static const char *const places[] = {"model.layers.0", "q_proj",         "o_proj",
                                         "up_proj",        "model.layers.1", "lm_head"};
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 2);
    float expected[41], logits[6 * 41];
    int32_t tokens[6];
    double nll[5];
    tiny_text(0, 6, 41, tokens);
    const lr_segment rest = {0, 6, tokens};
    lr_session *fresh = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
    CHECK_OK(forward(fresh, 3, NULL));
    CHECK_OK(lr_session_forward(fresh, &rest, 1, expected));
    for (size_t i = 0; i < 2 * sizeof places / sizeof *places; i++) {
        lr_status status = LR_E_USER - 5;
        int32_t id;
        lr_hooks *hooks = new_hooks();
        lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, hooks);
        CHECK_OK(forward(session, 3, NULL));
        CHECK_OK(lr_hook_add(hooks, places[i / 2], i % 2 ? LR_BEFORE_FORWARD : LR_AFTER_FORWARD,
                             refuse, &status, &id));
        ck_assert_int_eq(lr_session_forward(session, &rest, 1, logits), status);
        ck_assert_int_eq(lr_session_forward_all(session, &rest, 1, logits), status);
        ck_assert_int_eq(lr_session_loss(session, &rest, 1, nll), status);
        ck_assert_int_eq(lr_session_length(session, 0), 3);
        CHECK_OK(lr_hook_remove(hooks, id));
        CHECK_OK(lr_session_forward(session, &rest, 1, logits));
        CHECK_SAME_BITS(logits, expected, 41);
        lr_session_free(session);
        lr_hooks_free(hooks);
    }
    lr_session_free(fresh);
    lr_model_free(model);
}
END_TEST

typedef struct meddler {
    lr_hooks *hooks;
    lr_session *session, *other;
    lr_model *model;
    lr_linear *linear;
    int32_t id, victim, calls, added;
} meddler;

static lr_status count_added(const lr_hook_event *e, void *user) {
    (void)e;
    ((meddler *)user)->added++;
    return LR_OK;
}

/* Adds a hundred hooks, removes itself and one that would come after it. */
static lr_status meddle(const lr_hook_event *e, void *user) {
    meddler *m = user;
    (void)e;
    m->calls++;
    for (int i = 0; i < 100; i++) CHECK_OK(lr_hook_add(m->hooks, "*", both, count_added, m, NULL));
    CHECK_OK(lr_hook_remove(m->hooks, m->id));
    CHECK_OK(lr_hook_remove(m->hooks, m->victim));
    return LR_OK;
}

START_TEST(adding_and_removing_inside) {
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 1);
    float plain[41], logits[41];
    log_book first = {.count = 0}, last = {.count = 0}, never = {.count = 0};
    meddler m = {.hooks = new_hooks()};
    run_plain(model, plain);
    CHECK_OK(lr_hook_add(m.hooks, "up_proj", LR_AFTER_FORWARD, record, &first, NULL));
    CHECK_OK(lr_hook_add(m.hooks, "*", both, meddle, &m, &m.id));
    CHECK_OK(lr_hook_add(m.hooks, "*", both, record, &never, &m.victim));
    CHECK_OK(lr_hook_add(m.hooks, "up_proj", LR_AFTER_FORWARD, record, &last, NULL));
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, m.hooks);
    CHECK_OK(forward(session, 5, logits));
    CHECK_SAME_BITS(logits, plain, 41);
    ck_assert_int_eq(m.calls, 1);
    ck_assert_int_eq(m.added, 0); /* from the next forward on */
    ck_assert_int_eq(never.count, 0);
    ck_assert(first.count == 2 && last.count == 2);
    CHECK_OK(lr_session_truncate(session, 0, 0));
    CHECK_OK(forward(session, 5, logits));
    CHECK_SAME_BITS(logits, plain, 41);
    ck_assert_int_eq(m.calls, 1);
    ck_assert_int_eq(m.added, 100 * 34);
    ck_assert(first.count == 4 && last.count == 4);
    ck_assert_int_eq(lr_hook_count(m.hooks), 102);
    lr_session_free(session);
    lr_hooks_free(m.hooks);
    lr_model_free(model);
}
END_TEST

static lr_status replace_module(const lr_hook_event *e, void *user) {
    meddler *m = user;
    (void)e;
    m->calls++;
    return lr_model_set_linear(m->model, "model.layers.1.mlp.up_proj", m->linear);
}

START_TEST(replacing_inside) {
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 1), *other = doubled(model, "model.layers.1.mlp.up_proj");
    float before[41], after[41], logits[41];
    meddler m = {.hooks = new_hooks(), .model = model};
    run_plain(model, before);
    run_plain(other, after);
    CHECK_OK(lr_model_find_linear(other, "model.layers.1.mlp.up_proj", &m.linear));
    CHECK_OK(lr_hook_add(m.hooks, "model.layers.0.mlp.up_proj", both, replace_module, &m, NULL));
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 1, m.hooks);
    CHECK_OK(forward(session, 5, logits));
    CHECK_SAME_BITS(logits, before, 41);
    CHECK_OK(forward(session, 5, logits));
    CHECK_SAME_BITS(logits, after, 41);
    ck_assert_int_eq(m.calls, 4);
    lr_session_free(session);
    lr_linear_free(m.linear);
    lr_model_free(model);
    lr_model_free(other);
    lr_hooks_free(m.hooks);
}
END_TEST

static lr_status reenter(const lr_hook_event *e, void *user) {
    meddler *m = user;
    (void)e;
    m->calls++;
    CHECK_FAILS(forward(m->session, 1, NULL), LR_E_INVALID, "under way");
    CHECK_FAILS(lr_session_truncate(m->session, 0, 0), LR_E_INVALID, "under way");
    CHECK_OK(forward(m->other, 1, NULL));
    return LR_OK;
}

/* The session itself is busy; another one of the same model is not. */
START_TEST(forwards_inside) {
    tiny t = two_layers();
    lr_model *model = tiny_open(&t, 2);
    float plain[41], logits[41];
    meddler m = {.hooks = new_hooks()};
    run_plain(model, plain);
    m.session = tiny_session(model, 1, LR_STEP_ROWS, 0, m.hooks);
    m.other = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
    CHECK_OK(lr_hook_add(m.hooks, "k_proj", LR_AFTER_FORWARD, reenter, &m, NULL));
    CHECK_OK(forward(m.session, 5, logits));
    CHECK_SAME_BITS(logits, plain, 41);
    ck_assert_int_eq(lr_session_length(m.session, 0), 5);
    ck_assert_int_eq(lr_session_length(m.other, 0), m.calls);
    lr_session_free(m.session);
    lr_session_free(m.other);
    lr_hooks_free(m.hooks);
    lr_model_free(model);
}
END_TEST

Suite *hooks_suite(void) {
    Suite *suite = suite_create("hooks");
    TCase *events = tcase_create("events"), *changes = tcase_create("changes");
    TCase *meddling = tcase_create("meddling");
    tcase_add_test(events, whole_sequence);
    tcase_add_test(events, matched_modules);
    tcase_add_test(events, order_of_registration);
    tcase_add_test(events, refused_hooks);
    tcase_add_test(events, input_ids);
    tcase_add_test(events, tokens_of_each_row);
    tcase_add_test(events, head_with_loss_and_logits);
    tcase_add_test(events, observers_change_no_bits);
    tcase_add_test(changes, doubled_values_are_doubled_weights);
    tcase_add_test(changes, changed_blocks);
    tcase_add_test(changes, logits_a_hook_spoils);
    tcase_add_test(meddling, negative_status);
    tcase_add_test(meddling, adding_and_removing_inside);
    tcase_add_test(meddling, replacing_inside);
    tcase_add_test(meddling, forwards_inside);
    suite_add_tcase(suite, events);
    suite_add_tcase(suite, changes);
    suite_add_tcase(suite, meddling);
    return suite;
}
