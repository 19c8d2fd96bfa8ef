/*
 * A distillation as a safetensors file. Beside the tensors of each module's optimizer there are, of
 * each module, `best.<module>` (binary32), `losses.<module>` and `course.<module>` (binary64). The
 * metadata holds "format", "version" and "step". A file is checked whole before a number of it is
 * taken up.
 */
#include "run/distill.h"

#include "optim/state.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char format_name[] = "lowrank distillation";

/* What stands in `course`. */
enum { LEAST, BEST_STEP, STALE, IS_DONE, ENERGY, HELD, START, STEPS, COURSE };

typedef struct part {
    char name[320];
    int32_t dtype;
    int64_t count;
    const void *numbers; /* to be written */
} part;

enum { BEST, LOSSES, NUMBERS, PARTS };

static void course_of(double course[COURSE], const lr__pupil *p) {
    course[LEAST] = p->least;
    course[BEST_STEP] = (double)p->best_step;
    course[STALE] = p->stale;
    course[IS_DONE] = p->is_done;
    course[ENERGY] = p->energy;
    course[HELD] = p->held;
    course[START] = p->start;
    course[STEPS] = (double)lr_optimizer_steps(p->optimizer);
}

static part part_of(const lr__pupil *p, int which, const double *course) {
    static const char *const names[PARTS] = {"best", "losses", "course"};
    const part parts[PARTS] = {
        {.dtype = LR_F32, .count = lr_optimizer_numbers(p->optimizer), .numbers = p->best},
        {.dtype = LR_F64, .count = (int64_t)p->calls, .numbers = p->losses},
        {.dtype = LR_F64, .count = COURSE, .numbers = course}};
    part found = parts[which];
    snprintf(found.name, sizeof found.name, "%s.%s", names[which], lr_linear_name(p->linear));
    return found;
}

/* ---- saving ---- */

static lr_status declare(const lr__pupil *p, lr__safetensors_writer *writer) {
    lr_status status = LR_OK;
    for (int i = 0; i < PARTS; i++) {
        part found = part_of(p, i, NULL);
        LR_TRY(lr__safetensors_declare(writer, found.name, found.dtype, 1, &found.count));
    }
    status = lr__state_declare(p->optimizer, writer);
done:
    return status;
}

static lr_status put(const lr__pupil *p, lr__safetensors_writer *writer) {
    lr_status status = LR_OK;
    double course[COURSE];
    course_of(course, p);
    for (int i = 0; i < PARTS; i++) {
        part found = part_of(p, i, course);
        size_t bytes = (size_t)found.count * (found.dtype == LR_F64 ? 8 : 4);
        LR_TRY(lr__safetensors_put(writer, found.numbers, bytes));
    }
    status = lr__state_put(p->optimizer, writer);
done:
    return status;
}

static lr_status write_file(const lr__pupil *pupils, int32_t count, int64_t step,
                            const char *path) {
    lr_status status = LR_OK;
    lr__safetensors_writer *writer = NULL;
    char made[24];
    snprintf(made, sizeof made, "%lld", (long long)step);
    json_t *metadata =
        json_pack("{s:s, s:s, s:s}", "format", format_name, "version", "1", "step", made);
    LR_FAIL_IF(!metadata, LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(lr__safetensors_new(&writer));
    for (int32_t i = 0; i < count; i++) LR_TRY(declare(&pupils[i], writer));
    LR_TRY(lr__safetensors_begin(writer, path, metadata));
    for (int32_t i = 0; i < count; i++) LR_TRY(put(&pupils[i], writer));
    LR_TRY(lr__safetensors_finish(writer));
done:
    lr__safetensors_free(writer);
    json_decref(metadata);
    return status;
}

lr_status lr__pupils_save(const lr__pupil *pupils, int32_t count, int64_t step, const char *path) {
    lr_status status = LR_OK;
    lr__output output = {0};
    LR_TRY(lr__output_begin(&output, path, 0, 1));
    LR_TRY(write_file(pupils, count, step, output.staging));
    LR_TRY(lr__output_commit(&output));
done:
    lr__output_end(&output);
    return status;
}

/* ---- restoring ---- */

/* What a file has of a module. */
typedef struct record {
    lr__state_found state;
    const lr__stored *parts[PARTS];
} record;

static lr_status find_part(const lr__stored **out, const lr__pupil *p, int which, int64_t step,
                           const lr__stored_list *list, const char *path) {
    part wanted = part_of(p, which, NULL);
    const lr__stored *found = *out = lr__stored_find(list, wanted.name);
    if (!found) return lr__fail(LR_E_FORMAT, "%s: no tensor \"%s\"", path, wanted.name);
    int64_t count = found->ndim == 1 ? found->shape[0] : -1;
    int is_whole = which == LOSSES ? count >= 1 && count <= step : count == wanted.count;
    if (found->dtype != wanted.dtype || !is_whole)
        return lr__fail(LR_E_FORMAT, "%s: tensor \"%s\" of another type or shape", path,
                        wanted.name);
    for (int64_t i = 0; i < count; i++) {
        double number = wanted.dtype == LR_F64 ? ((const double *)found->data)[i]
                                               : (double)((const float *)found->data)[i];
        if (!isfinite(number))
            return lr__fail(LR_E_NUMERIC, "%s: tensor \"%s\": number %lld is %g", path, wanted.name,
                            (long long)i, number);
    }
    return LR_OK;
}

/* A whole number from 0 to most. */
static int counts(double number, double most) {
    return number >= 0 && number <= most && number == floor(number);
}

static lr_status check_course(const record *r, const lr__pupil *p, const char *path) {
    const double *course = r->parts[NUMBERS]->data;
    double calls = (double)r->parts[LOSSES]->shape[0];
    if (counts(course[IS_DONE], 1) && counts(course[STEPS], calls) &&
        counts(course[BEST_STEP], course[STEPS]) && counts(course[STALE], calls) &&
        course[STEPS] + course[IS_DONE] >= calls)
        return LR_OK;
    return lr__fail(LR_E_FORMAT, "%s: %s: steps %g, best %g, stale %g, done %g of %g calls", path,
                    lr_linear_name(p->linear), course[STEPS], course[BEST_STEP], course[STALE],
                    course[IS_DONE], calls);
}

static lr_status find_record(record *r, const lr__pupil *p, int64_t step,
                             const lr__stored_list *list, const char *path) {
    lr_status status = LR_OK;
    for (int i = 0; i < PARTS; i++) LR_TRY(find_part(&r->parts[i], p, i, step, list, path));
    LR_TRY(check_course(r, p, path));
    status = lr__state_find(&r->state, p->optimizer, list, path);
done:
    return status;
}

/* Room for the losses was made before. */
static void take(lr__pupil *p, const record *r) {
    const double *course = r->parts[NUMBERS]->data;
    memcpy(p->best, r->parts[BEST]->data, r->parts[BEST]->bytes);
    memcpy(p->losses, r->parts[LOSSES]->data, r->parts[LOSSES]->bytes);
    p->calls = (size_t)r->parts[LOSSES]->shape[0];
    p->least = course[LEAST];
    p->best_step = (int64_t)course[BEST_STEP];
    p->stale = (int32_t)course[STALE];
    p->is_done = (int32_t)course[IS_DONE];
    p->energy = course[ENERGY];
    p->held = course[HELD];
    p->start = course[START];
    lr__state_take(p->optimizer, &r->state, (int64_t)course[STEPS]);
}

static lr_status read_step(const json_t *metadata, int64_t most, int64_t *step, const char *path) {
    lr_status status = LR_OK;
    LR_TRY(lr__state_check_text(metadata, "format", format_name, path));
    LR_TRY(lr__state_check_text(metadata, "version", "1", path));
    LR_TRY(lr__state_read_count(metadata, "step", step, path));
    LR_FAIL_IF(*step > most, LR_E_INVALID, "%s: %lld steps were made, expected at most %lld", path,
               (long long)*step, (long long)most);
done:
    return status;
}

lr_status lr__pupils_restore(lr__pupil *pupils, int32_t count, int64_t most, int64_t *step,
                             const char *path) {
    lr_status status = LR_OK;
    lr__stored_list list = {0};
    json_t *metadata = NULL;
    record *records = NULL;
    size_t found = 0;
    LR_TRY(lr__new(&records, (size_t)count, sizeof *records));
    LR_TRY(lr__safetensors_add(&list, path, 0, &metadata));
    LR_TRY(read_step(metadata, most, step, path));
    for (int32_t i = 0; i < count; i++) {
        record *r = &records[i];
        LR_TRY(find_record(r, &pupils[i], *step, &list, path));
        LR_TRY(lr__grow(&pupils[i].losses, &pupils[i].room, (size_t)r->parts[LOSSES]->shape[0],
                        sizeof *pupils[i].losses));
        found += r->state.count + PARTS;
    }
    LR_FAIL_IF(found != list.count, LR_E_FORMAT, "%s: %zu tensors, expected %zu", path, list.count,
               found);
    for (int32_t i = 0; i < count; i++) take(&pupils[i], &records[i]);
done:
    for (int32_t i = 0; records && i < count; i++) lr__state_clear(&records[i].state);
    lr__free(records);
    json_decref(metadata);
    lr__stored_list_clear(&list);
    return status;
}
