/*
 * The files that stand beside the weights: a folder's tokenizer files are copied as they are, a
 * GGUF's are made from its metadata. Licences lie in the source folder or beside the GGUF.
 */
#include "base/file.h"
#include "model/graph.h"
#include "model/save.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { FILE_MOST = 1 << 30, LICENCE_MOST = 1 << 24 };

static const char *const tokenizer_files[] = {"tokenizer.json",
                                              "tokenizer.model",
                                              "tokenizer_config.json",
                                              "special_tokens_map.json",
                                              "added_tokens.json",
                                              "vocab.json",
                                              "merges.txt",
                                              "chat_template.*",
                                              "generation_config.json",
                                              NULL};
static const char *const licence_files[] = {"LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", NULL};

static int is_one_of(const char *name, const char *const *patterns) {
    for (; *patterns; patterns++)
        if (fnmatch(*patterns, name, FNM_CASEFOLD) == 0) return 1;
    return 0;
}

/* Only regular files: a pipe would keep us waiting. */
static lr_status copy_file(const char *from, const char *to, const char *name, size_t most) {
    lr_status status = LR_OK;
    struct stat info;
    char *source = NULL, *target = NULL, *bytes = NULL;
    size_t size;
    LR_TRY(lr__path_join(&source, from, name));
    if (stat(source, &info) || !S_ISREG(info.st_mode)) goto done;
    LR_TRY(lr__path_join(&target, to, name));
    LR_TRY(lr__file_read(&bytes, &size, source, most));
    LR_TRY(lr__file_write(target, bytes, size));
done:
    lr__free(source);
    lr__free(target);
    lr__free(bytes);
    return status;
}

static lr_status copy_matching(const char *from, const char *to, const char *const *patterns,
                               size_t most) {
    lr_status status = LR_OK;
    DIR *folder = opendir(from);
    if (!folder) return lr__fail_errno(from, "open");
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(folder);
        if (!entry) {
            if (errno) status = lr__fail_errno(from, "read");
            break;
        }
        if (!is_one_of(entry->d_name, patterns)) continue;
        status = copy_file(from, to, entry->d_name, most);
        if (status < 0) break;
    }
    closedir(folder);
    return status;
}

static lr_status write_json(const char *folder, const char *name, const json_t *json) {
    lr_status status = LR_OK;
    char *path = NULL;
    if (!json_object_size(json)) return LR_OK;
    LR_TRY(lr__path_join(&path, folder, name));
    LR_TRY(lr__json_write(path, json, 2));
done:
    lr__free(path);
    return status;
}

/* A tokenizer beyond this version must not keep the weights from being saved. */
static lr_status write_tokenizer(const lr__graph *graph, const char *folder) {
    const lr__origin *origin = graph->origin;
    lr__tokenizer_files files = {0};
    lr_status status =
        lr__tokenizer_files_from_gguf(&files, origin->gguf, origin->config.context_length);
    if (status == LR_E_UNSUPPORTED || status == LR_E_NOTFOUND) {
        lr__log(graph->ctx, LR_LOG_WARNING, "no tokenizer is written: %s", lr_last_error());
        return LR_OK;
    }
    if (status < 0) return status;
    LR_TRY(write_json(folder, "tokenizer.json", files.tokenizer));
    LR_TRY(write_json(folder, "tokenizer_config.json", files.tokenizer_config));
    LR_TRY(write_json(folder, "special_tokens_map.json", files.special_tokens_map));
    LR_TRY(write_json(folder, "generation_config.json", files.generation_config));
done:
    lr__tokenizer_files_clear(&files);
    return status;
}

/* "dir/model.gguf" -> "dir" */
static lr_status folder_of(char **out, const char *path) {
    const char *slash = strrchr(path, '/');
    *out = slash ? lr__strndup(path, (size_t)(slash - path) + 1) : lr__strdup(".");
    return *out ? LR_OK : lr__nomem(strlen(path));
}

static lr_status from_gguf(const lr__graph *graph, const char *folder) {
    lr_status status = LR_OK;
    char *beside = NULL;
    lr__text licence = {NULL, 0};
    LR_TRY(write_tokenizer(graph, folder));
    LR_TRY(folder_of(&beside, graph->origin->path));
    LR_TRY(copy_matching(beside, folder, licence_files, LICENCE_MOST));
    LR_TRY(lr__gguf_text(graph->origin->gguf, "general.license", &licence));
    if (licence.data)
        lr__log(graph->ctx, LR_LOG_INFO, "licence of the source: %.*s",
                licence.size < 200 ? (int)licence.size : 200, licence.data);
done:
    lr__free(beside);
    return status;
}

lr_status lr__save_companions(const lr__graph *graph, const char *folder) {
    const char *source = graph->origin->path;
    if (graph->origin->gguf) return from_gguf(graph, folder);
    lr_status status = copy_matching(source, folder, tokenizer_files, FILE_MOST);
    if (status < 0) return status;
    return copy_matching(source, folder, licence_files, LICENCE_MOST);
}
