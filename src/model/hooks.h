/* The registry behind lowrank/hooks.h, and what a session keeps to find who watches a module. */
#ifndef LR_MODEL_HOOKS_H
#define LR_MODEL_HOOKS_H

#include "model/graph.h"

#include <lowrank/hooks.h>

typedef struct lr__hook {
    int32_t id, events;
    char *pattern;
    lr_hook_fn fn; /* NULL: removed */
    void *user;
} lr__hook;

struct lr_hooks {
    lr__hook *items;
    size_t count, capacity;
    int32_t next_id;
    int64_t version; /* changes with every add */
};

/* Hooks of each target: linears by index, then blocks. Rebuilt when registry or graph change. */
typedef struct lr__watch {
    int64_t hooks_version, graph_version;
    int32_t *first; /* of each target, in `hooks`; one more at the end */
    int32_t *hooks; /* indices of registry items */
    size_t first_capacity, hooks_capacity;
} lr__watch;

lr_status lr__watch_update(lr__watch *watch, const lr_hooks *hooks, const lr__graph *graph);
void lr__watch_clear(lr__watch *watch);
int32_t lr__watch_block(const lr__graph *graph, int32_t block);
/* 1 when any hook of the target wants one of the events; `kind` is 0, or LR_HOOK_CHANGES for hooks
 * that change values alone. */
int32_t lr__watch_has(const lr__watch *watch, const lr_hooks *hooks, int32_t target, int32_t events,
                      int32_t kind);
/* Calls the hooks of a target that want event->event, in order of registration. */
lr_status lr__watch_call(const lr__watch *watch, const lr_hooks *hooks, int32_t target,
                         const lr_hook_event *event, int32_t kind);

#endif
