/*
 * Text a model generates for itself, cached by the content of the model, the seed and the sizes.
 */
#include "base/rng.h"
#include "model/model.h"
#include "run/model_hash.h"

#include <lowrank/eval.h>

#define XXH_INLINE_ALL
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

enum { ROWS_AT_ONCE = 32, FIRST_TOKEN_STREAM = 1 << 30, DRAWS_MOST = 10000 };

/* <cache>/lowrank/self-text-HASH-SEED-SAMPLESxWINDOW.i32; NULL where there is no cache folder. */
static lr_status cache_path(char **out, const lr_model *model, uint64_t seed, int32_t samples,
                            int32_t window) {
    lr_status status = LR_OK;
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char hash[LR__HASH_SIZE], name[160], *root = NULL, *dir = NULL;
    *out = NULL;
    if (cache && *cache)
        LR_TRY(lr__dup(&root, cache));
    else if (home && *home)
        LR_TRY(lr__path_join(&root, home, ".cache"));
    else
        return LR_OK;
    lr__model_hash(model, hash);
    LR_TRY(lr__path_join(&dir, root, "lowrank"));
    mkdir(root, 0700);
    mkdir(dir, 0700);
    snprintf(name, sizeof name, "self-text-%s-%llu-%dx%d.i32", hash, (unsigned long long)seed,
             samples, window);
    LR_TRY(lr__path_join(out, dir, name));
done:
    lr__free(root);
    lr__free(dir);
    return status;
}

/* 1 when the file holds this many ids and their hash, as write_cache() leaves it. */
static int32_t read_cache(const char *path, int32_t *ids, size_t count, int32_t vocabulary) {
    FILE *file = path ? fopen(path, "rbe") : NULL;
    XXH64_hash_t hash;
    if (!file) return 0;
    int32_t ok = fread(ids, sizeof *ids, count, file) == count &&
                 fread(&hash, sizeof hash, 1, file) == 1 && fgetc(file) == EOF &&
                 hash == XXH3_64bits(ids, count * sizeof *ids);
    fclose(file);
    for (size_t i = 0; ok && i < count; i++) ok = ids[i] >= 0 && ids[i] < vocabulary;
    return ok;
}

static void write_cache(const lr_model *model, const char *path, const int32_t *ids, size_t count) {
    lr__output output = {0};
    lr__writer *writer = NULL;
    lr_status status = LR_OK;
    if (!path) return;
    XXH64_hash_t hash = XXH3_64bits(ids, count * sizeof *ids);
    LR_TRY(lr__output_begin(&output, path, 0, 1));
    LR_TRY(lr__writer_open(&writer, output.staging));
    lr__writer_put(writer, ids, count * sizeof *ids);
    lr__writer_put(writer, &hash, sizeof hash);
    LR_TRY(lr__writer_close(writer));
    LR_TRY(lr__output_commit(&output));
done:
    lr__output_end(&output);
    if (status < 0)
        lr__log(model->ctx, LR_LOG_WARNING, "self-generated text is not cached: %s",
                lr_last_error());
}

static lr_status draw_first(int32_t *id, const lr_tokenizer *tokenizer, uint64_t seed,
                            int32_t sample, int32_t vocabulary) {
    int32_t ids = lr_tokenizer_size(tokenizer);
    if (ids > vocabulary) ids = vocabulary;
    for (uint64_t i = 0; i < DRAWS_MOST; i++) {
        *id = (int32_t)(lr__uniform(seed, FIRST_TOKEN_STREAM + (uint64_t)sample, i) * ids);
        if (!lr_tokenizer_is_special(tokenizer, *id)) return LR_OK;
    }
    return lr__fail(LR_E_UNSUPPORTED, "self-text: all of %d drawn ids of %d are special",
                    DRAWS_MOST, ids);
}

typedef struct writer {
    const lr_model *model;
    const lr_tokenizer *tokenizer;
    uint64_t seed;
    int32_t samples, window, stop_count;
    int32_t stop[8];
    int32_t *fresh, *counts;
} writer;

/* Rows [first, first + rows): the drawn first token, then what the model says. */
static lr_status write_rows(writer *w, int32_t first, int32_t rows, int32_t *ids) {
    lr_generate_opts opts;
    lr_segment prompts[ROWS_AT_ONCE];
    lr_generate_opts_init(&opts, sizeof opts);
    opts.seed = w->seed ^ (uint64_t)(first / ROWS_AT_ONCE) << 32;
    opts.temperature = 1;
    opts.max_tokens = w->window - 1;
    opts.stop = w->stop;
    opts.stop_count = w->stop_count;
    opts.suppress_stop = 1;
    for (int32_t r = 0; r < rows; r++) {
        int32_t *start = ids + (int64_t)(first + r) * w->window;
        lr_status drawn = draw_first(start, w->tokenizer, w->seed, first + r,
                                     w->model->origin->config.vocabulary_size);
        if (drawn < 0) return drawn;
        lr_segment prompt = {.row = r, .count = 1, .tokens = start};
        prompts[r] = prompt;
    }
    lr_status status = lr_generate(w->model, prompts, rows, &opts, w->fresh, w->counts, NULL, NULL);
    for (int32_t r = 0; status >= 0 && r < rows; r++)
        memcpy(ids + (int64_t)(first + r) * w->window + 1, w->fresh + (int64_t)r * (w->window - 1),
               (size_t)(w->window - 1) * sizeof *ids);
    return status;
}

/* eos_token_id of config.json: a number or a list of numbers. */
static void read_stops(writer *w) {
    const json_t *eos = json_object_get(w->model->origin->config.json, "eos_token_id");
    size_t count = json_is_array(eos) ? json_array_size(eos) : json_is_integer(eos);
    for (size_t i = 0; i < count && w->stop_count < 8; i++) {
        const json_t *id = json_is_array(eos) ? json_array_get(eos, i) : eos;
        if (json_is_integer(id)) w->stop[w->stop_count++] = (int32_t)json_integer_value(id);
    }
}

lr_status lr_self_text(const lr_model *model, uint64_t seed, int32_t samples, int32_t window,
                       int32_t *ids) {
    lr_status status = LR_OK;
    char *path = NULL;
    writer w = {.model = model, .seed = seed, .samples = samples, .window = window};
    if (!model || !ids || samples < 1 || window < 2)
        return lr__fail(LR_E_INVALID, "lr_self_text: %d samples of %d tokens", samples, window);
    size_t count = (size_t)samples * (size_t)window;
    LR_TRY(cache_path(&path, model, seed, samples, window));
    if (read_cache(path, ids, count, model->origin->config.vocabulary_size)) goto done;
    LR_TRY(lr_model_tokenizer(model, &w.tokenizer));
    read_stops(&w);
    LR_TRY(lr__new(&w.fresh, (size_t)ROWS_AT_ONCE * (size_t)window, sizeof *w.fresh));
    LR_TRY(lr__new(&w.counts, ROWS_AT_ONCE, sizeof *w.counts));
    for (int32_t first = 0; first < samples; first += ROWS_AT_ONCE) {
        int32_t rows = samples - first < ROWS_AT_ONCE ? samples - first : ROWS_AT_ONCE;
        LR_TRY(write_rows(&w, first, rows, ids));
    }
    write_cache(model, path, ids, count);
done:
    lr__free(w.fresh);
    lr__free(w.counts);
    lr__free(path);
    return status;
}
