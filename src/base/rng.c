/* Philox 4x32-10. */
#include "base/rng.h"

#include <math.h>

void lr__philox(uint64_t key, uint64_t counter_high, uint64_t counter_low, uint32_t out[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)counter_low, c1 = (uint32_t)(counter_low >> 32);
    uint32_t c2 = (uint32_t)counter_high, c3 = (uint32_t)(counter_high >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static double to_unit(uint32_t high, uint32_t low) {
    uint64_t bits = ((uint64_t)high << 32 | low) >> 11;
    return (double)bits * 0x1p-53;
}

double lr__uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t words[4];
    lr__philox(seed, stream, index, words);
    return to_unit(words[0], words[1]);
}

double lr__normal(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t words[4];
    lr__philox(seed, stream, index, words);
    double u = 1.0 - to_unit(words[0], words[1]), v = to_unit(words[2], words[3]);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

void lr__shuffle(int64_t *order, int64_t count, uint64_t seed, uint64_t stream) {
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t other = (int64_t)(lr__uniform(seed, stream, (uint64_t)i) * (double)(i + 1));
        int64_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}
