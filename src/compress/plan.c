/* Plans: a rank for each module, from a budget, from patterns, or from both. */
#include "compress/plan.h"

#include "base/glob.h"
#include "base/opts.h"
#include "compress/allocation.h"

#include <math.h>
#include <string.h>

void lr_plan_opts_init(lr_plan_opts *opts, size_t size) {
    lr_plan_opts defaults = {.size = sizeof defaults,
                             .pattern = lr__block_linears,
                             .storage = "pivot",
                             .allocation = "uniform",
                             .floor = -1,
                             .dtype = LR_BF16};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

void lr_plan_free(lr_plan *plan) {
    if (!plan) return;
    for (int32_t i = 0; i < plan->count; i++) lr__free(plan->modules[i]);
    lr__free(plan->modules);
    lr__free(plan->items);
    json_decref(plan->about);
    lr__free(plan->about_text);
    lr__free(plan);
}

static const char *const storages[] = {
    [LR__STORAGE_TWO_FACTOR] = "two-factor",
    [LR__STORAGE_PIVOT] = "pivot",
    [LR__STORAGE_SHARED] = "shared",
};

const char *lr__plan_storage_name(int32_t storage) { return storages[storage]; }

lr_status lr__plan_find_storage(const char *name, int32_t *storage) {
    for (int32_t i = 0; name && i < (int32_t)(sizeof storages / sizeof *storages); i++)
        if (!strcmp(storages[i], name)) {
            *storage = i;
            return LR_OK;
        }
    return lr__fail(LR_E_INVALID, "storage \"%s\", expected two-factor, pivot or shared",
                    name ? name : "");
}

lr_status lr__plan_of_modules(lr_plan **out, const lr_model *model, const char *pattern,
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

int32_t lr__plan_find(const lr_plan *plan, const char *module) {
    for (int32_t i = 0; i < plan->count; i++)
        if (!strcmp(plan->modules[i], module)) return i;
    return -1;
}

lr_status lr__plan_set_rank(lr_plan *plan, int32_t which, int64_t rank) {
    lr__rank_item *item = &plan->items[which];
    int64_t out = lr__rank_stacked_out(plan->items, plan->count, which);
    int64_t most = out < item->in ? out : item->in;
    if (rank < 0 || rank > most)
        return lr__fail(LR_E_INVALID, "%s: rank %lld, expected 1 to %lld, or 0 for dense",
                        plan->modules[which], (long long)rank, (long long)most);
    item->rank = rank;
    return LR_OK;
}

/* What patterns of options say: `take` is called for each module that one matches. */
typedef lr_status (*taker)(lr_plan *plan, int32_t module, const json_t *value, void *user);

static lr_status each_pattern(lr_plan *plan, const char *what, const char *text, taker take,
                              void *user) {
    lr_status status = LR_OK;
    json_t *json = NULL;
    const char *pattern;
    json_t *value;
    LR_TRY(lr__json_parse(&json, text, strlen(text), what));
    LR_FAIL_IF(!json_is_object(json), LR_E_INVALID,
               "%s: expected an object of patterns to numbers, {\"q_proj\": 384}", what);
    json_object_foreach(json, pattern, value) {
        int32_t found = 0;
        LR_FAIL_IF(!lr__glob_is_valid(pattern), LR_E_INVALID,
                   "%s: \"%s\": expected a pattern and a number", what, pattern);
        for (int32_t i = 0; i < plan->count; i++) {
            if (!lr__glob_match(pattern, plan->modules[i])) continue;
            LR_TRY(take(plan, i, value, user));
            found = 1;
        }
        LR_FAIL_IF(!found, LR_E_NOTFOUND, "%s: \"%s\": no linear module matches", what, pattern);
    }
done:
    json_decref(json);
    return status;
}

/* `user` is one flag for each module. */
static lr_status take_rank(lr_plan *plan, int32_t module, const json_t *value, void *user) {
    int8_t *fixed = user;
    const char *name = plan->modules[module];
    if (!json_is_integer(value))
        return lr__fail(LR_E_INVALID, "ranks: %s: expected a whole number", name);
    fixed[module] = 1;
    return lr__plan_set_rank(plan, module, json_integer_value(value));
}

/* `user` is one number for each module. */
static lr_status take_weight(lr_plan *plan, int32_t module, const json_t *value, void *user) {
    double *weights = user, weight = json_number_value(value);
    if (!json_is_number(value) || !(weight >= 0) || !isfinite(weight))
        return lr__fail(LR_E_INVALID, "weights: %s: expected a number of 0 or more",
                        plan->modules[module]);
    weights[module] = weight;
    return LR_OK;
}

static lr_status keep_budget(int64_t *budget, const lr_plan *plan, const lr_model *model,
                             const lr_plan_opts *o) {
    lr_model_info info = {.size = sizeof info};
    int64_t dense;
    lr_status status = LR_OK;
    LR_TRY(lr__ranks_dense(&dense, plan->items, plan->count));
    if (o->keep > 0) return lr__ranks_budget(budget, o->keep, dense);
    LR_TRY(lr_model_get_info(model, &info));
    LR_TRY(lr__ranks_budget(budget, o->keep_model, info.parameters));
    *budget -= info.parameters - dense;
    LR_FAIL_IF(*budget < 1, LR_E_INVALID,
               "keep-model %g: what is not matched alone is %.3f of the model", o->keep_model,
               (double)(info.parameters - dense) / (double)info.parameters);
done:
    return status;
}

static lr_status spend_budget(lr_plan *plan, const lr_model *model, const lr_plan_opts *o,
                              const lr__allocation *how) {
    int64_t budget = 0;
    lr_status status = LR_OK;
    LR_TRY(o->keep_bytes ? lr__plan_bytes_budget(&budget, plan, model, o->keep_bytes, o->dtype)
                         : keep_budget(&budget, plan, model, o));
    LR_TRY(lr__allocate(plan, model, how, budget));
done:
    for (int32_t i = 0; i < plan->count; i++) plan->items[i].width = 0;
    return status;
}

static lr_status check_opts(const lr_plan_opts *o) {
    int32_t shares = (o->keep != 0) + (o->keep_model != 0) + (o->keep_bytes != 0);
    if (shares > 1 || (!shares && !o->ranks))
        return lr__fail(LR_E_INVALID,
                        "plan: %d of keep, keep_model and keep_bytes are set, "
                        "expected exactly one of them, or ranks",
                        shares);
    if (shares && !(o->keep > 0 || o->keep_model > 0 || o->keep_bytes > 0))
        return lr__fail(LR_E_INVALID, "plan: keep %g, expected more than 0",
                        o->keep != 0         ? o->keep
                        : o->keep_model != 0 ? o->keep_model
                                             : (double)o->keep_bytes);
    if (!lr__glob_is_valid(o->pattern))
        return lr__fail(LR_E_INVALID, "pattern \"%s\" is not well formed", o->pattern);
    if (!(o->floor <= 1))
        return lr__fail(LR_E_INVALID, "plan: floor %g, expected 0 to 1, or less for the usual one",
                        o->floor);
    return LR_OK;
}

/* Folded sets have one spectrum and one rank. */
static lr_status check_shared(const lr_plan_opts *o, int32_t storage, int32_t kind) {
    if (storage != LR__STORAGE_SHARED || (kind == LR__ALLOCATION_UNIFORM && !o->ranks))
        return LR_OK;
    return lr__fail(LR_E_UNSUPPORTED, "shared storage: a budget is only shared uniformly, without "
                                      "ranks beside it");
}

static lr_status check_weights(const lr_plan_opts *o, int32_t kind) {
    int32_t is_energy = (kind >= LR__ALLOCATION_ENERGY && kind <= LR__ALLOCATION_SENSITIVITY) ||
                        kind == LR__ALLOCATION_FIRST_ORDER;
    if (o->weights && !is_energy)
        return lr__fail(LR_E_INVALID, "weights: the allocation %s takes none",
                        lr__allocation_name(kind));
    if (!o->weights && kind == LR__ALLOCATION_SENSITIVITY)
        return lr__fail(LR_E_INVALID, "allocation sensitivity needs weights");
    if (!o->stats && kind == LR__ALLOCATION_FIRST_ORDER)
        return lr__fail(LR_E_INVALID, "allocation first-order needs statistics with gradients");
    return LR_OK;
}

/* How the ranks came about, for the file. */
static lr_status describe(lr_plan *plan, const lr_plan_opts *o, const lr__allocation *how) {
    static const char *const keys[] = {"keep", "keep_model"};
    lr_status status = LR_OK;
    json_t *about = json_object(), *weights = how->weights ? json_object() : NULL;
    int failed = !about || (how->weights && !weights);
    const double shares[] = {o->keep, o->keep_model};
    for (int i = 0; i < 2; i++)
        if (shares[i] > 0) failed |= json_object_set_new(about, keys[i], json_real(shares[i]));
    if (o->keep_bytes) {
        failed |= json_object_set_new(about, "keep_bytes", json_integer(o->keep_bytes));
        failed |= json_object_set_new(about, "dtype", json_string(lr_dtype_name(o->dtype)));
    }
    failed |= json_object_set_new(about, "allocation", json_string(lr__allocation_name(how->kind)));
    if (how->kind != LR__ALLOCATION_UNIFORM)
        failed |= json_object_set_new(about, "floor", json_real(how->floor));
    for (int32_t i = 0; weights && i < plan->count; i++)
        failed |= json_object_set_new(weights, plan->modules[i], json_real(how->weights[i]));
    if (weights) failed |= json_object_set(about, "weights", weights);
    LR_FAIL_IF(failed, LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(lr__plan_add_about(plan, about));
done:
    json_decref(weights);
    json_decref(about);
    return status;
}

static lr_status fill_plan(lr_plan *plan, const lr_model *model, const lr_plan_opts *o) {
    lr_status status = LR_OK;
    lr__allocation how = {.stats = o->stats};
    int8_t *fixed = NULL;
    double *weights = NULL;
    LR_TRY(lr__allocation_find(o->allocation, &how.kind));
    how.floor = o->floor < 0 ? lr__allocation_floor(how.kind) : o->floor;
    LR_TRY(check_weights(o, how.kind));
    LR_TRY(lr__new(&fixed, (size_t)plan->count, sizeof *fixed));
    if (o->ranks) LR_TRY(each_pattern(plan, "ranks", o->ranks, take_rank, fixed));
    if (o->weights) {
        LR_TRY(lr__new(&weights, (size_t)plan->count, sizeof *weights));
        for (int32_t i = 0; i < plan->count; i++) weights[i] = 1;
        LR_TRY(each_pattern(plan, "weights", o->weights, take_weight, weights));
    }
    how.fixed = fixed;
    how.weights = weights;
    if (!(o->keep > 0 || o->keep_model > 0 || o->keep_bytes > 0)) goto done;
    LR_TRY(check_shared(o, plan->storage, how.kind));
    LR_TRY(spend_budget(plan, model, o, &how));
    LR_TRY(describe(plan, o, &how));
done:
    lr__free(weights);
    lr__free(fixed);
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
    LR_TRY(check_opts(&o));
    LR_TRY(lr__plan_find_storage(o.storage, &storage));
    LR_TRY(lr__plan_of_modules(&plan, model, o.pattern, storage));
    LR_TRY(fill_plan(plan, model, &o));
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

const char *lr_plan_storage(const lr_plan *plan) {
    return plan ? lr__plan_storage_name(plan->storage) : NULL;
}

lr_status lr_plan_set_rank(lr_plan *plan, const char *module, int64_t rank) {
    if (!plan || !module) return lr__fail(LR_E_INVALID, "lr_plan_set_rank: plan and module");
    int32_t which = lr__plan_find(plan, module);
    if (which < 0) return lr__fail(LR_E_NOTFOUND, "%s: not in the plan", module);
    return lr__plan_set_rank(plan, which, rank);
}

void lr_plan_parameters(const lr_plan *plan, int64_t *before, int64_t *after) {
    *before = *after = 0;
    if (!plan) return;
    lr__ranks_dense(before, plan->items, plan->count);
    lr__ranks_params(after, plan->items, plan->count);
}

lr_status lr__plan_add_about(lr_plan *plan, const json_t *members) {
    lr_status status = LR_OK;
    json_t *all = plan->about ? json_deep_copy(plan->about) : json_object();
    char *text = NULL;
    LR_FAIL_IF(!all || json_object_update(all, (json_t *)members), LR_E_NOMEM,
               "out of memory for JSON");
    LR_TRY(lr__json_text(&text, all, 0));
    json_decref(plan->about);
    lr__free(plan->about_text);
    plan->about = all;
    plan->about_text = text;
    all = NULL;
done:
    json_decref(all);
    return status;
}

const char *lr_plan_about(const lr_plan *plan) {
    return plan && plan->about_text ? plan->about_text : "{}";
}

lr_status lr_plan_add_about(lr_plan *plan, const char *json) {
    lr_status status = LR_OK;
    json_t *members = NULL;
    if (!plan || !json) return lr__fail(LR_E_INVALID, "lr_plan_add_about: plan and JSON");
    LR_TRY(lr__json_parse(&members, json, strlen(json), "about"));
    LR_FAIL_IF(!json_is_object(members), LR_E_INVALID, "about: expected an object");
    LR_TRY(lr__plan_add_about(plan, members));
done:
    json_decref(members);
    return status;
}
