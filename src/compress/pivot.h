/*
 * Pivot form of a product (PIFA, arXiv 2501.19090): rank r of W~ = left * right lies in r of its
 * rows, so r (out + in - r) numbers hold it without loss,
 *
 *     W~ = scatter(picked) * rows  +  scatter(rest) * mix * rows.
 *
 * The picked rows have nearly the largest volume: no element of mix is beyond 2 in size
 * (Goreinov et al., "How to find a good submatrix", 2010).
 */
#ifndef LR_COMPRESS_PIVOT_H
#define LR_COMPRESS_PIVOT_H

#include "base/mem.h"

typedef struct lr__pivot {
    int64_t out, in, rank;
    int32_t *picked, *rest; /* rank and out - rank row numbers, ascending, owned */
    float *rows;            /* [rank, in] aligned, owned */
    float *mix;             /* [out - rank, rank] aligned, owned; NULL for rank = out */
    double largest;         /* largest |mix| */
} lr__pivot;

/* left [out, rank], right [rank, in]; `name` is for messages. LR_E_NUMERIC when left has not full
 * rank. */
lr_status lr__pivot_new(lr__pivot *out, int64_t outs, int64_t ins, int64_t rank, const float *left,
                        const float *right, const char *name);
void lr__pivot_clear(lr__pivot *pivot);

#endif
