/* From modules to a problem, from the problem to factors, from factors to what is stored. */
#include "compress/task.h"

#include "base/mem.h"
#include "compress/refit.h"

#include <stdio.h>
#include <string.h>

/* A problem and the arrays it points to. */
typedef struct numbers {
    lr__factor_problem problem;
    float *weight, *bias;
    double *gram, *mean, *scale, *root, *out_scale, *out_root;
} numbers;

/* Weights and biases on one another. */
static void read_stacked(const lr__task *t, float *weight, float *bias) {
    for (int32_t i = 0; i < t->count; i++) {
        const lr_linear *linear = t->linears[i];
        lr__linear_dense_rows(linear, 0, linear->out, weight);
        weight += linear->out * linear->in;
        if (linear->bias)
            lr__param_widen(linear->ctx->device.kernels, linear->bias, bias);
        else
            memset(bias, 0, (size_t)linear->out * sizeof *bias);
        bias += linear->out;
    }
}

static lr_status read_root(numbers *n, const lr__moments *moments) {
    lr_status status = LR_OK;
    size_t ins = (size_t)moments->size;
    LR_FAIL_IF(!moments->root, LR_E_INVALID,
               "method qr needs exact statistics; of these second moments pca makes the same "
               "factors");
    LR_TRY(lr__new_aligned(&n->root, ins * ins, sizeof *n->root));
    lr__moments_read_root(moments, n->root);
done:
    return status;
}

static lr_status read_scale(numbers *n, const lr__task *t) {
    lr_status status = lr__new_aligned(&n->scale, (size_t)t->moments->size, sizeof *n->scale);
    if (status < 0) return status;
    switch (t->how->gradients) {
    case LR__GRADIENTS_FISHER: lr__slopes_fisher(&t->slopes, n->scale); return LR_OK;
    case LR__GRADIENTS_IMPORTANCE:
        status = lr__new_aligned(&n->out_scale, (size_t)t->out, sizeof *n->out_scale);
        if (status >= 0) lr__slopes_importance(&t->slopes, n->scale, n->out_scale);
        return status;
    }
    return lr__moments_scale(t->moments, t->how->statistic, t->how->alpha, n->scale);
}

/* Both moments of KFAC, shrunk. */
static lr_status read_sides(numbers *n, const lr__task *t) {
    size_t outs = (size_t)t->out;
    lr_status status = lr__new_aligned(&n->out_root, outs * outs, sizeof *n->out_root);
    if (status < 0) return status;
    lr__shrink(n->gram, t->moments->size, t->how->in_shrinkage);
    return lr__slopes_root(&t->slopes, t->how->out_shrinkage, n->out_root);
}

/* What the method and its refits need of the moments, and no more. */
static lr_status read_moments(numbers *n, const lr__task *t) {
    lr_status status = LR_OK;
    int32_t method = t->how->method;
    if (!t->moments) return LR_OK;
    size_t ins = (size_t)t->moments->size;
    if (method == LR__FACTOR_QR) return read_root(n, t->moments);
    if (method == LR__FACTOR_ASVD) LR_TRY(read_scale(n, t));
    if (method == LR__FACTOR_ASVD && !t->how->refits) goto done;
    if (method == LR__FACTOR_AFM) LR_TRY(lr__new_aligned(&n->mean, ins, sizeof *n->mean));
    LR_TRY(lr__new_aligned(&n->gram, ins * ins, sizeof *n->gram));
    LR_TRY(lr__moments_read(t->moments, n->gram, n->mean));
    if (t->how->gradients == LR__GRADIENTS_KFAC) status = read_sides(n, t);
done:
    return status;
}

static lr_status read_numbers(numbers *n, const lr__task *t) {
    lr_status status = LR_OK;
    const lr_linear *first = t->linears[0];
    size_t outs = (size_t)t->out;
    LR_TRY(lr__new_aligned(&n->weight, outs * (size_t)first->in, sizeof *n->weight));
    LR_TRY(lr__new_aligned(&n->bias, outs, sizeof *n->bias));
    read_stacked(t, n->weight, n->bias);
    status = read_moments(n, t);
    if (status < 0) return lr__fail_in(status, "%s", first->name);
    n->problem = (lr__factor_problem){.out = t->out,
                                      .in = first->in,
                                      .weight = n->weight,
                                      .gram = n->gram,
                                      .mean = n->mean,
                                      .bias = n->mean ? n->bias : NULL,
                                      .scale = n->scale,
                                      .root = n->root,
                                      .out_scale = n->out_scale,
                                      .out_root = n->out_root,
                                      .name = first->name};
done:
    return status;
}

static void clear_numbers(numbers *n) {
    lr__aligned_free(n->weight);
    lr__aligned_free(n->bias);
    lr__aligned_free(n->gram);
    lr__aligned_free(n->mean);
    lr__aligned_free(n->scale);
    lr__aligned_free(n->root);
    lr__aligned_free(n->out_scale);
    lr__aligned_free(n->out_root);
}

/* The norm refits work in: that of the outputs for rounds behind methods of the weights, else the
 * method's own. */
static lr__factor_problem refit_problem(const lr__task *t, const lr__factor_problem *problem,
                                        int32_t *method) {
    lr__factor_problem refitted = *problem;
    *method = t->how->method;
    int32_t is_of_weights = *method == LR__FACTOR_SVD || *method == LR__FACTOR_ASVD;
    if (t->how->refits && t->moments && is_of_weights) {
        *method = LR__FACTOR_PCA;
        refitted.out_scale = NULL;
    }
    return refitted;
}

/* The pivot form is made of whole numbers and rounded as such. */
static lr_status store(lr__task *t, const lr__factor_problem *factorised) {
    lr_status status = LR_OK;
    lr__refit_opts o = {.rounds = t->how->refits,
                        .dtype = t->is_pivot ? LR_F32 : t->how->dtype,
                        .kernels = t->linears[0]->ctx->device.kernels};
    const lr__factor_problem refitted = refit_problem(t, factorised, &o.method);
    const lr__factor_problem *problem = &refitted;
    t->stored = t->factors.measured;
    if (o.rounds || o.dtype != LR_F32)
        LR_TRY(lr__refit_factors(&t->factors, problem, &o, &t->stored));
    if (!t->is_pivot) goto done;
    LR_TRY(lr__pivot_new(&t->pivot, problem->out, problem->in, t->rank, t->factors.left,
                         t->factors.right, problem->name));
    o.dtype = t->how->dtype;
    if (o.dtype != LR_F32)
        status = lr__refit_pivot(&t->pivot, &t->factors, problem, &o, &t->stored);
done:
    return status;
}

static lr_status keep_spectrum(lr__task *t, const lr__factor_basis *basis) {
    const double *spectrum = lr__factor_basis_spectrum(basis, &t->spectrum_count);
    lr_status status = lr__new(&t->spectrum, (size_t)t->spectrum_count, sizeof *spectrum);
    if (status < 0) return status;
    memcpy(t->spectrum, spectrum, (size_t)t->spectrum_count * sizeof *spectrum);
    return LR_OK;
}

static lr_status factorise(lr__task *t) {
    lr_status status = LR_OK;
    numbers n = {0};
    lr__factor_basis *basis = NULL;
    LR_TRY(read_numbers(&n, t));
    LR_TRY(lr__factor_basis_sketch(&basis, &n.problem, t->how->method, t->rank, &t->how->sketch));
    LR_TRY(lr__factor_basis_cut(&t->factors, basis, &n.problem, t->rank));
    LR_TRY(keep_spectrum(t, basis));
    LR_TRY(store(t, &n.problem));
done:
    lr__factor_basis_free(basis);
    clear_numbers(&n);
    return status;
}

void lr__task_run(lr__task *t) {
    t->status = factorise(t);
    if (t->status < 0) snprintf(t->message, sizeof t->message, "%s", lr_last_error());
}

void lr__task_clear(lr__task *t) {
    lr__factors_clear(&t->factors);
    lr__pivot_clear(&t->pivot);
    lr__free(t->spectrum);
}
