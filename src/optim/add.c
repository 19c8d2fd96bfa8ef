/* What an optimizer is told to train: parameters that match are replaced by masters, binary32
 * copies of its own, and what is derived from those by the same over the masters. All are made
 * before anything is replaced, and a call that fails leaves nothing behind. */
#include "optim/optimizer.h"

#include "base/glob.h"
#include "base/opts.h"
#include "model/model.h"
#include "model/save.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A parameter that was met; `to` NULL: it stays as it is. Both are kept. */
typedef struct change {
    lr__param *from, *to;
    int32_t is_new; /* the master is not trained yet, or the derived parameter not known */
} change;

typedef struct adding {
    lr_optimizer *optimizer;
    const char *pattern; /* NULL: all */
    const char *whose;   /* the module, or "the model" */
    int32_t has_sources; /* masters stand for the same parameter in every module of the caller */
    lr__group group;
    change *changes;
    size_t count, capacity;
    int64_t taken, fresh; /* changes with `to`, and those that are new */
} adding;

static void adding_clear(adding *a) {
    for (size_t i = 0; i < a->count; i++) {
        lr__param_drop(a->changes[i].from);
        lr__param_drop(a->changes[i].to);
    }
    lr__free(a->changes);
}

static double own_or(double own, double inherited) { return own < 0 ? inherited : own; }

static lr_status begin(adding *a, const lr_group_opts *opts) {
    const lr_optimizer_opts *all = &a->optimizer->opts;
    lr_group_opts o;
    lr_group_opts_init(&o, sizeof o);
    lr_status status = lr__opts_merge(&o, sizeof o, opts, "lr_group_opts");
    if (status < 0) return status;
    if (!isfinite(o.learning_rate) || !isfinite(o.weight_decay) || !isfinite(o.clip) || o.clip < 0)
        return lr__fail(
            LR_E_INVALID,
            "lr_group_opts: learning_rate %g, weight_decay %g, clip %g, expected finite "
            "numbers and no negative clip",
            o.learning_rate, o.weight_decay, o.clip);
    if (a->pattern && !lr__glob_is_valid(a->pattern))
        return lr__fail(LR_E_INVALID, "\"%s\": not a pattern", a->pattern);
    a->group = (lr__group){.learning_rate = own_or(o.learning_rate, all->learning_rate),
                           .weight_decay = own_or(o.weight_decay, all->weight_decay),
                           .clip = o.clip};
    return LR_OK;
}

/* --- masters --- */

static lr_status check_numbers(const float *numbers, int64_t count, const char *name) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(numbers[i]))
            return lr__fail(LR_E_NUMERIC, "%s: number %lld is %g", name, (long long)i, numbers[i]);
    return LR_OK;
}

static lr_status make_master(lr__param **out, const lr_optimizer *optimizer, const lr__param *from,
                             const char *name) {
    const lr__matrix *m = &from->matrix;
    lr__param *master = NULL;
    lr_status status = LR_OK;
    LR_TRY(lr__param_new(&master, name, m->rows, m->cols, from->ndim));
    lr__matrix_widen(optimizer->ctx->device.kernels, m, 0, m->rows, m->cols,
                     lr__param_floats(master), m->cols);
    lr__param_release(from);
    LR_TRY(check_numbers(lr__param_floats(master), lr__param_count(master), name));
    *out = master;
    master = NULL;
done:
    lr__param_drop(master);
    return status;
}

static lr__param *master_of(const lr_optimizer *optimizer, const lr__param *source) {
    for (size_t i = 0; i < optimizer->count; i++)
        if (optimizer->items[i].source == source) return optimizer->items[i].param;
    return NULL;
}

static change *change_of(const adding *a, const lr__param *from) {
    for (size_t i = 0; i < a->count; i++)
        if (a->changes[i].from == from) return &a->changes[i];
    return NULL;
}

static int is_named(const adding *a, const char *name) {
    return !a->pattern || lr__glob_match(a->pattern, name);
}

static lr_status meet_stored(adding *a, change *met, const char *name) {
    lr_optimizer *optimizer = a->optimizer;
    lr_status status = LR_OK;
    if (lr__gradients_has(&optimizer->gradients, met->from) || !is_named(a, name)) return LR_OK;
    if (a->has_sources) met->to = lr__param_keep(master_of(optimizer, met->from));
    met->is_new = !met->to;
    if (met->is_new) LR_TRY(make_master(&met->to, optimizer, met->from, name));
    a->taken++;
    a->fresh += met->is_new;
done:
    return status;
}

/* --- derived parameters --- */

static lr__param *now(const adding *a, lr__param *param) {
    const change *met = change_of(a, param);
    return met && met->to ? met->to : param;
}

/* Whether a gradient by it reaches something trained. */
static int learns(const adding *a, lr__param *param) {
    if (!param->producer)
        return now(a, param) != param || lr__gradients_has(&a->optimizer->gradients, param);
    for (int32_t i = 0; param->producer->backward && i < param->source_count; i++)
        if (learns(a, param->sources[i])) return 1;
    return 0;
}

static lr__param *rebound_of(const lr_optimizer *o, const lr__param *from,
                             lr__param *const *sources) {
    size_t bytes = (size_t)from->source_count * sizeof *sources;
    for (size_t i = 0; i < o->rebound_count; i++)
        if (o->rebound[i].from == from && !memcmp(o->rebound[i].to->sources, sources, bytes))
            return o->rebound[i].to;
    return NULL;
}

/* Behind its sources. */
static lr_status meet_derived(adding *a, change *met, const char *name) {
    lr_status status = LR_OK;
    lr__param *from = met->from, **sources = NULL;
    int is_same = 1;
    LR_FAIL_IF(is_named(a, name) && !learns(a, from), LR_E_UNSUPPORTED,
               "%s: derived from other parameters, of which none is trained", name);
    LR_TRY(lr__new(&sources, (size_t)from->source_count, sizeof *sources));
    for (int32_t i = 0; i < from->source_count; i++) {
        sources[i] = now(a, from->sources[i]);
        is_same = is_same && sources[i] == from->sources[i];
    }
    if (is_same) goto done;
    if (a->has_sources) met->to = lr__param_keep(rebound_of(a->optimizer, from, sources));
    met->is_new = !met->to;
    if (met->is_new) LR_TRY(lr__param_rebound(&met->to, from, sources));
done:
    lr__free(sources);
    return status;
}

/* Meets a parameter; its name in its first place decides. */
static lr_status meet(adding *a, lr__param *param, const char *name) {
    lr_status status = LR_OK;
    if (!param || change_of(a, param)) return LR_OK;
    for (int32_t i = 0; i < param->source_count; i++)
        LR_TRY(meet(a, param->sources[i], param->sources[i]->name));
    LR_TRY(lr__grow(&a->changes, &a->capacity, a->count + 1, sizeof *a->changes));
    change *met = &a->changes[a->count++];
    *met = (change){.from = lr__param_keep(param)};
    status = param->producer ? meet_derived(a, met, name) : meet_stored(a, met, name);
done:
    return status;
}

/* Meets what a module calls `<module>.<part>`, unless it has a name within the module already. */
static lr_status meet_part(adding *a, lr__param *param, const lr_linear *linear, const char *part) {
    lr_status status = LR_OK;
    char *name = NULL;
    size_t length = strlen(linear->name), room = length + strlen(part) + 2;
    if (!strncmp(param->name, linear->name, length) && param->name[length] == '.')
        return meet(a, param, param->name);
    LR_TRY(lr__new(&name, room, 1));
    snprintf(name, room, "%s.%s", linear->name, part);
    LR_TRY(meet(a, param, name));
done:
    lr__free(name);
    return status;
}

static lr_status meet_linear(adding *a, const lr_linear *linear) {
    lr_status status = LR_OK;
    int32_t kind = lr_linear_kind(linear);
    char stem[LR__STEM_SIZE], part[LR__STEM_SIZE + 16];
    for (int32_t t = 0; t < linear->term_count; t++)
        for (int32_t i = 0; i < linear->terms[t].count; i++) {
            const lr__op *op = &linear->terms[t].ops[i];
            if (!op->param) continue;
            lr__save_stem(stem, kind, t, i);
            snprintf(part, sizeof part, "%s%sweight", kind == LR_LINEAR_DENSE ? "" : stem,
                     kind == LR_LINEAR_DENSE ? "" : ".");
            if (op->kind == LR__OP_DIAGONAL) snprintf(part, sizeof part, "%s.diagonal", stem);
            LR_TRY(meet_part(a, op->param, linear, part));
        }
    if (linear->bias) LR_TRY(meet_part(a, linear->bias, linear, "bias"));
done:
    return status;
}

/* --- taking them up --- */

static int is_master(const change *met) { return met->is_new && !met->from->producer; }

static lr_status reserve(adding *a) {
    lr_optimizer *o = a->optimizer;
    lr_status status = LR_OK;
    int64_t chunks = o->chunks;
    for (size_t i = 0; i < a->count; i++)
        if (is_master(&a->changes[i]))
            chunks += (lr__param_count(a->changes[i].to) + LR__CHUNK - 1) / LR__CHUNK;
    LR_TRY(lr__grow(&o->rebound, &o->rebound_capacity, o->rebound_count + a->count,
                    sizeof *o->rebound));
    LR_TRY(lr__grow(&o->items, &o->capacity, o->count + (size_t)a->fresh, sizeof *o->items));
    LR_TRY(lr__grow(&o->groups, &o->group_capacity, o->group_count + 1, sizeof *o->groups));
    LR_TRY(lr__grow(&o->found, &o->found_capacity, (size_t)chunks, sizeof *o->found));
done:
    return status;
}

static lr_status take(adding *a, const change *met) {
    lr_optimizer *o = a->optimizer;
    lr_status status = LR_OK;
    lr__trained *item = &o->items[o->count];
    *item = (lr__trained){.param = met->to,
                          .count = lr__param_count(met->to),
                          .first_chunk = o->chunks,
                          .group = o->group_count};
    size_t arrays = (size_t)lr__optimizer_state_numbers(&o->opts), count = (size_t)item->count;
    LR_TRY(lr__gradients_add(&o->gradients, item->param));
    item->gradient = lr__gradient_of(&o->gradients, item->param);
    if (a->has_sources) item->source = lr__param_keep(met->from);
    o->count++;
    o->chunks += (item->count + LR__CHUNK - 1) / LR__CHUNK;
    if (!arrays) goto done;
    LR_TRY(lr__new_aligned(&item->state, count, arrays * sizeof *item->state));
    memset(item->state, 0, count * arrays * sizeof *item->state);
done:
    return status;
}

/* The caller truncates where this fails. */
static lr_status take_all(adding *a) {
    lr_status status = LR_OK;
    if (!a->taken)
        return lr__fail(LR_E_NOTFOUND,
                        "%s: no parameter matches \"%s\" that is not trained already", a->whose,
                        a->pattern ? a->pattern : "*");
    LR_TRY(reserve(a));
    for (size_t i = 0; i < a->count; i++)
        if (is_master(&a->changes[i])) LR_TRY(take(a, &a->changes[i]));
done:
    return status;
}

static void finish(adding *a, int64_t *count) {
    lr_optimizer *o = a->optimizer;
    if (a->fresh) o->groups[o->group_count++] = a->group;
    for (size_t i = 0; a->has_sources && i < a->count; i++) {
        const change *met = &a->changes[i];
        if (met->is_new && met->from->producer)
            o->rebound[o->rebound_count++] =
                (lr__rebound){lr__param_keep(met->from), lr__param_keep(met->to)};
    }
    if (count) *count = a->fresh;
}

static void swap_all(const adding *a, lr_linear *linear) {
    for (size_t i = 0; i < a->count; i++)
        if (a->changes[i].to) lr__linear_swap(linear, a->changes[i].from, a->changes[i].to);
}

lr_status lr_optimizer_add_linear(lr_optimizer *optimizer, lr_linear *linear, const char *pattern,
                                  const lr_group_opts *opts, int64_t *count) {
    lr_status status = LR_OK;
    if (count) *count = 0;
    if (!optimizer || !linear)
        return lr__fail(LR_E_INVALID, "lr_optimizer_add_linear: optimizer and linear are needed");
    adding a = {
        .optimizer = optimizer, .pattern = pattern, .whose = linear->name, .has_sources = 1};
    size_t before = optimizer->count;
    LR_TRY(begin(&a, opts));
    LR_TRY(meet_linear(&a, linear));
    LR_TRY(take_all(&a));
    swap_all(&a, linear);
    finish(&a, count);
done:
    if (status < 0) lr__optimizer_truncate(optimizer, before);
    adding_clear(&a);
    return status;
}

/* --- models --- */

static lr_status meet_vector(adding *a, const lr__graph *graph, int32_t index) {
    lr__param *param = *lr__graph_vector(graph, index);
    return param ? meet(a, param, param->name) : LR_OK;
}

/* In the order of computation. */
static lr_status meet_graph(adding *a, const lr__graph *graph) {
    lr_status status = LR_OK;
    int32_t linears = lr__graph_linear_count(graph), vectors = lr__graph_vector_count(graph);
    int32_t norms = graph->block_count ? (vectors - 2) / graph->block_count : 0;
    LR_TRY(meet_vector(a, graph, 0));
    for (int32_t b = 0; b < graph->block_count; b++) {
        for (int32_t i = 0; i < norms; i++) LR_TRY(meet_vector(a, graph, 1 + b * norms + i));
        for (int32_t i = 0; i < LR__BLOCK_LINEARS; i++)
            LR_TRY(meet_linear(a, *lr__graph_linear(graph, b * LR__BLOCK_LINEARS + i)));
    }
    LR_TRY(meet_vector(a, graph, vectors - 1));
    LR_TRY(meet_linear(a, *lr__graph_linear(graph, linears - 1)));
done:
    return status;
}

static int is_changed(const adding *a, const lr__param *param) {
    const change *met = param ? change_of(a, param) : NULL;
    return met && met->to;
}

static int is_linear_changed(const adding *a, const lr_linear *linear) {
    for (int32_t t = 0; t < linear->term_count; t++)
        for (int32_t i = 0; i < linear->terms[t].count; i++)
            if (is_changed(a, linear->terms[t].ops[i].param)) return 1;
    return is_changed(a, linear->bias);
}

/* The graph with the masters in it. */
static lr_status change_graph(lr__graph **out, const adding *a, const lr__graph *graph) {
    lr_status status = LR_OK;
    lr__graph *next = NULL;
    LR_TRY(lr__graph_copy(&next, graph));
    for (int32_t i = 0; i < lr__graph_vector_count(next); i++) {
        lr__param **slot = lr__graph_vector(next, i);
        if (is_changed(a, *slot)) lr__param_swap(slot, *slot, change_of(a, *slot)->to);
    }
    for (int32_t i = 0; i < lr__graph_linear_count(next); i++) {
        lr_linear **slot = lr__graph_linear(next, i), *copy;
        if (!is_linear_changed(a, *slot)) continue;
        LR_TRY(lr__linear_copy(&copy, *slot, (*slot)->name));
        swap_all(a, copy);
        lr_linear_free(*slot);
        *slot = copy;
    }
    *out = next;
    next = NULL;
done:
    lr__graph_drop(next);
    return status;
}

lr_status lr_optimizer_add_model(lr_optimizer *optimizer, lr_model *model, const char *pattern,
                                 const lr_group_opts *opts, int64_t *count) {
    lr_status status = LR_OK;
    lr__graph *graph = NULL, *next = NULL;
    if (count) *count = 0;
    if (!optimizer || !model)
        return lr__fail(LR_E_INVALID, "lr_optimizer_add_model: optimizer and model are needed");
    adding a = {.optimizer = optimizer, .pattern = pattern, .whose = "the model"};
    size_t before = optimizer->count;
    LR_TRY(begin(&a, opts));
    graph = lr__model_graph(model);
    LR_TRY(meet_graph(&a, graph));
    LR_TRY(take_all(&a));
    LR_TRY(change_graph(&next, &a, graph));
    LR_TRY(lr__model_merge(model, graph, next));
    finish(&a, count);
done:
    if (status < 0) lr__optimizer_truncate(optimizer, before);
    adding_clear(&a);
    lr__graph_drop(next);
    lr__graph_drop(graph);
    return status;
}
