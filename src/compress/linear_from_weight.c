/*
 * A LowRankLinear from a weight by truncated singular value decomposition (Eckart and Young,
 * Psychometrika 1936). With singular values s, rank r keeps sum over i < r of s_i^2 of the squared
 * Frobenius norm and leaves the rest as squared error.
 */
#include "base/opts.h"
#include "compress/factor.h"
#include "ctx/ctx.h"

#include <lowrank/linear.h>

#include <math.h>

static lr_status check_opts(const lr_linear_opts *o, const char *name) {
    int set = (o->rank != 0) + (o->energy != 0) + (o->error != 0);
    if (set != 1)
        return lr__fail(LR_E_INVALID, "%s: %d of rank, energy and error are set, expected one",
                        name, set);
    if (o->energy != 0 && !(o->energy > 0 && o->energy <= 1))
        return lr__fail(LR_E_INVALID, "%s: energy %g, expected above 0, at most 1", name,
                        o->energy);
    if (o->error != 0 && !(o->error > 0 && isfinite(o->error)))
        return lr__fail(LR_E_INVALID, "%s: error %g, expected a positive number", name, o->error);
    return LR_OK;
}

static lr_status check_weight(const lr_tensor *w, const char *name) {
    if (!w || !w->data) return lr__fail(LR_E_INVALID, "%s: no weight", name);
    if (w->dtype != LR_F32 || w->device != LR_HOST || !lr_tensor_is_contiguous(w))
        return lr__fail(LR_E_INVALID, "%s: weight of type %s, expected contiguous f32 of the host",
                        name, lr_dtype_name(w->dtype));
    if (w->ndim != 2 || w->shape[0] < 1 || w->shape[1] < 1 || w->shape[0] > INT32_MAX ||
        w->shape[1] > INT32_MAX)
        return lr__fail(LR_E_SHAPE, "%s: weight of %d dimensions, [%lld, %lld]", name, w->ndim,
                        (long long)(w->ndim > 0 ? w->shape[0] : 0),
                        (long long)(w->ndim > 1 ? w->shape[1] : 0));
    return LR_OK;
}

/* The least rank whose spectrum reaches the share asked for; summed from its small end, so that
 * directions of no energy are never counted in. */
static int64_t rank_of(const lr_linear_opts *o, const lr__factor_basis *basis) {
    int64_t count;
    const double *spectrum = lr__factor_basis_spectrum(basis, &count);
    double total = 0, tail = 0;
    if (o->rank) return o->rank;
    for (int64_t i = count; i-- > 0;) total += spectrum[i];
    double most = o->error != 0 ? o->error * o->error * total : (1 - o->energy) * total;
    while (count > 1 && tail + spectrum[count - 1] <= most) tail += spectrum[--count];
    return count;
}

static lr_status linear_of(lr_linear **out, lr_ctx *ctx, const lr__factors *factors,
                           const lr_tensor *weight, const lr_linear_opts *o) {
    lr_status status = LR_OK;
    lr_tensor left, right, bias;
    LR_TRY(lr_tensor_view(&left, factors->left, LR_F32, 2,
                          (int64_t[]){weight->shape[0], factors->rank}));
    LR_TRY(lr_tensor_view(&right, factors->right, LR_F32, 2,
                          (int64_t[]){factors->rank, weight->shape[1]}));
    if (o->bias) LR_TRY(lr_tensor_view(&bias, (float *)o->bias, LR_F32, 1, weight->shape));
    LR_TRY(lr_linear_from_factors(out, ctx, &left, &right, o->bias ? &bias : NULL, o->name));
done:
    return status;
}

lr_status lr_linear_from_weight(lr_linear **out, lr_ctx *ctx, const lr_tensor *weight,
                                const lr_linear_opts *opts) {
    lr_status status = LR_OK;
    lr_linear_opts o;
    lr__factor_basis *basis = NULL;
    lr__factors factors = {0};
    if (!out || !ctx) return lr__fail(LR_E_INVALID, "lr_linear_from_weight: out and ctx needed");
    *out = NULL;
    lr_linear_opts_init(&o, sizeof o);
    LR_TRY(lr__opts_merge(&o, sizeof o, opts, "lr_linear_opts"));
    if (!o.name) o.name = "linear";
    LR_TRY(check_opts(&o, o.name));
    LR_TRY(check_weight(weight, o.name));
    int64_t least = weight->shape[0] < weight->shape[1] ? weight->shape[0] : weight->shape[1];
    LR_FAIL_IF(o.rank && (o.rank < 1 || o.rank > least), LR_E_INVALID,
               "%s: rank %lld, expected 1 to %lld", o.name, (long long)o.rank, (long long)least);
    lr__factor_problem problem = {
        .out = weight->shape[0], .in = weight->shape[1], .weight = weight->data, .name = o.name};
    LR_TRY(lr__factor_basis_new(&basis, &problem, LR__FACTOR_SVD));
    LR_TRY(lr__factor_basis_cut(&factors, basis, &problem, rank_of(&o, basis)));
    LR_TRY(linear_of(out, ctx, &factors, weight, &o));
done:
    lr__factors_clear(&factors);
    lr__factor_basis_free(basis);
    return status;
}
