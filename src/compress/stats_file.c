/*
 * Statistics on disk: a safetensors file of normalised moments in binary64, the gram or its root as
 * a packed lower triangle, and in the metadata which modules share which input. Statistics of
 * derivatives stand beside them, in stats_file_slopes.c.
 */
#include "compress/stats_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char format_name[] = "lowrank-stats";

enum { PIECE = 8192, NAME_SIZE = 320 };

static int32_t leader_of(const lr_stats *stats, int32_t moments) {
    int32_t i = 0;
    while (stats->moments_of[i] != moments) i++;
    return i;
}

/* NULL when memory is out, as Jansson has it. */
static json_t *describe_inputs(const lr_stats *stats) {
    json_t *inputs = json_array();
    int failed = !inputs;
    for (int32_t m = 0; !failed && m < stats->moments_count; m++) {
        const lr__moments *moments = &stats->moments[m];
        json_t *modules = json_array();
        for (int32_t i = 0; i < stats->module_count; i++)
            if (stats->moments_of[i] == m)
                failed |= json_array_append_new(modules, json_string(stats->modules[i]));
        failed |= json_array_append_new(
            inputs, json_pack("{s:O?, s:I, s:f}", "modules", modules, "tokens",
                              (json_int_t)moments->tokens, "weight", moments->weight));
        json_decref(modules);
    }
    if (!failed) return inputs;
    json_decref(inputs);
    return NULL;
}

static lr_status metadata_of(const lr_stats *stats, json_t **out) {
    lr_status status = LR_OK;
    char *text = NULL;
    json_t *inputs = describe_inputs(stats);
    LR_FAIL_IF(!inputs, LR_E_NOMEM, "out of memory");
    LR_TRY(lr__json_text(&text, inputs, 0));
    *out = json_pack("{s:s, s:s, s:s}", "format", format_name, "version", "1", "inputs", text);
    LR_FAIL_IF(!*out, LR_E_NOMEM, "out of memory");
    if (stats->slopes) LR_TRY(lr__stats_describe_slopes(stats, *out));
done:
    json_decref(inputs);
    lr__free(text);
    return status;
}

/* What may be missing is marked so in the moments, and is not written. */
static const struct {
    const char *name;
    size_t offset;
    int32_t is_mean; /* divided by the weight */
    int32_t missing; /* 0: never */
} vectors[] = {
    {"mean", offsetof(lr__moments, sum), 1, 0},
    {"mean_absolute", offsetof(lr__moments, absolute), 1, LR__MISSING_ABSOLUTE},
    {"maximum", offsetof(lr__moments, most), 0, LR__MISSING_MOST},
};
enum { VECTORS = sizeof vectors / sizeof *vectors };

static double *vector_of(const lr__moments *m, size_t which) {
    double *vector;
    memcpy(&vector, (const char *)m + vectors[which].offset, sizeof vector);
    return vector;
}

lr_status lr__stats_declare(lr__safetensors_writer *writer, const char *module, const char *part,
                            int64_t count) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s.%s", module, part);
    return lr__safetensors_declare(writer, name, LR_F64, 1, &count);
}

lr_status lr__stats_put(lr__safetensors_writer *writer, const double *values, int64_t count,
                        double scale) {
    double piece[PIECE];
    for (int64_t at = 0; at < count; at += PIECE) {
        int64_t now = count - at < PIECE ? count - at : PIECE;
        for (int64_t i = 0; i < now; i++) {
            piece[i] = values[at + i] * scale;
            if (!isfinite(piece[i]))
                return lr__fail(LR_E_NUMERIC, "statistics hold a number that is not finite");
        }
        lr_status status = lr__safetensors_put(writer, piece, (size_t)now * sizeof *piece);
        if (status < 0) return status;
    }
    return LR_OK;
}

static const char *second_name(const lr_stats *stats) { return stats->is_exact ? "root" : "gram"; }

static lr_status put_second(lr__safetensors_writer *writer, const lr__moments *m) {
    int64_t n = m->size;
    double share = sqrt(1 / m->weight);
    if (m->gram) return lr__stats_put(writer, m->gram, n * (n + 1) / 2, 1 / m->weight);
    for (int64_t i = 0; i < n; i++) {
        lr_status status = lr__stats_put(writer, m->root + i * n, i + 1, share);
        if (status < 0) return status;
    }
    return LR_OK;
}

static lr_status write_file(const lr_stats *stats, const char *path) {
    lr_status status = LR_OK;
    lr__safetensors_writer *writer = NULL;
    json_t *metadata = NULL;
    LR_TRY(metadata_of(stats, &metadata));
    LR_TRY(lr__safetensors_new(&writer));
    for (int32_t i = 0; i < stats->moments_count; i++) {
        const lr__moments *m = &stats->moments[i];
        const char *module = stats->modules[leader_of(stats, i)];
        LR_TRY(lr__stats_declare(writer, module, second_name(stats), m->size * (m->size + 1) / 2));
        for (size_t v = 0; v < VECTORS; v++)
            if (!(m->missing & vectors[v].missing))
                LR_TRY(lr__stats_declare(writer, module, vectors[v].name, m->size));
    }
    if (stats->slopes) LR_TRY(lr__stats_declare_slopes(stats, writer));
    LR_TRY(lr__safetensors_begin(writer, path, metadata));
    for (int32_t i = 0; i < stats->moments_count; i++) {
        const lr__moments *m = &stats->moments[i];
        LR_TRY(put_second(writer, m));
        for (size_t v = 0; v < VECTORS; v++)
            if (!(m->missing & vectors[v].missing))
                LR_TRY(lr__stats_put(writer, vector_of(m, v), m->size,
                                     vectors[v].is_mean ? 1 / m->weight : 1));
    }
    if (stats->slopes) LR_TRY(lr__stats_put_slopes(stats, writer));
    LR_TRY(lr__safetensors_finish(writer));
done:
    lr__safetensors_free(writer);
    json_decref(metadata);
    return status;
}

lr_status lr_stats_save(const lr_stats *stats, const char *path, int32_t force) {
    lr_status status = LR_OK;
    lr__output output = {0};
    if (!stats || !path) return lr__fail(LR_E_INVALID, "lr_stats_save: statistics and a path");
    for (int32_t i = 0; i < stats->module_count; i++) LR_TRY(lr__stats_check_counted(stats, i));
    if (stats->slopes) LR_TRY(lr__stats_check_slopes(stats));
    LR_TRY(lr__output_begin(&output, path, 0, force));
    LR_TRY(write_file(stats, output.staging));
    LR_TRY(lr__output_commit(&output));
done:
    lr__output_end(&output);
    return status;
}

static const lr__stored *find_part(const lr__stats_reader *r, const char *module,
                                   const char *part) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s.%s", module, part);
    return lr__stored_find(r->list, name);
}

lr_status lr__stats_find_part(const lr__stored **out, const lr__stats_reader *r, const char *module,
                              const char *part, int64_t count) {
    const lr__stored *stored = *out = find_part(r, module, part);
    if (!stored) return lr__fail(LR_E_NOTFOUND, "%s: no tensor %s.%s", r->path, module, part);
    if (stored->dtype != LR_F64 || stored->ndim != 1 || stored->shape[0] != count)
        return lr__fail(LR_E_SHAPE, "%s: %s.%s: expected %lld numbers of f64", r->path, module,
                        part, (long long)count);
    return LR_OK;
}

lr_status lr__stats_read_part(const lr__stats_reader *r, const char *module, const char *part,
                              double *out, int64_t count, double scale) {
    lr_status status = LR_OK;
    const lr__stored *stored;
    LR_TRY(lr__stats_find_part(&stored, r, module, part, count));
    memcpy(out, stored->data, (size_t)count * sizeof *out);
    for (int64_t i = 0; i < count; i++) {
        out[i] *= scale;
        LR_FAIL_IF(!isfinite(out[i]), LR_E_NUMERIC,
                   "%s: %s.%s: number %lld is not finite with its weight", r->path, module, part,
                   (long long)i);
    }
done:
    return status;
}

/* The packed rows of a root that stand at its beginning go to their places. */
static void unpack_root(double *root, int64_t n) {
    for (int64_t i = n; i-- > 0;) {
        memmove(root + i * n, root + i * (i + 1) / 2, (size_t)(i + 1) * sizeof *root);
        memset(root + i * n + i + 1, 0, (size_t)(n - i - 1) * sizeof *root);
    }
}

static lr_status read_moments(const lr__stats_reader *r, const char *leader, lr__moments *m) {
    lr_status status = LR_OK;
    int64_t packed = m->size * (m->size + 1) / 2;
    double share = m->root ? sqrt(m->weight) : m->weight;
    LR_TRY(lr__stats_read_part(r, leader, second_name(r->stats), m->root ? m->root : m->gram,
                               packed, share));
    if (m->root) unpack_root(m->root, m->size);
    for (size_t v = 0; v < VECTORS; v++) {
        if (vectors[v].missing && !find_part(r, leader, vectors[v].name))
            m->missing |= vectors[v].missing;
        else
            LR_TRY(lr__stats_read_part(r, leader, vectors[v].name, vector_of(m, v), m->size,
                                       vectors[v].is_mean ? m->weight : 1));
    }
done:
    return status;
}

static lr_status read_input(const lr__stats_reader *r, const json_t *input) {
    lr_stats *stats = r->stats;
    const json_t *modules = json_object_get(input, "modules");
    int64_t tokens = 0;
    double weight = 0;
    int32_t first = 0, index = 0;
    lr_status status = LR_OK;
    LR_TRY(lr__json_int(input, "tokens", &tokens, r->path));
    LR_TRY(lr__json_real(input, "weight", &weight, r->path));
    LR_FAIL_IF(tokens < 1 || tokens > LR__COUNTED_MOST || !lr__stats_weighs(weight) ||
                   !json_array_size(modules),
               LR_E_FORMAT, "%s: an input of %lld tokens and weight %g", r->path, (long long)tokens,
               weight);
    for (size_t i = 0; i < json_array_size(modules); i++) {
        const char *name = json_string_value(json_array_get(modules, i));
        LR_FAIL_IF(!name, LR_E_FORMAT, "%s: a module name is not text", r->path);
        LR_TRY(lr__stats_find(stats, name, &index));
        LR_FAIL_IF(stats->moments_of[index] >= 0, LR_E_FORMAT, "%s: %s stands twice", r->path,
                   name);
        if (!i) {
            int32_t is_exact = find_part(r, name, "root") != NULL;
            LR_FAIL_IF(stats->moments_count && is_exact != stats->is_exact, LR_E_FORMAT,
                       "%s: %s: a root beside grams", r->path, name);
            stats->is_exact = is_exact;
            LR_TRY(lr__stats_add_input(stats, index, -1));
            first = index;
        }
        LR_FAIL_IF(stats->sizes[index] != stats->sizes[first], LR_E_SHAPE,
                   "%s: %s cannot share the input of %s", r->path, name, stats->modules[first]);
        stats->moments_of[index] = stats->moments_of[first];
    }
    lr__moments *m = &stats->moments[stats->moments_of[first]];
    m->tokens = tokens;
    m->weight = weight;
    status = read_moments(r, stats->modules[first], m);
done:
    return status;
}

/* The description of the inputs; its modules become the watched ones. */
static lr_status read_description(const json_t *metadata, const char *path, json_t **inputs) {
    const char *format = json_string_value(json_object_get(metadata, "format"));
    const char *version = json_string_value(json_object_get(metadata, "version"));
    const char *text = json_string_value(json_object_get(metadata, "inputs"));
    if (!format || strcmp(format, format_name) || !version || !text)
        return lr__fail(LR_E_FORMAT, "%s: not a file of statistics", path);
    if (strcmp(version, "1"))
        return lr__fail(LR_E_UNSUPPORTED, "%s: statistics of version %s, expected 1", path,
                        version);
    lr_status status = lr__json_parse(inputs, text, strlen(text), path);
    if (status >= 0 && !json_is_array(*inputs))
        status = lr__fail(LR_E_FORMAT, "%s: the list of inputs is not a list", path);
    return status;
}

/* Modules the file does not know are not watched. */
static void keep_known_modules(lr_stats *stats) {
    int32_t kept = 0;
    for (int32_t i = 0; i < stats->module_count; i++)
        if (stats->moments_of[i] < 0)
            lr__free(stats->modules[i]);
        else {
            stats->modules[kept] = stats->modules[i];
            stats->sizes[kept] = stats->sizes[i];
            stats->outs[kept] = stats->outs[i];
            stats->moments_of[kept++] = stats->moments_of[i];
        }
    stats->module_count = kept;
}

lr_status lr_stats_open(lr_stats **out, const lr_model *model, const char *path) {
    lr_status status = LR_OK;
    lr_stats_opts opts;
    lr_stats *stats = NULL;
    lr__stored_list list = {0};
    json_t *metadata = NULL, *inputs = NULL;
    if (!out || !model || !path)
        return lr__fail(LR_E_INVALID, "lr_stats_open: out, model and path are needed");
    *out = NULL;
    lr_stats_opts_init(&opts, sizeof opts);
    opts.pattern = "*";
    LR_TRY(lr_stats_new(&stats, model, &opts));
    LR_TRY(lr__safetensors_add(&list, path, 0, &metadata));
    LR_TRY(read_description(metadata, path, &inputs));
    LR_FAIL_IF(json_array_size(inputs) > (size_t)stats->module_count, LR_E_FORMAT,
               "%s: %zu inputs, the model has %d modules", path, json_array_size(inputs),
               stats->module_count);
    const lr__stats_reader r = {stats, &list, path};
    for (size_t i = 0; i < json_array_size(inputs); i++)
        LR_TRY(read_input(&r, json_array_get(inputs, i)));
    keep_known_modules(stats);
    LR_FAIL_IF(!stats->module_count, LR_E_FORMAT, "%s: no statistics inside", path);
    LR_TRY(lr__stats_open_slopes(&r, metadata));
    *out = stats;
    stats = NULL;
done:
    json_decref(inputs);
    json_decref(metadata);
    lr__stored_list_clear(&list);
    lr_stats_free(stats);
    return status;
}
