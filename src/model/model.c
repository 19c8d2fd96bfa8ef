/* Model handles. */
#include "model/model.h"

#include "base/glob.h"
#include "base/opts.h"

#include <string.h>

void lr_model_opts_init(lr_model_opts *opts, size_t size) {
    lr_model_opts defaults = {.size = sizeof defaults};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

/* Takes over the reference to graph. */
static lr_status model_of_graph(lr_model **out, lr__graph *graph) {
    lr_status status = LR_OK;
    lr_model *model = NULL;
    LR_TRY(lr__new(&model, 1, sizeof *model));
    model->references = 1;
    pthread_mutex_init(&model->lock, NULL);
    pthread_mutex_init(&model->edits, NULL);
    model->graph = lr__graph_keep(graph);
    model->ctx = lr__ctx_keep(graph->ctx);
    model->origin = lr__origin_keep(graph->origin);
    LR_TRY(lr__json_text(&model->config_text, graph->origin->config.json, 0));
    *out = model;
    model = NULL;
done:
    lr__graph_drop(graph);
    lr_model_free(model);
    return status;
}

lr_status lr_model_open(lr_model **out, lr_ctx *ctx, const char *path, const lr_model_opts *opts) {
    lr_model_opts o;
    lr__graph *graph;
    if (!out || !ctx || !path)
        return lr__fail(LR_E_INVALID, "lr_model_open: out, ctx and path are needed");
    *out = NULL;
    lr_model_opts_init(&o, sizeof o);
    lr_status status = lr__opts_merge(&o, sizeof o, opts, "lr_model_opts");
    if (status >= 0) status = lr__graph_open(&graph, ctx, path, o.copy);
    if (status >= 0) status = model_of_graph(out, graph);
    return status;
}

lr_model *lr__model_keep(const lr_model *model) {
    lr_model *counted = (lr_model *)model;
    __atomic_add_fetch(&counted->references, 1, __ATOMIC_RELAXED);
    return counted;
}

void lr_model_free(lr_model *model) {
    if (!model || __atomic_sub_fetch(&model->references, 1, __ATOMIC_ACQ_REL)) return;
    lr__graph_drop(model->graph);
    lr__origin_drop(model->origin);
    lr_ctx_free(model->ctx);
    pthread_mutex_destroy(&model->lock);
    pthread_mutex_destroy(&model->edits);
    lr__free(model->config_text);
    lr__free(model);
}

lr__graph *lr__model_graph(const lr_model *model) {
    pthread_mutex_t *lock = (pthread_mutex_t *)&model->lock;
    pthread_mutex_lock(lock);
    lr__graph *graph = lr__graph_keep(model->graph);
    pthread_mutex_unlock(lock);
    return graph;
}

static void publish(lr_model *model, lr__graph *graph) {
    pthread_mutex_lock(&model->lock);
    lr__graph *before = model->graph;
    model->graph = graph;
    pthread_mutex_unlock(&model->lock);
    lr__graph_drop(before);
}

lr_status lr__model_merge(lr_model *model, const lr__graph *before, const lr__graph *after) {
    lr__graph *next;
    pthread_mutex_lock(&model->edits);
    lr__graph *current = lr__model_graph(model);
    lr_status status = lr__graph_copy(&next, current);
    for (int32_t i = 0; status >= 0 && i < lr__graph_linear_count(after); i++) {
        lr_linear *changed = *lr__graph_linear(after, i), **slot = lr__graph_linear(next, i);
        if (changed == *lr__graph_linear(before, i)) continue;
        lr_linear_free(*slot);
        *slot = lr__linear_keep(changed);
    }
    for (int32_t i = 0; status >= 0 && i < lr__graph_vector_count(after); i++) {
        lr__param *changed = *lr__graph_vector(after, i), **slot = lr__graph_vector(next, i);
        if (changed == *lr__graph_vector(before, i)) continue;
        lr__param_drop(*slot);
        *slot = lr__param_keep(changed);
    }
    if (status >= 0) publish(model, next);
    pthread_mutex_unlock(&model->edits);
    lr__graph_drop(current);
    return status;
}

lr_status lr_model_clone(lr_model **out, const lr_model *model) {
    lr__graph *copy, *graph;
    if (!out || !model) return lr__fail(LR_E_INVALID, "lr_model_clone: out and model are needed");
    *out = NULL;
    graph = lr__model_graph(model);
    lr_status status = lr__graph_copy(&copy, graph);
    if (status >= 0) status = model_of_graph(out, copy);
    lr__graph_drop(graph);
    return status;
}

const char *lr_model_config(const lr_model *model) { return model->config_text; }

const char *lr_model_path(const lr_model *model) { return model->origin->path; }

lr_status lr_model_tokenizer(const lr_model *model, const lr_tokenizer **out) {
    lr_status status = LR_OK;
    if (!model || !out) return lr__fail(LR_E_INVALID, "lr_model_tokenizer: model and out needed");
    lr__origin *origin = model->origin;
    pthread_mutex_lock(&origin->tokenizer_lock);
    if (!origin->tokenizer)
        status = origin->gguf ? lr__tokenizer_from_gguf(&origin->tokenizer, origin->gguf)
                              : lr_tokenizer_open(&origin->tokenizer, origin->path);
    *out = origin->tokenizer;
    pthread_mutex_unlock(&origin->tokenizer_lock);
    return status;
}

int32_t lr_model_linear_count(const lr_model *model) {
    return model->origin->config.layers * LR__BLOCK_LINEARS + 1;
}

lr_status lr_model_linear(const lr_model *model, int32_t index, lr_linear **out) {
    if (!model || !out) return lr__fail(LR_E_INVALID, "lr_model_linear: model and out needed");
    *out = NULL;
    lr__graph *graph = lr__model_graph(model);
    int32_t count = lr__graph_linear_count(graph);
    if (index >= 0 && index < count) *out = lr__linear_keep(*lr__graph_linear(graph, index));
    lr__graph_drop(graph);
    if (*out) return LR_OK;
    return lr__fail(LR_E_INVALID, "linear module %d, expected 0 to %d", index, count - 1);
}

lr_status lr_model_find_linear(const lr_model *model, const char *name, lr_linear **out) {
    if (!model || !name || !out)
        return lr__fail(LR_E_INVALID, "lr_model_find_linear: model, name and out are needed");
    *out = NULL;
    lr__graph *graph = lr__model_graph(model);
    int32_t index = lr__graph_find_linear(graph, name);
    lr__graph_drop(graph);
    if (index < 0) return lr__fail(LR_E_NOTFOUND, "%s: no such linear module", name);
    return lr_model_linear(model, index, out);
}

/* The module under the model's name, its MLP axis named. */
static lr_status adopt(lr_linear **out, const lr__graph *graph, int32_t index,
                       const lr_linear *linear) {
    const lr_linear *before = *lr__graph_linear(graph, index);
    lr_status status;
    lr__axis *axis;
    if (linear->out != before->out || linear->in != before->in)
        return lr__fail(LR_E_SHAPE, "%s: module of [%lld, %lld], expected [%lld, %lld]",
                        before->name, (long long)linear->out, (long long)linear->in,
                        (long long)before->out, (long long)before->in);
    status = lr__linear_renamed(out, linear, before->name);
    if (status < 0) return status;
    lr__linear_name_axis(*out, NULL, 0); /* of the place it comes from */
    lr__linear_name_axis(*out, NULL, 1);
    int32_t which = index % LR__BLOCK_LINEARS, block = index / LR__BLOCK_LINEARS;
    if (block == graph->block_count || which < LR__GATE) return status;
    status = lr__axis_new(&axis, graph->origin->config.intermediate_size, "%s.intermediate",
                          graph->blocks[block].name);
    if (status < 0) {
        lr_linear_free(*out);
        *out = NULL;
        return status;
    }
    lr__linear_name_axis(*out, axis, which != LR__DOWN);
    lr__axis_drop(axis);
    return LR_OK;
}

lr_status lr_model_set_linear(lr_model *model, const char *name, const lr_linear *linear) {
    lr_status status = LR_OK;
    lr__graph *graph = NULL, *next = NULL;
    lr_linear *adopted = NULL;
    if (!model || !name || !linear)
        return lr__fail(LR_E_INVALID, "lr_model_set_linear: model, name and linear are needed");
    pthread_mutex_lock(&model->edits);
    graph = lr__model_graph(model);
    int32_t index = lr__graph_find_linear(graph, name);
    LR_FAIL_IF(index < 0, LR_E_NOTFOUND, "%s: no such linear module", name);
    LR_TRY(adopt(&adopted, graph, index, linear));
    LR_TRY(lr__graph_copy(&next, graph));
    lr_linear **slot = lr__graph_linear(next, index);
    lr_linear_free(*slot);
    *slot = adopted;
    adopted = NULL;
    publish(model, next);
done:
    pthread_mutex_unlock(&model->edits);
    lr_linear_free(adopted);
    lr__graph_drop(graph);
    return status;
}

int32_t lr_name_matches(const char *pattern, const char *name) {
    return pattern && name && lr__glob_match(pattern, name);
}

typedef struct tally {
    const void **seen; /* parameters and index maps */
    size_t count, capacity;
    int64_t numbers, bytes;
    lr_status status;
} tally;

static int is_new(tally *t, const void *counted) {
    for (size_t i = 0; i < t->count; i++)
        if (t->seen[i] == counted) return 0;
    if (t->status >= 0) t->status = lr__grow(&t->seen, &t->capacity, t->count + 1, sizeof *t->seen);
    if (t->status < 0) return 0;
    t->seen[t->count++] = counted;
    return 1;
}

static void count_param(const lr__param *param, int32_t is_bias, void *user) {
    tally *t = user;
    (void)is_bias;
    if (!is_new(t, param)) return;
    t->numbers += lr__param_count(param);
    t->bytes += (int64_t)lr__param_bytes(param);
}

/* Those beside one matrix are how a file's order of rows is read; no file stores them. */
static void count_indices(const lr_linear *linear, tally *t) {
    if (lr_linear_kind(linear) == LR_LINEAR_DENSE) return;
    for (int32_t k = 0; k < linear->term_count; k++)
        for (int32_t i = 0; i < linear->terms[k].count; i++) {
            const lr__index *index = linear->terms[k].ops[i].index;
            if (index && is_new(t, index)) t->bytes += index->count * (int64_t)sizeof(int32_t);
        }
}

lr_status lr_model_get_info(const lr_model *model, lr_model_info *info) {
    if (!model || !info || info->size < sizeof(size_t))
        return lr__fail(LR_E_INVALID, "lr_model_get_info: model and info with its size needed");
    lr__graph *graph = lr__model_graph(model);
    const lr__config *c = &graph->origin->config;
    tally all = {0};
    lr__graph_each_param(graph, count_param, &all);
    tally linears = {0};
    for (int32_t i = 0; i < lr__graph_linear_count(graph); i++)
        count_indices(*lr__graph_linear(graph, i), &all);
    for (int32_t i = 0; i + 1 < lr__graph_linear_count(graph); i++)
        lr__linear_each_param(*lr__graph_linear(graph, i), count_param, &linears);
    lr_model_info full = {.size = info->size,
                          .parameters = all.numbers,
                          .linear_parameters = linears.numbers,
                          .bytes = all.bytes,
                          .layers = c->layers,
                          .hidden_size = c->hidden_size,
                          .intermediate_size = c->intermediate_size,
                          .attention_heads = c->heads,
                          .key_value_heads = c->key_value_heads,
                          .head_size = c->head_size,
                          .vocabulary_size = c->vocabulary_size,
                          .context_length = c->context_length};
    memcpy(info, &full, info->size < sizeof full ? info->size : sizeof full);
    lr__graph_drop(graph);
    lr__free(all.seen);
    lr__free(linears.seen);
    return all.status < 0 ? all.status : linears.status;
}
