/* Learning of blocks alone: from the derivative behind the last block of the whole model's loss,
 * PyTorch's gradients must come out again, however the blocks are cut. */
#include "lesson_fixture.h"

#include <lowrank/learn.h>

enum { MOST_NUMBERS = 1 << 16 };

typedef struct slope {
    float values[MOST_NUMBERS];
    size_t count;
} slope;

static lr_status take(const lr_hook_event *event, void *user) {
    slope *s = user;
    s->count = (size_t)(event->output.shape[0] * event->output.shape[1]);
    ck_assert_uint_le(s->count, MOST_NUMBERS);
    memcpy(s->values, event->output.data, s->count * sizeof *s->values);
    return LR_OK;
}

static lr_status give(const lr_hook_event *event, void *user) {
    const slope *s = user;
    float *dy = event->output.data;
    for (size_t i = 0; i < s->count; i++) {
        ck_assert(dy[i] == 0); /* nothing comes from above the last block */
        dy[i] += s->values[i];
    }
    return LR_OK;
}

static void hook_block(lr_hooks *hooks, int32_t layer, int32_t events, lr_hook_fn fn, void *user,
                       int32_t *id) {
    char name[40];
    snprintf(name, sizeof name, "model.layers.%d", layer);
    CHECK_OK(lr_hook_add(hooks, name, events, fn, user, id));
}

/* Derivative of the golden loss by what leaves the last block. */
static void slope_of(slope *out, lr_ctx *ctx, const golden *g) {
    lr_hooks *hooks;
    CHECK_OK(lr_hooks_new(&hooks));
    lesson l = open_lesson(ctx, g->name, g->rows, hooks, train);
    hook_block(hooks, l.graph->block_count - 1, LR_BEFORE_BACKWARD, take, out, NULL);
    learn(&l, g, NULL, 0, 1, 1);
    close_lesson(&l);
    lr_hooks_free(hooks);
}

static void train_blocks(const lr__param *param, int32_t is_bias, void *user) {
    if (strstr(param->name, "layers.")) train(param, is_bias, user);
}

static const char *const names[] = {"llama-bias-sharded", "llama-tied", "mistral-window", "qwen3"};
enum { NAMES = sizeof names / sizeof *names };

START_TEST(gradients_are_those_of_the_whole) {
    static slope top, middle;
    static float x[MOST_NUMBERS];
    const char *name = names[_i];
    lr_segment segments[MOST_ROWS];
    lr__stored_list tensors = {0};
    lr_ctx *ctx = context_of(2);
    lr_hooks *hooks;
    int32_t hook;
    golden g = golden_open(name);
    golden_segments(&g, segments);
    CHECK_OK(lr__safetensors_add(&tensors, golden_folder(name, "gradients.safetensors"), 0, NULL));
    slope_of(&top, ctx, &g);
    CHECK_OK(lr_hooks_new(&hooks));
    lesson l = open_lesson(ctx, name, g.rows, hooks, train_blocks);
    int32_t blocks = l.graph->block_count;
    hook_block(hooks, blocks - 1, LR_BEFORE_BACKWARD | LR_HOOK_CHANGES, give, &top, &hook);
    middle = top;
    if (blocks > 1) {
        lr__block_lesson upper = {&l.gradients, 1, blocks, x, middle.values};
        CHECK_OK(lr_session_blocks(l.session, segments, g.rows, 0, 1, x));
        CHECK_OK(lr__session_learn_blocks(l.session, segments, g.rows, &upper));
    }
    CHECK_OK(lr_hook_remove(hooks, hook));
    hook_block(hooks, 0, LR_BEFORE_BACKWARD | LR_HOOK_CHANGES, give, &middle, NULL);
    lr__block_lesson lower = {&l.gradients, 0, 1, x, NULL};
    CHECK_OK(lr__session_learn_blocks(l.session, segments, g.rows, &lower));
    ck_assert_uint_gt(l.gradients.count, 0);
    for (size_t i = 0; i < l.gradients.count; i++)
        check_golden_gradient(name, &tensors, &l.gradients.items[i]);
    close_lesson(&l);
    lr_hooks_free(hooks);
    lr__stored_list_clear(&tensors);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

/* An untied embedding has all its gradient from below the blocks. */
START_TEST(embedding_learns_below_block_0) {
    static slope top;
    static float x[MOST_NUMBERS], dx[MOST_NUMBERS];
    lr_segment segments[MOST_ROWS];
    lr__stored_list tensors = {0};
    lr_ctx *ctx = context_of(1);
    lr_hooks *hooks;
    golden g = golden_open("llama-bias-sharded");
    golden_segments(&g, segments);
    CHECK_OK(
        lr__safetensors_add(&tensors, golden_folder(g.name, "gradients.safetensors"), 0, NULL));
    slope_of(&top, ctx, &g);
    CHECK_OK(lr_hooks_new(&hooks));
    lesson l = open_lesson(ctx, g.name, g.rows, hooks, train_blocks);
    ck_assert_ptr_ne(l.graph->embedding, l.graph->head->terms[0].ops[0].param);
    lr__gradients_clear(&l.gradients);
    CHECK_OK(lr__gradients_add(&l.gradients, l.graph->embedding));
    int32_t blocks = l.graph->block_count;
    hook_block(hooks, blocks - 1, LR_BEFORE_BACKWARD | LR_HOOK_CHANGES, give, &top, NULL);
    lr__block_lesson all = {&l.gradients, 0, blocks, x, dx};
    CHECK_OK(lr__session_learn_blocks(l.session, segments, g.rows, &all));
    check_golden_gradient(g.name, &tensors, &l.gradients.items[0]);
    close_lesson(&l);
    lr_hooks_free(hooks);
    lr__stored_list_clear(&tensors);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

static lr_status forget(const lr_hook_event *event, void *user) {
    (void)user;
    memset(event->output.data, 0,
           (size_t)(event->output.shape[0] * event->output.shape[1]) * sizeof(float));
    return LR_OK;
}

/* A module whose derivative a hook sets to zero passes nothing on, and the stream beside it all. */
START_TEST(hooks_change_a_branch_alone) {
    static slope top;
    static float x[MOST_NUMBERS], dx[MOST_NUMBERS];
    lr_segment segments[MOST_ROWS];
    lr_ctx *ctx = context_of(2);
    lr_hooks *hooks;
    int32_t hook;
    golden g = golden_open("llama-bias-sharded");
    golden_segments(&g, segments);
    slope_of(&top, ctx, &g);
    CHECK_OK(lr_hooks_new(&hooks));
    lesson l = open_lesson(ctx, g.name, g.rows, hooks, train_blocks);
    lr__block_lesson first = {&l.gradients, 0, 1, x, dx};
    hook_block(hooks, 0, LR_BEFORE_BACKWARD | LR_HOOK_CHANGES, give, &top, NULL);
    CHECK_OK(lr_hook_add(hooks, "*.mlp.down_proj", LR_BEFORE_BACKWARD | LR_HOOK_CHANGES, forget,
                         NULL, &hook));
    CHECK_OK(lr__session_learn_blocks(l.session, segments, g.rows, &first));
    ck_assert(memcmp(dx, top.values, top.count * sizeof *dx) != 0); /* attention's part */
    CHECK_OK(lr_hook_add(hooks, "*.self_attn.o_proj", LR_BEFORE_BACKWARD | LR_HOOK_CHANGES, forget,
                         NULL, NULL));
    CHECK_OK(lr__session_learn_blocks(l.session, segments, g.rows, &first));
    for (size_t i = 0; i < top.count; i++) ck_assert(dx[i] == top.values[i]);
    CHECK_OK(lr_hook_remove(hooks, hook));
    CHECK_OK(lr__session_learn_blocks(l.session, segments, g.rows, &first));
    ck_assert(memcmp(dx, top.values, top.count * sizeof *dx) != 0);
    close_lesson(&l);
    lr_hooks_free(hooks);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

/* The forward is lr_session_blocks(). */
START_TEST(forward_is_that_of_blocks) {
    static float alone[MOST_NUMBERS], learning[MOST_NUMBERS];
    lr_segment segments[MOST_ROWS];
    lr_ctx *ctx = context_of(2);
    golden g = golden_open("qwen3");
    golden_segments(&g, segments);
    lesson l = open_lesson(ctx, g.name, g.rows, NULL, train_blocks);
    lr__block_lesson all = {&l.gradients, 0, l.graph->block_count, learning, NULL};
    CHECK_OK(lr_session_blocks(l.session, segments, g.rows, 0, l.graph->block_count, alone));
    CHECK_OK(lr__session_learn_blocks(l.session, segments, g.rows, &all));
    size_t bytes =
        (size_t)(g.rows * g.length) * (size_t)l.graph->origin->config.hidden_size * sizeof(float);
    ck_assert_uint_le(bytes, sizeof alone);
    ck_assert_mem_eq(alone, learning, bytes);
    close_lesson(&l);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

START_TEST(wrong_requests_are_refused) {
    static float x[MOST_NUMBERS];
    lr_segment segments[MOST_ROWS];
    lr_ctx *ctx = context_of(1);
    golden g = golden_open("llama-f32");
    golden_segments(&g, segments);
    lesson l = open_lesson(ctx, g.name, g.rows, NULL, train_blocks);
    lr_session *other;
    lr_optimizer *optimizer;
    CHECK_OK(lr_session_new(&other, l.model, NULL));
    CHECK_OK(lr_optimizer_new(&optimizer, ctx, NULL));
    CHECK_FAILS(lr_session_learn_blocks(other, segments, 1, 0, 1, x, NULL, optimizer), LR_E_INVALID,
                "no_cache");
    CHECK_FAILS(lr_session_learn_blocks(l.session, segments, 1, 0, 99, x, NULL, optimizer),
                LR_E_INVALID, "blocks 0 to 99");
    CHECK_FAILS(lr_session_learn_blocks(l.session, segments, 1, 1, 1, x, NULL, optimizer),
                LR_E_INVALID, "blocks 1 to 1");
    CHECK_FAILS(lr_session_learn_blocks(l.session, segments, 1, 0, 1, NULL, NULL, optimizer),
                LR_E_INVALID, "x");
    CHECK_FAILS(lr_session_learn_blocks(l.session, segments, 1, 0, 1, x, NULL, NULL), LR_E_INVALID,
                "optimizer");
    CHECK_OK(lr_session_learn_blocks(l.session, segments, 1, 0, 1, x, NULL, optimizer));
    lr_optimizer_free(optimizer);
    lr_session_free(other);
    close_lesson(&l);
    golden_close(&g);
    lr_ctx_free(ctx);
}
END_TEST

Suite *learn_blocks_suite(void) {
    Suite *suite = suite_create("learn_blocks");
    TCase *tests = tcase_create("learn_blocks");
    tcase_add_loop_test(tests, gradients_are_those_of_the_whole, 0, NAMES);
    tcase_add_test(tests, embedding_learns_below_block_0);
    tcase_add_test(tests, hooks_change_a_branch_alone);
    tcase_add_test(tests, forward_is_that_of_blocks);
    tcase_add_test(tests, wrong_requests_are_refused);
    suite_add_tcase(suite, tests);
    return suite;
}
