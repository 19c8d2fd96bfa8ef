/* Factorisation: the basis of a problem, its cuts, and the loss of any pair of factors. */
#include "compress/factor_basis.h"

#include "backend/blas.h"
#include "backend/lapack.h"

#include <math.h>
#include <string.h>

static const double loss_tolerance = 1e-6;

/* Directions C says nothing of: K - U_k U_k' K, the part of K no known direction reaches, has rank
 * rows - k or less, and its own plain SVD says where further ranks do most for other inputs. */
static lr_status complete(lr__directions *known, double *right, const lr__factor_core *core) {
    lr_status status = LR_OK;
    int64_t rows = core->rows, n = core->in, first = known->known;
    lr__factor_core rest = {.rows = rows, .in = n};
    const lr__factor_norm plain = {.in = n};
    lr__directions spare = {0};
    LR_TRY(lr__new_aligned(&rest.k, (size_t)rows * (size_t)n, sizeof *rest.k));
    memcpy(rest.k, core->k, (size_t)rows * (size_t)n * sizeof *rest.k);
    if (first > 0)
        LR_TRY(lr__dgemm(-1, lr__dview_transpose(lr__dview_of(known->vectors, first, rows)),
                         lr__dview_of(right, first, n), 1, lr__dview_of(rest.k, rows, n)));
    LR_TRY(lr__directions_pca(&spare, &rest, &plain, INFINITY));
    int64_t count = rows - first;
    memcpy(known->vectors + first * rows, spare.vectors,
           (size_t)count * (size_t)rows * sizeof *spare.vectors);
    memset(known->energy + first, 0, (size_t)count * sizeof *known->energy);
    status = lr__dgemm(1, lr__dview_of(spare.vectors, count, rows), lr__dview_of(rest.k, rows, n),
                       0, lr__dview_of(right + first * n, count, n));
done:
    lr__directions_clear(&spare);
    lr__factor_core_clear(&rest);
    return status;
}

/* |column of left| = |row of right|: the square root of what each component has. */
static double norm_of(const double *row, int64_t count) {
    double largest = 0, square = 0;
    for (int64_t j = 0; j < count; j++) largest = fmax(largest, fabs(row[j]));
    if (!(largest > 0)) return 0;
    for (int64_t j = 0; j < count; j++) square += row[j] / largest * (row[j] / largest);
    return largest * sqrt(square);
}

static void balance(lr__factor_basis *basis) {
    for (int64_t i = 0; i < basis->count; i++) {
        double *left = basis->left + i * basis->out, *right = basis->right + i * basis->in;
        double ours = norm_of(left, basis->out), theirs = norm_of(right, basis->in);
        if (!(ours > 0) || !(theirs > 0)) continue;
        double share = sqrt(theirs) / sqrt(ours);
        for (int64_t j = 0; j < basis->in; j++) right[j] /= share;
        for (int64_t j = 0; j < basis->out; j++) left[j] *= share;
    }
}

static lr_status find_directions(lr__directions *out, const lr__factor_core *core,
                                 const lr__factor_problem *problem, lr__factor_basis *basis) {
    lr__factor_norm norm;
    lr_status status = LR_OK;
    switch (basis->method) {
    case LR__FACTOR_WHITEN:
    case LR__FACTOR_WHITEN_EIG:
        return lr__directions_whiten(out, core, problem->gram,
                                     basis->method == LR__FACTOR_WHITEN_EIG);
    case LR__FACTOR_QR: return lr__directions_root(out, core, problem->root);
    }
    status = lr__factor_norm_new(&norm, problem, basis->method);
    if (status >= 0) status = lr__directions_pca(out, core, &norm, basis->floor);
    if (status >= 0 && basis->method == LR__FACTOR_SVD) out->known = core->rows;
    lr__factor_norm_clear(&norm);
    return status;
}

/* Takes the arrays of `directions`. */
static lr_status fill_basis(lr__factor_basis *basis, lr__directions *directions,
                            const lr__factor_core *core) {
    lr_status status = LR_OK;
    int64_t rows = core->rows;
    LR_TRY(lr__new_aligned(&basis->right, (size_t)rows * (size_t)core->in, sizeof(double)));
    LR_TRY(lr__dgemm(1, lr__dview_of(directions->vectors, rows, rows),
                     lr__dview_of(core->k, rows, core->in), 0,
                     lr__dview_of(basis->right, rows, core->in)));
    if (directions->known < rows) LR_TRY(complete(directions, basis->right, core));
    if (core->lift) {
        LR_TRY(lr__new_aligned(&basis->left, (size_t)rows * (size_t)basis->out, sizeof(double)));
        LR_TRY(lr__dgemm(1, lr__dview_of(directions->vectors, rows, rows),
                         lr__dview_transpose(lr__dview_of(core->lift, basis->out, rows)), 0,
                         lr__dview_of(basis->left, rows, basis->out)));
    } else {
        basis->left = directions->vectors;
        directions->vectors = NULL;
    }
    basis->spectrum = directions->energy;
    directions->energy = NULL;
    for (int64_t i = 0; i < rows; i++) basis->spectrum[i] = fmax(basis->spectrum[i], 0);
    basis->total = fmax(directions->total, 0);
    basis->damping = directions->damping;
done:
    return status;
}

static lr_status fill_exact(lr__factor_basis *basis, const lr__factor_problem *problem) {
    lr_status status = LR_OK;
    lr__factor_core core = {0};
    lr__directions directions = {0};
    LR_TRY(lr__factor_core_new(&core, problem));
    LR_TRY(find_directions(&directions, &core, problem, basis));
    LR_TRY(fill_basis(basis, &directions, &core));
done:
    lr__directions_clear(&directions);
    lr__factor_core_clear(&core);
    return status;
}

lr_status lr__factor_basis_sketch(lr__factor_basis **out, const lr__factor_problem *problem,
                                  int32_t method, int64_t rank, const lr__factor_sketch *sketch) {
    lr_status status = LR_OK;
    lr__factor_basis *basis = NULL;
    const lr__factor_side side = lr__factor_side_of(problem);
    *out = NULL;
    lr__blas_enter();
    LR_TRY(lr__factor_check(problem, method));
    LR_TRY(lr__new(&basis, 1, sizeof *basis));
    *basis = (lr__factor_basis){.method = method, .out = problem->out, .in = problem->in};
    basis->count = problem->out < problem->in ? problem->out : problem->in;
    basis->floor = lr__factor_floor(problem, method);
    if (lr__factor_sketch_applies(problem, rank, sketch))
        LR_TRY(lr__factor_sketch_fill(basis, problem, rank, sketch));
    else
        LR_TRY(fill_exact(basis, problem));
    LR_TRY(lr__factor_side_return_rows(&side, basis->count, basis->left));
    if (!lr__factor_is_orthonormal(method) || !lr__factor_side_is_identity(&side)) balance(basis);
    *out = basis;
    basis = NULL;
done:
    lr__blas_leave();
    lr__factor_basis_free(basis);
    return lr__factor_named(status, problem);
}

lr_status lr__factor_basis_new(lr__factor_basis **out, const lr__factor_problem *problem,
                               int32_t method) {
    const lr__factor_sketch never = {.use = -1};
    return lr__factor_basis_sketch(out, problem, method, 0, &never);
}

void lr__factor_basis_free(lr__factor_basis *basis) {
    if (!basis) return;
    lr__aligned_free(basis->left);
    lr__aligned_free(basis->right);
    lr__aligned_free(basis->spectrum);
    lr__free(basis);
}

const double *lr__factor_basis_spectrum(const lr__factor_basis *basis, int64_t *count) {
    *count = basis->count;
    return basis->spectrum;
}

/* The norm a method minimises, on E [out, in], which is turned. */
static lr_status error_norm(double *out, double *e, const lr__factor_problem *problem,
                            int32_t method) {
    lr__factor_norm norm;
    const lr__factor_side side = lr__factor_side_of(problem);
    lr_status status = lr__factor_norm_new(&norm, problem, method);
    if (status >= 0) status = lr__factor_side_turn(&side, problem->in, e);
    if (status >= 0) status = lr__factor_norm_of(out, &norm, e, problem->out);
    lr__factor_norm_clear(&norm);
    return status;
}

/* to[j, i] = from[i, j] as binary32, for i < rows and j < cols. */
static lr_status round_transposed(float **to, const double *from, int64_t rows, int64_t cols) {
    enum { TILE = 32 };
    lr_status status = lr__new_aligned(to, (size_t)rows * (size_t)cols, sizeof **to);
    if (status < 0) return status;
    for (int64_t tj = 0; tj < cols; tj += TILE)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = tj; j < cols && j < tj + TILE; j++)
                (*to)[j * rows + i] = (float)from[i * cols + j];
    return LR_OK;
}

static lr_status check_rounded(const float *values, int64_t count, const char *what) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return lr__fail(LR_E_NUMERIC, "%s leaves the range of binary32", what);
    return LR_OK;
}

static lr_status round_factors(lr__factors *out, const lr__factor_basis *basis) {
    lr_status status = LR_OK;
    int64_t count = out->rank * basis->in;
    LR_TRY(round_transposed(&out->left, basis->left, out->rank, basis->out));
    LR_TRY(lr__new_aligned(&out->right, (size_t)count, sizeof *out->right));
    for (int64_t i = 0; i < count; i++) out->right[i] = (float)basis->right[i];
done:
    return status;
}

static lr_status shift_bias(lr__factors *out, const double *e, const lr__factor_problem *problem) {
    lr_status status = lr__new_aligned(&out->bias, (size_t)problem->out, sizeof *out->bias);
    for (int64_t i = 0; status == LR_OK && i < problem->out; i++)
        out->bias[i] = lr__factor_shifted(problem, i, e + i * problem->in);
    return status;
}

static lr_status check_cut(const lr__factor_basis *basis, const lr__factor_problem *problem,
                           int64_t rank) {
    if (basis->out != problem->out || basis->in != problem->in)
        return lr__fail(LR_E_SHAPE, "shape [%lld, %lld], its basis is of [%lld, %lld]",
                        (long long)problem->out, (long long)problem->in, (long long)basis->out,
                        (long long)basis->in);
    if (rank < 1 || rank > basis->count)
        return lr__fail(LR_E_INVALID, "rank %lld, expected 1 to %lld", (long long)rank,
                        (long long)basis->count);
    return LR_OK;
}

/* Fills the three losses; E is turned. */
static lr_status judge_cut(lr__factors *out, double *e, const lr__factor_basis *basis,
                           const lr__factor_problem *problem) {
    lr_status status = LR_OK;
    out->total = basis->total;
    out->predicted = basis->rest;
    for (int64_t i = basis->count; i-- > out->rank;) out->predicted += basis->spectrum[i];
    LR_TRY(error_norm(&out->measured, e, problem, basis->method));
    double slack = fmax(loss_tolerance * out->total, basis->floor);
    LR_FAIL_IF(!(fabs(out->predicted - out->measured) <= slack), LR_E_NUMERIC,
               "rank %lld: predicted loss %.9g, measured %.9g of %.9g", (long long)out->rank,
               out->predicted, out->measured, out->total);
done:
    return status;
}

lr_status lr__factor_basis_cut(lr__factors *out, const lr__factor_basis *basis,
                               const lr__factor_problem *problem, int64_t rank) {
    lr_status status = LR_OK;
    double *e = NULL;
    *out = (lr__factors){.rank = rank};
    lr__blas_enter();
    LR_TRY(check_cut(basis, problem, rank));
    LR_TRY(lr__factor_weight(&e, problem));
    LR_TRY(lr__dgemm(-1, lr__dview_transpose(lr__dview_of(basis->left, rank, basis->out)),
                     lr__dview_of(basis->right, rank, basis->in), 1,
                     lr__dview_of(e, basis->out, basis->in)));
    LR_TRY(judge_cut(out, e, basis, problem));
    LR_TRY(round_factors(out, basis));
    LR_TRY(check_rounded(out->left, rank * basis->out, "left factor"));
    LR_TRY(check_rounded(out->right, rank * basis->in, "right factor"));
    if (basis->method != LR__FACTOR_AFM) goto done;
    LR_TRY(shift_bias(out, e, problem));
    LR_TRY(check_rounded(out->bias, basis->out, "bias"));
done:
    lr__blas_leave();
    lr__aligned_free(e);
    if (status < 0) lr__factors_clear(out);
    return lr__factor_named(status, problem);
}

void lr__factors_clear(lr__factors *factors) {
    lr__aligned_free(factors->left);
    lr__aligned_free(factors->right);
    lr__aligned_free(factors->bias);
    memset(factors, 0, sizeof *factors);
}

static int32_t loss_method(const lr__factor_problem *problem) {
    if (problem->gram) return problem->mean ? LR__FACTOR_AFM : LR__FACTOR_PCA;
    return problem->root ? LR__FACTOR_QR : problem->scale ? LR__FACTOR_ASVD : LR__FACTOR_SVD;
}

lr_status lr__factor_loss(double *out, const lr__factor_problem *problem, int64_t rank,
                          const float *left, const float *right) {
    lr_status status = LR_OK;
    double *e = NULL, *factors = NULL;
    int64_t m = problem->out, n = problem->in;
    *out = 0;
    lr__blas_enter();
    LR_TRY(lr__factor_check(problem, loss_method(problem)));
    LR_FAIL_IF(rank < 1 || rank > INT32_MAX, LR_E_INVALID, "rank %lld, expected 1 to %d",
               (long long)rank, INT32_MAX);
    LR_TRY(lr__factor_weight(&e, problem));
    LR_TRY(lr__new_aligned(&factors, (size_t)rank * (size_t)(m + n), sizeof *factors));
    for (int64_t i = 0; i < m * rank; i++) factors[i] = left[i];
    for (int64_t i = 0; i < rank * n; i++) factors[m * rank + i] = right[i];
    LR_TRY(lr__dgemm(-1, lr__dview_of(factors, m, rank), lr__dview_of(factors + m * rank, rank, n),
                     1, lr__dview_of(e, m, n)));
    LR_TRY(error_norm(out, e, problem, loss_method(problem)));
done:
    lr__blas_leave();
    lr__aligned_free(factors);
    lr__aligned_free(e);
    return lr__factor_named(status, problem);
}
