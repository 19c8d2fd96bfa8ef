/* Session handles: rows, extents, and the public forms of a step. */
#include "model/session.h"

#include "base/glob.h"
#include "base/opts.h"
#include "model/rope.h"

#include <math.h>
#include <string.h>

void lr_session_opts_init(lr_session_opts *opts, size_t size) {
    lr_session_opts defaults = {.size = sizeof defaults, .rows = 1, .kind = LR_STEP_ROWS};
    lr__opts_defaults(opts, size, &defaults, sizeof defaults);
}

lr_status lr_session_new(lr_session **out, const lr_model *model, const lr_session_opts *opts) {
    lr_status status = LR_OK;
    lr_session *session = NULL;
    if (!out || !model) return lr__fail(LR_E_INVALID, "lr_session_new: out and model are needed");
    *out = NULL;
    const lr__config *config = &model->origin->config;
    LR_TRY(lr__new(&session, 1, sizeof *session));
    session->model = lr__model_keep(model);
    lr_session_opts *o = &session->opts;
    lr_session_opts_init(o, sizeof *o);
    LR_TRY(lr__opts_merge(o, sizeof *o, opts, "lr_session_opts"));
    if (!o->positions) o->positions = config->context_length;
    LR_FAIL_IF(o->rows < 1 || o->rows > 1 << 20, LR_E_INVALID, "session: %d rows", o->rows);
    LR_FAIL_IF(o->positions < 1, LR_E_INVALID, "session: %d positions", o->positions);
    LR_FAIL_IF(o->kind != LR_STEP_ROWS && o->kind != LR_STEP_BATCH, LR_E_INVALID,
               "session: kind %d, expected LR_STEP_ROWS or LR_STEP_BATCH", o->kind);
    LR_TRY(lr__new(&session->rows, (size_t)o->rows, sizeof *session->rows));
    LR_TRY(lr__new(&session->frequencies, (size_t)config->head_size / 2, sizeof(float)));
    lr__rope_frequencies(config, session->frequencies);
    *out = session;
    session = NULL;
done:
    lr_session_free(session);
    return status;
}

uint64_t lr__token_bytes(const lr_model *model) {
    const lr__config *c = &model->origin->config;
    uint64_t rounded = 0; /* the widest input again, in half the bytes */
    if (model->ctx->device.multiply_pairs)
        rounded = ((uint64_t)c->hidden_size + (uint64_t)c->intermediate_size) / 2;
    return sizeof(float) *
           (rounded + 4 * (uint64_t)c->hidden_size + 2 * (uint64_t)c->intermediate_size +
            2 * (uint64_t)(c->heads + c->key_value_heads) * (uint64_t)c->head_size + 1024);
}

static void extents_clear(lr__extents *extents) {
    for (size_t i = 0; i < extents->count; i++) lr__free(extents->items[i].axis);
    extents->count = 0;
}

void lr_session_free(lr_session *session) {
    if (!session) return;
    for (int32_t r = 0; session->rows && r < session->opts.rows; r++) {
        lr__aligned_free(session->rows[r].keys);
        lr__aligned_free(session->rows[r].values);
    }
    for (size_t i = 0; i < session->rule_count; i++) lr__free(session->rules[i].pattern);
    extents_clear(&session->extents);
    lr__free(session->extents.items);
    lr__free(session->rules);
    lr__free(session->rows);
    lr__free(session->frequencies);
    lr__derived_clear(&session->derived);
    lr__watch_clear(&session->watch);
    lr__arena_clear(&session->arena);
    lr_model_free(session->model);
    lr__free(session);
}

int32_t lr_session_length(const lr_session *session, int32_t row) {
    return session && row >= 0 && row < session->opts.rows ? session->rows[row].length : 0;
}

lr_status lr_session_truncate(lr_session *session, int32_t row, int32_t length) {
    if (!session || row < 0 || row >= session->opts.rows)
        return lr__fail(LR_E_INVALID, "lr_session_truncate: row %d", row);
    if (session->is_running)
        return lr__fail(LR_E_INVALID, "a forward of this session is under way");
    if (length < 0 || length > session->rows[row].length)
        return lr__fail(LR_E_INVALID, "row %d holds %d tokens, cannot be cut to %d", row,
                        session->rows[row].length, length);
    session->rows[row].length = length;
    return LR_OK;
}

static const lr__axis *axis_of(const lr_linear *linear, int32_t term, int32_t op, int32_t side) {
    const lr__op *o = &linear->terms[term].ops[op];
    return side ? o->out_axis : o->in_axis;
}

/* Calls for every named axis of the graph, some of them several times. */
static lr_status each_axis(const lr__graph *graph,
                           lr_status (*fn)(const lr__axis *axis, void *user), void *user) {
    for (int32_t i = 0; i < lr__graph_linear_count(graph); i++) {
        const lr_linear *linear = *lr__graph_linear(graph, i);
        for (int32_t t = 0; t < linear->term_count; t++)
            for (int32_t o = 0; o < linear->terms[t].count; o++)
                for (int32_t side = 0; side < 2; side++) {
                    const lr__axis *axis = axis_of(linear, t, o, side);
                    lr_status status = axis ? fn(axis, user) : LR_OK;
                    if (status < 0) return status;
                }
    }
    return LR_OK;
}

typedef struct search {
    const char *pattern;
    int64_t extent;
    int32_t found;
} search;

static lr_status check_axis(const lr__axis *axis, void *user) {
    search *s = user;
    if (!lr__glob_match(s->pattern, axis->name)) return LR_OK;
    s->found = 1;
    if (s->extent < 0 || s->extent > axis->size)
        return lr__fail(LR_E_INVALID, "%s: extent %lld, expected 1 to %lld, or 0 for all",
                        axis->name, (long long)s->extent, (long long)axis->size);
    return LR_OK;
}

/* A rule that a later one of the same pattern overrules. */
static void forget_rule(lr_session *session, const char *pattern) {
    for (size_t i = 0; i < session->rule_count; i++)
        if (!strcmp(session->rules[i].pattern, pattern)) {
            lr__free(session->rules[i].pattern);
            memmove(&session->rules[i], &session->rules[i + 1],
                    (--session->rule_count - i) * sizeof *session->rules);
            return;
        }
}

lr_status lr_session_set_extent(lr_session *session, const char *pattern, int64_t extent) {
    lr_status status = LR_OK;
    search s = {pattern, extent, 0};
    lr__extent_rule rule = {NULL, extent};
    if (!session || !pattern || !lr__glob_is_valid(pattern))
        return lr__fail(LR_E_INVALID, "lr_session_set_extent: session and a pattern are needed");
    lr__graph *graph = lr__model_graph(session->model);
    LR_TRY(each_axis(graph, check_axis, &s));
    LR_FAIL_IF(!s.found, LR_E_NOTFOUND, "%s: no axis of this name", pattern);
    LR_TRY(lr__grow(&session->rules, &session->rule_capacity, session->rule_count + 1,
                    sizeof *session->rules));
    LR_TRY(lr__dup(&rule.pattern, pattern));
    forget_rule(session, pattern);
    session->rules[session->rule_count++] = rule;
    session->extents_version = 0;
done:
    lr__graph_drop(graph);
    return status;
}

static lr_status resolve_axis(const lr__axis *axis, void *user) {
    lr_session *session = user;
    lr__extents *e = &session->extents;
    lr_status status;
    int64_t extent = 0;
    for (size_t i = 0; i < session->rule_count; i++)
        if (lr__glob_match(session->rules[i].pattern, axis->name))
            extent = session->rules[i].extent;
    for (size_t i = 0; i < e->count; i++)
        if (!strcmp(e->items[i].axis, axis->name)) return LR_OK;
    if (!extent || extent >= axis->size) return LR_OK;
    lr__extent item = {NULL, extent};
    LR_TRY(lr__grow(&e->items, &e->capacity, e->count + 1, sizeof *e->items));
    LR_TRY(lr__dup(&item.axis, axis->name));
    e->items[e->count++] = item;
done:
    return status;
}

lr_status lr__session_resolve_extents(lr_session *session, const lr__graph *graph) {
    if (!session->rule_count || session->extents_version == graph->version) return LR_OK;
    extents_clear(&session->extents);
    lr_status status = each_axis(graph, resolve_axis, session);
    if (status >= 0) session->extents_version = graph->version;
    return status;
}

typedef struct deriving {
    lr__derived *derived;
    lr_status status;
} deriving;

static void resolve_param(const lr__param *param, int32_t is_bias, void *user) {
    deriving *d = user;
    (void)is_bias;
    if (d->status >= 0) d->status = lr__derived_add(d->derived, (lr__param *)param);
}

lr_status lr__session_resolve_derived(lr_session *session, const lr__graph *graph) {
    deriving d = {&session->derived, LR_OK};
    if (session->derived_version == graph->version) return LR_OK;
    session->derived_version = 0;
    session->derived.count = 0;
    lr__graph_each_param(graph, resolve_param, &d);
    if (d.status >= 0) session->derived_version = graph->version;
    return d.status;
}

static lr_status check_finite(const lr__step *step, const float *logits, int64_t rows) {
    int64_t vocabulary = step->graph->origin->config.vocabulary_size;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < vocabulary; i++)
            if (!isfinite(logits[r * vocabulary + i]))
                return lr__fail(LR_E_NUMERIC,
                                "logits of output row %lld are not finite (token id %lld)",
                                (long long)r, (long long)i);
    return LR_OK;
}

lr_status lr_session_forward(lr_session *session, const lr_segment *segments, int32_t count,
                             float *logits) {
    lr__step step;
    lr__head_rows last;
    lr_status status = lr__step_run(&step, session, segments, count);
    if (status < 0) return status;
    if (logits) {
        LR_TRY(lr__step_pick(&step, 0, &last));
        LR_TRY(lr__step_logits(&step, &last, logits));
        LR_TRY(check_finite(&step, logits, count));
    }
done:
    lr__step_end(&step, status >= 0);
    return status;
}

lr_status lr_session_forward_all(lr_session *session, const lr_segment *segments, int32_t count,
                                 float *logits) {
    lr__step step;
    if (!logits) return lr__fail(LR_E_INVALID, "lr_session_forward_all: logits is NULL");
    lr_status status = lr__step_run(&step, session, segments, count);
    if (status < 0) return status;
    lr__head_rows all = lr__step_all(&step);
    LR_TRY(lr__step_logits(&step, &all, logits));
    LR_TRY(check_finite(&step, logits, step.tokens));
done:
    lr__step_end(&step, status >= 0);
    return status;
}

lr_status lr_session_loss(lr_session *session, const lr_segment *segments, int32_t count,
                          double *nll) {
    lr__step step;
    lr__score *scores;
    if (!nll) return lr__fail(LR_E_INVALID, "lr_session_loss: nll is NULL");
    lr_status status = lr__step_run(&step, session, segments, count);
    if (status < 0) return status;
    int64_t scored = step.tokens - count;
    LR_TRY(lr__arena_take(&session->arena, &scores, (size_t)scored, sizeof *scores));
    LR_TRY(lr__step_score(&step, NULL, scores));
    for (int64_t i = 0; i < scored; i++) nll[i] = scores[i].nll;
done:
    lr__step_end(&step, status >= 0);
    return status;
}
