/*
 * Sensitivity of modules. Factors are made by lr_compress, several modules at once, and put into a
 * draft of the model one at a time. The reference runs once where all windows fit in one step, and
 * its hidden states are compared with those of every cut.
 */
#include "base/file.h"
#include "base/json.h"
#include "base/opts.h"
#include "compress/plan.h"
#include "compress/stats.h"
#include "run/batches.h"
#include "run/model_hash.h"

#include <lowrank/sensitivity.h>

#define XXH_INLINE_ALL
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

enum { MODULES_EACH_THREAD = 4, FILE_MOST = 64 << 20 };

/* A module that loses nothing locally is given this share, so that weights stay finite. */
static const double share_floor = 1e-12;

void lr_sensitivity_opts_init(lr_sensitivity_opts *opts, size_t size) {
    lr_sensitivity_opts defaults = {.size = sizeof defaults, .window = 512};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

typedef struct probe {
    const lr_model *model;
    const lr_plan *plan;
    const lr_stats *stats;
    lr_sensitivity_opts opts;
    lr_sensitivity_fn fn;
    void *user;
    const int32_t *ids;
    int64_t windows;
    int32_t rows;    /* windows of one step */
    lr_model *draft; /* a clone in which one module is cut */
    lr_session *session, *reference;
    lr_segment segments[LR__BATCH_WINDOWS];
    lr__step held;      /* of the reference */
    int64_t held_first; /* its first window, -1: none is held */
    lr__score *scores;
    double nll;     /* of the whole model, once it was measured; NAN before */
    double *shares; /* of each module of the plan, when its factors are there */
    char key[2 * LR__HASH_SIZE];
    json_t *file; /* what is kept */
} probe;

static void release_reference(probe *p) {
    if (p->held_first >= 0) lr__step_end(&p->held, 0);
    p->held_first = -1;
}

/* One step of the draft against the same of the reference; sums over its scored tokens. */
static lr_status compare_step(probe *p, int64_t first, double *kl, double *nll) {
    lr_status status = LR_OK;
    lr__step step = {0};
    int32_t now = lr__windows_fill(p->segments, p->ids, first, p->windows, p->rows, p->opts.window);
    lr__arena *arena = &p->reference->arena;
    if (p->held_first != first) {
        release_reference(p);
        LR_TRY(lr__step_run(&p->held, p->reference, p->segments, now));
        p->held_first = first;
    }
    lr__arena_mark mark = lr__arena_here(arena);
    LR_TRY(lr__step_run(&step, p->session, p->segments, now));
    LR_TRY(lr__step_score(&step, &p->held, p->scores));
    lr__arena_release(arena, mark);
    for (int64_t i = 0; i < step.tokens - now; i++) {
        *kl += p->scores[i].kl;
        *nll += p->scores[i].nll;
    }
done:
    lr__step_end(&step, 0);
    return status;
}

/* The draft as it is now, against the whole model: means over all scored tokens. */
static lr_status compare(probe *p, double *kl, double *nll) {
    double tokens = (double)(p->windows * (p->opts.window - 1));
    *kl = *nll = 0;
    for (int64_t first = 0; first < p->windows; first += p->rows) {
        lr_status status = compare_step(p, first, kl, nll);
        if (status < 0) return status;
    }
    *kl = fmax(*kl / tokens, 0);
    *nll /= tokens;
    return LR_OK;
}

static lr_status new_file(probe *p) {
    p->file = json_pack("{s:s, s:i, s:s, s:i, s:I, s:{}, s:{}}", "format", "lowrank-sensitivity",
                        "version", 1, "key", p->key, "window", p->opts.window, "windows",
                        (json_int_t)p->windows, "modules", "weights");
    return p->file ? LR_OK : lr__nomem(sizeof(json_t));
}

static lr_status open_file(probe *p) {
    lr_status status = LR_OK;
    const char *path = p->opts.path;
    if (!path || !lr__path_exists(path)) return new_file(p);
    LR_TRY(lr__json_read(&p->file, path, FILE_MOST));
    const char *format = json_string_value(json_object_get(p->file, "format"));
    const char *key = json_string_value(json_object_get(p->file, "key"));
    LR_FAIL_IF(!format || strcmp(format, "lowrank-sensitivity") || !key ||
                   !json_is_object(json_object_get(p->file, "modules")) ||
                   !json_is_object(json_object_get(p->file, "weights")),
               LR_E_FORMAT, "%s: not a file of sensitivities", path);
    LR_FAIL_IF(json_integer_value(json_object_get(p->file, "version")) != 1, LR_E_UNSUPPORTED,
               "%s: sensitivities of another version, expected 1", path);
    LR_FAIL_IF(strcmp(key, p->key), LR_E_INVALID,
               "%s: measured with another model, text or statistics; another file, or this one "
               "removed, will "
               "do",
               path);
done:
    return status;
}

/* What the file holds of a module at this rank; 0 when it must be measured. */
static int32_t recall(const probe *p, const char *module, int64_t rank, lr_sensitivity_event *e) {
    const json_t *known = json_object_get(json_object_get(p->file, "modules"), module);
    const json_t *numbers[] = {json_object_get(known, "share"), json_object_get(known, "kl"),
                               json_object_get(known, "nll")};
    for (int i = 0; i < 3; i++)
        if (!json_is_number(numbers[i])) return 0;
    if (json_integer_value(json_object_get(known, "rank")) != rank) return 0;
    e->share = json_number_value(numbers[0]);
    e->kl = json_number_value(numbers[1]);
    e->nll = json_number_value(numbers[2]);
    return e->share >= 0 && e->kl >= 0;
}

static lr_status remember(const probe *p, const lr_sensitivity_event *e) {
    json_t *known = json_pack("{s:I, s:f, s:f, s:f}", "rank", (json_int_t)e->rank, "share",
                              e->share, "kl", e->kl, "nll", e->nll);
    lr_status status = LR_OK;
    LR_TRY(lr__json_set(json_object_get(p->file, "modules"), e->module, known));
    LR_TRY(lr__json_set(json_object_get(p->file, "weights"), e->module, json_real(e->weight)));
    if (p->opts.path) status = lr__json_save(p->opts.path, p->file, 1, 1);
done:
    return status;
}

static lr_status measure(probe *p, const lr_model *cut, lr_sensitivity_event *e) {
    lr_status status = LR_OK;
    lr_linear *whole = NULL, *factors = NULL;
    LR_TRY(lr_model_find_linear(p->model, e->module, &whole));
    LR_TRY(lr_model_find_linear(cut, e->module, &factors));
    double unused;
    if (isnan(p->nll)) LR_TRY(compare(p, &unused, &p->nll));
    LR_TRY(lr_model_set_linear(p->draft, e->module, factors));
    LR_TRY(compare(p, &e->kl, &e->nll));
    LR_TRY(lr_model_set_linear(p->draft, e->module, whole));
    e->nll -= p->nll;
done:
    lr_linear_free(factors);
    lr_linear_free(whole);
    return status;
}

static int32_t note_share(const lr_compress_event *event, void *user) {
    const probe *p = user;
    int32_t which = lr__plan_find(p->plan, event->module);
    p->shares[which] = event->total > 0 ? event->measured / event->total : 0;
    return 0;
}

/* Factorises those modules of [first, end) that the file does not know, in a clone. */
static lr_status cut_modules(probe *p, lr_model **cut, int32_t first, int32_t end) {
    lr_status status = LR_OK;
    lr_sensitivity_event unused;
    lr_plan some = *p->plan;
    some.items = NULL;
    *cut = NULL;
    LR_TRY(lr__new(&some.items, (size_t)some.count, sizeof *some.items));
    int32_t wanted = 0;
    for (int32_t i = 0; i < some.count; i++) {
        some.items[i] = p->plan->items[i];
        some.items[i].storage = LR__STORAGE_TWO_FACTOR; /* each by itself; the same matrix */
        if (i < first || i >= end || recall(p, some.modules[i], some.items[i].rank, &unused))
            some.items[i].rank = 0;
        wanted += some.items[i].rank > 0;
    }
    LR_TRY(lr_model_clone(cut, p->model));
    if (wanted) LR_TRY(lr_compress(*cut, &some, p->stats, NULL, note_share, p));
done:
    lr__free(some.items);
    if (status < 0) {
        lr_model_free(*cut);
        *cut = NULL;
    }
    return status;
}

static lr_status run_module(probe *p, const lr_model *cut, int32_t index) {
    lr_status status = LR_OK;
    lr_sensitivity_event e = {.size = sizeof e,
                              .module = p->plan->modules[index],
                              .rank = p->plan->items[index].rank,
                              .share = p->shares[index]};
    int32_t is_known = recall(p, e.module, e.rank, &e);
    if (!is_known) LR_TRY(measure(p, cut, &e));
    e.weight = e.kl / fmax(e.share, share_floor);
    if (!is_known) LR_TRY(remember(p, &e));
    LR_FAIL_IF(p->fn && p->fn(&e, p->user), LR_E_CANCELLED, "sensitivity: cancelled at %s",
               e.module);
done:
    return status;
}

static lr_status run_plan(probe *p) {
    lr_status status = LR_OK;
    lr_model *cut = NULL;
    int32_t at_once = lr_ctx_threads(p->model->ctx) * MODULES_EACH_THREAD;
    for (int32_t first = 0; first < p->plan->count; first += at_once) {
        int32_t end = p->plan->count - first < at_once ? p->plan->count : first + at_once;
        LR_TRY(cut_modules(p, &cut, first, end));
        for (int32_t i = first; i < end; i++) {
            if (p->plan->items[i].rank) LR_TRY(run_module(p, cut, i));
            LR_TRY(lr__progress(p->model->ctx, "sensitivity", i + 1, p->plan->count));
        }
        lr_model_free(cut);
        cut = NULL;
    }
done:
    lr_model_free(cut);
    return status;
}

/* Model, window and text. */
/* Means in binary32, which saving and opening the statistics leaves as they are. */
static uint64_t hash_stats(const lr_stats *stats, uint64_t hash) {
    for (int32_t i = 0; i < stats->moments_count; i++) {
        const lr__moments *m = &stats->moments[i];
        hash = XXH3_64bits_withSeed(&m->tokens, sizeof m->tokens, hash);
        for (int64_t k = 0; k < m->size; k++) {
            float mean = (float)(m->sum[k] / m->weight);
            hash = XXH3_64bits_withSeed(&mean, sizeof mean, hash);
        }
    }
    return hash;
}

static void write_key(probe *p, size_t count) {
    char hash[LR__HASH_SIZE];
    uint64_t rest = XXH3_64bits(p->ids, count * sizeof *p->ids);
    rest = XXH3_64bits_withSeed(&p->opts.window, sizeof p->opts.window, rest);
    rest = hash_stats(p->stats, rest);
    lr__model_hash(p->model, hash);
    snprintf(p->key, sizeof p->key, "%s-%016llx", hash, (unsigned long long)rest);
}

static lr_status prepare(probe *p, size_t count) {
    lr_status status = LR_OK;
    LR_FAIL_IF(p->opts.window < 2, LR_E_INVALID, "sensitivity: window %d, expected 2 or more",
               p->opts.window);
    p->windows = (int64_t)(count / (size_t)p->opts.window);
    LR_FAIL_IF(p->windows < 1, LR_E_INVALID, "the text of %zu tokens holds no window of %d", count,
               p->opts.window);
    p->rows = lr__windows_at_once(p->model, p->opts.window, p->windows);
    write_key(p, (size_t)p->windows * (size_t)p->opts.window);
    LR_TRY(open_file(p));
    LR_TRY(lr__new(&p->shares, (size_t)p->plan->count, sizeof *p->shares));
    LR_TRY(lr__new(&p->scores, (size_t)p->rows * (size_t)p->opts.window, sizeof *p->scores));
    LR_TRY(lr_model_clone(&p->draft, p->model));
    LR_TRY(lr__windows_session(&p->session, p->draft, p->rows, p->opts.window, NULL));
    LR_TRY(lr__windows_session(&p->reference, p->model, p->rows, p->opts.window, NULL));
done:
    return status;
}

lr_status lr_sensitivity(const lr_model *model, const lr_plan *plan, const lr_stats *stats,
                         const int32_t *ids, size_t count, const lr_sensitivity_opts *opts,
                         lr_sensitivity_fn fn, void *user) {
    lr_status status = LR_OK;
    probe p = {.model = model,
               .plan = plan,
               .stats = stats,
               .fn = fn,
               .user = user,
               .ids = ids,
               .held_first = -1,
               .nll = NAN};
    if (!model || !plan || !stats || !ids)
        return lr__fail(LR_E_INVALID, "lr_sensitivity: model, plan, statistics and ids are needed");
    lr_sensitivity_opts_init(&p.opts, sizeof p.opts);
    LR_TRY(lr__opts_merge(&p.opts, sizeof p.opts, opts, "lr_sensitivity_opts"));
    LR_TRY(prepare(&p, count));
    LR_TRY(run_plan(&p));
done:
    release_reference(&p);
    lr_session_free(p.reference);
    lr_session_free(p.session);
    lr_model_free(p.draft);
    lr__free(p.scores);
    lr__free(p.shares);
    json_decref(p.file);
    return status;
}
