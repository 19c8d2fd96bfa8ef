/* Fuzz targets: each opens one kind of file from a stranger and uses what opened as a program
 * would. tests/fuzz/entry.c hands them to libFuzzer, tests/unit/test_corpus.c replays what it
 * found. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <lowrank.h>

#include <stdint.h>

int fuzz_safetensors(const uint8_t *data, size_t size);
int fuzz_gguf(const uint8_t *data, size_t size);
int fuzz_config(const uint8_t *data, size_t size);
int fuzz_tokenizer(const uint8_t *data, size_t size);
int fuzz_stats(const uint8_t *data, size_t size);
int fuzz_plan(const uint8_t *data, size_t size);
int fuzz_lowrank(const uint8_t *data, size_t size);

/* ---- files in memory (files.c) ---- */

/* Path of a file that holds the bytes until the next call. Bytes that begin with "{" are taken for
 * the header of a safetensors file, up to a NUL, and its data: then the length is put before it,
 * which mutations would seldom hit. */
const char *fuzz_file(const uint8_t *data, size_t size);
const char *fuzz_safetensors_file(const uint8_t *data, size_t size);

/* A folder in which `name` is what fuzz_file holds, beside a config.json and a model.safetensors
 * of a small model; it lives as long as the process. */
const char *fuzz_folder(const char *name);

/* ---- use (use.c) ---- */

/* One for the process, with one thread. */
lr_ctx *fuzz_ctx(void);
/* The small model of fuzz_folder, undamaged. */
lr_model *fuzz_model(void);

/* Stops the process unless the status is a success, or a failure that left one line to read. */
lr_status fuzz_check(lr_status status);
/* Reads sizes and every module, and runs three tokens. */
void fuzz_use_model(const lr_model *model);
/* Encodes a fixed text and the bytes, and decodes what came. */
void fuzz_use_tokenizer(const lr_tokenizer *tokenizer, const uint8_t *data, size_t size);
/* Opens a model at the path and uses it. */
void fuzz_open_model(const char *path);

#endif
