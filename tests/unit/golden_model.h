/* Golden models: transformers' logits and captures, read as plain arrays. */
#ifndef TESTS_GOLDEN_MODEL_H
#define TESTS_GOLDEN_MODEL_H

#include "format/safetensors.h"
#include "model_fixture.h"

typedef struct golden {
    const char *name;
    lr__stored_list tensors;
    int32_t rows, length, vocabulary;
    const int32_t *ids;
    const float *logits;
    const double *nll;
} golden;

static inline const char *golden_folder(const char *name, const char *file) {
    static char paths[4][600];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    const char *root = getenv("LR_GOLDEN");
    snprintf(path, sizeof paths[0], "%s/models/%s%s%s", root ? root : "tests/golden", name,
             file ? "/" : "", file ? file : "");
    return path;
}

static inline const void *golden_data(const golden *g, const char *name, size_t bytes) {
    const lr__stored *stored = lr__stored_find(&g->tensors, name);
    ck_assert_msg(stored != NULL, "%s: no golden %s", g->name, name);
    ck_assert_uint_eq(stored->bytes, bytes);
    return stored->data;
}

static inline golden golden_open(const char *name) {
    golden g = {.name = name};
    CHECK_OK(lr__safetensors_add(&g.tensors, golden_folder(name, "golden.safetensors"), 0, NULL));
    const lr__stored *logits = lr__stored_find(&g.tensors, "logits");
    ck_assert_ptr_nonnull(logits);
    g.rows = (int32_t)logits->shape[0];
    g.length = (int32_t)logits->shape[1];
    g.vocabulary = (int32_t)logits->shape[2];
    size_t tokens = (size_t)(g.rows * g.length);
    g.ids = golden_data(&g, "ids", tokens * sizeof(int32_t));
    g.logits = golden_data(&g, "logits", tokens * (size_t)g.vocabulary * sizeof(float));
    g.nll = golden_data(&g, "nll", (size_t)g.rows * sizeof(double));
    return g;
}

static inline void golden_close(golden *g) { lr__stored_list_clear(&g->tensors); }

/* The file itself for a GGUF, else the folder. */
static inline const char *golden_model_path(const char *name) {
    return golden_folder(name, strncmp(name, "gguf", 4) ? NULL : "model.gguf");
}

static inline void golden_segments(const golden *g, lr_segment *segments) {
    for (int32_t r = 0; r < g->rows; r++) {
        segments[r].row = r;
        segments[r].count = g->length;
        segments[r].tokens = g->ids + r * g->length;
    }
}

#endif
