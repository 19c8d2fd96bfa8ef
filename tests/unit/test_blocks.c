/* Quantised block types against the gguf package: tests/golden/make_blocks.py. */
#include "backend/kernels.h"
#include "format/safetensors.h"
#include "golden.h"
#include "tensor/dtype.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int32_t dtype;
} types[] = {{"q4_0", LR_Q4_0}, {"q5_0", LR_Q5_0}, {"q5_1", LR_Q5_1},
             {"q4_k", LR_Q4_K}, {"q5_k", LR_Q5_K}, {"q6_k", LR_Q6_K}};

static const char *const levels[] = {"c", "avx2", "avx512"};

static void check_type(const lr__kernels *kernels, const lr__stored_list *list, int type) {
    char name[32];
    snprintf(name, sizeof name, "%s.raw", types[type].name);
    const lr__stored *raw = lr__stored_find(list, name);
    snprintf(name, sizeof name, "%s.values", types[type].name);
    const lr__stored *values = lr__stored_find(list, name);
    ck_assert_ptr_nonnull(raw);
    ck_assert_ptr_nonnull(values);
    size_t count = values->bytes / sizeof(float);
    ck_assert_uint_eq(lr__dtype_bytes(types[type].dtype, (int64_t)count), raw->bytes);
    const float *expected = values->data;
    for (size_t n = 0; n <= count; n += n < 40 || n + 41 > count ? 1 : 37) {
        float got[1024];
        memset(got, 0xff, sizeof got);
        kernels->widen(types[type].dtype, raw->data, n, got);
        for (size_t i = 0; i < n; i++)
            ck_assert_msg(fabsf(got[i] - expected[i]) <= 1e-6f * fabsf(expected[i]),
                          "%s %s value %zu of %zu: %g, expected %g", kernels->name,
                          types[type].name, i, n, (double)got[i], (double)expected[i]);
        ck_assert(isnan(got[n]));
    }
}

START_TEST(blocks_widen_as_the_package_says) {
    lr__stored_list list = {0};
    ck_assert_int_ge(lr__safetensors_add(&list, golden_path("blocks.safetensors"), 0, NULL), 0);
    for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
        const lr__kernels *kernels = lr__kernels_named(levels[l]);
        for (int t = 0; kernels && t < 6; t++) check_type(kernels, &list, t);
    }
    lr__stored_list_clear(&list);
}
END_TEST

Suite *blocks_suite(void) {
    Suite *suite = suite_create("blocks");
    TCase *all = tcase_create("blocks");
    tcase_add_test(all, blocks_widen_as_the_package_says);
    suite_add_tcase(suite, all);
    return suite;
}
