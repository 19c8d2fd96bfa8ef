/* A forward with a hook on every module, which ends at the first number that is not finite. */
#include "run/not_finite.h"

#include "run/batches.h"

#include <math.h>
#include <stdio.h>

static int is_finite(const lr_tensor *rows) {
    const float *x = rows->data;
    int64_t count = rows->shape[0] * rows->shape[1];
    for (int64_t i = 0; x && i < count; i++)
        if (!isfinite(x[i])) return 0;
    return 1;
}

static lr_status look(const lr_hook_event *event, void *user) {
    char *found = user;
    int bad_input = !is_finite(&event->input);
    if (!bad_input && is_finite(&event->output)) return LR_OK;
    snprintf(found, LR__FOUND_ROOM, "the %s of %s", bad_input ? "input" : "output", event->module);
    return LR_E_CANCELLED;
}

lr_status lr__find_not_finite(const lr_model *model, const lr_segment *segments, int32_t count,
                              char found[LR__FOUND_ROOM]) {
    lr_hooks *hooks = NULL;
    lr_session *session = NULL;
    lr_status status = LR_OK;
    int32_t window = 1;
    found[0] = '\0';
    for (int32_t i = 0; i < count; i++)
        if (segments[i].count > window) window = segments[i].count;
    LR_TRY(lr_hooks_new(&hooks));
    LR_TRY(lr_hook_add(hooks, "model.layers.*", LR_AFTER_FORWARD, look, found, NULL));
    LR_TRY(lr__windows_session(&session, model, count, window, hooks));
    status = lr_session_forward(session, segments, count, NULL);
    if (found[0]) status = LR_OK;
done:
    lr_session_free(session);
    lr_hooks_free(hooks);
    return status;
}
