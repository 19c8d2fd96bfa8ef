/* Plans: a rank for each module, from a budget, from patterns, or from a file. */
#include "compress/plan.h"

#include "base/glob.h"
#include "base/json.h"
#include "base/opts.h"

#include <math.h>
#include <string.h>

enum { PLAN_MOST = 64 << 20 };

void lr_plan_opts_init(lr_plan_opts *opts, size_t size) {
    lr_plan_opts defaults = {
        .size = sizeof defaults, .pattern = lr__block_linears, .storage = "pivot"};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

void lr_plan_free(lr_plan *plan) {
    if (!plan) return;
    for (int32_t i = 0; i < plan->count; i++) lr__free(plan->modules[i]);
    lr__free(plan->modules);
    lr__free(plan->items);
    lr__free(plan);
}

static const char *const storages[] = {
    [LR__STORAGE_TWO_FACTOR] = "two-factor",
    [LR__STORAGE_PIVOT] = "pivot",
    [LR__STORAGE_SHARED] = "shared",
};

static lr_status find_storage(const char *name, int32_t *storage) {
    for (int32_t i = 0; name && i < (int32_t)(sizeof storages / sizeof *storages); i++)
        if (!strcmp(storages[i], name)) {
            *storage = i;
            return LR_OK;
        }
    return lr__fail(LR_E_INVALID, "storage \"%s\", expected two-factor, pivot or shared",
                    name ? name : "");
}

/* All matched modules, dense. */
static lr_status plan_of_modules(lr_plan **out, const lr_model *model, const char *pattern,
                                 int32_t storage) {
    lr_status status = LR_OK;
    lr_plan *plan = NULL;
    lr__graph *graph = lr__model_graph(model);
    size_t count = (size_t)lr__graph_linear_count(graph);
    LR_TRY(lr__new(&plan, 1, sizeof *plan));
    plan->storage = storage;
    LR_TRY(lr__new(&plan->modules, count, sizeof *plan->modules));
    LR_TRY(lr__new(&plan->items, count, sizeof *plan->items));
    for (size_t i = 0; i < count; i++) {
        const lr_linear *linear = *lr__graph_linear(graph, (int32_t)i);
        if (!lr__glob_match(pattern, linear->name)) continue;
        LR_FAIL_IF(lr_linear_kind(linear) != LR_LINEAR_DENSE, LR_E_UNSUPPORTED,
                   "%s: already factorised; plan from the dense model", linear->name);
        LR_FAIL_IF(linear == graph->head && graph->origin->config.is_tied, LR_E_UNSUPPORTED,
                   "lm_head: shares the embedding's numbers, so factors would add to them");
        LR_TRY(lr__dup(&plan->modules[plan->count], linear->name));
        plan->items[plan->count++] =
            (lr__rank_item){.out = linear->out,
                            .in = linear->in,
                            .storage = storage,
                            .input = lr__graph_first_reader(graph, (int32_t)i)};
    }
    LR_FAIL_IF(!plan->count, LR_E_NOTFOUND, "%s: no linear module matches", pattern);
    *out = plan;
    plan = NULL;
done:
    lr__graph_drop(graph);
    lr_plan_free(plan);
    return status;
}

static lr_status spend_budget(lr_plan *plan, const lr_model *model, const lr_plan_opts *o) {
    lr_model_info info = {.size = sizeof info};
    int64_t dense, budget, count;
    lr_status status = LR_OK;
    lr__rank_item *folded = NULL;
    LR_TRY(lr__ranks_dense(&dense, plan->items, plan->count));
    if (o->keep > 0) {
        LR_TRY(lr__ranks_budget(&budget, o->keep, dense));
    } else {
        LR_TRY(lr_model_get_info(model, &info));
        LR_TRY(lr__ranks_budget(&budget, o->keep_model, info.parameters));
        budget -= info.parameters - dense;
        LR_FAIL_IF(budget < 1, LR_E_INVALID,
                   "keep-model %g: what is not matched alone is %.3f of the model", o->keep_model,
                   (double)(info.parameters - dense) / (double)info.parameters);
    }
    LR_TRY(lr__new(&folded, (size_t)plan->count, sizeof *folded));
    count = lr__ranks_fold(folded, plan->items, plan->count);
    LR_TRY(lr__ranks_uniform(folded, count, budget));
    lr__ranks_unfold(plan->items, plan->count, folded);
done:
    lr__free(folded);
    return status;
}

static lr_status set_rank(lr_plan *plan, int32_t which, int64_t rank) {
    lr__rank_item *item = &plan->items[which];
    int64_t out = lr__rank_stacked_out(plan->items, plan->count, which);
    int64_t most = out < item->in ? out : item->in;
    if (rank < 0 || rank > most)
        return lr__fail(LR_E_INVALID, "%s: rank %lld, expected 1 to %lld, or 0 for dense",
                        plan->modules[which], (long long)rank, (long long)most);
    item->rank = rank;
    return LR_OK;
}

static lr_status apply_patterns(lr_plan *plan, const char *text) {
    lr_status status = LR_OK;
    json_t *ranks = NULL;
    const char *pattern;
    json_t *rank;
    LR_TRY(lr__json_parse(&ranks, text, strlen(text), "ranks"));
    LR_FAIL_IF(!json_is_object(ranks), LR_E_INVALID,
               "ranks: expected an object of patterns to ranks, {\"q_proj\": 384}");
    json_object_foreach(ranks, pattern, rank) {
        int32_t found = 0;
        LR_FAIL_IF(!lr__glob_is_valid(pattern) || !json_is_integer(rank), LR_E_INVALID,
                   "ranks: \"%s\": expected a pattern and a whole number", pattern);
        for (int32_t i = 0; i < plan->count; i++) {
            if (!lr__glob_match(pattern, plan->modules[i])) continue;
            LR_TRY(set_rank(plan, i, json_integer_value(rank)));
            found = 1;
        }
        LR_FAIL_IF(!found, LR_E_NOTFOUND, "ranks: \"%s\": no linear module matches", pattern);
    }
done:
    json_decref(ranks);
    return status;
}

lr_status lr_plan_new(lr_plan **out, const lr_model *model, const lr_plan_opts *opts) {
    lr_status status = LR_OK;
    lr_plan_opts o;
    lr_plan *plan = NULL;
    int32_t storage = 0;
    if (!out || !model) return lr__fail(LR_E_INVALID, "lr_plan_new: out and model are needed");
    *out = NULL;
    lr_plan_opts_init(&o, sizeof o);
    LR_TRY(lr__opts_merge(&o, sizeof o, opts, "lr_plan_opts"));
    if (!o.pattern) o.pattern = lr__block_linears;
    if (!o.storage) o.storage = storages[LR__STORAGE_PIVOT];
    int32_t given = (o.keep != 0) + (o.keep_model != 0) + (o.ranks != NULL);
    LR_FAIL_IF(given != 1, LR_E_INVALID,
               "plan: exactly one of keep, keep_model and ranks is needed");
    LR_FAIL_IF(!o.ranks && !(o.keep > 0 || o.keep_model > 0), LR_E_INVALID,
               "plan: keep %g, expected more than 0", o.keep != 0 ? o.keep : o.keep_model);
    LR_FAIL_IF(!lr__glob_is_valid(o.pattern), LR_E_INVALID, "pattern \"%s\" is not well formed",
               o.pattern);
    LR_TRY(find_storage(o.storage, &storage));
    LR_TRY(plan_of_modules(&plan, model, o.pattern, storage));
    LR_TRY(o.ranks ? apply_patterns(plan, o.ranks) : spend_budget(plan, model, &o));
    *out = plan;
    plan = NULL;
done:
    lr_plan_free(plan);
    return status;
}

int32_t lr_plan_count(const lr_plan *plan) { return plan ? plan->count : 0; }

const char *lr_plan_module(const lr_plan *plan, int32_t index) {
    return plan && index >= 0 && index < plan->count ? plan->modules[index] : NULL;
}

int64_t lr_plan_rank(const lr_plan *plan, int32_t index) {
    return plan && index >= 0 && index < plan->count ? plan->items[index].rank : -1;
}

lr_status lr_plan_set_rank(lr_plan *plan, const char *module, int64_t rank) {
    if (!plan || !module) return lr__fail(LR_E_INVALID, "lr_plan_set_rank: plan and module");
    for (int32_t i = 0; i < plan->count; i++)
        if (!strcmp(plan->modules[i], module)) return set_rank(plan, i, rank);
    return lr__fail(LR_E_NOTFOUND, "%s: not in the plan", module);
}

void lr_plan_parameters(const lr_plan *plan, int64_t *before, int64_t *after) {
    *before = *after = 0;
    if (!plan) return;
    lr__ranks_dense(before, plan->items, plan->count);
    lr__ranks_params(after, plan->items, plan->count);
}

static lr_status plan_json(json_t **out, const lr_plan *plan) {
    int64_t before, after;
    json_t *ranks = json_object();
    int failed = !ranks;
    lr_plan_parameters(plan, &before, &after);
    for (int32_t i = 0; i < plan->count; i++)
        failed |= json_object_set_new(ranks, plan->modules[i], json_integer(plan->items[i].rank));
    if (!failed)
        *out = json_pack("{s:s, s:i, s:s, s:{s:I, s:I}, s:O}", "format", "lowrank-plan", "version",
                         1, "storage", storages[plan->storage], "parameters", "before",
                         (json_int_t)before, "after", (json_int_t)after, "ranks", ranks);
    json_decref(ranks);
    return *out ? LR_OK : lr__nomem(sizeof(json_t));
}

lr_status lr_plan_save(const lr_plan *plan, const char *path, int32_t force) {
    lr_status status = LR_OK;
    json_t *json = NULL;
    char *text = NULL;
    lr__output output = {0};
    if (!plan || !path) return lr__fail(LR_E_INVALID, "lr_plan_save: plan and path are needed");
    LR_TRY(plan_json(&json, plan));
    LR_TRY(lr__json_text(&text, json, 2));
    LR_TRY(lr__output_begin(&output, path, 0, force));
    LR_TRY(lr__file_write(output.staging, text, strlen(text)));
    LR_TRY(lr__output_commit(&output));
done:
    lr__output_end(&output);
    lr__free(text);
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
        LR_TRY(set_rank(plan, i, json_integer_value(rank)));
    }
    if ((size_t)plan->count == json_object_size(ranks)) goto done;
    const char *name;
    const json_t *unused;
    json_object_foreach((json_t *)ranks, name, unused) {
        int32_t i = 0;
        (void)unused;
        while (i < plan->count && strcmp(plan->modules[i], name)) i++;
        LR_FAIL_IF(i == plan->count, LR_E_NOTFOUND, "%s: %s: no such linear module to factorise",
                   path, name);
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
    if (form && find_storage(json_string_value(form), &storage) < 0) {
        status = lr__fail_in(LR_E_UNSUPPORTED, "%s", path);
        goto done;
    }
    LR_TRY(plan_of_modules(&plan, model, model->origin->config.is_tied ? "model.layers.*" : "*",
                           storage));
    LR_TRY(take_ranks(plan, ranks, path));
    LR_FAIL_IF(!plan->count, LR_E_FORMAT, "%s: a plan without modules", path);
    *out = plan;
    plan = NULL;
done:
    json_decref(json);
    lr_plan_free(plan);
    return status;
}
