/*
 * Statistics of derivatives on disk: sums of squares by channel and the packed gram of the outputs'
 * derivatives, all divided by their weights; in the metadata what was counted of each module.
 */
#include "compress/stats_file.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const char gram_name[] = "gradient_gram", list_name[] = "gradients";
static const double moment_slack = 1 + 1e-6; /* of rounding */

static const struct {
    const char *name;
    size_t offset;
    int32_t is_input; /* one number for each input, else for each output */
} sums[] = {
    {"fisher_in", offsetof(lr__slopes, fisher_in), 1},
    {"fisher_out", offsetof(lr__slopes, fisher_out), 0},
    {"importance_in", offsetof(lr__slopes, importance_in), 1},
    {"importance_out", offsetof(lr__slopes, importance_out), 0},
};
enum { SUMS = sizeof sums / sizeof *sums };

static double *sum_of(const lr__slopes *s, size_t which) {
    double *sum;
    memcpy(&sum, (const char *)s + sums[which].offset, sizeof sum);
    return sum;
}

static int64_t count_of(const lr__slopes *s, size_t which) {
    return sums[which].is_input ? s->in : s->outputs.size;
}

static int64_t packed(int64_t outputs) { return outputs * (outputs + 1) / 2; }

/* ---- writing ---- */

lr_status lr__stats_check_slopes(const lr_stats *stats) {
    for (int32_t i = 0; i < stats->module_count; i++)
        if (!(stats->slopes[i].weight > 0))
            return lr__fail(LR_E_INVALID, "%s: no gradient was counted", stats->modules[i]);
    return LR_OK;
}

lr_status lr__stats_describe_slopes(const lr_stats *stats, json_t *metadata) {
    lr_status status = LR_OK;
    char *text = NULL;
    json_t *list = json_array();
    int failed = !list;
    for (int32_t i = 0; !failed && i < stats->module_count; i++) {
        const lr__slopes *s = &stats->slopes[i];
        failed = json_array_append_new(
            list, json_pack("{s:s, s:I, s:I, s:f}", "module", stats->modules[i], "windows",
                            (json_int_t)s->windows, "tokens", (json_int_t)s->outputs.tokens,
                            "weight", s->weight));
    }
    LR_FAIL_IF(failed, LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(lr__json_text(&text, list, 0));
    LR_FAIL_IF(json_object_set_new(metadata, list_name, json_string(text)), LR_E_NOMEM,
               "out of memory for JSON");
done:
    lr__free(text);
    json_decref(list);
    return status;
}

lr_status lr__stats_declare_slopes(const lr_stats *stats, lr__safetensors_writer *writer) {
    lr_status status = LR_OK;
    for (int32_t i = 0; i < stats->module_count; i++) {
        const lr__slopes *s = &stats->slopes[i];
        for (size_t k = 0; k < SUMS; k++)
            LR_TRY(lr__stats_declare(writer, stats->modules[i], sums[k].name, count_of(s, k)));
        LR_TRY(lr__stats_declare(writer, stats->modules[i], gram_name, packed(s->outputs.size)));
    }
done:
    return status;
}

lr_status lr__stats_put_slopes(const lr_stats *stats, lr__safetensors_writer *writer) {
    lr_status status = LR_OK;
    for (int32_t i = 0; i < stats->module_count; i++) {
        const lr__slopes *s = &stats->slopes[i];
        for (size_t k = 0; k < SUMS; k++)
            LR_TRY(lr__stats_put(writer, sum_of(s, k), count_of(s, k), 1 / s->weight));
        LR_TRY(
            lr__stats_put(writer, s->outputs.gram, packed(s->outputs.size), 1 / s->outputs.weight));
    }
done:
    return status;
}

/* ---- reading ---- */

/* Cauchy and Schwarz: a negative diagonal, or a number beyond those of its row and column, is of no
 * moments. */
static lr_status check_gram(const lr__stats_reader *r, const char *module,
                            const lr__moments *outputs) {
    int64_t n = outputs->size;
    const double *row = outputs->gram;
    double *most = NULL;
    lr_status status = LR_OK;
    LR_TRY(lr__new(&most, (size_t)n, sizeof *most));
    for (int64_t i = 0; i < n; i++, row += i) {
        LR_FAIL_IF(row[i] < 0, LR_E_FORMAT, "%s: %s.%s: [%lld, %lld] is %g, expected 0 or more",
                   r->path, module, gram_name, (long long)i, (long long)i, row[i]);
        most[i] = sqrt(row[i]) * moment_slack;
        for (int64_t j = 0; j < i; j++)
            LR_FAIL_IF(fabs(row[j]) > most[i] * most[j], LR_E_FORMAT,
                       "%s: %s.%s: [%lld, %lld] is %g, expected at most %g", r->path, module,
                       gram_name, (long long)i, (long long)j, row[j], most[i] * most[j]);
    }
done:
    lr__free(most);
    return status;
}

static lr_status read_sums(const lr__stats_reader *r, const char *module, lr__slopes *s) {
    lr_status status = LR_OK;
    for (size_t k = 0; k < SUMS; k++) {
        double *sum = sum_of(s, k);
        LR_TRY(lr__stats_read_part(r, module, sums[k].name, sum, count_of(s, k), s->weight));
        for (int64_t i = 0; i < count_of(s, k); i++)
            LR_FAIL_IF(sum[i] < 0, LR_E_FORMAT, "%s: %s.%s: number %lld is %g, expected 0 or more",
                       r->path, module, sums[k].name, (long long)i, sum[i]);
    }
    LR_TRY(lr__stats_read_part(r, module, gram_name, s->outputs.gram, packed(s->outputs.size),
                               s->weight));
    status = check_gram(r, module, &s->outputs);
done:
    return status;
}

static lr_status read_item(const lr__stats_reader *r, const json_t *item) {
    lr_stats *stats = r->stats;
    const char *module = json_string_value(json_object_get(item, "module"));
    const lr__stored *gram;
    int32_t index = 0;
    int64_t windows = 0, tokens = 0;
    double weight = 0;
    lr_status status = LR_OK;
    LR_FAIL_IF(!module, LR_E_FORMAT, "%s: gradients of a module without a name", r->path);
    LR_TRY(lr__stats_find(stats, module, &index));
    LR_TRY(lr__json_int(item, "windows", &windows, r->path));
    LR_TRY(lr__json_int(item, "tokens", &tokens, r->path));
    LR_TRY(lr__json_real(item, "weight", &weight, r->path));
    LR_FAIL_IF(windows < 1 || windows > LR__COUNTED_MOST || tokens < 1 ||
                   tokens > LR__COUNTED_MOST || !lr__stats_weighs(weight),
               LR_E_FORMAT, "%s: %s: gradients of %lld windows, %lld tokens and weight %g", r->path,
               module, (long long)windows, (long long)tokens, weight);
    lr__slopes *s = &stats->slopes[index];
    LR_FAIL_IF(s->fisher_in, LR_E_FORMAT, "%s: gradients of %s stand twice", r->path, module);
    /* before there is room for it: a head would have a matrix of its vocabulary */
    LR_TRY(lr__stats_find_part(&gram, r, module, gram_name, packed(stats->outs[index])));
    LR_TRY(lr__slopes_new(s, stats->outs[index], stats->sizes[index]));
    s->windows = windows;
    s->weight = s->outputs.weight = weight;
    s->outputs.tokens = tokens;
    status = read_sums(r, module, s);
done:
    return status;
}

lr_status lr__stats_open_slopes(const lr__stats_reader *r, const json_t *metadata) {
    lr_status status = LR_OK;
    const char *text = json_string_value(json_object_get(metadata, list_name));
    json_t *list = NULL;
    if (!text) return LR_OK;
    LR_TRY(lr__json_parse(&list, text, strlen(text), r->path));
    LR_FAIL_IF(!json_is_array(list) || json_array_size(list) != (size_t)r->stats->module_count,
               LR_E_FORMAT, "%s: gradients of %zu modules, expected %d", r->path,
               json_array_size(list), r->stats->module_count);
    LR_TRY(lr__new(&r->stats->slopes, (size_t)r->stats->module_count, sizeof(lr__slopes)));
    for (size_t i = 0; i < json_array_size(list); i++)
        LR_TRY(read_item(r, json_array_get(list, i)));
done:
    json_decref(list);
    return status;
}
