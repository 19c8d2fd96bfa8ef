/* SGD with momentum, and the sum of squares that clipping needs, in plain C. */
#include "backend/cpu/plain.h"

#include <float.h>
#include <math.h>

int lr__sgd_c(const lr__sgd_task *t) {
    int is_finite = 1;
    for (int64_t i = 0; i < t->n; i++) {
        float g = t->scale * t->gradient[i] + t->decay * t->w[i];
        if (t->v) t->v[i] = g = t->momentum * t->v[i] + g;
        float w = t->w[i] - t->rate * g;
        t->w[i] = w;
        is_finite &= fabsf(w) <= FLT_MAX;
    }
    return is_finite;
}

double lr__squares_c(int64_t n, const float *x) {
    double lanes[LR__SQUARE_LANES] = {0};
    int64_t i = 0;
    for (; i + LR__SQUARE_LANES <= n; i += LR__SQUARE_LANES)
        for (int k = 0; k < LR__SQUARE_LANES; k++) lanes[k] += (double)x[i + k] * x[i + k];
    return lr__squares_end(n - i, x + i, lanes);
}
