/* Derivatives of the kernels on single rows and of attention, in plain C. */
#include "backend/cpu/plain.h"

#include <math.h>

/* With f = 1 / sqrt(mean(x^2) + epsilon), z = f x and g = weight * dy, the derivative along x is
 * f (g - z mean(g z)); all factors stay in range where x is large. */
void lr__rmsnorm_backward_c(int64_t n, const float *x, const float *weight, float epsilon,
                            const float *dy, float *dx, float *dweight) {
    double squares = 0, products = 0;
    for (int64_t i = 0; i < n; i++) {
        squares += (double)x[i] * x[i];
        products += (double)(weight[i] * dy[i]) * x[i];
    }
    double exact = 1.0 / sqrt(squares / (double)n + (double)epsilon);
    float factor = (float)exact, mean = (float)(exact * products / (double)n);
    for (int64_t i = 0; i < n; i++) {
        float z = x[i] * factor;
        dx[i] += factor * (weight[i] * dy[i] - z * mean);
        if (dweight) dweight[i] += dy[i] * z;
    }
}

/* With s = sigmoid(g), the derivative of g s is s + g s (1 - s); by e = e^-|g|, as in swiglu. */
void lr__swiglu_backward_c(int64_t n, const float *gate, const float *up, const float *dout,
                           float *dgate, float *dup) {
    for (int64_t i = 0; i < n; i++) {
        float g = gate[i], u = up[i], d = dout[i];
        float e = expf(-fabsf(g));
        float small = e / (1.0f + e), large = 1.0f / (1.0f + e);
        float s = g < 0 ? small : large, rest = g < 0 ? large : small;
        float silu = (g < 0 ? g * e : g) / (1.0f + e);
        dgate[i] = d * u * (s + silu * rest);
        dup[i] = d * silu;
    }
}

static float dot(int64_t n, const float *x, const float *y) {
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

static void axpy(int64_t n, float scale, const float *x, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] += scale * x[i];
}

/* Softmax of scale * x, in place. */
static void softmax(int64_t n, float scale, float *x) {
    double sum = 0;
    float most = -INFINITY;
    for (int64_t i = 0; i < n; i++) most = fmaxf(most, x[i] *= scale);
    for (int64_t i = 0; i < n; i++) sum += (double)(x[i] = expf(x[i] - most));
    for (int64_t i = 0; i < n; i++) x[i] *= (float)(1.0 / sum);
}

/* Query i against the keys `from` to `from + n`; the formulas are in attend_backward.c. */
static void attend_query_backward(const lr__attend_backward_task *task, int64_t i, int64_t from,
                                  int64_t n) {
    const lr__attend_task *of = &task->of;
    const float *q = of->q + i * of->ldq, *dout = task->dout + i * of->ldo;
    const float *keys = of->keys + from * of->ldk, *values = of->values + from * of->ldv;
    float *p = of->scratch, *dp = of->scratch + n, *dq = task->dq + i * of->ldq;
    for (int64_t j = 0; j < n; j++) {
        p[j] = dot(of->dim, q, keys + j * of->ldk);
        dp[j] = dot(of->dim, dout, values + j * of->ldv);
    }
    softmax(n, of->scale, p);
    float mean = dot(n, p, dp);
    for (int64_t d = 0; d < of->dim; d++) dq[d] = 0;
    for (int64_t j = 0; j < n; j++) {
        float ds = of->scale * p[j] * (dp[j] - mean);
        axpy(of->dim, ds, keys + j * of->ldk, dq);
        axpy(of->dim, ds, q, task->dkeys + (from + j) * of->ldk);
        axpy(of->dim, p[j], dout, task->dvalues + (from + j) * of->ldv);
    }
}

void lr__attend_backward_c(const lr__attend_backward_task *task) {
    for (int64_t i = 0; i < task->of.queries; i++) {
        int64_t seen = task->of.first + i + 1;
        int64_t n = task->window && seen > task->window ? task->window : seen;
        attend_query_backward(task, i, seen - n, n);
    }
}
