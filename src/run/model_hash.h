/* The identity of a model's content. */
#ifndef LR_RUN_MODEL_HASH_H
#define LR_RUN_MODEL_HASH_H

#include "model/model.h"

enum { LR__HASH_SIZE = 33 };

/* 32 hexadecimal digits of configuration, numbers and structure. */
void lr__model_hash(const lr_model *model, char out[LR__HASH_SIZE]);

#endif
