/* Blocks alone: the stream that goes through them one by one is the stream that a whole forward
 * shows to the hooks of its blocks. */
#include "model_fixture.h"

enum { TOKENS = 11, LAYERS = 3, HIDDEN = 24, ROWS = 2 };

typedef struct seen {
    float before[LAYERS][TOKENS * HIDDEN], after[LAYERS][TOKENS * HIDDEN];
    int32_t calls, ids[TOKENS], stop_at; /* layer; -1: never */
} seen;

static lr_model *model;
static int32_t ids[TOKENS];
static lr_segment segments[ROWS];

static void setup(void) {
    model = tiny_open(&tiny_model, 2);
    tiny_text(3, TOKENS, tiny_model.vocabulary, ids);
    segments[0] = (lr_segment){1, 7, ids};
    segments[1] = (lr_segment){0, 4, ids + 7};
}

static void teardown(void) { lr_model_free(model); }

static lr_status look(const lr_hook_event *event, void *user) {
    seen *s = user;
    size_t bytes = sizeof s->before[0];
    s->calls++;
    ck_assert_int_eq(event->input.shape[0], TOKENS);
    memcpy(s->ids, event->tokens, sizeof s->ids);
    memcpy(s->before[event->layer], event->input.data, bytes);
    memcpy(s->after[event->layer], event->output.data, bytes);
    return event->layer == s->stop_at ? LR_E_CANCELLED : LR_OK;
}

static lr_hooks *watched(seen *s) {
    lr_hooks *hooks;
    CHECK_OK(lr_hooks_new(&hooks));
    CHECK_OK(lr_hook_add(hooks, "model.layers.{0,1,2}", LR_AFTER_FORWARD, look, s, NULL));
    return hooks;
}

START_TEST(one_by_one_is_the_whole) {
    seen *whole = calloc(1, sizeof *whole), *parts = calloc(1, sizeof *parts);
    whole->stop_at = parts->stop_at = -1;
    lr_hooks *hooks[2] = {watched(whole), watched(parts)};
    lr_session *a = tiny_session(model, ROWS, _i, 1, hooks[0]);
    lr_session *b = tiny_session(model, ROWS, _i, 1, hooks[1]);
    float x[TOKENS * HIDDEN];
    CHECK_OK(lr_session_forward(a, segments, ROWS, NULL));
    CHECK_OK(lr_session_blocks(b, segments, ROWS, 0, 0, x));
    ck_assert_int_eq(parts->calls, 0);
    CHECK_SAME_BITS(x, whole->before[0], TOKENS * HIDDEN);
    for (int32_t i = 0; i < LAYERS; i++) {
        CHECK_OK(lr_session_blocks(b, segments, ROWS, i, i + 1, x));
        ck_assert_int_eq(parts->calls, i + 1);
        CHECK_SAME_BITS(parts->before[i], whole->before[i], TOKENS * HIDDEN);
        CHECK_SAME_BITS(x, whole->after[i], TOKENS * HIDDEN);
        ck_assert_mem_eq(parts->ids, ids, sizeof ids);
    }
    CHECK_OK(lr_session_blocks(b, segments, ROWS, LAYERS, LAYERS, x));
    CHECK_SAME_BITS(x, whole->after[LAYERS - 1], TOKENS * HIDDEN);
    CHECK_OK(lr_session_blocks(b, segments, ROWS, 0, LAYERS, x));
    CHECK_SAME_BITS(x, whole->after[LAYERS - 1], TOKENS * HIDDEN);
    lr_session_free(a);
    lr_session_free(b);
    for (int i = 0; i < 2; i++) lr_hooks_free(hooks[i]);
    free(whole);
    free(parts);
}
END_TEST

START_TEST(a_hook_ends_the_call) {
    seen *s = calloc(1, sizeof *s);
    s->stop_at = 1;
    lr_hooks *hooks = watched(s);
    lr_session *session = tiny_session(model, ROWS, LR_STEP_BATCH, 1, hooks);
    float x[TOKENS * HIDDEN], kept[TOKENS * HIDDEN];
    CHECK_OK(lr_session_blocks(session, segments, ROWS, 0, 1, x));
    memcpy(kept, x, sizeof x);
    ck_assert_int_eq(lr_session_blocks(session, segments, ROWS, 1, LAYERS, x), LR_E_CANCELLED);
    ck_assert_int_eq(s->calls, 2);
    CHECK_SAME_BITS(x, kept, TOKENS * HIDDEN);
    s->stop_at = -1;
    CHECK_OK(lr_session_blocks(session, segments, ROWS, 1, LAYERS, x));
    CHECK_SAME_BITS(x, s->after[LAYERS - 1], TOKENS * HIDDEN);
    lr_session_free(session);
    lr_hooks_free(hooks);
    free(s);
}
END_TEST

START_TEST(refused_ranges) {
    float x[TOKENS * HIDDEN];
    lr_session *session = tiny_session(model, ROWS, LR_STEP_BATCH, 1, NULL);
    lr_session *cached = tiny_session(model, ROWS, LR_STEP_BATCH, 0, NULL);
    CHECK_FAILS(lr_session_blocks(session, segments, ROWS, 0, 1, NULL), LR_E_INVALID, "x is NULL");
    CHECK_FAILS(lr_session_blocks(NULL, segments, ROWS, 0, 1, x), LR_E_INVALID, "session");
    CHECK_FAILS(lr_session_blocks(session, segments, ROWS, -1, 1, x), LR_E_INVALID, "blocks -1");
    CHECK_FAILS(lr_session_blocks(session, segments, ROWS, 2, 1, x), LR_E_INVALID, "2 to 1");
    CHECK_FAILS(lr_session_blocks(session, segments, ROWS, 0, 4, x), LR_E_INVALID, "0 to 3");
    CHECK_FAILS(lr_session_blocks(session, segments, 0, 0, 1, x), LR_E_INVALID, "segments");
    CHECK_FAILS(lr_session_blocks(cached, segments, ROWS, 0, 1, x), LR_E_INVALID, "no_cache");
    CHECK_OK(lr_session_blocks(session, segments, ROWS, 0, 1, x));
    lr_session_free(session);
    lr_session_free(cached);
}
END_TEST

Suite *session_blocks_suite(void) {
    Suite *suite = suite_create("session_blocks");
    TCase *all = tcase_create("blocks alone");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_loop_test(all, one_by_one_is_the_whole, LR_STEP_ROWS, LR_STEP_BATCH + 1);
    tcase_add_test(all, a_hook_ends_the_call);
    tcase_add_test(all, refused_ranges);
    suite_add_tcase(suite, all);
    return suite;
}
