/* Generation: greedy and drawn tokens against the logits they come from, rows that do not know of
 * each other, stops and limits. */
#include "run/sample.h"
#include "run_fixture.h"

enum { MOST = 24, ROWS = 5 };

static lr_model *model;
static int32_t vocabulary;

static void setup(void) {
    model = golden_open("llama-tied");
    vocabulary = tiny_vocabulary(model);
}

static void teardown(void) { lr_model_free(model); }

static lr_generate_opts options(void) {
    lr_generate_opts opts;
    lr_generate_opts_init(&opts, sizeof opts);
    opts.max_tokens = MOST;
    return opts;
}

typedef struct prompts {
    int32_t tokens[ROWS][8];
    lr_segment segments[ROWS];
} prompts;

/* Rows of 1, 2, ... tokens. */
static void prompts_of(prompts *p) {
    for (int32_t r = 0; r < ROWS; r++) {
        tiny_text(10 + r, 8, vocabulary, p->tokens[r]);
        p->segments[r] = (lr_segment){77, 1 + r, p->tokens[r]}; /* `row` is ignored */
    }
}

START_TEST(test_greedy) {
    lr_generate_opts opts = options();
    prompts p;
    int32_t ids[ROWS * MOST], counts[ROWS];
    float *logits = malloc((size_t)vocabulary * sizeof *logits);
    prompts_of(&p);
    CHECK_OK(lr_generate(model, p.segments, ROWS, &opts, ids, counts, NULL, NULL));
    for (int32_t r = 0; r < ROWS; r++) {
        lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
        lr_segment segment = {0, p.segments[r].count, p.tokens[r]};
        ck_assert_int_eq(counts[r], MOST);
        for (int32_t i = 0; i < MOST; i++) {
            int32_t best = 0;
            CHECK_OK(lr_session_forward(session, &segment, 1, logits));
            for (int32_t v = 1; v < vocabulary; v++)
                if (logits[v] > logits[best]) best = v;
            ck_assert_int_eq(ids[r * MOST + i], best);
            segment = (lr_segment){0, 1, &ids[r * MOST + i]};
        }
        lr_session_free(session);
    }
    free(logits);
}
END_TEST

/* A row alone is the row in a batch: to that end its number goes with it. */
START_TEST(test_rows_alone) {
    lr_generate_opts opts = options();
    prompts p;
    int32_t ids[ROWS * MOST], counts[ROWS], alone[ROWS * MOST], few[ROWS];
    opts.temperature = 1.3;
    opts.seed = 9;
    for (int k = 0; k < 3; k++) {
        opts.top_k = k == 1 ? 20 : 0;
        opts.top_p = k == 2 ? 0.8 : 1;
        prompts_of(&p);
        CHECK_OK(lr_generate(model, p.segments, ROWS, &opts, ids, counts, NULL, NULL));
        for (int32_t rows = 1; rows < ROWS; rows++) {
            CHECK_OK(lr_generate(model, p.segments, rows, &opts, alone, few, NULL, NULL));
            ck_assert_mem_eq(alone, ids, sizeof *ids * (size_t)(rows * MOST));
        }
        /* Other neighbours, of other lengths. */
        for (int32_t r = 0; r < ROWS - 1; r++) p.segments[r].count = 7 - r;
        CHECK_OK(lr_generate(model, p.segments, ROWS, &opts, alone, few, NULL, NULL));
        ck_assert_mem_eq(alone + (ROWS - 1) * MOST, ids + (ROWS - 1) * MOST, sizeof *ids * MOST);
    }
}
END_TEST

START_TEST(test_seeds) {
    lr_generate_opts opts = options();
    prompts p;
    int32_t ids[3][MOST], count;
    prompts_of(&p);
    opts.temperature = 1;
    for (int k = 0; k < 3; k++) {
        opts.seed = k == 2 ? 1 : 0;
        CHECK_OK(lr_generate(model, p.segments, 1, &opts, ids[k], &count, NULL, NULL));
    }
    ck_assert_mem_eq(ids[0], ids[1], sizeof ids[0]);
    ck_assert(memcmp(ids[0], ids[2], sizeof ids[0]) != 0);
    opts.temperature = 0; /* greedy knows no seed */
    for (int k = 0; k < 2; k++) {
        opts.seed = (uint64_t)k;
        CHECK_OK(lr_generate(model, p.segments, 1, &opts, ids[k], &count, NULL, NULL));
    }
    ck_assert_mem_eq(ids[0], ids[1], sizeof ids[0]);
}
END_TEST

/* --- distributions --- */

static lr__sampler sampler_of(double temperature, int32_t top_k, double top_p, int32_t count) {
    lr__sampler s = {.kernels = model->ctx->device.kernels,
                     .temperature = temperature,
                     .top_k = top_k,
                     .top_p = top_p};
    CHECK_OK(lr__sampler_begin(&s, count));
    return s;
}

typedef struct ranked {
    double p;
    int32_t id;
} ranked;

static int by_rank(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return x->id - y->id;
}

/* Exact probabilities after top_k, then the least nucleus of what is left. */
static void exact(const float *logits, int32_t count, double temperature, int32_t top_k,
                  double top_p, double *p) {
    ranked r[64];
    double total = 0, reached = 0;
    int32_t kept = top_k ? top_k : count;
    for (int32_t i = 0; i < count; i++) r[i] = (ranked){exp((double)logits[i] / temperature), i};
    qsort(r, (size_t)count, sizeof *r, by_rank);
    for (int32_t i = 0; i < kept; i++) total += r[i].p;
    for (int32_t i = 0; i < kept; i++)
        if ((reached += r[i].p) >= top_p * total * (1 - 1e-7)) {
            kept = i + 1;
            break;
        }
    for (int32_t i = 0; i < count; i++) p[i] = 0;
    for (int32_t i = 0; i < kept; i++) p[r[i].id] = r[i].p / reached;
}

START_TEST(test_distribution) {
    static const struct {
        double temperature;
        int32_t top_k;
        double top_p;
    } cases[] = {
        {1, 0, 1},   {0.5, 0, 1},   {2, 0, 1},    {1, 5, 1}, {1.5, 12, 1},
        {1, 0, 0.9}, {0.7, 0, 0.5}, {1, 10, 0.8}, {1, 1, 1}, {1, 0, 1e-9},
    };
    enum { COUNT = 40, DRAWS = 40000 };
    float logits[COUNT];
    for (int32_t i = 0; i < COUNT; i++) logits[i] = (float)(2.5 * tiny_uniform((uint64_t)i + 99));
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        double p[COUNT], chi = 0;
        int32_t seen[COUNT] = {0}, degrees = -1;
        lr__sampler s = sampler_of(cases[k].temperature, cases[k].top_k, cases[k].top_p, COUNT);
        exact(logits, COUNT, cases[k].temperature, cases[k].top_k, cases[k].top_p, p);
        for (uint64_t d = 0; d < DRAWS; d++)
            seen[lr__sample(&s, logits, (double)(tiny_mix(d + k * 1000000) >> 11) * 0x1p-53)]++;
        for (int32_t i = 0; i < COUNT; i++) {
            double expected = p[i] * DRAWS;
            if (p[i] == 0)
                ck_assert_int_eq(seen[i], 0);
            else
                chi += (seen[i] - expected) * (seen[i] - expected) / expected, degrees++;
        }
        /* Mean `degrees`, variance twice that; six standard deviations and a little. */
        ck_assert_msg(chi < degrees + 6 * sqrt(2.0 * degrees) + 10, "case %zu: %g of %d", k, chi,
                      degrees);
        lr__sampler_end(&s);
    }
}
END_TEST

/* Equal logits: the lower id first, wherever candidates are cut off. */
START_TEST(test_ties) {
    float logits[6] = {1, 3, 3, 0, 3, 3};
    lr__sampler s = sampler_of(0, 0, 1, 6);
    ck_assert_int_eq(lr__sample(&s, logits, 0.99), 1);
    s.temperature = 1;
    s.top_k = 2;
    ck_assert_int_eq(lr__sample(&s, logits, 0.25), 1);
    ck_assert_int_eq(lr__sample(&s, logits, 0.75), 2);
    ck_assert_int_eq(lr__sample(&s, logits, 0.9999999), 2);
    s.top_k = 0;
    s.top_p = 0.6; /* of 0.945 on the four: 1, 2 and 4 */
    ck_assert_int_eq(lr__sample(&s, logits, 0.9999999), 4);
    s.top_p = 1;
    s.temperature = 1e-300;
    ck_assert_int_eq(lr__sample(&s, logits, 0.9999999), 1);
    logits[1] = logits[2] = -INFINITY; /* suppressed */
    s.temperature = 1;
    ck_assert_int_eq(lr__sample(&s, logits, 0), 0);
    ck_assert_int_eq(lr__sample(&s, logits, 0.9999999), 5);
    lr__sampler_end(&s);
}
END_TEST

/* Through the model: the first tokens of many rows follow the softmax of one prompt. */
START_TEST(test_rows_are_draws) {
    enum { MANY = 4000 };
    lr_segment *segments = malloc(MANY * sizeof *segments);
    int32_t *ids = malloc(MANY * sizeof *ids), *counts = malloc(MANY * sizeof *counts), id = 5;
    float *logits = malloc((size_t)vocabulary * sizeof *logits);
    double chi = 0, total = 0;
    lr_generate_opts opts = options();
    opts.max_tokens = 1;
    opts.temperature = 0.8;
    opts.seed = 3;
    for (int32_t r = 0; r < MANY; r++) segments[r] = (lr_segment){0, 1, &id};
    CHECK_OK(lr_generate(model, segments, MANY, &opts, ids, counts, NULL, NULL));
    lr_session *session = tiny_session(model, 1, LR_STEP_ROWS, 0, NULL);
    CHECK_OK(lr_session_forward(session, segments, 1, logits));
    for (int32_t v = 0; v < vocabulary; v++) total += exp((double)logits[v] / 0.8);
    for (int32_t v = 0; v < vocabulary; v++) {
        double expected = MANY * exp((double)logits[v] / 0.8) / total, found = 0;
        for (int32_t r = 0; r < MANY; r++) found += ids[r] == v;
        chi += (found - expected) * (found - expected) / expected;
    }
    double degrees = vocabulary - 1;
    ck_assert_msg(chi < degrees + 6 * sqrt(2 * degrees) + 10, "%g of %g", chi, degrees);
    lr_session_free(session);
    free(segments);
    free(ids);
    free(counts);
    free(logits);
}
END_TEST

/* --- stops and limits --- */

START_TEST(test_stop) {
    lr_generate_opts opts = options();
    prompts p;
    int32_t free_ids[ROWS * MOST], ids[ROWS * MOST], counts[ROWS], stops[3] = {-5, 1 << 30, 0};
    prompts_of(&p);
    opts.temperature = 1.5;
    CHECK_OK(lr_generate(model, p.segments, ROWS, &opts, free_ids, counts, NULL, NULL));
    stops[2] = free_ids[2 * MOST + 7];
    opts.stop = stops;
    opts.stop_count = 3;
    CHECK_OK(lr_generate(model, p.segments, ROWS, &opts, ids, counts, NULL, NULL));
    for (int32_t r = 0; r < ROWS; r++) { /* as before, up to the stop, which is kept out */
        int32_t until = 0;
        while (until < MOST && free_ids[r * MOST + until] != stops[2]) until++;
        ck_assert_int_eq(counts[r], until);
        ck_assert_mem_eq(ids + r * MOST, free_ids + r * MOST, sizeof *ids * (size_t)until);
    }
    ck_assert_int_le(counts[2], 7);
    opts.suppress_stop = 1;
    CHECK_OK(lr_generate(model, p.segments, ROWS, &opts, ids, counts, NULL, NULL));
    for (int32_t r = 0; r < ROWS; r++) {
        ck_assert_int_eq(counts[r], MOST);
        for (int32_t i = 0; i < MOST; i++) ck_assert_int_ne(ids[r * MOST + i], stops[2]);
    }
}
END_TEST

START_TEST(test_everything_stops) {
    lr_generate_opts opts = options();
    prompts p;
    int32_t ids[MOST], count, *stops = malloc((size_t)vocabulary * sizeof *stops);
    prompts_of(&p);
    for (int32_t i = 0; i < vocabulary; i++) stops[i] = i;
    opts.stop = stops;
    opts.stop_count = vocabulary;
    CHECK_OK(lr_generate(model, p.segments, 1, &opts, ids, &count, NULL, NULL));
    ck_assert_int_eq(count, 0);
    opts.suppress_stop = 1;
    ck_assert_int_lt(lr_generate(model, p.segments, 1, &opts, ids, &count, NULL, NULL), 0);
    free(stops);
}
END_TEST

typedef struct heard {
    int32_t ids[ROWS][MOST], counts[ROWS];
    int left;
} heard;

static int32_t hear(int32_t row, int32_t id, void *user) {
    heard *h = user;
    h->ids[row][h->counts[row]++] = id;
    return --h->left == 0;
}

START_TEST(test_callback) {
    lr_generate_opts opts = options();
    prompts p;
    int32_t ids[ROWS * MOST], counts[ROWS];
    heard h = {.left = -1};
    prompts_of(&p);
    CHECK_OK(lr_generate(model, p.segments, ROWS, &opts, ids, counts, hear, &h));
    ck_assert_mem_eq(h.ids, ids, sizeof ids);
    ck_assert_mem_eq(h.counts, counts, sizeof counts);
    memset(&h, 0, sizeof h);
    h.left = 2 * ROWS + 3; /* the third row of the third step */
    CHECK_FAILS(lr_generate(model, p.segments, ROWS, &opts, ids, counts, hear, &h), LR_E_CANCELLED,
                "cancelled at token 3 of row 2");
    for (int32_t r = 0; r < ROWS; r++) {
        ck_assert_int_eq(counts[r], r < 3 ? 3 : 2);
        ck_assert_mem_eq(ids + r * MOST, h.ids[r], sizeof *ids * (size_t)counts[r]);
    }
}
END_TEST

START_TEST(test_context) {
    lr_generate_opts opts = options();
    int32_t text[64], ids[64], count;
    lr_segment prompt = {0, 40, text};
    tiny_text(1, 64, vocabulary, text);
    CHECK_OK(lr_generate(model, &prompt, 1, &opts, ids, &count, NULL, NULL)); /* 40 + 24 of 64 */
    prompt.count = 41;
    CHECK_FAILS(lr_generate(model, &prompt, 1, &opts, ids, &count, NULL, NULL), LR_E_INVALID,
                "a prompt of 41 tokens and 24 new ones exceed the context of 64");
    ck_assert_int_eq(count, 0);
    opts.max_tokens = INT32_MAX;
    CHECK_FAILS(lr_generate(model, &prompt, 1, &opts, ids, &count, NULL, NULL), LR_E_INVALID,
                "exceed the context");
}
END_TEST

START_TEST(test_refused) {
    prompts p;
    int32_t ids[ROWS * MOST], counts[ROWS];
    lr_generate_opts opts = options();
    prompts_of(&p);
#define REFUSED(member, value, text)                                                     \
    do {                                                                                 \
        lr_generate_opts bad = options();                                                \
        bad.member = value;                                                              \
        CHECK_FAILS(lr_generate(model, p.segments, ROWS, &bad, ids, counts, NULL, NULL), \
                    LR_E_INVALID, text);                                                 \
    } while (0)
    REFUSED(max_tokens, 0, "max_tokens 0");
    REFUSED(max_tokens, -1, "max_tokens -1");
    REFUSED(temperature, -1, "temperature -1");
    REFUSED(temperature, NAN, "temperature");
    REFUSED(temperature, INFINITY, "temperature inf");
    REFUSED(top_k, -1, "top_k -1");
    REFUSED(top_p, 0, "top_p 0");
    REFUSED(top_p, 1.5, "top_p 1.5");
    REFUSED(top_p, NAN, "top_p");
    REFUSED(stop_count, 1, "generate");
    REFUSED(stop_count, -1, "generate");
#undef REFUSED
    CHECK_FAILS(lr_generate(model, p.segments, 0, &opts, ids, counts, NULL, NULL), LR_E_INVALID,
                "needed");
    p.segments[3].count = 0;
    CHECK_FAILS(lr_generate(model, p.segments, ROWS, &opts, ids, counts, NULL, NULL), LR_E_INVALID,
                "prompt 3 is empty");
    p.segments[3].count = 4;
    p.tokens[3][2] = vocabulary;
    CHECK_FAILS(lr_generate(model, p.segments, ROWS, &opts, ids, counts, NULL, NULL), LR_E_INVALID,
                "131");
    p.tokens[3][2] = -1;
    CHECK_FAILS(lr_generate(model, p.segments, ROWS, &opts, ids, counts, NULL, NULL), LR_E_INVALID,
                "-1");
}
END_TEST

Suite *generate_suite(void) {
    Suite *suite = suite_create("generate");
    TCase *tests = tcase_create("generate");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, test_greedy);
    tcase_add_test(tests, test_rows_alone);
    tcase_add_test(tests, test_seeds);
    tcase_add_test(tests, test_distribution);
    tcase_add_test(tests, test_ties);
    tcase_add_test(tests, test_rows_are_draws);
    tcase_add_test(tests, test_stop);
    tcase_add_test(tests, test_everything_stops);
    tcase_add_test(tests, test_callback);
    tcase_add_test(tests, test_context);
    tcase_add_test(tests, test_refused);
    suite_add_tcase(suite, tests);
    return suite;
}
