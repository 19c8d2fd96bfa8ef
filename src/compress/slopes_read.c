/* From statistics of derivatives to the weights of norms. */
#include "backend/lapack.h"
#include "compress/slopes.h"

#include <math.h>
#include <string.h>

const double lr__input_shrinkage = 0.1, lr__output_shrinkage = 0.3;

/* A channel counts at least this share of what channels count on average. */
static const double scale_floor = 1e-6;

/* Square roots, none too small to divide by; all 1 where all are 0 and `is_divided`. */
static void finish_scale(double *scale, int64_t count, int is_divided) {
    double mean = 0;
    for (int64_t i = 0; i < count; i++) {
        scale[i] = sqrt(scale[i]);
        mean += scale[i] / (double)count;
    }
    for (int64_t i = 0; i < count; i++)
        scale[i] = is_divided && mean == 0 ? 1 : fmax(scale[i], scale_floor * mean);
}

static void add_input(double *scale, const double *sums, const lr__slopes *s) {
    for (int64_t j = 0; j < s->in; j++) scale[j] += sums[j] / s->weight;
}

void lr__slopes_fisher(const lr__slope_stack *stack, double *scale) {
    memset(scale, 0, (size_t)stack->in * sizeof *scale);
    for (int32_t m = 0; m < stack->count; m++)
        add_input(scale, stack->items[m]->fisher_in, stack->items[m]);
    finish_scale(scale, stack->in, 0);
}

void lr__slopes_importance(const lr__slope_stack *stack, double *in_scale, double *out_scale) {
    int64_t row = 0;
    memset(in_scale, 0, (size_t)stack->in * sizeof *in_scale);
    for (int32_t m = 0; m < stack->count; m++) {
        const lr__slopes *s = stack->items[m];
        add_input(in_scale, s->importance_in, s);
        for (int64_t i = 0; i < s->outputs.size; i++)
            out_scale[row++] = s->importance_out[i] / s->weight;
    }
    finish_scale(in_scale, stack->in, 0);
    finish_scale(out_scale, stack->out, 1);
}

void lr__shrink(double *gram, int64_t size, double shrinkage) {
    double mean = 0;
    for (int64_t i = 0; i < size; i++) mean += gram[i * (size + 1)] / (double)size;
    for (int64_t i = 0; i < size * size; i++) gram[i] *= 1 - shrinkage;
    for (int64_t i = 0; i < size; i++) gram[i * (size + 1)] += shrinkage * mean;
}

/* The block of one module over `h` [size, size]. */
static lr_status root_of(const lr__slopes *s, double shrinkage, double *h) {
    lr_status status = LR_OK;
    int64_t n = s->outputs.size, failed = 0;
    double trace = 0;
    LR_TRY(lr__moments_read(&s->outputs, h, NULL));
    for (int64_t i = 0; i < n; i++) trace += h[i * (n + 1)];
    if (trace == 0)
        for (int64_t i = 0; i < n; i++) h[i * (n + 1)] = 1;
    lr__shrink(h, n, shrinkage);
    LR_TRY(lr__dpotrf(n, h, &failed));
    LR_FAIL_IF(failed, LR_E_NUMERIC,
               "the moments of the derivatives are not positive definite with an output shrinkage "
               "of %g, expected more",
               shrinkage);
done:
    return status;
}

lr_status lr__slopes_root(const lr__slope_stack *stack, double shrinkage, double *root) {
    lr_status status = LR_OK;
    int64_t m = stack->out, first = 0;
    double *block = NULL;
    memset(root, 0, (size_t)m * (size_t)m * sizeof *root);
    for (int32_t k = 0; k < stack->count; k++) {
        int64_t n = stack->items[k]->outputs.size;
        LR_TRY(lr__new_aligned(&block, (size_t)n * (size_t)n, sizeof *block));
        LR_TRY(root_of(stack->items[k], shrinkage, block));
        for (int64_t i = 0; i < n; i++)
            memcpy(root + (first + i) * m + first, block + i * n, (size_t)(i + 1) * sizeof *root);
        lr__aligned_free(block);
        block = NULL;
        first += n;
    }
done:
    lr__aligned_free(block);
    return status;
}
