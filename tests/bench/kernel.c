/* The kernel of decoding, whose rows do not depend on each other, beside SGEMM on the same shapes,
 * one thread each: GFLOP/s over the linears of a block of SmolLM2-135M, the fastest of some rounds.
 *     kernel ROWS */
#include "backend/kernels.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

void openblas_set_num_threads(int threads);

enum { ROUNDS = 25, SHAPES = 4 };

static const int shapes[SHAPES][2] = {{576, 576}, {576, 192}, {576, 1536}, {1536, 576}};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void shorten(double *best, double seconds) {
    if (*best == 0 || seconds < *best) *best = seconds;
}

int main(int argc, char **argv) {
    const lr__kernels *kernels = lr__kernels_best();
    int rows = argc == 2 ? atoi(argv[1]) : 0;
    double ours[SHAPES] = {0}, theirs[SHAPES] = {0}, flops = 0, sum = 0, blas_sum = 0;
    enum { MOST = 1536 };
    float *w = aligned_alloc(64, sizeof *w * (576 * MOST + 2 * (size_t)rows * MOST));
    if (rows < 1 || rows > 4096 || !w) return 2;
    float *x = w + 576 * MOST, *y = x + (size_t)rows * MOST;
    openblas_set_num_threads(1);
    for (int i = 0; i < 576 * MOST; i++) w[i] = (float)(i % 17) - 8;
    for (int i = 0; i < rows * MOST; i++) x[i] = (float)(i % 13) - 6;
    for (int round = 0; round < ROUNDS; round++)
        for (int s = 0; s < SHAPES; s++) {
            int in = shapes[s][0], out = shapes[s][1];
            double start = now();
            kernels->dot_tile(rows, out, in, x, in, w, in, y, out);
            double middle = now();
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, out, in, 1, x, in, w, in, 0,
                        y, out);
            shorten(&ours[s], middle - start);
            shorten(&theirs[s], now() - middle);
        }
    for (int s = 0; s < SHAPES; s++) {
        flops += 2.0 * rows * shapes[s][0] * shapes[s][1];
        sum += ours[s];
        blas_sum += theirs[s];
    }
    printf("{\"flops\": %.6g, \"sgemm_flops\": %.6g}\n", flops / sum, flops / blas_sum);
    free(w);
    return 0;
}
