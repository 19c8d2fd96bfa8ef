/* What became of the modules of each type in a compressed model. A factor that several modules
 * share is counted in equal parts with each of them, so that the shares fit the whole. */
#include "cli/types.h"

#include <stdlib.h>
#include <string.h>

typedef struct module {
    const char *type, *storage;
    size_t order; /* of its type */
    int64_t rank;
    double stored, dense; /* numbers */
} module;

/* In how many places each matrix stands. */
static int count_uses(json_t *uses, json_t *structures) {
    const char *name, *matrix;
    json_t *structure, *term, *op;
    size_t t, o;
    json_object_foreach(structures, name, structure) {
        json_array_foreach(json_object_get(structure, "terms"), t, term) {
            json_array_foreach(json_object_get(term, "ops"), o, op) {
                if (!(matrix = json_string_value(json_object_get(op, "matrix")))) continue;
                json_int_t count = json_integer_value(json_object_get(uses, matrix));
                if (json_object_set_new(uses, matrix, json_integer(count + 1)))
                    return report_nomem();
            }
        }
    }
    return CODE_DONE;
}

/* Modules that have one of the two factors. */
static double sharers(const json_t *uses, const json_t *structure, size_t factor) {
    const json_t *term = json_array_get(json_object_get(structure, "terms"), 0);
    const json_t *op = json_array_get(json_object_get(term, "ops"), factor);
    const char *matrix = json_string_value(json_object_get(op, "matrix"));
    json_int_t count = matrix ? json_integer_value(json_object_get(uses, matrix)) : 1;
    return count > 1 ? (double)count : 1;
}

static double number_of(const json_t *object, const char *key) {
    return (double)json_integer_value(json_object_get(object, key));
}

static module module_of(const json_t *json, const json_t *structures, const json_t *uses) {
    const char *name = json_string_value(json_object_get(json, "module"));
    const char *kind = json_string_value(json_object_get(json, "kind"));
    double out = number_of(json, "out"), in = number_of(json, "in");
    module m = {.type = strrchr(name, '.') + 1,
                .storage = kind,
                .rank = json_integer_value(json_object_get(json, "rank")),
                .stored = number_of(json, "parameters"),
                .dense = out * in};
    if (strcmp(kind, "low_rank")) return m;
    const json_t *structure = json_object_get(structures, name);
    double left = sharers(uses, structure, 0), right = sharers(uses, structure, 1);
    m.storage = left > 1 || right > 1 ? "shared" : "two-factor";
    m.stored = (double)m.rank * (out / left + in / right);
    return m;
}

/* Those of the blocks; the head is in no plan. Returns how many there are. */
static size_t read_modules(module *modules, const json_t *result, const json_t *uses) {
    const json_t *lowrank = json_object_get(json_object_get(result, "config"), "lowrank");
    const json_t *structures = json_object_get(lowrank, "modules"), *list, *json;
    size_t count = 0, i;
    list = json_object_get(result, "modules");
    json_array_foreach(list, i, json) {
        if (!strchr(json_string_value(json_object_get(json, "module")), '.')) continue;
        module *m = &modules[count];
        *m = module_of(json, structures, uses);
        while (strcmp(modules[m->order].type, m->type)) m->order++;
        count++;
    }
    return count;
}

static int by_type_and_rank(const void *a, const void *b) {
    const module *x = a, *y = b;
    if (x->order != y->order) return x->order < y->order ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

static double share_of(const module *modules, size_t count) {
    double stored = 0, dense = 0;
    for (size_t i = 0; i < count; i++) {
        stored += modules[i].stored;
        dense += modules[i].dense;
    }
    return stored / dense;
}

/* `modules` are those of one type, with rising ranks. */
static int put_type(json_t *types, const module *modules, size_t count) {
    const char *storage = modules->storage;
    for (size_t i = 1; i < count; i++)
        if (strcmp(modules[i].storage, storage)) storage = "mixed";
    json_t *type = json_object();
    int code = type ? CODE_DONE : report_nomem();
    if (code) return code;
    TRY(report_count(type, "modules", (int64_t)count));
    TRY(report_put(type, "storage", json_string(storage)));
    TRY(report_count(type, "least_rank", modules[0].rank));
    TRY(report_count(type, "median_rank", modules[(count - 1) / 2].rank));
    TRY(report_count(type, "most_rank", modules[count - 1].rank));
    TRY(report_real(type, "kept", share_of(modules, count)));
    code = report_put(types, modules->type, json_incref(type));
done:
    json_decref(type);
    return code;
}

static int put_types(json_t *types, module *modules, size_t count) {
    int code = CODE_DONE;
    qsort(modules, count, sizeof *modules, by_type_and_rank);
    for (size_t first = 0, last; first < count && !code; first = last) {
        for (last = first; last < count && modules[last].order == modules[first].order;) last++;
        code = put_type(types, modules + first, last - first);
    }
    return code;
}

static int is_dense(const module *modules, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(modules[i].storage, "dense")) return 0;
    return 1;
}

int types_report(json_t *result) {
    const json_t *lowrank = json_object_get(json_object_get(result, "config"), "lowrank");
    json_t *uses = json_object(), *types = json_object();
    module *modules = calloc(json_array_size(json_object_get(result, "modules")), sizeof *modules);
    int code = uses && types && modules ? CODE_DONE : report_nomem();
    if (code) goto done;
    TRY(count_uses(uses, json_object_get(lowrank, "modules")));
    size_t count = read_modules(modules, result, uses);
    if (is_dense(modules, count)) goto done;
    TRY(put_types(types, modules, count));
    TRY(report_real(result, "kept_linear", share_of(modules, count)));
    code = report_put(result, "types", json_incref(types));
done:
    json_decref(uses);
    json_decref(types);
    free(modules);
    return code;
}
