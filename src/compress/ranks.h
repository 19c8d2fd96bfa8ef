/*
 * Ranks from a budget: exact arithmetic on shapes, nothing else. Two factors of a matrix [out, in]
 * cost rank (out + in) numbers, the pivot form rank (out + in - rank), a dense matrix out in. From
 * the rank on at which a form would cost as much, a matrix stays dense. A budget is counted in
 * numbers or in bytes of a type; bytes include the index maps of the pivot form, 4 for each output.
 *
 * In pivot storage a matrix keeps two factors while the rank^2 numbers the pivot form saves are
 * not more than the `out` indices it takes. In shared storage matrices that read one input and
 * have one rank share their right factor: together they are two factors of the matrices stacked.
 */
#ifndef LR_COMPRESS_RANKS_H
#define LR_COMPRESS_RANKS_H

#include "base/status.h"

enum { LR__STORAGE_TWO_FACTOR, LR__STORAGE_PIVOT, LR__STORAGE_SHARED };

typedef struct lr__rank_item {
    int64_t out, in;
    int64_t rank;    /* 0 is dense */
    int32_t storage; /* what a rank costs */
    int32_t input;   /* LR__STORAGE_SHARED: items of one number read one input */
    int32_t width;   /* 0: cost in numbers; else in bytes, of numbers of this width, 1 being the
                        blocks of Q8_0 with a binary16 scale for each 32 columns */
    int32_t reserved;
} lr__rank_item;

/* Parameters of one item at its rank, if it shares with none. */
int64_t lr__rank_params(const lr__rank_item *item);
/* 1 when the item is stored in pivot form at its rank. */
int lr__rank_is_pivot(const lr__rank_item *item);
/* 1 when the two have one right factor. */
int lr__ranks_share(const lr__rank_item *a, const lr__rank_item *b);

/* One item for each set of items that share at equal ranks, the sum of their outs in it; returns
 * how many. Then the ranks of `folded` given back to all of a set. */
int64_t lr__ranks_fold(lr__rank_item *folded, const lr__rank_item *items, int64_t count);
void lr__ranks_unfold(lr__rank_item *items, int64_t count, const lr__rank_item *folded);
/* The outs of all items that would share with this one at its rank. */
int64_t lr__rank_stacked_out(const lr__rank_item *items, int64_t count, int64_t which);
/* Cost of an item at another rank, 0 for dense; and the largest rank that costs less than dense,
 * 0 when none does. */
int64_t lr__rank_cost(const lr__rank_item *item, int64_t rank);
int64_t lr__rank_most(const lr__rank_item *item);
/* The largest rank there is, min(out, in). */
static inline int64_t lr__rank_full(const lr__rank_item *item) {
    return item->out < item->in ? item->out : item->in;
}

/* Parameters of all items at their ranks, and the cost of all dense. */
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

/* One rank more for the item whose step `prefers` it over all others and still fits, until none
 * fits; `used` is what all items cost now. An item of rank 0 is dense and takes no more. */
typedef int (*lr__rank_prefers)(const void *user, int64_t item, int64_t than);
void lr__ranks_fill(lr__rank_item *items, int64_t count, int64_t left, lr__rank_prefers prefers,
                    const void *user);

#endif
