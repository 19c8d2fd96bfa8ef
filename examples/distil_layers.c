/*
 * Low-rank feature mimicking by a hook of the host's own: for each layer a pattern matches, two
 * thin factors from the SVD of its weight are trained to give the layer's own outputs on the inputs
 * it really gets, while the model runs a text. In the end they take the layers' places.
 *
 *     cc distil_layers.c $(pkg-config --cflags --libs lowrank) -o distil_layers
 *     ./distil_layers MODEL '*.mlp.up_proj' 256 TEXT STEPS
 */
#include <lowrank.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 64, MOST_LAYERS = 512, MAX_BYTES = 1 << 18 };

typedef struct student {
    lr_linear *linear;
    lr_optimizer *optimizer;
    double first, last; /* mean squared errors */
} student;

typedef struct distillation {
    lr_ctx *ctx;
    int64_t rank;
    int count;
    student students[MOST_LAYERS];
} distillation;

/* The start: the best approximation of the weight alone. */
static lr_status begin(student *s, const distillation *d, const lr_linear *layer) {
    int64_t shape[2] = {lr_linear_out(layer), lr_linear_in(layer)};
    float *weight = malloc((size_t)(shape[0] * shape[1]) * sizeof *weight);
    lr_optimizer_opts learning;
    lr_linear_opts opts;
    lr_tensor view;
    lr_status status = weight ? lr_linear_densify(layer, weight) : LR_E_NOMEM;
    lr_linear_opts_init(&opts, sizeof opts);
    opts.rank = d->rank;
    opts.name = lr_linear_name(layer);
    lr_optimizer_opts_init(&learning, sizeof learning);
    learning.learning_rate = 1e-3;
    learning.clip = 2;
    if (status >= 0) status = lr_tensor_view(&view, weight, LR_F32, 2, shape);
    if (status >= 0) status = lr_linear_from_weight(&s->linear, d->ctx, &view, &opts);
    if (status >= 0) status = lr_optimizer_new(&s->optimizer, d->ctx, &learning);
    if (status >= 0) status = lr_optimizer_add_linear(s->optimizer, s->linear, NULL, NULL, NULL);
    free(weight);
    return status;
}

/* One step on what the layer just read and gave: mean squared error and its derivative. */
static lr_status teach(student *s, const lr_tensor *x, const lr_tensor *wanted) {
    size_t count = (size_t)(wanted->shape[0] * wanted->shape[1]);
    const float *target = wanted->data;
    float *y = malloc(count * sizeof *y);
    double error = 0;
    lr_tensor view;
    lr_status status = y ? lr_tensor_view(&view, y, LR_F32, 2, wanted->shape) : LR_E_NOMEM;
    if (status >= 0) status = lr_linear_apply(s->linear, x, &view);
    for (size_t i = 0; status >= 0 && i < count; i++) {
        double off = (double)y[i] - (double)target[i];
        error += off * off / (double)count;
        y[i] = (float)(2 * off / (double)count);
    }
    if (status >= 0) status = lr_linear_backward(s->linear, x, &view, NULL, s->optimizer);
    if (status >= 0) status = lr_optimizer_step(s->optimizer, NULL);
    int64_t step = lr_optimizer_steps(s->optimizer);
    if (step == 1) s->first = error;
    s->last = error;
    free(y);
    return status;
}

/* The student of a layer, made when the layer is first seen. */
static lr_status student_of(student **out, distillation *d, const lr_linear *layer) {
    for (int i = 0; i < d->count; i++)
        if (!strcmp(lr_linear_name(d->students[i].linear), lr_linear_name(layer))) {
            *out = &d->students[i];
            return LR_OK;
        }
    if (d->count == MOST_LAYERS) return LR_E_USER;
    *out = &d->students[d->count];
    lr_status status = begin(*out, d, layer);
    if (status >= 0) d->count++;
    return status;
}

static lr_status mimic(const lr_hook_event *event, void *user) {
    student *s;
    lr_status status = student_of(&s, user, event->linear);
    return status < 0 ? status : teach(s, &event->input, &event->output);
}

static int fail(void) {
    fprintf(stderr, "%s\n", lr_last_error());
    return 1;
}

int main(int argc, char **argv) {
    static char text[MAX_BYTES];
    static int32_t ids[MAX_BYTES];
    static distillation d;
    lr_model *model;
    lr_hooks *hooks;
    lr_session *session;
    lr_session_opts opts;
    const lr_tokenizer *tokenizer;
    size_t count;

    if (argc != 6) {
        fprintf(stderr, "usage: %s MODEL PATTERN RANK TEXT STEPS\n", argv[0]);
        return 2;
    }
    FILE *file = fopen(argv[4], "rb");
    size_t bytes = file ? fread(text, 1, sizeof text, file) : 0;
    if (file) fclose(file);

    d.rank = atoll(argv[3]);
    if (lr_ctx_new(&d.ctx, NULL) < 0 || lr_model_open(&model, d.ctx, argv[1], NULL) < 0 ||
        lr_model_tokenizer(model, &tokenizer) < 0 ||
        lr_tokenizer_encode(tokenizer, text, bytes, ids, MAX_BYTES, &count) < 0 ||
        lr_hooks_new(&hooks) < 0 ||
        lr_hook_add(hooks, argv[2], LR_AFTER_FORWARD, mimic, &d, NULL) < 0)
        return fail();
    lr_session_opts_init(&opts, sizeof opts);
    opts.kind = LR_STEP_BATCH;
    opts.no_cache = 1;
    opts.hooks = hooks;
    if (lr_session_new(&session, model, &opts) < 0) return fail();

    int32_t window = count < WINDOW ? (int32_t)count : WINDOW;
    for (int i = 0; i < atoi(argv[5]); i++) {
        lr_segment segment = {0, window, ids + (size_t)i * WINDOW % (count - (size_t)window + 1)};
        if (lr_session_forward(session, &segment, 1, NULL) < 0) return fail();
    }
    for (int i = 0; i < d.count; i++) {
        student *s = &d.students[i];
        if (lr_model_set_linear(model, lr_linear_name(s->linear), s->linear) < 0) return fail();
        printf("%s: error %.6g, then %.6g\n", lr_linear_name(s->linear), s->first, s->last);
        lr_optimizer_free(s->optimizer);
        lr_linear_free(s->linear);
    }
    lr_session_free(session);
    lr_hooks_free(hooks);
    lr_model_free(model);
    lr_ctx_free(d.ctx);
    return 0;
}
