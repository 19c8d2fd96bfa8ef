/*
 * One module that learns to give the outputs of another: mean squared error over rows and outputs,
 * AdamW over masters of its factors, its best values kept.
 */
#include "run/distill.h"

#include "base/file.h"
#include "nn/linear.h"
#include "optim/values.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NUMBER_ROOM = 32 };

/* ---- what can be taken up ---- */

static int holds(const lr_linear *linear, const lr__param *param) {
    for (int32_t t = 0; t < linear->term_count; t++)
        for (int32_t i = 0; i < linear->terms[t].count; i++)
            if (linear->terms[t].ops[i].param == param) return 1;
    return 0;
}

/* A parameter of both, NULL: none. */
static const lr__param *shared_by(const lr_linear *a, const lr_linear *b) {
    for (int32_t t = 0; t < a->term_count; t++)
        for (int32_t i = 0; i < a->terms[t].count; i++) {
            const lr__param *param = a->terms[t].ops[i].param;
            if (param && holds(b, param)) return param;
        }
    return NULL;
}

lr_status lr__pupil_check(const lr__graph *graph, int32_t index) {
    const lr_linear *linear = *lr__graph_linear(graph, index);
    for (int32_t i = 0; i < lr__graph_linear_count(graph); i++) {
        const lr_linear *other = *lr__graph_linear(graph, i);
        const lr__param *shared = i == index ? NULL : shared_by(linear, other);
        if (shared)
            return lr__fail(LR_E_UNSUPPORTED,
                            "%s: shares %s with %s, and each module learns by itself; storage as "
                            "two factors or in pivot form will do",
                            linear->name, shared->name, other->name);
    }
    return LR_OK;
}

static lr_status check_sizes(const lr_linear *student, const lr_linear *teacher) {
    if (student->out == teacher->out && student->in == teacher->in) return LR_OK;
    return lr__fail(LR_E_SHAPE, "%s: [%lld, %lld] in the student, [%lld, %lld] in the teacher",
                    student->name, (long long)student->out, (long long)student->in,
                    (long long)teacher->out, (long long)teacher->in);
}

/* ---- values ---- */

void lr__pupil_restore(lr__pupil *p) { lr__values_write(p->optimizer, p->best); }

void lr__pupil_judge(lr__pupil *p, double value, int32_t patience) {
    p->stale++;
    if (p->least < 0 || value < p->least) {
        p->least = value;
        p->best_step = lr_optimizer_steps(p->optimizer);
        p->stale = 0;
        lr__values_read(p->best, p->optimizer);
    }
    if (!patience || p->stale < patience) return;
    lr__pupil_restore(p);
    p->is_done = 1;
}

/* Matrices alone: a bias is not what a rank takes away. */
static lr_status make_optimizer(lr__pupil *p, lr_model *student, const char *name,
                                const lr_distill_opts *opts) {
    lr_status status = LR_OK;
    char pattern[320];
    lr_optimizer_opts learning;
    lr_optimizer_opts_init(&learning, sizeof learning);
    learning.learning_rate = opts->learning_rate;
    learning.weight_decay = opts->weight_decay;
    learning.clip = opts->clip;
    snprintf(pattern, sizeof pattern, "%s.*.weight", name);
    LR_TRY(lr_optimizer_new(&p->optimizer, student->ctx, &learning));
    LR_TRY(lr_optimizer_add_model(p->optimizer, student, pattern, NULL, NULL));
done:
    return status;
}

lr_status lr__pupil_begin(lr__pupil *p, lr_model *student, const lr_model *teacher,
                          const char *name, const lr_distill_opts *opts) {
    lr_status status = LR_OK;
    *p = (lr__pupil){.least = -1, .held = -1, .start = -1};
    LR_TRY(lr_model_find_linear(teacher, name, &p->target));
    LR_TRY(lr_model_find_linear(student, name, &p->linear));
    LR_TRY(check_sizes(p->linear, p->target));
    LR_TRY(make_optimizer(p, student, name, opts));
    lr_linear_free(p->linear); /* the one with masters has taken its place */
    p->linear = NULL;
    LR_TRY(lr_model_find_linear(student, name, &p->linear));
    status = lr__values_new(&p->best, p->optimizer);
done:
    return status;
}

void lr__pupil_clear(lr__pupil *p) {
    lr_optimizer_free(p->optimizer);
    lr_linear_free(p->linear);
    lr_linear_free(p->target);
    lr__free(p->best);
    lr__free(p->losses);
}

/* ---- losses ---- */

/* Outputs against the target, row by row; outputs become the derivative of the mean by them. */
typedef struct comparison {
    float *y; /* [rows, width] */
    const float *target;
    int64_t width;
    double scale;
    double *errors, *energies; /* [rows] */
} comparison;

static void compare_row(void *work, int64_t row, int32_t thread) {
    const comparison *c = work;
    float *y = c->y + row * c->width;
    const float *target = c->target + row * c->width;
    double error = 0, energy = 0;
    (void)thread;
    for (int64_t i = 0; i < c->width; i++) {
        double off = (double)y[i] - (double)target[i];
        error += off * off;
        energy += (double)target[i] * (double)target[i];
        y[i] = (float)(c->scale * off);
    }
    c->errors[row] = error;
    c->energies[row] = energy;
}

typedef struct outcome {
    lr__linear_tape *tape;
    float *dy;
    double error, energy; /* sums of squares */
} outcome;

/* In the arena until the caller's mark. */
static lr_status compare(const lr__pupil *p, const lr__evaluation *e, const lr__example *example,
                         outcome *out) {
    lr_status status = LR_OK;
    const lr_linear *const *linear = (const lr_linear *const *)&p->linear;
    size_t rows = (size_t)example->rows;
    comparison c = {.target = example->target, .width = p->linear->out};
    *out = (outcome){0};
    c.scale = 2 / ((double)example->rows * (double)c.width);
    LR_TRY(lr__arena_take(e->arena, &c.y, rows * (size_t)c.width, sizeof *c.y));
    LR_TRY(lr__arena_take(e->arena, &c.errors, rows, sizeof *c.errors));
    LR_TRY(lr__arena_take(e->arena, &c.energies, rows, sizeof *c.energies));
    LR_TRY(lr__linear_forward_kept(e, linear, 1, example->x, example->rows, &c.y, &c.width,
                                   &out->tape));
    lr__pool_run(e->device->pool, example->rows, compare_row, &c);
    out->dy = c.y;
    for (size_t row = 0; row < rows; row++) {
        out->error += c.errors[row];
        out->energy += c.energies[row];
    }
    LR_FAIL_IF(!isfinite(out->error) || !isfinite(out->energy), LR_E_NUMERIC,
               "%s: the loss is %g, outputs of mean square %g were to be met", p->linear->name,
               out->error / ((double)rows * (double)c.width),
               out->energy / ((double)rows * (double)c.width));
done:
    return status;
}

lr_status lr__pupil_measure(lr__pupil *p, const lr__example *example) {
    lr__evaluation e = {.device = &p->linear->ctx->device, .arena = example->arena, .batch = 1};
    lr__arena_mark mark = lr__arena_here(example->arena);
    outcome found;
    lr_status status = compare(p, &e, example, &found);
    lr__arena_release(example->arena, mark);
    p->sum += found.error;
    p->numbers += (double)example->rows * (double)p->linear->out;
    return status;
}

static lr_status note(lr__pupil *p, const outcome *found, double numbers) {
    lr_status status = lr__grow(&p->losses, &p->room, p->calls + 1, sizeof *p->losses);
    if (status < 0) return status;
    p->losses[p->calls++] = found->error / numbers;
    p->energy = found->energy / numbers;
    return LR_OK;
}

lr_status lr__pupil_learn(lr__pupil *p, const lr__example *example, lr__pupil_fn due) {
    lr_status status = LR_OK;
    lr__evaluation e = {.device = &p->linear->ctx->device, .arena = example->arena, .batch = 1};
    lr__arena_mark mark = lr__arena_here(example->arena);
    const float *dy;
    outcome found;
    LR_TRY(compare(p, &e, example, &found));
    LR_TRY(note(p, &found, (double)example->rows * (double)p->linear->out));
    LR_TRY(due(p));
    if (p->is_done) goto done;
    dy = found.dy;
    LR_TRY(lr__linear_backward(found.tape, &dy, &p->linear->out,
                               lr__optimizer_gradients(p->optimizer), NULL, 0, 0));
    status = lr_optimizer_step(p->optimizer, NULL);
done:
    lr__arena_release(example->arena, mark);
    return status;
}

double lr__pupil_mean(const lr__pupil *p, int32_t most) {
    size_t count = p->calls < (size_t)most ? p->calls : (size_t)most;
    double sum = 0;
    for (size_t i = p->calls - count; i < p->calls; i++) sum += p->losses[i];
    return sum / (double)count;
}

/* ---- files ---- */

static lr_status path_of(char **out, const lr__pupil *p, const char *folder, const char *ending) {
    lr_status status = LR_OK;
    char name[320];
    snprintf(name, sizeof name, "%s%s", p->linear->name, ending);
    status = lr__path_join(out, folder, name);
    return status;
}

/* Separated by newlines, none at the end. */
static lr_status save_losses(const lr__pupil *p, const char *path) {
    lr_status status = LR_OK;
    lr__output output = {0};
    char *text = NULL;
    size_t used = 0;
    LR_TRY(lr__new(&text, p->calls + 1, NUMBER_ROOM));
    for (size_t i = 0; i < p->calls; i++)
        used += (size_t)snprintf(text + used, NUMBER_ROOM, "%s%.17g", i ? "\n" : "", p->losses[i]);
    LR_TRY(lr__output_begin(&output, path, 0, 1));
    LR_TRY(lr__file_write(output.staging, text, used));
    LR_TRY(lr__output_commit(&output));
done:
    lr__output_end(&output);
    lr__free(text);
    return status;
}

lr_status lr__pupil_save(const lr__pupil *p, const char *folder) {
    lr_status status = LR_OK;
    char *losses = NULL, *factors = NULL;
    LR_TRY(path_of(&losses, p, folder, ".losses"));
    LR_TRY(path_of(&factors, p, folder, ".safetensors"));
    LR_TRY(save_losses(p, losses));
    LR_TRY(lr_linear_save(p->linear, factors, LR_F32, 1));
done:
    lr__free(losses);
    lr__free(factors);
    return status;
}
