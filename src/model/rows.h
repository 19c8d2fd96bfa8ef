/* Elementwise work of a block on its rows: a few rows are one item of the pool. */
#ifndef LR_MODEL_ROWS_H
#define LR_MODEL_ROWS_H

#include <stdint.h>

enum { LR__ROWS_EACH = 16 };

static inline int64_t lr__rows_items(int64_t rows) {
    return (rows + LR__ROWS_EACH - 1) / LR__ROWS_EACH;
}

#define LR__EACH_ROW(t, index, rows) \
    for (int64_t t = (index)*LR__ROWS_EACH; t < ((index) + 1) * LR__ROWS_EACH && t < (rows); t++)

#endif
