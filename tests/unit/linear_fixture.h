/* Chains of operators as plain arrays, evaluated in binary64 by plain loops, and the same chains
 * built from the library's parameters in every stored type. */
#ifndef TESTS_LINEAR_FIXTURE_H
#define TESTS_LINEAR_FIXTURE_H

#include "nn/linear.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static lr_ctx *fixture_ctx;

static inline void fixture_make(void) {
    lr_ctx_opts opts;
    lr_ctx_opts_init(&opts, sizeof opts);
    opts.threads = 3;
    ck_assert_int_ge(lr_ctx_new(&fixture_ctx, &opts), 0);
}

static inline void fixture_drop(void) {
    lr_ctx_free(fixture_ctx);
    fixture_ctx = NULL;
}

static inline uint32_t fixture_bits(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(state >> 33);
}

/* In [-1, 1), a multiple of 2^-12. */
static inline float fixture_number(void) {
    return (float)((int32_t)(fixture_bits() % 8192) - 4096) / 4096;
}

static inline float *fixture_numbers(int64_t count) {
    float *x = malloc((size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++) x[i] = fixture_number();
    return x;
}

/* What the oracle sees of an operator: its numbers, and how far its axes reach. */
typedef struct plain_op {
    int32_t kind;
    int64_t out, in;
    float *w;     /* MATRIX [out, in], DIAGONAL [out] */
    int32_t *map; /* GATHER [out], SCATTER [in] */
    int64_t out_extent, in_extent;
} plain_op;

static inline void oracle_op(const plain_op *op, const double *x, double *y) {
    int64_t outs = op->out_extent ? op->out_extent : op->out;
    int64_t ins = op->in_extent ? op->in_extent : op->in;
    for (int64_t o = 0; o < op->out; o++) y[o] = 0;
    for (int64_t o = 0; o < outs; o++) switch (op->kind) {
        case LR__OP_MATRIX:
            for (int64_t i = 0; i < ins; i++) y[o] += (double)op->w[o * op->in + i] * x[i];
            break;
        case LR__OP_DIAGONAL: y[o] = (double)op->w[o] * x[o]; break;
        case LR__OP_GATHER: y[o] = x[op->map[o]]; break;
        default: break;
        }
    if (op->kind == LR__OP_SCATTER)
        for (int64_t i = 0; i < ins; i++) y[op->map[i]] = x[i];
}

/* y += scale * ops[0] * ... * ops[count - 1] * x for one row. */
static inline void oracle_chain(const plain_op *ops, int32_t count, double scale, const float *x,
                                double *y) {
    double *from = malloc((size_t)ops[count - 1].in * sizeof *from);
    for (int64_t i = 0; i < ops[count - 1].in; i++) from[i] = x[i];
    for (int32_t i = count - 1; i >= 0; i--) {
        double *to = malloc((size_t)ops[i].out * sizeof *to);
        oracle_op(&ops[i], from, to);
        free(from);
        from = to;
    }
    for (int64_t o = 0; o < ops[0].out; o++) y[o] += scale * from[o];
    free(from);
}

/* 2^-power as binary16. */
static inline uint16_t half_of_power(int power) { return (uint16_t)((15 - power) << 10); }

static inline void encode_q8(unsigned char *to, float *w) {
    uint16_t scale = half_of_power(7);
    memcpy(to, &scale, 2);
    for (int i = 0; i < 32; i++) {
        int8_t level = (int8_t)(fixture_bits() % 255 - 127);
        to[2 + i] = (unsigned char)level;
        w[i] = (float)level / 128;
    }
}

static inline void encode_q4_1(unsigned char *to, float *w) {
    uint16_t halves[2] = {half_of_power(3), half_of_power(1)};
    memcpy(to, halves, 4);
    for (int i = 0; i < 16; i++) {
        to[4 + i] = (unsigned char)fixture_bits();
        w[i] = (float)(to[4 + i] & 15) / 8 + 0.5f;
        w[i + 16] = (float)(to[4 + i] >> 4) / 8 + 0.5f;
    }
}

/* Random numbers of a stored type; `w` receives what they mean. */
static inline void *encode(int32_t dtype, int64_t rows, int64_t cols, float *w, void **scales) {
    size_t count = (size_t)(rows * cols), blocks = (size_t)((cols + 31) / 32);
    unsigned char *data = aligned_alloc(64, (count * 8 + 127) / 64 * 64);
    *scales = NULL;
    if (dtype == LR_I8) *scales = malloc((size_t)rows * blocks * 2);
    for (size_t i = 0; i < count; i++) {
        w[i] = fixture_number();
        double wide = w[i];
        uint32_t bits;
        memcpy(&bits, &w[i], 4);
        if (dtype == LR_F32) memcpy(data + 4 * i, &w[i], 4);
        if (dtype == LR_F64) memcpy(data + 8 * i, &wide, 8);
        if (dtype == LR_BF16) {
            bits &= 0xffff0000;
            memcpy(&w[i], &bits, 4);
            uint16_t upper = (uint16_t)(bits >> 16);
            memcpy(data + 2 * i, &upper, 2);
        }
        if (dtype == LR_F16) {
            static const float exact[] = {0.5f, -0.25f, 1.5f, -2.0f, 0.0f, 0.75f};
            static const uint16_t half[] = {0x3800, 0xb400, 0x3e00, 0xc000, 0, 0x3a00};
            uint32_t which = fixture_bits() % 6;
            w[i] = exact[which];
            memcpy(data + 2 * i, &half[which], 2);
        }
        if (dtype == LR_I8) {
            size_t row = i / (size_t)cols, block = i % (size_t)cols / 32;
            int power = 6 + (int)((row + block) % 3);
            int8_t level = (int8_t)(fixture_bits() % 255 - 127);
            data[i] = (unsigned char)level;
            w[i] = ldexpf((float)level, -power);
            ((uint16_t *)*scales)[row * blocks + block] = half_of_power(power);
        }
        if (dtype == LR_Q8_0 && i % 32 == 0) encode_q8(data + i / 32 * 34, w + i);
        if (dtype == LR_Q4_1 && i % 32 == 0) encode_q4_1(data + i / 32 * 20, w + i);
        if (dtype == LR_Q8_0 || dtype == LR_Q4_1) i += 31;
    }
    return data;
}

static inline lr__param *stored_param(const char *name, int32_t dtype, int64_t rows, int64_t cols,
                                      int32_t ndim, float *w) {
    lr__matrix m = {.dtype = dtype, .rows = rows, .cols = cols};
    lr__mapping *mapping;
    lr__param *param;
    void *scales, *data = encode(dtype, rows, cols, w, &scales);
    ck_assert_int_ge(lr__mapping_copy(&mapping, name, data, (size_t)(rows * cols) * 8), 0);
    m.data = mapping->data;
    ck_assert_int_ge(lr__param_mapped(&param, name, &m, ndim, mapping), 0);
    lr__mapping_drop(mapping);
    free(data);
    if (!scales) return param;
    size_t bytes = (size_t)(rows * ((cols + 31) / 32)) * 2;
    ck_assert_int_ge(lr__mapping_copy(&param->scales_mapping, name, scales, bytes), 0);
    param->matrix.scales = param->scales_mapping->data;
    free(scales);
    return param;
}

/* An operator in both forms. */
typedef struct both_op {
    plain_op plain;
    lr__op op;
} both_op;

static inline both_op make_matrix(int32_t dtype, int64_t out, int64_t in) {
    both_op b = {{.kind = LR__OP_MATRIX, .out = out, .in = in}, {.kind = LR__OP_MATRIX}};
    b.plain.w = malloc((size_t)(out * in) * sizeof(float));
    b.op.param = stored_param("w", dtype, out, in, 2, b.plain.w);
    b.op.out = out;
    b.op.in = in;
    return b;
}

static inline both_op make_diagonal(int32_t dtype, int64_t size) {
    both_op b = {{.kind = LR__OP_DIAGONAL, .out = size, .in = size}, {.kind = LR__OP_DIAGONAL}};
    b.plain.w = malloc((size_t)size * sizeof(float));
    b.op.param = stored_param("d", dtype, size, 1, 1, b.plain.w);
    b.op.out = b.op.in = size;
    return b;
}

/* `count` distinct places below `limit`, shuffled. */
static inline both_op make_map(int32_t kind, int64_t count, int64_t limit) {
    both_op b = {{.kind = kind}, {.kind = kind}};
    int32_t *all = malloc((size_t)limit * sizeof *all);
    for (int32_t i = 0; i < limit; i++) all[i] = i;
    for (int32_t i = 0; i < limit; i++) {
        int32_t j = (int32_t)(fixture_bits() % (uint32_t)limit), kept = all[i];
        all[i] = all[j];
        all[j] = kept;
    }
    b.plain.map = all;
    b.plain.out = b.op.out = kind == LR__OP_GATHER ? count : limit;
    b.plain.in = b.op.in = kind == LR__OP_GATHER ? limit : count;
    ck_assert_int_ge(lr__index_new(&b.op.index, "map", all, count, limit), 0);
    return b;
}

static inline void drop_ops(both_op *ops, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        lr__param_drop(ops[i].op.param);
        lr__index_drop(ops[i].op.index);
        lr__axis_drop(ops[i].op.in_axis);
        lr__axis_drop(ops[i].op.out_axis);
        free(ops[i].plain.w);
        free(ops[i].plain.map);
    }
}

static inline lr_linear *new_linear(const char *name, int64_t out, int64_t in) {
    lr_linear *linear;
    ck_assert_int_ge(lr__linear_new(&linear, fixture_ctx, name, out, in), 0);
    return linear;
}

static inline void add_chain(lr_linear *linear, float scale, const both_op *ops, int32_t count,
                             const void *overlay) {
    lr__op chain[8];
    for (int32_t i = 0; i < count; i++) chain[i] = ops[i].op;
    ck_assert_int_ge(lr__linear_add_term(linear, scale, chain, count, overlay), 0);
}

static inline void oracle_ops(const both_op *ops, int32_t count, double scale, const float *x,
                              double *y) {
    plain_op chain[8];
    for (int32_t i = 0; i < count; i++) chain[i] = ops[i].plain;
    oracle_chain(chain, count, scale, x, y);
}

/* Sizes are small and numbers of order one: sums of at most 100 products. */
static inline void check_close(const float *got, const double *wanted, int64_t count,
                               const char *what) {
    for (int64_t i = 0; i < count; i++)
        ck_assert_msg(fabs(got[i] - wanted[i]) <= 2e-5 * (1 + fabs(wanted[i])),
                      "%s: %lld: %.9g, expected %.9g", what, (long long)i, got[i], wanted[i]);
}

#endif
