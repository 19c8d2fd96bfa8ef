/*
 * Truncation by a randomised range finder (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm
 * 4.4): subspace iteration on G = W M W' from Gaussian columns, `extra` more of them than the rank,
 * and the eigenvectors of V' G V at its end. No matrix of min(out, in) is decomposed. Energies are
 * u' G u of the directions found, and what no direction holds is total less their sum, so the loss
 * is as exact for these directions as for the best ones; how far they are from the best is what
 * the rounds decide.
 */
#include "compress/factor_basis.h"

#include "backend/lapack.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

enum { EXTRA = 32, STREAM = 0x736b }; /* more columns than the rank; of random numbers */

int32_t lr__factor_sketch_applies(const lr__factor_problem *problem, int64_t rank,
                                  const lr__factor_sketch *sketch) {
    int64_t least = problem->out < problem->in ? problem->out : problem->in;
    int32_t is_asked = sketch->use > 0 || (sketch->use == 0 && least >= LR__SKETCH_FROM);
    return is_asked && rank + EXTRA < least;
}

typedef struct finder {
    const lr__factor_problem *problem;
    int64_t out, in, width;
    double *weight;  /* W [out, in], or H' W */
    double *product; /* W M [out, in] */
    double *v;       /* [out, width], orthonormal columns */
    double *half;    /* [width, in] */
    double *r;       /* [width, width] */
} finder;

static lr_status finder_new(finder *f, const lr__factor_problem *problem, int32_t method,
                            int64_t width) {
    lr_status status = LR_OK;
    lr__factor_norm norm = {0};
    size_t m = (size_t)problem->out, n = (size_t)problem->in, l = (size_t)width;
    *f = (finder){.problem = problem, .out = problem->out, .in = problem->in, .width = width};
    LR_TRY(lr__factor_turned(&f->weight, problem));
    LR_TRY(lr__new_aligned(&f->product, m * n, sizeof *f->product));
    LR_TRY(lr__new_aligned(&f->v, m * l, sizeof *f->v));
    LR_TRY(lr__new_aligned(&f->half, l * n, sizeof *f->half));
    LR_TRY(lr__new_aligned(&f->r, l * l, sizeof *f->r));
    LR_TRY(lr__factor_norm_new(&norm, problem, method));
    status = lr__factor_norm_apply(f->product, &norm, f->weight, problem->out);
done:
    lr__factor_norm_clear(&norm);
    return status;
}

static void finder_clear(finder *f) {
    lr__aligned_free(f->weight);
    lr__aligned_free(f->product);
    lr__aligned_free(f->v);
    lr__aligned_free(f->half);
    lr__aligned_free(f->r);
}

/* half = V' W M. */
static lr_status take_half(finder *f) {
    return lr__dgemm(1, lr__dview_transpose(lr__dview_of(f->v, f->out, f->width)),
                     lr__dview_of(f->product, f->out, f->in), 0,
                     lr__dview_of(f->half, f->width, f->in));
}

static lr_status iterate(finder *f, const lr__factor_sketch *sketch) {
    lr_status status = LR_OK;
    lr__dview half = lr__dview_of(f->half, f->width, f->in);
    for (int64_t i = 0; i < f->out * f->width; i++)
        f->v[i] = lr__normal(sketch->seed, STREAM, (uint64_t)i);
    LR_TRY(lr__dqr(f->out, f->width, f->v, f->r));
    for (int32_t round = 0; round < LR__SKETCH_ROUNDS; round++) {
        LR_TRY(take_half(f));
        LR_TRY(lr__dgemm(1, lr__dview_of(f->weight, f->out, f->in), lr__dview_transpose(half), 0,
                         lr__dview_of(f->v, f->out, f->width)));
        LR_TRY(lr__dqr(f->out, f->width, f->v, f->r));
    }
    status = take_half(f);
done:
    return status;
}

/* left [width, out]: eigenvectors of V' G V turned back, the largest first; energy [width]. */
static lr_status settle(finder *f, double *left, double *energy) {
    lr_status status = LR_OK;
    int64_t l = f->width;
    double *b = NULL;
    LR_TRY(lr__new_aligned(&b, (size_t)l * (size_t)f->in, sizeof *b));
    LR_TRY(lr__dgemm(1, lr__dview_transpose(lr__dview_of(f->v, f->out, l)),
                     lr__dview_of(f->weight, f->out, f->in), 0, lr__dview_of(b, l, f->in)));
    LR_TRY(lr__dgemm(1, lr__dview_of(f->half, l, f->in),
                     lr__dview_transpose(lr__dview_of(b, l, f->in)), 0, lr__dview_of(f->r, l, l)));
    LR_TRY(lr__dsyevd(l, f->r, energy));
    lr__directions_reverse(f->r, energy, l);
    status =
        lr__dgemm(1, lr__dview_of(f->r, l, l), lr__dview_transpose(lr__dview_of(f->v, f->out, l)),
                  0, lr__dview_of(left, l, f->out));
done:
    lr__aligned_free(b);
    return status;
}

lr_status lr__factor_sketch_fill(lr__factor_basis *basis, const lr__factor_problem *problem,
                                 int64_t rank, const lr__factor_sketch *sketch) {
    lr_status status = LR_OK;
    finder f = {0};
    basis->count = rank + EXTRA;
    LR_TRY(finder_new(&f, problem, basis->method, basis->count));
    LR_TRY(lr__new_aligned(&basis->left, (size_t)(basis->count * basis->out), sizeof(double)));
    LR_TRY(lr__new_aligned(&basis->right, (size_t)(basis->count * basis->in), sizeof(double)));
    LR_TRY(lr__new_aligned(&basis->spectrum, (size_t)basis->count, sizeof(double)));
    for (int64_t i = 0; i < f.out * f.in; i++) basis->total += f.product[i] * f.weight[i];
    LR_TRY(iterate(&f, sketch));
    LR_TRY(settle(&f, basis->left, basis->spectrum));
    LR_TRY(lr__dgemm(1, lr__dview_of(basis->left, basis->count, f.out),
                     lr__dview_of(f.weight, f.out, f.in), 0,
                     lr__dview_of(basis->right, basis->count, f.in)));
    basis->rest = basis->total;
    for (int64_t i = 0; i < basis->count; i++) {
        basis->spectrum[i] = fmax(basis->spectrum[i], 0);
        basis->rest -= basis->spectrum[i];
    }
    basis->rest = fmax(basis->rest, 0);
done:
    finder_clear(&f);
    return status;
}
