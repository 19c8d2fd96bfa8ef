/* The context behind lowrank/context.h. */
#ifndef LR_CTX_CTX_H
#define LR_CTX_CTX_H

#include "backend/device.h"

#include <lowrank/context.h>

struct lr_ctx {
    int32_t references; /* atomic */
    lr__device device;
    lr_ctx_opts opts;
};

lr_ctx *lr__ctx_keep(lr_ctx *ctx);

void lr__log(const lr_ctx *ctx, int32_t level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* LR_E_CANCELLED when the host's callback wants to stop. */
lr_status lr__progress(const lr_ctx *ctx, const char *stage, int64_t done, int64_t total);

#endif
