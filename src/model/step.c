/* One step of a session: its tokens are checked and placed, go through the blocks and the final
 * norm, and then the head reads all of them or those that are asked for. */
#include "model/forward.h"

#include <string.h>
#include <time.h>

double lr__seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the step's tokens ---- */

static lr_status check_segment(const lr_session *session, const lr_segment *segment,
                               int32_t vocabulary) {
    const lr_session_opts *o = &session->opts;
    if (segment->row < 0 || segment->row >= o->rows)
        return lr__fail(LR_E_INVALID, "row %d, expected 0 to %d", segment->row, o->rows - 1);
    if (segment->count < 1 || !segment->tokens)
        return lr__fail(LR_E_INVALID, "row %d: a segment of %d tokens", segment->row,
                        segment->count);
    int32_t length = o->no_cache ? 0 : session->rows[segment->row].length;
    if (segment->count > o->positions - length)
        return lr__fail(LR_E_INVALID, "row %d: %d tokens after %d exceed its %d positions",
                        segment->row, segment->count, length, o->positions);
    for (int32_t i = 0; i < segment->count; i++)
        if (segment->tokens[i] < 0 || segment->tokens[i] >= vocabulary)
            return lr__fail(LR_E_INVALID, "row %d: token %d at %d, expected 0 to %d", segment->row,
                            segment->tokens[i], i, vocabulary - 1);
    return LR_OK;
}

static lr_status check_segments(lr__step *step) {
    const lr__config *config = &step->graph->origin->config;
    unsigned char *seen;
    lr_session *session = step->session;
    lr_status status = lr__arena_take(&session->arena, &seen, (size_t)session->opts.rows, 1);
    if (status < 0) return status;
    memset(seen, 0, (size_t)session->opts.rows);
    if (!step->segments || step->count < 1)
        return lr__fail(LR_E_INVALID, "a step of %d segments", step->count);
    for (int32_t s = 0; s < step->count; s++) {
        const lr_segment *segment = &step->segments[s];
        status = check_segment(session, segment, config->vocabulary_size);
        if (status < 0) return status;
        if (seen[segment->row]++)
            return lr__fail(LR_E_INVALID, "row %d has two segments in one step", segment->row);
        step->tokens += segment->count;
    }
    if (step->tokens > INT32_MAX)
        return lr__fail(LR_E_INVALID, "a step of %lld tokens, at most %d", (long long)step->tokens,
                        INT32_MAX);
    return LR_OK;
}

static lr_status place_tokens(lr__step *step) {
    lr_session *session = step->session;
    lr_status status = LR_OK;
    int64_t at = 0;
    LR_TRY(lr__arena_take(&session->arena, &step->ids, (size_t)step->tokens, sizeof(int32_t)));
    LR_TRY(
        lr__arena_take(&session->arena, &step->positions, (size_t)step->tokens, sizeof(int32_t)));
    for (int32_t s = 0; s < step->count; s++) {
        const lr_segment *segment = &step->segments[s];
        int32_t first = session->opts.no_cache ? 0 : session->rows[segment->row].length;
        for (int32_t i = 0; i < segment->count; i++, at++) {
            step->ids[at] = segment->tokens[i];
            step->positions[at] = first + i;
        }
    }
done:
    return status;
}

static lr_status make_caches(lr__step *step) {
    lr_session *session = step->session;
    const lr__config *c = &step->graph->origin->config;
    lr_status status = LR_OK;
    size_t count = (size_t)c->layers * (size_t)(c->key_value_heads * c->head_size);
    LR_FAIL_IF(__builtin_mul_overflow(count, (size_t)session->opts.positions, &count), LR_E_INVALID,
               "session: a cache of %d positions cannot be held", session->opts.positions);
    for (int32_t s = 0; s < step->count && !session->opts.no_cache; s++) {
        lr__row *row = &session->rows[step->segments[s].row];
        if (!row->keys) LR_TRY(lr__new_aligned(&row->keys, count, sizeof(float)));
        if (!row->values) LR_TRY(lr__new_aligned(&row->values, count, sizeof(float)));
    }
done:
    return status;
}

/* ---- what hooks see ---- */

int64_t lr__next_input_id(void) {
    static int64_t last;
    return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

lr_tensor lr__step_view(const float *data, int64_t tokens, int64_t width) {
    lr_tensor tensor = {.data = (void *)data,
                        .dtype = LR_F32,
                        .ndim = 2,
                        .device = LR_HOST,
                        .shape = {tokens, width},
                        .stride = {width, 1}};
    return tensor;
}

lr_status lr__step_hooks(lr__step *step, int32_t target, const lr_hook_event *given) {
    lr_session *session = step->session;
    lr_hook_event event = *given;
    const lr_hooks *hooks = session->opts.hooks;
    if (!lr__watch_has(&session->watch, hooks, target, event.event, step->hook_kind)) return LR_OK;
    event.size = sizeof event;
    event.step = session->step;
    if (!event.tokens) {
        event.tokens = step->ids;
        event.positions = step->positions;
    }
    return lr__watch_call(&session->watch, hooks, target, &event, step->hook_kind);
}

/* ---- the forward ---- */

lr_status lr__step_begin(lr__step *step, lr_session *session, const lr_segment *segments,
                         int32_t count) {
    memset(step, 0, sizeof *step);
    if (!session) return lr__fail(LR_E_INVALID, "session is NULL");
    if (session->is_running)
        return lr__fail(LR_E_INVALID, "a forward of this session is under way");
    step->session = session;
    step->graph = lr__model_graph(session->model);
    step->segments = segments;
    step->count = count;
    step->mark = lr__arena_here(&session->arena);
    session->is_running = 1;
    lr_status status = lr__session_resolve_extents(session, step->graph);
    if (status >= 0) status = lr__session_resolve_derived(session, step->graph);
    if (status >= 0) status = lr__watch_update(&session->watch, session->opts.hooks, step->graph);
    lr__evaluation evaluation = {.device = &session->model->ctx->device,
                                 .arena = &session->arena,
                                 .extents = &session->extents,
                                 .batch = session->opts.kind == LR_STEP_BATCH};
    step->evaluation = evaluation;
    return status;
}

/* Everything before the blocks. */
lr_status lr__forward_begin(lr__forward *r, lr__step *step) {
    lr_status status = LR_OK;
    r->step = step;
    r->session = step->session;
    r->config = &step->graph->origin->config;
    r->q_size = (int64_t)r->config->heads * r->config->head_size;
    r->kv_size = (int64_t)r->config->key_value_heads * r->config->head_size;
    LR_TRY(check_segments(step));
    LR_TRY(place_tokens(step));
    LR_TRY(make_caches(step));
    status = lr__derived_refresh(&r->session->derived, r->session->step);
done:
    return status;
}

lr_status lr__step_run(lr__step *step, lr_session *session, const lr_segment *segments,
                       int32_t count) {
    double begin = lr__seconds();
    lr__forward r = {0};
    lr_status status = lr__step_begin(step, session, segments, count);
    if (!step->session) return status;
    LR_TRY(status);
    LR_TRY(lr__forward_begin(&r, step));
    lr__pool_hold(step->evaluation.device->pool);
    status = lr__forward_blocks(&r, 0, step->graph->block_count, NULL);
    if (status >= 0) lr__forward_norm(&r, step->graph->final_norm, r.a.x, r.a.normed);
    lr__pool_release(step->evaluation.device->pool);
    step->hidden = r.a.normed;
    step->head_input = lr__next_input_id();
done:
    session->seconds += lr__seconds() - begin;
    if (status < 0) lr__step_end(step, 0);
    return status;
}

lr_status lr_session_blocks(lr_session *session, const lr_segment *segments, int32_t count,
                            int32_t first, int32_t last, float *x) {
    double begin = lr__seconds();
    lr__step step;
    lr__forward r = {0};
    if (!x) return lr__fail(LR_E_INVALID, "lr_session_blocks: x is NULL");
    lr_status status = lr__step_begin(&step, session, segments, count);
    if (!step.session) return status;
    LR_TRY(status);
    LR_FAIL_IF(!session->opts.no_cache, LR_E_INVALID,
               "lr_session_blocks: the session keeps caches, expected one of no_cache");
    LR_FAIL_IF(first < 0 || last < first || last > step.graph->block_count, LR_E_INVALID,
               "blocks %d to %d, expected a part of 0 to %d", first, last, step.graph->block_count);
    LR_TRY(lr__forward_begin(&r, &step));
    lr__pool_hold(step.evaluation.device->pool);
    status = lr__forward_blocks(&r, first, last, first ? x : NULL);
    lr__pool_release(step.evaluation.device->pool);
    if (status >= 0)
        memcpy(x, r.a.x, (size_t)step.tokens * (size_t)r.config->hidden_size * sizeof *x);
done:
    session->seconds += lr__seconds() - begin;
    lr__step_end(&step, status >= 0);
    return status;
}

/* ---- the head ---- */

lr__head_rows lr__step_all(const lr__step *step) {
    lr__head_rows all = {step->hidden, step->ids, step->positions, step->tokens};
    return all;
}

lr_status lr__step_pick(const lr__step *step, int32_t scored, lr__head_rows *rows) {
    lr__arena *arena = &step->session->arena;
    size_t width = (size_t)step->graph->origin->config.hidden_size;
    size_t count = (size_t)(scored ? step->tokens - step->count : step->count);
    lr_status status = LR_OK;
    int64_t at = 0, to = 0;
    LR_TRY(lr__arena_take(arena, &rows->hidden, count * width, sizeof(float)));
    LR_TRY(lr__arena_take(arena, &rows->ids, count, sizeof(int32_t)));
    LR_TRY(lr__arena_take(arena, &rows->positions, count, sizeof(int32_t)));
    for (int32_t s = 0; s < step->count; s++) {
        int64_t all = step->segments[s].count, from = at + (scored ? 0 : all - 1);
        size_t some = scored ? (size_t)all - 1 : 1;
        memcpy(rows->hidden + (size_t)to * width, step->hidden + (size_t)from * width,
               some * width * sizeof(float));
        memcpy(rows->ids + to, step->ids + from, some * sizeof(int32_t));
        memcpy(rows->positions + to, step->positions + from, some * sizeof(int32_t));
        at += all;
        to += (int64_t)some;
    }
    rows->count = to;
done:
    return status;
}

lr_status lr__step_head_hooks(lr__step *step, int32_t event, const lr__head_rows *rows,
                              float *logits) {
    const lr_linear *head = step->graph->head;
    const lr_hook_event e = {.event = event,
                             .layer = -1,
                             .module = head->name,
                             .linear = head,
                             .input_id = step->head_input,
                             .input = lr__step_view(rows->hidden, rows->count, head->in),
                             .output = lr__step_view(logits, rows->count, head->out),
                             .tokens = rows->ids,
                             .positions = rows->positions};
    return lr__step_hooks(step, lr__graph_linear_count(step->graph) - 1, &e);
}

lr_status lr__step_logits(lr__step *step, const lr__head_rows *rows, float *logits) {
    const lr_linear *head = step->graph->head;
    double begin = lr__seconds();
    lr_status status = LR_OK;
    LR_TRY(lr__step_head_hooks(step, LR_BEFORE_FORWARD, rows, NULL));
    LR_TRY(lr__linear_forward(&step->evaluation, &head, 1, rows->hidden, head->in, rows->count,
                              &logits, &head->out));
    LR_TRY(lr__step_head_hooks(step, LR_AFTER_FORWARD, rows, logits));
done:
    step->session->seconds += lr__seconds() - begin;
    return status;
}

void lr__step_end(lr__step *step, int32_t accept) {
    lr_session *session = step->session;
    if (!session) return;
    for (int32_t s = 0; accept && !session->opts.no_cache && s < step->count; s++)
        session->rows[step->segments[s].row].length += step->segments[s].count;
    if (accept) session->step++;
    lr__arena_release(&session->arena, step->mark);
    lr__graph_drop(step->graph);
    session->is_running = 0;
    step->session = NULL;
}
