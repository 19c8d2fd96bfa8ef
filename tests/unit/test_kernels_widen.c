/* Conversions: every half, every bfloat16, blocks, and rounding against an exhaustive oracle. */
#include "kernels_guard.h"

#include <lowrank/tensor.h>

/* Value of a binary16 by its definition. */
static double half_value(unsigned half) {
    int exponent = half >> 10 & 31;
    double fraction = half & 1023;
    double sign = half & 0x8000 ? -1 : 1;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

static const lr__kernels *level;

START_TEST(widens_every_half) {
    if (!(level = guard_level(_i))) return;
    uint16_t *src = guard_bytes(0, 65536 * 2);
    float *dst = guard_bytes(1, 65536 * 4);
    for (unsigned i = 0; i < 65536; i++) src[i] = (uint16_t)i;
    level->widen(LR_F16, src, 65536, dst);
    guard_check_front(dst);
    for (unsigned i = 0; i < 65536; i++) {
        float expected = (float)half_value(i);
        if (!guard_same(dst[i], expected)) ck_abort_msg("half %04x: %a", i, (double)dst[i]);
        if (isnan(expected) && (guard_bits(dst[i]) >> 31) != i >> 15)
            ck_abort_msg("half %04x lost its sign", i);
    }
}
END_TEST

START_TEST(widens_every_bfloat) {
    if (!(level = guard_level(_i))) return;
    uint16_t *src = guard_bytes(0, 65536 * 2);
    float *dst = guard_bytes(1, 65536 * 4);
    for (unsigned i = 0; i < 65536; i++) src[i] = (uint16_t)i;
    level->widen(LR_BF16, src, 65536, dst);
    for (unsigned i = 0; i < 65536; i++)
        if (guard_bits(dst[i]) != i << 16) ck_abort_msg("bf16 %04x: %a", i, (double)dst[i]);
}
END_TEST

/* Bytes that n numbers of a type take; of a block type whole blocks. */
static size_t stored_bytes(int32_t dtype, size_t n) {
    switch (dtype) {
    case LR_F16:
    case LR_BF16: return 2 * n;
    case LR_F64: return 8 * n;
    case LR_Q8_0: return (n + 31) / 32 * 34;
    case LR_Q4_1: return (n + 31) / 32 * 20;
    default: return 4 * n;
    }
}

/* Number i of a stored array, from the definition of its type. */
static float stored_value(int32_t dtype, const unsigned char *src, size_t i) {
    const unsigned char *q8 = src + i / 32 * 34, *q4 = src + i / 32 * 20;
    uint32_t word;
    double wide;
    switch (dtype) {
    case LR_F16: return (float)half_value(src[2 * i] | (unsigned)src[2 * i + 1] << 8);
    case LR_BF16: return guard_float((src[2 * i] | (uint32_t)src[2 * i + 1] << 8) << 16);
    case LR_F64: memcpy(&wide, src + 8 * i, 8); return (float)wide;
    case LR_Q8_0:
        return (float)half_value(q8[0] | (unsigned)q8[1] << 8) * (float)(int8_t)q8[2 + i % 32];
    case LR_Q4_1: {
        unsigned byte = q4[4 + i % 16];
        volatile float product = (float)half_value(q4[0] | (unsigned)q4[1] << 8) *
                                 (float)(i % 32 < 16 ? byte & 15 : byte >> 4);
        return product + (float)half_value(q4[2] | (unsigned)q4[3] << 8);
    }
    default: memcpy(&word, src + 4 * i, 4); return guard_float(word);
    }
}

static void check_widen(int32_t dtype, size_t n, size_t shift) {
    size_t bytes = stored_bytes(dtype, n);
    unsigned char *src = guard_bytes(0, bytes + shift);
    float *dst = guard_bytes(1, 4 * n);
    for (size_t i = 0; i < bytes; i++) src[i] = (unsigned char)guard_random();
    level->widen(dtype, src, n, dst);
    guard_check_front(dst);
    for (size_t i = 0; i < n; i++)
        if (!guard_same(dst[i], stored_value(dtype, src, i)))
            ck_abort_msg("%s type %d, number %zu of %zu: %a", level->name, dtype, i, n,
                         (double)dst[i]);
}

START_TEST(widens_any_length) {
    static const int32_t types[] = {LR_F32, LR_F16, LR_BF16, LR_F64, LR_Q8_0, LR_Q4_1};
    if (!(level = guard_level(_i))) return;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t n = 0; n <= 130; n++)
            for (size_t shift = 0; shift < 4; shift++) check_widen(types[t], n, shift);
}
END_TEST

/* A slice that ends inside a block needs no byte after its last number's. */
START_TEST(reads_no_more_of_a_block_than_asked) {
    if (!(level = guard_level(_i))) return;
    unsigned char *src = guard_bytes(0, 34 + 2 + 5);
    float *dst = guard_bytes(1, 4 * 37);
    memset(src, 1, 34 + 2 + 5);
    level->widen(LR_Q8_0, src, 37, dst);
    ck_assert(guard_same(dst[36], stored_value(LR_Q8_0, src, 36)));
}
END_TEST

START_TEST(ignores_unknown_types) {
    if (!(level = guard_level(_i))) return;
    float *dst = guard_bytes(1, 64), *src = guard_vector(0, 16);
    level->widen(LR_I64, src, 16, dst);
    level->narrow(LR_I64, src, 16, dst);
    for (int i = 0; i < 16; i++) ck_assert_uint_eq(guard_bits(dst[i]), 0xa5a5a5a5u);
}
END_TEST

/* Nearest half of a magnitude, ties to even, by search among all of them; 2^16 stands for
 * infinity. */
static unsigned nearest_half(double magnitude) {
    unsigned low = 0, high = 0x7c00;
    if (magnitude >= 65536.0) return 0x7c00;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (half_value(middle) <= magnitude)
            low = middle;
        else
            high = middle;
    }
    double above = (high == 0x7c00 ? 65536.0 : half_value(high)) - magnitude;
    double below = magnitude - half_value(low);
    if (above == below) return low & 1 ? high : low;
    return above < below ? high : low;
}

static unsigned nearest_bfloat(uint32_t magnitude) {
    uint32_t low = magnitude >> 16;
    double value = (double)guard_float(magnitude), below = (double)guard_float(low << 16);
    double next = low + 1 == 0x7f80 ? 0x1p128 : (double)guard_float((low + 1) << 16);
    if (next - value == value - below) return low & 1 ? low + 1 : low;
    return next - value < value - below ? low + 1 : low;
}

static unsigned expected_narrow(int32_t dtype, uint32_t bits) {
    unsigned sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude == 0x7f800000u) return sign | (dtype == LR_F16 ? 0x7c00u : 0x7f80u);
    if (dtype == LR_F16) return sign | nearest_half((double)guard_float(magnitude));
    return sign | nearest_bfloat(magnitude);
}

static int is_nan16(int32_t dtype, unsigned value) {
    return (value & 0x7fffu) > (dtype == LR_F16 ? 0x7c00u : 0x7f80u);
}

static void check_narrow(int32_t dtype, const float *src, size_t n) {
    uint16_t *dst = guard_bytes(1, 2 * n);
    level->narrow(dtype, src, n, dst);
    guard_check_front(dst);
    for (size_t i = 0; i < n; i++) {
        int right = isnan(src[i]) ? is_nan16(dtype, dst[i])
                                  : dst[i] == expected_narrow(dtype, guard_bits(src[i]));
        if (!right)
            ck_abort_msg("%s type %d: %a gave %04x", level->name, dtype, (double)src[i], dst[i]);
    }
}

/* All halves, the midpoints above them and their neighbours, with both signs. */
static size_t tricky_halves(float *out) {
    size_t n = 0;
    for (unsigned h = 0; h < 0x7c00; h++) {
        double next = h == 0x7bff ? 65536.0 : half_value(h + 1);
        float middle = (float)((half_value(h) + next) / 2);
        float around[4] = {(float)half_value(h), middle, nextafterf(middle, 0.0f),
                           nextafterf(middle, INFINITY)};
        for (int i = 0; i < 4; i++) out[n++] = h & 1 ? -around[i] : around[i];
    }
    return n;
}

START_TEST(narrows_tricky_halves) {
    if (!(level = guard_level(_i))) return;
    float *src = guard_bytes(0, 4u * 4 * 0x7c00);
    check_narrow(LR_F16, src, tricky_halves(src));
}
END_TEST

START_TEST(narrows_special_values) {
    static const uint32_t special[] = {
        0,          0x80000000u, 1,           0x807fffffu, 0x33000000u, 0x33000001u, 0x32ffffffu,
        0x7f800000, 0xff800000u, 0x7f7fffffu, 0x477fefffu, 0x477ff000u, 0xc77ff000u, 0x7fc00000u,
        0x7f800001, 0xffbfffffu, 0x7fffffffu, 0x00007fffu, 0x00008000u, 0x00008001u, 0x00018000u,
        0x7f7f7fff, 0x7f7f8000u, 0x3f808000u, 0x3f818000u, 0x3f808001u, 0x3f807fffu, 0x387fffffu};
    enum { COUNT = sizeof special / sizeof *special };
    if (!(level = guard_level(_i))) return;
    for (size_t copies = 1; copies <= 17; copies++) {
        float *src = guard_bytes(0, 4 * COUNT * copies);
        for (size_t i = 0; i < COUNT * copies; i++) src[i] = guard_float(special[i % COUNT]);
        check_narrow(LR_F16, src, COUNT * copies);
        check_narrow(LR_BF16, src, COUNT * copies);
    }
}
END_TEST

START_TEST(narrows_random_bits) {
    enum { COUNT = 50001 };
    if (!(level = guard_level(_i))) return;
    float *src = guard_bytes(0, 4 * COUNT);
    for (size_t i = 0; i < COUNT; i++) src[i] = guard_float((uint32_t)guard_random());
    check_narrow(LR_BF16, src, COUNT);
    for (size_t i = 0; i < COUNT; i++) src[i] *= 0x1p-3f;
    check_narrow(LR_F16, src, COUNT);
    for (size_t n = 0; n < 40; n++) check_narrow(LR_F16, src + COUNT - n, n);
}
END_TEST

/* NaN payloads included: levels agree bit by bit. */
START_TEST(agrees_with_plain_c) {
    if (!(level = guard_level(_i))) return;
    static const int32_t types[] = {LR_F16, LR_BF16};
    uint16_t *src = guard_bytes(0, 65536 * 2), *back = guard_bytes(3, 65536 * 2);
    uint16_t *plain_back = guard_bytes(4, 65536 * 2);
    float *dst = guard_bytes(1, 65536 * 4), *plain = guard_bytes(2, 65536 * 4);
    for (unsigned i = 0; i < 65536; i++) src[i] = (uint16_t)i;
    for (int t = 0; t < 2; t++) {
        level->widen(types[t], src, 65536, dst);
        guard_level(0)->widen(types[t], src, 65536, plain);
        ck_assert_mem_eq(dst, plain, 65536 * 4);
        level->narrow(types[t], dst, 65536, back);
        guard_level(0)->narrow(types[t], dst, 65536, plain_back);
        ck_assert_mem_eq(back, plain_back, 65536 * 2);
    }
}
END_TEST

Suite *kernels_widen_suite(void) {
    Suite *suite = suite_create("kernels_widen");
    TCase *tests = tcase_create("conversions");
    tcase_add_loop_test(tests, widens_every_half, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, widens_every_bfloat, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, widens_any_length, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, reads_no_more_of_a_block_than_asked, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, ignores_unknown_types, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, narrows_tricky_halves, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, narrows_special_values, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, narrows_random_bits, 0, GUARD_LEVELS);
    tcase_add_loop_test(tests, agrees_with_plain_c, 0, GUARD_LEVELS);
    suite_add_tcase(suite, tests);
    return suite;
}
