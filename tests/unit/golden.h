/* Compares a list of stored tensors with the lines of tests/golden/files/expected.tsv. */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include "format/stored.h"
#include "scratch.h"

static inline uint32_t golden_sum(const unsigned char *data, size_t bytes) {
    uint32_t a = 1, b = 0; /* Adler-32, RFC 1950 */
    for (size_t i = 0; i < bytes; i++) {
        a = (a + data[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

static inline void golden_shape(char *text, size_t room, const lr__stored *stored) {
    size_t used = 0;
    snprintf(text, room, "-");
    for (int32_t i = 0; i < stored->ndim; i++)
        used += (size_t)snprintf(text + used, room - used, "%s%lld", i ? "x" : "",
                                 (long long)stored->shape[i]);
}

/* Checks every line whose file begins with `prefix`; returns how many there were. */
static inline size_t golden_check(const lr__stored_list *list, const char *prefix) {
    char line[300], file[100], name[100], dtype[20], shape[60], found[60];
    size_t bytes, count = 0;
    unsigned sum;
    FILE *lines = fopen(golden_path("expected.tsv"), "r");
    ck_assert_msg(lines != NULL, "%s cannot be opened", golden_path("expected.tsv"));
    while (fgets(line, sizeof line, lines)) {
        ck_assert_int_eq(
            sscanf(line, "%99s %99s %19s %59s %zu %u", file, name, dtype, shape, &bytes, &sum), 6);
        if (strncmp(file, prefix, strlen(prefix)) != 0) continue;
        const lr__stored *stored = lr__stored_find(list, name);
        ck_assert_msg(stored != NULL, "%s is missing", name);
        golden_shape(found, sizeof found, stored);
        ck_assert_str_eq(found, shape);
        if (stored->dtype >= 0) ck_assert_str_eq(lr_dtype_name(stored->dtype), dtype);
        ck_assert_uint_eq(stored->bytes, bytes);
        ck_assert_uint_eq(golden_sum(stored->data, stored->bytes), sum);
        count++;
    }
    fclose(lines);
    return count;
}

/* Reads every byte of every tensor and checks that it lies where it says. */
static inline void golden_touch(const lr__stored_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        const lr__stored *stored = &list->items[i];
        const lr__mapping *mapping = stored->mapping;
        uintptr_t begin = (uintptr_t)stored->data, base = (uintptr_t)mapping->data;
        ck_assert(begin >= base && begin - base <= mapping->size);
        ck_assert(stored->bytes <= mapping->size - (begin - base));
        ck_assert(stored->ndim >= 0 && stored->ndim <= LR_MAX_DIMS);
        golden_sum(stored->data, stored->bytes);
    }
}

#endif
