/* Work folders. */
#include "cli/work.h"

#include "cli/staged.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char settings_name[] = "settings.json";

int work_name(char **path, const char *out) {
    size_t room = strlen(out) + sizeof "..lowrank-work", length = strlen(out);
    while (length > 1 && out[length - 1] == '/') length--;
    size_t start = length;
    while (start > 0 && out[start - 1] != '/') start--;
    *path = malloc(room);
    if (!*path) return report_nomem();
    snprintf(*path, room, "%.*s.%.*s.lowrank-work", (int)start, out, (int)(length - start),
             out + start);
    return CODE_DONE;
}

void work_remove(const char *path) {
    DIR *folder = opendir(path);
    const struct dirent *entry;
    if (!folder) return;
    while ((entry = readdir(folder)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
    rmdir(path);
}

/* Whether a folder has entries beside the file of that name. */
static int holds_more_than(const char *path, const char *name) {
    DIR *folder = opendir(path);
    const struct dirent *entry;
    int found = 0;
    if (!folder) return 0;
    while (!found && (entry = readdir(folder)))
        found = strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") &&
                strcmp(entry->d_name, name);
    closedir(folder);
    return found;
}

static int exists(const char *path) {
    struct stat info;
    return !stat(path, &info);
}

int work_open(cli_work *w, cli_job *job, const char *out) {
    int code;
    TRY(work_name(&w->folder, out));
    if (asprintf(&w->checkpoint, "%s/checkpoint.safetensors", w->folder) < 0 ||
        asprintf(&w->statistics, "%s/statistics.safetensors", w->folder) < 0 ||
        asprintf(&w->settings, "%s/%s", w->folder, settings_name) < 0 ||
        asprintf(&w->saving, "%s/saving", w->folder) < 0)
        return report_nomem();
    w->was_saving = w->resume && exists(w->saving);
    if (w->was_saving) job->force = 1;
    code = job_check_output(job, out);
done:
    return code;
}

static int compare_settings(const cli_work *w, const json_t *now) {
    json_error_t where;
    json_t *then = json_load_file(w->settings, 0, &where);
    const char *key;
    json_t *value;
    int code = CODE_DONE;
    if (!then) return report_fail(CODE_INPUT, "%s: %s", w->settings, where.text);
    json_object_foreach((json_t *)now, key, value) {
        if (code || json_equal(value, json_object_get(then, key))) continue;
        int is_option = strcmp(key, "model") != 0;
        code = report_fail(CODE_USAGE,
                           "--resume: the run that was interrupted had another %s%s; --force "
                           "begins anew",
                           is_option ? "--" : "", is_option ? key : "MODEL");
    }
    json_decref(then);
    return code;
}

static int write_settings(const cli_work *w, const json_t *now) {
    staged_file file = {0};
    int code;
    TRY(staged_begin(&file, w->settings, 1));
    if (json_dumpf(now, file.out, JSON_INDENT(1))) TRY(report_nomem());
    TRY(staged_commit(&file));
done:
    staged_end(&file);
    return code;
}

/* Whether lr_compress_texts() has left its blocks there. */
static int holds_blocks(const cli_work *w) {
    char *path;
    if (asprintf(&path, "%s/work.json", w->folder) < 0) return 0;
    int found = exists(path);
    free(path);
    return found;
}

static int make_folder(const cli_work *w, const cli_job *job, const json_t *settings) {
    int code;
    if (exists(w->settings) && !job->force)
        return report_fail(CODE_FAILED,
                           "%s: holds an unfinished run; --resume goes on with it, "
                           "--force begins anew",
                           w->folder);
    if (holds_blocks(w) && !job->force)
        return report_fail(
            CODE_FAILED, "%s: holds unfinished work of compress; --force takes it away", w->folder);
    work_remove(w->folder);
    if (mkdir(w->folder, 0777))
        return report_fail(CODE_FAILED, "%s: %s", w->folder, strerror(errno));
    TRY(write_settings(w, settings));
done:
    return code;
}

int work_begin(cli_work *w, const cli_job *job, json_t *settings) {
    int code = settings ? CODE_DONE : report_nomem();
    TRY(code);
    if (exists(w->settings) && w->resume)
        TRY(compare_settings(w, settings));
    else
        TRY(make_folder(w, job, settings));
    w->is_held = 1;
done:
    json_decref(settings);
    return code;
}

static int mark_saving(const cli_work *w) {
    staged_file file = {0};
    int code;
    TRY(staged_begin(&file, w->saving, 1));
    TRY(staged_commit(&file));
done:
    staged_end(&file);
    return code;
}

/* An output that came to be meanwhile, or that was not written, is nobody's to replace. */
int work_save(const cli_work *w, const cli_job *job, const lr_model *model, const char *out) {
    int code;
    TRY(job_check_output(job, out));
    TRY(mark_saving(w));
    code = job_save(job, model, out);
    if (code && !w->was_saving) unlink(w->saving);
done:
    return code;
}

void work_done(cli_work *w) {
    unlink(w->saving); /* first: from here on the output is whole */
    work_remove(w->folder);
    w->is_held = 0;
}

void work_end(cli_work *w) {
    if (w->is_held && !holds_more_than(w->folder, settings_name)) work_remove(w->folder);
    free(w->folder);
    free(w->checkpoint);
    free(w->statistics);
    free(w->settings);
    free(w->saving);
}
