/*
 * An optimizer as a safetensors file: `values.<i>.<name>` and, where the rule keeps state,
 * `state.<i>.<name>` [state numbers, numbers] for parameter i, all binary32. The metadata holds
 * "format", "version", "rule", "state" and "step". A file is checked whole before a number of it is
 * taken up.
 */
#include "optim/state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char format_name[] = "lowrank optimizer";
static const char *const rules[] = {[LR_ADAMW] = "adamw", [LR_SGD] = "sgd", [LR_OWN_RULE] = "own"};

enum { VALUES, STATE, PARTS };

static const int64_t most_steps = (int64_t)1 << 53;

/* One tensor of the file: name (freed by lr__free), shape, numbers. */
typedef struct piece {
    char *name;
    int32_t ndim;
    int64_t shape[2];
    int64_t count;
    float *numbers; /* NULL: there is no such tensor */
    size_t slot;    /* index * PARTS + part */
} piece;

static lr_status piece_of(piece *out, const lr_optimizer *optimizer, size_t index, int part) {
    const lr__trained *item = &optimizer->items[index];
    const lr__matrix *m = &item->param->matrix;
    size_t room = strlen(item->param->name) + 40;
    int64_t arrays = lr__optimizer_state_numbers(&optimizer->opts);
    lr_status status = LR_OK;
    *out = (piece){.ndim = item->param->ndim,
                   .shape = {m->rows, m->cols},
                   .count = item->count,
                   .numbers = lr__param_floats(item->param)};
    if (part == STATE)
        *out = (piece){.ndim = 2,
                       .shape = {arrays, item->count},
                       .count = arrays * item->count,
                       .numbers = item->state};
    out->slot = index * PARTS + (size_t)part;
    LR_TRY(lr__new(&out->name, room, 1));
    snprintf(out->name, room, "%s.%zu.%s", part == STATE ? "state" : "values", index,
             item->param->name);
done:
    return status;
}

/* Calls fn for every tensor there is. */
typedef lr_status (*piece_fn)(const piece *p, void *user);

static lr_status each_piece(const lr_optimizer *optimizer, piece_fn fn, void *user) {
    lr_status status = LR_OK;
    for (size_t i = 0; i < optimizer->count && status >= 0; i++)
        for (int part = 0; part < PARTS && status >= 0; part++) {
            piece p;
            status = piece_of(&p, optimizer, i, part);
            if (status >= 0 && p.numbers) status = fn(&p, user);
            lr__free(p.name);
        }
    return status;
}

/* --- saving --- */

static json_t *metadata_of(const lr_optimizer *optimizer) {
    char step[24], state[24];
    snprintf(step, sizeof step, "%lld", (long long)optimizer->step);
    snprintf(state, sizeof state, "%d", lr__optimizer_state_numbers(&optimizer->opts));
    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "format", format_name, "version", "1", "rule",
                     rules[optimizer->opts.rule], "state", state, "step", step);
}

static lr_status declare(const piece *p, void *user) {
    return lr__safetensors_declare(user, p->name, LR_F32, p->ndim, p->shape);
}

static lr_status put(const piece *p, void *user) {
    for (int64_t i = 0; i < p->count; i++)
        if (!isfinite(p->numbers[i]))
            return lr__fail(LR_E_NUMERIC, "%s: number %lld is %g, not saved", p->name, (long long)i,
                            p->numbers[i]);
    return lr__safetensors_put(user, p->numbers, (size_t)p->count * sizeof *p->numbers);
}

lr_status lr__state_declare(const lr_optimizer *optimizer, lr__safetensors_writer *writer) {
    return each_piece(optimizer, declare, writer);
}

lr_status lr__state_put(const lr_optimizer *optimizer, lr__safetensors_writer *writer) {
    return each_piece(optimizer, put, writer);
}

static lr_status write_file(const lr_optimizer *optimizer, const char *path) {
    lr_status status = LR_OK;
    lr__safetensors_writer *writer = NULL;
    json_t *metadata = metadata_of(optimizer);
    LR_FAIL_IF(!metadata, LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(lr__safetensors_new(&writer));
    LR_TRY(lr__state_declare(optimizer, writer));
    LR_TRY(lr__safetensors_begin(writer, path, metadata));
    LR_TRY(lr__state_put(optimizer, writer));
    LR_TRY(lr__safetensors_finish(writer));
done:
    lr__safetensors_free(writer);
    json_decref(metadata);
    return status;
}

lr_status lr_optimizer_save(const lr_optimizer *optimizer, const char *path, int32_t force) {
    lr_status status = LR_OK;
    lr__output output = {0};
    if (!optimizer || !path)
        return lr__fail(LR_E_INVALID, "lr_optimizer_save: optimizer and path are needed");
    LR_TRY(lr__output_begin(&output, path, 0, force));
    LR_TRY(write_file(optimizer, output.staging));
    LR_TRY(lr__output_commit(&output));
done:
    lr__output_end(&output);
    return status;
}

/* --- restoring --- */

typedef struct reader {
    const lr__stored_list *list;
    const char *path;
    lr__state_found *found;
} reader;

lr_status lr__state_check_text(const json_t *metadata, const char *key, const char *expected,
                               const char *path) {
    const char *text = json_string_value(json_object_get(metadata, key));
    if (text && !strcmp(text, expected)) return LR_OK;
    return lr__fail(LR_E_FORMAT, "%s: %s \"%s\", expected \"%s\"", path, key, text ? text : "",
                    expected);
}

lr_status lr__state_read_count(const json_t *metadata, const char *key, int64_t *count,
                               const char *path) {
    const char *text = json_string_value(json_object_get(metadata, key));
    *count = 0;
    if (!text || !*text) return lr__fail(LR_E_FORMAT, "%s: no \"%s\" in its metadata", path, key);
    for (const char *c = text; *c; c++) {
        if (*c < '0' || *c > '9' || *count > most_steps / 10)
            return lr__fail(LR_E_FORMAT, "%s: %s \"%s\", expected a whole number", path, key, text);
        *count = *count * 10 + (*c - '0');
    }
    return LR_OK;
}

static lr_status read_metadata(const lr_optimizer *optimizer, const json_t *metadata, int64_t *step,
                               const char *path) {
    char state[24];
    lr_status status = LR_OK;
    snprintf(state, sizeof state, "%d", lr__optimizer_state_numbers(&optimizer->opts));
    LR_TRY(lr__state_check_text(metadata, "format", format_name, path));
    LR_TRY(lr__state_check_text(metadata, "version", "1", path));
    LR_TRY(lr__state_check_text(metadata, "rule", rules[optimizer->opts.rule], path));
    LR_TRY(lr__state_check_text(metadata, "state", state, path));
    LR_TRY(lr__state_read_count(metadata, "step", step, path));
done:
    return status;
}

static lr_status check_piece(const piece *p, void *user) {
    reader *r = user;
    const lr__stored *stored = lr__stored_find(r->list, p->name);
    if (!stored) return lr__fail(LR_E_FORMAT, "%s: no tensor \"%s\"", r->path, p->name);
    int is_same = stored->dtype == LR_F32 && stored->ndim == p->ndim;
    for (int32_t d = 0; d < p->ndim && is_same; d++) is_same = stored->shape[d] == p->shape[d];
    if (!is_same)
        return lr__fail(LR_E_FORMAT,
                        "%s: tensor \"%s\" of another shape, expected [%lld, %lld] f32", r->path,
                        p->name, (long long)p->shape[0], (long long)p->shape[1]);
    const float *numbers = stored->data;
    for (int64_t i = 0; i < p->count; i++)
        if (!isfinite(numbers[i]))
            return lr__fail(LR_E_NUMERIC, "%s: tensor \"%s\": number %lld is %g", r->path, p->name,
                            (long long)i, numbers[i]);
    r->found->data[p->slot] = numbers;
    r->found->count++;
    return LR_OK;
}

static lr_status check_squares(const lr_optimizer *optimizer, const reader *r) {
    for (size_t i = 0; i < optimizer->count; i++) {
        const lr__trained *item = &optimizer->items[i];
        const float *squares = r->found->data[i * PARTS + STATE] + item->count;
        for (int64_t at = 0; at < item->count; at++)
            if (squares[at] < 0)
                return lr__fail(LR_E_FORMAT, "%s: %s: a mean of squares of %g", r->path,
                                item->param->name, squares[at]);
    }
    return LR_OK;
}

lr_status lr__state_find(lr__state_found *found, const lr_optimizer *optimizer,
                         const lr__stored_list *list, const char *path) {
    reader r = {.list = list, .path = path, .found = found};
    lr_status status = LR_OK;
    *found = (lr__state_found){0};
    LR_TRY(lr__new(&found->data, optimizer->count * PARTS + 1, sizeof *found->data));
    LR_TRY(each_piece(optimizer, check_piece, &r));
    if (optimizer->opts.rule == LR_ADAMW) LR_TRY(check_squares(optimizer, &r));
done:
    return status;
}

void lr__state_clear(lr__state_found *found) { lr__free(found->data); }

void lr__state_take(lr_optimizer *optimizer, const lr__state_found *found, int64_t step) {
    size_t arrays = (size_t)lr__optimizer_state_numbers(&optimizer->opts);
    for (size_t i = 0; i < optimizer->count; i++) {
        lr__trained *item = &optimizer->items[i];
        size_t bytes = (size_t)item->count * sizeof(float);
        memcpy(lr__param_floats(item->param), found->data[i * PARTS + VALUES], bytes);
        if (item->state) memcpy(item->state, found->data[i * PARTS + STATE], bytes * arrays);
    }
    optimizer->step = step;
    lr_optimizer_zero(optimizer);
}

lr_status lr_optimizer_restore(lr_optimizer *optimizer, const char *path) {
    lr_status status = LR_OK;
    lr__stored_list list = {0};
    json_t *metadata = NULL;
    int64_t step;
    if (!optimizer || !path)
        return lr__fail(LR_E_INVALID, "lr_optimizer_restore: optimizer and path are needed");
    lr__state_found found = {0};
    LR_TRY(lr__safetensors_add(&list, path, 0, &metadata));
    LR_TRY(read_metadata(optimizer, metadata, &step, path));
    LR_TRY(lr__state_find(&found, optimizer, &list, path));
    LR_FAIL_IF(found.count != list.count, LR_E_FORMAT, "%s: %zu tensors, expected %zu", path,
               list.count, found.count);
    lr__state_take(optimizer, &found, step);
done:
    json_decref(metadata);
    lr__state_clear(&found);
    lr__stored_list_clear(&list);
    return status;
}
