/*
 * One module as a safetensors file. Its metadata holds "lowrank": the JSON of config.json's section
 * of that name, {"version": 1, "modules": {name: {"bias", "terms", "shape": [out, in]}}}.
 */
#include "format/tokenizer_parts.h"
#include "format/safetensors.h"
#include "model/save.h"
#include "model/structure.h"

#include <string.h>

static lr_status metadata_of(json_t **out, const lr_linear *linear, json_t *structure) {
    lr_status status = LR_OK;
    char *text = NULL;
    json_t *section = NULL;
    json_t *shape = json_pack("[I, I]", (json_int_t)linear->out, (json_int_t)linear->in);
    LR_TRY(lr__json_set(structure, "shape", shape));
    section = json_pack("{s:i, s:{s:O}}", "version", 1, "modules", linear->name, structure);
    LR_FAIL_IF(!section, LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(lr__json_text(&text, section, 0));
    *out = json_pack("{s:s, s:s}", "format", "pt", "lowrank", text);
    LR_FAIL_IF(!*out, LR_E_NOMEM, "out of memory for JSON");
done:
    json_decref(section);
    lr__free(text);
    return status;
}

/* Names stand in JSON. */
static lr_status check_name(const char *name) {
    if (lr__utf8_is_valid(name, strlen(name))) return LR_OK;
    return lr__fail(LR_E_INVALID, "a module's name is not UTF-8");
}

lr_status lr_linear_save(const lr_linear *linear, const char *path, int32_t dtype, int32_t force) {
    lr_status status = LR_OK;
    lr__output output = {0};
    json_t *structure = NULL, *metadata = NULL;
    if (!linear || !path)
        return lr__fail(LR_E_INVALID, "lr_linear_save: linear and path are needed");
    lr__outgoing_list list = {.ctx = linear->ctx, .dtype = dtype};
    LR_FAIL_IF(dtype != LR_F32 && dtype != LR_F16 && dtype != LR_BF16, LR_E_INVALID,
               "%s: type %s, expected f32, f16 or bf16", path, lr_dtype_name(dtype));
    LR_TRY(check_name(linear->name));
    LR_TRY(lr__output_begin(&output, path, 0, force));
    LR_TRY(lr__outgoing_linear(&structure, &list, linear, 0));
    LR_TRY(metadata_of(&metadata, linear, structure));
    LR_TRY(lr__outgoing_write(&list, 0, list.count, output.staging, metadata));
    LR_TRY(lr__output_commit(&output));
done:
    json_decref(structure);
    json_decref(metadata);
    lr__outgoing_clear(&list);
    lr__output_end(&output);
    return status;
}

/* The one module of a "lowrank" section: its name (borrowed) and sizes. */
static lr_status module_of(json_t *section, const char **name, json_t **module, int64_t shape[2],
                           const char *path) {
    int64_t version = 0;
    json_t *modules = json_object_get(section, "modules");
    lr_status status = lr__json_int(section, "version", &version, path);
    if (status < 0) return status;
    if (version != 1 || json_object_size(modules) != 1)
        return lr__fail(LR_E_FORMAT,
                        "%s: \"lowrank\" of version %lld with %zu modules, expected version 1 "
                        "with one",
                        path, (long long)version, json_object_size(modules));
    void *at = json_object_iter(modules);
    *name = json_object_iter_key(at);
    *module = json_object_iter_value(at);
    json_t *sizes = json_object_get(*module, "shape");
    for (size_t i = 0; i < 2; i++) {
        shape[i] = json_integer_value(json_array_get(sizes, i));
        if (shape[i] < 1 || shape[i] > INT32_MAX)
            return lr__fail(LR_E_FORMAT, "%s: \"%s\" has no shape [out, in]", path, *name);
    }
    return LR_OK;
}

lr_status lr_linear_open(lr_linear **out, lr_ctx *ctx, const char *path) {
    lr_status status = LR_OK;
    lr__stored_list list = {0};
    lr__param_cache cache = {0};
    json_t *metadata = NULL, *section = NULL, *module = NULL;
    const char *name = NULL, *text;
    int64_t shape[2] = {0};
    if (!out || !ctx || !path)
        return lr__fail(LR_E_INVALID, "lr_linear_open: out, ctx and path are needed");
    *out = NULL;
    LR_TRY(lr__safetensors_add(&list, path, 0, &metadata));
    text = json_string_value(json_object_get(metadata, "lowrank"));
    LR_FAIL_IF(!text, LR_E_FORMAT, "%s: no \"lowrank\" in its metadata", path);
    LR_TRY(lr__json_parse(&section, text, strlen(text), path));
    LR_TRY(module_of(section, &name, &module, shape, path));
    LR_TRY(lr__structure_read(out, ctx, name, shape[0], shape[1], module, &list, &cache));
done:
    json_decref(section);
    json_decref(metadata);
    lr__param_cache_clear(&cache);
    lr__stored_list_clear(&list);
    return status;
}
