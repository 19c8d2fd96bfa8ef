/*
 * Counting derivatives: dL/dW of a window is one product dY' X, made a few rows of W at a time and
 * reduced at once, so that no second matrix of the size of W exists. Products are binary32, as in
 * the backward pass itself; what is summed over windows and tokens is binary64.
 */
#include "compress/slopes.h"

#include "backend/blas.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

enum { ROWS = 64, EDGE = 8 }; /* rows of W at a time; an eighth of a window at either end */

static const double clip_least = 0.1, clip_most = 10;

lr_status lr__slopes_new(lr__slopes *s, int64_t out, int64_t in) {
    lr_status status = LR_OK;
    *s = (lr__slopes){.in = in};
    LR_TRY(lr__new(&s->fisher_in, (size_t)in, sizeof(double)));
    LR_TRY(lr__new(&s->fisher_out, (size_t)out, sizeof(double)));
    LR_TRY(lr__new(&s->importance_in, (size_t)in, sizeof(double)));
    LR_TRY(lr__new(&s->importance_out, (size_t)out, sizeof(double)));
    LR_TRY(lr__moments_new(&s->outputs, out, 0));
    return LR_OK;
done:
    lr__slopes_clear(s);
    return status;
}

void lr__slopes_clear(lr__slopes *s) {
    lr__free(s->fisher_in);
    lr__free(s->fisher_out);
    lr__free(s->importance_in);
    lr__free(s->importance_out);
    lr__moments_clear(&s->outputs);
    memset(s, 0, sizeof *s);
}

/* ---- derivatives by the weight ---- */

/* One window. */
typedef struct product {
    lr__slopes *slopes;
    const lr_linear *linear;
    const float *x, *dy;
    float *scratch; /* [threads][2][ROWS, in] */
    double *sums;   /* [items][2][in]: over the rows of an item, of F and I */
    int64_t tokens;
    double weight;
} product;

static void reduce_rows(const product *p, int64_t first, int64_t rows, const float *gradient,
                        const float *weight, double *sums) {
    int64_t in = p->linear->in;
    double *fisher = sums, *importance = sums + in;
    memset(sums, 0, (size_t)(2 * in) * sizeof *sums);
    for (int64_t i = 0; i < rows; i++) {
        double of_row = 0, weighted = 0;
        for (int64_t j = 0; j < in; j++) {
            double slope = (double)gradient[i * in + j], w = (double)weight[i * in + j];
            double square = slope * slope, share = square * w * w;
            of_row += square;
            weighted += share;
            fisher[j] += square;
            importance[j] += share;
        }
        p->slopes->fisher_out[first + i] += p->weight * of_row;
        p->slopes->importance_out[first + i] += p->weight * weighted;
    }
}

static void product_item(void *work, int64_t index, int32_t thread) {
    const product *p = work;
    int64_t in = p->linear->in, out = p->linear->out, first = index * ROWS;
    int64_t rows = out - first < ROWS ? out - first : ROWS;
    float *gradient = p->scratch + (int64_t)thread * 2 * ROWS * in, *weight = gradient + ROWS * in;
    /* of the mean loss: the last token has no next one */
    float share = (float)(1 / (double)(p->tokens - 1));
    lr__linear_dense_rows(p->linear, first, rows, weight);
    lr__blas_call_begin();
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)rows, (int)in, (int)p->tokens, share,
                p->dy + first, (int)out, p->x, (int)in, 0, gradient, (int)in);
    lr__blas_call_end();
    reduce_rows(p, first, rows, gradient, weight, p->sums + index * 2 * in);
}

static lr_status count_weight(product *p, lr__arena *arena) {
    lr_status status = LR_OK;
    const lr__device *device = &p->linear->ctx->device;
    int64_t in = p->linear->in, items = (p->linear->out + ROWS - 1) / ROWS;
    int64_t threads = lr__pool_threads(device->pool);
    LR_TRY(lr__arena_take(arena, &p->scratch, (size_t)(threads * 2 * ROWS * in), sizeof(float)));
    LR_TRY(lr__arena_take(arena, &p->sums, (size_t)(items * 2 * in), sizeof(double)));
    lr__blas_enter();
    lr__pool_run(device->pool, items, product_item, p);
    lr__blas_leave();
    for (int64_t i = 0; i < items; i++)
        for (int64_t j = 0; j < in; j++) {
            p->slopes->fisher_in[j] += p->weight * p->sums[i * 2 * in + j];
            p->slopes->importance_in[j] += p->weight * p->sums[(i * 2 + 1) * in + j];
        }
done:
    return status;
}

/* ---- derivatives by the outputs ---- */

static double length_of(const float *row, int64_t count) {
    double square = 0;
    for (int64_t i = 0; i < count; i++) square += (double)row[i] * (double)row[i];
    return sqrt(square);
}

/* rows [tokens, out] = dy with each length clipped against their mean. */
static void clip_rows(float *rows, const float *dy, int64_t tokens, int64_t out, double *lengths) {
    double mean = 0;
    for (int64_t t = 0; t < tokens; t++) {
        lengths[t] = length_of(dy + t * out, out);
        mean += lengths[t] / (double)tokens;
    }
    for (int64_t t = 0; t < tokens; t++) {
        double wanted = fmin(fmax(lengths[t], clip_least * mean), clip_most * mean);
        double share = lengths[t] > 0 ? wanted / lengths[t] : 0;
        for (int64_t i = 0; i < out; i++)
            rows[t * out + i] = (float)(share * (double)dy[t * out + i]);
    }
}

static lr_status count_outputs(const product *p, lr__arena *arena) {
    lr_status status = LR_OK;
    int64_t out = p->linear->out, edge = p->tokens / EDGE, kept = p->tokens - 2 * edge;
    float *rows;
    double *lengths;
    LR_TRY(lr__arena_take(arena, &rows, (size_t)(kept * out), sizeof *rows));
    LR_TRY(lr__arena_take(arena, &lengths, (size_t)kept, sizeof *lengths));
    clip_rows(rows, p->dy + edge * out, kept, out, lengths);
    status = lr__moments_count(&p->slopes->outputs, &p->linear->ctx->device, arena, rows, kept,
                               p->weight / (double)kept);
done:
    return status;
}

/* ---- both ---- */

/* Every element of the window's dL/dW is in one of these sums, and every derivative kept in G. */
static lr_status check_finite(const lr__slopes *s, const lr_linear *linear) {
    for (int64_t i = 0; i < linear->out; i++)
        if (!isfinite(s->fisher_out[i]) || !isfinite(s->importance_out[i]) ||
            !isfinite(s->outputs.absolute[i]))
            return lr__fail(LR_E_NUMERIC, "%s: derivative by output %lld is not finite",
                            linear->name, (long long)i);
    return LR_OK;
}

lr_status lr__slopes_count(lr__slopes *s, const lr_linear *linear, lr__arena *arena,
                           const lr__slope_rows *rows) {
    lr_status status = LR_OK;
    lr__arena_mark mark = lr__arena_here(arena);
    for (int64_t w = 0; w < rows->windows; w++) {
        int64_t at = w * rows->window;
        product p = {.slopes = s,
                     .linear = linear,
                     .x = rows->x + at * linear->in,
                     .dy = rows->dy + at * linear->out,
                     .tokens = rows->window,
                     .weight = rows->weight};
        LR_TRY(count_weight(&p, arena));
        LR_TRY(count_outputs(&p, arena));
        lr__arena_release(arena, mark);
    }
    s->windows += rows->windows;
    s->weight += rows->weight * (double)rows->windows;
    status = check_finite(s, linear);
done:
    lr__arena_release(arena, mark);
    return status;
}

static void add_sums(double *to, const double *from, int64_t count, double scale) {
    for (int64_t i = 0; i < count; i++) to[i] += scale * from[i];
}

lr_status lr__slopes_add(lr__slopes *to, const lr__slopes *from, const lr__device *device,
                         lr__arena *arena, double weight) {
    double scale = weight / from->weight;
    int64_t out = to->outputs.size, in = to->in;
    lr_status status = lr__moments_add(&to->outputs, &from->outputs, device, arena, weight);
    if (status < 0) return status;
    add_sums(to->fisher_in, from->fisher_in, in, scale);
    add_sums(to->fisher_out, from->fisher_out, out, scale);
    add_sums(to->importance_in, from->importance_in, in, scale);
    add_sums(to->importance_out, from->importance_out, out, scale);
    to->windows += from->windows;
    to->weight += weight;
    return LR_OK;
}
