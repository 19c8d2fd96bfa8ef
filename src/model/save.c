/* lr_model_save: a folder staged beside its target, filled, synced and exchanged. */
#include "model/save.h"

#include "base/opts.h"
#include "format/modeling.h"
#include "model/model.h"

#include <string.h>

/* The shards people's tools make. */
static const uint64_t shard_most = 5000000000;

void lr_save_opts_init(lr_save_opts *opts, size_t size) {
    lr_save_opts defaults = {.size = sizeof defaults, .dtype = LR_BF16};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

static lr_status write_text(const char *folder, const char *name, const char *text) {
    char *path;
    lr_status status = lr__path_join(&path, folder, name);
    if (status < 0) return status;
    status = lr__file_write(path, text, strlen(text));
    lr__free(path);
    return status;
}

static lr_status write_config(const char *folder, const lr__graph *graph,
                              const lr__save_plan *plan) {
    lr_status status = LR_OK;
    json_t *config = NULL;
    char *text = NULL;
    LR_TRY(lr__save_config(&config, graph, plan));
    LR_TRY(lr__json_text(&text, config, 2));
    LR_TRY(write_text(folder, "config.json", text));
    if (json_object_size(plan->modules))
        LR_TRY(write_text(folder, "modeling_lowrank.py", lr__modeling_text));
done:
    json_decref(config);
    lr__free(text);
    return status;
}

static lr_status save_graph(const lr__graph *graph, const char *path, const lr_save_opts *o) {
    lr_status status = LR_OK;
    lr__output output = {0};
    lr__save_plan plan = {0};
    LR_TRY(lr__output_begin(&output, path, 1, o->force));
    LR_TRY(lr__save_plan_make(&plan, graph, o->dtype, o->densify));
    LR_TRY(write_config(output.staging, graph, &plan));
    LR_TRY(lr__save_companions(graph, output.staging));
    LR_TRY(lr__outgoing_write_folder(&plan.tensors, output.staging, shard_most));
    LR_TRY(lr__output_commit(&output));
done:
    lr__save_plan_clear(&plan);
    lr__output_end(&output);
    return status;
}

static int is_written(int32_t dtype) {
    return dtype == LR_F32 || dtype == LR_F16 || dtype == LR_BF16 || dtype == LR_Q8_0;
}

lr_status lr__save_check(lr_save_opts *out, const char *function, const lr_model *model,
                         const char *path, const lr_save_opts *opts) {
    if (!model || !path) return lr__fail(LR_E_INVALID, "%s: model and path are needed", function);
    lr_save_opts_init(out, sizeof *out);
    lr_status status = lr__opts_merge(out, sizeof *out, opts, "lr_save_opts");
    if (status < 0) return status;
    if (!is_written(out->dtype))
        return lr__fail(LR_E_INVALID, "%s: type %s, expected f32, f16, bf16 or q8_0", path,
                        lr_dtype_name(out->dtype));
    return LR_OK;
}

lr_status lr_model_save(const lr_model *model, const char *path, const lr_save_opts *opts) {
    lr_save_opts o;
    lr_status status = lr__save_check(&o, "lr_model_save", model, path, opts);
    if (status < 0) return status;
    lr__graph *graph = lr__model_graph(model);
    status = save_graph(graph, path, &o);
    lr__graph_drop(graph);
    return status;
}
