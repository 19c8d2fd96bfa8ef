/* Losses of the modules of a distillation. A loss relative to the energy of what was to be met is
 * free of the scale of a module, so that one mean can stand for all. */
#include "cli/distill_log.h"

#include "cli/staged.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static distill_row *row_of(distill_log *log, const char *module) {
    for (size_t i = 0; i < log->count; i++)
        if (strcmp(log->rows[i].module, module) == 0) return &log->rows[i];
    return NULL;
}

static distill_row *add_row(distill_log *log, const char *module) {
    if (log->count == log->room) {
        size_t room = log->room ? 2 * log->room : 64;
        distill_row *rows = realloc(log->rows, room * sizeof *rows);
        if (!rows) return NULL;
        log->rows = rows;
        log->room = room;
    }
    distill_row *row = &log->rows[log->count];
    *row = (distill_row){.module = strdup(module), .tail = -1};
    if (!row->module) return NULL;
    log->count++;
    return row;
}

int distill_log_begin(distill_log *log, const char *module, int64_t rank, double tail) {
    distill_row *row = row_of(log, module);
    if (!row) row = add_row(log, module);
    if (!row) return report_nomem();
    row->rank = rank;
    if (tail >= 0) row->tail = tail;
    return CODE_DONE;
}

static double relative(double loss, const lr_distill_event *e) {
    return e->energy > 0 ? loss / e->energy : 0;
}

static void tell_step(distill_log *log) {
    char line[120];
    if (!log->told || log->is_quiet) return;
    snprintf(line, sizeof line, "step %lld: relative loss %.6f, mean of %d modules",
             (long long)log->step, log->sum / log->told, log->told);
    report_log(LR_LOG_INFO, line, NULL);
}

static int keep_last(distill_log *log, const lr_distill_event *e) {
    size_t bytes = (size_t)e->step * sizeof *e->losses;
    distill_row *row = row_of(log, e->module);
    if (!row) row = add_row(log, e->module);
    if (!row) return report_nomem();
    row->last = *e;
    row->losses = malloc(bytes);
    if (!row->losses) return report_nomem();
    memcpy(row->losses, e->losses, bytes);
    return CODE_DONE;
}

int distill_log_note(distill_log *log, const lr_distill_event *e) {
    if (log->step != e->step || e->is_last) {
        tell_step(log);
        log->step = e->step;
        log->sum = 0;
        log->told = 0;
    }
    if (e->is_last) return keep_last(log, e);
    log->sum += relative(e->loss, e);
    log->told++;
    return CODE_DONE;
}

/* ---- files ---- */

static int save_row(const distill_row *row, const char *folder) {
    staged_file file = {0};
    char *path = NULL;
    int code = CODE_DONE;
    if (asprintf(&path, "%s/%s.losses", folder, row->module) < 0) return report_nomem();
    TRY(staged_begin(&file, path, 1));
    for (int64_t i = 0; i < row->last.step; i++)
        fprintf(file.out, "%s%.17g", i ? "\n" : "", row->losses[i]);
    TRY(staged_commit(&file));
done:
    staged_end(&file);
    free(path);
    return code;
}

int distill_log_save(const distill_log *log, const char *folder) {
    int code = CODE_DONE;
    if (mkdir(folder, 0777)) return report_fail(CODE_FAILED, "%s: %s", folder, strerror(errno));
    for (size_t i = 0; i < log->count && !code; i++)
        if (log->rows[i].losses) code = save_row(&log->rows[i], folder);
    return code;
}

/* ---- the result ---- */

/* A loss that is not there, or none at all. */
static int put_loss(json_t *object, const char *key, double loss) {
    return loss < 0 ? CODE_DONE : report_real(object, key, loss);
}

static int put_row(json_t *modules, const distill_row *row) {
    const lr_distill_event *e = &row->last;
    json_t *about = json_object();
    int code = about ? CODE_DONE : report_nomem();
    if (json_array_append_new(modules, about)) return report_nomem();
    TRY(code);
    TRY(report_put(about, "module", json_string(row->module)));
    TRY(report_count(about, "rank", row->rank));
    TRY(report_count(about, "steps", e->step));
    TRY(report_real(about, "first", row->losses[0]));
    TRY(report_real(about, "last", e->loss));
    TRY(put_loss(about, "start", e->start));
    TRY(put_loss(about, "best", e->best));
    TRY(report_count(about, "best_step", e->best_step));
    TRY(put_loss(about, "tail", row->tail));
    TRY(report_real(about, "energy", e->energy));
done:
    return code;
}

int distill_log_put(const distill_log *log, json_t *result) {
    json_t *modules = json_array(), *mean = json_object();
    double first = 0, last = 0;
    int count = 0, code;
    TRY(report_put(result, "modules", modules));
    for (size_t i = 0; i < log->count; i++) {
        const distill_row *row = &log->rows[i];
        if (!row->losses) continue;
        TRY(put_row(modules, row));
        first += relative(row->losses[0], &row->last);
        last += relative(row->last.loss, &row->last);
        count++;
    }
    TRY(report_put(result, "relative_loss", json_incref(mean)));
    TRY(report_real(mean, "first", count ? first / count : 0));
    TRY(report_real(mean, "last", count ? last / count : 0));
done:
    json_decref(mean);
    return code;
}

void distill_log_end(distill_log *log) {
    for (size_t i = 0; i < log->count; i++) {
        free(log->rows[i].module);
        free(log->rows[i].losses);
    }
    free(log->rows);
    *log = (distill_log){0};
}
