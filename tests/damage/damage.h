/* Damaged files in great number: which file, what is done to it, and what a program does with it.
 */
#ifndef TESTS_DAMAGE_H
#define TESTS_DAMAGE_H

#include <stddef.h>
#include <stdint.h>

/* ---- bytes (mangle.c) ---- */

typedef struct bytes {
    char *data; /* malloc */
    size_t size;
} bytes;

enum { PLAIN_BYTES, JSON_TEXT, SAFETENSORS };

/* Damages the bytes of a file of the given form, by the number of the case alone. */
void mangle(bytes *file, int form, uint64_t number);
uint64_t draw(uint64_t *state, uint64_t below);

/* ---- lives (life.c) ---- */

enum { MODEL, TOKENIZER, STATS, GRADIENTS, PLAN };

/* Writes the sources that are made by the library into `root`; 0 when that fails. */
int life_prepare(const char *golden, const char *root);
typedef struct life {
    int32_t refusal; /* the first, else 0 */
    char sentence[1024];
    const char *problem; /* NULL, or what was wrong with how it went */
} life;

/* Opens what lies at the path and uses it. */
life life_run(int what, const char *root, const char *path);

#endif
