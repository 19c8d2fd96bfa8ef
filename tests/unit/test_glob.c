/* The pattern language. */
#include "base/glob.h"

#include <check.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct glob_case {
    const char *pattern, *name;
    int expected;
} glob_case;

static const glob_case cases[] = {
    {"", "", 1},
    {"", "a", 0},
    {"*", "", 1},
    {"*", "model.layers.0", 1},
    {"a", "a", 1},
    {"a", "b", 0},
    {"a?c", "abc", 1},
    {"a?c", "ac", 0},
    {"?", "\xc3\xa9", 1},
    {"??", "\xc3\xa9", 0},
    {"?b",
     "\xe2\x82\xac"
     "b",
     1},
    {"model.layers.*.mlp.{gate,up}_proj", "model.layers.3.mlp.gate_proj", 1},
    {"model.layers.*.mlp.{gate,up}_proj", "model.layers.31.mlp.up_proj", 1},
    {"model.layers.*.mlp.{gate,up}_proj", "model.layers.3.mlp.down_proj", 0},
    {"model.*.up_proj", "model.layers.3.mlp.up_proj", 1},
    {"up_proj", "model.layers.3.mlp.up_proj", 1},
    {"*_proj", "model.layers.3.mlp.up_proj", 1},
    {"{q,k,v}_proj", "model.layers.0.self_attn.k_proj", 1},
    {"proj", "model.layers.0.self_attn.k_proj", 0},
    {"mlp", "model.layers.0.mlp.up_proj", 0},
    {"mlp.up_proj", "model.layers.0.mlp.up_proj", 0},
    {"lm_head", "lm_head", 1},
    {"{a,b{c,d}}e", "ae", 1},
    {"{a,b{c,d}}e", "bce", 1},
    {"{a,b{c,d}}e", "bde", 1},
    {"{a,b{c,d}}e", "be", 0},
    {"{a,b{c,d}}e", "ace", 0},
    {"x{,y}z", "xz", 1},
    {"x{,y}z", "xyz", 1},
    {"x{}z", "xz", 1},
    {"{*a,b?}c", "zzac", 1},
    {"{*a,b?}c", "bqc", 1},
    {"{*a,b?}c", "bc", 0},
    {"{a*,b}", "bxx", 0},
    {"a,b", "a,b", 1},
    {"{a,b},c", "b,c", 1},
    {"layers.1{0..9}", "layers.15", 0},
    {"**a", "bca", 1},
    {"[a]", "a", 0},
    {"a*b*c", "aXbXbXc", 1},
    {"a*b*c", "aXbXbXd", 0},
    {"*.", "model.", 1},
    {"{a", "a", 0},
    {"a}", "a", 0},
};

START_TEST(test_cases) {
    const glob_case *c = &cases[_i];
    ck_assert_msg(lr__glob_match(c->pattern, c->name) == c->expected, "\"%s\" on \"%s\": not %d",
                  c->pattern, c->name, c->expected);
}
END_TEST

START_TEST(test_valid) {
    char text[1200];
    ck_assert(lr__glob_is_valid(""));
    ck_assert(lr__glob_is_valid("{a,{b,c}}*"));
    ck_assert(!lr__glob_is_valid("{a"));
    ck_assert(!lr__glob_is_valid("a}"));
    ck_assert(!lr__glob_is_valid("}{"));
    memset(text, 'a', sizeof text);
    text[1024] = '\0';
    ck_assert(lr__glob_is_valid(text));
    ck_assert(lr__glob_match(text, text));
    text[1024] = 'a';
    text[1025] = '\0';
    ck_assert(!lr__glob_is_valid(text));
    ck_assert(!lr__glob_match(text, text));
    memset(text, '{', 16);
    memset(text + 16, '}', 16);
    text[32] = '\0';
    ck_assert(lr__glob_is_valid(text));
    ck_assert(lr__glob_match(text, ""));
    memset(text, '{', 17);
    memset(text + 17, '}', 17);
    text[34] = '\0';
    ck_assert(!lr__glob_is_valid(text));
}
END_TEST

/* What backtracking takes exponential time for. */
START_TEST(test_bounded) {
    char name[4001], pattern[1025];
    memset(name, 'a', sizeof name);
    name[4000] = '\0';
    clock_t begin = clock();
    ck_assert(!lr__glob_match("*a*a*a*a*b", name + 3900));
    ck_assert(!lr__glob_match("{a,a}{a,a}{a,a}{a,a}{*a,*a}{*a,*a}{*a,*a}{*a,*a}{*a,*a}b", name));
    for (int i = 0; i < 1022; i += 2) memcpy(pattern + i, "*a", 2);
    memcpy(pattern + 1022, "*b", 3);
    ck_assert(!lr__glob_match(pattern, name));
    pattern[1023] = '\0';
    ck_assert(lr__glob_match(pattern, name));
    ck_assert_double_lt((double)(clock() - begin) / CLOCKS_PER_SEC, 3.0);
}
END_TEST

/* Against plain recursion over expanded alternatives, on all short patterns of a small alphabet. */
static int simple_match(const char *p, const char *s) {
    if (*p == '\0') return *s == '\0';
    if (*p == '*') return simple_match(p + 1, s) || (*s && simple_match(p, s + 1));
    if (*p == '{') {
        const char *comma = strchr(p, ','), *end = strchr(p, '}');
        char left[16], right[16];
        snprintf(left, sizeof left, "%.*s%s", (int)(comma - p - 1), p + 1, end + 1);
        snprintf(right, sizeof right, "%.*s%s", (int)(end - comma - 1), comma + 1, end + 1);
        return simple_match(left, s) || simple_match(right, s);
    }
    return *s && (*p == '?' || *p == *s) && simple_match(p + 1, s + 1);
}

START_TEST(test_exhaustive) {
    static const char *parts[] = {"a", "b", "*", "?", "{a,b}", "{*,}", "{ab,?}"};
    static const char *names[] = {"", "a", "b", "ab", "ba", "aab", "abb", "abab"};
    for (int i = 0; i < 7 * 7 * 7; i++) {
        char pattern[32];
        snprintf(pattern, sizeof pattern, "%s%s%s", parts[i % 7], parts[i / 7 % 7], parts[i / 49]);
        for (size_t n = 0; n < 8; n++)
            ck_assert_msg(lr__glob_match(pattern, names[n]) == simple_match(pattern, names[n]),
                          "\"%s\" on \"%s\"", pattern, names[n]);
    }
}
END_TEST

Suite *glob_suite(void);
Suite *glob_suite(void) {
    Suite *suite = suite_create("glob");
    TCase *tests = tcase_create("match");
    tcase_add_loop_test(tests, test_cases, 0, (int)(sizeof cases / sizeof cases[0]));
    tcase_add_test(tests, test_valid);
    tcase_add_test(tests, test_bounded);
    tcase_add_test(tests, test_exhaustive);
    suite_add_tcase(suite, tests);
    return suite;
}
