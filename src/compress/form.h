/* Modules from factors: the two-factor and the pivot form of a linear module. */
#ifndef LR_COMPRESS_FORM_H
#define LR_COMPRESS_FORM_H

#include "compress/factor.h"
#include "compress/pivot.h"
#include "nn/linear.h"

/* left * right under the name of `linear`, with the bias of the factors or else that of `linear`.
 * Numbers are taken over from the factors. */
lr_status lr__form_two_factor(lr_linear **out, const lr_linear *linear, lr__factors *factors);

/* scatter(picked) * rows + scatter(rest) * mix * rows; the bias as above. */
lr_status lr__form_pivot(lr_linear **out, const lr_linear *linear, lr__pivot *pivot,
                         lr__factors *factors);

#endif
