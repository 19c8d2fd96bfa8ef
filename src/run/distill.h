/* What the files of run/distill*.c share: a module that learns, and how. */
#ifndef LR_RUN_DISTILL_H
#define LR_RUN_DISTILL_H

#include "base/arena.h"
#include "model/model.h"

#include <lowrank/distill.h>

typedef struct lr__pupil {
    void *owner;                /* of the hooks */
    lr_linear *linear, *target; /* of the student, its numbers are masters; of the teacher */
    lr_optimizer *optimizer;
    float *best;         /* values of the parameters, one behind the other */
    float *kept;         /* the teacher's outputs on the batch under way */
    double least;        /* what the best values gave; negative: none were judged yet */
    int64_t best_step;   /* steps made then */
    int32_t stale;       /* checks since then */
    int32_t is_done;     /* stopped early, with its best values */
    double *losses;      /* of each call */
    size_t calls, room;  /* of them */
    double energy;       /* of the last call's target */
    double held, start;  /* held-out losses, last and first; negative: none */
    double sum, numbers; /* of the measurement under way */
} lr__pupil;

/* Refuses a module of the student that shares a parameter with another. */
lr_status lr__pupil_check(const lr__graph *graph, int32_t index);
/* Takes up a module of both models; the student gets masters. */
lr_status lr__pupil_begin(lr__pupil *p, lr_model *student, const lr_model *teacher,
                          const char *name, const lr_distill_opts *opts);
void lr__pupil_clear(lr__pupil *p);

/* What the module makes of x [rows, in], against target [rows, out]. */
typedef struct lr__example {
    lr__arena *arena;
    const float *x, *target;
    int64_t rows;
} lr__example;

/* Adds to the sums of a measurement. */
lr_status lr__pupil_measure(lr__pupil *p, const lr__example *example);
/* The loss of a call, and gradients. `due` is called between the two, where the loss is known and
 * the values are those it belongs to; a module that stops there gets no gradients. */
typedef lr_status (*lr__pupil_fn)(lr__pupil *p);
lr_status lr__pupil_learn(lr__pupil *p, const lr__example *example, lr__pupil_fn due);

/* Mean of the last losses, `most` of them or as many as there are. */
double lr__pupil_mean(const lr__pupil *p, int32_t most);
/* Keeps the values when they are the best so far; stops behind `patience` others, 0: never. */
void lr__pupil_judge(lr__pupil *p, double value, int32_t patience);
/* Puts the best values back. */
void lr__pupil_restore(lr__pupil *p);
/* All of them in a file, in place of an older one, `step` steps made; and back, bit for bit, from a
 * file of `most` steps or fewer. Nothing has changed where a file cannot be taken up. */
lr_status lr__pupils_save(const lr__pupil *pupils, int32_t count, int64_t step, const char *path);
lr_status lr__pupils_restore(lr__pupil *pupils, int32_t count, int64_t most, int64_t *step,
                             const char *path);
/* `<module>.losses` and `<module>.safetensors`, in place of older ones. */
lr_status lr__pupil_save(const lr__pupil *p, const char *folder);

#endif
