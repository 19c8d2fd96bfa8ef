/*
 * Row-major linear algebra over OpenBLAS. LAPACK is column-major, so each routine is given the
 * transpose of what its caller means: LQ for QR, an upper triangle for a lower one, V for U.
 */
#include "backend/lapack.h"

#include "backend/blas.h"

#include <cblas.h>
#include <math.h>
#include <stdint.h>

/* dgesdd's workspace of 4 n^2 + 7 n numbers is counted in 32 bits; dsyevd's is half of that. */
enum { ORDER_MAX = 23000 };

/* gfortran passes the lengths of character arguments behind the others. */
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info, size_t);
void dsyevd_(const char *job, const char *uplo, const int *n, double *a, const int *lda, double *w,
             double *work, const int *lwork, int *iwork, const int *liwork, int *info, size_t,
             size_t);
void dgesdd_(const char *job, const int *m, const int *n, double *a, const int *lda, double *s,
             double *u, const int *ldu, double *vt, const int *ldvt, double *work, const int *lwork,
             int *iwork, int *info, size_t);
void dgeqrf_(const int *m, const int *n, double *a, const int *lda, double *tau, double *work,
             const int *lwork, int *info);
void dgelqf_(const int *m, const int *n, double *a, const int *lda, double *tau, double *work,
             const int *lwork, int *info);
void dorglq_(const int *m, const int *n, const int *k, double *a, const int *lda, const double *tau,
             double *work, const int *lwork, int *info);
void dtpqrt_(const int *m, const int *n, const int *l, const int *nb, double *a, const int *lda,
             double *b, const int *ldb, double *t, const int *ldt, double *work, int *info);
void dtpmqrt_(const char *side, const char *trans, const int *m, const int *n, const int *k,
              const int *l, const int *nb, const double *v, const int *ldv, const double *t,
              const int *ldt, double *a, const int *lda, double *b, const int *ldb, double *work,
              int *info, size_t, size_t);
void dgeqp3_(const int *m, const int *n, double *a, const int *lda, int *jpvt, double *tau,
             double *work, const int *lwork, int *info);
void dgesv_(const int *n, const int *nrhs, double *a, const int *lda, int *ipiv, double *b,
            const int *ldb, int *info);

static lr_status check_order(const char *routine, int64_t n) {
    if (n < 1 || n > ORDER_MAX)
        return lr__fail(LR_E_UNSUPPORTED, "%s: order %lld, expected 1 to %d", routine, (long long)n,
                        ORDER_MAX);
    return LR_OK;
}

static lr_status check_size(const char *routine, int64_t n) {
    if (n < 1 || n > INT32_MAX)
        return lr__fail(LR_E_UNSUPPORTED, "%s: size %lld, expected 1 to %d", routine, (long long)n,
                        INT32_MAX);
    return LR_OK;
}

static lr_status check_info(const char *routine, int info) {
    if (info < 0) return lr__fail(LR_E_BACKEND, "%s: argument %d refused", routine, -info);
    if (info > 0) return lr__fail(LR_E_NUMERIC, "%s: did not converge (info %d)", routine, info);
    return LR_OK;
}

/* Row i up to `cols`, or up to the diagonal: some routines never return from a NaN. */
static lr_status check_finite(const char *routine, const double *a, int64_t rows, int64_t cols,
                              int is_lower) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < (is_lower ? i + 1 : cols); j++)
            if (!isfinite(a[i * cols + j]))
                return lr__fail(LR_E_NUMERIC, "%s: element [%lld, %lld] is %g", routine,
                                (long long)i, (long long)j, a[i * cols + j]);
    return LR_OK;
}

/* Allocates what a workspace query answered. */
static lr_status work_new(double **work, int *count, const char *routine, double answer) {
    if (!(answer >= 1 && answer <= INT32_MAX))
        return lr__fail(LR_E_BACKEND, "%s: asks for a workspace of %g numbers", routine, answer);
    *count = (int)answer;
    return lr__new_aligned(work, (size_t)*count, sizeof **work);
}

lr__dview lr__dview_of(const double *at, int64_t rows, int64_t cols) {
    return (lr__dview){(double *)(uintptr_t)at, rows, cols, cols, 0};
}

lr__dview lr__dview_transpose(lr__dview view) {
    return (lr__dview){view.at, view.cols, view.rows, view.step, !view.is_transposed};
}

static lr_status check_view(const char *routine, lr__dview view) {
    int64_t stored = view.is_transposed ? view.rows : view.cols;
    lr_status status = check_size(routine, view.rows);
    if (status == LR_OK) status = check_size(routine, view.cols);
    if (status == LR_OK) status = check_size(routine, view.step);
    if (status == LR_OK && view.step < stored)
        status = lr__fail(LR_E_SHAPE, "%s: rows of %lld numbers, %lld apart", routine,
                          (long long)stored, (long long)view.step);
    return status;
}

lr_status lr__dgemm(double alpha, lr__dview a, lr__dview b, double beta, lr__dview c) {
    lr_status status = LR_OK;
    LR_TRY(check_view("dgemm", a));
    LR_TRY(check_view("dgemm", b));
    LR_TRY(check_view("dgemm", c));
    LR_FAIL_IF(c.is_transposed || a.rows != c.rows || b.cols != c.cols || a.cols != b.rows,
               LR_E_SHAPE, "dgemm: [%lld, %lld] times [%lld, %lld] into [%lld, %lld]",
               (long long)a.rows, (long long)a.cols, (long long)b.rows, (long long)b.cols,
               (long long)c.rows, (long long)c.cols);
    lr__blas_call_begin();
    cblas_dgemm(CblasRowMajor, a.is_transposed ? CblasTrans : CblasNoTrans,
                b.is_transposed ? CblasTrans : CblasNoTrans, (int)c.rows, (int)c.cols, (int)a.cols,
                alpha, a.at, (int)a.step, b.at, (int)b.step, beta, c.at, (int)c.step);
    lr__blas_call_end();
done:
    return status;
}

lr_status lr__dsyrk(lr__dview a, double *c) {
    lr_status status = check_view("dsyrk", a);
    if (status < 0) return status;
    lr__blas_call_begin();
    cblas_dsyrk(CblasRowMajor, CblasLower, a.is_transposed ? CblasTrans : CblasNoTrans, (int)a.rows,
                (int)a.cols, 1, a.at, (int)a.step, 0, c, (int)a.rows);
    lr__blas_call_end();
    return LR_OK;
}

/* b := b L or b L^-1 (right, b of [other, n]), b := L^T b or L^-T b (left, b of [n, other]). */
static lr_status by_triangle(int32_t solves, enum CBLAS_SIDE side, int64_t n, int64_t other,
                             const double *l, double *b) {
    lr_status status = LR_OK;
    const char *name = solves ? "dtrsm" : "dtrmm";
    int32_t left = side == CblasLeft;
    int rows = (int)(left ? n : other), cols = (int)(left ? other : n);
    LR_TRY(check_size(name, n));
    LR_TRY(check_size(name, other));
    for (int64_t i = 0; solves && i < n; i++)
        LR_FAIL_IF(l[i * n + i] == 0, LR_E_NUMERIC, "dtrsm: element [%lld, %lld] is 0",
                   (long long)i, (long long)i);
    lr__blas_call_begin();
    (solves ? cblas_dtrsm : cblas_dtrmm)(CblasRowMajor, side, CblasLower,
                                         left ? CblasTrans : CblasNoTrans, CblasNonUnit, rows, cols,
                                         1, l, (int)n, b, cols);
    lr__blas_call_end();
done:
    return status;
}

lr_status lr__dtrmm(int64_t rows, int64_t n, const double *l, double *b) {
    return by_triangle(0, CblasRight, n, rows, l, b);
}

lr_status lr__dtrsm(int64_t rows, int64_t n, const double *l, double *b) {
    return by_triangle(1, CblasRight, n, rows, l, b);
}

lr_status lr__dtrmm_left(int64_t n, int64_t cols, const double *l, double *b) {
    return by_triangle(0, CblasLeft, n, cols, l, b);
}

lr_status lr__dtrsm_left(int64_t n, int64_t cols, const double *l, double *b) {
    return by_triangle(1, CblasLeft, n, cols, l, b);
}

lr_status lr__dpotrf(int64_t n, double *a, int64_t *failed) {
    lr_status status = LR_OK;
    LR_TRY(check_order("dpotrf", n));
    LR_TRY(check_finite("dpotrf", a, n, n, 1));
    int order = (int)n, info = 0;
    lr__blas_call_begin();
    dpotrf_("U", &order, a, &order, &info, 1);
    lr__blas_call_end();
    *failed = info > 0 ? info : 0;
    if (info < 0) status = check_info("dpotrf", info);
done:
    return status;
}

static lr_status run_dsyevd(const char *job, int64_t n, double *a, double *values) {
    lr_status status = LR_OK;
    double *work = NULL;
    int *iwork = NULL;
    LR_TRY(check_order("dsyevd", n));
    LR_TRY(check_finite("dsyevd", a, n, n, 1));
    int order = (int)n, info = 0, count = -1, icount = -1;
    double answer = 0;
    int ianswer = 0;
    dsyevd_(job, "U", &order, a, &order, values, &answer, &count, &ianswer, &icount, &info, 1, 1);
    LR_TRY(check_info("dsyevd", info));
    LR_TRY(work_new(&work, &count, "dsyevd", answer));
    LR_FAIL_IF(ianswer < 1, LR_E_BACKEND, "dsyevd: asks for a workspace of %d integers", ianswer);
    icount = ianswer;
    LR_TRY(lr__new_aligned(&iwork, (size_t)icount, sizeof *iwork));
    lr__blas_call_begin();
    dsyevd_(job, "U", &order, a, &order, values, work, &count, iwork, &icount, &info, 1, 1);
    lr__blas_call_end();
    status = check_info("dsyevd", info);
done:
    lr__aligned_free(iwork);
    lr__aligned_free(work);
    return status;
}

lr_status lr__dsyevd(int64_t n, double *a, double *values) { return run_dsyevd("V", n, a, values); }

lr_status lr__deigenvalues(int64_t n, double *a, double *values) {
    return run_dsyevd("N", n, a, values);
}

lr_status lr__dgesdd(int64_t m, int64_t n, double *a, double *s, double *u, double *vt) {
    lr_status status = LR_OK;
    double *work = NULL;
    int *iwork = NULL;
    int64_t k = m < n ? m : n;
    LR_TRY(check_order("dgesdd", k));
    LR_TRY(check_size("dgesdd", m > n ? m : n));
    LR_TRY(check_finite("dgesdd", a, m, n, 0));
    int rows = (int)n, cols = (int)m, least = (int)k, info = 0, count = -1;
    double answer = 0;
    LR_TRY(lr__new_aligned(&iwork, (size_t)k * 8, sizeof *iwork));
    dgesdd_("S", &rows, &cols, a, &rows, s, vt, &rows, u, &least, &answer, &count, iwork, &info, 1);
    LR_TRY(check_info("dgesdd", info));
    LR_TRY(work_new(&work, &count, "dgesdd", answer));
    lr__blas_call_begin();
    dgesdd_("S", &rows, &cols, a, &rows, s, vt, &rows, u, &least, work, &count, iwork, &info, 1);
    lr__blas_call_end();
    status = check_info("dgesdd", info);
done:
    lr__aligned_free(iwork);
    lr__aligned_free(work);
    return status;
}

/* The columns of a matrix made orthogonal, in LAPACK's own order of indices. */
typedef struct columns {
    int rows, cols;
    double *a, *tau;
    int *order; /* of dgeqp3 */
    double *work;
    int count; /* of its numbers */
} columns;

static void columns_end(columns *c) {
    lr__aligned_free(c->tau);
    lr__aligned_free(c->work);
}

typedef void (*columns_fn)(const columns *c, double *work, const int *count, int *info);

static void gelqf(const columns *c, double *work, const int *count, int *info) {
    dgelqf_(&c->rows, &c->cols, c->a, &c->rows, c->tau, work, count, info);
}

static void orglq(const columns *c, double *work, const int *count, int *info) {
    dorglq_(&c->rows, &c->cols, &c->rows, c->a, &c->rows, c->tau, work, count, info);
}

static void geqrf(const columns *c, double *work, const int *count, int *info) {
    dgeqrf_(&c->rows, &c->cols, c->a, &c->rows, c->tau, work, count, info);
}

static void geqp3(const columns *c, double *work, const int *count, int *info) {
    dgeqp3_(&c->rows, &c->cols, c->a, &c->rows, c->order, c->tau, work, count, info);
}

/* Asks for the size of the workspace, then runs with one of at least that. */
static lr_status run_columns(columns *c, columns_fn fn, const char *routine) {
    lr_status status = LR_OK;
    double answer = 0;
    int info = 0, query = -1;
    fn(c, &answer, &query, &info);
    LR_TRY(check_info(routine, info));
    if (!c->work || answer > c->count) {
        lr__aligned_free(c->work);
        c->work = NULL;
        LR_TRY(work_new(&c->work, &c->count, routine, answer));
    }
    lr__blas_call_begin();
    fn(c, c->work, &c->count, &info);
    lr__blas_call_end();
    status = check_info(routine, info);
done:
    return status;
}

/* The transpose, n rows and m columns to LAPACK, is R' Q'. */
lr_status lr__dqr(int64_t m, int64_t n, double *a, double *r) {
    lr_status status = LR_OK;
    columns c = {.rows = (int)n, .cols = (int)m, .a = a};
    LR_TRY(check_order("dgelqf", n));
    LR_TRY(check_size("dgelqf", m));
    LR_FAIL_IF(m < n, LR_E_SHAPE, "dgelqf: QR of [%lld, %lld], expected as many rows as columns",
               (long long)m, (long long)n);
    LR_TRY(lr__new_aligned(&c.tau, (size_t)n, sizeof *c.tau));
    LR_TRY(run_columns(&c, gelqf, "dgelqf"));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) r[i * n + j] = j < i ? 0 : a[i * n + j];
    LR_TRY(run_columns(&c, orglq, "dorglq"));
done:
    columns_end(&c);
    return status;
}

lr_status lr__dlq(int64_t m, int64_t n, double *a, double *l) {
    lr_status status = LR_OK;
    columns c = {.rows = (int)n, .cols = (int)m, .a = a};
    LR_TRY(check_order("dgeqrf", m));
    LR_TRY(check_size("dgeqrf", n));
    LR_FAIL_IF(m > n, LR_E_SHAPE, "dgeqrf: LQ of [%lld, %lld], expected as many columns as rows",
               (long long)m, (long long)n);
    LR_TRY(lr__new_aligned(&c.tau, (size_t)m, sizeof *c.tau));
    LR_TRY(run_columns(&c, geqrf, "dgeqrf"));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < m; j++) l[i * m + j] = j > i ? 0 : a[i * n + j];
done:
    columns_end(&c);
    return status;
}

/* To LAPACK the transposes stand on each other: an upper triangle over a rectangle. */
lr_status lr__dlq_fold(lr__dview a, lr__dview b, double *t, double *work) {
    lr_status status = LR_OK;
    LR_TRY(check_view("dtpqrt", a));
    LR_TRY(check_view("dtpqrt", b));
    LR_FAIL_IF(a.is_transposed || b.is_transposed || a.rows != a.cols || a.rows != b.rows,
               LR_E_SHAPE, "dtpqrt: [%lld, %lld] beside [%lld, %lld]", (long long)a.rows,
               (long long)a.cols, (long long)b.rows, (long long)b.cols);
    int n = (int)a.rows, m = (int)b.cols, zero = 0, most = LR__LQ_BLOCK, info = 0;
    int block = n < most ? n : most, lda = (int)a.step, ldb = (int)b.step;
    lr__blas_call_begin();
    dtpqrt_(&m, &n, &zero, &block, a.at, &lda, b.at, &ldb, t, &most, work, &info);
    lr__blas_call_end();
    status = check_info("dtpqrt", info);
done:
    return status;
}

lr_status lr__dlq_follow(lr__dview b, const double *t, lr__dview c, lr__dview d, double *work) {
    lr_status status = LR_OK;
    LR_TRY(check_view("dtpmqrt", b));
    LR_TRY(check_view("dtpmqrt", c));
    LR_TRY(check_view("dtpmqrt", d));
    LR_FAIL_IF(b.is_transposed || c.is_transposed || d.is_transposed || c.cols != b.rows ||
                   d.cols != b.cols || c.rows != d.rows,
               LR_E_SHAPE, "dtpmqrt: [%lld, %lld] and [%lld, %lld] behind [%lld, %lld]",
               (long long)c.rows, (long long)c.cols, (long long)d.rows, (long long)d.cols,
               (long long)b.rows, (long long)b.cols);
    int m = (int)d.cols, n = (int)d.rows, k = (int)b.rows, zero = 0, most = LR__LQ_BLOCK, info = 0;
    int block = k < most ? k : most, ldb = (int)b.step, ldc = (int)c.step, ldd = (int)d.step;
    lr__blas_call_begin();
    dtpmqrt_("L", "T", &m, &n, &k, &zero, &block, b.at, &ldb, t, &most, c.at, &ldc, d.at, &ldd,
             work, &info, 1, 1);
    lr__blas_call_end();
    status = check_info("dtpmqrt", info);
done:
    return status;
}

lr_status lr__drow_order(int64_t m, int64_t n, double *a, int32_t *order) {
    lr_status status = LR_OK;
    columns c = {.rows = (int)n, .cols = (int)m, .a = a, .order = order};
    LR_TRY(check_order("dgeqp3", n));
    LR_TRY(check_size("dgeqp3", m));
    LR_FAIL_IF(m < n, LR_E_SHAPE, "dgeqp3: [%lld, %lld], expected as many rows as columns",
               (long long)m, (long long)n);
    LR_TRY(check_finite("dgeqp3", a, m, n, 0));
    LR_TRY(lr__new_aligned(&c.tau, (size_t)n, sizeof *c.tau));
    for (int64_t i = 0; i < m; i++) order[i] = 0;
    LR_TRY(run_columns(&c, geqp3, "dgeqp3"));
    for (int64_t i = 0; i < m; i++) order[i]--;
done:
    columns_end(&c);
    return status;
}

lr_status lr__dsolve(int64_t rows, int64_t n, double *p, double *b) {
    lr_status status = LR_OK;
    int *pivots = NULL;
    LR_TRY(check_order("dgesv", n));
    LR_TRY(check_size("dgesv", rows));
    int order = (int)n, count = (int)rows, info = 0;
    LR_TRY(lr__new_aligned(&pivots, (size_t)n, sizeof *pivots));
    lr__blas_call_begin();
    dgesv_(&order, &count, p, &order, pivots, b, &order, &info);
    lr__blas_call_end();
    LR_FAIL_IF(info > 0, LR_E_NUMERIC, "dgesv: the matrix is singular (pivot %d)", info);
    status = check_info("dgesv", info);
done:
    lr__aligned_free(pivots);
    return status;
}
