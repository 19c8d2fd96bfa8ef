/* The result on stdout: one line of JSON for programs, or the same object as aligned lines for
 * people, with thousands separators, sizes in binary units and only as many digits as mean much. */
#include "cli/report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NUMBERS_SHOWN = 64, MEMBERS_SHOWN = 16, KEY_WIDTH = 32 };

static void print_count(int64_t value) {
    char digits[32];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)value);
    for (int i = 0; i < length; i++) {
        int left = length - i;
        if (i && left % 3 == 0 && digits[i - 1] != '-') putchar(',');
        putchar(digits[i]);
    }
}

static void print_bytes(int64_t value) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double size = (double)value;
    size_t unit = 0;
    for (; size >= 1024 && unit < 5; unit++) size /= 1024;
    printf(unit ? "%.1f %s" : "%.0f %s", size, units[unit]);
}

static void print_real(const char *key, double value) {
    if (strstr(key, "seconds"))
        printf("%.3f s", value);
    else if (fabs(value) >= 1000 && fabs(value) < 1e15)
        print_count((int64_t)llround(value));
    else
        printf("%.5g", value);
}

static void print_indent(int depth) { printf("%*s", depth * 2, ""); }

/* Text of several lines stands below its key. */
static void print_text(const char *text, size_t length, int depth) {
    if (!memchr(text, '\n', length)) {
        fwrite(text, 1, length, stdout);
        return;
    }
    for (size_t i = 0; i < length; i++) {
        if (i == 0 || text[i - 1] == '\n') {
            putchar('\n');
            print_indent(depth + 1);
        }
        if (text[i] != '\n') putchar(text[i]);
    }
}

static void print_scalar(const char *key, const json_t *value, int depth) {
    if (json_is_integer(value) && strstr(key, "bytes"))
        print_bytes(json_integer_value(value));
    else if (json_is_integer(value))
        print_count(json_integer_value(value));
    else if (json_is_real(value))
        print_real(key, json_real_value(value));
    else if (json_is_string(value))
        print_text(json_string_value(value), json_string_length(value), depth);
    else
        fputs(json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "none", stdout);
}

static int is_pair(const json_t *value) {
    return json_object_size(value) == 2 && json_object_get(value, "before") &&
           json_object_get(value, "after");
}

/* A line of a table: what is summed up of many. */
static int is_row(const json_t *value) { return json_object_get(value, "median_rank") != NULL; }

/* Whether the value begins on the line after its key. */
static int stands_below(const json_t *value) {
    if (json_is_string(value))
        return memchr(json_string_value(value), '\n', json_string_length(value)) != NULL;
    if (json_is_array(value)) return json_is_string(json_array_get(value, 0));
    return json_is_object(value) && json_object_size(value) <= MEMBERS_SHOWN && !is_pair(value) &&
           !is_row(value);
}

static int print_key(const char *key, int is_name) {
    int length = 0;
    for (; key[length]; length++) putchar(key[length] == '_' && !is_name ? ' ' : key[length]);
    return length;
}

static void print_row(const json_t *row) {
    const char *key, *before = "";
    json_t *value;
    json_object_foreach((json_t *)row, key, value) {
        fputs(before, stdout);
        print_key(key, 0);
        putchar(' ');
        print_scalar(key, value, 0);
        before = ", ";
    }
}

/* Ids are names, not quantities: no separators. */
static void print_numbers(const json_t *array) {
    size_t count = json_array_size(array);
    for (size_t i = 0; i < count && i < NUMBERS_SHOWN; i++)
        printf("%s%lld", i ? " " : "", (long long)json_integer_value(json_array_get(array, i)));
    if (count > NUMBERS_SHOWN) printf(" ... (%zu in all; --json prints every one)", count);
}

static void print_members(const json_t *object, const char *unit, int depth);

static void print_list(const char *key, const json_t *array, int depth) {
    size_t count = json_array_size(array), texts = 0, numbers = 0;
    for (size_t i = 0; i < count; i++) {
        texts += json_is_string(json_array_get(array, i));
        numbers += json_is_integer(json_array_get(array, i));
    }
    if (count == 0) {
        fputs("none", stdout);
    } else if (numbers == count) {
        print_numbers(array);
    } else if (texts == count) {
        for (size_t i = 0; i < count; i++) {
            putchar('\n');
            print_indent(depth + 1);
            printf("%zu: ", i + 1);
            print_scalar(key, json_array_get(array, i), depth + 1);
        }
    } else {
        printf("%zu, listed with --json", count);
    }
}

static void print_value(const char *key, const json_t *value, int depth) {
    if (json_is_array(value)) {
        print_list(key, value, depth);
    } else if (is_pair(value)) {
        print_scalar(key, json_object_get(value, "before"), depth);
        fputs(" -> ", stdout);
        print_scalar(key, json_object_get(value, "after"), depth);
    } else if (is_row(value)) {
        print_row(value);
    } else if (json_object_size(value) > MEMBERS_SHOWN) {
        printf("%zu, listed with --json", json_object_size(value));
    } else if (json_is_object(value)) {
        putchar('\n');
        print_members(value, key, depth + 1);
        return;
    } else {
        print_scalar(key, value, depth);
    }
    putchar('\n');
}

static int widest(const json_t *object) {
    int width = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        int length = (int)strlen(key);
        if (!stands_below(value) && length > width && length <= KEY_WIDTH) width = length;
    }
    return width;
}

/* `unit` is the key of the object: in "seconds" every member is in seconds. Names of modules and of
 * their types stay as they are. */
static void print_members(const json_t *object, const char *unit, int depth) {
    int width = widest(object);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        print_indent(depth);
        int length = print_key(key, strchr(key, '.') != NULL || is_row(value));
        putchar(':');
        if (!stands_below(value)) printf("%*s", 1 + (length < width ? width - length : 0), "");
        int is_inherited = strstr(unit, "seconds") || strstr(unit, "bytes");
        print_value(is_inherited ? unit : key, value, depth);
    }
}

int report_print(const json_t *result, int as_json) {
    if (!as_json) {
        print_members(result, "", 0);
    } else {
        /* 15 digits name every result beyond its accuracy and read as people write numbers. */
        if (json_dumpf(result, stdout, JSON_REAL_PRECISION(15)) && !ferror(stdout))
            return report_nomem();
        putchar('\n');
    }
    return report_flush();
}
