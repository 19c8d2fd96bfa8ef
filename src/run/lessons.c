/*
 * The backward pass ends below the lowest block in which something is trained; what is trained here
 * is the first norm of the lowest watched block, whose gradient nobody reads and no step uses.
 */
#include "run/lessons.h"

#include "model/learn.h"
#include "run/batches.h"

typedef struct lessons {
    lr_stats *stats;
    int32_t window, rows; /* windows of the pass in work */
    double weight;        /* of a window */
} lessons;

static lr_status observe(const lr_hook_event *event, void *user) {
    const lessons *l = user;
    lr_status status = LR_OK;
    int32_t index = lr__stats_index(l->stats, event->module);
    if (index < 0) return LR_OK;
    lr__slopes *slopes = &l->stats->slopes[index];
    const lr__slope_rows rows = {.x = event->input.data,
                                 .dy = event->output.data,
                                 .windows = l->rows,
                                 .window = l->window,
                                 .weight = l->weight};
    if (!slopes->fisher_in)
        LR_TRY(lr__slopes_new(slopes, l->stats->outs[index], l->stats->sizes[index]));
    LR_FAIL_IF(lr_linear_kind(event->linear) != LR_LINEAR_DENSE, LR_E_UNSUPPORTED,
               "%s: already factorised; gradients are of dense modules", event->module);
    status = lr__slopes_count(slopes, event->linear, &l->stats->arena, &rows);
done:
    return status;
}

static lr_status train_lowest(lr__gradients *gradients, const lr_stats *stats) {
    lr__graph *graph = lr__model_graph(stats->model);
    int32_t lowest = lr__graph_find_linear(graph, stats->modules[0]);
    lr_status status =
        lr__gradients_add(gradients, graph->blocks[lowest / LR__BLOCK_LINEARS].attention_norm);
    lr__graph_drop(graph);
    return status;
}

static lr_status run_passes(lessons *l, lr_session *session, const lr__gradients *gradients,
                            const int32_t *ids, int64_t windows) {
    lr_segment segments[LR__BATCH_WINDOWS];
    int32_t at_once = l->rows;
    for (int64_t first = 0; first < windows; first += at_once) {
        lr__loss_sums sums;
        l->rows = lr__windows_fill(segments, ids, first, windows, at_once, l->window);
        const lr__lesson lesson = {.gradients = gradients,
                                   .temperature = 1,
                                   .scale = (double)l->rows * (l->window - 1)}; /* of the sum */
        lr_status status = lr__session_learn(session, segments, l->rows, &lesson, &sums);
        if (status >= 0)
            status = lr__progress(l->stats->model->ctx, "collect", first + l->rows, windows);
        if (status < 0) return status;
    }
    return LR_OK;
}

lr_status lr__lessons_count(lr_stats *stats, lr_hooks *hooks, const int32_t *ids, int64_t windows,
                            int32_t window, double weight) {
    lr_status status = LR_OK;
    lr_session *session = NULL;
    lr__gradients gradients = {0};
    lessons l = {.stats = stats, .window = window, .weight = weight};
    LR_FAIL_IF(window < 2, LR_E_INVALID, "gradients: window %d, expected 2 or more", window);
    l.rows = lr__windows_at_once(stats->model, window, windows);
    if (l.rows > lr__windows_of_lesson(window)) l.rows = lr__windows_of_lesson(window);
    LR_TRY(lr_hook_add(hooks, stats->pattern, LR_BEFORE_BACKWARD, observe, &l, NULL));
    LR_TRY(train_lowest(&gradients, stats));
    LR_TRY(lr__windows_session(&session, stats->model, l.rows, window, hooks));
    status = run_passes(&l, session, &gradients, ids, windows);
done:
    lr_session_free(session);
    lr__gradients_clear(&gradients);
    return status;
}
