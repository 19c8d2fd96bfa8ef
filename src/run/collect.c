/* Collecting statistics through public hooks and sessions, as a host would. */
#include "compress/stats.h"
#include "run/batches.h"
#include "run/lessons.h"

#include <math.h>

struct lr__observer {
    lr__observer *next;
    lr_stats *stats;
    double weight;
};

void lr__observers_free(lr_stats *stats) {
    while (stats->observers) {
        lr__observer *next = stats->observers->next;
        lr__free(stats->observers);
        stats->observers = next;
    }
}

/* The first module of an input counts it; the others are found to share it. */
lr_status lr__stats_observe(lr_stats *stats, const lr_hook_event *event, double weight) {
    lr_status status = LR_OK;
    int32_t index = lr__stats_index(stats, event->module);
    if (index < 0) return LR_OK;
    if (stats->moments_of[index] < 0) {
        for (int32_t i = 0; i < stats->moments_count; i++)
            if (stats->moments[i].last_input == event->input_id) {
                stats->moments_of[index] = i;
                return LR_OK;
            }
        status = lr__stats_add_input(stats, index, -1);
        if (status < 0) return status;
    }
    lr__moments *m = &stats->moments[stats->moments_of[index]];
    if (m->last_input == event->input_id) return LR_OK;
    m->last_input = event->input_id;
    status = lr__moments_count(m, &stats->model->ctx->device, &stats->arena, event->input.data,
                               event->input.shape[0], weight);
    for (int64_t i = 0; i < m->size && status >= 0; i++)
        if (!isfinite(m->absolute[i]))
            status = lr__fail(LR_E_NUMERIC, "%s: input channel %lld is not finite", event->module,
                              (long long)i);
    return status;
}

/* The pattern may also match blocks, and linear modules an opened file knows nothing of. */
static lr_status observe(const lr_hook_event *event, void *user) {
    const lr__observer *observer = user;
    return lr__stats_observe(observer->stats, event, observer->weight);
}

lr_status lr_stats_attach(lr_stats *stats, lr_hooks *hooks, double weight) {
    lr_status status;
    lr__observer *observer = NULL;
    if (!stats || !hooks || !lr__stats_weighs(weight))
        return lr__fail(LR_E_INVALID,
                        "lr_stats_attach: statistics, hooks and a weight from 1e-100 to 1e100");
    status = lr__new(&observer, 1, sizeof *observer);
    if (status < 0) return status;
    observer->stats = stats;
    observer->weight = weight;
    status = lr_hook_add(hooks, stats->pattern, LR_AFTER_FORWARD, observe, observer, NULL);
    if (status < 0) {
        lr__free(observer);
        return status;
    }
    observer->next = stats->observers;
    stats->observers = observer;
    return LR_OK;
}

static lr_status run_windows(lr_stats *stats, lr_session *session, const int32_t *ids,
                             int64_t windows, int32_t window, int32_t rows) {
    lr_segment segments[LR__BATCH_WINDOWS];
    for (int64_t w = 0; w < windows; w += rows) {
        int32_t now = lr__windows_fill(segments, ids, w, windows, rows, window);
        lr_status status = lr_session_forward(session, segments, now, NULL);
        if (status >= 0) status = lr__progress(stats->model->ctx, "collect", w + now, windows);
        if (status < 0) return status;
    }
    return LR_OK;
}

lr_status lr_stats_collect(lr_stats *stats, const int32_t *ids, size_t count, int32_t window,
                           double weight) {
    lr_status status = LR_OK;
    lr_hooks *hooks = NULL;
    lr_session *session = NULL;
    if (!stats || !ids || window < 1 || !lr__stats_weighs(weight))
        return lr__fail(LR_E_INVALID, "lr_stats_collect: window %d, weight %g", window, weight);
    int64_t windows = (int64_t)(count / (size_t)window);
    if (windows < 1)
        return lr__fail(LR_E_INVALID, "the text of %zu tokens holds no window of %d", count,
                        window);
    int32_t rows = lr__windows_at_once(stats->model, window, windows);
    LR_TRY(lr_hooks_new(&hooks));
    LR_TRY(lr_stats_attach(stats, hooks, weight / (double)(windows * window)));
    if (stats->slopes) {
        status = lr__lessons_count(stats, hooks, ids, windows, window, weight / (double)windows);
        goto done;
    }
    LR_TRY(lr__windows_session(&session, stats->model, rows, window, hooks));
    LR_TRY(run_windows(stats, session, ids, windows, window, rows));
done:
    lr_session_free(session);
    lr_hooks_free(hooks);
    return status;
}
