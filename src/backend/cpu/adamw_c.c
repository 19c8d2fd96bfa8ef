/* AdamW in plain C. */
#include "backend/cpu/plain.h"

#include <float.h>
#include <math.h>

int lr__adamw_c(const lr__adamw_task *t) {
    int is_finite = 1;
    for (int64_t i = 0; i < t->n; i++) {
        float g = t->gradient[i] * t->scale;
        float m = t->beta1 * t->m[i] + t->fresh1 * g;
        float v = t->beta2 * t->v[i] + t->fresh2 * (g * g);
        float w = t->kept * t->w[i] - t->rate * (m / (sqrtf(v) * t->spread + t->epsilon));
        t->m[i] = m;
        t->v[i] = v;
        t->w[i] = w;
        is_finite &= fabsf(w) <= FLT_MAX && v <= FLT_MAX;
    }
    return is_finite;
}
