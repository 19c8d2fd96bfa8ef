/* Modules from factors: the two-factor, shared and pivot forms of linear modules. */
#ifndef LR_COMPRESS_FORM_H
#define LR_COMPRESS_FORM_H

#include "compress/factor.h"
#include "compress/pivot.h"
#include "nn/linear.h"

/* left * right for `count` modules whose weights stand on one another in the factors: each has its
 * rows of left under its own name, all have the one right, named after the first, and the bias is
 * that of the factors or else the module's. Numbers are taken over from the factors; out has room
 * for `count` modules, which the caller owns, none after an error. */
lr_status lr__form_two_factor(lr_linear **out, const lr_linear *const *linears, int32_t count,
                              lr__factors *factors);

/* scatter(picked) * rows + scatter(rest) * mix * rows; the bias as above. */
lr_status lr__form_pivot(lr_linear **out, const lr_linear *linear, lr__pivot *pivot,
                         lr__factors *factors);

#endif
