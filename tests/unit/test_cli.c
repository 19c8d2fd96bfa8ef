/* The command's forms: what each gives, and that the figures fit each other. */
#include "cli_fixture.h"

#include "cli/report_text.c"

#include <math.h>
#include <sys/stat.h>

START_TEST(info_counts_a_model) {
    RUN_JSON("info", cli_model());
    ck_assert_double_eq(cli_number("parameters"), 112896);
    ck_assert_double_eq(cli_number("linear_parameters"), 86016);
    ck_assert_double_eq(cli_number("layers"), 2);
    ck_assert_double_eq(cli_number("context_length"), 64);
    ck_assert_double_eq(cli_number("linears.dense"), 15);
    ck_assert_uint_eq(json_array_size(cli_member("modules")), 15);
    ck_assert_str_eq(json_string_value(cli_member("config.model_type")), "llama");
    ck_assert_ptr_null(json_object_get(run.json, "types"));
}
END_TEST

static void compress_by_hand(const char *storage, const char *ranks) {
    RUN_JSON("compress", cli_model(), "--method", "svd", "--storage", storage, "--ranks", ranks,
             "--out", scratch_path("small"), "--force");
}

static void check_type(const char *type, const char *storage, int least, int most, double kept) {
    const json_t *row = json_object_get(cli_member("types"), type);
    ck_assert_str_eq(json_string_value(json_object_get(row, "storage")), storage);
    ck_assert_int_eq(json_integer_value(json_object_get(row, "modules")), 2);
    ck_assert_int_eq(json_integer_value(json_object_get(row, "least_rank")), least);
    ck_assert_int_eq(json_integer_value(json_object_get(row, "median_rank")), least);
    ck_assert_int_eq(json_integer_value(json_object_get(row, "most_rank")), most);
    ck_assert_double_eq_tol(json_real_value(json_object_get(row, "kept")), kept, 1e-12);
}

/* Shares by hand: of q [96, 96], k [32, 96] and up [64, 96], in two blocks. */
START_TEST(info_tells_what_became_of_each_type) {
    compress_by_hand("two-factor", "{\"model.layers.0.self_attn.q_proj\": 20,"
                                   "\"model.layers.1.self_attn.q_proj\": 10,"
                                   "\"model.layers.1.mlp.up_proj\": 7}");
    RUN_JSON("info", scratch_path("small"));
    check_type("q_proj", "two-factor", 10, 20, (20 + 10) * (96 + 96) / (2. * 96 * 96));
    check_type("k_proj", "dense", 32, 32, 1);
    check_type("up_proj", "mixed", 7, 64, (7 * (64 + 96) / (64. * 96) + 1) / 2);
    ck_assert_uint_eq(json_object_size(cli_member("types")), 7);
    ck_assert_double_eq_tol(cli_number("kept_linear") * 86016, cli_number("linear_parameters"),
                            1e-6);
    compress_by_hand("shared", "{\"{q,k,v}_proj\": 6, \"up_proj\": 7}");
    RUN_JSON("info", scratch_path("small"));
    check_type("q_proj", "shared", 6, 6, 6 * (96 + 96 / 3) / (96. * 96));
    check_type("k_proj", "shared", 6, 6, 6 * (32 + 96 / 3) / (32. * 96));
    check_type("up_proj", "two-factor", 7, 7, 7 * (64 + 96) / (64. * 96));
    ck_assert_double_eq_tol(cli_number("kept_linear") * 86016, cli_number("linear_parameters"),
                            1e-6);
    compress_by_hand("pivot", "{\"k_proj\": 6}");
    RUN(0, "info", scratch_path("small"));
    ck_assert_ptr_nonnull(strstr(run.out, "\n  k_proj:    modules 2, storage pivot, least rank 6, "
                                          "median rank 6, most rank 6, kept 0.23828\n"));
}
END_TEST

START_TEST(people_get_aligned_lines) {
    RUN(0, "info", cli_model());
    ck_assert_ptr_null(run.json);
    ck_assert_ptr_nonnull(strstr(run.out, "\nparameters:        112,896\n"));
    ck_assert_ptr_nonnull(strstr(run.out, "\nbytes:             103.3 KiB\n"));
    ck_assert_ptr_nonnull(strstr(run.out, "\nlinears:\n  dense:    15\n"));
}
END_TEST

/* tokens.json comes from the tokenizer this model was made with. */
START_TEST(tokenize_gives_the_golden_ids) {
    json_t *cases = json_load_file(cli_golden("gguf-mixed/tokens.json"), JSON_ALLOW_NUL, NULL),
           *one;
    size_t i;
    ck_assert_uint_gt(json_array_size(cases), 3);
    json_array_foreach(cases, i, one) {
        const json_t *text = json_object_get(one, "text"), *ids = json_object_get(one, "ids");
        if (json_string_length(text) == 0) continue;
        const char *path =
            scratch_write("case.txt", json_string_value(text), json_string_length(text));
        RUN_JSON("tokenize", cli_model(), "--text", path);
        ck_assert(json_equal(cli_member("ids"), ids));
        ck_assert_double_eq(cli_number("count"), (double)json_array_size(ids));
    }
    json_decref(cases);
}
END_TEST

START_TEST(text_may_hold_nul) {
    RUN_JSON("tokenize", cli_model(), "--text", scratch_write("nul", "the\0the", 7));
    ck_assert_uint_ge(json_array_size(cli_member("ids")), 5);
}
END_TEST

static double nll_of(const char *first, const char *windows) {
    RUN_JSON("eval", cli_model(), "--text", cli_text(), "--window", "16", "--first-window", first,
             "--windows", windows);
    double tokens = cli_number("tokens"), nll = cli_number("nll");
    ck_assert_double_eq(cli_number("windows"), atof(windows));
    ck_assert_double_eq(tokens, 15 * atof(windows));
    ck_assert_double_eq_tol(cli_number("perplexity") / exp(nll), 1, 1e-12);
    ck_assert_double_gt(cli_number("tokens_per_second"), 0);
    ck_assert_ptr_null(json_object_get(run.json, "kl"));
    return nll;
}

START_TEST(eval_means_over_windows) {
    double both = nll_of("2", "2"), one = nll_of("2", "1"), other = nll_of("3", "1");
    ck_assert_double_eq_tol(both, (one + other) / 2, 1e-6);
    ck_assert_double_ne(one, other);
}
END_TEST

START_TEST(eval_takes_all_windows_of_the_context) {
    RUN_JSON("tokenize", cli_model(), "--text", cli_text());
    double count = cli_number("count");
    RUN_JSON("eval", cli_model(), "--text", cli_text());
    ck_assert_double_eq(cli_number("windows"), floor(count / 64));
    ck_assert_double_eq(cli_number("tokens"), 63 * floor(count / 64));
}
END_TEST

START_TEST(eval_compares_with_a_reference) {
    RUN_JSON("eval", cli_model(), "--text", cli_text(), "--window", "16", "--windows", "3",
             "--reference", cli_model());
    ck_assert_double_eq_tol(cli_number("kl"), 0, 1e-9);
    ck_assert_double_eq(cli_number("agreement"), 1);
}
END_TEST

START_TEST(options_stand_anywhere) {
    char equals[700];
    snprintf(equals, sizeof equals, "--text=%s", cli_text());
    RUN_JSON("eval", "--window=16", equals, "--windows", "1", cli_model());
    RUN_JSON("eval", cli_model(), equals, "--window=16", "--windows", "1", "--threads=1");
    ck_assert_double_eq(cli_number("tokens"), 15);
}
END_TEST

START_TEST(operand_may_follow_dashes) {
    RUN(0, "eval", "--text", cli_text(), "--window=16", "--json", "--quiet", "--", cli_model());
    RUN(3, "eval", "--text", cli_text(), "--", "--force");
}
END_TEST

static json_t *generated(const char *temperature, const char *seed, const char *rows) {
    RUN_JSON("generate", cli_model(), "--prompt", "the other", "--max-tokens", "24",
             "--temperature", temperature, "--seed", seed, "--rows", rows);
    ck_assert_double_gt(cli_number("tokens_per_second"), 0);
    return json_incref((json_t *)cli_member("ids"));
}

START_TEST(generate_follows_seed_and_rows) {
    json_t *greedy = generated("0", "1", "1"), *again = generated("0", "2", "1");
    json_t *one = generated("1", "5", "1");
    ck_assert(json_is_string(cli_member("text")));
    json_t *three = generated("1", "5", "3"), *other = generated("1", "6", "1");
    ck_assert(json_equal(greedy, again));
    ck_assert(!json_equal(one, other));
    ck_assert_uint_eq(json_array_size(three), 3);
    ck_assert(json_equal(json_array_get(three, 0), one));
    ck_assert(!json_equal(json_array_get(three, 1), one));
    json_t *all[] = {greedy, again, one, three, other};
    for (size_t i = 0; i < 5; i++) json_decref(all[i]);
}
END_TEST

START_TEST(generate_gives_texts_for_rows) {
    json_decref(generated("1", "3", "4"));
    ck_assert_uint_eq(json_array_size(cli_member("texts")), 4);
    ck_assert(json_is_string(json_array_get(cli_member("texts"), 3)));
    ck_assert_ptr_null(json_object_get(run.json, "text"));
}
END_TEST

START_TEST(generate_top_one_is_greedy) {
    json_t *greedy = generated("0", "1", "1");
    RUN_JSON("generate", cli_model(), "--prompt", "the other", "--max-tokens", "24",
             "--temperature", "1", "--top-k", "1", "--top-p", "0.9");
    ck_assert(json_equal(cli_member("ids"), greedy));
    json_decref(greedy);
}
END_TEST

START_TEST(collect_mixes_texts) {
    char named[700], weighted[700];
    scratch_write("a:b", "the other one, then 12 under the others and then the rest of them", 65);
    snprintf(named, sizeof named, "%s", scratch_path("a:b"));
    snprintf(weighted, sizeof weighted, "%s:0.25", cli_text());
    RUN_JSON("collect", cli_model(), "--text", named, "--text", weighted, "--self-text", "0.5",
             "--samples", "3", "--window", "16", "--out", scratch_path("stats"));
    const json_t *texts = cli_member("texts");
    ck_assert_uint_eq(json_array_size(texts), 2);
    const json_t *second = json_array_get(texts, 1);
    ck_assert_str_eq(json_string_value(json_object_get(second, "text")), cli_text());
    ck_assert_double_eq(json_real_value(json_object_get(second, "weight")), 0.25);
    ck_assert_int_eq(json_integer_value(json_object_get(second, "windows")), 3);
    ck_assert_double_eq(cli_number("self_text.weight"), 0.5);
    ck_assert_double_eq(cli_number("self_text.windows"), 3);
    ck_assert_double_gt(cli_number("peak_bytes"), 1e6);
    ck_assert(cli_exists(scratch_path("stats")));
}
END_TEST

START_TEST(plan_meets_its_share) {
    const char *path = scratch_path("plan.json");
    RUN_JSON("plan", cli_model(), "--keep", "0.6", "--out", path);
    double kept = cli_number("kept_linear");
    ck_assert_double_le(kept, 0.6);
    ck_assert_double_gt(kept, 0.59);
    ck_assert_double_eq_tol(kept, cli_number("parameters.after") / 86016, 1e-12);
    ck_assert_uint_eq(json_object_size(cli_member("ranks")), 14);
    RUN_JSON("plan", cli_model(), "--keep-model", "0.7", "--out", path, "--force");
    ck_assert_double_le(cli_number("kept_model"), 0.7);
    ck_assert_double_gt(cli_number("kept_model"), 0.69);
}
END_TEST

START_TEST(plan_takes_ranks_in_three_forms) {
    const char *path = scratch_path("plan.json"), *ranks = "{\"q_proj\": 8, \"*.mlp.*\": 12}";
    RUN_JSON("plan", cli_model(), "--ranks", ranks, "--out", path);
    ck_assert_double_eq(cli_number("factorised"), 8);
    json_t *given = json_incref((json_t *)cli_member("ranks"));
    RUN_JSON("plan", cli_model(), "--ranks", scratch_write("ranks", ranks, strlen(ranks)), "--out",
             path, "--force");
    ck_assert(json_equal(cli_member("ranks"), given));
    RUN_JSON("plan", cli_model(), "--ranks", "8", "--match", "up_proj", "--out", path, "--force");
    ck_assert_double_eq(cli_number("factorised"), 2);
    json_decref(given);
}
END_TEST

static const char *collect_stats(void) {
    const char *stats = scratch_path("stats");
    RUN_JSON("collect", cli_model(), "--text", cli_text(), "--self-text", "0", "--samples", "8",
             "--window", "16", "--out", stats);
    return stats;
}

/* Each share of a plan is met, and compress comes to the same ranks by itself. */
START_TEST(plan_shares_by_name) {
    static const char *const names[] = {"energy", "energy-normalised", "effective-rank"};
    const char *stats = collect_stats(), *path = scratch_path("plan.json");
    for (int i = 0; i < 3; i++) {
        RUN_JSON("plan", cli_model(), "--keep", "0.6", "--stats", stats, "--allocation", names[i],
                 "--floor", "0.5", "--out", path, "--force");
        ck_assert_double_le(cli_number("kept_linear"), 0.6);
        ck_assert_double_gt(cli_number("kept_linear"), 0.58);
        ck_assert_str_eq(json_string_value(cli_member("allocation")), names[i]);
        ck_assert_double_eq(cli_number("floor"), 0.5);
        double after = cli_number("parameters.after");
        RUN_JSON("compress", cli_model(), "--keep", "0.6", "--stats", stats, "--allocation",
                 names[i], "--floor", "0.5", "--out", scratch_path("small"), "--force");
        ck_assert_double_eq(cli_number("linear_parameters.after"), after);
        ck_assert_str_eq(json_string_value(cli_member("allocation")), names[i]);
    }
}
END_TEST

START_TEST(plan_keeps_bytes) {
    const char *path = scratch_path("plan.json"), *small = scratch_path("small");
    struct stat info;
    RUN_JSON("plan", cli_model(), "--keep-bytes", "180000", "--storage", "pivot", "--out", path);
    ck_assert_double_eq(cli_number("keep_bytes"), 180000);
    RUN_JSON("compress", cli_model(), "--plan", path, "--method", "svd", "--out", small);
    ck_assert_int_eq(stat(scratch_path("small/model.safetensors"), &info), 0);
    ck_assert_int_le(info.st_size, 180000);
    ck_assert_int_gt(info.st_size, 177000);
}
END_TEST

static int is_candidate(const char *allocation) {
    int found = 0;
    for (size_t i = 0; i < json_array_size(cli_member("candidates")); i++) {
        const json_t *one = json_array_get(cli_member("candidates"), i);
        found += !strcmp(json_string_value(json_object_get(one, "allocation")), allocation);
    }
    return found;
}

/* What weights and gradients are needed for is tried when they are there. */
START_TEST(plan_tries_what_it_can) {
    const char *path = scratch_path("plan.json"), *stats = scratch_path("gradients");
    RUN_JSON("collect", cli_model(), "--text", cli_text(), "--self-text", "0", "--samples", "4",
             "--window", "16", "--gradients", "--out", stats);
    RUN_JSON("plan", cli_model(), "--keep", "0.6", "--stats", stats, "--allocation", "auto",
             "--text", cli_text(), "--first-window", "8", "--windows", "2", "--window", "16",
             "--out", path);
    ck_assert_uint_eq(json_array_size(cli_member("candidates")), 5);
    ck_assert_int_eq(is_candidate("first-order"), 1);
    ck_assert_int_eq(is_candidate("sensitivity"), 0);
    double by_pca = cli_number("held_out.kl");
    RUN_JSON("plan", cli_model(), "--keep", "0.6", "--stats", stats, "--allocation", "auto",
             "--method", "kfac", "--text", cli_text(), "--first-window", "8", "--windows", "2",
             "--window", "16", "--out", path, "--force");
    double by_kfac = cli_number("held_out.kl");
    ck_assert_double_ne(by_kfac, by_pca);
    RUN_JSON("compress", cli_model(), "--plan", path, "--stats", stats, "--method", "kfac",
             "--dtype", "f32", "--out", scratch_path("small"));
    RUN_JSON("eval", scratch_path("small"), "--text", cli_text(), "--first-window", "8",
             "--windows", "2", "--window", "16", "--reference", cli_model());
    ck_assert_double_eq_tol(cli_number("kl"), by_kfac, 1e-5 + 1e-3 * by_kfac);
    RUN_FAILS(2, "only --allocation auto factorises", "plan", cli_model(), "--keep", "0.6",
              "--method", "kfac", "--out", path, "--force");
}
END_TEST

/* The chosen plan is the candidate with the least KL, and names it; what eval says of the model
 * made from it is the figure that stands there. */
START_TEST(plan_chooses_on_held_out_text) {
    const char *stats = collect_stats(), *path = scratch_path("plan.json");
    RUN_JSON("plan", cli_model(), "--keep", "0.6", "--stats", stats, "--allocation", "auto",
             "--weights", "{\"v_proj\": 2}", "--text", cli_text(), "--first-window", "8",
             "--windows", "3", "--window", "16", "--out", path);
    size_t i, count = json_array_size(cli_member("candidates"));
    double least = INFINITY, chosen = cli_number("held_out.kl");
    ck_assert_uint_eq(count, 5);
    ck_assert_int_eq(is_candidate("first-order"), 0);
    ck_assert_int_eq(is_candidate("sensitivity"), 1);
    for (i = 0; i < count; i++) {
        const json_t *one = json_array_get(cli_member("candidates"), i);
        least = fmin(least, json_number_value(json_object_get(one, "kl")));
    }
    ck_assert_double_eq(chosen, least);
    ck_assert_double_gt(least, 0);
    RUN_JSON("compress", cli_model(), "--plan", path, "--stats", stats, "--dtype", "f32", "--out",
             scratch_path("small"));
    ck_assert_double_eq(cli_number("held_out.kl"), chosen);
    RUN_JSON("eval", scratch_path("small"), "--text", cli_text(), "--first-window", "8",
             "--windows", "3", "--window", "16", "--reference", cli_model());
    ck_assert_double_eq_tol(cli_number("kl"), chosen, 1e-5 + 1e-3 * chosen);
}
END_TEST

/* Weights are measured beside the plan, kept there, and taken from there. */
START_TEST(plan_measures_sensitivity) {
    const char *stats = collect_stats(), *path = scratch_path("plan.json");
    RUN_JSON("plan", cli_model(), "--keep", "0.6", "--stats", stats, "--allocation", "sensitivity",
             "--text", cli_text(), "--probe-windows", "3", "--window", "16", "--out", path);
    ck_assert_str_eq(json_string_value(cli_member("weights")), scratch_path("plan.json.weights"));
    json_t *ranks = json_incref((json_t *)cli_member("ranks"));
    json_t *file = json_load_file(scratch_path("plan.json.weights"), 0, NULL);
    ck_assert_uint_eq(json_object_size(json_object_get(file, "weights")), 14);
    json_decref(file);
    RUN_JSON("plan", cli_model(), "--keep", "0.6", "--stats", stats, "--allocation", "sensitivity",
             "--weights", scratch_path("plan.json.weights"), "--out", path, "--force");
    ck_assert(json_equal(ranks, cli_member("ranks")));
    json_decref(ranks);
    RUN_FAILS(2, "another model, text", "plan", cli_model(), "--keep", "0.6", "--stats", stats,
              "--allocation", "sensitivity", "--window", "16", "--probe-windows", "2", "--out",
              path, "--force");
}
END_TEST

static void check_compressed(const char *folder) {
    ck_assert_double_eq(cli_number("parameters.before"), 112896);
    ck_assert_double_eq(cli_number("linear_parameters.before"), 86016);
    ck_assert_double_le(cli_number("kept_linear"), 0.6);
    ck_assert_double_eq_tol(cli_number("kept_linear") * 86016,
                            cli_number("linear_parameters.after"), 1e-6);
    ck_assert_double_lt(cli_number("kept_model"), 1);
    ck_assert_double_eq(cli_number("factorised"), 14);
    static const char *const stages[] = {"seconds.open", "seconds.collect", "seconds.plan",
                                         "seconds.factorise", "seconds.save"};
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        ck_assert_double_ge(cli_number(stages[i]), 0);
    ck_assert_double_gt(cli_number("peak_bytes"), 1e6);
    double after = cli_number("linear_parameters.after");
    RUN_JSON("info", folder);
    ck_assert_double_eq(cli_number("linears.pivot") + cli_number("linears.low_rank"), 14);
    ck_assert_double_eq(cli_number("linear_parameters"), after);
    RUN_JSON("eval", folder, "--text", cli_text(), "--windows", "2", "--reference", cli_model());
    ck_assert_double_gt(cli_number("kl"), 0);
}

START_TEST(compress_learns_from_texts) {
    const char *folder = scratch_path("small");
    RUN_JSON("compress", cli_model(), "--keep", "0.6", "--text", cli_text(), "--samples", "4",
             "--window", "32", "--self-text", "0", "--out", folder);
    ck_assert_double_eq(cli_number("tokens"), 128);
    ck_assert_str_eq(json_string_value(cli_member("method")), "pca");
    check_compressed(folder);
}
END_TEST

/* The folder of finished blocks is gone once the model is written. */
START_TEST(compress_block_by_block) {
    const char *folder = scratch_path("small"), *work = scratch_path(".small.lowrank-work");
    char slashed[700];
    snprintf(slashed, sizeof slashed, "%s/", folder);
    RUN_JSON("compress", cli_model(), "--keep", "0.6", "--text", cli_text(), "--samples", "4",
             "--window", "32", "--self-text", "0", "--out", slashed, "--memory", "64M",
             "--sequential", "anchored", "--blend", "0.75");
    ck_assert_double_eq(cli_number("tokens"), 128);
    ck_assert_str_eq(json_string_value(cli_member("sequential")), "anchored");
    ck_assert_int_ne(access(work, F_OK), 0);
    check_compressed(folder);
}
END_TEST

START_TEST(compress_takes_stats_and_plan) {
    const char *folder = scratch_path("small"), *stats = scratch_path("stats");
    const char *plan = scratch_path("plan");
    RUN_JSON("collect", cli_model(), "--samples", "2", "--window", "16", "--out", stats);
    RUN_JSON("plan", cli_model(), "--keep", "0.5", "--stats", stats, "--out", plan);
    RUN_JSON("compress", cli_model(), "--plan", plan, "--stats", stats, "--method", "whiten-eig",
             "--dtype", "f32", "--out", folder);
    check_compressed(folder);
}
END_TEST

START_TEST(compress_scales_channels) {
    const char *folder = scratch_path("small"), *stats = scratch_path("stats");
    RUN_JSON("collect", cli_model(), "--samples", "2", "--window", "16", "--out", stats);
    RUN_JSON("compress", cli_model(), "--keep", "0.5", "--stats", stats, "--method", "asvd",
             "--statistic", "max", "--alpha", "0.3", "--out", folder);
    check_compressed(folder);
}
END_TEST

START_TEST(compress_takes_exact_statistics) {
    const char *folder = scratch_path("small"), *stats = scratch_path("stats");
    RUN_JSON("collect", cli_model(), "--samples", "2", "--window", "16", "--exact", "--out", stats);
    RUN_JSON("compress", cli_model(), "--keep", "0.5", "--stats", stats, "--method", "qr", "--out",
             folder);
    check_compressed(folder);
    RUN_JSON("compress", cli_model(), "--keep", "0.5", "--samples", "2", "--window", "16",
             "--method", "qr", "--out", folder, "--force");
    check_compressed(folder);
}
END_TEST

START_TEST(compress_takes_gradients) {
    const char *folder = scratch_path("small"), *stats = scratch_path("stats");
    const char *plan = scratch_path("plan");
    RUN_JSON("collect", cli_model(), "--samples", "2", "--window", "16", "--gradients", "--out",
             stats);
    RUN_JSON("plan", cli_model(), "--keep", "0.5", "--stats", stats, "--allocation", "first-order",
             "--floor", "0", "--out", plan);
    RUN_JSON("compress", cli_model(), "--plan", plan, "--stats", stats, "--method", "kfac", "--out",
             folder);
    ck_assert_double_le(cli_number("kept_linear"), 0.5);
    RUN_JSON("compress", cli_model(), "--keep", "0.5", "--stats", stats, "--method", "fwsvd",
             "--out", folder, "--force");
    check_compressed(folder);
    RUN_JSON("compress", cli_model(), "--keep", "0.5", "--samples", "2", "--window", "16",
             "--method", "iwsvd", "--out", folder, "--force");
    check_compressed(folder);
    RUN_JSON("compress", cli_model(), "--keep", "0.5", "--samples", "2", "--window", "16",
             "--allocation", "first-order", "--out", folder, "--force");
    ck_assert_double_le(cli_number("kept_linear"), 0.5);
}
END_TEST

START_TEST(compress_by_weights_alone_densified) {
    const char *folder = scratch_path("dense");
    RUN_JSON("compress", cli_model(), "--keep", "0.5", "--method", "svd", "--densify", "--out",
             folder);
    ck_assert_double_eq(cli_number("linear_parameters.after"), 86016);
    RUN_JSON("info", folder);
    ck_assert_double_eq(cli_number("linears.dense"), 15);
}
END_TEST

START_TEST(convert_goes_both_ways) {
    const char *file = scratch_path("model.gguf"), *folder = scratch_path("v1.5");
    RUN_JSON("convert", cli_model(), "--out", file, "--dtype", "f32");
    ck_assert_str_eq(json_string_value(cli_member("form")), "gguf");
    ck_assert_str_eq(json_string_value(cli_member("dtype")), "f32");
    ck_assert_str_eq(json_string_value(cli_member("out")), file);
    ck_assert_double_eq(cli_number("parameters.before"), 112896);
    ck_assert_double_eq(cli_number("parameters.after"), 112896);
    ck_assert_double_eq(cli_number("bytes.after"), 112896 * 4);
    ck_assert_double_ge(cli_number("seconds.open"), 0);
    ck_assert_double_ge(cli_number("seconds.save"), 0);
    ck_assert_double_gt(cli_number("peak_bytes"), 1e6);
    RUN_JSON("convert", file, "--out", folder, "--dtype", "f32");
    ck_assert_str_eq(json_string_value(cli_member("form")), "folder");
    const char *const models[] = {cli_model(), file, folder};
    double nll[3];
    for (int i = 0; i < 3; i++) {
        RUN_JSON("eval", models[i], "--text", cli_text(), "--windows", "2");
        nll[i] = cli_number("nll");
    }
    ck_assert_double_eq(nll[0], nll[1]);
    ck_assert_double_eq_tol(nll[0], nll[2], 1e-6);
}
END_TEST

START_TEST(convert_keeps_factors_or_multiplies_them_out) {
    const char *small = scratch_path("small"), *half = scratch_path("half"),
               *file = scratch_path("small.GGUF");
    RUN_JSON("compress", cli_model(), "--keep", "0.5", "--method", "svd", "--out", small);
    RUN_JSON("convert", small, "--out", half, "--dtype", "f16");
    ck_assert_double_eq(cli_number("parameters.before"), cli_number("parameters.after"));
    RUN_JSON("info", half);
    ck_assert_double_eq(cli_number("linears.pivot") + cli_number("linears.low_rank"), 14);
    RUN_JSON("convert", small, "--out", file, "--densify");
    ck_assert_double_eq(cli_number("parameters.after"), 112896);
    RUN_JSON("info", file);
    ck_assert_double_eq(cli_number("linears.dense"), 15);
}
END_TEST

START_TEST(help_names_every_option) {
    static const char *const commands[] = {"info",    "tokenize", "eval",     "generate",
                                           "collect", "plan",     "compress", "convert"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        RUN(0, "help", commands[i]);
        char first[8192];
        snprintf(first, sizeof first, "%.8000s", run.out);
        RUN(0, commands[i], "--help");
        ck_assert_str_eq(run.out, first);
        ck_assert_ptr_nonnull(strstr(first, "\nExample:\n"));
        ck_assert_ptr_nonnull(strstr(first, "--threads N"));
        ck_assert_ptr_nonnull(strstr(first, "[default"));
    }
    RUN(0, "help");
    ck_assert_ptr_nonnull(strstr(run.out, "compress"));
    RUN(0, "--version");
    ck_assert_int_eq(strncmp(run.out, "lowrank ", 8), 0);
}
END_TEST

static void check_text(const char *bytes, size_t count, const char *expected) {
    json_t *text = report_text(bytes, count);
    ck_assert_str_eq(json_string_value(text), expected);
    json_decref(text);
}

/* Examples of the Unicode standard, tables 3-8 to 3-11. */
START_TEST(broken_utf8_is_replaced) {
#define BAD "\xEF\xBF\xBD"
    check_text("", 0, "");
    check_text("a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82", 10,
               "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82");
    check_text("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", 9, BAD BAD BAD BAD BAD BAD BAD BAD "A");
    check_text("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", 9, BAD BAD BAD BAD BAD BAD BAD BAD "A");
    check_text("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", 9, BAD BAD BAD BAD BAD "A" BAD BAD "B");
    check_text("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", 9, BAD BAD BAD BAD "A");
    check_text("x\xF0\x9F\x99", 4, "x" BAD);
#undef BAD
}
END_TEST

Suite *cli_suite(void) {
    Suite *suite = suite_create("cli");
    TCase *forms = tcase_create("forms");
    tcase_add_checked_fixture(forms, cli_setup, cli_teardown);
    tcase_add_test(forms, info_counts_a_model);
    tcase_add_test(forms, info_tells_what_became_of_each_type);
    tcase_add_test(forms, people_get_aligned_lines);
    tcase_add_test(forms, tokenize_gives_the_golden_ids);
    tcase_add_test(forms, text_may_hold_nul);
    tcase_add_test(forms, eval_means_over_windows);
    tcase_add_test(forms, eval_takes_all_windows_of_the_context);
    tcase_add_test(forms, eval_compares_with_a_reference);
    tcase_add_test(forms, operand_may_follow_dashes);
    tcase_add_test(forms, options_stand_anywhere);
    tcase_add_test(forms, generate_follows_seed_and_rows);
    tcase_add_test(forms, generate_gives_texts_for_rows);
    tcase_add_test(forms, generate_top_one_is_greedy);
    tcase_add_test(forms, collect_mixes_texts);
    tcase_add_test(forms, plan_meets_its_share);
    tcase_add_test(forms, plan_takes_ranks_in_three_forms);
    tcase_add_test(forms, plan_shares_by_name);
    tcase_add_test(forms, plan_keeps_bytes);
    tcase_add_test(forms, plan_chooses_on_held_out_text);
    tcase_add_test(forms, plan_tries_what_it_can);
    tcase_add_test(forms, plan_measures_sensitivity);
    tcase_add_test(forms, compress_learns_from_texts);
    tcase_add_test(forms, compress_block_by_block);
    tcase_add_test(forms, compress_takes_stats_and_plan);
    tcase_add_test(forms, compress_scales_channels);
    tcase_add_test(forms, compress_takes_exact_statistics);
    tcase_add_test(forms, compress_takes_gradients);
    tcase_add_test(forms, compress_by_weights_alone_densified);
    tcase_add_test(forms, convert_goes_both_ways);
    tcase_add_test(forms, convert_keeps_factors_or_multiplies_them_out);
    tcase_add_test(forms, help_names_every_option);
    tcase_set_timeout(forms, 60);
    suite_add_tcase(suite, forms);
    TCase *text = tcase_create("text");
    tcase_add_test(text, broken_utf8_is_replaced);
    suite_add_tcase(suite, text);
    return suite;
}
