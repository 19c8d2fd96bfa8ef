/*
 * Fused linear cross-entropy: the head's logits are made a tile of the vocabulary at a time and
 * folded at once into a running softmax for each token (Milakov and Gimelshein, "Online normalizer
 * calculation for softmax", arXiv 1805.02867), so they never exist as a whole. With a reference
 * model both tiles are folded together into KL(reference || model).
 */
#include "model/session.h"

#include <math.h>
#include <string.h>

enum { TILE_OUTS = 1024, WHOLE_TOKENS = 64 };

/* A softmax under construction: log-sum-exp is most + log(sum). */
typedef struct softmax {
    float most;
    int32_t argmax;
    double sum;
} softmax;

typedef struct token_state {
    softmax model, reference;
    double cross; /* sum of exp(r - reference.most) * (r - m) over logits r, m */
    float target;
} token_state;

/* One side of the comparison: hidden rows that are scored, and the head's tiles. */
typedef struct side {
    lr__step *step;
    const float *hidden;       /* input of the leading matrix [tokens, width] */
    const lr__matrix *leading; /* NULL: no single leading matrix, logits by whole rows */
    const lr__param *bias;
    int64_t width;
    float scale;
    float *tile, *bias_values;
} side;

typedef struct job {
    const lr__kernels *kernels;
    token_state *states;
    const int32_t *targets;
    const float *tile, *reference_tile;
    float *scratch; /* [threads][TILE_OUTS] */
    int64_t first_token, tokens, first_out, outs, ld;
} job;

static void grow_softmax(softmax *s, float most, int32_t argmax) {
    if (!(most > s->most) && !isnan(most)) return;
    s->sum *= exp((double)s->most - (double)most);
    s->most = most;
    s->argmax = argmax;
}

static int32_t first_of(const float *x, int64_t n, float value) {
    for (int64_t i = 0; i < n; i++)
        if (x[i] == value) return (int32_t)i;
    return 0;
}

static void fold(const job *j, softmax *s, const float *logits, float *exps) {
    float most = j->kernels->max(j->outs, logits);
    if (most > s->most || isnan(most))
        grow_softmax(s, most, (int32_t)j->first_out + first_of(logits, j->outs, most));
    s->sum += j->kernels->exp_sum(j->outs, logits, s->most, exps);
}

static void fold_token(void *work, int64_t index, int32_t thread) {
    const job *j = work;
    token_state *state = &j->states[j->first_token + index];
    const float *logits = j->tile + index * j->ld;
    float *exps = j->scratch + thread * j->outs;
    int64_t target = j->targets[j->first_token + index] - j->first_out;
    if (target >= 0 && target < j->outs) state->target = logits[target];
    fold(j, &state->model, logits, exps);
    if (!j->reference_tile) return;
    const float *r = j->reference_tile + index * j->ld;
    float before = state->reference.most;
    fold(j, &state->reference, r, exps);
    if (state->reference.most != before)
        state->cross *= exp((double)before - (double)state->reference.most);
    double cross = 0;
    for (int64_t i = 0; i < j->outs; i++)
        if (exps[i] != 0) cross += (double)exps[i] * ((double)r[i] - (double)logits[i]);
    state->cross += cross;
}

/* What comes after each scored token. */
static lr_status gather_targets(lr__step *step, int32_t **targets) {
    size_t to = 0, scored = (size_t)(step->tokens - step->count);
    lr_status status = lr__arena_take(&step->session->arena, targets, scored, sizeof(int32_t));
    for (int32_t s = 0; status >= 0 && s < step->count; s++) {
        size_t count = (size_t)step->segments[s].count - 1;
        memcpy(*targets + to, step->segments[s].tokens + 1, count * sizeof(int32_t));
        to += count;
    }
    return status;
}

/* Evaluates what follows the leading matrix of a one-term head, once for all tiles. */
static lr_status run_tail(side *s, const float *hidden, int64_t tokens) {
    const lr_linear *head = s->step->graph->head;
    const lr__term *term = &head->terms[0];
    s->hidden = hidden;
    s->width = head->in;
    if (term->count == 1) return LR_OK;
    lr__term tail_term = {1, term->count - 1, term->ops + 1, NULL};
    lr_linear tail = *head;
    tail.terms = &tail_term;
    tail.term_count = 1;
    tail.bias = NULL;
    tail.out = s->width =
        lr__extent_of(s->step->evaluation.extents, term->ops[1].out_axis, term->ops[1].out);
    const lr_linear *module = &tail;
    float *value;
    lr_status status = lr__arena_take(&s->step->session->arena, &value, (size_t)(tokens * tail.out),
                                      sizeof(float));
    if (status >= 0)
        status = lr__linear_forward(&s->step->evaluation, &module, 1, hidden, head->in, tokens,
                                    &value, &tail.out);
    s->hidden = value;
    return status;
}

static int32_t is_plain_head(const lr_linear *head) {
    return head->term_count == 1 && !head->terms[0].overlay &&
           head->terms[0].ops[0].kind == LR__OP_MATRIX;
}

static lr_status side_begin(side *s, lr__step *step, const float *hidden, int64_t tokens,
                            int32_t is_tiled) {
    const lr_linear *head = step->graph->head;
    lr__arena *arena = &step->session->arena;
    lr_status status = LR_OK;
    memset(s, 0, sizeof *s);
    s->step = step;
    s->hidden = hidden;
    s->width = head->in;
    size_t room = is_tiled ? (size_t)tokens * TILE_OUTS : WHOLE_TOKENS * (size_t)head->out;
    LR_TRY(lr__arena_take(arena, &s->tile, room, sizeof(float)));
    if (!is_tiled) return LR_OK;
    s->scale = head->terms[0].scale;
    s->leading = &head->terms[0].ops[0].param->matrix;
    s->bias = head->bias;
    if (s->bias) {
        LR_TRY(lr__arena_take(arena, &s->bias_values, (size_t)head->out, sizeof(float)));
        lr__param_widen(step->evaluation.device->kernels, s->bias, s->bias_values);
    }
    status = run_tail(s, hidden, tokens);
done:
    return status;
}

static lr_status run_tile(const side *s, const job *j) {
    lr__matrix rows = lr__matrix_rows(s->leading, j->first_out, j->outs);
    lr__matmul m = {.w = &rows,
                    .out = j->outs,
                    .in = s->width,
                    .tokens = j->tokens,
                    .x = s->hidden,
                    .ldx = s->width,
                    .y = s->tile,
                    .ldy = j->ld,
                    .scale = s->scale,
                    .batch = s->step->evaluation.batch};
    lr_status status = lr__matmul_run(s->step->evaluation.device, &s->step->session->arena, &m);
    for (int64_t t = 0; s->bias && t < j->tokens; t++)
        j->kernels->axpy(j->outs, 1, s->bias_values + j->first_out, s->tile + t * j->ld);
    return status;
}

static lr_status run_whole(const side *s, const job *j) {
    const lr_linear *head = s->step->graph->head;
    float *tile = s->tile;
    return lr__linear_forward(&s->step->evaluation, &head, 1, s->hidden + j->first_token * s->width,
                              s->width, j->tokens, &tile, &head->out);
}

/* All tiles: of the vocabulary for all tokens, or of tokens for the whole vocabulary. */
static lr_status fold_tiles(const side *model, const side *reference, job *j, int64_t tokens,
                            int64_t vocabulary) {
    int32_t is_tiled = model->leading != NULL;
    int64_t step = is_tiled ? TILE_OUTS : WHOLE_TOKENS, end = is_tiled ? vocabulary : tokens;
    lr_status status = LR_OK;
    j->ld = j->outs = is_tiled ? TILE_OUTS : vocabulary;
    j->tokens = tokens;
    for (int64_t at = 0; at < end && status >= 0; at += step) {
        int64_t size = end - at < step ? end - at : step;
        if (is_tiled)
            j->first_out = at, j->outs = size;
        else
            j->first_token = at, j->tokens = size;
        status = is_tiled ? run_tile(model, j) : run_whole(model, j);
        if (status >= 0 && reference)
            status = is_tiled ? run_tile(reference, j) : run_whole(reference, j);
        j->tile = model->tile;
        j->reference_tile = reference ? reference->tile : NULL;
        if (status >= 0)
            lr__pool_run(model->step->evaluation.device->pool, j->tokens, fold_token, j);
    }
    return status;
}

static lr_status finish_scores(const lr__step *step, const token_state *states, int32_t compares,
                               lr__score *scores) {
    int64_t i = 0;
    for (int32_t s = 0; s < step->count; s++)
        for (int32_t t = 0; t + 1 < step->segments[s].count; t++, i++) {
            const token_state *state = &states[i];
            double lse = (double)state->model.most + log(state->model.sum);
            scores[i].nll = lse - (double)state->target;
            if (!isfinite(scores[i].nll))
                return lr__fail(LR_E_NUMERIC, "loss of row %d at token %d is not finite",
                                step->segments[s].row, t + 1);
            if (!compares) continue;
            double reference_lse = (double)state->reference.most + log(state->reference.sum);
            scores[i].kl = state->cross / state->reference.sum - reference_lse + lse;
            scores[i].agrees = state->model.argmax == state->reference.argmax;
            if (!isfinite(scores[i].kl))
                return lr__fail(LR_E_NUMERIC, "divergence of row %d at token %d is not finite",
                                step->segments[s].row, t + 1);
        }
    return LR_OK;
}

/* The head's hooks see its input; its output never exists as a whole. */
static lr_status call_head_hooks(lr__step *step, const lr__head_rows *rows) {
    lr_status status = lr__step_head_hooks(step, LR_BEFORE_FORWARD, rows, NULL);
    if (status >= 0) status = lr__step_head_hooks(step, LR_AFTER_FORWARD, rows, NULL);
    return status;
}

lr_status lr__step_score(lr__step *step, lr__step *reference, lr__score *scores) {
    lr_status status = LR_OK;
    const lr_linear *head = step->graph->head;
    lr__arena *arena = &step->session->arena;
    int64_t tokens = step->tokens - step->count;
    int32_t is_tiled = is_plain_head(head) && (!reference || is_plain_head(reference->graph->head));
    side sides[2];
    lr__head_rows rows, reference_rows;
    int32_t *targets;
    double begin = lr__seconds();
    job j = {.kernels = step->evaluation.device->kernels};
    memset(scores, 0, (size_t)tokens * sizeof *scores);
    LR_TRY(gather_targets(step, &targets));
    LR_TRY(lr__step_pick(step, 1, &rows));
    LR_TRY(call_head_hooks(step, &rows));
    LR_TRY(side_begin(&sides[0], step, rows.hidden, tokens, is_tiled));
    if (reference) {
        LR_TRY(lr__step_pick(reference, 1, &reference_rows));
        LR_TRY(side_begin(&sides[1], reference, reference_rows.hidden, tokens, is_tiled));
    }
    int64_t widest = is_tiled ? TILE_OUTS : head->out;
    size_t threads = (size_t)lr__pool_threads(step->evaluation.device->pool);
    LR_TRY(lr__arena_take(arena, &j.scratch, threads * (size_t)widest, sizeof(float)));
    LR_TRY(lr__arena_take(arena, &j.states, (size_t)tokens, sizeof *j.states));
    memset(j.states, 0, (size_t)tokens * sizeof *j.states);
    for (int64_t t = 0; t < tokens; t++)
        j.states[t].model.most = j.states[t].reference.most = -INFINITY;
    j.targets = targets;
    LR_TRY(fold_tiles(&sides[0], reference ? &sides[1] : NULL, &j, tokens, head->out));
    LR_TRY(finish_scores(step, j.states, reference != NULL, scores));
done:
    step->session->seconds += lr__seconds() - begin;
    return status;
}
