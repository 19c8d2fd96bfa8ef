/* Pivot rows by column-pivoted QR, improved by exchanges until the mixing matrix is small. */
#include "compress/pivot.h"

#include "backend/lapack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double largest_allowed = 2;

typedef struct search {
    int64_t out, rank;
    const float *left;
    int32_t *order; /* picked rows first */
    double *mix;    /* left[rest] left[picked]^-1 [out - rank, rank] */
    double *square; /* left[picked] */
} search;

static void gather_rows(const search *s, const int32_t *rows, int64_t count, double *to) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < s->rank; j++)
            to[i * s->rank + j] = (double)s->left[rows[i] * s->rank + j];
}

static lr_status solve_mix(search *s) {
    gather_rows(s, s->order, s->rank, s->square);
    gather_rows(s, s->order + s->rank, s->out - s->rank, s->mix);
    if (s->out == s->rank) return LR_OK;
    return lr__dsolve(s->out - s->rank, s->rank, s->square, s->mix);
}

static double find_largest(const search *s, int64_t *row, int64_t *col) {
    double largest = 0;
    *row = *col = 0;
    for (int64_t i = 0; i < s->out - s->rank; i++)
        for (int64_t j = 0; j < s->rank; j++)
            if (fabs(s->mix[i * s->rank + j]) > largest) {
                largest = fabs(s->mix[i * s->rank + j]);
                *row = i;
                *col = j;
            }
    return largest;
}

/* Row `row` of the rest and picked row `col` change places; mix follows by a rank-one update. */
static void exchange(search *s, int64_t row, int64_t col, double *kept) {
    int64_t r = s->rank;
    double *chosen = s->mix + row * r, pivot = chosen[col];
    memcpy(kept, chosen, (size_t)r * sizeof *kept);
    kept[col] -= 1;
    for (int64_t i = 0; i < s->out - r; i++) {
        double *at = s->mix + i * r, factor = at[col] / pivot;
        if (i == row || factor == 0) continue;
        for (int64_t j = 0; j < r; j++) at[j] -= factor * kept[j];
    }
    /* the row that was picked is 1 in column `col`, 0 elsewhere */
    for (int64_t j = 0; j < r; j++) chosen[j] = -kept[j] / pivot;
    chosen[col] = 1 / pivot;
    int32_t swapped = s->order[col];
    s->order[col] = s->order[r + row];
    s->order[r + row] = swapped;
}

static int by_number(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Each exchange more than doubles the volume, which has a bound, so this ends. */
static lr_status improve(search *s, const char *name) {
    lr_status status = LR_OK;
    double *kept = NULL;
    int64_t row, col, exchanges = 0, most = 64 + 8 * s->rank;
    LR_TRY(lr__new_aligned(&kept, (size_t)s->rank, sizeof *kept));
    LR_TRY(solve_mix(s));
    while (find_largest(s, &row, &col) > largest_allowed) {
        LR_FAIL_IF(++exchanges > most, LR_E_NUMERIC, "%s: pivot rows do not settle", name);
        exchange(s, row, col, kept);
    }
    qsort(s->order, (size_t)s->rank, sizeof *s->order, by_number);
    qsort(s->order + s->rank, (size_t)(s->out - s->rank), sizeof *s->order, by_number);
    LR_TRY(solve_mix(s));
done:
    lr__aligned_free(kept);
    return status;
}

static lr_status take_result(lr__pivot *out, const search *s, const float *right) {
    lr_status status = LR_OK;
    int64_t r = out->rank, rest = out->out - r, row, col;
    double *wide = NULL, *rows = NULL;
    LR_TRY(lr__new(&out->picked, (size_t)r, sizeof *out->picked));
    LR_TRY(lr__new(&out->rest, (size_t)rest, sizeof *out->rest));
    LR_TRY(lr__new_aligned(&out->rows, (size_t)(r * out->in), sizeof *out->rows));
    LR_TRY(lr__new_aligned(&wide, (size_t)(r * out->in), sizeof *wide));
    LR_TRY(lr__new_aligned(&rows, (size_t)(r * out->in), sizeof *rows));
    memcpy(out->picked, s->order, (size_t)r * sizeof *out->picked);
    memcpy(out->rest, s->order + r, (size_t)rest * sizeof *out->rest);
    gather_rows(s, s->order, r, s->square);
    for (int64_t i = 0; i < r * out->in; i++) wide[i] = (double)right[i];
    LR_TRY(lr__dgemm(1, lr__dview_of(s->square, r, r), lr__dview_of(wide, r, out->in), 0,
                     lr__dview_of(rows, r, out->in)));
    for (int64_t i = 0; i < r * out->in; i++) out->rows[i] = (float)rows[i];
    if (!rest) goto done;
    LR_TRY(lr__new_aligned(&out->mix, (size_t)(rest * r), sizeof *out->mix));
    for (int64_t i = 0; i < rest * r; i++) out->mix[i] = (float)s->mix[i];
    out->largest = find_largest(s, &row, &col);
done:
    lr__aligned_free(wide);
    lr__aligned_free(rows);
    return status;
}

lr_status lr__pivot_new(lr__pivot *out, int64_t outs, int64_t ins, int64_t rank, const float *left,
                        const float *right, const char *name) {
    lr_status status = LR_OK;
    search s = {.out = outs, .rank = rank, .left = left};
    memset(out, 0, sizeof *out);
    if (rank < 1 || rank > outs || ins < 1)
        return lr__fail(LR_E_INVALID, "%s: pivot form of rank %lld, expected 1 to %lld", name,
                        (long long)rank, (long long)outs);
    out->out = outs;
    out->in = ins;
    out->rank = rank;
    LR_TRY(lr__new(&s.order, (size_t)outs, sizeof *s.order));
    LR_TRY(lr__new_aligned(&s.mix, (size_t)(outs * rank), sizeof *s.mix));
    LR_TRY(lr__new_aligned(&s.square, (size_t)(rank * rank), sizeof *s.square));
    for (int64_t i = 0; i < outs * rank; i++) s.mix[i] = (double)left[i];
    LR_TRY(lr__drow_order(outs, rank, s.mix, s.order));
    LR_TRY(improve(&s, name));
    LR_TRY(take_result(out, &s, right));
done:
    lr__free(s.order);
    lr__aligned_free(s.mix);
    lr__aligned_free(s.square);
    if (status < 0) lr__pivot_clear(out);
    return status;
}

void lr__pivot_clear(lr__pivot *pivot) {
    lr__free(pivot->picked);
    lr__free(pivot->rest);
    lr__aligned_free(pivot->rows);
    lr__aligned_free(pivot->mix);
    memset(pivot, 0, sizeof *pivot);
}
