/* The output side of a two-sided norm: into the coordinates H' y, and back. */
#include "compress/factor_basis.h"

#include "backend/lapack.h"

#include <math.h>

lr__factor_side lr__factor_side_of(const lr__factor_problem *problem) {
    return (lr__factor_side){problem->out, problem->out_scale, problem->out_root};
}

int32_t lr__factor_side_is_identity(const lr__factor_side *side) {
    return !side->scale && !side->root;
}

lr_status lr__factor_side_check(const lr__factor_problem *problem) {
    const lr__factor_side side = lr__factor_side_of(problem);
    for (int64_t i = 0; i < side.out && side.scale; i++)
        if (!(side.scale[i] > 0) || !isfinite(side.scale[i]))
            return lr__fail(isfinite(side.scale[i]) ? LR_E_INVALID : LR_E_NUMERIC,
                            "output scale [%lld] is %g, expected above 0", (long long)i,
                            side.scale[i]);
    for (int64_t i = 0; i < side.out && side.root; i++)
        for (int64_t j = 0; j < side.out; j++) {
            double value = side.root[i * side.out + j];
            if (!isfinite(value))
                return lr__fail(LR_E_NUMERIC, "output root [%lld, %lld] is %g", (long long)i,
                                (long long)j, value);
            if ((j > i && value != 0) || (j == i && !(value > 0)))
                return lr__fail(LR_E_INVALID,
                                "output root [%lld, %lld] is %g, expected a lower triangle with a "
                                "positive diagonal",
                                (long long)i, (long long)j, value);
        }
    return LR_OK;
}

double lr__factor_side_trace(const lr__factor_side *side) {
    double trace = lr__factor_side_is_identity(side);
    for (int64_t i = 0; i < side->out && side->scale; i++) trace += side->scale[i] * side->scale[i];
    for (int64_t i = 0; i < side->out * side->out && side->root; i++)
        trace += side->root[i] * side->root[i];
    return trace;
}

lr_status lr__factor_side_turn(const lr__factor_side *side, int64_t cols, double *a) {
    for (int64_t i = 0; i < side->out && side->scale; i++)
        for (int64_t j = 0; j < cols; j++) a[i * cols + j] *= side->scale[i];
    return side->root ? lr__dtrmm_left(side->out, cols, side->root, a) : LR_OK;
}

lr_status lr__factor_side_return(const lr__factor_side *side, int64_t cols, double *a) {
    for (int64_t i = 0; i < side->out && side->scale; i++)
        for (int64_t j = 0; j < cols; j++) a[i * cols + j] /= side->scale[i];
    return side->root ? lr__dtrsm_left(side->out, cols, side->root, a) : LR_OK;
}

lr_status lr__factor_side_return_rows(const lr__factor_side *side, int64_t rows, double *a) {
    for (int64_t i = 0; i < rows && side->scale; i++)
        for (int64_t j = 0; j < side->out; j++) a[i * side->out + j] /= side->scale[j];
    return side->root ? lr__dtrsm(rows, side->out, side->root, a) : LR_OK;
}

lr_status lr__factor_turned(double **out, const lr__factor_problem *problem) {
    const lr__factor_side side = lr__factor_side_of(problem);
    lr_status status = lr__factor_weight(out, problem);
    if (status >= 0) status = lr__factor_side_turn(&side, problem->in, *out);
    if (status >= 0) return LR_OK;
    lr__aligned_free(*out);
    *out = NULL;
    return status;
}
