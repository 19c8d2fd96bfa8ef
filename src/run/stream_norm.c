#include "run/stream_norm.h"

#include "compress/slopes.h"
#include "run/batches.h"
#include "run/lessons.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

/* ---- counting ---- */

typedef struct counting {
    const lr_model *model;
    int64_t width, window;
    int32_t layers, rows;
    lr__moments *moments; /* of each block */
    double *lengths;      /* [layers][tokens of a pass] */
    int64_t room;         /* tokens of a pass */
    lr__arena arena;
} counting;

static double length_of(const float *row, int64_t count) {
    double square = 0;
    for (int64_t i = 0; i < count; i++) square += (double)row[i] * (double)row[i];
    return sqrt(square);
}

static lr_status measure(const lr_hook_event *event, void *user) {
    const counting *c = user;
    const float *stream = event->output.data;
    for (int64_t t = 0; t < event->output.shape[0]; t++)
        c->lengths[event->layer * c->room + t] = length_of(stream + t * c->width, c->width);
    return LR_OK;
}

static lr_status count(const lr_hook_event *event, void *user) {
    counting *c = user;
    lr__arena_mark mark = lr__arena_here(&c->arena);
    lr_status status = LR_OK;
    int64_t numbers = c->window * c->width;
    const float *slopes = event->output.data;
    const double *lengths = c->lengths + event->layer * c->room;
    float *relative;
    LR_TRY(lr__arena_take(&c->arena, &relative, (size_t)numbers, sizeof *relative));
    for (int64_t w = 0; w < c->rows; w++) {
        for (int64_t i = 0; i < numbers; i++)
            relative[i] =
                (float)(lengths[w * c->window + i / c->width] * (double)slopes[w * numbers + i]);
        LR_TRY(lr__slopes_count_outputs(&c->moments[event->layer], &c->model->ctx->device,
                                        &c->arena, relative, c->window, 1));
    }
done:
    lr__arena_release(&c->arena, mark);
    return status;
}

static lr_status watch(counting *c, lr_hooks *hooks) {
    lr_status status = LR_OK;
    char name[40];
    for (int32_t i = 0; i < c->layers; i++) {
        snprintf(name, sizeof name, "model.layers.%d", i);
        LR_TRY(lr_hook_add(hooks, name, LR_AFTER_FORWARD, measure, c, NULL));
        LR_TRY(lr_hook_add(hooks, name, LR_BEFORE_BACKWARD, count, c, NULL));
    }
done:
    return status;
}

static lr_status read_norms(const counting *c, float *norms) {
    lr_status status = LR_OK;
    int64_t numbers = c->width * c->width;
    double *gram = NULL;
    LR_TRY(lr__new_aligned(&gram, (size_t)numbers, sizeof *gram));
    for (int32_t layer = 0; layer < c->layers; layer++) {
        LR_TRY(lr__slopes_read_outputs(&c->moments[layer], lr__output_shrinkage, gram));
        for (int64_t i = 0; i < numbers; i++) {
            LR_FAIL_IF(!isfinite(gram[i]), LR_E_NUMERIC,
                       "model.layers.%d: the moments of the derivatives are not finite", layer);
            norms[layer * numbers + i] = (float)gram[i];
        }
    }
done:
    lr__aligned_free(gram);
    return status;
}

static void clear(counting *c) {
    for (int32_t i = 0; c->moments && i < c->layers; i++) lr__moments_clear(&c->moments[i]);
    lr__free(c->moments);
    lr__free(c->lengths);
    lr__arena_clear(&c->arena);
}

lr_status lr__stream_norms(float **out, const lr_model *model, const int32_t *ids, int64_t windows,
                           int32_t window) {
    const lr__config *config = &model->origin->config;
    lr_status status = LR_OK;
    lr_hooks *hooks = NULL;
    float *norms = NULL;
    counting c = {.model = model,
                  .width = config->hidden_size,
                  .window = window,
                  .layers = config->layers,
                  .room = (int64_t)lr__windows_of_lesson(window) * window};
    size_t layers = (size_t)c.layers;
    LR_TRY(lr__new(&c.moments, layers, sizeof *c.moments));
    for (size_t i = 0; i < layers; i++) LR_TRY(lr__moments_new(&c.moments[i], c.width, 0));
    LR_TRY(lr__new(&c.lengths, layers * (size_t)c.room, sizeof *c.lengths));
    LR_TRY(lr__new_aligned(&norms, layers * (size_t)(c.width * c.width), sizeof *norms));
    LR_TRY(lr_hooks_new(&hooks));
    LR_TRY(watch(&c, hooks));
    LR_TRY(lr__lessons_run(model, hooks, 0, ids, windows, window, &c.rows));
    LR_TRY(read_norms(&c, norms));
    *out = norms;
    norms = NULL;
done:
    lr_hooks_free(hooks);
    lr__aligned_free(norms);
    clear(&c);
    return status;
}

/* ---- the loss ---- */

/* Nothing is relative to a row of zeros. */
static double inverse_length(const float *row, int64_t width) {
    double length = length_of(row, width);
    return length * length > (double)FLT_MIN ? 1 / length : 0;
}

/* Of one row, e and the product of e and the norm, which becomes the slope. */
static double finish_row(const float *e, const float *product, int64_t width, double share,
                         float *slope) {
    double sum = 0;
    for (int64_t i = 0; i < width; i++) sum += (double)e[i] * (double)product[i];
    for (int64_t i = 0; slope && i < width; i++) slope[i] = (float)(share * (double)product[i]);
    return sum / 2;
}

lr_status lr__stream_fisher(const lr__device *device, lr__arena *arena, const float *norm,
                            int64_t rows, int64_t width, const float *y, const float *target,
                            double scale, float *slope, double *loss) {
    lr__arena_mark mark = lr__arena_here(arena);
    lr_status status = LR_OK;
    const lr__matrix matrix = {LR_F32, width, width, norm, NULL};
    float *e, *product;
    double *inverse;
    *loss = 0;
    LR_TRY(lr__arena_take(arena, &e, (size_t)(rows * width), sizeof *e));
    LR_TRY(lr__arena_take(arena, &product, (size_t)(rows * width), sizeof *product));
    LR_TRY(lr__arena_take(arena, &inverse, (size_t)rows, sizeof *inverse));
    for (int64_t t = 0; t < rows; t++) {
        inverse[t] = inverse_length(target + t * width, width);
        for (int64_t i = t * width; i < (t + 1) * width; i++)
            e[i] = (float)(inverse[t] * ((double)y[i] - (double)target[i]));
    }
    const lr__matmul m = {.w = &matrix,
                          .out = width,
                          .in = width,
                          .tokens = rows,
                          .x = e,
                          .ldx = width,
                          .y = product,
                          .ldy = width,
                          .scale = 1,
                          .batch = 1};
    LR_TRY(lr__matmul_run(device, arena, &m));
    for (int64_t t = 0; t < rows; t++)
        *loss += finish_row(e + t * width, product + t * width, width, scale * inverse[t],
                            slope ? slope + t * width : NULL);
done:
    lr__arena_release(arena, mark);
    return status;
}
