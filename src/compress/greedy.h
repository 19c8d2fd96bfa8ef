/*
 * Ranks from a budget and from what each rank is worth. Costs, budgets and what dense means are
 * those of compress/ranks.h; so are the two promises: the budget is not exceeded, and no item could
 * take one more rank within it.
 */
#ifndef LR_COMPRESS_GREEDY_H
#define LR_COMPRESS_GREEDY_H

#include "compress/ranks.h"

/* The energy-greedy choice: the ranks that save most loss for their cost. worth[i] are min(out, in)
 * numbers, the loss that each further rank of item i saves, falling and none below 0; dense saves
 * their sum. No item gets less than `floor` (0 to 1) of its rank in lr__ranks_uniform, nor less
 * than rank 1. What is saved is within one step of the best there is, and the best itself where
 * steps spend the budget to the end. */
lr_status lr__ranks_greedy(lr__rank_item *items, int64_t count, int64_t budget, double floor,
                           const double *const *worth);

/* Ranks in proportion to `measure` (above 0), from the same floor up to dense. */
lr_status lr__ranks_proportional(lr__rank_item *items, int64_t count, int64_t budget, double floor,
                                 const double *measure);

#endif
