/* Text a model writes for itself, and its cache. */
#include "run_fixture.h"

#include <dirent.h>

enum { SAMPLES = 35, WINDOW = 12, TEXT = SAMPLES * WINDOW };

static lr_model *model;
static char logged[1024], cache[600];
static int forwards;

static void keep_line(int32_t level, const char *line, void *user) {
    (void)user;
    if (level == LR_LOG_WARNING) snprintf(logged, sizeof logged, "%s", line);
}

static int32_t count_forwards(const char *stage, int64_t done, int64_t total, void *user) {
    (void)done;
    (void)total;
    (void)user;
    forwards += !strcmp(stage, "generate");
    return 0;
}

static void setup(void) {
    lr_ctx *ctx;
    lr_ctx_opts opts;
    scratch_make();
    snprintf(cache, sizeof cache, "%s", scratch_path("cache"));
    setenv("XDG_CACHE_HOME", cache, 1);
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.threads = 2;
    opts.log = keep_line;
    opts.progress = count_forwards;
    CHECK_OK(lr_ctx_new(&ctx, &opts));
    CHECK_OK(lr_model_open(&model, ctx, golden_model("gguf-mixed/model.gguf"), NULL));
    lr_ctx_free(ctx);
    forwards = 0;
    logged[0] = '\0';
}

static void teardown(void) {
    lr_model_free(model);
    scratch_remove();
}

/* 1 when the model had to write it. */
static int text_of(uint64_t seed, int32_t *ids) {
    forwards = 0;
    CHECK_OK(lr_self_text(model, seed, SAMPLES, WINDOW, ids));
    return forwards > 0;
}

/* Path of the one file in the cache; NULL when there is another number of them. */
static const char *cached_file(void) {
    static char path[1200];
    int count = 0;
    char folder[700];
    snprintf(folder, sizeof folder, "%s/lowrank", cache);
    DIR *dir = opendir(folder);
    if (!dir) return NULL;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            count++;
        }
    closedir(dir);
    return count == 1 ? path : NULL;
}

START_TEST(test_text) {
    const lr_tokenizer *tokenizer;
    int32_t ids[TEXT], again[TEXT], eos = 2;
    ck_assert_int_eq(text_of(0, ids), 1);
    CHECK_OK(lr_model_tokenizer(model, &tokenizer));
    int32_t first_of_all = ids[0], varied = 0;
    for (int32_t s = 0; s < SAMPLES; s++) {
        ck_assert(!lr_tokenizer_is_special(tokenizer, ids[s * WINDOW]));
        varied += ids[s * WINDOW] != first_of_all;
        for (int32_t i = 0; i < WINDOW; i++) {
            ck_assert(ids[s * WINDOW + i] >= 0 && ids[s * WINDOW + i] < tiny_vocabulary(model));
            if (strstr(lr_model_config(model), "\"eos_token_id\":2"))
                ck_assert_int_ne(ids[s * WINDOW + i], eos);
        }
    }
    ck_assert_int_gt(varied, SAMPLES / 2);
    ck_assert_int_eq(text_of(1, again), 1);
    ck_assert(memcmp(ids, again, sizeof ids) != 0);
    /* Fewer samples are the first of more: a row's draws are its own. */
    CHECK_OK(lr_self_text(model, 0, 3, WINDOW, again));
    ck_assert_mem_eq(again, ids, sizeof *ids * 3 * WINDOW);
}
END_TEST

START_TEST(test_cache) {
    int32_t ids[TEXT], again[TEXT];
    struct stat info;
    ck_assert_int_eq(text_of(0, ids), 1);
    ck_assert_int_eq(text_of(0, again), 0);
    ck_assert_mem_eq(ids, again, sizeof ids);
    ck_assert_ptr_nonnull(cached_file());
    ck_assert_int_eq(stat(cache, &info), 0);
    ck_assert_int_eq(info.st_mode & 0777, 0700);
    /* Other numbers, another text. */
    lr_plan *plan;
    lr_plan_opts plan_opts;
    lr_compress_opts opts;
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    plan_opts.ranks = "{\"up_proj\": 2}";
    CHECK_OK(lr_plan_new(&plan, model, &plan_opts));
    lr_compress_opts_init(&opts, sizeof opts);
    opts.method = "svd";
    CHECK_OK(lr_compress(model, plan, NULL, &opts, NULL, NULL));
    ck_assert_int_eq(text_of(0, again), 1);
    lr_plan_free(plan);
}
END_TEST

START_TEST(test_corrupted) {
    int32_t ids[TEXT], again[TEXT];
    static char bytes[4 * TEXT + 64];
    ck_assert_int_eq(text_of(0, ids), 1);
    const char *path = cached_file();
    size_t size = scratch_read(path, bytes, sizeof bytes);
    ck_assert_uint_ge(size, sizeof ids);
    for (int damage = 0; damage < 6; damage++) {
        size_t length = damage == 0 ? 0 : damage == 1 ? size / 2 : damage == 2 ? size + 1 : size;
        char kept[8];
        memcpy(kept, bytes + 40, 8);
        if (damage == 3) memset(bytes + 40, 0xff, 4);
        if (damage == 4) memset(bytes + 40, 0x7f, 4);
        if (damage == 5) bytes[40] ^= 1; /* an id that could be */
        FILE *file = fopen(path, "wb");
        fwrite(bytes, 1, length, file);
        fclose(file);
        memcpy(bytes + 40, kept, 8);
        ck_assert_msg(text_of(0, again) == 1, "damage %d", damage);
        ck_assert_mem_eq(ids, again, sizeof ids);
        ck_assert_int_eq(text_of(0, again), 0);
    }
    ck_assert_str_eq(logged, "");
}
END_TEST

/* A place that cannot be written, or none at all, costs the cache only. */
START_TEST(test_unwritable) {
    int32_t ids[TEXT], again[TEXT];
    ck_assert_int_eq(text_of(0, ids), 1);
    setenv("XDG_CACHE_HOME", "/proc/nowhere", 1);
    ck_assert_int_eq(text_of(0, again), 1);
    ck_assert_mem_eq(ids, again, sizeof ids);
    ck_assert_ptr_nonnull(strstr(logged, "self-generated text is not cached: "));
    logged[0] = '\0';
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", scratch, 1);
    ck_assert_int_eq(text_of(0, again), 1);
    ck_assert_int_eq(text_of(0, again), 0);
    unsetenv("HOME");
    ck_assert_int_eq(text_of(0, again), 1);
    ck_assert_str_eq(logged, "");
}
END_TEST

START_TEST(test_refused) {
    int32_t ids[128];
    CHECK_FAILS(lr_self_text(model, 0, 0, 8, ids), LR_E_INVALID, "0 samples");
    CHECK_FAILS(lr_self_text(model, 0, 1, 1, ids), LR_E_INVALID, "of 1 tokens");
    CHECK_FAILS(lr_self_text(model, 0, 1, 8, NULL), LR_E_INVALID, "lr_self_text");
    CHECK_FAILS(lr_self_text(model, 0, 1, 128, ids), LR_E_INVALID, "exceed the context");
    ck_assert_ptr_null(cached_file());
    lr_model *mute = golden_open("llama-tied"); /* without a tokenizer */
    ck_assert_int_lt(lr_self_text(mute, 0, 1, 8, ids), 0);
    lr_model_free(mute);
}
END_TEST

enum { LONG_SAMPLES = 96, LONG_WINDOW = 16, LONG_TEXT = LONG_SAMPLES * LONG_WINDOW };

static lr_eval_result eval_kept(const lr_stats *stats, double keep, const int32_t *ids) {
    lr_eval_result result = {.size = sizeof result};
    lr_eval_opts opts;
    lr_plan_opts plan_opts;
    lr_model *copy;
    lr_plan *plan;
    lr_eval_opts_init(&opts, sizeof opts);
    lr_plan_opts_init(&plan_opts, sizeof plan_opts);
    opts.window = LONG_WINDOW;
    opts.reference = model;
    plan_opts.keep = keep;
    CHECK_OK(lr_model_clone(&copy, model));
    CHECK_OK(lr_plan_new(&plan, model, &plan_opts));
    CHECK_OK(lr_compress(copy, plan, stats, NULL, NULL, NULL));
    CHECK_OK(lr_eval(&result, copy, ids, LONG_TEXT, &opts));
    lr_plan_free(plan);
    lr_model_free(copy);
    return result;
}

/* O30: on text the dense model wrote, what keeps more of it has the lower perplexity and KL, and
 * nothing has a lower perplexity than it. */
START_TEST(keeping_more_loses_less) {
    int32_t *ids = calloc(2 * LONG_TEXT, sizeof *ids);
    for (int k = 0; k < 2; k++)
        CHECK_OK(lr_self_text(model, (uint64_t)k, LONG_SAMPLES, LONG_WINDOW, ids + k * LONG_TEXT));
    lr_stats *stats = stats_of(model, ids, LONG_TEXT, LONG_WINDOW);
    lr_eval_result last = {.perplexity = INFINITY, .kl = INFINITY};
    for (int tenth = 2; tenth <= 10; tenth += 2) {
        lr_eval_result now = eval_kept(stats, tenth / 10.0, ids + LONG_TEXT);
        ck_assert_double_lt(now.perplexity, 0.9 * last.perplexity);
        ck_assert_double_lt(now.kl, 0.9 * last.kl);
        last = now;
    }
    lr_stats_free(stats);
    free(ids);
}
END_TEST

Suite *self_text_suite(void) {
    Suite *suite = suite_create("self_text");
    TCase *tests = tcase_create("self_text");
    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, test_text);
    tcase_add_test(tests, test_cache);
    tcase_add_test(tests, test_corrupted);
    tcase_add_test(tests, test_unwritable);
    tcase_add_test(tests, test_refused);
    tcase_add_test(tests, keeping_more_loses_less);
    suite_add_tcase(suite, tests);
    return suite;
}
