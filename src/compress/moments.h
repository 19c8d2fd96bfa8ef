/* Weighted moments of vectors in binary64; reading divides by the weight. */
#ifndef LR_COMPRESS_MOMENTS_H
#define LR_COMPRESS_MOMENTS_H

#include "backend/device.h"
#include "base/arena.h"

/* Sums over vectors, such as the inputs of a module; modules that read one input share them. */
typedef struct lr__moments {
    int64_t size, tokens;
    double weight;          /* sum of the weights of its tokens */
    double *gram;           /* lower triangle by rows, size (size + 1) / 2 weighted sums of x x' */
    double *root;           /* instead of gram: [size, size] lower triangular, root root' is gram */
    double *sum, *absolute; /* weighted sums of x and |x| */
    double *most;           /* largest |x| of each channel */
    int64_t last_input;     /* id of the input counted last */
    int32_t missing;        /* LR__MISSING_... of which some tokens' share is not known */
} lr__moments;

enum { LR__MISSING_ABSOLUTE = 1, LR__MISSING_MOST = 2 };

/* Statistics of single channels. */
enum { LR__CHANNEL_MEAN, LR__CHANNEL_MAX, LR__CHANNEL_RMS };

/* Zeros, with a root in place of the gram for `is_exact`. */
lr_status lr__moments_new(lr__moments *moments, int64_t size, int32_t is_exact);
void lr__moments_clear(lr__moments *moments);
/* Counts [tokens, size] binary32 rows, each with `weight`. */
lr_status lr__moments_count(lr__moments *moments, const lr__device *device, lr__arena *arena,
                            const float *x, int64_t tokens, double weight);
/* Adds what `from` counted, with `weight` in all. Both keep grams, or both roots. */
lr_status lr__moments_add(lr__moments *moments, const lr__moments *from, const lr__device *device,
                          lr__arena *arena, double weight);
/* Full symmetric gram and mean divided by the weight; either may be NULL. */
lr_status lr__moments_read(const lr__moments *moments, double *gram, double *mean);
/* The root divided by that of the weight, full with zeros above; only where roots are kept. */
void lr__moments_read_root(const lr__moments *moments, double *root);
/* scale[j] = (mean |x_j|, max |x_j| or root of the mean x_j^2) ^ alpha. LR_E_NOTFOUND when the
 * moments came from a file without that statistic. */
lr_status lr__moments_scale(const lr__moments *moments, int32_t statistic, double alpha,
                            double *scale);

#endif
