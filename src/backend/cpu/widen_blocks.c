/*
 * Block types of GGUF (ggml, docs/gguf.md; layouts of ggml-common.h): a block is widened whole and
 * as much of it copied as is wanted. All are a level times a scale, some less a minimum.
 */
#include "backend/cpu/plain.h"

#include "tensor/dtype.h"

#include <string.h>

enum { SMALL = 32, SUPER = 256 };

static float half_at(const unsigned char *from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    return lr__half_widen(half);
}

static uint32_t bits_at(const unsigned char *from) {
    uint32_t bits;
    memcpy(&bits, from, sizeof bits);
    return bits;
}

/* Nibble `i` of 32: the low ones first. */
static uint32_t nibble(const unsigned char *bytes, int i) {
    return i < 16 ? bytes[i] & 15u : (uint32_t)bytes[i - 16] >> 4;
}

static void widen_q4_0(const unsigned char *block, float *dst) {
    float scale = half_at(block);
    for (int i = 0; i < SMALL; i++) dst[i] = scale * (float)((int)nibble(block + 2, i) - 8);
}

static void widen_q5_0(const unsigned char *block, float *dst) {
    float scale = half_at(block);
    uint32_t high = bits_at(block + 2);
    for (int i = 0; i < SMALL; i++) {
        uint32_t level = nibble(block + 6, i) | (high >> i & 1u) << 4;
        dst[i] = scale * (float)((int)level - 16);
    }
}

static void widen_q5_1(const unsigned char *block, float *dst) {
    float scale = half_at(block), least = half_at(block + 2);
    uint32_t high = bits_at(block + 4);
    for (int i = 0; i < SMALL; i++) {
        uint32_t level = nibble(block + 8, i) | (high >> i & 1u) << 4;
        dst[i] = scale * (float)level + least;
    }
}

/* Eight scales and eight minima of 6 bits in 12 bytes: the first four of each whole, the others in
 * a nibble and the two bits left over. */
static void unpack_scales(const unsigned char *packed, float *scales, float *minima) {
    for (int i = 0; i < 4; i++) {
        scales[i] = (float)(packed[i] & 63u);
        minima[i] = (float)(packed[i + 4] & 63u);
        scales[i + 4] = (float)((packed[i + 8] & 15u) | (uint32_t)(packed[i] >> 6) << 4);
        minima[i + 4] =
            (float)((uint32_t)(packed[i + 8] >> 4) | (uint32_t)(packed[i + 4] >> 6) << 4);
    }
}

/* `high` has the fifth bits, bit s of byte i for value i of group s; NULL for none. */
static void widen_groups(const unsigned char *block, const unsigned char *high,
                         const unsigned char *levels, float *dst) {
    float scale = half_at(block), least = half_at(block + 2), scales[8], minima[8];
    unpack_scales(block + 4, scales, minima);
    for (int group = 0; group < 8; group++) {
        float d = scale * scales[group], m = least * minima[group];
        const unsigned char *bytes = levels + group / 2 * 32;
        for (int i = 0; i < 32; i++) {
            uint32_t level = group % 2 ? (uint32_t)bytes[i] >> 4 : bytes[i] & 15u;
            if (high) level |= (high[i] >> group & 1u) << 4;
            dst[group * 32 + i] = d * (float)level - m;
        }
    }
}

static void widen_q4_k(const unsigned char *block, float *dst) {
    widen_groups(block, NULL, block + 16, dst);
}

static void widen_q5_k(const unsigned char *block, float *dst) {
    widen_groups(block, block + 16, block + 48, dst);
}

/* Two halves of 128: 64 bytes of low nibbles, 32 of high pairs of bits, 8 scales each. */
static void widen_q6_k(const unsigned char *block, float *dst) {
    float scale = half_at(block + 208);
    for (int half = 0; half < 2; half++) {
        const unsigned char *low = block + half * 64, *high = block + 128 + half * 32;
        const signed char *scales = (const signed char *)block + 192 + half * 8;
        for (int i = 0; i < 128; i++) {
            int quarter = i / 32, at = i % 32;
            unsigned char byte = low[at + quarter % 2 * 32];
            uint32_t level = quarter < 2 ? byte & 15u : (uint32_t)byte >> 4;
            level |= (high[at] >> 2 * quarter & 3u) << 4;
            float d = scale * (float)scales[at / 16 + 2 * quarter];
            dst[half * 128 + i] = d * (float)((int)level - 32);
        }
    }
}

void lr__widen_blocks(int32_t dtype, const unsigned char *block, size_t n, float *dst) {
    float values[SUPER];
    size_t size = (size_t)lr__dtype_block(dtype);
    while (n) {
        switch (dtype) {
        case LR_Q4_0: widen_q4_0(block, values); break;
        case LR_Q5_0: widen_q5_0(block, values); break;
        case LR_Q5_1: widen_q5_1(block, values); break;
        case LR_Q4_K: widen_q4_k(block, values); break;
        case LR_Q5_K: widen_q5_k(block, values); break;
        case LR_Q6_K: widen_q6_k(block, values); break;
        default: return;
        }
        size_t here = n < size ? n : size;
        memcpy(dst, values, here * sizeof *dst);
        block += lr__dtype_bytes(dtype, (int64_t)size);
        dst += here;
        n -= here;
    }
}
