/* Statistics handles: which modules share which moments, and arithmetic on them. */
#include "compress/stats.h"

#include "base/glob.h"
#include "base/opts.h"
#include "compress/plan.h"

#include <string.h>

void lr_stats_opts_init(lr_stats_opts *opts, size_t size) {
    lr_stats_opts defaults = {.size = sizeof defaults, .pattern = lr__block_linears};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

static int is_wanted(const lr_stats_opts *o, const char *module) {
    if (!lr__glob_match(o->pattern, module)) return 0;
    return !o->plan || lr_plan_rank(o->plan, lr__plan_find(o->plan, module)) > 0;
}

static lr_status list_modules(lr_stats *stats, const lr_stats_opts *o) {
    lr__graph *graph = lr__model_graph(stats->model);
    lr_status status = LR_OK;
    int32_t count = lr__graph_linear_count(graph);
    LR_TRY(lr__new(&stats->modules, (size_t)count, sizeof *stats->modules));
    LR_TRY(lr__new(&stats->sizes, (size_t)count, sizeof *stats->sizes));
    LR_TRY(lr__new(&stats->outs, (size_t)count, sizeof *stats->outs));
    LR_TRY(lr__new(&stats->moments_of, (size_t)count, sizeof *stats->moments_of));
    LR_TRY(lr__new(&stats->moments, (size_t)count, sizeof *stats->moments));
    for (int32_t i = 0; i < count; i++) {
        const lr_linear *linear = *lr__graph_linear(graph, i);
        if (!is_wanted(o, linear->name)) continue;
        LR_TRY(lr__dup(&stats->modules[stats->module_count], linear->name));
        stats->sizes[stats->module_count] = linear->in;
        stats->outs[stats->module_count] = linear->out;
        stats->moments_of[stats->module_count++] = -1;
    }
    LR_FAIL_IF(!stats->module_count, LR_E_NOTFOUND, "%s: no linear module matches%s", o->pattern,
               o->plan ? " that the plan gives a rank" : "");
done:
    lr__graph_drop(graph);
    return status;
}

/* Derivatives are counted of dense modules whose outputs exist as a whole. */
static lr_status add_slopes(lr_stats *stats) {
    lr__graph *graph = lr__model_graph(stats->model);
    lr_status status = LR_OK;
    LR_TRY(lr__new(&stats->slopes, (size_t)stats->module_count, sizeof *stats->slopes));
    for (int32_t i = 0; i < stats->module_count; i++) {
        int32_t index = lr__graph_find_linear(graph, stats->modules[i]);
        const lr_linear *linear = *lr__graph_linear(graph, index);
        LR_FAIL_IF(linear == graph->head, LR_E_UNSUPPORTED,
                   "%s: no gradients of the head, whose outputs never exist as a whole",
                   linear->name);
        LR_FAIL_IF(lr_linear_kind(linear) != LR_LINEAR_DENSE, LR_E_UNSUPPORTED,
                   "%s: already factorised; gradients are of dense modules", linear->name);
    }
done:
    lr__graph_drop(graph);
    return status;
}

lr_status lr_stats_new(lr_stats **out, const lr_model *model, const lr_stats_opts *opts) {
    lr_status status = LR_OK;
    lr_stats_opts o;
    lr_stats *stats = NULL;
    if (!out || !model) return lr__fail(LR_E_INVALID, "lr_stats_new: out and model are needed");
    *out = NULL;
    lr_stats_opts_init(&o, sizeof o);
    LR_TRY(lr__opts_merge(&o, sizeof o, opts, "lr_stats_opts"));
    if (!o.pattern) o.pattern = lr__block_linears;
    LR_FAIL_IF(o.exact != 0 && o.exact != 1, LR_E_INVALID, "exact %d, expected 0 or 1", o.exact);
    LR_FAIL_IF(o.gradients != 0 && o.gradients != 1, LR_E_INVALID, "gradients %d, expected 0 or 1",
               o.gradients);
    LR_FAIL_IF(!lr__glob_is_valid(o.pattern), LR_E_INVALID, "pattern \"%s\" is not well formed",
               o.pattern);
    LR_TRY(lr__new(&stats, 1, sizeof *stats));
    stats->model = lr__model_keep(model);
    stats->is_exact = o.exact;
    LR_TRY(lr__dup(&stats->pattern, o.pattern));
    LR_TRY(list_modules(stats, &o));
    if (o.gradients) LR_TRY(add_slopes(stats));
    *out = stats;
    stats = NULL;
done:
    lr_stats_free(stats);
    return status;
}

void lr_stats_free(lr_stats *stats) {
    if (!stats) return;
    lr__observers_free(stats);
    for (int32_t i = 0; i < stats->module_count; i++) lr__free(stats->modules[i]);
    for (int32_t i = 0; i < stats->moments_count; i++) lr__moments_clear(&stats->moments[i]);
    for (int32_t i = 0; stats->slopes && i < stats->module_count; i++)
        lr__slopes_clear(&stats->slopes[i]);
    lr__free(stats->slopes);
    lr__free(stats->outs);
    lr__free(stats->modules);
    lr__free(stats->sizes);
    lr__free(stats->moments_of);
    lr__free(stats->moments);
    lr__free(stats->pattern);
    lr__arena_clear(&stats->arena);
    lr_model_free(stats->model);
    lr__free(stats);
}

int32_t lr__stats_index(const lr_stats *stats, const char *module) {
    for (int32_t i = 0; i < stats->module_count; i++)
        if (!strcmp(stats->modules[i], module)) return i;
    return -1;
}

int lr__stats_weighs(double weight) { return weight >= 1e-100 && weight <= 1e100; }

lr_status lr__stats_find(const lr_stats *stats, const char *module, int32_t *index) {
    *index = lr__stats_index(stats, module);
    if (*index >= 0) return LR_OK;
    return lr__fail(LR_E_NOTFOUND, "%s: no statistics of this module", module);
}

lr_status lr__stats_check_counted(const lr_stats *stats, int32_t index) {
    int32_t moments = stats->moments_of[index];
    if (moments >= 0 && stats->moments[moments].weight > 0) return LR_OK;
    return lr__fail(LR_E_INVALID, "%s: no token was counted", stats->modules[index]);
}

lr_status lr__stats_moments_of(const lr__moments **out, const lr_stats *stats,
                               const lr_linear *linear) {
    int32_t index = 0;
    lr_status status = lr__stats_find(stats, linear->name, &index);
    if (status >= 0) status = lr__stats_check_counted(stats, index);
    if (status < 0) return status;
    *out = &stats->moments[stats->moments_of[index]];
    if ((*out)->size == linear->in) return LR_OK;
    return lr__fail(LR_E_SHAPE, "%s: statistics of %lld inputs, expected %lld", linear->name,
                    (long long)(*out)->size, (long long)linear->in);
}

lr_status lr__stats_slopes_of(const lr__slopes **out, const lr_stats *stats,
                              const lr_linear *linear) {
    int32_t index = 0;
    lr_status status = lr__stats_find(stats, linear->name, &index);
    if (status < 0) return status;
    if (!stats->slopes || !(stats->slopes[index].weight > 0))
        return lr__fail(LR_E_NOTFOUND,
                        "%s: the statistics hold no gradients, expected some "
                        "collected with them",
                        linear->name);
    *out = &stats->slopes[index];
    if ((*out)->in == linear->in && (*out)->outputs.size == linear->out) return LR_OK;
    return lr__fail(LR_E_SHAPE, "%s: gradients of [%lld, %lld], expected [%lld, %lld]",
                    linear->name, (long long)(*out)->outputs.size, (long long)(*out)->in,
                    (long long)linear->out, (long long)linear->in);
}

lr_status lr__stats_add_input(lr_stats *stats, int32_t index, int64_t input_id) {
    lr__moments *m = &stats->moments[stats->moments_count];
    lr_status status = lr__moments_new(m, stats->sizes[index], stats->is_exact);
    if (status < 0) return status;
    m->last_input = input_id;
    stats->moments_of[index] = stats->moments_count++;
    return LR_OK;
}

/* The first module that reads the same input. */
static int32_t leader_of(const lr_stats *stats, int32_t index) {
    int32_t i = 0;
    while (stats->moments_of[i] != stats->moments_of[index]) i++;
    return i;
}

/* The same modules, all of them counted, and the same of them share an input. */
static lr_status check_addend(const lr_stats *stats, const lr_stats *other) {
    if (stats->is_exact != other->is_exact)
        return lr__fail(LR_E_INVALID, "lr_stats_add: exact statistics and moments do not mix");
    if (!stats->slopes != !other->slopes)
        return lr__fail(LR_E_INVALID, "lr_stats_add: statistics with and without gradients do not "
                                      "mix");
    if (stats->module_count != other->module_count)
        return lr__fail(LR_E_SHAPE, "statistics of %d modules, expected %d", other->module_count,
                        stats->module_count);
    for (int32_t i = 0; i < stats->module_count; i++) {
        if (strcmp(stats->modules[i], other->modules[i]) || stats->sizes[i] != other->sizes[i])
            return lr__fail(LR_E_SHAPE, "statistics of %s [%lld], expected %s [%lld]",
                            other->modules[i], (long long)other->sizes[i], stats->modules[i],
                            (long long)stats->sizes[i]);
        if (stats->slopes && stats->outs[i] != other->outs[i])
            return lr__fail(LR_E_SHAPE, "gradients of %s with %lld outputs, expected %lld",
                            other->modules[i], (long long)other->outs[i],
                            (long long)stats->outs[i]);
        lr_status status = lr__stats_check_counted(other, i);
        if (status < 0) return status;
        if (other->slopes && !(other->slopes[i].weight > 0))
            return lr__fail(LR_E_INVALID, "%s: no gradient was counted", other->modules[i]);
        if (stats->moments_of[i] >= 0 && leader_of(stats, i) != leader_of(other, i))
            return lr__fail(LR_E_SHAPE, "%s: shares its input with %s, expected %s",
                            stats->modules[i], other->modules[leader_of(other, i)],
                            stats->modules[leader_of(stats, i)]);
    }
    return LR_OK;
}

/* Room for all that `other` has, before anything is added. */
static lr_status make_room(lr_stats *stats, const lr_stats *other) {
    lr_status status = LR_OK;
    for (int32_t i = 0; i < stats->module_count; i++) {
        if (stats->slopes && !stats->slopes[i].fisher_in)
            LR_TRY(lr__slopes_new(&stats->slopes[i], stats->outs[i], stats->sizes[i]));
        if (stats->moments_of[i] >= 0) continue;
        int32_t leader = leader_of(other, i);
        if (leader == i)
            LR_TRY(lr__stats_add_input(stats, i, -1));
        else
            stats->moments_of[i] = stats->moments_of[leader];
    }
done:
    return status;
}

lr_status lr_stats_add(lr_stats *stats, const lr_stats *other, double weight) {
    lr_status status = LR_OK;
    if (!stats || !other || stats == other || !lr__stats_weighs(weight))
        return lr__fail(LR_E_INVALID, "lr_stats_add: two statistics and a positive weight needed");
    LR_TRY(check_addend(stats, other));
    LR_TRY(make_room(stats, other));
    const lr__device *device = &stats->model->ctx->device;
    for (int32_t i = 0; i < stats->module_count; i++) {
        if (leader_of(other, i) == i)
            LR_TRY(lr__moments_add(&stats->moments[stats->moments_of[i]],
                                   &other->moments[other->moments_of[i]], device, &stats->arena,
                                   weight));
        if (stats->slopes)
            LR_TRY(lr__slopes_add(&stats->slopes[i], &other->slopes[i], device, &stats->arena,
                                  weight));
    }
done:
    return status;
}

int64_t lr_stats_tokens(const lr_stats *stats) {
    return stats && stats->moments_count ? stats->moments[0].tokens : 0;
}

lr_status lr_stats_read(const lr_stats *stats, const char *module, double *gram, double *mean) {
    int32_t index = 0;
    if (!stats || !module)
        return lr__fail(LR_E_INVALID, "lr_stats_read: statistics and a module are needed");
    lr_status status = lr__stats_find(stats, module, &index);
    if (status >= 0) status = lr__stats_check_counted(stats, index);
    if (status >= 0)
        status = lr__moments_read(&stats->moments[stats->moments_of[index]], gram, mean);
    return status;
}

static void read_sums(double *to, const double *from, int64_t count, double weight) {
    for (int64_t i = 0; to && i < count; i++) to[i] = from[i] / weight;
}

lr_status lr_stats_read_gradients(const lr_stats *stats, const char *module,
                                  lr_stats_gradients *out) {
    int32_t index = 0;
    lr_status status = LR_OK;
    if (!stats || !module || !out || out->size < sizeof *out)
        return lr__fail(LR_E_INVALID, "lr_stats_read_gradients: statistics, a module and a sized "
                                      "struct are needed");
    LR_TRY(lr__stats_find(stats, module, &index));
    LR_FAIL_IF(!stats->slopes || !(stats->slopes[index].weight > 0), LR_E_NOTFOUND,
               "%s: no gradient was counted", module);
    const lr__slopes *s = &stats->slopes[index];
    read_sums(out->fisher_in, s->fisher_in, s->in, s->weight);
    read_sums(out->fisher_out, s->fisher_out, s->outputs.size, s->weight);
    read_sums(out->importance_in, s->importance_in, s->in, s->weight);
    read_sums(out->importance_out, s->importance_out, s->outputs.size, s->weight);
    out->windows = s->windows;
    status = lr__moments_read(&s->outputs, out->gram, NULL);
done:
    return status;
}
