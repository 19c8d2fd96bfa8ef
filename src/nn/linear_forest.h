/*
 * A group of linear modules that read one input as a forest of operators: roots read the input,
 * chains that end in the same operators share the nodes of that tail. Forward and backward pass
 * walk it in opposite directions.
 */
#ifndef LR_NN_LINEAR_FOREST_H
#define LR_NN_LINEAR_FOREST_H

#include "nn/linear.h"

enum { LR__NODES_MOST = 64 };

typedef struct lr__node {
    const lr__op *op;
    int32_t parent;      /* index of the node whose value it reads; -1: the input */
    int64_t out, in;     /* extents in use */
    float *value;        /* [tokens, out]; NULL until needed */
    int32_t uses;        /* nodes and terms that read the value */
    int32_t is_absorbed; /* a gather of its rows, its only reader, computes it */
    int32_t is_end;      /* of a term */
} lr__node;

/* One use of a chain's last node: module, scale and the rows it counts for. */
typedef struct lr__sink {
    int32_t module, node;
    float scale;
    const unsigned char *rows;
} lr__sink;

struct lr__linear_tape {
    const lr__evaluation *e;
    const lr_linear *const *modules;
    int32_t module_count;
    const float *x;
    int64_t ldx, tokens;
    lr__node nodes[LR__NODES_MOST];
    lr__sink sinks[LR__NODES_MOST];
    int32_t count, sink_count;
};

/* What a node reads, and the step of its rows. */
const float *lr__node_input(const lr__linear_tape *f, const lr__node *n, int64_t *step);

#endif
