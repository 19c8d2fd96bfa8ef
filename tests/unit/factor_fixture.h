/*
 * Problems with explicit inputs X, and oracles that use X itself: a one-sided Jacobi SVD of W X
 * and losses by plain loops. Nothing here calls BLAS, LAPACK or the library.
 */
#ifndef TEST_FACTOR_FIXTURE_H
#define TEST_FACTOR_FIXTURE_H

#include "compress/factor_basis.h"
#include "jacobi.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHECK_NEAR(actual, expected, tolerance)                                                   \
    do {                                                                                          \
        double actual_ = (actual), expected_ = (expected), tolerance_ = (tolerance);              \
        ck_assert_msg(fabs(actual_ - expected_) <= tolerance_, "%s is %.17g, %s is %.17g (> %g)", \
                      #actual, actual_, #expected, expected_, tolerance_);                        \
    } while (0)

#define CHECK_OK(call)                                                     \
    do {                                                                   \
        lr_status status_ = (call);                                        \
        ck_assert_msg(status_ == LR_OK, "%s: %s", #call, lr_last_error()); \
    } while (0)

/* The status and a piece of the message. */
#define CHECK_FAILS(call, expected, text)                                                    \
    do {                                                                                     \
        lr_status status_ = (call);                                                          \
        ck_assert_msg(status_ == (expected), "%s gave %s", #call, lr_status_name(status_));  \
        ck_assert_msg(strstr(lr_last_error(), text), "\"%s\" lacks \"%s\"", lr_last_error(), \
                      text);                                                                 \
    } while (0)

typedef struct fixture {
    int64_t m, n, tokens;
    float *weight;
    double *x; /* [n, tokens] */
    double *gram, *mean;
    double *scale; /* root of the mean |x| of each channel */
    double *root;  /* lower triangle L of X / sqrt(T) = L Q */
    float *bias;
    lr__factor_problem problem;
} fixture;

typedef struct shape {
    int64_t m, n;
} shape;

static const shape shapes[] = {{24, 40}, {32, 32}, {40, 24}, {8, 33}, {33, 8},
                               {17, 29}, {29, 17}, {1, 9},   {9, 1},  {1, 1}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static inline double noise(uint64_t *state) {
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(*state >> 11) * 0x1p-53;
    }
    return sum;
}

static inline double *zeros(int64_t count) {
    double *values = calloc((size_t)count, sizeof *values);
    ck_assert_ptr_nonnull(values);
    return values;
}

/* Random orthogonal [n, n]: Gram-Schmidt, twice, on Gaussian rows. */
static inline double *orthogonal(int64_t n, uint64_t *state) {
    double *q = zeros(n * n);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++) q[i * n + j] = noise(state);
        for (int64_t p = 0; p < 2 * i; p++) {
            double dot = 0, *other = q + p % i * n;
            for (int64_t j = 0; j < n; j++) dot += q[i * n + j] * other[j];
            for (int64_t j = 0; j < n; j++) q[i * n + j] -= dot * other[j];
        }
        double square = 0;
        for (int64_t j = 0; j < n; j++) square += q[i * n + j] * q[i * n + j];
        for (int64_t j = 0; j < n; j++) q[i * n + j] /= sqrt(square);
    }
    return q;
}

/* X / sqrt(T) = L Q by modified Gram-Schmidt, twice over; a row that is in the span of those before
 * it has a zero on the diagonal. */
static inline void fixture_root(fixture *f) {
    int64_t n = f->n, t = f->tokens;
    double *q = zeros(n * t);
    memset(f->root, 0, (size_t)(n * n) * sizeof *f->root);
    for (int64_t i = 0; i < n; i++) {
        double *row = q + i * t, whole = 0, square = 0;
        for (int64_t k = 0; k < t; k++) {
            row[k] = f->x[i * t + k] / sqrt((double)t);
            whole += row[k] * row[k];
        }
        for (int64_t p = 0; p < 2 * i; p++) {
            const double *other = q + p % i * t;
            double dot = 0;
            for (int64_t k = 0; k < t; k++) dot += row[k] * other[k];
            for (int64_t k = 0; k < t; k++) row[k] -= dot * other[k];
            f->root[i * n + p % i] += dot;
        }
        for (int64_t k = 0; k < t; k++) square += row[k] * row[k];
        double length = square > 1e-28 * whole ? sqrt(square) : 0;
        for (int64_t k = 0; k < t; k++) row[k] = length > 0 ? row[k] / length : 0;
        f->root[i * n + i] = length;
    }
    free(q);
}

/* C = X X' / T, mu, s and L from the X as it stands. */
static inline void fixture_moments(fixture *f) {
    int64_t n = f->n, t = f->tokens;
    for (int64_t i = 0; i < n; i++) {
        f->mean[i] = 0;
        for (int64_t k = 0; k < t; k++) f->mean[i] += f->x[i * t + k] / (double)t;
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;
            for (int64_t k = 0; k < t; k++) sum += f->x[i * t + k] * f->x[j * t + k];
            f->gram[i * n + j] = f->gram[j * n + i] = sum / (double)t;
        }
        double size = 0;
        for (int64_t k = 0; k < t; k++) size += fabs(f->x[i * t + k]) / (double)t;
        f->scale[i] = sqrt(size);
    }
    fixture_root(f);
}

/* X = Q diag(i^-decay/2) Z, rotated, with a mean and, from 8 channels on, four of them times
 * `outlier`. */
static inline fixture fixture_new(shape s, int64_t tokens, double decay, double outlier) {
    uint64_t state = 12345 + (uint64_t)(s.m * 1000 + s.n * 10 + tokens);
    fixture f = {.m = s.m, .n = s.n, .tokens = tokens};
    f.weight = calloc((size_t)(s.m * s.n), sizeof *f.weight);
    f.bias = calloc((size_t)s.m, sizeof *f.bias);
    f.x = zeros(s.n * tokens);
    f.gram = zeros(s.n * s.n);
    f.mean = zeros(s.n);
    f.scale = zeros(s.n);
    f.root = zeros(s.n * s.n);
    double *q = orthogonal(s.n, &state);
    for (int64_t i = 0; i < s.m * s.n; i++) f.weight[i] = (float)noise(&state);
    for (int64_t i = 0; i < s.m; i++) f.bias[i] = (float)noise(&state);
    for (int64_t p = 0; p < s.n; p++)
        for (int64_t k = 0; k < tokens; k++) {
            double z = noise(&state) * pow((double)(p + 1), -decay / 2);
            for (int64_t i = 0; i < s.n; i++) f.x[i * tokens + k] += q[i * s.n + p] * z;
        }
    for (int64_t i = 0; i < s.n; i++)
        for (int64_t k = 0; k < tokens; k++) {
            f.x[i * tokens + k] += 0.3 * sin((double)i);
            if (s.n >= 8 && i % (s.n / 4) == 1 && i / (s.n / 4) < 4) f.x[i * tokens + k] *= outlier;
        }
    free(q);
    fixture_moments(&f);
    f.problem = (lr__factor_problem){
        s.m, s.n, f.weight, f.gram, f.mean, f.bias, "layer.q_proj", f.scale, f.root, NULL, NULL};
    return f;
}

static inline void fixture_free(fixture *f) {
    free(f->weight);
    free(f->bias);
    free(f->x);
    free(f->gram);
    free(f->mean);
    free(f->scale);
    free(f->root);
}

/* Every small rank, fewer large ones, the last. */
static inline int64_t next_rank(int64_t rank, int64_t full) {
    int64_t next = rank + 1 + rank / 3;
    return rank < full && next > full ? full : next;
}

static inline int64_t fixture_full(const fixture *f) { return f->m < f->n ? f->m : f->n; }

/* a [m, n] times X, less its own mean over the tokens when centred. */
static inline double *times_x(const fixture *f, const double *a, int centred) {
    int64_t t = f->tokens;
    double *y = zeros(f->m * t);
    for (int64_t i = 0; i < f->m; i++) {
        for (int64_t j = 0; j < f->n; j++)
            for (int64_t k = 0; k < t; k++) y[i * t + k] += a[i * f->n + j] * f->x[j * t + k];
        double mean = 0;
        for (int64_t k = 0; k < t; k++) mean += y[i * t + k] / (double)t;
        for (int64_t k = 0; k < t && centred; k++) y[i * t + k] -= mean;
    }
    return y;
}

static inline double *weight_of(const fixture *f) {
    double *w = zeros(f->m * f->n);
    for (int64_t i = 0; i < f->m * f->n; i++) w[i] = f->weight[i];
    return w;
}

/* The methods whose norm does not ask for the tokens. */
static inline int is_of_weights(int32_t method) {
    return method == LR__FACTOR_SVD || method == LR__FACTOR_ASVD;
}

static inline void scale_channels(const fixture *f, double *a, int32_t method) {
    for (int64_t i = 0; i < f->m * f->n && method == LR__FACTOR_ASVD; i++)
        a[i] *= f->scale[i % f->n];
}

/* tail[r] = sum over i >= r of sigma_i(W X)^2 / T, or of sigma_i(W)^2, or of sigma_i(W diag(s))^2;
 * tail[full] = 0. */
static inline double *fixture_tails(const fixture *f, int32_t method) {
    int64_t full = fixture_full(f);
    double *w = weight_of(f), *tails = zeros(full + 1), *y = w, scale = 1;
    scale_channels(f, w, method);
    if (!is_of_weights(method)) {
        y = times_x(f, w, method == LR__FACTOR_AFM);
        scale = 1 / (double)f->tokens;
    }
    double *squares = jacobi_squares(y, f->m, is_of_weights(method) ? f->n : f->tokens);
    for (int64_t i = full; i-- > 0;) tails[i] = tails[i + 1] + squares[i] * scale;
    if (y != w) free(y);
    free(w);
    free(squares);
    return tails;
}

/* Loss of any [m, n] by explicit X, in the norm of a method. */
static inline double explicit_loss(const fixture *f, const double *approx, int32_t method) {
    double *e = weight_of(f), sum = 0;
    for (int64_t i = 0; i < f->m * f->n; i++) e[i] -= approx[i];
    scale_channels(f, e, method);
    if (is_of_weights(method)) {
        for (int64_t i = 0; i < f->m * f->n; i++) sum += e[i] * e[i];
    } else {
        double *y = times_x(f, e, method == LR__FACTOR_AFM);
        for (int64_t i = 0; i < f->m * f->tokens; i++) sum += y[i] * y[i] / (double)f->tokens;
        free(y);
    }
    free(e);
    return sum;
}

/* W~ in binary64 from the components first .. last - 1 of a basis. */
static inline double *basis_approx(const lr__factor_basis *b, int64_t first, int64_t last) {
    double *approx = zeros(b->out * b->in);
    for (int64_t r = first; r < last; r++)
        for (int64_t i = 0; i < b->out; i++)
            for (int64_t j = 0; j < b->in; j++)
                approx[i * b->in + j] += b->left[r * b->out + i] * b->right[r * b->in + j];
    return approx;
}

/* W~ from rounded factors. */
static inline double *factors_approx(const fixture *f, const lr__factors *factors) {
    double *approx = zeros(f->m * f->n);
    for (int64_t i = 0; i < f->m; i++)
        for (int64_t r = 0; r < factors->rank; r++)
            for (int64_t j = 0; j < f->n; j++)
                approx[i * f->n + j] += (double)factors->left[i * factors->rank + r] *
                                        (double)factors->right[r * f->n + j];
    return approx;
}

/* |A - B|_F / |B|_F. */
static inline double difference(const double *a, const double *b, int64_t count) {
    double square = 0, whole = 0;
    for (int64_t i = 0; i < count; i++) {
        square += (a[i] - b[i]) * (a[i] - b[i]);
        whole += b[i] * b[i];
    }
    return whole > 0 ? sqrt(square / whole) : sqrt(square);
}

#endif
