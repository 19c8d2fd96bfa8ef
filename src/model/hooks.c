/* Hooks: a list of patterns, resolved to targets once for each graph. */
#include "model/hooks.h"

#include "base/glob.h"

#include <string.h>

enum { ALL_EVENTS = LR_BEFORE_FORWARD | LR_AFTER_FORWARD | LR_BEFORE_BACKWARD | LR_AFTER_BACKWARD };

lr_status lr_hooks_new(lr_hooks **out) {
    if (!out) return lr__fail(LR_E_INVALID, "lr_hooks_new: out is NULL");
    lr_status status = lr__new(out, 1, sizeof **out);
    if (status >= 0) (*out)->version = 1;
    return status;
}

void lr_hooks_free(lr_hooks *hooks) {
    if (!hooks) return;
    for (size_t i = 0; i < hooks->count; i++) lr__free(hooks->items[i].pattern);
    lr__free(hooks->items);
    lr__free(hooks);
}

lr_status lr_hook_add(lr_hooks *hooks, const char *pattern, int32_t events, lr_hook_fn fn,
                      void *user, int32_t *id) {
    lr_status status = LR_OK;
    lr__hook hook = {.events = events, .fn = fn, .user = user};
    if (!hooks || !pattern || !fn || !(events & ALL_EVENTS))
        return lr__fail(LR_E_INVALID, "lr_hook_add: hooks, pattern, fn and an event are needed");
    if (!lr__glob_is_valid(pattern))
        return lr__fail(LR_E_INVALID, "lr_hook_add: pattern \"%s\" is not well formed", pattern);
    LR_TRY(lr__dup(&hook.pattern, pattern));
    LR_TRY(lr__grow(&hooks->items, &hooks->capacity, hooks->count + 1, sizeof hook));
    hook.id = ++hooks->next_id;
    hooks->items[hooks->count++] = hook;
    hooks->version++;
    if (id) *id = hook.id;
    hook.pattern = NULL;
done:
    lr__free(hook.pattern);
    return status;
}

lr_status lr_hook_remove(lr_hooks *hooks, int32_t id) {
    for (size_t i = 0; hooks && i < hooks->count; i++)
        if (hooks->items[i].id == id && hooks->items[i].fn) {
            hooks->items[i].fn = NULL; /* the place stays: forwards hold its number */
            lr__free(hooks->items[i].pattern);
            hooks->items[i].pattern = NULL;
            return LR_OK;
        }
    return lr__fail(LR_E_NOTFOUND, "hook %d is not registered", id);
}

int32_t lr_hook_count(const lr_hooks *hooks) {
    int32_t count = 0;
    for (size_t i = 0; hooks && i < hooks->count; i++) count += hooks->items[i].fn != NULL;
    return count;
}

int32_t lr__watch_block(const lr__graph *graph, int32_t block) {
    return lr__graph_linear_count(graph) + block;
}

static const char *target_name(const lr__graph *graph, int32_t target) {
    int32_t linears = lr__graph_linear_count(graph);
    return target < linears ? (*lr__graph_linear(graph, target))->name
                            : graph->blocks[target - linears].name;
}

lr_status lr__watch_update(lr__watch *watch, const lr_hooks *hooks, const lr__graph *graph) {
    if (!hooks ||
        (watch->hooks_version == hooks->version && watch->graph_version == graph->version))
        return LR_OK;
    lr_status status = LR_OK;
    int32_t targets = lr__graph_linear_count(graph) + graph->block_count, used = 0;
    watch->graph_version = 0;
    LR_TRY(
        lr__grow(&watch->first, &watch->first_capacity, (size_t)targets + 1, sizeof *watch->first));
    for (int32_t t = 0; t < targets; t++) {
        watch->first[t] = used;
        LR_TRY(lr__grow(&watch->hooks, &watch->hooks_capacity, (size_t)used + hooks->count,
                        sizeof *watch->hooks));
        for (size_t i = 0; i < hooks->count; i++)
            if (hooks->items[i].fn &&
                lr__glob_match(hooks->items[i].pattern, target_name(graph, t)))
                watch->hooks[used++] = (int32_t)i;
    }
    watch->first[targets] = used;
    watch->hooks_version = hooks->version;
    watch->graph_version = graph->version;
done:
    return status;
}

void lr__watch_clear(lr__watch *watch) {
    lr__free(watch->first);
    lr__free(watch->hooks);
    memset(watch, 0, sizeof *watch);
}

static int32_t wants(const lr__hook *hook, int32_t events, int32_t kind) {
    return hook->fn && hook->events & events && (hook->events & kind) == kind;
}

int32_t lr__watch_has(const lr__watch *watch, const lr_hooks *hooks, int32_t target, int32_t events,
                      int32_t kind) {
    if (!hooks) return 0;
    for (int32_t i = watch->first[target]; i < watch->first[target + 1]; i++)
        if (wants(&hooks->items[watch->hooks[i]], events, kind)) return 1;
    return 0;
}

lr_status lr__watch_call(const lr__watch *watch, const lr_hooks *hooks, int32_t target,
                         const lr_hook_event *event, int32_t kind) {
    for (int32_t i = watch->first[target]; i < watch->first[target + 1]; i++) {
        const lr__hook hook = hooks->items[watch->hooks[i]];
        if (!wants(&hook, event->event, kind)) continue;
        lr_status status = hook.fn(event, hook.user);
        if (status < 0) return status;
    }
    return LR_OK;
}
