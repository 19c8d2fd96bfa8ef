/* Plans on disk: a JSON file that a person can read and edit, with what the plan says of itself. */
#include "base/json.h"
#include "compress/plan.h"

#include <string.h>

enum { PLAN_MOST = 64 << 20 };

static lr_status plan_json(json_t **out, const lr_plan *plan) {
    int64_t before, after;
    json_t *ranks = json_object();
    int failed = !ranks;
    lr_plan_parameters(plan, &before, &after);
    for (int32_t i = 0; i < plan->count; i++)
        failed |= json_object_set_new(ranks, plan->modules[i], json_integer(plan->items[i].rank));
    if (!failed)
        *out = json_pack("{s:s, s:i, s:s, s:{s:I, s:I}, s:O*, s:O}", "format", "lowrank-plan",
                         "version", 1, "storage", lr__plan_storage_name(plan->storage),
                         "parameters", "before", (json_int_t)before, "after", (json_int_t)after,
                         "about", plan->about, "ranks", ranks);
    json_decref(ranks);
    return *out ? LR_OK : lr__nomem(sizeof(json_t));
}

lr_status lr_plan_save(const lr_plan *plan, const char *path, int32_t force) {
    lr_status status = LR_OK;
    json_t *json = NULL;
    if (!plan || !path) return lr__fail(LR_E_INVALID, "lr_plan_save: plan and path are needed");
    LR_TRY(plan_json(&json, plan));
    LR_TRY(lr__json_save(path, json, 2, force));
done:
    json_decref(json);
    return status;
}

/* Drops the modules that the file does not name. */
static void keep_named(lr_plan *plan, const json_t *ranks) {
    int32_t kept = 0;
    for (int32_t i = 0; i < plan->count; i++) {
        char *module = plan->modules[i];
        plan->modules[i] = NULL;
        if (!json_object_get(ranks, module)) {
            lr__free(module);
            continue;
        }
        plan->modules[kept] = module;
        plan->items[kept++] = plan->items[i];
    }
    plan->count = kept;
}

static lr_status take_ranks(lr_plan *plan, const json_t *ranks, const char *path) {
    lr_status status = LR_OK;
    keep_named(plan, ranks);
    for (int32_t i = 0; i < plan->count; i++) {
        const json_t *rank = json_object_get(ranks, plan->modules[i]);
        LR_FAIL_IF(!json_is_integer(rank), LR_E_FORMAT, "%s: %s: the rank is not a whole number",
                   path, plan->modules[i]);
        LR_TRY(lr__plan_set_rank(plan, i, json_integer_value(rank)));
    }
    if ((size_t)plan->count == json_object_size(ranks)) goto done;
    const char *name;
    const json_t *unused;
    json_object_foreach((json_t *)ranks, name, unused) {
        (void)unused;
        LR_FAIL_IF(lr__plan_find(plan, name) < 0, LR_E_NOTFOUND,
                   "%s: %s: no such linear module to factorise", path, name);
    }
done:
    return status;
}

lr_status lr_plan_open(lr_plan **out, const lr_model *model, const char *path) {
    lr_status status = LR_OK;
    lr_plan *plan = NULL;
    json_t *json = NULL;
    int32_t storage = LR__STORAGE_PIVOT;
    if (!out || !model || !path)
        return lr__fail(LR_E_INVALID, "lr_plan_open: out, model and path are needed");
    *out = NULL;
    LR_TRY(lr__json_read(&json, path, PLAN_MOST));
    const char *format = json_string_value(json_object_get(json, "format"));
    const json_t *ranks = json_object_get(json, "ranks");
    LR_FAIL_IF(!format || strcmp(format, "lowrank-plan") || !json_is_object(ranks), LR_E_FORMAT,
               "%s: not a plan", path);
    LR_FAIL_IF(json_integer_value(json_object_get(json, "version")) != 1, LR_E_UNSUPPORTED,
               "%s: a plan of another version, expected 1", path);
    const json_t *form = json_object_get(json, "storage");
    if (form && lr__plan_find_storage(json_string_value(form), &storage) < 0) {
        status = lr__fail_in(LR_E_UNSUPPORTED, "%s", path);
        goto done;
    }
    LR_TRY(lr__plan_of_modules(&plan, model, model->origin->config.is_tied ? "model.layers.*" : "*",
                               storage));
    LR_TRY(take_ranks(plan, ranks, path));
    const json_t *about = json_object_get(json, "about");
    LR_FAIL_IF(about && !json_is_object(about), LR_E_FORMAT, "%s: about: expected an object", path);
    if (about) LR_TRY(lr__plan_add_about(plan, about));
    LR_FAIL_IF(!plan->count, LR_E_FORMAT, "%s: a plan without modules", path);
    *out = plan;
    plan = NULL;
done:
    json_decref(json);
    lr_plan_free(plan);
    return status;
}
