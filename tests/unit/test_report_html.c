/* The page that compress writes: well formed, escaped, equal to the JSON, whole or not there. */
#include "cli_fixture.h"

#include "cli/html.c"
#include "cli/report_html.c"
#include "cli/report_html_charts.c"
#include "cli/report_html_maps.c"
#include "cli/report_html_tables.c"
#include "cli/staged.c"
#include "cli/svg.c"

#include <dirent.h>
#include <stdarg.h>
#include <sys/resource.h>

/* The renderer's way to speak, instead of cli/report.c. */
static char said[600];

int report_fail(int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(said, sizeof said, format, args);
    va_end(args);
    return code;
}
int report_nomem(void) { return report_fail(CODE_FAILED, "memory"); }
int report_status(lr_status status, int doing) {
    (void)doing;
    return status < 0 ? report_fail(CODE_FAILED, "%s", lr_last_error()) : CODE_DONE;
}

static char page[1 << 20];

static void load_page(const char *path) {
    size_t got = scratch_read(path, page, sizeof page - 1);
    ck_assert_uint_lt(got, sizeof page - 1);
    page[got] = '\0';
}

/* --- a checker of its own: tags nest, attributes are quoted, every & begins an entity --- */

static const char *skip_name(const char *c, char *name, size_t room) {
    size_t length = strspn(c, "abcdefghijklmnopqrstuvwxyz0123456789");
    ck_assert_msg(length > 0 && length < room, "no tag at %.40s", c);
    memcpy(name, c, length);
    name[length] = '\0';
    return c + length;
}

static const char *skip_attributes(const char *c) {
    while (*c == ' ' || *c == '\n') {
        while (*c == ' ' || *c == '\n') c++;
        if (*c == '>' || *c == '/') break;
        c += strspn(c, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789");
        ck_assert_msg(c[0] == '=' && c[1] == '"', "attribute at %.40s", c);
        c += 2 + strcspn(c + 2, "\"<");
        ck_assert_msg(*c++ == '"', "value at %.40s", c);
    }
    return c;
}

static void check_entities(void) {
    static const char *const known[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
    for (const char *c = page; (c = strchr(c, '&')); c++) {
        int found = 0;
        for (int i = 0; i < 5; i++) found |= !strncmp(c, known[i], strlen(known[i]));
        ck_assert_msg(found, "entity at %.40s", c);
    }
}

static void check_page(void) {
    char open[32][16], name[16];
    int depth_of = 0;
    static const char start[] = "<!DOCTYPE html>\n";
    ck_assert_int_eq(strncmp(page, start, strlen(start)), 0);
    for (const char *c = page + strlen(start); *c;) {
        c += strcspn(c, "<");
        if (!*c) break;
        int closes = c[1] == '/';
        c = skip_name(c + 1 + closes, name, sizeof name);
        if (closes) {
            ck_assert_msg(depth_of > 0 && !strcmp(open[--depth_of], name), "</%s> at %.60s", name,
                          c);
        } else {
            c = skip_attributes(c);
            int is_void = *c == '/' || !strcmp(name, "meta");
            c += *c == '/';
            if (!is_void) snprintf(open[depth_of++], sizeof open[0], "%s", name);
            ck_assert_int_lt(depth_of, 32);
        }
        ck_assert_msg(*c++ == '>', "end of %s at %.40s", name, c);
    }
    ck_assert_int_eq(depth_of, 0);
    check_entities();
}

static void check_alone(void) {
    static const char *const outside[] = {
        "http", "<script", "<link", "src=", "href", "url(", "@import"};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        ck_assert_msg(!strstr(page, outside[i]), "the page holds %s", outside[i]);
}

static void expect(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void expect(const char *format, ...) {
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ck_assert_msg(strstr(page, text) != NULL, "the page lacks %s", text);
}

/* From 1,000 on without decimals and with a comma. */
static const char *perplexity_text(double value) {
    static char texts[2][32];
    static unsigned turn;
    char *text = texts[turn++ % 2];
    long whole = lround(value);
    if (value < 1000)
        snprintf(text, sizeof texts[0], "%.4g", value);
    else
        snprintf(text, sizeof texts[0], "%ld,%03ld", whole / 1000, whole % 1000);
    return text;
}

/* --- from the command --- */

#define COMPRESS(...)                                                                          \
    RUN_JSON("compress", cli_model(), "--keep", "0.6", "--text", cli_text(), "--samples", "4", \
             "--window", "32", "--self-text", "0", __VA_ARGS__)

static void expect_modules(void) {
    const json_t *module;
    size_t i;
    json_array_foreach(cli_member("modules"), i, module) {
        expect("<tr><th scope=\"row\">%s</th><td>%lld</td>",
               json_string_value(json_object_get(module, "module")),
               (long long)json_integer_value(json_object_get(module, "rank")));
        expect("<td>%.6g</td><td>%.6g</td><td>%.6g</td></tr>",
               json_real_value(json_object_get(module, "predicted")),
               json_real_value(json_object_get(module, "measured")),
               json_real_value(json_object_get(module, "total")));
    }
    ck_assert_uint_eq(i, 14);
}

START_TEST(page_says_what_the_json_says) {
    const char *html = scratch_path("page.html");
    COMPRESS("--out", scratch_path("small"), "--report", html, "--eval", cli_text(),
             "--eval-windows", "3");
    load_page(html);
    check_page();
    check_alone();
    expect_modules();
    expect("<td>112,896</td><td>%d,%03d</td><td>%.3f</td>",
           (int)cli_number("parameters.after") / 1000, (int)cli_number("parameters.after") % 1000,
           cli_number("kept_model"));
    expect("<b>%.1f %%</b> of the parameters", cli_number("kept_model") * 100);
    const json_t *e = json_object_get(cli_member("evaluations"), cli_text());
    const json_t *perplexity = json_object_get(e, "perplexity");
    ck_assert_int_eq(json_integer_value(json_object_get(e, "windows")), 3);
    expect("Perplexity</th><td>%s</td><td>%s</td>",
           perplexity_text(json_real_value(json_object_get(perplexity, "before"))),
           perplexity_text(json_real_value(json_object_get(perplexity, "after"))));
    expect("<td></td><td>%.4g</td>", json_real_value(json_object_get(e, "kl")));
    expect("factorise</th><td>%.3f</td>", cli_number("seconds.factorise"));
    expect(">evaluate</th>");
}
END_TEST

/* The row of the first layer's module in the table of every module. */
static void expect_row(const char *name, int64_t rank, int full, const char *storage) {
    expect("<tr><th scope=\"row\">model.layers.0.%s</th><td>%lld</td><td>%d</td><td>%s</td>", name,
           (long long)rank, full, storage);
}

/* The form stands in the plan. Width 96: q, k and v, of 96, 32 and 32 rows, have full rank 96
 * together, as gate and up of 64 each have. */
START_TEST(a_plan_names_the_storage) {
    const char *html = scratch_path("page.html"), *plan = scratch_path("plan.json");
    RUN_JSON("plan", cli_model(), "--keep", "0.6", "--storage", "shared", "--out", plan);
    const json_t *ranks = cli_member("ranks");
    int64_t k = json_integer_value(json_object_get(ranks, "model.layers.0.self_attn.k_proj"));
    int64_t up = json_integer_value(json_object_get(ranks, "model.layers.0.mlp.up_proj"));
    int64_t down = json_integer_value(json_object_get(ranks, "model.layers.0.mlp.down_proj"));
    RUN_JSON("compress", cli_model(), "--plan", plan, "--method=svd", "--out",
             scratch_path("small"), "--report", html);
    load_page(html);
    check_page();
    expect("Storage</th><td>two-factor, 4 modules; shared, 10 modules</td>");
    expect_row("self_attn.k_proj", k, 96, "shared by 3");
    expect_row("mlp.up_proj", up, 96, "shared by 2");
    expect_row("mlp.down_proj", down, 64, "two-factor");
}
END_TEST

/* The last windows, as eval counts them. */
START_TEST(evaluations_are_those_of_eval) {
    RUN_JSON("tokenize", cli_model(), "--text", cli_text());
    char first[16], path[700];
    snprintf(first, sizeof first, "%d", (int)cli_number("count") / 32 - 3);
    snprintf(path, sizeof path, "%s", scratch_path("small"));
    COMPRESS("--out", path, "--eval", cli_text(), "--eval-windows", "3");
    json_t *e = json_incref(json_object_get(cli_member("evaluations"), cli_text()));
    const json_t *perplexity = json_object_get(e, "perplexity");
    RUN_JSON("eval", path, "--text", cli_text(), "--window", "32", "--first-window", first,
             "--reference", cli_model());
    ck_assert_double_eq(json_real_value(json_object_get(perplexity, "after")),
                        cli_number("perplexity"));
    ck_assert_double_eq(json_real_value(json_object_get(e, "kl")), cli_number("kl"));
    ck_assert_double_eq(json_real_value(json_object_get(e, "agreement")), cli_number("agreement"));
    RUN_JSON("eval", cli_model(), "--text", cli_text(), "--window", "32", "--first-window", first);
    ck_assert_double_eq(json_real_value(json_object_get(perplexity, "before")),
                        cli_number("perplexity"));
    json_decref(e);
}
END_TEST

/* Drops the lines that a clock or the machine decides. */
static size_t drop_measured(char *text) {
    char *to = text;
    for (char *line = text, *next; *line; line = next) {
        next = line + strcspn(line, "\n");
        next += *next == '\n';
        char kept = *next;
        *next = '\0';
        int is_measured = strstr(line, "\"measured") != NULL;
        *next = kept;
        if (is_measured) continue;
        memmove(to, line, (size_t)(next - line));
        to += next - line;
    }
    *to = '\0';
    return (size_t)(to - text);
}

START_TEST(same_inputs_give_the_same_page) {
    const char *folder = scratch_path("small"), *html = scratch_path("small/page.html");
    COMPRESS("--out", folder, "--report", html, "--eval", cli_text());
    load_page(html);
    size_t bytes = drop_measured(page);
    ck_assert_uint_gt(bytes, 10000);
    char *first = strdup(page);
    COMPRESS("--out", folder, "--report", html, "--eval", cli_text(), "--force");
    load_page(html);
    ck_assert_uint_eq(drop_measured(page), bytes);
    ck_assert_int_eq(memcmp(page, first, bytes), 0);
    free(first);
}
END_TEST

START_TEST(hostile_paths_are_text) {
    static const char name[] = "<img src=x onerror='alert(1)'>&\"\x01\xFF.txt";
    char text[6000];
    size_t bytes = scratch_read(cli_text(), text, sizeof text);
    const char *hostile = scratch_write(name, text, bytes), *html = scratch_path("page.html");
    RUN_JSON("compress", cli_model(), "--keep", "0.6", "--text", hostile, "--self-text", "0",
             "--samples", "2", "--window", "32", "--out", scratch_path("<b>\"&"), "--report", html,
             "--eval", hostile);
    load_page(html);
    check_page();
    expect("&lt;img src=x onerror=&#39;alert(1)&#39;&gt;&amp;&quot;\xEF\xBF\xBD\xEF\xBF\xBD.txt");
    ck_assert_ptr_null(strstr(page, "<img"));
}
END_TEST

START_TEST(refused_before_any_work) {
    const char *folder = scratch_path("small"), *html = scratch_write("page.html", "kept", 4);
    RUN_FAILS(1, "--force", "compress", cli_model(), "--keep=.6", "--method=svd", "--out", folder,
              "--report", html);
    RUN_FAILS(1, "/nowhere", "compress", cli_model(), "--keep=.6", "--method=svd", "--out", folder,
              "--report", "/nowhere/page.html");
    RUN_FAILS(2, "another name", "compress", cli_model(), "--keep=.6", "--method=svd", "--out",
              folder, "--report", folder);
    RUN_FAILS(3, "/nowhere", "compress", cli_model(), "--keep=.6", "--method=svd", "--out", folder,
              "--eval", "/nowhere");
    ck_assert(!cli_exists(folder));
    load_page(html);
    ck_assert_str_eq(page, "kept");
    RUN_JSON("compress", cli_model(), "--keep=.6", "--method=svd", "--out", folder, "--report",
             html, "--force");
    load_page(html);
    check_page();
}
END_TEST

START_TEST(a_lost_page_leaves_the_model) {
    const char *folder = scratch_path("small");
    RUN_FAILS(1, "small/none/page.html: cannot write", "compress", cli_model(), "--keep=.6",
              "--method=svd", "--out", folder, "--report", scratch_path("small/none/page.html"));
    RUN_JSON("info", folder);
    ck_assert_double_eq(cli_number("linears.dense"), 1);
}
END_TEST

/* --- from the renderer --- */

static html_report made;
static json_t *result;

static void add_module(const char *name, int64_t rank, int64_t full, double loss) {
    html_module *m = &made.modules[made.count++];
    m->name = strdup(name);
    m->rank = rank;
    m->full = m->known = full;
    m->is_cut = rank > 0;
    m->predicted = m->measured = loss;
    m->total = rank > 0 ? 1 : 0;
    snprintf(m->storage, sizeof m->storage, "<pivot>");
    for (int i = 0; i <= HTML_STEPS; i++) m->lost[i] = 1 - (double)i / HTML_STEPS;
}

static void make_report(void) {
    made = (html_report){.modules = calloc(64, sizeof(html_module))};
    result = json_pack("{s:s, s:s, s:f, s:f}", "model", "a/b", "method", "pca", "kept_model", 0.5,
                       "kept_linear", 0.25);
}

static void drop_report(void) {
    html_report_end(&made);
    json_decref(result);
}

static void render(void) {
    FILE *out = fmemopen(page, sizeof page, "w");
    memset(page, 0, sizeof page);
    ck_assert_int_eq(html_report_render(&made, result, out), CODE_DONE);
    ck_assert_int_eq(fclose(out), 0);
}

START_TEST(hostile_names_are_text) {
    make_report();
    add_module("model.layers.0.</title><script>alert(1)</script>", 3, 8, 0.1);
    add_module("model.layers.1.\"onload=\"x", 3, 8, 0.1);
    add_module("<script>", 3, 8, 0.1);
    json_object_set_new(result, "model", json_string("a/<script>"));
    json_object_set_new(result, "seconds", json_pack("{s:f}", "<script>", 1.5));
    json_object_set_new(result, "evaluations", json_pack("{s:{}}", "<script>"));
    json_object_set_new(result, "texts", json_pack("[{s:s}]", "text", "</td><script>"));
    render();
    check_page();
    check_alone();
    drop_report();
}
END_TEST

START_TEST(odd_grids_are_drawn) {
    make_report();
    render();
    check_page();
    add_module("lm_head", 3, 8, 0.5);
    render();
    check_page();
    expect("lm_head</th><td>3</td>");
    add_module("model.layers.0.q_proj", 0, 8, 0);
    add_module("model.layers.2.q_proj", 12, 8, 0);
    add_module("model.layers.3.q_proj", 4, 8, 1e-30);
    add_module("model.layers.99999999999999999999.q_proj", 4, 8, 0.1);
    add_module("model.layers.5", 4, 8, 0.1);
    for (int i = 0; i < 2 * PAGE_TYPES; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.1.type%d", i);
        add_module(name, 2, 8, 0.2);
    }
    render();
    check_page();
    ck_assert_ptr_null(strstr(page, "nan"));
    ck_assert_ptr_null(strstr(page, "inf"));
    expect("type31</th><td>2</td>");
    drop_report();
}
END_TEST

START_TEST(numbers_ignore_the_locale) {
    make_report();
    add_module("model.layers.0.q_proj", 2, 8, 0.125);
    render();
    char *plain = strdup(page);
    if (!setlocale(LC_ALL, "de_DE.UTF-8")) setlocale(LC_ALL, "C.UTF-8");
    render();
    setlocale(LC_ALL, "C");
    ck_assert_str_eq(page, plain);
    expect("<td>0.125</td>");
    free(plain);
    drop_report();
}
END_TEST

static int count_files(void) {
    DIR *folder = opendir(scratch);
    int count = 0;
    while (readdir(folder)) count++;
    closedir(folder);
    return count - 2;
}

/* A limit on the size of files is a disk that fills. */
START_TEST(a_full_disk_is_a_sentence) {
    const char *html = scratch_path("page.html");
    const struct rlimit small = {4096, 4096};
    int before = count_files();
    make_report();
    add_module("model.layers.0.q_proj", 2, 8, 0.125);
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    ck_assert_int_eq(html_report_write(&made, result, html, 0), CODE_FAILED);
    ck_assert_ptr_nonnull(strstr(said, "page.html: cannot write: File too large"));
    ck_assert_int_eq(count_files(), before);
    drop_report();
}
END_TEST

START_TEST(only_files_are_replaced) {
    make_report();
    ck_assert_int_eq(html_report_write(&made, result, scratch, 1), CODE_FAILED);
    ck_assert_ptr_nonnull(strstr(said, "Is a directory"));
    const char *html = scratch_write("page.html", "kept", 4);
    ck_assert_int_eq(html_report_write(&made, result, html, 0), CODE_FAILED);
    ck_assert_ptr_nonnull(strstr(said, "--force"));
    load_page(html);
    ck_assert_str_eq(page, "kept");
    ck_assert_int_eq(html_report_write(&made, result, html, 1), CODE_DONE);
    load_page(html);
    check_page();
    drop_report();
}
END_TEST

static void check_number(void (*write_number)(FILE *, double, int), double value, int digits,
                         const char *expected) {
    char text[64] = "";
    FILE *out = fmemopen(text, sizeof text, "w");
    write_number(out, value, digits);
    fclose(out);
    ck_assert_str_eq(text, expected);
}

START_TEST(shares_have_their_digits) {
    check_number(html_percent, 0.8421465, 3, "84.2 %");
    check_number(html_percent, 1, 3, "100 %");
    check_number(html_percent, 0, 3, "0.00 %");
    check_number(html_percent, 0.0512, 2, "5.1 %");
    check_number(html_percent, 4.668e-5, 2, "0.0047 %");
    check_number(html_hundredths, 0.123, 2, "12");
    check_number(html_hundredths, 1e-300, 2, "0.000000000000");
}
END_TEST

Suite *report_html_suite(void) {
    Suite *suite = suite_create("report_html");
    TCase *command = tcase_create("command"), *renderer = tcase_create("renderer");
    tcase_add_checked_fixture(command, cli_setup, cli_teardown);
    tcase_add_test(command, page_says_what_the_json_says);
    tcase_add_test(command, a_plan_names_the_storage);
    tcase_add_test(command, evaluations_are_those_of_eval);
    tcase_add_test(command, same_inputs_give_the_same_page);
    tcase_add_test(command, hostile_paths_are_text);
    tcase_add_test(command, refused_before_any_work);
    tcase_add_test(command, a_lost_page_leaves_the_model);
    tcase_set_timeout(command, 60);
    suite_add_tcase(suite, command);
    tcase_add_checked_fixture(renderer, cli_setup, cli_teardown);
    tcase_add_test(renderer, hostile_names_are_text);
    tcase_add_test(renderer, odd_grids_are_drawn);
    tcase_add_test(renderer, numbers_ignore_the_locale);
    tcase_add_test(renderer, a_full_disk_is_a_sentence);
    tcase_add_test(renderer, only_files_are_replaced);
    tcase_add_test(renderer, shares_have_their_digits);
    suite_add_tcase(suite, renderer);
    return suite;
}
