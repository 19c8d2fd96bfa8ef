/* Rows of logits are worked on side by side; their losses are summed in order. */
#include "nn/loss.h"

#include <math.h>
#include <string.h>

typedef struct row_loss {
    double next_token, divergence;
} row_loss;

typedef struct job {
    const lr__loss *loss;
    const lr__kernels *kernels;
    int64_t first, count;    /* rows of the chunk */
    float *logits, *teacher; /* [count, vocabulary] */
    float *scratch;          /* [threads][2][vocabulary], with a teacher */
    row_loss *losses;        /* [count] */
} job;

/* -log of the target's probability; exps of z below its largest, and their sum. */
static double cross_entropy(const job *j, const float *z, int32_t target, float *exps,
                            double *sum) {
    int64_t n = j->loss->vocabulary;
    float most = j->kernels->max(n, z), at = z[target];
    *sum = j->kernels->exp_sum(n, z, most, exps);
    return ((double)most - (double)at) + log(*sum);
}

/* scale * (p - 1 at the target); p - 1 from the loss, where the difference would cancel. */
static double turn_row(const job *j, float *z, int32_t target) {
    double sum, loss = cross_entropy(j, z, target, z, &sum), scale = j->loss->scale;
    j->kernels->scale(j->loss->vocabulary, (float)(scale / sum), z, z);
    z[target] = (float)(scale * expm1(-loss));
    return loss;
}

/* Sum of e * (r - z); what the teacher rules out may be -inf. */
static double mean_difference(int64_t n, const float *e, const float *r, const float *z) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (e[i] != 0) sum += (double)e[i] * ((double)r[i] - (double)z[i]);
    return sum;
}

/* Derivatives scale * ((1 - alpha) (p - 1 at the target) + alpha T (p' - q')), with p' and q' the
 * softmaxes of logits / T of student z and teacher r. */
static row_loss turn_distilled_row(const job *j, float *z, float *r, int32_t target, float *hard) {
    const lr__loss *l = j->loss;
    const lr__kernels *kernels = j->kernels;
    int64_t n = l->vocabulary;
    float inverse = (float)(1 / l->temperature), *soft = hard + n;
    double p_sum, own = l->scale * (1 - l->alpha), pull = l->scale * l->alpha * l->temperature;
    row_loss loss = {.next_token = cross_entropy(j, z, target, hard, &p_sum)};
    kernels->scale(n, inverse, z, z);
    kernels->scale(n, inverse, r, r);
    float z_most = kernels->max(n, z), r_most = kernels->max(n, r);
    double r_sum = kernels->exp_sum(n, r, r_most, soft);
    double mean = mean_difference(n, soft, r, z) / r_sum;
    double z_sum = kernels->exp_sum(n, z, z_most, z);
    double kl = mean - ((double)r_most + log(r_sum)) + ((double)z_most + log(z_sum));
    loss.divergence = l->temperature * l->temperature * kl;
    double apart = (double)z[target] / z_sum - (double)soft[target] / r_sum;
    kernels->scale(n, (float)(pull / z_sum), z, z);
    kernels->axpy(n, (float)(-pull / r_sum), soft, z);
    kernels->axpy(n, (float)(own / p_sum), hard, z);
    z[target] = (float)(pull * apart + own * expm1(-loss.next_token));
    return loss;
}

static void turn_item(void *work, int64_t index, int32_t thread) {
    const job *j = work;
    int64_t n = j->loss->vocabulary;
    int32_t target = j->loss->targets[j->first + index];
    float *z = j->logits + index * n;
    row_loss *loss = &j->losses[index];
    *loss = (row_loss){0};
    if (target < 0)
        memset(z, 0, (size_t)n * sizeof *z);
    else if (j->teacher)
        *loss =
            turn_distilled_row(j, z, j->teacher + index * n, target, j->scratch + thread * 2 * n);
    else
        loss->next_token = turn_row(j, z, target);
}

static lr_status add_losses(const job *j, lr__loss_sums *sums) {
    const lr__loss *l = j->loss;
    double alpha = l->teacher ? l->alpha : 0;
    for (int64_t i = 0; i < j->count; i++) {
        const row_loss *loss = &j->losses[i];
        if (!isfinite(loss->next_token))
            return lr__fail(LR_E_NUMERIC, "the loss of row %lld is not finite",
                            (long long)(j->first + i));
        if (!isfinite(loss->divergence))
            return lr__fail(LR_E_NUMERIC,
                            "the divergence of row %lld from the teacher is not finite",
                            (long long)(j->first + i));
        sums->scored += l->targets[j->first + i] >= 0;
        sums->next_token += loss->next_token;
        sums->divergence += loss->divergence;
        sums->total += (1 - alpha) * loss->next_token + alpha * loss->divergence;
    }
    return LR_OK;
}

static lr_status run_chunk(const lr__device *device, job *j, lr__loss_sums *sums) {
    const lr__loss *l = j->loss;
    lr_status status = l->logits(j->first, j->count, j->logits, l->user);
    if (status >= 0 && l->teacher)
        status = l->teacher(j->first, j->count, j->teacher, l->teacher_user);
    if (status < 0) return status;
    lr__pool_run(device->pool, j->count, turn_item, j);
    status = add_losses(j, sums);
    return status >= 0 && l->dlogits ? l->dlogits(j->first, j->count, j->logits, l->user) : status;
}

static int has_scored_row(const job *j) {
    for (int64_t i = 0; i < j->count; i++)
        if (j->loss->targets[j->first + i] >= 0) return 1;
    return 0;
}

static lr_status check_loss(const lr__loss *l) {
    for (int64_t i = 0; i < l->tokens; i++)
        if (l->targets[i] >= l->vocabulary)
            return lr__fail(LR_E_INVALID, "target %d of row %lld, of a vocabulary of %lld",
                            l->targets[i], (long long)i, (long long)l->vocabulary);
    if (l->chunk_rows < 1 || l->chunk_rows > LR__LOSS_ROWS)
        return lr__fail(LR_E_INVALID, "chunks of %lld rows, not 1 to %d", (long long)l->chunk_rows,
                        LR__LOSS_ROWS);
    if (!isfinite(l->scale)) return lr__fail(LR_E_INVALID, "a loss times %g", l->scale);
    if (!l->teacher) return LR_OK;
    if (!(l->alpha >= 0 && l->alpha <= 1))
        return lr__fail(LR_E_INVALID, "alpha %g of a teacher, not 0 to 1", l->alpha);
    if (!(l->temperature > 0) || !isfinite(l->temperature))
        return lr__fail(LR_E_INVALID, "temperature %g of a teacher, not above 0", l->temperature);
    return LR_OK;
}

lr_status lr__loss_run(const lr__device *device, lr__arena *arena, const lr__loss *l,
                       lr__loss_sums *sums) {
    lr_status status = LR_OK;
    size_t rows = (size_t)(l->chunk_rows < l->tokens ? l->chunk_rows : l->tokens);
    size_t vocabulary = (size_t)l->vocabulary;
    size_t threads = (size_t)lr__pool_threads(device->pool);
    job j = {.loss = l, .kernels = device->kernels};
    lr__arena_mark mark = lr__arena_here(arena);
    memset(sums, 0, sizeof *sums);
    LR_TRY(check_loss(l));
    LR_TRY(lr__arena_take(arena, &j.losses, rows, sizeof *j.losses));
    LR_TRY(lr__arena_take(arena, &j.logits, rows * vocabulary, sizeof(float)));
    if (l->teacher) {
        LR_TRY(lr__arena_take(arena, &j.teacher, rows * vocabulary, sizeof(float)));
        LR_TRY(lr__arena_take(arena, &j.scratch, threads * 2 * vocabulary, sizeof(float)));
    }
    for (; j.first < l->tokens; j.first += (int64_t)rows) {
        lr__arena_mark chunk = lr__arena_here(arena);
        j.count = l->tokens - j.first < (int64_t)rows ? l->tokens - j.first : (int64_t)rows;
        if (has_scored_row(&j)) LR_TRY(run_chunk(device, &j, sums));
        lr__arena_release(arena, chunk);
    }
done:
    lr__arena_release(arena, mark);
    return status;
}
