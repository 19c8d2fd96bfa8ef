/*
 * What gradient-weighted methods need of one module, W [out, in] with inputs x_t and derivatives
 * g_t of the loss by its outputs, from backward passes over windows of text:
 *
 *   Fisher      F_ij = mean over windows of (dL/dW_ij)^2          FWSVD, arXiv 2207.00112
 *   importance  I_ij = mean over windows of (W_ij dL/dW_ij)^2     IWSVD (Adaptive Rank Selections,
 *                                                                 NAACL 2024)
 *   outputs     G = E[g g']                                       KFAC, arXiv 1503.05671
 *
 * L is the mean loss of the next token in a window, a window being the batch of the papers; of F
 * and I only the sums over rows and over columns are kept, which is all the methods use. In G, g is
 * the derivative of a window's summed loss, so G does not depend on the length of windows. Its
 * tokens are the middle three quarters of a window by position, an eighth of it left out at either
 * end, since the first see no context and the last touch few losses; |g_t| is clipped to between a
 * tenth and ten times its mean over them: a few tokens otherwise decide everything. Both are what
 * the code of LEMS (ICML 2026) does; tokens are not chosen by the length of their derivatives.
 */
#ifndef LR_COMPRESS_SLOPES_H
#define LR_COMPRESS_SLOPES_H

#include "compress/moments.h"
#include "nn/linear.h"

typedef struct lr__slopes {
    int64_t in, windows;
    double weight;                          /* of all windows; 0 before the first */
    double *fisher_in, *fisher_out;         /* weighted sums of F over i, [in], and over j, [out] */
    double *importance_in, *importance_out; /* the same of I */
    lr__moments outputs;                    /* G, as a gram */
} lr__slopes;

lr_status lr__slopes_new(lr__slopes *slopes, int64_t out, int64_t in);
void lr__slopes_clear(lr__slopes *slopes);

/* What a backward pass showed of a module. */
typedef struct lr__slope_rows {
    const float *x;  /* [windows * window, in] */
    const float *dy; /* [windows * window, out] derivatives of the summed loss */
    int64_t windows, window;
    double weight; /* of each window */
} lr__slope_rows;

/* The module is dense. LR_E_NUMERIC for a derivative that is not finite. */
lr_status lr__slopes_count(lr__slopes *slopes, const lr_linear *linear, lr__arena *arena,
                           const lr__slope_rows *rows);
/* Adds what `from` counted, with `weight` in all. */
lr_status lr__slopes_add(lr__slopes *slopes, const lr__slopes *from, const lr__device *device,
                         lr__arena *arena, double weight);

/* What LEMS shrinks the moments of inputs and of derivatives by. */
extern const double lr__input_shrinkage, lr__output_shrinkage;

/* Modules of one input, their weights on one another as one matrix. */
typedef struct lr__slope_stack {
    const lr__slopes *items[LR__GROUP_MOST];
    int32_t count;
    int64_t out, in; /* out of all of them */
} lr__slope_stack;

/* scale[j] = sqrt(sum over i of F_ij), at least 1e-6 of the mean scale. */
void lr__slopes_fisher(const lr__slope_stack *stack, double *scale);
/* The same of I for both sides. An output side without any importance is all 1. */
void lr__slopes_importance(const lr__slope_stack *stack, double *in_scale, double *out_scale);
/* Lower triangle H [out, out], H H' = (1 - shrinkage) G + shrinkage mean(diag G) I for each module
 * by itself: how the derivatives of different modules go together is not known. The identity for a
 * module without derivatives. LR_E_NUMERIC where that is singular. */
lr_status lr__slopes_root(const lr__slope_stack *stack, double shrinkage, double *root);
/* (1 - shrinkage) C + shrinkage mean(diag C) I over C [size, size]. */
void lr__shrink(double *gram, int64_t size, double shrinkage);

#endif
