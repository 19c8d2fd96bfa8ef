/* The values and the state of an optimizer as tensors of a safetensors file, one or more of them in
 * a file. */
#ifndef LR_OPTIM_STATE_H
#define LR_OPTIM_STATE_H

#include "format/safetensors.h"
#include "optim/optimizer.h"

lr_status lr__state_declare(const lr_optimizer *optimizer, lr__safetensors_writer *writer);
/* LR_E_NUMERIC for a number that is not finite. */
lr_status lr__state_put(const lr_optimizer *optimizer, lr__safetensors_writer *writer);

/* Where the numbers of an optimizer lie in a file; it lives as long as the list. */
typedef struct lr__state_found {
    const float **data; /* by parameter and part */
    size_t count;       /* tensors */
} lr__state_found;

/* Checks all of them, and changes nothing; cleared by the caller, on failure too. */
lr_status lr__state_find(lr__state_found *found, const lr_optimizer *optimizer,
                         const lr__stored_list *list, const char *path);
/* Takes them up, `step` steps made; gradients become zero. */
void lr__state_take(lr_optimizer *optimizer, const lr__state_found *found, int64_t step);
void lr__state_clear(lr__state_found *found);

/* A whole number in the metadata of such a file. */
lr_status lr__state_read_count(const json_t *metadata, const char *key, int64_t *count,
                               const char *path);
/* The member of the metadata is that text. */
lr_status lr__state_check_text(const json_t *metadata, const char *key, const char *expected,
                               const char *path);

#endif
