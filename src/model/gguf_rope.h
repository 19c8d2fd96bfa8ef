/* Frequency factors of GGUF: Llama 3's bands, told by a tensor. */
#ifndef LR_MODEL_GGUF_ROPE_H
#define LR_MODEL_GGUF_ROPE_H

#include "format/config.h"

/* Where the file has a tensor "rope_freqs.weight", finds the parameters of the bands it was made
 * with and puts them into *config. LR_E_UNSUPPORTED for other factors. */
lr_status lr__gguf_read_factors(lr__config *config, const lr__gguf *gguf);

#endif
