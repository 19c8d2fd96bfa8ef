/* Distillations that stop and go on: every bit against runs that never stopped, and files that
 * belong to something else or are damaged. */
#include "hash.h"
#include "run_fixture.h"

enum { WINDOW = 16, WINDOWS = 6, TEXT = WINDOW * WINDOWS, STEPS = 15, FILE_MOST = 1 << 20 };

static lr_model *teacher, *student;
static int32_t ids[TEXT];
static const char *const streams[] = {"teacher", "shift", "anchored"};
enum { STREAMS = sizeof streams / sizeof *streams };

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

static void compress(const char *storage) {
    lr_plan_opts how;
    lr_compress_opts opts;
    lr_plan *plan;
    lr_plan_opts_init(&how, sizeof how);
    how.ranks = "{\"q_proj\": 7, \"o_proj\": 6, \"gate_proj\": 8, \"down_proj\": 9}";
    how.storage = storage;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = "svd";
    lr_model_free(student);
    CHECK_OK(lr_model_clone(&student, teacher));
    CHECK_OK(lr_plan_new(&plan, student, &how));
    CHECK_OK(lr_compress(student, plan, NULL, &opts, NULL, NULL));
    lr_plan_free(plan);
}

/* With some modules that stop early. */
static lr_distill_opts options(int how, const char *checkpoint) {
    lr_distill_opts opts;
    lr_distill_opts_init(&opts, sizeof opts);
    opts.steps = STEPS;
    opts.batch = 2;
    opts.window = WINDOW;
    opts.learning_rate = 3e-3;
    opts.stream = streams[how % STREAMS];
    opts.held_out = how < STREAMS;
    opts.check_every = 2;
    opts.log_every = 1;
    opts.patience = 1;
    opts.checkpoint = checkpoint ? scratch_path(checkpoint) : NULL;
    opts.checkpoint_every = 4;
    return opts;
}

typedef struct watching {
    int64_t stop_at; /* 0: never */
    int64_t first;   /* step of the first event */
    uint64_t last;   /* of all last events, their losses included */
    int early;       /* modules that stopped early */
} watching;

static int32_t note(const lr_distill_event *e, void *user) {
    watching *w = user;
    const double numbers[] = {e->loss, e->energy, e->held_out, e->best, e->start};
    if (!w->first) w->first = e->step;
    if (!e->is_last) return e->step == w->stop_at;
    w->last = hash_bytes(w->last, numbers, sizeof numbers);
    w->last = hash_bytes(w->last, &e->best_step, sizeof e->best_step);
    w->last = hash_bytes(w->last, e->losses, (size_t)e->step * sizeof *e->losses);
    w->early += e->step < STEPS;
    return 0;
}

static lr_status distill(const lr_distill_opts *opts, watching *w) {
    w->last = hash_begin;
    w->first = w->early = 0;
    return lr_distill(student, teacher, NULL, ids, TEXT, opts, note, w);
}

/* Of the factors, by what is written of the model. */
static uint64_t bits_of(const lr_model *model) {
    static char bytes[FILE_MOST];
    lr_save_opts opts;
    lr_save_opts_init(&opts, sizeof opts);
    opts.dtype = LR_F32;
    opts.force = 1;
    CHECK_OK(lr_model_save(model, scratch_path("saved"), &opts));
    size_t count = scratch_read(scratch_path("saved/model.safetensors"), bytes, sizeof bytes);
    ck_assert(count > 1000 && count < sizeof bytes);
    return hash_bytes(hash_begin, bytes, count);
}

/* Stopped within step 10, so that it goes on behind step 8. */
START_TEST(checkpoints_go_on_bit_for_bit) {
    const char *storage = _i / STREAMS % 2 ? "pivot" : "two-factor";
    lr_distill_opts opts = options(_i, NULL);
    watching whole = {0}, w = {.stop_at = 10};
    compress(storage);
    CHECK_OK(distill(&opts, &whole));
    ck_assert_int_gt(whole.early, 0);
    uint64_t wanted = bits_of(student);
    opts = options(_i, "checkpoint");
    compress(storage);
    ck_assert_int_eq(distill(&opts, &w), LR_E_CANCELLED);
    compress(storage);
    w.stop_at = 0;
    CHECK_OK(distill(&opts, &w));
    ck_assert_int_eq(w.first, 9);
    ck_assert(w.last == whole.last);
    ck_assert(bits_of(student) == wanted);
    compress(storage); /* and from the end, where nothing is left to do */
    CHECK_OK(distill(&opts, &w));
    ck_assert(w.last == whole.last);
    ck_assert(bits_of(student) == wanted);
}
END_TEST

/* ---- files that cannot be taken up ---- */

/* Changes the text in the header, which keeps its length, or the last number of a tensor. */
static void spoil(const char *path, const char *old, const char *new, double number) {
    static char bytes[FILE_MOST];
    size_t count = scratch_read(path, bytes, sizeof bytes);
    uint64_t header;
    memcpy(&header, bytes, sizeof header);
    char *at = memmem(bytes, count, old, strlen(old));
    ck_assert_msg(at != NULL, "no %s", old);
    if (new) {
        ck_assert_uint_eq(strlen(old), strlen(new));
        memcpy(at, new, strlen(new));
    } else {
        const char *offsets = strstr(at, "data_offsets");
        size_t end = strtoul(strchr(offsets, ',') + 1, NULL, 10);
        memcpy(bytes + 8 + header + end - sizeof number, &number, sizeof number);
    }
    scratch_write("spoilt", bytes, count);
}

static void refuse(lr_distill_opts opts, lr_status status, const char *text) {
    watching w = {0};
    uint64_t before = bits_of(student);
    opts.checkpoint = scratch_path("spoilt");
    CHECK_FAILS(distill(&opts, &w), status, text);
    ck_assert_msg(bits_of(student) == before, "%s", text);
}

START_TEST(files_of_something_else_are_refused) {
    lr_distill_opts opts = options(0, "checkpoint");
    const char *path = opts.checkpoint;
    watching w = {0};
    compress("two-factor");
    CHECK_OK(distill(&opts, &w));
    compress("two-factor");
    spoil(path, "distillation", "distilLation", 0);
    refuse(opts, LR_E_FORMAT, "expected \"lowrank distillation\"");
    spoil(path, "best.model.layers.1.mlp.gate_proj", "best.model.layers.1.mlp.gate_proJ", 0);
    refuse(opts, LR_E_FORMAT, "no tensor \"best.model.layers.1.mlp.gate_proj\"");
    spoil(path, "\"course.model.layers.1.mlp.gate_proj\"", NULL, 99); /* steps */
    refuse(opts, LR_E_FORMAT, "model.layers.1.mlp.gate_proj: steps 99");
    spoil(path, "\"losses.model.layers.2.mlp.down_proj\"", NULL, (double)NAN);
    refuse(opts, LR_E_NUMERIC, "losses.model.layers.2.mlp.down_proj");
    spoil(path, "\"format\"", "\"format\"", 0);
    opts.steps = STEPS - 1;
    refuse(opts, LR_E_INVALID, "15 steps were made, expected at most 14");
    opts.steps = STEPS;
    compress("pivot");
    refuse(opts, LR_E_FORMAT, "of another");
    opts.checkpoint_every = 0;
    CHECK_FAILS(distill(&opts, &w), LR_E_INVALID, "a checkpoint every 0");
}
END_TEST

Suite *distill_state_suite(void) {
    Suite *suite = suite_create("distill_state");
    TCase *tests = tcase_create("distill_state");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, checkpoints_go_on_bit_for_bit, 0, 2 * STREAMS);
    tcase_add_test(tests, files_of_something_else_are_refused);
    suite_add_tcase(suite, tests);
    return suite;
}
