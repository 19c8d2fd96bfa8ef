/* The kernels in plain C: the oracle of the faster forms, and the only form on other processors.
 * Sums over k and over squares run in LANES interleaved partial sums joined by a fixed tree, so
 * compilers may use vectors of their own without changing a bit. */
#include "backend/cpu/plain.h"

#include "tensor/dtype.h"

#include <math.h>
#include <string.h>

enum { LANES = 8 };

static float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static uint16_t load_u16(const void *from) {
    uint16_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* As the F16C instruction: signalling NaN becomes quiet. */
float lr__half_widen(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 31u;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 31)
        return float_from_bits(sign | 0x7f800000u | (fraction ? 0x400000u : 0) | fraction << 13);
    if (exponent == 0) {
        float magnitude = (float)fraction * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return float_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

/* `value` without its last `shift` bits, rounded to nearest, ties to even; shift is 1 to 31. */
static uint32_t round_shift(uint32_t value, uint32_t shift) {
    uint32_t half = 1u << (shift - 1);
    return (value + half - 1 + (value >> shift & 1u)) >> shift;
}

uint16_t lr__half_narrow(float value) {
    uint32_t bits = bits_of_float(value);
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t result;
    if (magnitude > 0x7f800000u) {
        result = 0x7e00u | (magnitude >> 13 & 0x3ffu);
    } else if (magnitude >= 0x477ff000u) { /* 65520, midway between the largest half and 2^16 */
        result = 0x7c00u;
    } else if (magnitude >= 0x38800000u) { /* 2^-14, the least normal half */
        result = round_shift(magnitude - 0x38000000u, 13);
    } else if (magnitude >= 0x33000000u) { /* 2^-25, half the least half */
        uint32_t fraction = (magnitude & 0x7fffffu) | 0x800000u;
        result = round_shift(fraction, 126 - (magnitude >> 23));
    } else {
        result = 0;
    }
    return (uint16_t)(sign | result);
}

static uint16_t bf16_narrow(float value) {
    uint32_t bits = bits_of_float(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static void widen_q8_0(const unsigned char *block, size_t n, float *dst) {
    for (; n; block += LR__Q8_0_BYTES) {
        size_t here = n < LR__BLOCK ? n : LR__BLOCK;
        float scale = lr__half_widen(load_u16(block));
        for (size_t i = 0; i < here; i++) dst[i] = scale * (float)(signed char)block[2 + i];
        dst += here;
        n -= here;
    }
}

static void widen_q4_1(const unsigned char *block, size_t n, float *dst) {
    for (; n; block += LR__Q4_1_BYTES) {
        size_t here = n < LR__BLOCK ? n : LR__BLOCK;
        float scale = lr__half_widen(load_u16(block));
        float least = lr__half_widen(load_u16(block + 2));
        for (size_t i = 0; i < here; i++) {
            unsigned byte = block[4 + i % 16];
            float level = (float)(i < 16 ? byte & 15u : byte >> 4);
            dst[i] = scale * level + least;
        }
        dst += here;
        n -= here;
    }
}

void lr__widen_c(int32_t dtype, const void *src, size_t n, float *dst) {
    const unsigned char *bytes = src;
    switch (dtype) {
    case LR_F32:
        if (n) memmove(dst, src, n * sizeof *dst);
        break;
    case LR_F16:
        for (size_t i = 0; i < n; i++) dst[i] = lr__half_widen(load_u16(bytes + 2 * i));
        break;
    case LR_BF16:
        for (size_t i = 0; i < n; i++)
            dst[i] = float_from_bits((uint32_t)load_u16(bytes + 2 * i) << 16);
        break;
    case LR_F64:
        for (size_t i = 0; i < n; i++) {
            double value;
            memcpy(&value, bytes + 8 * i, sizeof value);
            dst[i] = (float)value;
        }
        break;
    case LR_Q8_0: widen_q8_0(bytes, n, dst); break;
    case LR_Q4_1: widen_q4_1(bytes, n, dst); break;
    default: lr__widen_blocks(dtype, bytes, n, dst); break;
    }
}

void lr__narrow_c(int32_t dtype, const float *src, size_t n, void *dst) {
    unsigned char *bytes = dst;
    if (dtype == LR_F32 && n) memmove(dst, src, n * sizeof *src);
    if (dtype != LR_F16 && dtype != LR_BF16) return;
    for (size_t i = 0; i < n; i++) {
        uint16_t value = dtype == LR_F16 ? lr__half_narrow(src[i]) : bf16_narrow(src[i]);
        memcpy(bytes + 2 * i, &value, sizeof value);
    }
}

static float join(const float lane[LANES]) {
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static float dot(int64_t k, const float *x, const float *w) {
    float lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= k; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += x[i + j] * w[i + j];
    for (int j = 0; i + j < k; j++) lane[j] += x[i + j] * w[i + j];
    return join(lane);
}

static void dot_tile(int64_t rows, int64_t outs, int64_t k, const float *x, int64_t ldx,
                     const float *w, int64_t ldw, float *y, int64_t ldy) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < outs; o++) y[r * ldy + o] = dot(k, x + r * ldx, w + o * ldw);
}

/* Numbers i .. i + n - 1 of a stored row, i a multiple of 32. */
static void widen_piece(const lr__stored_task *task, int64_t at, int64_t i, int64_t n, float *w) {
    const unsigned char *row = (const unsigned char *)task->w + at * task->row_bytes;
    if (task->dtype != LR_I8) {
        lr__widen_c(task->dtype, row + lr__dtype_bytes(task->dtype, i), (size_t)n, w);
        return;
    }
    const unsigned char *scales = (const unsigned char *)task->scales + at * task->scale_bytes;
    float scale = lr__half_widen(load_u16(scales + i / LR__BLOCK * 2));
    for (int64_t j = 0; j < n; j++) w[j] = scale * (float)(signed char)row[i + j];
}

static void dot_stored(const lr__stored_task *task) {
    for (int64_t o = 0; o < task->outs; o++) {
        float lane[LANES] = {0}, w[LR__BLOCK];
        for (int64_t i = 0; i < task->k; i += LR__BLOCK) {
            int64_t n = task->k - i < LR__BLOCK ? task->k - i : LR__BLOCK;
            widen_piece(task, task->take ? task->take[o] : o, i, n, w);
            for (int64_t j = 0; j < n; j++) lane[j % LANES] += task->x[i + j] * w[j];
        }
        task->y[o] = join(lane);
    }
}

enum { PANEL = 16 };

static void multiply_panels(const lr__panel_task *task) {
    for (int64_t r = 0; r < task->rows; r++)
        for (int64_t c = 0; c < task->cols; c++) {
            const float *x = task->x + r * task->ldx;
            const float *w = task->panels + c / PANEL * PANEL * task->depth + c % PANEL;
            float *y = task->y + r * task->ldy + c;
            float sum = task->add ? *y : 0;
            for (int64_t i = 0; i < task->depth; i++) sum += x[i] * w[i * PANEL];
            *y = sum;
        }
}

static void pack(int64_t cols, int64_t depth, const float *w, int64_t ldw, float *panels) {
    for (int64_t c = 0; c < cols; c++)
        for (int64_t i = 0; i < depth; i++)
            panels[c / PANEL * PANEL * depth + i * PANEL + c % PANEL] = w[c * ldw + i];
}

static void transpose(int64_t rows, int64_t cols, const float *src, int64_t lds, float *dst,
                      int64_t ldd) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) dst[c * ldd + r] = src[r * lds + c];
}

static void rmsnorm(int64_t n, const float *x, const float *weight, float epsilon, float *y) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    float factor = (float)(1.0 / sqrt(sum / (double)n + (double)epsilon));
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * factor * weight[i];
}

static void rope(int64_t n, const float *cosine, const float *sine, float *x) {
    int64_t half = n / 2;
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* g / (1 + e^-g) by e = e^-|g|, which cannot overflow. */
static void swiglu(int64_t n, const float *gate, const float *up, float *out) {
    for (int64_t i = 0; i < n; i++) {
        float g = gate[i];
        float e = expf(-fabsf(g));
        float silu = (g < 0 ? g * e : g) / (1.0f + e);
        out[i] = silu * up[i];
    }
}

static void axpy(int64_t n, float scale, const float *x, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] += scale * x[i];
}

static void scale_to(int64_t n, float scale, const float *x, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = scale * x[i];
}

static void multiply(int64_t n, const float *x, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] *= x[i];
}

static float max_of(int64_t n, const float *x) {
    float most = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i])) return NAN;
        if (x[i] > most) most = x[i];
    }
    return most;
}

static double exp_sum(int64_t n, const float *x, float shift, float *y) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        float argument = x[i] - shift;
        y[i] = argument < -104.0f ? 0.0f : expf(argument);
        sum += (double)y[i];
    }
    return sum;
}

static void attend(int64_t count, int64_t dim, const float *q, const float *keys, int64_t ldk,
                   const float *values, int64_t ldv, float scale, float *scores, float *out) {
    dot_tile(1, count, dim, q, dim, keys, ldk, scores, count);
    scale_to(count, scale, scores, scores);
    double sum = exp_sum(count, scores, max_of(count, scores), scores);
    for (int64_t d = 0; d < dim; d++) out[d] = 0;
    for (int64_t j = 0; j < count; j++) axpy(dim, scores[j], values + j * ldv, out);
    scale_to(dim, (float)(1.0 / sum), out, out);
}

static void attend_block(const lr__attend_task *task) {
    for (int64_t i = 0; i < task->queries; i++)
        attend(task->first + i + 1, task->dim, task->q + i * task->ldq, task->keys, task->ldk,
               task->values, task->ldv, task->scale, task->scratch, task->out + i * task->ldo);
}

void lr__kernels_fill_c(lr__kernels *table) {
    *table = (lr__kernels){.name = "c",
                           .widen = lr__widen_c,
                           .narrow = lr__narrow_c,
                           .dot_tile = dot_tile,
                           .dot_stored = dot_stored,
                           .multiply_panels = multiply_panels,
                           .pack = pack,
                           .panel_columns = PANEL,
                           .transpose = transpose,
                           .rmsnorm = rmsnorm,
                           .rmsnorm_backward = lr__rmsnorm_backward_c,
                           .rope = rope,
                           .swiglu = swiglu,
                           .swiglu_backward = lr__swiglu_backward_c,
                           .adamw = lr__adamw_c,
                           .sgd = lr__sgd_c,
                           .squares = lr__squares_c,
                           .axpy = axpy,
                           .scale = scale_to,
                           .multiply = multiply,
                           .max = max_of,
                           .exp_sum = exp_sum,
                           .attend = attend,
                           .attend_block = attend_block,
                           .attend_backward = lr__attend_backward_c};
}
