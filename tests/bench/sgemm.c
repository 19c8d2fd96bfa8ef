/* The machine's SGEMM rate: the fastest of some 4096^3 products by OpenBLAS's own threading.
 *     sgemm THREADS */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

void openblas_set_num_threads(int threads);

enum { SIZE = 4096, ROUNDS = 3 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    size_t count = (size_t)SIZE * SIZE;
    float *a = malloc(3 * count * sizeof *a), *b = a + count, *c = b + count;
    double best = 0;
    if (argc != 2 || !a) return 1;
    openblas_set_num_threads(atoi(argv[1]));
    for (size_t i = 0; i < 2 * count; i++) a[i] = (float)(i % 17) - 8;
    for (int i = 0; i < ROUNDS; i++) {
        double start = now();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, SIZE, SIZE, SIZE, 1, a, SIZE, b, SIZE,
                    0, c, SIZE);
        double rate = 2.0 * SIZE * SIZE * SIZE / (now() - start);
        if (rate > best) best = rate;
    }
    printf("%.6g\n", best);
    free(a);
    return 0;
}
