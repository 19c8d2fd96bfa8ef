/* Sessions: the bits of a row are its own, extents are slices, errors leave everything as it was,
 * and models, sessions and pools stand several threads. */
#include "golden_model.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

enum { ROWS = 9, MOST = 24 };

/* ---- row invariance ---- */

typedef struct texts {
    const lr_model *model;
    int32_t vocabulary, lengths[ROWS], tokens[ROWS][MOST];
    float *logits[ROWS]; /* of each text alone, in one step */
} texts;

static texts texts_new(const lr_model *model) {
    texts t = {.model = model, .vocabulary = tiny_vocabulary(model)};
    for (int32_t r = 0; r < ROWS; r++) {
        t.lengths[r] = r ? 1 + (int32_t)(tiny_mix((uint64_t)r) % MOST) : MOST;
        tiny_text(r, t.lengths[r], t.vocabulary, t.tokens[r]);
        t.logits[r] = tiny_logits(model, LR_STEP_ROWS, r, t.lengths[r]);
    }
    return t;
}

static void texts_free(texts *t) {
    for (int32_t r = 0; r < ROWS; r++) free(t->logits[r]);
}

/* Some rows that have tokens left, in any order, a few tokens of each. */
static int32_t random_step(const texts *t, const lr_session *session, uint64_t *random,
                           lr_segment *segments) {
    int32_t count = 0, start = (int32_t)((*random = tiny_mix(*random)) % ROWS);
    for (int32_t i = 0; i < ROWS; i++) {
        int32_t row = (start + i * 4) % ROWS, done = lr_session_length(session, row);
        int32_t left = t->lengths[row] - done;
        *random = tiny_mix(*random);
        if (!left || *random % 3 == 0) continue;
        int32_t some = 1 + (int32_t)(*random / 8 % (*random % 2 ? 2 : (uint64_t)left));
        segments[count++] = (lr_segment){row, some < left ? some : left, t->tokens[row] + done};
    }
    return count;
}

static void check_step(const texts *t, const lr_segment *segments, int32_t count,
                       const float *logits) {
    const int64_t v = t->vocabulary;
    for (int32_t s = 0; s < count; s++) {
        int64_t row = segments[s].row, first = segments[s].tokens - t->tokens[row];
        CHECK_SAME_BITS(logits, t->logits[row] + first * v, segments[s].count * v);
        logits += segments[s].count * v;
    }
}

static void check_row_invariance(const texts *t, uint64_t random) {
    lr_segment segments[ROWS];
    lr_session *session = tiny_session(t->model, ROWS, LR_STEP_ROWS, 0, NULL);
    float *logits = malloc(ROWS * MOST * (size_t)t->vocabulary * sizeof *logits);
    int32_t left = 0;
    for (int32_t r = 0; r < ROWS; r++) left += t->lengths[r];
    while (left > 0) {
        int32_t count = random_step(t, session, &random, segments);
        if (!count) continue;
        CHECK_OK(lr_session_forward_all(session, segments, count, logits));
        check_step(t, segments, count, logits);
        for (int32_t s = 0; s < count; s++) left -= segments[s].count;
    }
    free(logits);
    lr_session_free(session);
}

static const char *const invariant_models[] = {
    "gguf-mixed", "llama-bias-sharded", "llama-f16", "qwen2-window", "qwen3", "rope-yarn"};
enum { INVARIANT_MODELS = sizeof invariant_models / sizeof *invariant_models };

START_TEST(rows_are_their_own) {
    lr_model *alone = tiny_open_path(golden_model_path(invariant_models[_i]), 1);
    lr_model *team = tiny_open_path(golden_model_path(invariant_models[_i]), 3);
    texts t = texts_new(alone);
    for (uint64_t round = 0; round < 4; round++) {
        t.model = round % 2 ? team : alone;
        check_row_invariance(&t, round + 1);
    }
    texts_free(&t);
    lr_model_free(alone);
    lr_model_free(team);
}
END_TEST

START_TEST(losses_of_rows_are_their_own) {
    lr_model *model = tiny_open(&tiny_model, 2);
    texts t = texts_new(model);
    double together[ROWS * MOST], one[MOST];
    lr_segment segments[ROWS];
    int64_t at = 0;
    for (int32_t r = 0; r < ROWS; r++)
        segments[r] = (lr_segment){ROWS - 1 - r, t.lengths[ROWS - 1 - r], t.tokens[ROWS - 1 - r]};
    lr_session *session = tiny_session(model, ROWS, LR_STEP_ROWS, 1, NULL);
    CHECK_OK(lr_session_loss(session, segments, ROWS, together));
    for (int32_t r = 0; r < ROWS; r++) {
        CHECK_OK(lr_session_loss(session, &segments[r], 1, one));
        size_t scored = (size_t)segments[r].count - 1;
        ck_assert_mem_eq(one, together + at, scored * sizeof *one);
        at += (int64_t)scored;
    }
    lr_session_free(session);
    texts_free(&t);
    lr_model_free(model);
}
END_TEST

START_TEST(truncated_rows_go_on) {
    lr_model *model = tiny_open(&tiny_model, 1);
    texts t = texts_new(model);
    const int64_t v = t.vocabulary;
    float logits[MOST * 41];
    lr_session *session = tiny_session(model, 2, LR_STEP_ROWS, 0, NULL);
    const lr_segment whole = {1, MOST, t.tokens[0]}, other = {1, t.lengths[1], t.tokens[1]};
    CHECK_OK(lr_session_forward(session, &whole, 1, NULL));
    for (int32_t length = MOST; length >= 0; length -= 5) {
        CHECK_OK(lr_session_truncate(session, 1, length));
        ck_assert_int_eq(lr_session_length(session, 1), length);
        if (length == MOST) continue;
        const lr_segment rest = {1, MOST - length, t.tokens[0] + length};
        CHECK_OK(lr_session_forward_all(session, &rest, 1, logits));
        CHECK_SAME_BITS(logits, t.logits[0] + length * v, rest.count * v);
    }
    CHECK_OK(lr_session_truncate(session, 1, 0));
    CHECK_OK(lr_session_forward_all(session, &other, 1, logits));
    CHECK_SAME_BITS(logits, t.logits[1], other.count * v);
    CHECK_FAILS(lr_session_truncate(session, 1, other.count + 1), LR_E_INVALID, "row 1");
    CHECK_FAILS(lr_session_truncate(session, 1, -1), LR_E_INVALID, "-1");
    CHECK_FAILS(lr_session_truncate(session, 2, 0), LR_E_INVALID, "row 2");
    CHECK_FAILS(lr_session_truncate(NULL, 0, 0), LR_E_INVALID, "row 0");
    ck_assert_int_eq(lr_session_length(session, 1), other.count);
    ck_assert_int_eq(lr_session_length(session, 7), 0);
    ck_assert_int_eq(lr_session_length(NULL, 0), 0);
    lr_session_free(session);
    texts_free(&t);
    lr_model_free(model);
}
END_TEST

START_TEST(without_a_cache) {
    lr_model *model = tiny_open(&tiny_model, 1);
    texts t = texts_new(model);
    const int64_t v = t.vocabulary;
    float logits[2 * 41];
    lr_session *session = tiny_session(model, 2, LR_STEP_ROWS, 1, NULL);
    const lr_segment both[2] = {{1, t.lengths[2], t.tokens[2]}, {0, t.lengths[3], t.tokens[3]}};
    for (int i = 0; i < 3; i++) {
        CHECK_OK(lr_session_forward(session, both, 2, logits));
        CHECK_SAME_BITS(logits, t.logits[2] + (t.lengths[2] - 1) * v, v);
        CHECK_SAME_BITS(logits + v, t.logits[3] + (t.lengths[3] - 1) * v, v);
        ck_assert_int_eq(lr_session_length(session, 1), 0);
    }
    ck_assert_ptr_null(session->rows[0].keys);
    lr_session_free(session);
    texts_free(&t);
    lr_model_free(model);
}
END_TEST

/* ---- errors ---- */

static const int32_t some_tokens[60] = {1, 2, 3, 4, 5};

static void check_refused_steps(lr_session *session, float *logits) {
    static const int32_t bad[3] = {0, 41, 1}, low[2] = {-1, 0};
    static const struct {
        lr_segment segments[2];
        int32_t count;
        const char *text;
    } cases[] = {
        {{{0, 1, some_tokens}}, 0, "0 segments"},
        {{{0, 1, some_tokens}}, -1, "-1 segments"},
        {{{2, 1, some_tokens}}, 1, "row 2"},
        {{{-1, 1, some_tokens}}, 1, "row -1"},
        {{{0, 0, some_tokens}}, 1, "0 tokens"},
        {{{0, -4, some_tokens}}, 1, "-4 tokens"},
        {{{0, 1, NULL}}, 1, "row 0"},
        {{{0, 3, bad}}, 1, "token 41 at 1"},
        {{{1, 2, low}}, 1, "token -1 at 0"},
        {{{0, 48, some_tokens}}, 1, "positions"},
        {{{1, 2147483647, some_tokens}}, 1, "positions"},
        {{{0, 1, some_tokens}, {0, 1, some_tokens}}, 2, "two segments"},
        {{{1, 2, some_tokens}, {0, 3, bad}}, 2, "token 41"},
    };
    double nll[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const lr_segment *s = cases[i].segments;
        CHECK_FAILS(lr_session_forward(session, s, cases[i].count, logits), LR_E_INVALID,
                    cases[i].text);
        CHECK_FAILS(lr_session_forward_all(session, s, cases[i].count, logits), LR_E_INVALID,
                    cases[i].text);
        CHECK_FAILS(lr_session_loss(session, s, cases[i].count, nll), LR_E_INVALID, cases[i].text);
    }
    const lr_segment fine = {0, 1, some_tokens};
    CHECK_FAILS(lr_session_forward(session, NULL, 1, logits), LR_E_INVALID, "segments");
    CHECK_FAILS(lr_session_forward_all(session, &fine, 1, NULL), LR_E_INVALID, "logits");
    CHECK_FAILS(lr_session_loss(session, &fine, 1, NULL), LR_E_INVALID, "nll");
    CHECK_FAILS(lr_session_forward(NULL, &fine, 1, logits), LR_E_INVALID, "session");
}

START_TEST(refused_steps_change_nothing) {
    lr_model *model = tiny_open(&tiny_model, 2);
    texts t = texts_new(model);
    const int64_t v = t.vocabulary;
    float logits[MOST * 41];
    lr_session *session = tiny_session(model, 2, LR_STEP_ROWS, 0, NULL);
    const lr_segment begin = {0, 7, t.tokens[0]}, rest = {0, MOST - 7, t.tokens[0] + 7};
    CHECK_OK(lr_session_forward(session, &begin, 1, NULL));
    check_refused_steps(session, logits);
    ck_assert_int_eq(lr_session_length(session, 0), 7);
    ck_assert_int_eq(lr_session_length(session, 1), 0);
    CHECK_OK(lr_session_forward_all(session, &rest, 1, logits));
    CHECK_SAME_BITS(logits, t.logits[0] + 7 * v, rest.count * v);
    lr_session_free(session);
    texts_free(&t);
    lr_model_free(model);
}
END_TEST

START_TEST(positions_are_filled_to_the_last) {
    lr_model *model = tiny_open(&tiny_model, 1);
    lr_session *session;
    lr_session_opts opts;
    float logits[41];
    lr_session_opts_init(&opts, sizeof opts);
    opts.positions = 5;
    CHECK_OK(lr_session_new(&session, model, &opts));
    const lr_segment three = {0, 3, some_tokens}, two = {0, 2, some_tokens};
    CHECK_OK(lr_session_forward(session, &three, 1, logits));
    CHECK_FAILS(lr_session_forward(session, &three, 1, logits), LR_E_INVALID, "its 5 positions");
    CHECK_OK(lr_session_forward(session, &two, 1, logits));
    CHECK_FAILS(lr_session_forward(session, &two, 1, logits), LR_E_INVALID, "its 5 positions");
    ck_assert_int_eq(lr_session_length(session, 0), 5);
    lr_session_free(session);
    lr_model_free(model);
}
END_TEST

START_TEST(refused_options) {
    lr_model *model = tiny_open(&tiny_model, 1);
    lr_session *session = NULL;
    lr_session_opts opts;
    static const struct {
        int32_t rows, positions, kind;
        const char *text;
    } wrong[] = {{0, 0, 0, "0 rows"},
                 {-1, 0, 0, "-1 rows"},
                 {1 << 30, 0, 0, "rows"},
                 {1, -1, 0, "-1 positions"},
                 {1, 0, 2, "kind 2"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        lr_session_opts_init(&opts, sizeof opts);
        opts.rows = wrong[i].rows;
        opts.positions = wrong[i].positions;
        opts.kind = wrong[i].kind;
        CHECK_FAILS(lr_session_new(&session, model, &opts), LR_E_INVALID, wrong[i].text);
        ck_assert_ptr_null(session);
    }
    opts.size = 3;
    CHECK_FAILS(lr_session_new(&session, model, &opts), LR_E_INVALID, "lr_session_opts");
    CHECK_FAILS(lr_session_new(&session, NULL, NULL), LR_E_INVALID, "model");
    CHECK_FAILS(lr_session_new(NULL, model, NULL), LR_E_INVALID, "out");
    lr_model_free(model);
}
END_TEST

static void *modest_alloc(size_t bytes, void *user) {
    (void)user;
    return bytes < (size_t)1 << 30 ? malloc(bytes) : NULL;
}

static void *modest_realloc(void *block, size_t bytes, void *user) {
    (void)user;
    return bytes < (size_t)1 << 30 ? realloc(block, bytes) : NULL;
}

static void modest_free(void *block, void *user) {
    (void)user;
    free(block);
}

/* A cache that no memory holds is an error of the step, and of nothing else. */
START_TEST(cache_beyond_memory) {
    const lr_alloc_ops modest = {sizeof modest, modest_alloc, modest_realloc, modest_free, NULL};
    const lr_segment segment = {0, 3, some_tokens};
    CHECK_OK(lr_set_alloc(&modest));
    lr_model *model = tiny_open(&tiny_model, 1);
    lr_session *session;
    lr_session_opts opts;
    float logits[41];
    lr_session_opts_init(&opts, sizeof opts);
    opts.positions = INT32_MAX;
    CHECK_OK(lr_session_new(&session, model, &opts));
    CHECK_FAILS(lr_session_forward(session, &segment, 1, logits), LR_E_NOMEM, "out of memory");
    ck_assert_int_eq(lr_session_length(session, 0), 0);
    lr_session_free(session);
    opts.no_cache = 1;
    CHECK_OK(lr_session_new(&session, model, &opts));
    CHECK_OK(lr_session_forward(session, &segment, 1, logits));
    lr_session_free(session);
    lr_model_free(model);
}
END_TEST

START_TEST(spoiled_weights) {
    static const char *const names[] = {
        "lm_head.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight",
        "model.layers.0.self_attn.k_proj.weight", "model.layers.2.input_layernorm.weight"};
    static const int32_t tokens[4] = {3, 1, 4, 1};
    const lr_segment segment = {0, 4, tokens};
    for (int32_t i = 0; i < 10; i++) {
        tiny t = tiny_model;
        t.poisoned = names[i / 2];
        lr_model *model = tiny_open(&t, 1);
        lr_session *session = tiny_session(model, 1, i % 2, 0, NULL);
        float logits[4 * 41];
        double nll[3];
        CHECK_FAILS(lr_session_forward(session, &segment, 1, logits), LR_E_NUMERIC, "logit");
        CHECK_FAILS(lr_session_forward_all(session, &segment, 1, logits), LR_E_NUMERIC, "logit");
        CHECK_FAILS(lr_session_loss(session, &segment, 1, nll), LR_E_NUMERIC, "row 0 at token 1");
        ck_assert_int_eq(lr_session_length(session, 0), 0);
        lr_session_free(session);
        lr_model_free(model);
    }
}
END_TEST

/* One token's embedding is NaN: steps with it fail, the row goes on without it. */
START_TEST(spoiled_token) {
    tiny t = tiny_model;
    t.poisoned = "model.embed_tokens.weight"; /* of token 0 */
    lr_model *model = tiny_open(&t, 1);
    static const int32_t good[6] = {5, 6, 7, 8, 9, 10}, bad[3] = {8, 0, 9};
    float expected[6 * 41], logits[3 * 41];
    double nll[2];
    const lr_segment all = {0, 6, good}, begin = {0, 3, good}, rest = {0, 3, good + 3};
    const lr_segment spoiled = {0, 3, bad};
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
    CHECK_OK(lr_session_forward_all(session, &all, 1, expected));
    CHECK_OK(lr_session_truncate(session, 0, 0));
    CHECK_OK(lr_session_forward(session, &begin, 1, NULL));
    CHECK_FAILS(lr_session_forward(session, &spoiled, 1, logits), LR_E_NUMERIC, "logit");
    CHECK_FAILS(lr_session_loss(session, &spoiled, 1, nll), LR_E_NUMERIC, "row 0 at token 2");
    CHECK_OK(lr_session_forward_all(session, &rest, 1, logits));
    CHECK_SAME_BITS(logits, expected + 3 * 41, 3 * 41);
    lr_session_free(session);
    lr_model_free(model);
}
END_TEST

/* ---- extents ---- */

static void check_all_logits(lr_session *session, const float *expected, double tolerance) {
    int32_t tokens[20];
    float logits[20 * 41];
    tiny_text(1, 20, 41, tokens);
    const lr_segment segment = {0, 20, tokens};
    CHECK_OK(lr_session_truncate(session, 0, 0));
    CHECK_OK(lr_session_forward_all(session, &segment, 1, logits));
    ck_assert_double_le(tiny_distance(logits, expected, 20 * 41), tolerance);
}

static lr_status sees_zeros_beyond(const lr_hook_event *e, void *user) {
    const lr_tensor *t = strstr(e->module, "down_proj") ? &e->input : &e->output;
    int64_t extent = *(int64_t *)user;
    for (int64_t r = 0; r < t->shape[0]; r++)
        for (int64_t i = extent; i < t->shape[1]; i++)
            ck_assert(((const float *)t->data)[r * t->shape[1] + i] == 0);
    return LR_OK;
}

START_TEST(narrow_layers_are_slices) {
    lr_model *model = tiny_open(&tiny_model, 2);
    float *full = tiny_logits(model, LR_STEP_ROWS, 1, 20);
    int64_t extent;
    lr_hooks *hooks;
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_hook_add(hooks, "*.mlp.*", LR_AFTER_FORWARD, sees_zeros_beyond, &extent, NULL));
    lr_session *rows = tiny_session(model, 1, LR_STEP_ROWS, 0, hooks);
    lr_session *batch = tiny_session(model, 1, LR_STEP_BATCH, 0, hooks);
    for (extent = 1; extent <= 20; extent += extent < 4 ? 1 : 5) {
        tiny t = tiny_model;
        t.wide = (int)extent;
        lr_model *sliced = tiny_open(&t, 1);
        float *expected = tiny_logits(sliced, LR_STEP_ROWS, 1, 20);
        CHECK_OK(lr_session_set_extent(rows, "*.intermediate", extent));
        CHECK_OK(lr_session_set_extent(batch, "model.layers.{0,1,2}.intermediate", extent));
        check_all_logits(rows, expected, 0);
        check_all_logits(batch, expected, 2e-5);
        free(expected);
        lr_model_free(sliced);
    }
    extent = 20;
    CHECK_OK(lr_session_set_extent(rows, "*", 0));
    check_all_logits(rows, full, 0);
    lr_session_free(rows);
    lr_session_free(batch);
    lr_hooks_free(hooks);
    free(full);
    lr_model_free(model);
}
END_TEST

static void set_dense(lr_model *model, const char *name, int64_t zero_from) {
    lr_linear *linear, *cut;
    lr__param *param;
    CHECK_OK(lr_model_find_linear(model, name, &linear));
    CHECK_OK(lr__param_new(&param, "cut", linear->out, linear->in, 2));
    CHECK_OK(lr_linear_densify(linear, lr__param_floats(param)));
    for (int64_t r = 0; r < linear->out; r++)
        for (int64_t c = zero_from; c < linear->in; c++)
            lr__param_floats(param)[r * linear->in + c] = 0;
    CHECK_OK(lr__linear_dense(&cut, model->ctx, "cut", param, NULL));
    CHECK_OK(lr_model_set_linear(model, name, cut));
    lr_linear_free(cut);
    lr_linear_free(linear);
    lr__param_drop(param);
}

START_TEST(one_narrow_layer) {
    lr_model *model = tiny_open(&tiny_model, 1), *zeroed;
    CHECK_OK(lr_model_clone(&zeroed, model));
    set_dense(zeroed, "model.layers.1.mlp.down_proj", 7); /* neurons 7 .. say nothing */
    float *expected = tiny_logits(zeroed, LR_STEP_ROWS, 1, 20);
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
    CHECK_OK(lr_session_set_extent(session, "model.layers.1.intermediate", 7));
    check_all_logits(session, expected, 1e-5);
    set_dense(model, "model.layers.1.mlp.down_proj", 20); /* the rule outlives the module */
    check_all_logits(session, expected, 1e-5);
    free(expected);
    lr_session_free(session);
    lr_model_free(model);
    lr_model_free(zeroed);
}
END_TEST

/* Factors whose first `rank` components are those of any larger rank. */
static lr_linear *factors(lr_ctx *ctx, int64_t outs, int64_t ins, int64_t rank) {
    lr_linear *linear;
    lr_tensor l, r;
    float *left = malloc((size_t)(outs * rank) * sizeof *left);
    float *right = malloc((size_t)(rank * ins) * sizeof *right);
    const int64_t left_shape[2] = {outs, rank}, right_shape[2] = {rank, ins};
    for (int64_t i = 0; i < outs; i++)
        for (int64_t k = 0; k < rank; k++) left[i * rank + k] = tiny_number("left", i, k);
    for (int64_t k = 0; k < rank; k++)
        for (int64_t j = 0; j < ins; j++) right[k * ins + j] = tiny_number("right", k, j);
    CHECK_OK(lr_tensor_view(&l, left, LR_F32, 2, left_shape));
    CHECK_OK(lr_tensor_view(&r, right, LR_F32, 2, right_shape));
    CHECK_OK(lr_linear_from_factors(&linear, ctx, &l, &r, NULL, NULL));
    free(left);
    free(right);
    return linear;
}

static void set_factors(lr_model *model, const char *name, int64_t rank) {
    lr_linear *before, *linear;
    CHECK_OK(lr_model_find_linear(model, name, &before));
    linear = factors(model->ctx, before->out, before->in, rank);
    CHECK_OK(lr_model_set_linear(model, name, linear));
    lr_linear_free(linear);
    lr_linear_free(before);
}

START_TEST(lower_ranks_are_truncated_factors) {
    static const char *const names[] = {"model.layers.0.self_attn.k_proj",
                                        "model.layers.1.mlp.up_proj",
                                        "model.layers.1.mlp.down_proj", "lm_head"};
    lr_model *model = tiny_open(&tiny_model, 2), *cut;
    double nll[19], expected_nll[19];
    int32_t tokens[20];
    tiny_text(1, 20, 41, tokens);
    const lr_segment segment = {0, 20, tokens};
    for (int i = 0; i < 4; i++) set_factors(model, names[i], 9);
    for (int64_t rank = 1; rank <= 9; rank += 4) {
        CHECK_OK(lr_model_clone(&cut, model));
        for (int i = 0; i < 4; i++) set_factors(cut, names[i], rank);
        float *expected = tiny_logits(cut, LR_STEP_ROWS, 1, 20);
        lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
        lr_session *other = tiny_session(cut, 1, LR_STEP_ROWS, 0, NULL);
        CHECK_OK(lr_session_set_extent(session, "*.rank", rank));
        check_all_logits(session, expected, 0);
        CHECK_OK(lr_session_truncate(session, 0, 0));
        CHECK_OK(lr_session_loss(session, &segment, 1, nll));
        CHECK_OK(lr_session_loss(other, &segment, 1, expected_nll));
        ck_assert_mem_eq(nll, expected_nll, sizeof nll);
        CHECK_OK(lr_session_set_extent(session, "*.intermediate", 6)); /* both at once */
        CHECK_OK(lr_session_set_extent(other, "*.intermediate", 6));
        CHECK_OK(lr_session_loss(session, &segment, 1, nll));
        CHECK_OK(lr_session_loss(other, &segment, 1, expected_nll));
        ck_assert_mem_eq(nll, expected_nll, sizeof nll);
        lr_session_free(other);
        lr_session_free(session);
        free(expected);
        lr_model_free(cut);
    }
    lr_model_free(model);
}
END_TEST

START_TEST(extent_rules) {
    lr_model *model = tiny_open(&tiny_model, 1);
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
    float *full = tiny_logits(model, LR_STEP_ROWS, 1, 20);
    CHECK_FAILS(lr_session_set_extent(session, "*.rank", 3), LR_E_NOTFOUND, "*.rank");
    CHECK_FAILS(lr_session_set_extent(session, "*.intermediate", 21), LR_E_INVALID, "21");
    CHECK_FAILS(lr_session_set_extent(session, "*.intermediate", -1), LR_E_INVALID, "-1");
    CHECK_FAILS(lr_session_set_extent(session, "{", 1), LR_E_INVALID, "pattern");
    CHECK_FAILS(lr_session_set_extent(session, NULL, 1), LR_E_INVALID, "pattern");
    CHECK_FAILS(lr_session_set_extent(NULL, "*", 1), LR_E_INVALID, "session");
    check_all_logits(session, full, 0);
    for (int32_t i = 0; i < 1000; i++)
        CHECK_OK(lr_session_set_extent(session, i % 2 ? "*.intermediate" : "*.0.*", 1 + i % 20));
    ck_assert_uint_le(session->rule_count, 2);
    CHECK_OK(lr_session_set_extent(session, "*.0.intermediate", 20));
    CHECK_OK(lr_session_set_extent(session, "*.intermediate", 0)); /* the last word wins */
    check_all_logits(session, full, 0);
    free(full);
    lr_session_free(session);
    lr_model_free(model);
}
END_TEST

/* ---- threads ---- */

typedef struct runner {
    const texts *t;
    uint64_t random;
    pthread_t thread;
} runner;

static void *run_texts(void *user) {
    runner *r = user;
    for (int i = 0; i < 3; i++) check_row_invariance(r->t, r->random + (uint64_t)i);
    return NULL;
}

START_TEST(sessions_in_threads) {
    lr_model *model = tiny_open(&tiny_model, 3);
    texts t = texts_new(model);
    runner runners[4];
    for (uint64_t i = 0; i < 4; i++) {
        runners[i] = (runner){.t = &t, .random = 10 * i + 1};
        ck_assert_int_eq(pthread_create(&runners[i].thread, NULL, run_texts, &runners[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(runners[i].thread, NULL);
    texts_free(&t);
    lr_model_free(model);
}
END_TEST

typedef struct swapper {
    lr_model *model;
    lr_linear *linears[2];
    _Atomic int32_t swaps, stops;
} swapper;

static void *swap_modules(void *user) {
    swapper *s = user;
    while (!s->stops)
        CHECK_OK(lr_model_set_linear(s->model, "model.layers.1.mlp.up_proj",
                                     s->linears[s->swaps++ % 2]));
    return NULL;
}

/* Every forward sees one version of the graph: one of two results, never a mixture. */
START_TEST(modules_swapped_under_load) {
    lr_model *model = tiny_open(&tiny_model, 2), *other;
    swapper s = {.model = model};
    pthread_t thread;
    int32_t tokens[8], seen[2] = {0}, forwards = 0;
    float logits[8 * 41];
    tiny_text(1, 8, 41, tokens);
    const lr_segment segment = {0, 8, tokens};
    CHECK_OK(lr_model_clone(&other, model));
    CHECK_OK(lr_model_find_linear(model, "model.layers.1.mlp.up_proj", &s.linears[0]));
    s.linears[1] = factors(model->ctx, 20, 24, 3);
    CHECK_OK(lr_model_set_linear(other, "model.layers.1.mlp.up_proj", s.linears[1]));
    float *expected[2] = {tiny_logits(model, LR_STEP_ROWS, 1, 8),
                          tiny_logits(other, LR_STEP_ROWS, 1, 8)};
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 1, NULL);
    ck_assert_int_eq(pthread_create(&thread, NULL, swap_modules, &s), 0);
    while (forwards < 200 || (s.swaps < 100 && forwards < 100000)) {
        CHECK_OK(lr_session_forward_all(session, &segment, 1, logits));
        int which = memcmp(logits, expected[1], sizeof logits) == 0;
        CHECK_SAME_BITS(logits, expected[which], 8 * 41);
        seen[which]++;
        forwards++;
    }
    s.stops = 1;
    pthread_join(thread, NULL);
    ck_assert_int_gt(s.swaps, 1);
    for (int i = 0; i < 2; i++) {
        free(expected[i]);
        lr_linear_free(s.linears[i]);
    }
    lr_session_free(session);
    lr_model_free(model);
    lr_model_free(other);
}
END_TEST

/* Objects may be freed in any order. */
START_TEST(any_order_of_free) {
    lr_ctx *ctx = tiny_ctx(2);
    lr_model *model;
    float logits[41];
    scratch_make();
    CHECK_OK(lr_model_open(&model, ctx, tiny_write(&tiny_model, "model"), NULL));
    scratch_remove();
    lr_ctx_free(ctx);
    lr_session *one = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
    lr_session *two = tiny_session(model, 1, LR_STEP_BATCH, 0, NULL);
    lr_model_free(model);
    const lr_segment segment = {0, 3, some_tokens};
    CHECK_OK(lr_session_forward(one, &segment, 1, logits));
    lr_session_free(one);
    CHECK_OK(lr_session_forward(two, &segment, 1, logits));
    lr_session_free(two);
    lr_session_free(NULL);
    lr_model_free(NULL);
}
END_TEST

/* ---- fork ---- */

typedef struct forker {
    lr_model *model;
    const float *expected;
    pid_t child;
} forker;

/* In the middle of a forward, workers held: the child computes the same alone. */
static lr_status fork_inside(const lr_hook_event *e, void *user) {
    forker *f = user;
    (void)e;
    if (f->child) return LR_OK;
    f->child = fork();
    if (f->child) return LR_OK;
    float *logits = tiny_logits(f->model, LR_STEP_ROWS, 1, 12);
    _exit(memcmp(logits, f->expected, 12 * 41 * sizeof *logits) ? 9 : 0);
}

START_TEST(fork_in_the_middle) {
    lr_model *model = tiny_open(&tiny_model, 3);
    float *expected = tiny_logits(model, LR_STEP_ROWS, 1, 12), logits[41];
    forker f = {.model = model, .expected = expected};
    int32_t tokens[12], state = -1;
    lr_hooks *hooks;
    tiny_text(1, 12, 41, tokens);
    const lr_segment segment = {0, 12, tokens};
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_hook_add(hooks, "o_proj", LR_AFTER_FORWARD, fork_inside, &f, NULL));
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, hooks);
    CHECK_OK(lr_session_forward(session, &segment, 1, logits));
    CHECK_SAME_BITS(logits, expected + 11 * 41, 41);
    ck_assert_int_eq(waitpid(f.child, &state, 0), f.child);
    ck_assert(WIFEXITED(state) && WEXITSTATUS(state) == 0);
    lr_session_free(session);
    lr_hooks_free(hooks);
    free(expected);
    lr_model_free(model);
}
END_TEST

Suite *session_suite(void) {
    Suite *suite = suite_create("session");
    TCase *rows = tcase_create("rows"), *errors = tcase_create("errors");
    TCase *extents = tcase_create("extents"), *threads = tcase_create("threads");
    tcase_set_timeout(rows, 60);
    tcase_set_timeout(threads, 120);
    tcase_add_loop_test(rows, rows_are_their_own, 0, INVARIANT_MODELS);
    tcase_add_test(rows, losses_of_rows_are_their_own);
    tcase_add_test(rows, truncated_rows_go_on);
    tcase_add_test(rows, without_a_cache);
    tcase_add_test(errors, refused_steps_change_nothing);
    tcase_add_test(errors, positions_are_filled_to_the_last);
    tcase_add_test(errors, refused_options);
    tcase_add_test(errors, cache_beyond_memory);
    tcase_add_test(errors, spoiled_weights);
    tcase_add_test(errors, spoiled_token);
    tcase_add_test(extents, narrow_layers_are_slices);
    tcase_add_test(extents, one_narrow_layer);
    tcase_add_test(extents, lower_ranks_are_truncated_factors);
    tcase_add_test(extents, extent_rules);
    tcase_add_test(threads, sessions_in_threads);
    tcase_add_test(threads, modules_swapped_under_load);
    tcase_add_test(threads, any_order_of_free);
    tcase_add_test(threads, fork_in_the_middle);
    suite_add_tcase(suite, rows);
    suite_add_tcase(suite, errors);
    suite_add_tcase(suite, extents);
    suite_add_tcase(suite, threads);
    return suite;
}
