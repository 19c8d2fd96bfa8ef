/* Singular values by one-sided Jacobi rotations (Hestenes 1958), in plain loops: nothing here calls
 * BLAS, LAPACK or the library. */
#ifndef TESTS_JACOBI_H
#define TESTS_JACOBI_H

#include <check.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

/* Turns the rows x and y until they are orthogonal; returns 0 when they are already. */
static inline int jacobi_turn(double *x, double *y, int64_t cols) {
    double xx = 0, yy = 0, xy = 0;
    for (int64_t k = 0; k < cols; k++) {
        xx += x[k] * x[k];
        yy += y[k] * y[k];
        xy += x[k] * y[k];
    }
    if (fabs(xy) <= 1e-15 * sqrt(xx) * sqrt(yy)) return 0;
    double zeta = (yy - xx) / (2 * xy);
    double t = copysign(1, zeta) / (fabs(zeta) + hypot(1, zeta));
    double c = 1 / hypot(1, t), s = c * t;
    for (int64_t k = 0; k < cols; k++) {
        double kept = x[k];
        x[k] = c * kept - s * y[k];
        y[k] = s * kept + c * y[k];
    }
    return 1;
}

static inline int by_falling_number(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Squares of the singular values of a [rows, cols], falling, `rows` of them; a is lost. Freed by
 * the caller. */
static inline double *jacobi_squares(double *a, int64_t rows, int64_t cols) {
    double *squares = calloc((size_t)rows, sizeof *squares);
    ck_assert_ptr_nonnull(squares);
    for (int sweep = 0, turned = 1; turned && sweep < 60; sweep++) {
        turned = 0;
        for (int64_t p = 0; p < rows; p++)
            for (int64_t q = p + 1; q < rows; q++)
                turned |= jacobi_turn(a + p * cols, a + q * cols, cols);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < cols; k++) squares[i] += a[i * cols + k] * a[i * cols + k];
    qsort(squares, (size_t)rows, sizeof *squares, by_falling_number);
    return squares;
}

#endif
