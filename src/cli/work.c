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

static int exists(const char *path) {
    struct stat info;
    return !stat(path, &info);
}

int work_open(cli_work *w, cli_job *job, const char *out) {
    int code;
    TRY(work_name(&w->folder, out));
    if (asprintf(&w->checkpoint, "%s/checkpoint.safetensors", w->folder) < 0 ||
        asprintf(&w->settings, "%s/settings.json", w->folder) < 0 ||
        asprintf(&w->saving, "%s/saving", w->folder) < 0)
        return report_nomem();
    if (w->resume && exists(w->saving)) job->force = 1;
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
        code = report_fail(CODE_USAGE,
                           "--resume: the run that was interrupted had another --%s; --force "
                           "begins anew",
                           key);
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

int work_begin(const cli_work *w, const cli_job *job, json_t *settings) {
    int code = settings ? CODE_DONE : report_nomem();
    TRY(code);
    if (exists(w->settings) && w->resume) {
        TRY(compare_settings(w, settings));
    } else if (exists(w->settings) && !job->force) {
        TRY(report_fail(CODE_FAILED,
                        "%s: holds an unfinished run; --resume goes on with it, "
                        "--force begins anew",
                        w->folder));
    } else {
        work_remove(w->folder);
        if (mkdir(w->folder, 0777))
            TRY(report_fail(CODE_FAILED, "%s: %s", w->folder, strerror(errno)));
        TRY(write_settings(w, settings));
    }
done:
    json_decref(settings);
    return code;
}

int work_save(const cli_work *w) {
    staged_file file = {0};
    int code;
    TRY(staged_begin(&file, w->saving, 1));
    TRY(staged_commit(&file));
done:
    staged_end(&file);
    return code;
}

void work_done(const cli_work *w) {
    unlink(w->saving); /* first: from here on the output is whole */
    work_remove(w->folder);
}

void work_end(cli_work *w) {
    free(w->folder);
    free(w->checkpoint);
    free(w->settings);
    free(w->saving);
}
