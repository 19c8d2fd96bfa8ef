/* Compression block by block: against statistics of the whole model, against the losses of other
 * factors on the inputs that hooks saw behind the compressed blocks, under little memory, and
 * through interruptions. */
#include "run_fixture.h"

#include <sys/stat.h>

enum { WINDOW = 16, WINDOWS = 12, TEXT = WINDOW * WINDOWS, NOTES_MOST = 64 };

static lr_model *model;
static int32_t ids[TEXT];
static lr_text texts[2];

static const char *const models[] = {"llama-tied", "llama-bias-sharded", "gguf-mixed/model.gguf"};
static const char *const methods[] = {"pca", "whiten", "whiten-eig", "afm"};
static const char *const ways[] = {"none", "shift", "anchored"};
static const char ranks[] =
    "{\"q_proj\": 7, \"k_proj\": 4, \"v_proj\": 5, \"o_proj\": 6, \"up_proj\": 9, \"down_proj\": 8,"
    " \"model.layers.1.self_attn.o_proj\": 0}";

/* Two texts of unequal weight that are the halves of one. */
static void open_named(const char *name) {
    lr_model_free(model);
    model = golden_open(name);
    tiny_text(1, TEXT, tiny_vocabulary(model), ids);
    texts[0] = (lr_text){.ids = ids, .count = TEXT / 2, .weight = 1, .window = WINDOW};
    texts[1] = (lr_text){.ids = ids + TEXT / 2, .count = TEXT / 2, .weight = 3, .window = WINDOW};
}

static void setup(void) {
    scratch_make();
    open_named("llama-tied");
}

static void teardown(void) {
    lr_model_free(model);
    model = NULL;
    scratch_remove();
}

static lr_plan *plan_of(const char *given) {
    lr_plan *plan;
    lr_plan_opts opts;
    lr_plan_opts_init(&opts, sizeof opts);
    opts.ranks = given;
    CHECK_OK(lr_plan_new(&plan, model, &opts));
    return plan;
}

typedef struct notes {
    char modules[NOTES_MOST][64];
    lr_compress_event items[NOTES_MOST];
    int count, stop_at; /* 0: never */
} notes;

static int32_t note(const lr_compress_event *event, void *user) {
    notes *n = user;
    ck_assert_int_lt(n->count, NOTES_MOST);
    snprintf(n->modules[n->count], sizeof n->modules[0], "%s", event->module);
    n->items[n->count] = *event;
    return ++n->count == n->stop_at;
}

static lr_compress_opts opts_of(const char *way) {
    lr_compress_opts opts;
    lr_compress_opts_init(&opts, sizeof opts);
    opts.sequential = way;
    return opts;
}

static lr_model *clone_of(const lr_model *source) {
    lr_model *copy;
    CHECK_OK(lr_model_clone(&copy, source));
    return copy;
}

static lr_model *compressed(const lr_plan *plan, const lr_compress_opts *opts, notes *n) {
    lr_model *copy = clone_of(model);
    CHECK_OK(lr_compress_texts(copy, plan, texts, 2, opts, n ? note : NULL, n));
    return copy;
}

static int64_t numbers_of(const lr_model *target, const char *name) {
    lr_linear *linear = linear_of(target, name);
    int64_t count = lr_linear_out(linear) * (lr_linear_in(linear) + 1);
    lr_linear_free(linear);
    return count;
}

/* Largest difference of any two matrices, against the largest number. */
static double distance(const lr_model *a, const lr_model *b) {
    double worst = 0;
    for (int32_t i = 0; i < lr_model_linear_count(a) - 1; i++) {
        lr_linear *linear;
        CHECK_OK(lr_model_linear(a, i, &linear));
        const char *name = lr_linear_name(linear);
        double *x = matrix_of(a, name), *y = matrix_of(b, name), most = 0, size = 0;
        for (int64_t k = 0; k < numbers_of(a, name); k++) {
            most = fmax(most, fabs(x[k] - y[k]));
            size = fmax(size, fabs(x[k]));
        }
        worst = fmax(worst, most / size);
        lr_linear_free(linear);
        free(x);
        free(y);
    }
    return worst;
}

static lr_stats *dense_stats(void) {
    lr_stats *stats;
    CHECK_OK(lr_stats_new(&stats, model, NULL));
    for (int i = 0; i < 2; i++)
        CHECK_OK(lr_stats_collect(stats, texts[i].ids, texts[i].count, WINDOW, texts[i].weight));
    return stats;
}

static lr_model *plainly(const lr_plan *plan, const char *method, notes *n) {
    lr_model *copy = clone_of(model);
    lr_stats *stats = dense_stats();
    lr_compress_opts opts = opts_of("none");
    opts.method = method;
    CHECK_OK(lr_compress(copy, plan, stats, &opts, n ? note : NULL, n));
    lr_stats_free(stats);
    return copy;
}

/* --- the results --- */

/* The same batches, so the same bits. */
START_TEST(none_is_the_whole_at_once) {
    open_named(models[_i % 3]);
    notes a = {.count = 0}, b = {.count = 0};
    lr_plan *plan = plan_of(ranks);
    lr_compress_opts opts = opts_of("none");
    opts.method = methods[_i / 3];
    lr_model *whole = plainly(plan, opts.method, &a), *blocks = compressed(plan, &opts, &b);
    ck_assert_int_eq(a.count, 11);
    ck_assert_int_eq(b.count, 11);
    for (int i = 0; i < a.count; i++) {
        ck_assert_str_eq(a.modules[i], b.modules[i]);
        ck_assert(a.items[i].predicted == b.items[i].predicted);
        ck_assert(a.items[i].total == b.items[i].total);
    }
    ck_assert(distance(whole, blocks) == 0);
    lr_model_free(whole);
    lr_model_free(blocks);
    lr_plan_free(plan);
}
END_TEST

/* Full ranks leave nothing to make up for. */
START_TEST(nothing_cut_nothing_changed) {
    lr_plan *plan = plan_of("{\"{q,o,gate,up,down}_proj\": 36, \"{k,v}_proj\": 18}");
    lr_compress_opts opts = opts_of(ways[_i]);
    opts.blend = 1;
    lr_model *same = compressed(plan, &opts, NULL);
    ck_assert(distance(model, same) < 2e-5);
    lr_model_free(same);
    lr_plan_free(plan);
}
END_TEST

/* Mean over the weighted tokens of |target - V z|^2, `blend` of the target from the dense model. */
static double loss(const double *v, const double *w, const capture *z, const capture *x,
                   double blend) {
    double sum = 0;
    for (int64_t t = 0; t < z->tokens; t++)
        for (int64_t o = 0; o < z->out; o++) {
            double e = 0;
            for (int64_t i = 0; i < z->in; i++) {
                double a = x->x[t * x->in + i], c = z->x[t * z->in + i];
                e += w[o * (z->in + 1) + i] * (c + blend * (a - c)) - v[o * (z->in + 1) + i] * c;
            }
            sum += (t < TEXT / 2 ? 1 : 3) * e * e;
        }
    return sum / (2 * TEXT);
}

/* What a module reads in the finished model is what it was fitted to, since that depends on the
 * modules before it alone. There its factors beat those of the dense inputs, and small turns of
 * its rows do not help. */
START_TEST(better_where_they_stand) {
    lr_plan *plan = plan_of(ranks);
    lr_compress_opts opts = opts_of(ways[_i]);
    opts.blend = 0.6;
    double blend = _i == 2 ? opts.blend : 0, gain = 0;
    notes n = {.count = 0};
    lr_model *fitted = compressed(plan, &opts, &n), *plain = plainly(plan, "pca", NULL);
    captures *seen = capture_windows(fitted, ids, WINDOW, WINDOWS);
    captures *dense = capture_windows(model, ids, WINDOW, WINDOWS);
    for (int i = 0; i < n.count; i++) {
        const char *name = n.modules[i];
        capture *z = captured(seen, name), *x = captured(dense, name);
        double *v = matrix_of(fitted, name), *w = matrix_of(model, name);
        double *other = matrix_of(plain, name), best = loss(v, w, z, x, blend);
        double given = loss(other, w, z, x, blend);
        ck_assert_msg(best <= given * (1 + 2e-3), "%s: %g, plain %g", name, best, given);
        gain += log(given / best);
        if (_i == 1) CHECK_NEAR(best, n.items[i].measured, 1e-4 * n.items[i].total);
        for (int64_t a = 1; a < z->out && _i == 1; a++) {
            double kept[2] = {0};
            for (int turn = 0; turn < 2; turn++) {
                for (int64_t k = 0; k < z->in; k++) {
                    double *p = &v[(a - 1) * (z->in + 1) + k], *q = &v[a * (z->in + 1) + k];
                    double c = cos(0.02), s = turn ? -sin(0.02) : sin(0.02), old = *p;
                    *p = c * old + s * *q;
                    *q = c * *q - s * old;
                }
                kept[turn] = loss(v, w, z, x, blend);
                ck_assert(turn ? fabs(kept[1] - best) < 1e-9 * best + 1e-12 : kept[0] > best);
            }
        }
        free(v);
        free(w);
        free(other);
    }
    ck_assert(gain > 0.1);
    captures_free(seen);
    captures_free(dense);
    lr_model_free(fitted);
    lr_model_free(plain);
    lr_plan_free(plan);
}
END_TEST

/* Anchored to nothing of the dense model is shifted. */
START_TEST(blend_of_nothing_is_shift) {
    lr_plan *plan = plan_of(ranks);
    lr_compress_opts opts = opts_of("anchored");
    opts.blend = 0;
    lr_model *a = compressed(plan, &opts, NULL);
    opts = opts_of("shift");
    lr_model *b = compressed(plan, &opts, NULL);
    ck_assert(distance(a, b) == 0);
    opts = opts_of("none");
    lr_model *c = compressed(plan, &opts, NULL);
    ck_assert(distance(a, c) > 1e-3);
    lr_model_free(a);
    lr_model_free(b);
    lr_model_free(c);
    lr_plan_free(plan);
}
END_TEST

/* --- memory --- */

static _Atomic size_t alive, peak; /* pool threads count too */

static void *counted_realloc(void *block, size_t bytes, void *user) {
    (void)user;
    size_t *old = block ? (size_t *)block - 2 : NULL;
    if (old) alive -= *old;
    size_t *made = realloc(old, bytes + 16);
    if (!made) return NULL;
    *made = bytes;
    alive += bytes;
    if (alive > peak) peak = alive;
    return made + 2;
}

static void *counted_alloc(size_t bytes, void *user) { return counted_realloc(NULL, bytes, user); }

static void counted_free(void *block, void *user) {
    (void)user;
    if (!block) return;
    alive -= ((size_t *)block)[-2];
    free((size_t *)block - 2);
}

static const tiny wide_model = {.vocabulary = 61,
                                .hidden = 192,
                                .wide = 448,
                                .layers = 3,
                                .heads = 6,
                                .kv_heads = 2,
                                .dim = 32,
                                .context = 64};

enum { LONG_WINDOW = 48, LONG_TEXT = 48 * 100 };

static lr_model *open_with_memory(const char *path, uint64_t memory) {
    lr_ctx *ctx;
    lr_ctx_opts opts;
    lr_model *made;
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.threads = 2;
    opts.memory = memory;
    CHECK_OK(lr_ctx_new(&ctx, &opts));
    CHECK_OK(lr_model_open(&made, ctx, path, NULL));
    lr_ctx_free(ctx);
    return made;
}

static int exists(const char *folder, const char *name) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

static lr_status squeeze(const char *path, uint64_t memory, const char *way, const char *work,
                         lr_model **out) {
    static int32_t text[LONG_TEXT];
    lr_plan_opts plan_opts;
    lr_plan *plan;
    lr_compress_opts opts = opts_of(way);
    opts.work = work;
    *out = open_with_memory(path, memory);
    tiny_text(5, LONG_TEXT, wide_model.vocabulary, text);
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.keep = 0.5;
    CHECK_OK(lr_plan_new(&plan, *out, &plan_opts));
    lr_text whole = {.ids = text, .count = LONG_TEXT, .weight = 1, .window = LONG_WINDOW};
    size_t before = alive;
    peak = alive;
    lr_status status = lr_compress_texts(*out, plan, &whole, 1, &opts, NULL, NULL);
    peak -= before;
    lr_plan_free(plan);
    return status;
}

/* The budget holds for every allocation of the library. */
START_TEST(little_memory_the_same_factors) {
    const lr_alloc_ops counting = {sizeof counting, counted_alloc, counted_realloc, counted_free,
                                   NULL};
    const char *path = tiny_write(&wide_model, "wide");
    const char *work = scratch_path("work"), *way = ways[_i];
    uint64_t least = 0;
    double megabytes = 0;
    lr_model *free_model, *squeezed;
    CHECK_OK(lr_set_alloc(&counting));
    CHECK_OK(squeeze(path, 0, way, NULL, &free_model));
    size_t unbounded = peak;
    CHECK_FAILS(squeeze(path, 3000000, way, work, &squeezed), LR_E_INVALID, "memory of 3.0 MB");
    const char *needs = strstr(lr_last_error(), " needs ");
    ck_assert_ptr_nonnull(needs);
    ck_assert_int_eq(sscanf(needs, " needs %lf MB", &megabytes), 1);
    lr_model_free(squeezed);
    ck_assert(!exists(scratch, "work"));
    least = (uint64_t)(megabytes * 1e6) + 200000;
    CHECK_OK(squeeze(path, least, way, work, &squeezed));
    ck_assert_msg(peak <= least, "%zu of %llu bytes used", peak, (unsigned long long)least);
    ck_assert_msg(least < unbounded, "%llu bytes, %zu unbounded", (unsigned long long)least,
                  unbounded);
    ck_assert(distance(free_model, squeezed) < 1e-4);
    lr_model_free(free_model);
    lr_model_free(squeezed);
    /* what is refused drops no work of another run */
    CHECK_FAILS(squeeze(path, 3000000, ways[(_i + 1) % 3], work, &squeezed), LR_E_INVALID,
                "memory of 3.0 MB");
    lr_model_free(squeezed);
    ck_assert(exists(work, "model.layers.0.safetensors"));
    ck_assert_uint_eq(alive, 0);
    lr_set_alloc(NULL);
}
END_TEST

/* --- interruptions --- */

START_TEST(goes_on_where_it_was_killed) {
    lr_plan *plan = plan_of(ranks);
    lr_compress_opts opts = opts_of(ways[_i]);
    notes straight = {.count = 0}, first = {.stop_at = 8}, second = {.count = 0};
    lr_model *expected = compressed(plan, &opts, &straight), *target = clone_of(model);
    opts.work = scratch_path("work");
    CHECK_FAILS(lr_compress_texts(target, plan, texts, 2, &opts, note, &first), LR_E_CANCELLED,
                "cancelled at model.layers.1.");
    ck_assert(distance(model, target) == 0);
    ck_assert(exists(opts.work, "model.layers.0.safetensors"));
    ck_assert(!exists(opts.work, "model.layers.1.safetensors"));
    CHECK_OK(lr_compress_texts(target, plan, texts, 2, &opts, note, &second));
    ck_assert_int_eq(second.count, straight.count);
    for (int i = 0; i < second.count; i++) {
        ck_assert_str_eq(second.modules[i], straight.modules[i]);
        ck_assert(second.items[i].rank == straight.items[i].rank);
        ck_assert(second.items[i].predicted == straight.items[i].predicted);
        ck_assert(second.items[i].total == straight.items[i].total);
    }
    ck_assert(distance(expected, target) == 0);
    lr_model_free(expected);
    lr_model_free(target);
    lr_plan_free(plan);
}
END_TEST

static int64_t parameters_after(const char *storage, const char *work) {
    lr_plan_opts plan_opts;
    lr_plan *plan;
    lr_compress_opts opts = opts_of("anchored");
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.ranks = "{\"{q,k,v}_proj\": 6, \"up_proj\": 5}";
    plan_opts.storage = storage;
    opts.work = work;
    CHECK_OK(lr_plan_new(&plan, model, &plan_opts));
    lr_model *made = compressed(plan, &opts, NULL);
    int64_t count = parameters_of(made);
    lr_plan_free(plan);
    lr_model_free(made);
    return count;
}

/* Factors that modules share are still shared when they come from files. */
START_TEST(files_keep_the_form) {
    static const char *const storages[] = {"two-factor", "pivot", "shared"};
    int64_t counts[3];
    for (int i = 0; i < 3; i++) {
        counts[i] = parameters_after(storages[i], NULL);
        ck_assert_int_eq(parameters_after(storages[i], scratch_path(storages[i])), counts[i]);
        ck_assert_int_eq(parameters_after(storages[i], scratch_path(storages[i])), counts[i]);
    }
    ck_assert_int_lt(counts[1], counts[0]);
    ck_assert_int_eq(counts[0] - counts[2], 2 * 2 * 6 * 36);
}
END_TEST

START_TEST(work_of_another_run) {
    lr_plan *plan = plan_of(ranks);
    lr_compress_opts opts = opts_of("shift");
    opts.work = scratch_path("work");
    lr_model *shifted = compressed(plan, &opts, NULL);
    opts.sequential = "anchored";
    lr_model *anchored = compressed(plan, &opts, NULL);
    opts.work = NULL;
    lr_model *expected = compressed(plan, &opts, NULL);
    ck_assert(distance(expected, anchored) == 0);
    ck_assert(distance(expected, shifted) > 0);
    lr_model_free(shifted);
    lr_model_free(anchored);
    lr_model_free(expected);
    lr_plan_free(plan);
}
END_TEST

static void overwrite(const char *work, const char *name, const char *text) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", work, name);
    FILE *file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
}

START_TEST(spoiled_work) {
    lr_plan *plan = plan_of(ranks);
    lr_compress_opts opts = opts_of("none");
    const char *work = scratch_path("work");
    char name[700];
    opts.work = work;
    lr_model *target = compressed(plan, &opts, NULL);
    lr_model_free(target);
    target = clone_of(model);
    overwrite(work, "model.layers.1.safetensors", "nothing");
    CHECK_FAILS(lr_compress_texts(target, plan, texts, 2, &opts, NULL, NULL), LR_E_FORMAT,
                "model.layers.1.safetensors");
    snprintf(name, sizeof name, "%s/model.layers.1.safetensors", work);
    unlink(name);
    char *other = realpath(golden_model("llama-tied/model.safetensors"), NULL);
    ck_assert_int_eq(symlink(other, name), 0);
    free(other);
    CHECK_FAILS(lr_compress_texts(target, plan, texts, 2, &opts, NULL, NULL), LR_E_FORMAT,
                "no \"modules\" in its metadata");
    overwrite(work, "work.json", "{}");
    CHECK_FAILS(lr_compress_texts(target, plan, texts, 2, &opts, NULL, NULL), LR_E_FORMAT,
                "work.json");
    opts.work = scratch; /* holds a folder */
    CHECK_FAILS(lr_compress_texts(target, plan, texts, 2, &opts, NULL, NULL), LR_E_EXISTS,
                "holds something else");
    opts.work = scratch_path("none/none");
    CHECK_FAILS(lr_compress_texts(target, plan, texts, 2, &opts, NULL, NULL), LR_E_NOTFOUND,
                "cannot create");
    ck_assert(distance(model, target) == 0);
    lr_model_free(target);
    lr_plan_free(plan);
}
END_TEST

/* --- what is refused --- */

START_TEST(refused) {
    lr_plan *plan = plan_of(ranks), *head;
    lr_plan_opts plan_opts;
    lr_compress_opts opts = opts_of("sideways");
#define REFUSED(status, text) \
    CHECK_FAILS(lr_compress_texts(model, plan, texts, 2, &opts, NULL, NULL), status, text)
    REFUSED(LR_E_INVALID, "sequential \"sideways\"");
    opts = opts_of("anchored");
    opts.blend = 1.5;
    REFUSED(LR_E_INVALID, "blend 1.5");
    opts.blend = NAN;
    REFUSED(LR_E_INVALID, "blend nan");
    opts.blend = 1;
    opts.method = "afm";
    REFUSED(LR_E_UNSUPPORTED, "afm");
    opts.method = "svd";
    REFUSED(LR_E_INVALID, "svd");
    opts.method = "magic";
    REFUSED(LR_E_INVALID, "magic");
    opts = opts_of("shift");
    CHECK_FAILS(lr_compress_texts(model, plan, texts, 0, &opts, NULL, NULL), LR_E_INVALID,
                "0 texts");
    texts[1].weight = 0;
    REFUSED(LR_E_INVALID, "text 1: weight 0");
    texts[1].weight = 1;
    texts[1].count = WINDOW - 1;
    REFUSED(LR_E_INVALID, "text 1 of 15 tokens holds no window of 16");
    texts[1].count = TEXT / 2;
    ids[TEXT - 1] = -1;
    REFUSED(LR_E_INVALID, "token -1");
    ids[TEXT - 1] = 1;
    CHECK_FAILS(lr_compress_texts(NULL, plan, texts, 2, &opts, NULL, NULL), LR_E_INVALID,
                "are needed");
    CHECK_FAILS(lr_compress(model, plan, NULL, &opts, NULL, NULL), LR_E_INVALID,
                "is for lr_compress_texts");
    CHECK_OK(lr_compress_texts(model, plan, texts, 2, &opts, NULL, NULL));
    REFUSED(LR_E_UNSUPPORTED, "model.layers.0.self_attn.q_proj: already factorised");
#undef REFUSED
    open_named("llama-bias-sharded"); /* its head is its own */
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.ranks = "{\"lm_head\": 3}";
    plan_opts.pattern = "lm_head";
    CHECK_OK(lr_plan_new(&head, model, &plan_opts));
    CHECK_FAILS(lr_compress_texts(model, head, texts, 2, NULL, NULL, NULL), LR_E_UNSUPPORTED,
                "lm_head: stands behind the blocks");
    lr_plan_free(head);
    lr_plan_free(plan);
}
END_TEST

Suite *compress_texts_suite(void) {
    Suite *suite = suite_create("compress_texts");
    TCase *all = tcase_create("block by block");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_set_timeout(all, 60);
    tcase_add_loop_test(all, none_is_the_whole_at_once, 0, 12);
    tcase_add_loop_test(all, nothing_cut_nothing_changed, 0, 3);
    tcase_add_loop_test(all, better_where_they_stand, 1, 3);
    tcase_add_test(all, blend_of_nothing_is_shift);
    tcase_add_loop_test(all, little_memory_the_same_factors, 0, 3);
    tcase_add_loop_test(all, goes_on_where_it_was_killed, 0, 3);
    tcase_add_test(all, files_keep_the_form);
    tcase_add_test(all, work_of_another_run);
    tcase_add_test(all, spoiled_work);
    tcase_add_test(all, refused);
    suite_add_tcase(suite, all);
    return suite;
}
