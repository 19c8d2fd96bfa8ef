/* GGUF: a file made here byte by byte, files of the reference package, and damage to both. */
#include "format/gguf.h"
#include "faults.h"
#include "golden.h"

/* --- a small writer --- */

typedef struct bytes {
    unsigned char data[8192];
    size_t size;
} bytes;

static void put(bytes *b, const void *data, size_t size) {
    ck_assert(b->size + size <= sizeof b->data);
    if (size) memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void put_number(bytes *b, uint64_t value, size_t size) {
    for (size_t i = 0; i < size; i++) put(b, &(unsigned char){(unsigned char)(value >> 8 * i)}, 1);
}

static void put_text(bytes *b, const char *text) {
    put_number(b, strlen(text), 8);
    put(b, text, strlen(text));
}

static void put_key(bytes *b, const char *key, uint32_t type) {
    put_text(b, key);
    put_number(b, type, 4);
}

static void put_u32(bytes *b, const char *key, uint32_t value) {
    put_key(b, key, LR__GGUF_U32);
    put_number(b, value, 4);
}

static void put_array(bytes *b, const char *key, uint32_t type, uint64_t count) {
    put_key(b, key, LR__GGUF_ARRAY);
    put_number(b, type, 4);
    put_number(b, count, 8);
}

static void put_tensor(bytes *b, const char *name, uint32_t ndim, const uint64_t *dims,
                       uint32_t type, uint64_t offset) {
    put_text(b, name);
    put_number(b, ndim, 4);
    for (uint32_t i = 0; i < ndim && i < 8; i++) put_number(b, dims[i], 8);
    put_number(b, type, 4);
    put_number(b, offset, 8);
}

/* What a test may change about the sample. */
typedef struct sample {
    const char *magic;
    uint32_t version;
    uint64_t tensors, keys;
    const char *key;  /* name of the last key */
    const char *name; /* of the second tensor */
    uint32_t alignment, ndim, type;
    uint64_t dims[8];
    uint64_t offset, array_count;
    uint32_t array_type;
    uint32_t data; /* bytes of data */
} sample;

/* Two tensors: "a" F32 [2, 3] at 0 and "b" Q8_0 [2, 32] at 32. */
static sample plain(void) {
    return (sample){.magic = "GGUF",
                    .version = 3,
                    .tensors = 2,
                    .keys = 9,
                    .key = "last",
                    .name = "b",
                    .alignment = 32,
                    .ndim = 2,
                    .type = 8,
                    .dims = {32, 2, 1, 1, 1},
                    .offset = 32,
                    .array_count = 3,
                    .array_type = LR__GGUF_STRING,
                    .data = 100};
}

/* Returns the bytes in front of the data. */
static size_t build(bytes *b, sample s) {
    b->size = 0;
    put(b, s.magic, 4);
    put_number(b, s.version, 4);
    put_number(b, s.tensors, 8);
    put_number(b, s.keys, 8);
    put_u32(b, "general.alignment", s.alignment);
    put_key(b, "text", LR__GGUF_STRING);
    put_text(b, "hello");
    put_array(b, "tokens", s.array_type, s.array_count);
    put_text(b, "one");
    put_text(b, "");
    put_text(b, "three");
    put_array(b, "ids", LR__GGUF_I16, 3);
    put_number(b, (uint64_t)-5, 2);
    put_number(b, 7, 2);
    put_number(b, 300, 2);
    put_key(b, "real", LR__GGUF_F32);
    put_number(b, 0x40200000, 4); /* 2.5f */
    put_key(b, "flag", LR__GGUF_BOOL);
    put_number(b, 1, 1);
    put_key(b, "huge", LR__GGUF_U64);
    put_number(b, UINT64_MAX, 8);
    put_key(b, "small", LR__GGUF_I8);
    put_number(b, 0xFE, 1);
    put_u32(b, s.key, 11);
    put_tensor(b, "a", 2, (uint64_t[]){3, 2}, 0, 0);
    put_tensor(b, s.name, s.ndim, s.dims, s.type, s.offset);
    size_t head = b->size;
    while (b->size % 32) put_number(b, 0, 1);
    for (uint32_t i = 0; i < s.data; i++) put_number(b, i, 1);
    return head;
}

static lr_status open_bytes(lr__gguf **gguf, const unsigned char *data, size_t size) {
    return lr__gguf_open(gguf, scratch_memory(data, size), 1);
}

static uint64_t touch_value(const lr__gguf_value *value) {
    const unsigned char *cursor = value->data;
    uint64_t sum = value->key.size;
    for (uint64_t i = 0; i < value->count; i++) {
        if (value->type == LR__GGUF_STRING ||
            (value->type == LR__GGUF_ARRAY && value->element_type == LR__GGUF_STRING)) {
            lr__text text = lr__gguf_next_text(&cursor);
            for (size_t k = 0; k < text.size; k++) sum += (unsigned char)text.data[k];
        } else {
            sum += (uint64_t)lr__gguf_element(value, i);
        }
    }
    return sum;
}

static void touch(const lr__gguf *gguf) {
    volatile uint64_t sum = 0;
    for (size_t i = 0; i < gguf->value_count; i++) sum += touch_value(&gguf->values[i]);
    (void)sum;
    golden_touch(&gguf->tensors);
}

/* Opens what may be damaged: a status and a sentence, or a file that can be read to its end. */
static lr_status survive(const unsigned char *data, size_t size) {
    lr__gguf *gguf;
    lr__fail(LR_OK, "%s", "");
    lr_status status = open_bytes(&gguf, data, size);
    if (status == LR_OK) {
        touch(gguf);
        lr__gguf_free(gguf);
        return status;
    }
    ck_assert_ptr_null(gguf);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "/proc/self/fd/"));
    ck_assert(status == LR_E_FORMAT || status == LR_E_UNSUPPORTED);
    return status;
}

/* --- whole files --- */

START_TEST(test_values) {
    bytes b;
    lr__gguf *gguf;
    sample s = plain();
    s.version = (uint32_t)_i;
    build(&b, s);
    ck_assert_int_eq(open_bytes(&gguf, b.data, b.size), LR_OK);
    ck_assert_uint_eq(gguf->value_count, 9);
    int64_t integer = 1;
    double real = 1;
    lr__text text = {0};
    ck_assert_int_eq(lr__gguf_int(gguf, "none", &integer), LR_OK);
    ck_assert_int_eq(integer, 1);
    ck_assert_int_eq(lr__gguf_int(gguf, "last", &integer), LR_OK);
    ck_assert_int_eq(integer, 11);
    ck_assert_int_eq(lr__gguf_int(gguf, "small", &integer), LR_OK);
    ck_assert_int_eq(integer, -2);
    ck_assert_int_eq(lr__gguf_int(gguf, "flag", &integer), LR_OK);
    ck_assert_int_eq(integer, 1);
    ck_assert_int_eq(lr__gguf_int(gguf, "huge", &integer), LR_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "key \"huge\" is not an integer of 64 bits"));
    ck_assert_int_eq(lr__gguf_int(gguf, "real", &integer), LR_E_FORMAT);
    ck_assert_int_eq(lr__gguf_real(gguf, "real", &real), LR_OK);
    ck_assert_double_eq(real, 2.5);
    ck_assert_int_eq(lr__gguf_real(gguf, "last", &real), LR_OK);
    ck_assert_double_eq(real, 11);
    ck_assert_int_eq(lr__gguf_real(gguf, "text", &real), LR_E_FORMAT);
    ck_assert_int_eq(lr__gguf_real(gguf, "flag", &real), LR_E_FORMAT);
    ck_assert_int_eq(lr__gguf_text(gguf, "text", &text), LR_OK);
    ck_assert_uint_eq(text.size, 5);
    ck_assert_mem_eq(text.data, "hello", 5);
    ck_assert_int_eq(lr__gguf_text(gguf, "last", &text), LR_E_FORMAT);
    ck_assert_ptr_null(lr__gguf_find(gguf, "las"));
    lr__gguf_free(gguf);
    lr__gguf_free(NULL);
}
END_TEST

START_TEST(test_arrays) {
    bytes b;
    lr__gguf *gguf;
    build(&b, plain());
    ck_assert_int_eq(open_bytes(&gguf, b.data, b.size), LR_OK);
    const lr__gguf_value *tokens = lr__gguf_find(gguf, "tokens"), *ids = lr__gguf_find(gguf, "ids");
    static const char *const expected[] = {"one", "", "three"};
    const unsigned char *cursor = tokens->data;
    ck_assert_uint_eq(tokens->count, 3);
    for (int i = 0; i < 3; i++) {
        lr__text text = lr__gguf_next_text(&cursor);
        ck_assert_uint_eq(text.size, strlen(expected[i]));
        ck_assert_mem_eq(text.data, expected[i], text.size);
    }
    ck_assert_int_eq(lr__gguf_element(ids, 0), -5);
    ck_assert_int_eq(lr__gguf_element(ids, 2), 300);
    ck_assert_int_eq(lr__gguf_element(ids, 3), 0);
    ck_assert_int_eq(lr__gguf_element(tokens, 0), 0);
    lr__gguf_free(gguf);
}
END_TEST

START_TEST(test_tensors) {
    bytes b;
    lr__gguf *gguf;
    build(&b, plain());
    ck_assert_int_eq(open_bytes(&gguf, b.data, b.size), LR_OK);
    const lr__stored *one = lr__stored_find(&gguf->tensors, "a");
    const lr__stored *two = lr__stored_find(&gguf->tensors, "b");
    ck_assert_int_eq(one->dtype, LR_F32);
    ck_assert_int_eq(one->ndim, 2);
    ck_assert_int_eq(one->shape[0], 2);
    ck_assert_int_eq(one->shape[1], 3);
    ck_assert_uint_eq(one->bytes, 24);
    ck_assert_int_eq(*(const unsigned char *)one->data, 0);
    ck_assert_int_eq(two->dtype, LR_Q8_0);
    ck_assert_int_eq(two->shape[0], 2);
    ck_assert_int_eq(two->shape[1], 32);
    ck_assert_uint_eq(two->bytes, 68);
    ck_assert_int_eq(*(const unsigned char *)two->data, 32);
    ck_assert_ptr_null(lr__stored_find(&gguf->tensors, "c"));
    lr__gguf_free(gguf);
}
END_TEST

START_TEST(test_golden) {
    static const char *const files[] = {"tiny.gguf", "aligned.gguf"};
    lr__gguf *gguf;
    ck_assert_int_eq(lr__gguf_open(&gguf, golden_path(files[_i % 2]), _i / 2), LR_OK);
    ck_assert_uint_eq(golden_check(&gguf->tensors, files[_i % 2]), gguf->tensors.count);
    ck_assert_uint_eq(gguf->tensors.count, 7);
    int64_t integer = 0;
    double real = 0;
    lr__text text = {0};
    lr__gguf_int(gguf, "llama.block_count", &integer);
    ck_assert_int_eq(integer, 2);
    lr__gguf_int(gguf, "test.negative", &integer);
    ck_assert_int_eq(integer, -((int64_t)1 << 40));
    lr__gguf_int(gguf, "test.flag", &integer);
    ck_assert_int_eq(integer, 1);
    ck_assert_int_eq(lr__gguf_int(gguf, "test.huge", &integer), LR_E_FORMAT);
    lr__gguf_real(gguf, "llama.rope.freq_base", &real);
    ck_assert_double_eq(real, 10000.5);
    lr__gguf_real(gguf, "test.double", &real);
    ck_assert_double_eq(real, 0.1);
    lr__gguf_text(gguf, "test.text", &text);
    ck_assert_uint_eq(text.size, 6);
    ck_assert_mem_eq(text.data, "na\xc3\xafve", 6);
    const lr__gguf_value *tokens = lr__gguf_find(gguf, "tokenizer.ggml.tokens");
    ck_assert_uint_eq(tokens->count, 4);
    ck_assert_int_eq(lr__gguf_element(lr__gguf_find(gguf, "tokenizer.ggml.token_type"), 0), 2);
    ck_assert_int_eq(lr__gguf_element(lr__gguf_find(gguf, "test.flags"), 2), 1);
    ck_assert_int_eq(lr__stored_find(&gguf->tensors, "blk.0.ffn_down.weight")->dtype, LR_Q4_0);
    lr__gguf_free(gguf);
}
END_TEST

START_TEST(test_type_names) {
    ck_assert_str_eq(lr__gguf_type_name(14), "Q6_K");
    ck_assert_str_eq(lr__gguf_type_name(0), "F32");
    ck_assert_str_eq(lr__gguf_type_name(4), "?");
    ck_assert_str_eq(lr__gguf_type_name(-1), "?");
    ck_assert_str_eq(lr__gguf_type_name(1000), "?");
}
END_TEST

/* A type we do not know has no size, but its place is still checked. */
START_TEST(test_future_type) {
    bytes b;
    lr__gguf *gguf;
    sample s = plain();
    s.type = 77;
    build(&b, s);
    ck_assert_int_eq(open_bytes(&gguf, b.data, b.size), LR_OK);
    ck_assert_int_eq(lr__stored_find(&gguf->tensors, "b")->dtype, -78);
    ck_assert_uint_eq(lr__stored_find(&gguf->tensors, "b")->bytes, 0);
    lr__gguf_free(gguf);
    s.offset = 128;
    build(&b, s);
    ck_assert_int_eq(open_bytes(&gguf, b.data, b.size), LR_E_FORMAT);
}
END_TEST

/* --- damage --- */

START_TEST(test_truncated) {
    bytes b;
    build(&b, plain());
    ck_assert_int_eq(survive(b.data, b.size), LR_OK);
    for (size_t size = 0; size < b.size; size++)
        ck_assert_msg(survive(b.data, size) == LR_E_FORMAT, "%zu bytes pass", size);
}
END_TEST

START_TEST(test_flipped) {
    static const unsigned char values[] = {0, 1, 8, 9, 0x20, 0x7F, 0x80, 0xFF};
    bytes b;
    size_t head = build(&b, plain());
    for (size_t i = 0; i < head; i++) {
        unsigned char kept = b.data[i];
        for (size_t v = 0; v < sizeof values; v++) {
            b.data[i] = values[v];
            survive(b.data, b.size);
        }
        for (int bit = 0; bit < 8; bit++) {
            b.data[i] = (unsigned char)(kept ^ 1 << bit);
            survive(b.data, b.size);
        }
        b.data[i] = kept;
    }
    ck_assert_int_eq(survive(b.data, b.size), LR_OK);
}
END_TEST

START_TEST(test_flipped_golden) {
    bytes b;
    b.size = scratch_read(golden_path("tiny.gguf"), (char *)b.data, sizeof b.data);
    ck_assert_uint_gt(b.size, 1000);
    for (size_t i = 0; i < 900; i++) {
        unsigned char kept = b.data[i];
        b.data[i] = (unsigned char)(kept + 1 + i % 255);
        survive(b.data, b.size);
        b.data[i] = kept;
    }
}
END_TEST

static void expect_refusal(sample s, lr_status status, const char *part) {
    bytes b;
    build(&b, s);
    ck_assert_int_eq(survive(b.data, b.size), status);
    ck_assert_msg(strstr(lr_last_error(), part) != NULL, "\"%s\" lacks \"%s\"", lr_last_error(),
                  part);
}

#define REFUSE(status, part, ...)        \
    do {                                 \
        sample s = plain();              \
        __VA_ARGS__;                     \
        expect_refusal(s, status, part); \
    } while (0)

START_TEST(test_head_lies) {
    REFUSE(LR_E_FORMAT, "expected \"GGUF\"", s.magic = "GGML");
    REFUSE(LR_E_UNSUPPORTED, "big-endian", s.magic = "FUGG");
    REFUSE(LR_E_UNSUPPORTED, "big-endian", s.version = 3u << 24);
    REFUSE(LR_E_UNSUPPORTED, "version 1, expected 2 or 3", s.version = 1);
    REFUSE(LR_E_UNSUPPORTED, "version 4", s.version = 4);
    REFUSE(LR_E_UNSUPPORTED, "version 0", s.version = 0);
    static const uint64_t lies[] = {(uint64_t)1 << 63, UINT64_MAX, 1000000, (uint64_t)1 << 32};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        REFUSE(LR_E_FORMAT, "tensors announced", s.tensors = lies[i]);
        REFUSE(LR_E_FORMAT, "keys announced", s.keys = lies[i]);
        REFUSE(LR_E_FORMAT, "inside a string", s.array_count = lies[i]);
        REFUSE(LR_E_FORMAT, "inside a value", s.array_count = lies[i]; s.array_type = 12);
    }
    REFUSE(LR_E_UNSUPPORTED, "array of arrays", s.array_type = LR__GGUF_ARRAY);
    REFUSE(LR_E_FORMAT, "key \"tokens\": unknown element type 13", s.array_type = 13);
    REFUSE(LR_E_FORMAT, "key \"ids\" stands twice", s.key = "ids");
    REFUSE(LR_E_FORMAT, "a key of 0 bytes", s.key = "");
    static const uint32_t alignments[] = {0, 1, 4, 24, 33, 1u << 31};
    for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++)
        REFUSE(LR_E_FORMAT, "general.alignment", s.alignment = alignments[i]);
}
END_TEST

START_TEST(test_tensor_lies) {
    uint64_t half = (uint64_t)1 << 63;
    REFUSE(LR_E_FORMAT, "tensor \"a\" stands twice", s.name = "a");
    REFUSE(LR_E_FORMAT, "name of 0 bytes", s.name = "");
    REFUSE(LR_E_FORMAT, "\"b\": number of dimensions 5, expected 4", s.ndim = 5);
    REFUSE(LR_E_FORMAT, "number of dimensions", s.ndim = UINT32_MAX);
    REFUSE(LR_E_FORMAT, "dimension 1 of 0 elements", s.dims[1] = 0);
    REFUSE(LR_E_FORMAT, "dimension 0", s.dims[0] = half);
    REFUSE(LR_E_FORMAT, "dimension 1", s.dims[1] = UINT64_MAX);
    REFUSE(LR_E_FORMAT, "dimension 1", s.dims[0] = s.dims[1] = (uint64_t)1 << 32);
    REFUSE(LR_E_FORMAT, "more bytes than the file", s.type = 28; s.dims[0] = half / 4;
           s.dims[1] = 1);
    REFUSE(LR_E_FORMAT, "at offset 32, the data has only 100", s.dims[1] = 3);
    REFUSE(LR_E_FORMAT, "a row of 33, expected 32", s.dims[0] = 33);
    REFUSE(LR_E_FORMAT, "not a multiple of the alignment: 33, expected 32", s.offset = 33);
    REFUSE(LR_E_FORMAT, "overlaps the tensor before it", s.offset = 0);
    REFUSE(LR_E_FORMAT, "at offset 64", s.offset = 64);
    REFUSE(LR_E_FORMAT, "at offset 128", s.offset = 128);
    REFUSE(LR_E_FORMAT, "at offset", s.offset = UINT64_MAX - 31);
    REFUSE(LR_E_FORMAT, "at offset 32, the data has only 99", s.data = 99);
    REFUSE(LR_E_FORMAT, "has only 0", s.data = 0);
    REFUSE(LR_E_FORMAT, "type number", s.type = UINT32_MAX);
    REFUSE(LR_E_FORMAT, "type number", s.type = 1u << 31);
}
END_TEST

/* A key and a name with a NUL inside would end early as C strings. */
START_TEST(test_nul_names) {
    bytes b;
    build(&b, plain());
    for (size_t i = 0; i + 4 < b.size; i++) {
        if (memcmp(b.data + i, "last", 4) != 0) continue;
        b.data[i + 1] = '\0';
        ck_assert_int_eq(survive(b.data, b.size), LR_E_FORMAT);
        ck_assert_ptr_nonnull(strstr(lr_last_error(), "holds a NUL"));
    }
}
END_TEST

START_TEST(test_missing) {
    lr__gguf *gguf;
    ck_assert_int_eq(lr__gguf_open(&gguf, scratch_path("none.gguf"), 0), LR_E_NOTFOUND);
    ck_assert_ptr_null(gguf);
}
END_TEST

/* No tensors and no keys is a GGUF too, with or without padding behind the header. */
START_TEST(test_bare) {
    bytes b = {.size = 0};
    put(&b, "GGUF", 4);
    put_number(&b, 3, 4);
    put_number(&b, 0, 8);
    put_number(&b, 0, 8);
    ck_assert_int_eq(survive(b.data, b.size), LR_OK);
    put_number(&b, 0, 8);
    ck_assert_int_eq(survive(b.data, b.size), LR_OK);
}
END_TEST

START_TEST(test_no_memory) {
    bytes b;
    lr__gguf *gguf;
    lr_status status = LR_E_NOMEM;
    build(&b, plain());
    const char *path = scratch_write("x.gguf", b.data, b.size);
    for (long i = 0; status < 0; i++) {
        ck_assert_int_lt(i, 100);
        faults_begin(i);
        status = lr__gguf_open(&gguf, path, 1);
        lr__gguf_free(gguf);
        ck_assert_int_eq(faults_end(), 0);
        ck_assert(status == LR_OK || status == LR_E_NOMEM);
    }
}
END_TEST

Suite *gguf_suite(void);
Suite *gguf_suite(void) {
    Suite *suite = suite_create("gguf");
    TCase *tests = tcase_create("gguf");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, test_values, 2, 4);
    tcase_add_test(tests, test_arrays);
    tcase_add_test(tests, test_tensors);
    tcase_add_loop_test(tests, test_golden, 0, 4);
    tcase_add_test(tests, test_type_names);
    tcase_add_test(tests, test_future_type);
    tcase_add_test(tests, test_truncated);
    tcase_add_test(tests, test_flipped);
    tcase_add_test(tests, test_flipped_golden);
    tcase_add_test(tests, test_head_lies);
    tcase_add_test(tests, test_tensor_lies);
    tcase_add_test(tests, test_nul_names);
    tcase_add_test(tests, test_missing);
    tcase_add_test(tests, test_bare);
    tcase_add_test(tests, test_no_memory);
    suite_add_tcase(suite, tests);
    return suite;
}
