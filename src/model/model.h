/* The model handle: the current version of a graph. */
#ifndef LR_MODEL_MODEL_H
#define LR_MODEL_MODEL_H

#include "model/graph.h"

#include <lowrank/model.h>

struct lr_model {
    int32_t references;    /* atomic */
    pthread_mutex_t lock;  /* held for as long as it takes to count a reference to `graph` */
    pthread_mutex_t edits; /* held from taking a version to publishing the next one */
    lr__graph *graph;
    lr_ctx *ctx;        /* the same for all versions */
    lr__origin *origin; /* the same for all versions */
    char *config_text;
};

lr_model *lr__model_keep(const lr_model *model);
/* The current version, with a reference of the caller's own. */
lr__graph *lr__model_graph(const lr_model *model);
/* Publishes at once every linear module, norm and embedding in which `after` differs from `before`,
 * on top of what others have published meanwhile. */
lr_status lr__model_merge(lr_model *model, const lr__graph *before, const lr__graph *after);

#endif
