/*
 * Next-token loss and distillation over chunks of token rows, so that logits exist for one chunk
 * only: logits come from a callback, become the derivatives in place, and go to another one, whose
 * owner takes them through the head.
 */
#ifndef LR_NN_LOSS_H
#define LR_NN_LOSS_H

#include "backend/device.h"
#include "base/arena.h"

/* Writes logits [rows, vocabulary] of the rows from `first` on. */
typedef lr_status (*lr__logits_fn)(int64_t first, int64_t rows, float *logits, void *user);
/* Takes the derivatives of the loss along them. */
typedef lr_status (*lr__dlogits_fn)(int64_t first, int64_t rows, const float *dlogits, void *user);

enum { LR__LOSS_ROWS = 512 };

/* The loss of a scored row is -log p[target], or with a teacher
 *     (1 - alpha) * -log p[target] + alpha * T^2 * KL(teacher || p), both softmaxes of logits / T
 * in the second part (Hinton et al., arXiv 1503.02531). Chunks without a scored row are left out.
 * What callbacks take from the arena lasts to the end of their chunk. */
typedef struct lr__loss {
    int64_t tokens, vocabulary;
    int64_t chunk_rows;     /* 1 to LR__LOSS_ROWS */
    const int32_t *targets; /* [tokens]; negative: the row is not scored */
    lr__logits_fn logits;
    lr__dlogits_fn dlogits; /* NULL: only the loss is wanted */
    void *user;
    lr__logits_fn teacher; /* NULL: none */
    void *teacher_user;
    double alpha, temperature; /* of the teacher: in [0, 1], and above 0 */
    double scale;              /* of the derivatives: 1 / scored for those of the mean */
} lr__loss;

/* Over scored rows, in nats. */
typedef struct lr__loss_sums {
    int64_t scored;
    double next_token; /* -log p[target] */
    double divergence; /* T^2 * KL */
    double total;      /* of both as alpha mixes them */
} lr__loss_sums;

/* LR_E_NUMERIC names the first row whose loss is not finite; its chunk has not been handed on. The
 * bits do not depend on the number of threads. */
lr_status lr__loss_run(const lr__device *device, lr__arena *arena, const lr__loss *loss,
                       lr__loss_sums *sums);

#endif
