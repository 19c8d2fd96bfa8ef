/* Losses and trials as tables. The command sets no locale, so a number has its point. */
#include "cli/train_log.h"

#include "cli/staged.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { COLUMNS = 8, TRIAL_COLUMNS = 3, LINE_ROOM = 512 };
static const char header[] = "step,loss,next_token,divergence,hidden,norm,learning_rate,seconds\n";
static const char trial_header[] = "step,perplexity,kl,text\n";

/* One more element of `bytes` in an array that doubles. */
static int grow(void *array, size_t count, size_t *room, size_t bytes) {
    void **items = array;
    if (count < *room) return CODE_DONE;
    size_t wanted = *room ? 2 * *room : 64;
    void *larger = realloc(*items, wanted * bytes);
    if (!larger) return report_nomem();
    *items = larger;
    *room = wanted;
    return CODE_DONE;
}

static int add_row(train_log *log, const train_row *row) {
    int code;
    TRY(grow(&log->rows, log->count, &log->room, sizeof *row));
    log->rows[log->count++] = *row;
done:
    return code;
}

int train_log_add(train_log *log, const lr_train_event *e) {
    const train_row row = {e->step,   e->loss, e->next_token,    e->divergence,
                           e->hidden, e->norm, e->learning_rate, e->seconds};
    return add_row(log, &row);
}

int train_log_add_trial(train_log *log, const train_trial *trial) {
    int code;
    TRY(grow(&log->trials, log->trial_count, &log->trial_room, sizeof *trial));
    log->trials[log->trial_count++] = *trial;
done:
    return code;
}

/* ---- reading ---- */

static int read_numbers(char *line, double *numbers, int count) {
    char *rest = line;
    for (int i = 0; i < count; i++) {
        const char *word = strsep(&rest, ",\n");
        if (!word || !args_number(word, &numbers[i])) return 0;
    }
    return 1;
}

static int take_row(train_log *log, char *line, int64_t last) {
    double n[COLUMNS];
    if (!read_numbers(line, n, COLUMNS) || n[0] > (double)last) return CODE_DONE;
    const train_row row = {(int64_t)n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]};
    return add_row(log, &row);
}

/* Which text a row is of is told by its place among those of its step. */
static int take_trial(train_log *log, char *line, int64_t last) {
    double n[TRIAL_COLUMNS];
    const train_trial *before = log->trial_count ? &log->trials[log->trial_count - 1] : NULL;
    if (!read_numbers(line, n, TRIAL_COLUMNS) || n[0] > (double)last) return CODE_DONE;
    train_trial trial = {.step = (int64_t)n[0], .perplexity = n[1], .kl = n[2]};
    trial.text = before && before->step == trial.step ? before->text + 1 : 0;
    return trial.text < log->texts->count ? train_log_add_trial(log, &trial) : CODE_DONE;
}

static int open_table(train_log *log, const char *folder, const char *name, int64_t last,
                      int (*take)(train_log *, char *, int64_t)) {
    char line[LINE_ROOM], *path = NULL;
    int code = CODE_DONE;
    if (asprintf(&path, "%s/%s", folder, name) < 0) return report_nomem();
    FILE *file = fopen(path, "rbe");
    free(path);
    if (!file) return CODE_DONE;
    while (!code && fgets(line, sizeof line, file)) code = take(log, line, last);
    fclose(file);
    return code;
}

/* What an earlier run's tables in the folder say up to step `last`, if there are any. */
static int open_tables(train_log *log, const char *folder, int64_t last) {
    int code;
    TRY(open_table(log, folder, "losses.csv", last, take_row));
    TRY(open_table(log, folder, "evaluations.csv", last, take_trial));
done:
    return code;
}

int train_log_resume(train_log *log, const cli_work *work, lr_optimizer *optimizer) {
    struct stat info;
    int code = CODE_DONE;
    if (stat(work->checkpoint, &info)) return CODE_DONE;
    TRY(report_status(lr_optimizer_restore(optimizer, work->checkpoint), WHILE_READING));
    TRY(open_tables(log, work->folder, lr_optimizer_steps(optimizer)));
done:
    return code;
}

/* ---- writing ---- */

static void put_rows(const train_log *log, FILE *out) {
    fputs(header, out);
    for (size_t i = 0; i < log->count; i++) {
        const train_row *r = &log->rows[i];
        fprintf(out, "%lld,%.17g,%.17g,%.17g,%.17g,%.17g,%.17g,%.17g\n", (long long)r->step,
                r->loss, r->next_token, r->divergence, r->hidden, r->norm, r->learning_rate,
                r->seconds);
    }
}

/* Quoted as RFC 4180 says; a row stays one line, whatever a file is called. */
static void put_quoted(const char *text, FILE *out) {
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"') fputc('"', out);
        fputc((unsigned char)*text < ' ' ? '?' : *text, out);
    }
    fputs("\"\n", out);
}

static void put_trials(const train_log *log, FILE *out) {
    fputs(trial_header, out);
    for (size_t i = 0; i < log->trial_count; i++) {
        const train_trial *t = &log->trials[i];
        fprintf(out, "%lld,%.17g,%.17g,", (long long)t->step, t->perplexity, t->kl);
        put_quoted(log->texts->items[t->text], out);
    }
}

int train_log_write(const train_log *log, const char *folder, const char *name,
                    void (*put)(const train_log *, FILE *)) {
    staged_file file = {0};
    char *path = NULL;
    int code;
    if (asprintf(&path, "%s/%s", folder, name) < 0) return report_nomem();
    TRY(staged_begin(&file, path, 1));
    put(log, file.out);
    TRY(staged_commit(&file));
done:
    staged_end(&file);
    free(path);
    return code;
}

int train_log_save(const train_log *log, const char *folder) {
    int code;
    if (log->trial_count) TRY(train_log_write(log, folder, "evaluations.csv", put_trials));
    TRY(train_log_write(log, folder, "losses.csv", put_rows));
done:
    return code;
}

int train_log_put(const train_log *log, json_t *result) {
    json_t *losses = json_array();
    int code;
    TRY(report_put(result, "losses", losses));
    for (size_t i = 0; i < log->count; i++)
        if (json_array_append_new(losses, json_real(log->rows[i].loss))) TRY(report_nomem());
done:
    return code;
}

void train_log_end(train_log *log) {
    free(log->rows);
    free(log->trials);
    *log = (train_log){0};
}
