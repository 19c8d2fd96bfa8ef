/* Factorisation: what a caller may have got wrong, and the problem in binary64. */
#include "compress/factor_basis.h"

#include "backend/lapack.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { TILE = 64 };

static const double symmetry_slack = 1e-9;
/* Products in binary32 bend Cauchy-Schwarz about this far. */
static const double moment_slack = 1e-6;
/* A variance below this share of the second moment is what rounding left of it. */
static const double variance_floor = 1e-12;

int32_t lr__factor_is_orthonormal(int32_t method) {
    return method == LR__FACTOR_PCA || method == LR__FACTOR_AFM || method == LR__FACTOR_QR;
}

lr_status lr__factor_named(lr_status status, const lr__factor_problem *problem) {
    return status < 0 ? lr__fail_in(status, "%s", problem->name ? problem->name : "matrix") : LR_OK;
}

/* Whether C itself is needed, and not only something of it. */
static int needs_gram(int32_t method) {
    return method != LR__FACTOR_SVD && method != LR__FACTOR_ASVD && method != LR__FACTOR_QR;
}

/* What the method needs and the problem lacks. */
static const char *missing_part(const lr__factor_problem *problem, int32_t method) {
    if (!problem->weight) return "weight";
    if (needs_gram(method) && !problem->gram) return "Gram";
    if (method == LR__FACTOR_AFM && !problem->mean) return "mean";
    if (method == LR__FACTOR_ASVD && !problem->scale) return "scale";
    return method == LR__FACTOR_QR && !problem->root ? "root" : NULL;
}

static lr_status check_sizes(const lr__factor_problem *problem, int32_t method) {
    if (method < LR__FACTOR_SVD || method > LR__FACTOR_QR)
        return lr__fail(LR_E_INVALID, "method %d, expected %d to %d", method, LR__FACTOR_SVD,
                        LR__FACTOR_QR);
    if (problem->out < 1 || problem->in < 1 || problem->out > INT32_MAX || problem->in > INT32_MAX)
        return lr__fail(LR_E_SHAPE, "shape [%lld, %lld], expected sizes from 1 to %d",
                        (long long)problem->out, (long long)problem->in, INT32_MAX);
    const char *missing = missing_part(problem, method);
    if (missing) return lr__fail(LR_E_INVALID, "no %s, which the method needs", missing);
    return LR_OK;
}

static lr_status check_floats(const char *what, const float *values, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            if (!isfinite(values[i * cols + j]))
                return lr__fail(LR_E_NUMERIC, "%s [%lld, %lld] is %g", what, (long long)i,
                                (long long)j, (double)values[i * cols + j]);
    return LR_OK;
}

static lr_status check_diagonal(const lr__factor_problem *problem) {
    for (int64_t i = 0; i < problem->in; i++) {
        double value = problem->gram[i * problem->in + i];
        if (!isfinite(value))
            return lr__fail(LR_E_NUMERIC, "Gram [%lld, %lld] is %g", (long long)i, (long long)i,
                            value);
        if (value < 0)
            return lr__fail(LR_E_INVALID, "Gram [%lld, %lld] is %g, expected 0 or more",
                            (long long)i, (long long)i, value);
    }
    return LR_OK;
}

static lr_status check_pair(const lr__factor_problem *problem, int64_t i, int64_t j) {
    const double *c = problem->gram;
    int64_t n = problem->in;
    double upper = c[i * n + j], lower = c[j * n + i];
    if (!isfinite(upper) || !isfinite(lower))
        return lr__fail(LR_E_NUMERIC, "Gram [%lld, %lld] is %g",
                        (long long)(isfinite(upper) ? j : i), (long long)(isfinite(upper) ? i : j),
                        isfinite(upper) ? lower : upper);
    double bound = sqrt(c[i * n + i]) * sqrt(c[j * n + j]);
    if (fabs(upper - lower) > symmetry_slack * bound)
        return lr__fail(LR_E_INVALID,
                        "Gram is not symmetric: [%lld, %lld] is %.17g, its mirror %.17g",
                        (long long)i, (long long)j, upper, lower);
    if (fabs(upper) > bound * (1 + moment_slack))
        return lr__fail(LR_E_INVALID,
                        "Gram is not positive semidefinite: [%lld, %lld] is %g, at most %g",
                        (long long)i, (long long)j, upper, bound);
    return LR_OK;
}

/* In tiles, so that both triangles are read along cache lines. */
static lr_status check_gram(const lr__factor_problem *problem) {
    int64_t n = problem->in;
    lr_status status = check_diagonal(problem);
    for (int64_t ti = 0; ti < n; ti += TILE)
        for (int64_t tj = ti; tj < n; tj += TILE)
            for (int64_t i = ti; i < n && i < ti + TILE; i++)
                for (int64_t j = tj > i ? tj : i + 1; j < n && j < tj + TILE; j++) {
                    if (status < 0) return status;
                    status = check_pair(problem, i, j);
                }
    return status;
}

static lr_status check_mean(const lr__factor_problem *problem) {
    for (int64_t i = 0; i < problem->in; i++) {
        double mean = problem->mean[i], second = problem->gram[i * problem->in + i];
        if (!isfinite(mean)) return lr__fail(LR_E_NUMERIC, "mean [%lld] is %g", (long long)i, mean);
        if (fabs(mean) > sqrt(second) * (1 + moment_slack))
            return lr__fail(LR_E_INVALID, "mean [%lld] is %g, at most %g by the Gram", (long long)i,
                            mean, sqrt(second));
    }
    return LR_OK;
}

static lr_status check_scale(const lr__factor_problem *problem) {
    for (int64_t i = 0; i < problem->in; i++) {
        double scale = problem->scale[i];
        if (!isfinite(scale))
            return lr__fail(LR_E_NUMERIC, "scale [%lld] is %g", (long long)i, scale);
        if (scale < 0)
            return lr__fail(LR_E_INVALID, "scale [%lld] is %g, expected 0 or more", (long long)i,
                            scale);
    }
    return LR_OK;
}

static lr_status check_root(const lr__factor_problem *problem) {
    int64_t n = problem->in;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double value = problem->root[i * n + j];
            if (!isfinite(value))
                return lr__fail(LR_E_NUMERIC, "root [%lld, %lld] is %g", (long long)i, (long long)j,
                                value);
            if (j > i && value != 0)
                return lr__fail(LR_E_INVALID, "root [%lld, %lld] is %g, expected a lower triangle",
                                (long long)i, (long long)j, value);
        }
    return LR_OK;
}

lr_status lr__factor_check(const lr__factor_problem *problem, int32_t method) {
    lr_status status = LR_OK;
    LR_TRY(check_sizes(problem, method));
    LR_TRY(check_floats("weight", problem->weight, problem->out, problem->in));
    if (needs_gram(method)) LR_TRY(check_gram(problem));
    if (method == LR__FACTOR_ASVD) LR_TRY(check_scale(problem));
    if (method == LR__FACTOR_QR) LR_TRY(check_root(problem));
    LR_TRY(lr__factor_side_check(problem));
    if (method != LR__FACTOR_AFM) goto done;
    LR_FAIL_IF(problem->out_scale || problem->out_root, LR_E_INVALID,
               "outputs cannot be weighted beside a mean");
    LR_TRY(check_mean(problem));
    if (problem->bias) LR_TRY(check_floats("bias", problem->bias, 1, problem->out));
done:
    return status;
}

double lr__factor_floor(const lr__factor_problem *problem, int32_t method) {
    int64_t m = problem->out, n = problem->in;
    double trace = method == LR__FACTOR_SVD ? 1 : 0, square = 0;
    for (int64_t i = 0; i < n && needs_gram(method); i++) trace += problem->gram[i * n + i];
    for (int64_t i = 0; i < n && method == LR__FACTOR_ASVD; i++)
        trace += problem->scale[i] * problem->scale[i];
    for (int64_t i = 0; i < n * n && method == LR__FACTOR_QR; i++)
        trace += problem->root[i] * problem->root[i];
    for (int64_t i = 0; i < m * n; i++) square += (double)problem->weight[i] * problem->weight[i];
    const lr__factor_side side = lr__factor_side_of(problem);
    return 64 * DBL_EPSILON * square * trace * lr__factor_side_trace(&side);
}

lr_status lr__factor_weight(double **out, const lr__factor_problem *problem) {
    size_t count = (size_t)problem->out * (size_t)problem->in;
    double *w = NULL;
    *out = NULL;
    lr_status status = lr__new_aligned(&w, count, sizeof *w);
    if (status < 0) return status;
    for (size_t i = 0; i < count; i++) w[i] = problem->weight[i];
    *out = w;
    return LR_OK;
}

float lr__factor_shifted(const lr__factor_problem *problem, int64_t row, const double *e) {
    double sum = problem->bias ? (double)problem->bias[row] : 0;
    for (int64_t j = 0; j < problem->in; j++) sum += e[j] * problem->mean[j];
    return (float)sum;
}

lr_status lr__factor_centred(double **out, const lr__factor_problem *problem) {
    const double *c = problem->gram, *mean = problem->mean;
    int64_t n = problem->in;
    double *centred = NULL;
    *out = NULL;
    lr_status status = lr__new_aligned(&centred, (size_t)n * (size_t)n, sizeof *centred);
    if (status < 0) return status;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) centred[i * n + j] = c[i * n + j] - mean[i] * mean[j];
    for (int64_t i = 0; i < n; i++) {
        if (centred[i * n + i] > variance_floor * c[i * n + i]) continue;
        for (int64_t j = 0; j < n; j++) centred[i * n + j] = centred[j * n + i] = 0;
    }
    *out = centred;
    return LR_OK;
}

lr_status lr__factor_core_new(lr__factor_core *core, const lr__factor_problem *problem) {
    lr_status status = LR_OK;
    double *w = NULL;
    int64_t m = problem->out, n = problem->in;
    *core = (lr__factor_core){.rows = m < n ? m : n, .in = n};
    LR_TRY(lr__factor_turned(&w, problem));
    if (m > n) {
        LR_TRY(lr__new_aligned(&core->k, (size_t)n * (size_t)n, sizeof *core->k));
        LR_TRY(lr__dqr(m, n, w, core->k));
        core->lift = w;
    } else {
        core->k = w;
    }
    w = NULL;
done:
    lr__aligned_free(w);
    if (status < 0) lr__factor_core_clear(core);
    return status;
}

void lr__factor_core_clear(lr__factor_core *core) {
    lr__aligned_free(core->k);
    lr__aligned_free(core->lift);
    core->k = core->lift = NULL;
}

lr_status lr__directions_new(lr__directions *directions, int64_t rows) {
    lr_status status = LR_OK;
    memset(directions, 0, sizeof *directions);
    LR_TRY(lr__new_aligned(&directions->vectors, (size_t)rows * (size_t)rows, sizeof(double)));
    LR_TRY(lr__new_aligned(&directions->energy, (size_t)rows, sizeof(double)));
done:
    if (status < 0) lr__directions_clear(directions);
    return status;
}

void lr__directions_clear(lr__directions *directions) {
    lr__aligned_free(directions->vectors);
    lr__aligned_free(directions->energy);
    directions->vectors = directions->energy = NULL;
}
