/*
 * Ranks from a budget of parameters: exact arithmetic on shapes, nothing else. Two factors of a
 * matrix [out, in] cost rank (out + in) numbers, the pivot form rank (out + in - rank), a dense
 * matrix out in. From the rank on at which a form would cost as much, a matrix stays dense.
 */
#ifndef LR_COMPRESS_RANKS_H
#define LR_COMPRESS_RANKS_H

#include "base/status.h"

enum { LR__STORAGE_TWO_FACTOR, LR__STORAGE_PIVOT };

typedef struct lr__rank_item {
    int64_t out, in;
    int64_t rank;    /* 0 is dense */
    int32_t storage; /* what a rank costs */
    int32_t reserved;
} lr__rank_item;

/* Parameters of one item at its rank. */
int64_t lr__rank_params(const lr__rank_item *item);

/* Parameters of all items at their ranks, and all dense. */
lr_status lr__ranks_params(int64_t *out, const lr__rank_item *items, int64_t count);
lr_status lr__ranks_dense(int64_t *out, const lr__rank_item *items, int64_t count);

/* The largest whole number of parameters whose share of `total` is at most `keep`. The share is
 * what a reader gets who divides the two, the nearest binary64: 120 of 400 are 0.3, though the
 * binary64 of 0.3 is a little less than 3/10. LR_E_INVALID unless keep is above 0. */
lr_status lr__ranks_budget(int64_t *out, double keep, int64_t total);

/* Sets every rank to the same share of its matrix, the largest whose cost is at most share out in
 * with share = budget / dense, and hands out what is left a rank at a time to the item furthest
 * below its exact share, the first on ties, until one more rank anywhere would exceed the budget.
 * Least is rank 1, or dense where that is cheaper. LR_E_INVALID when even that exceeds the budget.
 */
lr_status lr__ranks_uniform(lr__rank_item *items, int64_t count, int64_t budget);

#endif
