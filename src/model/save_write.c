/* Listed tensors as safetensors: one file, or a folder's shards with an index. */
#include "format/safetensors.h"
#include "model/save.h"

#include <stdio.h>
#include <string.h>

enum { FILE_NAME_SIZE = 64 };

static lr_status declare(lr__safetensors_writer *file, const lr__outgoing *item) {
    int64_t shape[2] = {item->shape[0], lr__outgoing_cols(item)};
    return lr__safetensors_declare(file, item->name, item->dtype, item->ndim, shape);
}

static lr_status put_bytes(void *file, const void *data, size_t bytes) {
    return lr__safetensors_put(file, data, bytes);
}

lr_status lr__outgoing_write(const lr__outgoing_list *list, size_t first, size_t count,
                             const char *path, json_t *metadata) {
    lr_status status = LR_OK;
    lr__safetensors_writer *file = NULL;
    LR_TRY(lr__safetensors_new(&file));
    for (size_t i = 0; i < count; i++) LR_TRY(declare(file, &list->items[first + i]));
    LR_TRY(lr__safetensors_begin(file, path, metadata));
    LR_TRY(lr__outgoing_stream(list, first, count, put_bytes, file));
    LR_TRY(lr__safetensors_finish(file));
done:
    lr__safetensors_free(file);
    return status;
}

/* --- folders --- */

/* End of the shard that begins with item `first`. */
static size_t shard_end(const lr__outgoing_list *list, size_t first, uint64_t most) {
    uint64_t bytes = lr__outgoing_bytes(&list->items[first]);
    size_t end = first + 1;
    while (end < list->count && bytes + lr__outgoing_bytes(&list->items[end]) <= most)
        bytes += lr__outgoing_bytes(&list->items[end++]);
    return end;
}

static size_t shard_count(const lr__outgoing_list *list, uint64_t most) {
    size_t shards = 0;
    for (size_t at = 0; at < list->count; at = shard_end(list, at, most)) shards++;
    return shards;
}

static void shard_name(char *out, size_t which, size_t count) {
    if (count == 1)
        snprintf(out, FILE_NAME_SIZE, "model.safetensors");
    else
        snprintf(out, FILE_NAME_SIZE, "model-%05zu-of-%05zu.safetensors", which + 1, count);
}

static lr_status write_index(const lr__outgoing_list *list, const char *folder, uint64_t most) {
    lr_status status = LR_OK;
    char name[FILE_NAME_SIZE], *path = NULL;
    json_t *map = json_object(), *index = NULL;
    size_t at = 0, shards = shard_count(list, most);
    uint64_t total = 0;
    for (size_t shard = 0; shard < shards; shard++) {
        shard_name(name, shard, shards);
        for (size_t end = shard_end(list, at, most); at < end; at++) {
            total += lr__outgoing_bytes(&list->items[at]);
            LR_TRY(lr__json_set(map, list->items[at].name, json_string(name)));
        }
    }
    index =
        json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    LR_FAIL_IF(!index, LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(lr__path_join(&path, folder, "model.safetensors.index.json"));
    LR_TRY(lr__json_write(path, index, 2));
done:
    json_decref(map);
    json_decref(index);
    lr__free(path);
    return status;
}

lr_status lr__outgoing_write_folder(const lr__outgoing_list *list, const char *folder,
                                    uint64_t most) {
    lr_status status = LR_OK;
    char name[FILE_NAME_SIZE], *path = NULL;
    size_t at = 0, shards = shard_count(list, most);
    json_t *metadata = json_pack("{s:s}", "format", "pt");
    LR_FAIL_IF(!metadata, LR_E_NOMEM, "out of memory for JSON");
    for (size_t shard = 0; shard < shards; shard++) {
        size_t end = shard_end(list, at, most);
        shard_name(name, shard, shards);
        LR_TRY(lr__path_join(&path, folder, name));
        LR_TRY(lr__outgoing_write(list, at, end - at, path, metadata));
        lr__free(path);
        path = NULL;
        at = end;
    }
    if (shards > 1) LR_TRY(write_index(list, folder, most));
    LR_TRY(lr__progress(list->ctx, "save", (int64_t)list->count, (int64_t)list->count));
done:
    json_decref(metadata);
    lr__free(path);
    return status;
}
