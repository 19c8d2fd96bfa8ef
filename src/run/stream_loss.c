/* Losses of one row of a stream, in binary64. */
#include "run/stream_loss.h"

#include <lowrank/refine.h>

#include <float.h>
#include <math.h>

typedef struct row {
    int64_t width;
    const float *y, *target;
    double scale;
    float *slope; /* NULL: not wanted */
} row;

/* weight times |y - t|^2 */
static double squares(const row *r, double weight) {
    double sum = 0;
    for (int64_t i = 0; i < r->width; i++) {
        double off = (double)r->y[i] - (double)r->target[i];
        sum += off * off;
        if (r->slope) r->slope[i] = (float)(2 * r->scale * weight * off);
    }
    return weight * sum;
}

/* Nothing is relative to a row of zeros. */
static double relative(const row *r) {
    double energy = 0;
    for (int64_t i = 0; i < r->width; i++) energy += (double)r->target[i] * (double)r->target[i];
    return squares(r, energy > (double)FLT_MIN ? 1 / energy : 0);
}

static double cosine(const row *r) {
    double yy = DBL_MIN, tt = DBL_MIN, yt = 0, away = 0, each = 1 / (double)r->width;
    for (int64_t i = 0; i < r->width; i++) {
        double y = (double)r->y[i], t = (double)r->target[i];
        yy += y * y;
        tt += t * t;
        yt += y * t;
        away += fabs(y - t) * each;
    }
    double norms = sqrt(yy) * sqrt(tt), c = yt / norms, pull = -1 / (1 + exp(c));
    for (int64_t i = 0; r->slope && i < r->width; i++) {
        double y = (double)r->y[i], t = (double)r->target[i];
        double sign = (y > t) - (y < t);
        r->slope[i] = (float)(r->scale * (each * sign + pull * (t / norms - c * y / yy)));
    }
    return away + log1p(exp(-c));
}

double lr__stream_loss(int32_t kind, int64_t rows, int64_t width, const float *y,
                       const float *target, double scale, float *slope) {
    double sum = 0;
    for (int64_t t = 0; t < rows; t++) {
        int64_t at = t * width;
        row r = {width, y + at, target + at, scale, slope ? slope + at : NULL};
        sum += kind == LR_STREAM_SQUARES  ? squares(&r, 1 / (double)width)
               : kind == LR_STREAM_COSINE ? cosine(&r)
                                          : relative(&r);
    }
    return sum;
}

lr_status lr__stream_check(const lr_model *model, const lr_model *teacher) {
    const lr__config *ours = &model->origin->config, *its = &teacher->origin->config;
    if (ours->hidden_size == its->hidden_size && ours->layers == its->layers) return LR_OK;
    return lr__fail(LR_E_SHAPE,
                    "hidden states of a teacher of %d blocks and width %d for a model of %d blocks "
                    "and width %d",
                    its->layers, its->hidden_size, ours->layers, ours->hidden_size);
}
