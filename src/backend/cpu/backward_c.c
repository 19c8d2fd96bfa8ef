/* Derivatives of the kernels on single rows, in plain C. */
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
