/* What an operation runs on: threads and the inner loops of this machine. */
#ifndef LR_BACKEND_DEVICE_H
#define LR_BACKEND_DEVICE_H

#include "backend/kernels.h"
#include "base/pool.h"

typedef struct lr__device {
    lr__pool *pool;
    const lr__kernels *kernels;
    lr__panels_fn multiply_pairs; /* for batch products with weights below binary32; NULL: none */
} lr__device;

#endif
