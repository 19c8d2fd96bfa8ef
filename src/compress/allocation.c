/*
 * From a budget to ranks. The spectrum of a module holds the loss each further rank saves, so what
 * energies say is the sum of all local losses. Losses of different modules are not commensurable:
 * dividing each spectrum by its sum makes them so, a weight by measured sensitivity better still,
 * and a floor keeps both from starving a module (Swift-SVD, arXiv 2604.01609, table 6). Effective
 * rank: exp of the entropy of a spectrum (Roy and Vetterli, EUSIPCO 2007; D-Rank).
 *
 * First order: with g the derivative of the loss by the outputs, a change E of the weight changes
 * the loss by g' E x to first order. Signed sums of that nearly cancel in a trained model, so
 * components are judged by its mean square, as KFAC has it, E[(g' E x)^2] ~ tr(G E C E'), which is
 * also twice the Fisher estimate of the KL. That is in one unit for all modules, nats squared, so
 * nothing is normalised; the spectrum is that of the method kfac.
 */
#include "compress/allocation.h"

#include "backend/blas.h"
#include "compress/factor.h"
#include "compress/greedy.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MODULES_EACH_THREAD = 4, MESSAGE_SIZE = 512 };

static const char *const names[] = {
    [LR__ALLOCATION_UNIFORM] = "uniform",
    [LR__ALLOCATION_ENERGY] = "energy",
    [LR__ALLOCATION_NORMALISED] = "energy-normalised",
    [LR__ALLOCATION_SENSITIVITY] = "sensitivity",
    [LR__ALLOCATION_EFFECTIVE_RANK] = "effective-rank",
    [LR__ALLOCATION_FIRST_ORDER] = "first-order",
};
enum { ALLOCATIONS = sizeof names / sizeof *names };

lr_status lr__allocation_find(const char *name, int32_t *kind) {
    for (*kind = 0; name && *kind < ALLOCATIONS; ++*kind)
        if (!strcmp(names[*kind], name)) return LR_OK;
    return lr__fail(LR_E_INVALID,
                    "allocation \"%s\", expected uniform, energy, energy-normalised, sensitivity, "
                    "effective-rank or first-order",
                    name ? name : "");
}

const char *lr__allocation_name(int32_t kind) { return names[kind]; }

/* Energies say little of directions that other text uses, and a low floor gives up just those; what
 * first-order spectra say holds on other text too (docs/design.md). */
double lr__allocation_floor(int32_t kind) {
    return kind == LR__ALLOCATION_FIRST_ORDER ? 0.3 : 0.95;
}

/* The modules to choose for, a copy of their items, and their spectra. */
typedef struct choice {
    const lr_plan *plan;
    const lr__allocation *how;
    int64_t count;
    int32_t *modules; /* indices into the plan */
    lr__rank_item *items;
    double **spectra;
} choice;

static lr_status choice_new(choice *c, const lr_plan *plan, const lr__allocation *how) {
    lr_status status = LR_OK;
    size_t count = (size_t)plan->count;
    *c = (choice){.plan = plan, .how = how};
    LR_TRY(lr__new(&c->modules, count, sizeof *c->modules));
    LR_TRY(lr__new(&c->items, count, sizeof *c->items));
    LR_TRY(lr__new(&c->spectra, count, sizeof *c->spectra));
    for (int32_t i = 0; i < plan->count; i++) {
        if (how->fixed && how->fixed[i]) continue;
        c->modules[c->count] = i;
        c->items[c->count++] = plan->items[i];
    }
done:
    return status;
}

static void choice_clear(choice *c) {
    for (int64_t i = 0; c->spectra && i < c->count; i++) lr__aligned_free(c->spectra[i]);
    lr__free(c->spectra);
    lr__free(c->items);
    lr__free(c->modules);
}

/* One module for a pool thread. */
typedef struct task {
    lr_linear *linear;
    const lr__moments *moments; /* NULL: the weights alone */
    lr__slope_stack slopes;     /* empty: the outputs as they are */
    double *spectrum;
    lr_status status;
    char message[MESSAGE_SIZE];
} task;

static lr_status find_spectrum(task *t) {
    lr_status status = LR_OK;
    const lr_linear *linear = t->linear;
    float *weight = NULL;
    double *gram = NULL, *root = NULL;
    size_t ins = (size_t)linear->in, outs = (size_t)linear->out;
    LR_TRY(lr__new_aligned(&t->spectrum, outs < ins ? outs : ins, sizeof *t->spectrum));
    LR_TRY(lr__new_aligned(&weight, outs * ins, sizeof *weight));
    lr__linear_dense_rows(linear, 0, linear->out, weight);
    if (t->moments) {
        LR_TRY(lr__new_aligned(&gram, ins * ins, sizeof *gram));
        LR_TRY(lr__moments_read(t->moments, gram, NULL));
    }
    if (t->slopes.count) {
        LR_TRY(lr__new_aligned(&root, outs * outs, sizeof *root));
        lr__shrink(gram, linear->in, lr__input_shrinkage);
        LR_TRY(lr__slopes_root(&t->slopes, lr__output_shrinkage, root));
    }
    status = lr__factor_spectrum(t->spectrum, &(lr__factor_problem){.out = linear->out,
                                                                    .in = linear->in,
                                                                    .weight = weight,
                                                                    .gram = gram,
                                                                    .out_root = root,
                                                                    .name = linear->name});
done:
    lr__aligned_free(root);
    lr__aligned_free(gram);
    lr__aligned_free(weight);
    return status;
}

static void run_task(void *work, int64_t index, int32_t thread) {
    (void)thread;
    task *t = (task *)work + index;
    t->status = find_spectrum(t);
    if (t->status < 0) snprintf(t->message, sizeof t->message, "%s", lr_last_error());
}

static lr_status prepare(task *t, const lr_model *model, const lr__allocation *how,
                         const char *name) {
    lr_status status = LR_OK;
    memset(t, 0, sizeof *t);
    LR_TRY(lr_model_find_linear(model, name, &t->linear));
    if (how->stats) LR_TRY(lr__stats_moments_of(&t->moments, how->stats, t->linear));
    if (how->kind != LR__ALLOCATION_FIRST_ORDER) goto done;
    t->slopes = (lr__slope_stack){.count = 1, .out = t->linear->out, .in = t->linear->in};
    LR_TRY(lr__stats_slopes_of(&t->slopes.items[0], how->stats, t->linear));
done:
    return status;
}

static lr_status find_spectra(choice *c, const lr_model *model) {
    lr_status status = LR_OK;
    int64_t at_once = (int64_t)lr_ctx_threads(model->ctx) * MODULES_EACH_THREAD, now = 0;
    task *tasks = NULL;
    LR_TRY(lr__new(&tasks, (size_t)at_once, sizeof *tasks));
    for (int64_t first = 0; first < c->count; first += now) {
        now = c->count - first < at_once ? c->count - first : at_once;
        memset(tasks, 0, (size_t)now * sizeof *tasks);
        for (int64_t i = 0; i < now && status >= 0; i++)
            status = prepare(&tasks[i], model, c->how, c->plan->modules[c->modules[first + i]]);
        lr__blas_enter();
        if (status >= 0) lr__pool_run(model->ctx->device.pool, now, run_task, tasks);
        lr__blas_leave();
        for (int64_t i = 0; i < now; i++) {
            c->spectra[first + i] = tasks[i].spectrum;
            lr_linear_free(tasks[i].linear);
            if (status >= 0 && tasks[i].status < 0)
                status = lr__fail(tasks[i].status, "%s", tasks[i].message);
        }
        LR_TRY(status);
        LR_TRY(lr__progress(model->ctx, "spectra", first + now, c->count));
    }
done:
    lr__free(tasks);
    return status;
}

static double sum_of(const double *spectrum, int64_t count) {
    double sum = 0;
    for (int64_t i = count; i-- > 0;) sum += spectrum[i];
    return sum;
}

/* What the ranks of each module are worth, in place of the spectra. */
static void weigh(choice *c) {
    for (int64_t i = 0; i < c->count; i++) {
        int64_t count = lr__rank_full(&c->items[i]);
        double total = sum_of(c->spectra[i], count), scale = 1;
        if (c->how->kind != LR__ALLOCATION_ENERGY && c->how->kind != LR__ALLOCATION_FIRST_ORDER)
            scale = total > 0 ? 1 / total : 0;
        if (c->how->weights) scale *= c->how->weights[c->modules[i]];
        for (int64_t r = 0; r < count; r++) c->spectra[i][r] *= scale;
    }
}

static double effective_rank(const double *spectrum, int64_t count) {
    double total = sum_of(spectrum, count), entropy = 0;
    for (int64_t i = 0; i < count; i++) {
        double share = total > 0 ? spectrum[i] / total : 0;
        if (share > 0) entropy -= share * log(share);
    }
    return exp(entropy);
}

static lr_status spend_by_effective_rank(choice *c, int64_t budget) {
    double *measure = NULL;
    lr_status status = lr__new(&measure, (size_t)c->count, sizeof *measure);
    if (status < 0) return status;
    for (int64_t i = 0; i < c->count; i++)
        measure[i] = effective_rank(c->spectra[i], lr__rank_full(&c->items[i]));
    status = lr__ranks_proportional(c->items, c->count, budget, c->how->floor, measure);
    lr__free(measure);
    return status;
}

/* Modules that share a right factor are one matrix. */
static lr_status spend_uniformly(choice *c, int64_t budget) {
    lr__rank_item *folded = NULL;
    lr_status status = lr__new(&folded, (size_t)c->count, sizeof *folded);
    if (status < 0) return status;
    int64_t count = lr__ranks_fold(folded, c->items, c->count);
    status = lr__ranks_uniform(folded, count, budget);
    if (status >= 0) lr__ranks_unfold(c->items, c->count, folded);
    lr__free(folded);
    return status;
}

static lr_status spend(choice *c, const lr_model *model, int64_t budget) {
    lr_status status = LR_OK;
    LR_TRY(spend_uniformly(c, budget)); /* refuses before the long work */
    if (c->how->kind == LR__ALLOCATION_UNIFORM) goto done;
    LR_TRY(find_spectra(c, model));
    if (c->how->kind == LR__ALLOCATION_EFFECTIVE_RANK) return spend_by_effective_rank(c, budget);
    weigh(c);
    status = lr__ranks_greedy(c->items, c->count, budget, c->how->floor,
                              (const double *const *)c->spectra);
done:
    return status;
}

lr_status lr__allocate(lr_plan *plan, const lr_model *model, const lr__allocation *how,
                       int64_t budget) {
    lr_status status = LR_OK;
    choice c;
    LR_TRY(choice_new(&c, plan, how));
    for (int32_t i = 0; i < plan->count; i++)
        if (how->fixed && how->fixed[i])
            budget -= lr__rank_cost(&plan->items[i], plan->items[i].rank);
    if (!c.count) {
        LR_FAIL_IF(budget < 0, LR_E_INVALID, "ranks: take %lld more than the budget",
                   -(long long)budget);
        goto done;
    }
    LR_TRY(spend(&c, model, budget));
    for (int64_t i = 0; i < c.count; i++) plan->items[c.modules[i]].rank = c.items[i].rank;
done:
    choice_clear(&c);
    return status;
}
