/* Element types: public names in lowrank/tensor.h. */
#ifndef LR_TENSOR_DTYPE_H
#define LR_TENSOR_DTYPE_H

#include <lowrank/tensor.h>

/* Bytes that `count` elements take; 0 for no elements, and when the count is negative or not whole
 * blocks, the type unknown or the product too large: the caller, who knows the names, reports. */
size_t lr__dtype_bytes(int32_t dtype, int64_t count);

/* Elements of one block: 32 or 256 for the block types, 1 for the others, 0 for unknown values. */
int64_t lr__dtype_block(int32_t dtype);

#endif
