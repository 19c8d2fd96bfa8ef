/*
 * One step of learning: blocks forward, loss, blocks backward. Activations of a block are kept, or
 * made again from the stream that entered it (Chen et al., arXiv 1604.06174), so that memory grows
 * with the number of blocks by one stream each.
 */
#include "model/learn.h"

#include "model/backward.h"
#include "nn/loss_head.h"

#include <string.h>

typedef struct pass {
    const lr__lesson *lesson;
    lr__step step, teacher;
    lr__forward r;
    lr__backward b;
    lr__derived_pass derived;
    int32_t lowest;        /* block where the backward pass ends */
    float **streams;       /* what entered each block from `lowest` on */
    lr__block_tape *tapes; /* of each block, or of the one in work */
    float *hidden, *dhidden;
} pass;

static size_t stream_numbers(const pass *p) {
    return (size_t)p->step.tokens * (size_t)p->r.config->hidden_size;
}

static lr_status check_session(const lr_session *session, const char *what) {
    if (!session) return lr__fail(LR_E_INVALID, "%s is NULL", what);
    if (session->opts.kind != LR_STEP_BATCH || !session->opts.no_cache)
        return lr__fail(LR_E_INVALID, "%s: learning needs LR_STEP_BATCH and no_cache", what);
    return LR_OK;
}

/* ---- forward ---- */

static lr_status run_block(pass *p, int32_t layer) {
    lr__arena *arena = &p->step.session->arena;
    lr_status status = LR_OK;
    if (layer < p->lowest) return lr__forward_block(&p->r, layer);
    if (p->lesson->keeps_all) return lr__forward_block_kept(&p->r, layer, &p->tapes[layer]);
    LR_TRY(lr__arena_take(arena, &p->streams[layer], stream_numbers(p), sizeof(float)));
    memcpy(p->streams[layer], p->r.a.x, stream_numbers(p) * sizeof(float));
    status = lr__forward_block(&p->r, layer);
done:
    return status;
}

static lr_status run_forward(pass *p) {
    lr__arena *arena = &p->step.session->arena;
    size_t blocks = (size_t)p->step.graph->block_count;
    lr_status status = LR_OK;
    LR_TRY(lr__arena_take(arena, &p->streams, blocks, sizeof *p->streams));
    LR_TRY(lr__arena_take(arena, &p->tapes, blocks, sizeof *p->tapes));
    LR_TRY(lr__forward_activations(&p->r));
    lr__forward_embed(&p->r);
    for (int32_t i = 0; i < p->step.graph->block_count; i++) LR_TRY(run_block(p, i));
    LR_TRY(lr__arena_take(arena, &p->hidden, stream_numbers(p), sizeof(float)));
    lr__forward_norm(&p->r, p->step.graph->final_norm, p->r.a.x, p->hidden);
done:
    return status;
}

/* ---- loss ---- */

/* What comes after each token; nothing after the last of a segment. */
static lr_status place_targets(pass *p, int32_t **targets, int64_t *scored) {
    const lr__step *step = &p->step;
    lr_status status =
        lr__arena_take(&step->session->arena, targets, (size_t)step->tokens, sizeof **targets);
    int64_t at = 0;
    for (int32_t s = 0; status >= 0 && s < step->count; s++) {
        const lr_segment *segment = &step->segments[s];
        for (int32_t t = 0; t < segment->count; t++, at++)
            (*targets)[at] = t + 1 < segment->count ? segment->tokens[t + 1] : -1;
        *scored += segment->count - 1;
    }
    return status;
}

static lr_status run_loss(pass *p, lr__loss_sums *sums) {
    lr__step *step = &p->step;
    const lr_linear *head = step->graph->head;
    int32_t *targets;
    int64_t scored = 0;
    lr_status status = LR_OK;
    LR_TRY(place_targets(p, &targets, &scored));
    LR_FAIL_IF(scored < 1, LR_E_INVALID, "a loss needs a segment of two tokens or more");
    LR_TRY(lr__arena_take(&step->session->arena, &p->dhidden, stream_numbers(p), sizeof(float)));
    memset(p->dhidden, 0, stream_numbers(p) * sizeof *p->dhidden);
    lr__loss_head own = {.e = &step->evaluation,
                         .head = head,
                         .hidden = p->hidden,
                         .dhidden = p->dhidden,
                         .gradients = &p->derived.gradients};
    lr__evaluation taught = p->teacher.evaluation;
    taught.arena = &step->session->arena;
    lr__loss_head teacher = {.e = &taught, .hidden = p->teacher.hidden};
    lr__loss loss = {.tokens = step->tokens,
                     .vocabulary = head->out,
                     .chunk_rows = LR__LOSS_ROWS,
                     .targets = targets,
                     .logits = lr__loss_head_logits,
                     .dlogits = lr__loss_head_dlogits,
                     .user = &own,
                     .alpha = p->lesson->alpha,
                     .temperature = p->lesson->temperature,
                     .scale = p->lesson->scale / (double)scored};
    if (p->lesson->teacher) {
        teacher.head = p->teacher.graph->head;
        loss.teacher = lr__loss_head_logits;
        loss.teacher_user = &teacher;
    }
    status = lr__loss_run(step->evaluation.device, &step->session->arena, &loss, sums);
done:
    return status;
}

/* ---- backward ---- */

static lr_status leave_block(pass *p, int32_t layer, int goes_on) {
    lr__block_tape *tape = &p->tapes[layer];
    lr__arena *arena = &p->step.session->arena;
    lr__arena_mark mark = lr__arena_here(arena);
    lr_status status = LR_OK;
    if (!p->lesson->keeps_all) {
        memcpy(p->r.a.x, p->streams[layer], stream_numbers(p) * sizeof(float));
        p->step.hook_kind = LR_HOOK_CHANGES;
        status = lr__forward_block_kept(&p->r, layer, tape);
        p->step.hook_kind = 0;
    }
    if (status >= 0) status = lr__backward_block(&p->b, layer, tape, goes_on);
    lr__arena_release(arena, mark);
    return status;
}

static lr_status run_backward(pass *p) {
    const lr__gradients *gradients = &p->derived.gradients;
    const lr__graph *graph = p->step.graph;
    int32_t embeds = lr__gradients_has(gradients, graph->embedding);
    lr_status status = LR_OK;
    LR_TRY(lr__backward_new(&p->b, &p->r, gradients));
    memset(p->b.dx, 0, stream_numbers(p) * sizeof(float));
    LR_TRY(lr__backward_norm(&p->b, graph->final_norm, p->step.tokens, p->r.config->hidden_size,
                             p->r.a.x, p->dhidden, p->b.dx));
    for (int32_t i = graph->block_count - 1; i >= p->lowest; i--)
        LR_TRY(leave_block(p, i, i > p->lowest || embeds));
    lr__backward_embed(&p->b);
    status = lr__derived_end(&p->derived);
done:
    return status;
}

/* ---- both ---- */

static lr_status run_pass(pass *p, lr__loss_sums *sums) {
    lr_status status = LR_OK;
    LR_TRY(lr__forward_begin(&p->r, &p->step));
    LR_TRY(lr__derived_begin(&p->derived, &p->step.session->derived, p->lesson->gradients,
                             &p->step.session->arena));
    p->lowest = lr__backward_lowest(p->step.graph, &p->derived.gradients, 0);
    LR_TRY(run_forward(p));
    LR_TRY(run_loss(p, sums));
    status = run_backward(p);
done:
    return status;
}

static lr_status check_teacher(const pass *p) {
    const lr_linear *ours = p->step.graph->head, *its = p->teacher.graph->head;
    if (ours->out == its->out) return LR_OK;
    return lr__fail(LR_E_SHAPE, "a teacher of %lld tokens for a model of %lld", (long long)its->out,
                    (long long)ours->out);
}

lr_status lr__session_learn(lr_session *session, const lr_segment *segments, int32_t count,
                            const lr__lesson *lesson, lr__loss_sums *sums) {
    lr_status status = LR_OK;
    pass p = {.lesson = lesson};
    double begin = lr__seconds();
    LR_TRY(check_session(session, "the session"));
    if (lesson->teacher) {
        LR_TRY(check_session(lesson->teacher, "the teacher's session"));
        LR_FAIL_IF(lesson->teacher == session, LR_E_INVALID,
                   "the teacher needs a session of its own");
        LR_TRY(lr__step_run(&p.teacher, lesson->teacher, segments, count));
    }
    LR_TRY(lr__step_begin(&p.step, session, segments, count));
    if (lesson->teacher) LR_TRY(check_teacher(&p));
    lr__pool_hold(p.step.evaluation.device->pool);
    status = run_pass(&p, sums);
    lr__pool_release(p.step.evaluation.device->pool);
done:
    if (p.teacher.session) lr__step_end(&p.teacher, status >= 0);
    if (p.step.session) {
        session->seconds += lr__seconds() - begin;
        lr__step_end(&p.step, status >= 0);
    }
    return status;
}

/* ---- blocks alone ---- */

typedef struct blocks_pass {
    const lr__block_lesson *lesson;
    lr__step step;
    lr__forward r;
    lr__backward b;
    lr__derived_pass derived;
    lr__block_tape *tapes; /* of each block */
} blocks_pass;

static lr_status enter_blocks(blocks_pass *p) {
    const lr__block_lesson *l = p->lesson;
    lr_status status = LR_OK;
    lr__arena *arena = &p->step.session->arena;
    LR_TRY(lr__derived_begin(&p->derived, &p->step.session->derived, l->gradients, arena));
    LR_TRY(lr__arena_take(arena, &p->tapes, (size_t)(l->last - l->first), sizeof *p->tapes));
    LR_TRY(lr__forward_blocks(&p->r, l->first, l->first, l->first ? l->x : NULL));
    for (int32_t i = l->first; i < l->last; i++)
        LR_TRY(lr__forward_block_kept(&p->r, i, &p->tapes[i - l->first]));
done:
    return status;
}

static lr_status leave_blocks(blocks_pass *p) {
    const lr__block_lesson *l = p->lesson;
    size_t bytes = (size_t)p->step.tokens * (size_t)p->r.config->hidden_size * sizeof *p->b.dx;
    const lr__gradients *gradients = &p->derived.gradients;
    int below = l->dx || (!l->first && lr__gradients_has(gradients, p->step.graph->embedding));
    int32_t lowest = l->dx ? l->first : lr__backward_lowest(p->step.graph, gradients, l->first);
    lr_status status = LR_OK;
    LR_TRY(lr__backward_new(&p->b, &p->r, gradients));
    memset(p->b.dx, 0, bytes);
    for (int32_t i = l->last - 1; i >= lowest; i--)
        LR_TRY(lr__backward_block(&p->b, i, &p->tapes[i - l->first], below || i > lowest));
    if (!l->first) lr__backward_embed(&p->b);
    if (l->dx) memcpy(l->dx, p->b.dx, bytes);
    memcpy(l->x, p->r.a.x, bytes);
    status = lr__derived_end(&p->derived);
done:
    return status;
}

lr_status lr__session_learn_blocks(lr_session *session, const lr_segment *segments, int32_t count,
                                   const lr__block_lesson *lesson) {
    lr_status status = LR_OK;
    blocks_pass p = {.lesson = lesson};
    double begin = lr__seconds();
    LR_TRY(check_session(session, "the session"));
    LR_TRY(lr__step_begin(&p.step, session, segments, count));
    LR_FAIL_IF(lesson->first < 0 || lesson->first >= lesson->last ||
                   lesson->last > p.step.graph->block_count,
               LR_E_INVALID, "blocks %d to %d, the model has %d", lesson->first, lesson->last,
               p.step.graph->block_count);
    lr__pool_hold(p.step.evaluation.device->pool);
    status = lr__forward_begin(&p.r, &p.step);
    if (status >= 0) status = enter_blocks(&p);
    if (status >= 0) status = leave_blocks(&p);
    lr__pool_release(p.step.evaluation.device->pool);
done:
    if (p.step.session) {
        session->seconds += lr__seconds() - begin;
        lr__step_end(&p.step, status >= 0);
    }
    return status;
}
