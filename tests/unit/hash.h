/* FNV-1a, to compare many bits by few. */
#ifndef TESTS_HASH_H
#define TESTS_HASH_H

#include <stddef.h>
#include <stdint.h>

static const uint64_t hash_begin = 14695981039346656037U;

static inline uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes) {
    const unsigned char *at = data;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ at[i]) * 1099511628211U;
    return hash;
}

#endif
