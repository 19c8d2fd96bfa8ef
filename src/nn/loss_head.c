/* Products of a head for one chunk of rows, forward and back. */
#include "nn/loss_head.h"

lr_status lr__loss_head_logits(int64_t first, int64_t rows, float *logits, void *head) {
    lr__loss_head *h = head;
    const float *x = h->hidden + first * h->head->in;
    if (!h->gradients)
        return lr__linear_forward(h->e, &h->head, 1, x, h->head->in, rows, &logits, &h->head->out);
    return lr__linear_forward_kept(h->e, &h->head, 1, x, rows, &logits, &h->head->out, &h->tape);
}

lr_status lr__loss_head_dlogits(int64_t first, int64_t rows, const float *dlogits, void *head) {
    (void)rows;
    lr__loss_head *h = head;
    float *dx = h->dhidden ? h->dhidden + first * h->head->in : NULL;
    return lr__linear_backward(h->tape, &dlogits, &h->head->out, h->gradients, dx, h->head->in, 1);
}
