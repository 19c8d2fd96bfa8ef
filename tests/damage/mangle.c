/* Damage to bytes, to JSON values and to the header of a safetensors file. */
#include "damage.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* splitmix64 */
static uint64_t next(uint64_t *state) {
    uint64_t x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

uint64_t draw(uint64_t *state, uint64_t below) { return below ? next(state) % below : 0; }

static void resize(bytes *file, size_t size) {
    file->data = realloc(file->data, size + 1);
    if (!file->data) abort();
    if (size > file->size) memset(file->data + file->size, 0, size - file->size);
    file->size = size;
    file->data[size] = '\0';
}

/* Replaces [at, at + old) by `size` bytes. */
static void splice(bytes *file, size_t at, size_t old, const void *with, size_t size) {
    size_t rest = file->size - at - old, before = file->size;
    if (size > old) resize(file, before + size - old);
    memmove(file->data + at + size, file->data + at + old, rest);
    memcpy(file->data + at, with, size);
    if (size < old) resize(file, before + size - old);
}

/* --- plain bytes --- */

/* Headers are where damage tells. */
static size_t place(const bytes *file, uint64_t *state) {
    size_t near = file->size < 6000 ? file->size : 6000;
    return draw(state, draw(state, 2) ? near : file->size);
}

static void overwrite_number(bytes *file, uint64_t *state) {
    static const uint64_t numbers[] = {0,          1,          0x7f,          0xff,       0xffff,
                                       0x7fffffff, 0x80000000, 0xffffffff,    1ull << 40, INT64_MAX,
                                       1ull << 63, UINT64_MAX, UINT64_MAX - 7};
    size_t at = place(file, state), width = (size_t)1 << draw(state, 4);
    uint64_t number = numbers[draw(state, sizeof numbers / sizeof *numbers)];
    if (draw(state, 2)) at &= ~(size_t)3;
    for (size_t i = 0; i < width && at + i < file->size; i++)
        file->data[at + i] = (char)(number >> 8 * i);
}

static void mangle_bytes(bytes *file, uint64_t *state) {
    static const char odd[] = "\xff\xfe\xc0\x80\xed\xa0\x80";
    size_t at = place(file, state), left = file->size - at;
    size_t length = draw(state, left < 64 ? left : 64);
    char copy[64];
    if (!file->size) return;
    switch (draw(state, 9)) {
    case 0: resize(file, at); break;
    case 1: resize(file, file->size + 1 + draw(state, 100)); break;
    case 2:
        for (int i = 0; i < 1 + (int)draw(state, 8); i++)
            file->data[place(file, state)] ^= (char)(1 << draw(state, 8));
        break;
    case 3: splice(file, at, length, "", 0); break;
    case 4:
        memcpy(copy, file->data + at, length);
        splice(file, at, 0, copy, length);
        break;
    case 5: memset(file->data + at, draw(state, 2) ? 0xff : 0, length); break;
    case 6: splice(file, at, draw(state, 2) ? length : 0, odd, sizeof odd - 1); break;
    default: overwrite_number(file, state); break;
    }
}

/* --- JSON --- */

/* Texts that Jansson would not write stand for themselves behind an @. */
static const char *const values[] = {
    "0",
    "1",
    "-1",
    "2",
    "3",
    "-9223372036854775808",
    "1048577",
    "65536",
    "2147483647",
    "4294967297",
    "9223372036854775807",
    "0.5",
    "1e308",
    "-1e308",
    "1e-320",
    "1e39",
    "true",
    "false",
    "null",
    "\"\"",
    "\"x\"",
    "[]",
    "{}",
    "[1,2]",
    "[0,0]",
    "[-1]",
    "[8,8,8]",
    "\"F64\"",
    "\"I32\"",
    "\"BF16\"",
    "\"BOOL\"",
    "\"F7\"",
    "\"../x\"",
    "\"@NaN\"",
    "\"@Infinity\"",
    "\"@1e400\"",
    "\"@99999999999999999999\"",
    "\"@deep\"",
    "\"@odd\"",
    "\"@long\"",
    "\"@twice\"",
};

static json_t *any_value(uint64_t *state) {
    return json_loads(values[draw(state, sizeof values / sizeof *values)], JSON_DECODE_ANY, NULL);
}

static size_t count_nodes(json_t *value) {
    size_t count = 1, index;
    const char *key;
    json_t *member;
    if (json_is_object(value)) json_object_foreach(value, key, member) count += count_nodes(member);
    if (json_is_array(value)) json_array_foreach(value, index, member) count += count_nodes(member);
    return count;
}

static void mangle_value(json_t *value, uint64_t *state);

/* Text that is JSON itself, as in the metadata of statistics. */
static json_t *mangled_text(json_t *value, uint64_t *state) {
    json_t *inner = json_loads(json_string_value(value), 0, NULL);
    if (!inner) return any_value(state);
    mangle_value(inner, state);
    char *text = json_dumps(inner, JSON_COMPACT);
    json_t *outer = json_string(text);
    free(text);
    json_decref(inner);
    return outer;
}

static json_t *replacement(json_t *member, uint64_t *state) {
    if (json_is_string(member) && *json_string_value(member) &&
        strchr("[{", *json_string_value(member)))
        return mangled_text(member, state);
    if (json_is_integer(member) && draw(state, 3) == 0)
        return json_integer(json_integer_value(member) + (json_int_t)draw(state, 9) - 4);
    return any_value(state);
}

static void mangle_object(json_t *object, const char *key, uint64_t *state) {
    char name[200];
    json_t *member = json_incref(json_object_get(object, key));
    snprintf(name, sizeof name, "%s", key);
    switch (draw(state, 6)) {
    case 0: json_object_del(object, name); break;
    case 1:
        json_object_del(object, name);
        json_object_set(object, draw(state, 2) ? "" : "renamed", member);
        break;
    case 2: { /* two members change places */
        void *first = json_object_iter(object);
        json_t *other = json_incref(json_object_iter_value(first));
        json_object_iter_set(object, first, member);
        json_object_set_new(object, name, other);
        break;
    }
    default: json_object_set_new(object, name, replacement(member, state)); break;
    }
    json_decref(member);
}

/* Damages the node that comes `*left` nodes further on; 1 when that was done. */
static int mangle_node(json_t *value, size_t *left, uint64_t *state) {
    size_t index;
    const char *key;
    json_t *member;
    if (json_is_object(value)) json_object_foreach(value, key, member) {
            if ((*left)-- == 0) return mangle_object(value, key, state), 1;
            if (mangle_node(member, left, state)) return 1;
        }
    if (json_is_array(value)) json_array_foreach(value, index, member) {
            if ((*left)-- == 0) {
                if (draw(state, 4))
                    json_array_set_new(value, index, replacement(member, state));
                else
                    json_array_remove(value, index);
                return 1;
            }
            if (mangle_node(member, left, state)) return 1;
        }
    return 0;
}

static void mangle_value(json_t *value, uint64_t *state) {
    size_t left = draw(state, count_nodes(value) - 1);
    mangle_node(value, &left, state);
}

static void stand_in(bytes *text, const char *mark, const void *with, size_t size) {
    char *found = strstr(text->data, mark);
    if (found) splice(text, (size_t)(found - text->data), strlen(mark), with, size);
}

static void fill_in(bytes *text) {
    static const char *const same[] = {"NaN", "Infinity", "1e400", "99999999999999999999"};
    static char deep[100000], very_long[70002];
    char mark[40];
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        snprintf(mark, sizeof mark, "\"@%s\"", same[i]);
        stand_in(text, mark, same[i], strlen(same[i]));
    }
    memset(deep, '[', sizeof deep);
    memset(very_long, 'a', sizeof very_long);
    very_long[0] = very_long[sizeof very_long - 1] = '"';
    stand_in(text, "\"@deep\"", deep, sizeof deep);
    stand_in(text, "\"@long\"", very_long, sizeof very_long);
    stand_in(text, "\"@odd\"", "\"\xff\xc0\x80\"", 5);
    stand_in(text, "\"@twice\"", "{\"a\":1,\"a\":2}", 13);
}

/* Structure in three cases of four, else the text. */
static void mangle_json(bytes *text, uint64_t *state) {
    json_t *value = draw(state, 4) ? json_loadb(text->data, text->size, 0, NULL) : NULL;
    if (!value) {
        mangle_bytes(text, state);
        return;
    }
    for (uint64_t i = draw(state, 3) ? 1 : 3; i-- > 0;) mangle_value(value, state);
    free(text->data);
    text->data = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    text->size = strlen(text->data);
    json_decref(value);
    fill_in(text);
}

/* --- safetensors --- */

static void mangle_header(bytes *file, uint64_t *state) {
    uint64_t size;
    memcpy(&size, file->data, sizeof size);
    bytes header = {malloc(size + 1), size};
    memcpy(header.data, file->data + 8, size);
    header.data[size] = '\0';
    mangle_json(&header, state);
    splice(file, 8, size, header.data, header.size);
    size = header.size;
    memcpy(file->data, &size, sizeof size);
    free(header.data);
}

/* A number of the data becomes NaN, infinite or huge. */
static void poison(bytes *file, uint64_t *state) {
    static const uint32_t bits[] = {0x7fc00000, 0x7f800000, 0xff800000, 0x7f7fffff};
    uint32_t number = bits[draw(state, 4)];
    uint64_t header;
    memcpy(&header, file->data, sizeof header);
    size_t data = 8 + (size_t)header, numbers = (file->size - data) / 4;
    for (uint64_t i = draw(state, 20) + 1; numbers && i-- > 0;)
        memcpy(file->data + data + 4 * draw(state, numbers), &number, sizeof number);
}

void mangle(bytes *file, int form, uint64_t number) {
    uint64_t state = number * 0x2545F4914F6CDD1Du + 1, kind = draw(&state, 8);
    if (form == JSON_TEXT)
        mangle_json(file, &state);
    else if (form == SAFETENSORS && kind < 5)
        mangle_header(file, &state);
    else if (form == SAFETENSORS && kind == 5)
        poison(file, &state);
    else
        for (uint64_t i = draw(&state, 5) ? 1 : 3; i-- > 0;) mangle_bytes(file, &state);
}
