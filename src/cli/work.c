/* Work folders. */
#include "cli/work.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
