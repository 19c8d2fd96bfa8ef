/* Sizes and names of element types. */
#include "tensor/dtype.h"

typedef struct dtype_info {
    const char *name;
    uint16_t block; /* elements of a block */
    uint16_t bytes; /* bytes of a block */
} dtype_info;

static const dtype_info infos[] = {
    [LR_F32] = {"f32", 1, 4},       [LR_F16] = {"f16", 1, 2},       [LR_BF16] = {"bf16", 1, 2},
    [LR_F64] = {"f64", 1, 8},       [LR_I8] = {"i8", 1, 1},         [LR_I32] = {"i32", 1, 4},
    [LR_I64] = {"i64", 1, 8},       [LR_U8] = {"u8", 1, 1},         [LR_Q8_0] = {"q8_0", 32, 34},
    [LR_Q4_1] = {"q4_1", 32, 20},   [LR_Q4_0] = {"q4_0", 32, 18},   [LR_Q5_0] = {"q5_0", 32, 22},
    [LR_Q5_1] = {"q5_1", 32, 24},   [LR_Q4_K] = {"q4_k", 256, 144}, [LR_Q5_K] = {"q5_k", 256, 176},
    [LR_Q6_K] = {"q6_k", 256, 210},
};

static const dtype_info *info_of(int32_t dtype) {
    static const dtype_info unknown = {"?", 0, 0};
    int32_t count = (int32_t)(sizeof infos / sizeof infos[0]);
    return dtype >= 0 && dtype < count && infos[dtype].name ? &infos[dtype] : &unknown;
}

size_t lr_dtype_size(int32_t dtype) {
    const dtype_info *info = info_of(dtype);
    return info->block == 1 ? info->bytes : 0;
}

const char *lr_dtype_name(int32_t dtype) { return info_of(dtype)->name; }

int64_t lr__dtype_block(int32_t dtype) { return info_of(dtype)->block; }

size_t lr__dtype_bytes(int32_t dtype, int64_t count) {
    const dtype_info *info = info_of(dtype);
    size_t bytes;
    if (info->block == 0 || count < 0 || count % info->block) return 0;
    if (__builtin_mul_overflow((size_t)(count / info->block), info->bytes, &bytes)) return 0;
    return bytes <= PTRDIFF_MAX ? bytes : 0;
}
