/* Least squares for one factor given the other, in rounds or against a factor that was rounded. */
#include "compress/refit.h"

#include "backend/blas.h"
#include "backend/lapack.h"
#include "model/save.h"
#include "tensor/dtype.h"

#include <math.h>
#include <string.h>

/* Relative to a unit diagonal. */
static const double damping = 1e-10;
/* A direction with less than this share of the largest energy it could have is rounding. */
static const double noise_share = 1e-13;

/* step [rows, rank] = G H^-1, G over it, H [rank, rank] lost. H is scaled to a unit diagonal and
 * damped; a component whose diagonal is not above its floor gets no step. */
static lr_status solve_step(double *step, int64_t rows, int64_t rank, double *h,
                            const double *floor) {
    lr_status status = LR_OK;
    double *scale = NULL;
    LR_TRY(lr__new_aligned(&scale, (size_t)rank, sizeof *scale));
    for (int64_t i = 0; i < rank; i++) {
        double square = h[i * rank + i];
        scale[i] = square > floor[i] ? 1 / sqrt(square) : 0;
    }
    for (int64_t i = 0; i < rank; i++) {
        for (int64_t j = 0; j < rank; j++) h[i * rank + j] *= scale[i] * scale[j];
        h[i * rank + i] = 1 + damping;
    }
    for (int64_t i = 0; i < rows * rank; i++) step[i] *= scale[i % rank];
    LR_TRY(lr__dsolve(rows, rank, h, step));
    for (int64_t i = 0; i < rows * rank; i++) step[i] *= scale[i % rank];
done:
    lr__aligned_free(scale);
    return status;
}

static lr_status error_of(double **out, const lr__refit *r) {
    lr_status status = LR_OK;
    size_t count = (size_t)r->out * (size_t)r->in;
    double *e = NULL;
    *out = NULL;
    LR_TRY(lr__new_aligned(&e, count, sizeof *e));
    memcpy(e, r->weight, count * sizeof *e);
    LR_TRY(lr__dgemm(-1, lr__dview_of(r->left, r->out, r->rank),
                     lr__dview_of(r->right, r->rank, r->in), 1, lr__dview_of(e, r->out, r->in)));
    *out = e;
    e = NULL;
done:
    lr__aligned_free(e);
    return status;
}

static double trace_of(const lr__factor_norm *norm) {
    int64_t n = norm->in;
    double trace = 0;
    if (!norm->gram && !norm->scale && !norm->root) return (double)n;
    for (int64_t i = 0; i < n && norm->gram; i++) trace += norm->gram[i * n + i];
    for (int64_t i = 0; i < n && norm->scale; i++) trace += norm->scale[i] * norm->scale[i];
    for (int64_t i = 0; i < n * n && norm->root; i++) trace += norm->root[i] * norm->root[i];
    return trace;
}

/* What rounding leaves of the energy of a row without any. */
static void set_floors(double *floor, const lr__refit *r) {
    double trace = trace_of(r->norm);
    for (int64_t i = 0; i < r->rank; i++) {
        const double *row = r->right + i * r->in;
        floor[i] = 0;
        for (int64_t j = 0; j < r->in; j++) floor[i] += row[j] * row[j] * trace * noise_share;
    }
}

lr_status lr__refit_left(const lr__refit *r) {
    lr_status status = LR_OK;
    int64_t m = r->out, n = r->in, k = r->rank;
    double *e = NULL, *product = NULL, *h = NULL, *step = NULL, *floor = NULL;
    lr__dview right = lr__dview_of(r->right, k, n);
    LR_TRY(error_of(&e, r));
    LR_TRY(lr__new_aligned(&product, (size_t)k * (size_t)n, sizeof *product));
    LR_TRY(lr__new_aligned(&h, (size_t)k * (size_t)k, sizeof *h));
    LR_TRY(lr__new_aligned(&step, (size_t)m * (size_t)k, sizeof *step));
    LR_TRY(lr__new_aligned(&floor, (size_t)k, sizeof *floor));
    LR_TRY(lr__factor_norm_apply(product, r->norm, r->right, k));
    lr__dview turned = lr__dview_transpose(lr__dview_of(product, k, n));
    LR_TRY(lr__dgemm(1, right, turned, 0, lr__dview_of(h, k, k)));
    LR_TRY(lr__dgemm(1, lr__dview_of(e, m, n), turned, 0, lr__dview_of(step, m, k)));
    set_floors(floor, r);
    LR_TRY(solve_step(step, m, k, h, floor));
    for (int64_t i = 0; i < m * k; i++) r->left[i] += step[i];
done:
    lr__aligned_free(e);
    lr__aligned_free(product);
    lr__aligned_free(h);
    lr__aligned_free(step);
    lr__aligned_free(floor);
    return status;
}

lr_status lr__refit_right(const lr__refit *r) {
    lr_status status = LR_OK;
    int64_t m = r->out, n = r->in, k = r->rank;
    double *e = NULL, *h = NULL, *step = NULL, *floor = NULL;
    lr__dview left = lr__dview_of(r->left, m, k);
    LR_TRY(error_of(&e, r));
    LR_TRY(lr__new_aligned(&h, (size_t)k * (size_t)k, sizeof *h));
    LR_TRY(lr__new_aligned(&step, (size_t)n * (size_t)k, sizeof *step));
    LR_TRY(lr__new(&floor, (size_t)k, sizeof *floor));
    LR_TRY(lr__dgemm(1, lr__dview_transpose(left), left, 0, lr__dview_of(h, k, k)));
    LR_TRY(lr__dgemm(1, lr__dview_transpose(lr__dview_of(e, m, n)), left, 0,
                     lr__dview_of(step, n, k)));
    LR_TRY(solve_step(step, n, k, h, floor));
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < n; j++) r->right[i * n + j] += step[j * k + i];
done:
    lr__aligned_free(e);
    lr__aligned_free(h);
    lr__aligned_free(step);
    lr__free(floor);
    return status;
}

lr_status lr__refit_loss(double *out, const lr__refit *r) {
    double *e = NULL;
    lr_status status = error_of(&e, r);
    if (status >= 0) status = lr__factor_norm_of(out, r->norm, e, r->out);
    lr__aligned_free(e);
    return status;
}

/* --- factors in binary32, and rounded ones --- */

static void widen(double *to, const float *from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = (double)from[i];
}

/* To binary32 and, through it, to what is stored. */
static lr_status narrow(float *to, double *from, int64_t rows, int64_t cols,
                        const lr__refit_opts *o, const char *what) {
    for (int64_t i = 0; i < rows * cols; i++) to[i] = (float)from[i];
    if (o->dtype != LR_F32) lr__save_round(o->kernels, o->dtype, rows, cols, to);
    for (int64_t i = 0; i < rows * cols; i++) {
        if (!isfinite(to[i]))
            return lr__fail(LR_E_NUMERIC, "%s leaves the range of %s", what,
                            lr_dtype_name(o->dtype));
        from[i] = (double)to[i];
    }
    return LR_OK;
}

/* The new bias keeps the mean of the outputs, whatever E is. */
static void shift_bias(lr__factors *f, const double *e, const lr__factor_problem *p,
                       const int32_t *rows, int64_t count) {
    for (int64_t i = 0; i < count && f->bias && p->mean; i++) {
        int64_t row = rows ? rows[i] : i;
        f->bias[row] = lr__factor_shifted(p, row, e + i * p->in);
    }
}

/* Rounds right, updates left, and rounds that too where `left` is given room for it: the file's
 * writer rounds it again, to the same numbers. */
static lr_status refit_rounded(lr__refit *r, const lr__refit_opts *o, float *left, float *right) {
    lr_status status = LR_OK;
    LR_TRY(narrow(right, r->right, r->rank, r->in, o, "right factor"));
    if (o->dtype != LR_F32) LR_TRY(lr__refit_left(r));
    if (r->side) LR_TRY(lr__factor_side_return(r->side, r->rank, r->left));
    LR_TRY(narrow(left, r->left, r->out, r->rank, o, "left factor"));
    if (r->side) status = lr__factor_side_turn(r->side, r->rank, r->left);
done:
    return status;
}

static lr_status judge(double *stored, lr__factors *f, const lr__refit *r,
                       const lr__factor_problem *p, const int32_t *rows) {
    double *e = NULL, loss = 0;
    lr_status status = error_of(&e, r);
    if (status >= 0) status = lr__factor_norm_of(&loss, r->norm, e, r->out);
    if (status >= 0) shift_bias(f, e, p, rows, r->out);
    *stored += loss;
    lr__aligned_free(e);
    return status;
}

lr_status lr__refit_factors(lr__factors *f, const lr__factor_problem *problem,
                            const lr__refit_opts *o, double *stored) {
    lr_status status = LR_OK;
    int64_t m = problem->out, n = problem->in, k = f->rank;
    double *weight = NULL;
    lr__factor_norm norm = {0};
    const lr__factor_side side = lr__factor_side_of(problem);
    lr__refit r = {.out = m, .in = n, .rank = k, .norm = &norm, .side = &side};
    *stored = 0;
    lr__blas_enter();
    LR_TRY(lr__factor_norm_new(&norm, problem, o->method));
    LR_TRY(lr__factor_turned(&weight, problem));
    r.weight = weight;
    LR_TRY(lr__new_aligned(&r.left, (size_t)m * (size_t)k, sizeof *r.left));
    LR_TRY(lr__new_aligned(&r.right, (size_t)k * (size_t)n, sizeof *r.right));
    widen(r.left, f->left, m * k);
    LR_TRY(lr__factor_side_turn(&side, k, r.left));
    widen(r.right, f->right, k * n);
    for (int32_t i = 0; i < o->rounds; i++) {
        LR_TRY(lr__refit_left(&r));
        LR_TRY(lr__refit_right(&r));
    }
    LR_TRY(refit_rounded(&r, o, f->left, f->right));
    LR_TRY(judge(stored, f, &r, problem, NULL));
done:
    lr__blas_leave();
    lr__aligned_free(r.left);
    lr__aligned_free(r.right);
    lr__aligned_free(weight);
    lr__factor_norm_clear(&norm);
    return lr__factor_named(status, problem);
}

/* H with the rows of `rest` above those of `picked`. */
static void gather_root(double *to, const double *root, const lr__pivot *pivot) {
    int64_t m = pivot->out, rest = m - pivot->rank;
    for (int64_t i = 0; i < m; i++) {
        int64_t row = i < rest ? pivot->rest[i] : pivot->picked[i - rest];
        memcpy(to + i * m, root + row * m, (size_t)m * sizeof *to);
    }
}

/* error [rank, in] = W - rows, where the rows stand for rows of W themselves. */
static void picked_error(double *error, const lr__pivot *pivot, const float *weight) {
    int64_t n = pivot->in;
    for (int64_t i = 0; i < pivot->rank; i++)
        for (int64_t j = 0; j < n; j++)
            error[i * n + j] = (double)weight[pivot->picked[i] * n + j] - pivot->rows[i * n + j];
}

/* With J the rest and I the picked rows, whose errors E_I stand: tr(G E C E') is least for the mix
 * that fits W_J + G_JJ^-1 G_JI E_I in the norm of the inputs, and of G = L L', rows J first,
 * G_JJ^-1 G_JI is L_JJ'^-1 L_IJ'. target [rest, in] is W_J. */
static lr_status take_over(double *target, const lr__pivot *pivot, const lr__factor_problem *p) {
    lr_status status = LR_OK;
    int64_t m = pivot->out, n = pivot->in, k = pivot->rank, rest = m - k, failed = 0;
    double *rows = NULL, *g = NULL, *error = NULL, *share = NULL;
    LR_TRY(lr__new_aligned(&rows, (size_t)m * (size_t)m, sizeof *rows));
    LR_TRY(lr__new_aligned(&g, (size_t)m * (size_t)m, sizeof *g));
    LR_TRY(lr__new_aligned(&error, (size_t)k * (size_t)n, sizeof *error));
    LR_TRY(lr__new_aligned(&share, (size_t)rest * (size_t)n, sizeof *share));
    gather_root(rows, p->out_root, pivot);
    LR_TRY(lr__dsyrk(lr__dview_of(rows, m, m), g));
    LR_TRY(lr__dpotrf(m, g, &failed));
    LR_FAIL_IF(failed, LR_E_NUMERIC, "the weights of the outputs are not positive definite");
    picked_error(error, pivot, p->weight);
    const lr__dview across = {.at = g + rest * m, .rows = k, .cols = rest, .step = m};
    LR_TRY(lr__dgemm(1, lr__dview_transpose(across), lr__dview_of(error, k, n), 0,
                     lr__dview_of(share, rest, n)));
    for (int64_t i = 0; i < rest; i++)
        memcpy(rows + i * rest, g + i * m, (size_t)rest * sizeof *rows);
    LR_TRY(lr__dtrsm_left(rest, n, rows, share));
    for (int64_t i = 0; i < rest * n; i++) target[i] += share[i];
done:
    lr__aligned_free(rows);
    lr__aligned_free(g);
    lr__aligned_free(error);
    lr__aligned_free(share);
    return status;
}

/* One half of a pivot form: the rows of W that `picked` names, against factors of binary32. A NULL
 * left is the identity. */
typedef struct half {
    const int32_t *picked;
    int64_t count;
    float *left;
} half;

static lr_status refit_half(const half *h, lr__pivot *pivot, lr__factors *f,
                            const lr__factor_problem *p, const lr__factor_norm *norm,
                            const lr__refit_opts *o, double *stored) {
    lr_status status = LR_OK;
    int64_t n = pivot->in, k = pivot->rank;
    double *weight = NULL;
    lr__refit r = {.out = h->count, .in = n, .rank = k, .norm = norm};
    LR_TRY(lr__new_aligned(&weight, (size_t)h->count * (size_t)n, sizeof *weight));
    LR_TRY(lr__new(&r.left, (size_t)h->count * (size_t)k, sizeof *r.left));
    LR_TRY(lr__new_aligned(&r.right, (size_t)k * (size_t)n, sizeof *r.right));
    for (int64_t i = 0; i < h->count; i++) {
        widen(weight + i * n, p->weight + h->picked[i] * n, n);
        if (!h->left) r.left[i * k + i] = 1;
    }
    r.weight = weight;
    widen(r.right, pivot->rows, k * n);
    if (h->left) {
        if (p->out_root) LR_TRY(take_over(weight, pivot, p));
        widen(r.left, h->left, h->count * k);
        LR_TRY(refit_rounded(&r, o, h->left, pivot->rows));
    } else {
        LR_TRY(narrow(pivot->rows, r.right, k, n, o, "pivot rows"));
    }
    LR_TRY(judge(stored, f, &r, p, h->picked));
done:
    lr__aligned_free(weight);
    lr__free(r.left);
    lr__aligned_free(r.right);
    return status;
}

/* The whole product against W: rows of different weight do not add up. */
static lr_status judge_pivot(double *stored, const lr__pivot *pivot,
                             const lr__factor_problem *problem) {
    int64_t k = pivot->rank, rest = pivot->out - k;
    float *left = NULL;
    lr_status status = lr__new(&left, (size_t)pivot->out * (size_t)k, sizeof *left);
    if (status < 0) return status;
    for (int64_t i = 0; i < k; i++) left[pivot->picked[i] * k + i] = 1;
    for (int64_t i = 0; i < rest; i++)
        memcpy(left + pivot->rest[i] * k, pivot->mix + i * k, (size_t)k * sizeof *left);
    status = lr__factor_loss(stored, problem, k, left, pivot->rows);
    lr__free(left);
    return status;
}

lr_status lr__refit_pivot(lr__pivot *pivot, lr__factors *f, const lr__factor_problem *problem,
                          const lr__refit_opts *o, double *stored) {
    lr_status status = LR_OK;
    lr__factor_norm norm = {0};
    int64_t rest = pivot->out - pivot->rank;
    const half halves[2] = {{pivot->picked, pivot->rank, NULL}, {pivot->rest, rest, pivot->mix}};
    *stored = 0;
    lr__blas_enter();
    LR_TRY(lr__factor_norm_new(&norm, problem, o->method));
    for (int i = 0; i < (rest ? 2 : 1); i++)
        LR_TRY(refit_half(&halves[i], pivot, f, problem, &norm, o, stored));
    const lr__factor_side side = lr__factor_side_of(problem);
    if (!lr__factor_side_is_identity(&side)) LR_TRY(judge_pivot(stored, pivot, problem));
    pivot->largest = 0;
    for (int64_t i = 0; i < rest * pivot->rank; i++)
        pivot->largest = fmax(pivot->largest, fabs((double)pivot->mix[i]));
done:
    lr__blas_leave();
    lr__factor_norm_clear(&norm);
    return lr__factor_named(status, problem);
}
