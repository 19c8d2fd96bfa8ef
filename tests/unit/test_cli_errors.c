/* The command when things go wrong: exit codes, messages, and that outputs stay intact. */
#include "cli_fixture.h"

START_TEST(usage_is_refused_before_any_work) {
    const char *text = cli_text(), *out = scratch_path("out");
    RUN(2, "--quiet"); /* no command */
    RUN_FAILS(2, "did you mean eval?", "evil", "/nowhere");
    RUN_FAILS(2, "MODEL: missing", "eval");
    RUN_FAILS(2, "--text FILE: missing", "tokenize", "/nowhere");
    RUN_FAILS(2, "did you mean --window?", "eval", "/nowhere", "--text", text, "--widnow", "16");
    RUN_FAILS(2, "no such option", "eval", "/nowhere", "-x");
    RUN_FAILS(2, "expected a whole number of at least 2", "eval", "/nowhere", "--window", "0");
    RUN_FAILS(2, "--window: 1e3", "eval", "/nowhere", "--window=1e3");
    RUN_FAILS(2, "--window: 99999999999", "eval", "/nowhere", "--window=99999999999");
    RUN_FAILS(2, "takes no value", "eval", "/nowhere", "--json=1");
    RUN_FAILS(2, "one MODEL is expected", "info", "/nowhere", "/elsewhere");
    RUN_FAILS(2, "--seed: -1", "info", "/nowhere", "--seed", "-1");
    RUN_FAILS(2, "expected f32, bf16, f16 or q8_0", "info", "/nowhere", "--dtype", "f64");
    RUN_FAILS(2, "such as 800M or 4G", "info", "/nowhere", "--memory", "4Q");
    RUN_FAILS(2, "expected a number above 0 and at most 1", "plan", "/nowhere", "--out", out,
              "--keep", "60");
    RUN_FAILS(2, "expected exactly one", "plan", "/nowhere", "--out", out);
    RUN_FAILS(2, "expected exactly one", "plan", "/nowhere", "--out", out, "--keep=.5",
              "--keep-bytes=8M");
    RUN_FAILS(2, "nothing to share out", "plan", "/nowhere", "--out", out, "--ranks=8",
              "--allocation=energy");
    RUN_FAILS(2, "expected uniform, energy,", "plan", "/nowhere", "--out", out, "--keep=.5",
              "--allocation=entropy");
    RUN_FAILS(2, "--stats STATS is missing", "plan", "/nowhere", "--out", out, "--keep=.5",
              "--allocation=auto");
    RUN_FAILS(2, "--text: only", "plan", "/nowhere", "--out", out, "--keep=.5", "--text", text);
    RUN_FAILS(2, "only the command plan chooses", "compress", "/nowhere", "--out", out, "--keep=.5",
              "--allocation=auto");
    RUN_FAILS(2, "--weights is missing", "compress", "/nowhere", "--out", out, "--keep=.5",
              "--allocation=sensitivity");
    RUN_FAILS(2, "ranks stand in the plan", "compress", "/nowhere", "--out", out, "--plan", out,
              "--allocation=energy");
    RUN_FAILS(2, "expected pca", "compress", "/nowhere", "--out", out, "--keep=.5", "--method=x");
    RUN_FAILS(2, "--alpha: only --method asvd", "compress", "/nowhere", "--out", out, "--keep=.5",
              "--alpha=.5");
    RUN_FAILS(2, "expected mean, max or rms", "compress", "/nowhere", "--out", out, "--keep=.5",
              "--method=asvd", "--statistic=median");
    RUN_FAILS(2, "nothing to learn from", "collect", "/nowhere", "--out", out, "--self-text", "0");
    RUN_FAILS(2, "weight 0", "collect", "/nowhere", "--out", out, "--text", "/nowhere:0");
    RUN_FAILS(2, "expected one of the two", "compress", "/nowhere", "--out", out, "--keep=.5",
              "--stats", text, "--text", text);
    RUN_FAILS(2, "expected with --sequential anchored", "compress", "/nowhere", "--out", out,
              "--keep=.5", "--sequential=shift", "--blend=.5");
    RUN_FAILS(2, "--plan is expected", "compress", "/nowhere", "--out", out, "--keep=.5",
              "--memory=1G", "--allocation=energy");
    RUN_FAILS(2, "svd looks at no inputs", "compress", "/nowhere", "--out", out, "--keep=.5",
              "--sequential=shift", "--method=svd");
    RUN_FAILS(2, "--method kfac: needs gradients of the whole model", "compress", "/nowhere",
              "--out", out, "--keep=.5", "--memory=1G", "--method=kfac");
    RUN_FAILS(2, "--allocation first-order: --stats STATS is missing", "plan", "/nowhere", "--out",
              out, "--keep=.5", "--allocation=first-order");
    RUN_FAILS(2, "are in no file", "compress", "/nowhere", "--out", out, "--keep=.5",
              "--sequential=shift", "--stats", text);
}
END_TEST

START_TEST(missing_values_are_named) {
    START("eval", cli_model(), "--text");
    cli_wait(1);
    ck_assert_int_eq(run.code, 2);
    ck_assert_ptr_nonnull(strstr(run.err, "--text: no value, expected FILE"));
    RUN_FAILS(2, "--text=--window", "eval", cli_model(), "--text", "--window", "16");
}
END_TEST

START_TEST(requests_that_make_no_sense) {
    const char *out = scratch_path("out");
    RUN_FAILS(2, "window", "eval", cli_model(), "--text", cli_text(), "--window", "60000");
    RUN_FAILS(2, "at least one window", "collect", cli_model(), "--text", cli_text(), "--window",
              "60000", "--out", out);
    RUN_FAILS(2, "context", "generate", cli_model(), "--prompt", "the", "--max-tokens", "64");
    RUN_FAILS(2, "keep", "plan", cli_model(), "--keep", "0.000001", "--out", out);
    RUN_FAILS(2, "no linear module matches", "plan", cli_model(), "--keep", "0.5", "--match",
              "nothing", "--out", out);
    RUN_FAILS(2, "rank 500", "plan", cli_model(), "--ranks", "{\"q_proj\": 500}", "--out", out);
    RUN_FAILS(2, "--ranks: line 1", "plan", cli_model(), "--ranks", "{\"q_proj\": 5", "--out", out);
    RUN_FAILS(2, "expected an object", "plan", cli_model(), "--ranks", "[5]", "--out", out);
    ck_assert(!cli_exists(out));
    RUN_FAILS(2, "memory of 1.0 MB is too little", "compress", cli_model(), "--keep=.5", "--out",
              scratch_path("small"), "--self-text=0", "--text", cli_text(), "--window=16",
              "--memory=1M");
    ck_assert(!cli_exists(scratch_path(".small.lowrank-work")));
}
END_TEST

START_TEST(bad_inputs_are_three) {
    const char *out = scratch_path("out"), *text = cli_text();
    const char *empty = scratch_write("empty", "", 0);
    static char model[400000];
    size_t bytes = scratch_read(cli_model(), model, sizeof model);
    ck_assert_uint_lt(bytes, sizeof model);
    const char *cut = scratch_write("cut.gguf", model, bytes / 2);
    RUN_FAILS(3, "/nowhere", "info", "/nowhere");
    RUN_FAILS(3, "cut.gguf", "info", cut);
    RUN_FAILS(3, "text.txt", "info", text);
    RUN_FAILS(3, "/nowhere", "eval", cli_model(), "--text", "/nowhere");
    RUN_FAILS(3, "empty", "eval", cli_model(), "--text", empty);
    RUN_FAILS(3, "Is a directory", "eval", cli_model(), "--text", scratch);
    RUN_FAILS(3, "/nowhere", "eval", cli_model(), "--text", text, "--reference", "/nowhere");
    RUN_FAILS(3, "tokenizer", "tokenize", cli_golden("llama-f32"), "--text", text);
    RUN_FAILS(3, "text.txt", "compress", cli_model(), "--keep=0.5", "--stats", text, "--out", out);
    RUN_FAILS(3, "text.txt", "compress", cli_model(), "--plan", text, "--out", out, "--method=svd");
    RUN_FAILS(3, "--ranks", "plan", cli_model(), "--ranks", "/nowhere", "--out", out);
    RUN_FAILS(3, "--ranks", "plan", cli_model(), "--ranks", text, "--out", out);
    RUN_FAILS(3, "/nowhere", "collect", cli_model(), "--text", text, "--text", "/nowhere", "--out",
              out);
    ck_assert(!cli_exists(out));
}
END_TEST

START_TEST(outputs_that_cannot_be_written_are_one) {
    char below[700];
    RUN_FAILS(1, "/nowhere", "plan", cli_model(), "--keep=.5", "--out", "/nowhere/plan");
    snprintf(below, sizeof below, "%s/plan", cli_text());
    RUN_FAILS(1, "text.txt", "plan", cli_model(), "--keep=.5", "--out", below);
    RUN_FAILS(1, "/nowhere", "compress", cli_model(), "--keep=.5", "--out", "/nowhere/model");
    const char *const words[] = {"info", cli_model(), "--json", NULL};
    cli_start(words, "/dev/full");
    cli_wait(0);
    ck_assert_int_eq(run.code, 1);
    ck_assert_ptr_nonnull(strstr(run.err, "standard output"));
}
END_TEST

/* Every number of the second half of a file becomes a NaN. */
static const char *poison(const char *from, const char *name) {
    static char data[400000];
    size_t bytes = scratch_read(from, data, sizeof data);
    ck_assert_uint_lt(bytes, sizeof data);
    memset(data + bytes / 2, 0xFF, bytes - bytes / 2);
    return scratch_write(name, data, bytes);
}

START_TEST(conversions_that_cannot_be) {
    const char *out = scratch_path("out.gguf"), *small = scratch_path("small");
    const char *there = scratch_write("there.gguf", "precious", 8);
    RUN_FAILS(2, "--out PATH: missing", "convert", cli_model());
    RUN_FAILS(2, "ends in .gguf", "convert", cli_model(), "--out", scratch_path("m.safetensors"));
    RUN_FAILS(2, "expected f32", "convert", cli_model(), "--out", out, "--dtype", "q4_0");
    RUN_FAILS(3, "/nowhere", "convert", "/nowhere", "--out", out);
    RUN_FAILS(1, "/nowhere", "convert", cli_model(), "--out", "/nowhere/out.gguf");
    RUN_FAILS(1, "--force", "convert", cli_model(), "--out", there);
    ck_assert_int_eq(mkdir(scratch_path("dir.gguf"), 0700), 0);
    RUN_FAILS(2, "is a folder", "convert", cli_model(), "--out", scratch_path("dir.gguf"),
              "--force");
    RUN_JSON("compress", cli_model(), "--keep", "0.5", "--method", "svd", "--out", small);
    RUN_FAILS(3, "densify", "convert", small, "--out", out);
    RUN_FAILS(4, "nan at", "convert", poison(cli_model(), "nan.gguf"), "--out", out);
    ck_assert(!cli_exists(out));
}
END_TEST

START_TEST(existing_outputs_need_force) {
    char kept[64] = "";
    const char *plan = scratch_write("plan", "precious", 8), *folder = scratch_path("small");
    RUN_FAILS(1, "--force", "plan", cli_model(), "--keep", "0.5", "--out", plan);
    RUN_FAILS(1, "--force", "collect", cli_model(), "--out", plan);
    scratch_read(plan, kept, sizeof kept);
    ck_assert_str_eq(kept, "precious");
    RUN_JSON("plan", cli_model(), "--keep", "0.5", "--out", plan, "--force");
    RUN_JSON("compress", cli_model(), "--plan", plan, "--method", "svd", "--out", folder);
    RUN_FAILS(1, "--force", "compress", cli_model(), "--keep", "0.6", "--method", "svd", "--out",
              folder);
    RUN_JSON("info", folder);
    double before = cli_number("parameters");
    RUN_JSON("compress", cli_model(), "--keep", "0.6", "--method", "svd", "--out", folder,
             "--force");
    RUN_JSON("info", folder);
    ck_assert_double_gt(cli_number("parameters"), before);
}
END_TEST

START_TEST(numbers_that_are_not_finite_are_four) {
    const char *out = scratch_path("out"), *model = poison(cli_model(), "nan.gguf");
    RUN_FAILS(4, "finite", "eval", model, "--text", cli_text());
    RUN_FAILS(4, "finite", "generate", model, "--prompt", "the");
    RUN_FAILS(4, "_proj", "compress", model, "--keep=.5", "--method=svd", "--out", out);
    RUN_FAILS(4, "finite", "compress", model, "--keep=.5", "--text", cli_text(), "--out", out);
    ck_assert(!cli_exists(out));
}
END_TEST

/* Until the child has opened the pipe it has not read anything, and its signals are caught. A child
 * that ends before it has is not waited for. */
static int open_pipe(const char *path) {
    int fd;
    while ((fd = open(path, O_WRONLY | O_NONBLOCK)) < 0) {
        ck_assert_int_eq(errno, ENXIO);
        if (waitpid(run.pid, NULL, WNOHANG)) ck_abort_msg("the command ended and read nothing");
        usleep(1000);
    }
    ck_assert_int_eq(fcntl(fd, F_SETFL, 0), 0);
    return fd;
}

/* Waits until the first SIGINT was taken and the next one would end the process. */
static void wait_for_default(int number) {
    char path[64], text[8192];
    unsigned long long caught = 1ULL << (number - 1);
    snprintf(path, sizeof path, "/proc/%d/status", (int)run.pid);
    for (int i = 0; i < 5000; i++) {
        size_t got = scratch_read(path, text, sizeof text - 1);
        text[got] = '\0';
        const char *line = strstr(text, "SigCgt:");
        ck_assert_ptr_nonnull(line);
        if (!(strtoull(line + 7, NULL, 16) & caught)) return;
        usleep(1000);
    }
    ck_abort_msg("the signal was never taken");
}

START_TEST(interrupts_cancel) {
    const char *fifo = scratch_path("fifo"), *out = scratch_path("out");
    char text[4000];
    memset(text, 'e', sizeof text);
    ck_assert_int_eq(mkfifo(fifo, 0600), 0);
    START("collect", cli_model(), "--text", fifo, "--out", out, "--json", "--quiet");
    int fd = open_pipe(fifo);
    kill(run.pid, _i ? SIGTERM : SIGINT);
    wait_for_default(_i ? SIGTERM : SIGINT);
    ck_assert_int_eq(write(fd, text, sizeof text), sizeof text);
    close(fd);
    cli_wait(1);
    ck_assert_int_eq(run.code, 5);
    ck_assert_str_eq(run.out, "");
    ck_assert_ptr_nonnull(strstr(run.err, "cancelled"));
    ck_assert(!cli_exists(out));
}
END_TEST

START_TEST(second_interrupt_ends_at_once) {
    const char *fifo = scratch_path("fifo");
    ck_assert_int_eq(mkfifo(fifo, 0600), 0);
    START("tokenize", cli_model(), "--text", fifo);
    int fd = open_pipe(fifo);
    kill(run.pid, SIGINT);
    wait_for_default(SIGINT);
    kill(run.pid, SIGINT);
    cli_wait(1);
    ck_assert_int_eq(run.signal, SIGINT);
    close(fd);
}
END_TEST

START_TEST(messages_stay_off_stdout) {
    RUN(0, "collect", cli_model(), "--text", cli_text(), "--samples", "100000", "--window", "16",
        "--self-text", "0", "--out", scratch_path("stats"), "--json");
    ck_assert_ptr_nonnull(run.json);
    ck_assert_ptr_nonnull(strstr(run.err, "of 100000 samples"));
}
END_TEST

Suite *cli_errors_suite(void) {
    Suite *suite = suite_create("cli_errors");
    TCase *errors = tcase_create("errors");
    tcase_add_checked_fixture(errors, cli_setup, cli_teardown);
    tcase_add_test(errors, usage_is_refused_before_any_work);
    tcase_add_test(errors, missing_values_are_named);
    tcase_add_test(errors, requests_that_make_no_sense);
    tcase_add_test(errors, bad_inputs_are_three);
    tcase_add_test(errors, outputs_that_cannot_be_written_are_one);
    tcase_add_test(errors, conversions_that_cannot_be);
    tcase_add_test(errors, existing_outputs_need_force);
    tcase_add_test(errors, numbers_that_are_not_finite_are_four);
    tcase_add_loop_test(errors, interrupts_cancel, 0, 2);
    tcase_add_test(errors, second_interrupt_ends_at_once);
    tcase_add_test(errors, messages_stay_off_stdout);
    tcase_set_timeout(errors, 60);
    suite_add_tcase(suite, errors);
    return suite;
}
