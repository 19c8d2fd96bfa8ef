/*
 * The work folder: for each finished block a safetensors file with the tensors of its modules and,
 * in the metadata, their structure and what became of them; "work.json" says which run they belong
 * to, by a hash of everything the factors depend on.
 */
#include "format/safetensors.h"
#include "model/save.h"
#include "model/structure.h"
#include "run/blocks.h"
#include "run/model_hash.h"

#define XXH_INLINE_ALL
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { NAME_SIZE = 320, JSON_MOST = 1 << 20 };

static const char format_name[] = "lowrank-work";

static void hash_text(XXH3_state_t *state, const char *text) {
    XXH3_128bits_update(state, text, strlen(text) + 1);
}

static void run_hash(const lr__blocks *b, char out[LR__HASH_SIZE]) {
    XXH3_state_t state;
    char model[LR__HASH_SIZE];
    XXH3_128bits_reset(&state);
    lr__model_hash(b->model, model);
    hash_text(&state, model);
    hash_text(&state, b->opts.method);
    XXH3_128bits_update(&state, &b->model->ctx->opts.seed, sizeof b->model->ctx->opts.seed);
    XXH3_128bits_update(&state, &b->sequential, sizeof b->sequential);
    XXH3_128bits_update(&state, &b->opts.blend, sizeof b->opts.blend);
    hash_text(&state, b->opts.statistic ? b->opts.statistic : "");
    XXH3_128bits_update(&state, &b->opts.alpha, sizeof b->opts.alpha);
    XXH3_128bits_update(&state, &b->opts.refits, sizeof b->opts.refits);
    XXH3_128bits_update(&state, &b->opts.dtype, sizeof b->opts.dtype);
    XXH3_128bits_update(&state, &b->opts.randomised, sizeof b->opts.randomised);
    for (int32_t i = 0; i < b->plan->count; i++) {
        hash_text(&state, b->plan->modules[i]);
        XXH3_128bits_update(&state, &b->plan->items[i], sizeof b->plan->items[i]);
    }
    for (int32_t i = 0; i < b->text_count; i++) {
        const lr_text *t = &b->texts[i];
        XXH3_128bits_update(&state, &t->window, sizeof t->window);
        XXH3_128bits_update(&state, &t->weight, sizeof t->weight);
        XXH3_128bits_update(&state, &t->count, sizeof t->count);
        XXH3_128bits_update(&state, t->ids, t->count * sizeof *t->ids);
    }
    XXH128_hash_t hash = XXH3_128bits_digest(&state);
    snprintf(out, LR__HASH_SIZE, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
}

/* <work>/<block>.safetensors */
static lr_status path_of(char **out, const lr__blocks *b, const char *block) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s.safetensors", block);
    return lr__path_join(out, b->opts.work, name);
}

static int is_empty_folder(const char *path) {
    DIR *folder = opendir(path);
    int entries = 0;
    while (folder && readdir(folder)) entries++;
    if (folder) closedir(folder);
    return folder && entries <= 2;
}

static lr_status forget_blocks(const lr__blocks *b) {
    for (int32_t i = 0; i < lr__blocks_layers(b); i++) {
        char *path;
        lr_status status = path_of(&path, b, b->graph->blocks[i].name);
        if (status < 0) return status;
        int failed = unlink(path) && errno != ENOENT;
        if (failed) status = lr__fail_errno(path, "remove");
        lr__free(path);
        if (failed) return status;
    }
    return LR_OK;
}

/* *is_same: the folder holds finished blocks of this very run. */
static lr_status read_owner(const lr__blocks *b, const char *path, const char *hash,
                            int32_t *is_same) {
    lr_status status = LR_OK;
    json_t *json = NULL;
    *is_same = 0;
    if (!lr__path_exists(path)) {
        LR_FAIL_IF(!is_empty_folder(b->opts.work), LR_E_EXISTS,
                   "%s: holds something else, expected an empty folder or unfinished work",
                   b->opts.work);
        return LR_OK;
    }
    LR_TRY(lr__json_read(&json, path, JSON_MOST));
    const char *format = json_string_value(json_object_get(json, "format"));
    const char *run = json_string_value(json_object_get(json, "run"));
    LR_FAIL_IF(!format || strcmp(format, format_name) || !run, LR_E_FORMAT,
               "%s: does not describe unfinished work", path);
    *is_same = !strcmp(run, hash);
done:
    json_decref(json);
    return status;
}

lr_status lr__work_begin(const lr__blocks *b) {
    lr_status status = LR_OK;
    char hash[LR__HASH_SIZE], *path = NULL;
    json_t *json = NULL;
    int32_t is_same = 0;
    if (!b->opts.work) return LR_OK;
    if (mkdir(b->opts.work, 0777) && errno != EEXIST) return lr__fail_errno(b->opts.work, "create");
    run_hash(b, hash);
    LR_TRY(lr__path_join(&path, b->opts.work, "work.json"));
    LR_TRY(read_owner(b, path, hash, &is_same));
    if (is_same) goto done;
    LR_TRY(forget_blocks(b));
    json = json_pack("{s:s, s:i, s:s}", "format", format_name, "version", 1, "run", hash);
    LR_FAIL_IF(!json, LR_E_NOMEM, "out of memory for JSON");
    status = lr__json_save(path, json, 2, 1);
done:
    json_decref(json);
    lr__free(path);
    return status;
}

static lr_status read_event(lr_compress_event *event, const lr__blocks *b, int32_t item,
                            const json_t *events, const char *path) {
    lr_status status = LR_OK;
    int32_t storage;
    const json_t *json = json_object_get(events, b->plan->modules[item]);
    *event = (lr_compress_event){.size = sizeof *event, .module = b->plan->modules[item]};
    if (lr__plan_find_storage(json_string_value(json_object_get(json, "storage")), &storage) >= 0)
        event->storage = lr__plan_storage_name(storage);
    LR_TRY(lr__json_int(json, "rank", &event->rank, path));
    LR_TRY(lr__json_int(json, "sharers", &event->sharers, path));
    LR_TRY(lr__json_real(json, "predicted", &event->predicted, path));
    LR_TRY(lr__json_real(json, "measured", &event->measured, path));
    LR_TRY(lr__json_real(json, "total", &event->total, path));
    LR_TRY(lr__json_real(json, "stored", &event->stored, path));
    LR_TRY(lr__json_real(json, "largest_mix", &event->largest_mix, path));
    LR_FAIL_IF(event->rank != b->plan->items[item].rank || !event->storage, LR_E_FORMAT,
               "%s: %s of rank %lld, expected %lld", path, event->module, (long long)event->rank,
               (long long)b->plan->items[item].rank);
done:
    return status;
}

/* JSON that stands as text in a file's metadata. */
static lr_status read_member(json_t **out, const json_t *metadata, const char *key,
                             const char *path) {
    const char *text = json_string_value(json_object_get(metadata, key));
    if (!text) return lr__fail(LR_E_FORMAT, "%s: no \"%s\" in its metadata", path, key);
    return lr__json_parse(out, text, strlen(text), path);
}

/* An open block: what is in its file. */
typedef struct finished {
    const char *path;
    json_t *metadata, *modules, *events;
    lr__stored_list tensors;
    lr__param_cache cache; /* modules of a block may share a factor */
} finished;

static lr_status take_module(finished *f, lr__blocks *b, int32_t item, int32_t is_new) {
    lr_status status = LR_OK;
    lr_linear *linear = NULL;
    lr_compress_event event;
    const char *name = b->plan->modules[item];
    const lr__rank_item *sizes = &b->plan->items[item];
    LR_TRY(read_event(&event, b, item, f->events, f->path));
    LR_TRY(lr__structure_read(&linear, b->model->ctx, name, sizes->out, sizes->in,
                              json_object_get(f->modules, name), &f->tensors, &f->cache));
    LR_TRY(lr_model_set_linear(b->draft, name, linear));
    if (!is_new) LR_TRY(lr__blocks_note(b, &event));
done:
    lr_linear_free(linear);
    return status;
}

static lr_status take_block(lr__blocks *b, const char *path, int32_t layer, int32_t is_new) {
    lr_status status = LR_OK;
    finished f = {.path = path};
    LR_TRY(lr__safetensors_add(&f.tensors, path, 0, &f.metadata));
    LR_TRY(read_member(&f.modules, f.metadata, "modules", path));
    LR_TRY(read_member(&f.events, f.metadata, "events", path));
    for (int32_t i = 0; i < LR__BLOCK_LINEARS; i++) {
        int32_t item = lr__blocks_item(b, layer, i);
        if (item >= 0) LR_TRY(take_module(&f, b, item, is_new));
    }
done:
    json_decref(f.metadata);
    json_decref(f.modules);
    json_decref(f.events);
    lr__param_cache_clear(&f.cache);
    lr__stored_list_clear(&f.tensors);
    return status;
}

lr_status lr__work_load(lr__blocks *b, int32_t layer, int32_t *found) {
    char *path = NULL;
    *found = 0;
    if (!b->opts.work || !lr__blocks_planned(b, layer, 0, LR__GROUPS)) return LR_OK;
    lr_status status = path_of(&path, b, b->graph->blocks[layer].name);
    if (status >= 0 && lr__path_exists(path)) {
        status = take_block(b, path, layer, 0);
        *found = 1;
    }
    lr__free(path);
    return status;
}

/* Adds what became of a module, its structure and its tensors. */
static lr_status put_module(const lr__blocks *b, const lr_compress_event *e, finished *f,
                            lr__outgoing_list *list) {
    lr_status status = LR_OK;
    lr_linear *linear = NULL;
    json_t *structure = NULL;
    json_t *event = json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:s}", "rank",
                              (json_int_t)e->rank, "sharers", (json_int_t)e->sharers, "predicted",
                              e->predicted, "measured", e->measured, "stored", e->stored, "total",
                              e->total, "largest_mix", e->largest_mix, "storage", e->storage);
    LR_TRY(lr__json_set(f->events, e->module, event));
    LR_TRY(lr_model_find_linear(b->draft, e->module, &linear));
    LR_TRY(lr__outgoing_linear(&structure, list, linear, 0));
    LR_FAIL_IF(json_object_set(f->modules, e->module, structure), LR_E_NOMEM,
               "out of memory for JSON");
done:
    json_decref(structure);
    lr_linear_free(linear);
    return status;
}

static lr_status describe(finished *f) {
    lr_status status = LR_OK;
    char *modules = NULL, *events = NULL;
    LR_TRY(lr__json_text(&modules, f->modules, 0));
    LR_TRY(lr__json_text(&events, f->events, 0));
    f->metadata =
        json_pack("{s:s, s:s, s:s}", "format", "pt", "modules", modules, "events", events);
    LR_FAIL_IF(!f->metadata, LR_E_NOMEM, "out of memory for JSON");
done:
    lr__free(modules);
    lr__free(events);
    return status;
}

static lr_status put_block(const lr__blocks *b, const char *path) {
    lr_status status = LR_OK;
    lr__output output = {0};
    finished f = {.path = path, .modules = json_object(), .events = json_object()};
    lr__outgoing_list list = {.ctx = b->model->ctx, .dtype = LR_F32};
    LR_FAIL_IF(!f.modules || !f.events, LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(lr__output_begin(&output, path, 0, 1));
    for (int32_t i = 0; i < b->event_count; i++) LR_TRY(put_module(b, &b->events[i], &f, &list));
    LR_TRY(describe(&f));
    LR_TRY(lr__outgoing_write(&list, 0, list.count, output.staging, f.metadata));
    LR_TRY(lr__output_commit(&output));
done:
    json_decref(f.metadata);
    json_decref(f.modules);
    json_decref(f.events);
    lr__outgoing_clear(&list);
    lr__output_end(&output);
    return status;
}

lr_status lr__work_save(lr__blocks *b, int32_t layer) {
    lr_status status = LR_OK;
    char *path = NULL;
    if (!b->opts.work || !b->event_count) return LR_OK;
    LR_TRY(path_of(&path, b, b->graph->blocks[layer].name));
    LR_TRY(put_block(b, path));
    LR_TRY(take_block(b, path, layer, 1));
done:
    lr__free(path);
    return status;
}
