/* Norms of the residual stream against losses of a stream that is moved by hand, and the loss they
 * make against differences. */
#include "run/stream_norm.h"
#include "run_fixture.h"

enum { WINDOW = 16, WINDOWS = 2, EDGE = WINDOW / 8 };

static lr_model *model;
static int32_t ids[WINDOW * WINDOWS];
static int64_t width;

static void setup(void) {
    lr_model_info info = {.size = sizeof info};
    model = golden_open("llama-bias-sharded");
    tiny_text(3, WINDOW * WINDOWS, tiny_vocabulary(model), ids);
    CHECK_OK(lr_model_get_info(model, &info));
    width = info.hidden_size;
}

static void teardown(void) { lr_model_free(model); }

/* ---- counting ---- */

typedef struct move {
    int64_t at; /* number of the stream of a window */
    float by;
} move;

static lr_status move_stream(const lr_hook_event *event, void *user) {
    const move *m = user;
    float *stream = event->output.data;
    stream[m->at] += m->by;
    return LR_OK;
}

static double summed_loss(lr_session *session, const int32_t *text) {
    double nll[WINDOW], sum = 0;
    lr_segment segment = {0, WINDOW, text};
    CHECK_OK(lr_session_loss(session, &segment, 1, nll));
    for (int i = 0; i < WINDOW - 1; i++) sum += nll[i];
    return sum;
}

/* Derivatives of a window's summed loss by what leaves a block, each token's times its length. */
static void relative_slopes(int32_t layer, const int32_t *text, double *slopes) {
    float *stream = calloc((size_t)(WINDOW * width), sizeof *stream);
    lr_session *plain = tiny_session(model, 1, LR_STEP_BATCH, 1, NULL);
    lr_segment segment = {0, WINDOW, text};
    lr_hooks *hooks;
    char name[40];
    move m = {0};
    CHECK_OK(lr_session_blocks(plain, &segment, 1, 0, layer + 1, stream));
    lr_session_free(plain);
    CHECK_OK(lr_hooks_new(&hooks));
    snprintf(name, sizeof name, "model.layers.%d", layer);
    CHECK_OK(lr_hook_add(hooks, name, LR_AFTER_FORWARD | LR_HOOK_CHANGES, move_stream, &m, NULL));
    lr_session *session = tiny_session(model, 1, LR_STEP_BATCH, 1, hooks);
    for (int64_t t = 0; t < WINDOW; t++) {
        double square = 0;
        for (int64_t i = t * width; i < (t + 1) * width; i++)
            square += (double)stream[i] * (double)stream[i];
        float step = (float)(sqrt(square / (double)width) / 32);
        for (m.at = t * width; m.at < (t + 1) * width; m.at++) {
            m.by = step;
            double up = summed_loss(session, text);
            m.by = -step;
            double down = summed_loss(session, text);
            slopes[m.at] = sqrt(square) * (up - down) / (2 * (double)step);
        }
    }
    lr_session_free(session);
    lr_hooks_free(hooks);
    free(stream);
}

/* The definition word for word: the middle of a window, lengths clipped about their mean. */
static void add_moments(double *gram, const double *slopes) {
    int64_t kept = WINDOW - 2 * EDGE;
    double length[WINDOW], mean = 0;
    for (int64_t t = EDGE; t < WINDOW - EDGE; t++) {
        length[t] = 0;
        for (int64_t i = 0; i < width; i++)
            length[t] += slopes[t * width + i] * slopes[t * width + i];
        length[t] = sqrt(length[t]);
        mean += length[t] / (double)kept;
    }
    for (int64_t t = EDGE; t < WINDOW - EDGE; t++) {
        double share = fmin(fmax(length[t], 0.1 * mean), 10 * mean) / length[t];
        const double *g = slopes + t * width;
        for (int64_t i = 0; i < width; i++)
            for (int64_t j = 0; j < width; j++)
                gram[i * width + j] += share * share * g[i] * g[j] / (double)(kept * WINDOWS);
    }
}

START_TEST(norms_are_moments_of_what_moving_a_stream_costs) {
    float *norms;
    double *slopes = calloc((size_t)(WINDOW * width), sizeof *slopes);
    CHECK_OK(lr__stream_norms(&norms, model, ids, WINDOWS, WINDOW));
    for (int32_t layer = 0; layer < 2; layer++) {
        double *gram = calloc((size_t)(width * width), sizeof *gram), trace = 0, most = 0;
        for (int32_t w = 0; w < WINDOWS; w++) {
            relative_slopes(layer, ids + w * WINDOW, slopes);
            add_moments(gram, slopes);
        }
        for (int64_t i = 0; i < width; i++) trace += gram[i * width + i];
        for (int64_t i = 0; i < width * width; i++) {
            gram[i] *= 0.7;
            if (i % (width + 1) == 0) gram[i] += 0.3 * trace / (double)width;
            most = fmax(most, fabs(gram[i]));
        }
        ck_assert(most > 0);
        for (int64_t i = 0; i < width * width; i++)
            CHECK_NEAR((double)norms[layer * width * width + i], gram[i], 0.01 * most);
        free(gram);
    }
    free(slopes);
    lr__aligned_free(norms);
}
END_TEST

START_TEST(wrong_windows_are_refused) {
    float *norms = NULL;
    CHECK_FAILS(lr__stream_norms(&norms, model, ids, WINDOWS, 1), LR_E_INVALID, "window 1");
    ck_assert_ptr_null(norms);
}
END_TEST

/* ---- the loss ---- */

enum { ROWS = 3, SMALL = 5, NUMBERS = ROWS * SMALL };

static double loss_of(const float *norm, const float *y, const float *target, double scale,
                      float *slope) {
    lr__arena arena = {0};
    double loss;
    CHECK_OK(lr__stream_fisher(&model->ctx->device, &arena, norm, ROWS, SMALL, y, target, scale,
                               slope, &loss));
    lr__arena_clear(&arena);
    return loss;
}

static void fill(float *norm, float *y, float *target) {
    for (int i = 0; i < SMALL; i++)
        for (int j = 0; j < SMALL; j++) norm[i * SMALL + j] = (float)(i == j ? 3 : 0.25 * (i + j));
    for (int i = 0; i < NUMBERS; i++) {
        y[i] = (float)tiny_uniform((uint64_t)i);
        target[i] = (float)(2 * tiny_uniform((uint64_t)(100 + i)));
    }
}

START_TEST(losses_are_plain_sums) {
    float norm[SMALL * SMALL], y[NUMBERS], target[NUMBERS];
    double expected = 0;
    fill(norm, y, target);
    for (int t = 0; t < ROWS; t++) {
        double square = 0;
        for (int i = t * SMALL; i < (t + 1) * SMALL; i++)
            square += (double)target[i] * (double)target[i];
        for (int i = 0; i < SMALL; i++)
            for (int j = 0; j < SMALL; j++) {
                int a = t * SMALL + i, b = t * SMALL + j;
                expected += ((double)y[a] - (double)target[a]) * (double)norm[i * SMALL + j] *
                            ((double)y[b] - (double)target[b]) / (2 * square);
            }
    }
    CHECK_NEAR(loss_of(norm, y, target, 1, NULL), expected, 1e-5 * expected);
    CHECK_NEAR(loss_of(norm, target, target, 1, NULL), 0, 0);
}
END_TEST

START_TEST(slopes_are_differences) {
    float norm[SMALL * SMALL], y[NUMBERS], target[NUMBERS], slope[NUMBERS];
    double scale = 0.75, step = 1.0 / 64;
    fill(norm, y, target);
    loss_of(norm, y, target, scale, slope);
    for (int i = 0; i < NUMBERS; i++) {
        float kept = y[i];
        y[i] = (float)((double)kept + step);
        double up = loss_of(norm, y, target, 1, NULL), above = (double)y[i];
        y[i] = (float)((double)kept - step);
        double down = loss_of(norm, y, target, 1, NULL), below = (double)y[i];
        y[i] = kept;
        CHECK_NEAR((double)slope[i], scale * (up - down) / (above - below), 1e-4);
    }
}
END_TEST

/* Nothing is relative to a row of zeros, and what is not finite is not hidden. */
START_TEST(rows_without_a_target_count_nothing) {
    float norm[SMALL * SMALL], y[NUMBERS], target[NUMBERS], slope[NUMBERS];
    fill(norm, y, target);
    memset(target, 0, sizeof target);
    ck_assert(loss_of(norm, y, target, 1, slope) == 0);
    for (int i = 0; i < NUMBERS; i++) ck_assert(slope[i] == 0);
    fill(norm, y, target);
    y[1] = NAN;
    ck_assert(isnan(loss_of(norm, y, target, 1, NULL)));
}
END_TEST

Suite *stream_norm_suite(void) {
    Suite *suite = suite_create("stream_norm");
    TCase *tests = tcase_create("stream_norm");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, norms_are_moments_of_what_moving_a_stream_costs);
    tcase_add_test(tests, wrong_windows_are_refused);
    tcase_add_test(tests, losses_are_plain_sums);
    tcase_add_test(tests, slopes_are_differences);
    tcase_add_test(tests, rows_without_a_target_count_nothing);
    suite_add_tcase(suite, tests);
    return suite;
}
