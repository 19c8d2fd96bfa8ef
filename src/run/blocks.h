/* What the files of run/blocks*.c share: one run of lr_compress_texts(). */
#ifndef LR_RUN_BLOCKS_H
#define LR_RUN_BLOCKS_H

#include "base/spill.h"
#include "compress/compress.h"
#include "compress/plan.h"
#include "model/session.h"
#include "run/batches.h"

enum { LR__SEQUENTIAL_NONE, LR__SEQUENTIAL_SHIFT, LR__SEQUENTIAL_ANCHORED };

/* Modules of a block that read one input, in the order of computation. */
enum { LR__GROUPS = 4 };
extern const struct lr__group { int32_t first, count; /* LR__Q .. */ } lr__groups[LR__GROUPS];

typedef struct lr__blocks {
    lr_model *model, *draft; /* draft is a clone that receives the factors */
    lr__graph *graph;        /* the version both begin with */
    const lr_plan *plan;
    lr_compress_opts opts;
    int32_t sequential, exact; /* LR__SEQUENTIAL_...; statistics keep their root */
    const lr_text *texts;
    int32_t text_count;
    lr_compress_fn fn;
    void *user;
    int32_t *items;            /* of the plan, for each linear of the model; -1: stays as it is */
    lr__spill *dense, *behind; /* residual streams: of the dense model, and behind the blocks that
                                  are compressed; NULL when not needed */
    int64_t batch;             /* tokens of a batch, about */
    int64_t tokens;            /* of all texts */
    float *rows;               /* of a batch of a stream */
    float *seen;               /* inputs of a group in the dense model, for a batch */
    uint64_t memory, held;     /* 0: any; bytes held through the run */
    uint64_t stream;           /* bytes of one stream */
    const char *folder;        /* of the streams' files; NULL: they are in memory */
    lr_compress_event events[LR__BLOCK_LINEARS]; /* of this block */
    int32_t event_count, layer, pass;
} lr__blocks;

static inline int32_t lr__blocks_layers(const lr__blocks *b) {
    return b->model->origin->config.layers;
}

/* Item of the plan for linear `which` of a block; -1: stays as it is. */
static inline int32_t lr__blocks_item(const lr__blocks *b, int32_t layer, int32_t which) {
    return b->items[layer * LR__BLOCK_LINEARS + which];
}

/* Modules of groups first .. last - 1 to be replaced. */
int32_t lr__blocks_planned(const lr__blocks *b, int32_t layer, int32_t first, int32_t last);
/* Remembers an event and passes it on. */
lr_status lr__blocks_note(lr__blocks *b, const lr_compress_event *event);

/* blocks_memory.c: sizes batches and streams and makes nothing, so that a refusal leaves nothing.
 * LR_E_INVALID when the least work does not fit. */
lr_status lr__blocks_allot(lr__blocks *b);
/* The streams, perhaps in the work folder, and the buffers. */
lr_status lr__blocks_make(lr__blocks *b);
/* The group behind the last one whose statistics fit beside those of `first`. */
int32_t lr__blocks_fitting(const lr__blocks *b, int32_t layer, int32_t first);
/* What is left to factorise with beside the statistics of the groups; 0: any. */
uint64_t lr__blocks_spare(const lr__blocks *b, int32_t layer, int32_t first, int32_t last);

/* blocks_work.c: finished blocks in the work folder. */
lr_status lr__work_begin(const lr__blocks *b);
/* Puts the modules of a finished block into the draft; *found is 0 when it is not finished. */
lr_status lr__work_load(lr__blocks *b, int32_t layer, int32_t *found);
/* Saves the modules of a block; the draft reads them from there from now on. */
lr_status lr__work_save(lr__blocks *b, int32_t layer);

#endif
