/* safetensors read: headers written here by hand, files of the reference package, and damage. The
 * writer is in test_safetensors_write.c. */
#include "format/safetensors.h"
#include "faults.h"
#include "golden.h"

/* Length, header, then `size` bytes 0, 1, 2, ... Returns the size of the whole. */
static size_t build(unsigned char *out, const char *header, size_t size) {
    uint64_t length = strlen(header);
    memcpy(out, &length, 8);
    memcpy(out + 8, header, length);
    for (size_t i = 0; i < size; i++) out[8 + length + i] = (unsigned char)i;
    return 8 + length + size;
}

/* Opens what may be damaged: a status and a sentence, or tensors that can be read to their end. */
static lr_status survive(const unsigned char *data, size_t size) {
    lr__stored_list list = {0};
    lr__fail(LR_OK, "%s", "");
    lr_status status = lr__safetensors_add(&list, scratch_memory(data, size), 1, NULL);
    if (status == LR_OK)
        golden_touch(&list);
    else
        ck_assert_ptr_nonnull(strstr(lr_last_error(), "/proc/self/fd/"));
    ck_assert(status == LR_OK || status == LR_E_FORMAT || status == LR_E_UNSUPPORTED);
    lr__stored_list_clear(&list);
    return status;
}

#define F32(name, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

typedef struct header_case {
    const char *header;
    size_t size;      /* bytes of data */
    lr_status status; /* and, unless LR_OK, a part of the message: */
    const char *part;
} header_case;

static const header_case cases[] = {
    {"{}", 0, LR_OK, NULL},
    {"{}  ", 0, LR_OK, NULL},
    {"{" F32("a", "[2,3]", "0", "24") "}", 24, LR_OK, NULL},
    {"{" F32("b", "[1]", "24", "28") "," F32("a", "[2,3]", "0", "24") "}", 28, LR_OK, NULL},
    {"{" F32("a", "[]", "0", "4") "}", 4, LR_OK, NULL},
    {"{" F32("a", "[0,5]", "0", "0") "," F32("b", "[1]", "0", "4") "}", 4, LR_OK, NULL},
    {"{\"__metadata__\":{\"a\":\"b\"}}", 0, LR_OK, NULL},
    {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3, LR_OK, NULL},
    {"{\"a\":{\"dtype\":\"NEW\",\"shape\":[3],\"data_offsets\":[0,9]}}", 9, LR_OK, NULL},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2, LR_OK, NULL},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, LR_E_FORMAT,
     "whole bytes"},
    {"", 0, LR_E_FORMAT, "does not begin with"},
    {" {}", 0, LR_E_FORMAT, "does not begin with"},
    {"[]", 0, LR_E_FORMAT, "does not begin with"},
    {"{}", 1, LR_E_FORMAT, "1 bytes of data, the tensors use 0"},
    {"{} x", 0, LR_E_FORMAT, "line 1"},
    {"{" F32("a", "[2,3]", "0", "24") "}", 25, LR_E_FORMAT, "25 bytes of data"},
    {"{" F32("a", "[2,3]", "0", "24") "}", 23, LR_E_FORMAT, "\"a\": bytes 0 to 24 of 23"},
    {"{" F32("a", "[2,3]", "4", "28") "}", 28, LR_E_FORMAT, "begins at byte 4, expected 0"},
    {"{" F32("a", "[1]", "0", "4") "," F32("b", "[1]", "8", "12") "}", 12, LR_E_FORMAT,
     "\"b\" begins at byte 8, expected 4"},
    {"{" F32("a", "[2]", "0", "8") "," F32("b", "[2]", "4", "12") "}", 12, LR_E_FORMAT,
     "\"b\" begins at byte 4, expected 8"},
    {"{" F32("a", "[2]", "0", "8") "," F32("b", "[2]", "0", "8") "}", 8, LR_E_FORMAT, "begins"},
    {"{" F32("a", "[1]", "0", "4") "," F32("a", "[1]", "4", "8") "}", 8, LR_E_FORMAT, "duplicate"},
    {"{" F32("a", "[2,3]", "0", "20") "}", 20, LR_E_FORMAT, "20 bytes, its shape needs 24"},
    {"{" F32("a", "[2]", "8", "0") "}", 8, LR_E_FORMAT, "bytes 8 to 0"},
    {"{" F32("a", "[2]", "-8", "0") "}", 8, LR_E_FORMAT, "bytes -8 to 0"},
    {"{" F32("a", "[2]", "0", "9223372036854775807") "}", 8, LR_E_FORMAT, "bytes 0 to"},
    {"{" F32("a", "[2]", "0", "9223372036854775808") "}", 8, LR_E_FORMAT, "too big integer"},
    {"{" F32("a", "[2]", "0", "8.0") "}", 8, LR_E_FORMAT, "not a pair of integers"},
    {"{" F32("a", "[2]", "0", "8,9") "}", 8, LR_E_FORMAT, "not a pair of integers"},
    {"{" F32("a", "[-2]", "0", "8") "}", 8, LR_E_FORMAT, "else than sizes"},
    {"{" F32("a", "[-2,-1]", "0", "8") "}", 8, LR_E_FORMAT, "else than sizes"},
    {"{" F32("a", "[2.0]", "0", "8") "}", 8, LR_E_FORMAT, "else than sizes"},
    {"{" F32("a", "2", "0", "8") "}", 8, LR_E_FORMAT, "not an array"},
    {"{" F32("a", "[4294967296,4294967296]", "0", "0") "}", 0, LR_E_FORMAT, "more elements"},
    {"{" F32("a", "[4611686018427387904]", "0", "0") "}", 0, LR_E_FORMAT, "whole bytes"},
    {"{" F32("a", "[1,1,1,1,1,1,1]", "0", "4") "}", 4, LR_E_UNSUPPORTED, "7 dimensions"},
    {"{" F32("", "[1]", "0", "4") "}", 4, LR_E_FORMAT, "without a name"},
    {"{\"a\":1}", 0, LR_E_FORMAT, "no \"dtype\""},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, LR_E_FORMAT, "no \"dtype\""},
    {"{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, LR_E_FORMAT, "\"dtype\""},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, LR_E_FORMAT, "\"shape\""},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, LR_E_FORMAT, "\"data_offsets\""},
    {"{\"__metadata__\":{\"a\":1}}", 0, LR_E_FORMAT, "\"a\" is not a string"},
    {"{\"__metadata__\":[]}", 0, LR_E_FORMAT, "not an object"},
    {"{\"a\\u0000b\":1}", 0, LR_E_FORMAT, "line 1"},
    {"{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 0,
     LR_E_FORMAT, "deeper than 64"},
};

START_TEST(test_headers) {
    const header_case *c = &cases[_i];
    unsigned char data[1000];
    lr_status status = survive(data, build(data, c->header, c->size));
    ck_assert_msg(status == c->status, "%s: %d, %s", c->header, status, lr_last_error());
    if (c->part)
        ck_assert_msg(strstr(lr_last_error(), c->part) != NULL, "\"%s\" lacks \"%s\"",
                      lr_last_error(), c->part);
}
END_TEST

START_TEST(test_lengths) {
    static const uint64_t lies[] = {
        0, 1, 3, 9, 100000001, (uint64_t)1 << 63, UINT64_MAX, UINT64_MAX - 7};
    unsigned char data[100];
    size_t size = build(data, "{}", 0);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        memcpy(data, &lies[i], 8);
        ck_assert_int_eq(survive(data, size), LR_E_FORMAT);
    }
}
END_TEST

static const char sample[] = "{\"__metadata__\":{\"k\":\"v\"}," F32(
    "a", "[2,3]", "0", "24") ","
                             "\"b.c\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]}}";

START_TEST(test_truncated) {
    unsigned char data[1000];
    size_t size = build(data, sample, 32);
    ck_assert_int_eq(survive(data, size), LR_OK);
    for (size_t i = 0; i < size; i++) ck_assert_int_eq(survive(data, i), LR_E_FORMAT);
}
END_TEST

START_TEST(test_flipped) {
    static const unsigned char values[] = {0,   '"', '{',  '}',  '[',  ',',
                                           '9', '-', '\\', 0x7F, 0x80, 0xFF};
    unsigned char data[1000];
    size_t size = build(data, sample, 32);
    for (size_t i = 0; i < size - 32; i++) {
        unsigned char kept = data[i];
        for (size_t v = 0; v < sizeof values; v++) {
            data[i] = values[v];
            survive(data, size);
        }
        for (int bit = 0; bit < 8; bit++) {
            data[i] = (unsigned char)(kept ^ 1 << bit);
            survive(data, size);
        }
        data[i] = kept;
    }
    ck_assert_int_eq(survive(data, size), LR_OK);
}
END_TEST

START_TEST(test_content) {
    unsigned char data[1000];
    lr__stored_list list = {0};
    json_t *metadata;
    size_t size = build(data, sample, 32);
    const char *path = scratch_write("a.safetensors", data, size);
    ck_assert_int_eq(lr__safetensors_add(&list, path, _i, &metadata), LR_OK);
    ck_assert_str_eq(json_string_value(json_object_get(metadata, "k")), "v");
    json_decref(metadata);
    ck_assert_uint_eq(list.count, 2);
    const lr__stored *one = lr__stored_find(&list, "a"), *two = lr__stored_find(&list, "b.c");
    ck_assert_int_eq(one->dtype, LR_F32);
    ck_assert_int_eq(one->shape[1], 3);
    ck_assert_int_eq(((const unsigned char *)one->data)[23], 23);
    ck_assert_int_eq(two->dtype, LR_BF16);
    ck_assert_int_eq(two->ndim, 1);
    ck_assert_int_eq(((const unsigned char *)two->data)[7], 31);
    /* The same file again: its names are taken. */
    ck_assert_int_eq(lr__safetensors_add(&list, path, _i, &metadata), LR_E_FORMAT);
    ck_assert_ptr_null(metadata);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "tensor \"a\" stands also in"));
    lr__stored_list_clear(&list);
    lr__stored_list_clear(&list);
}
END_TEST

/* A header of any length, and a type after a smaller one: data is aligned for its type all the
 * same. */
START_TEST(test_alignment) {
    static const char format[] =
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
        "\"b\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[3,19]}}%*s";
    unsigned char data[1000];
    char header[300];
    for (int pad = 0; pad < 9; pad++) {
        lr__stored_list list = {0};
        snprintf(header, sizeof header, format, pad, "");
        size_t size = build(data, header, 19);
        ck_assert_int_eq(lr__safetensors_add(&list, scratch_memory(data, size), _i, NULL), LR_OK);
        const lr__stored *wide = lr__stored_find(&list, "b");
        ck_assert_uint_eq((uintptr_t)wide->data % 8, 0);
        ck_assert_int_eq(((const unsigned char *)wide->data)[15], 18);
        golden_touch(&list);
        lr__stored_list_clear(&list);
    }
}
END_TEST

START_TEST(test_golden) {
    lr__stored_list list = {0};
    json_t *metadata;
    ck_assert_int_eq(lr__safetensors_add(&list, golden_path("tiny.safetensors"), _i, &metadata),
                     LR_OK);
    ck_assert_uint_eq(golden_check(&list, "tiny.safetensors"), list.count);
    ck_assert_uint_eq(list.count, 11);
    ck_assert_str_eq(json_string_value(json_object_get(metadata, "note")), "na\xc3\xafve");
    ck_assert_int_eq(lr__stored_find(&list, "flags.bool")->dtype, -1);
    json_decref(metadata);
    lr__stored_list_clear(&list);
}
END_TEST

/* --- folders --- */

START_TEST(test_shards) {
    lr__stored_list list = {0};
    ck_assert_int_eq(lr__safetensors_add_folder(&list, golden_path("shards"), _i), LR_OK);
    ck_assert_uint_eq(golden_check(&list, "shards/"), 2);
    ck_assert_uint_eq(list.count, 2);
    lr__stored_list_clear(&list);
}
END_TEST

static lr_status open_folder(const char *index) {
    lr__stored_list list = {0};
    if (index) scratch_write("model.safetensors.index.json", index, strlen(index));
    lr_status status = lr__safetensors_add_folder(&list, scratch, 0);
    lr__stored_list_clear(&list);
    return status;
}

START_TEST(test_index_lies) {
    unsigned char data[1000];
    scratch_write("a.safetensors", data, build(data, "{" F32("a", "[1]", "0", "4") "}", 4));
    scratch_write("b.safetensors", data, build(data, "{" F32("b", "[1]", "0", "4") "}", 4));
    ck_assert_int_eq(open_folder(NULL), LR_E_NOTFOUND);
    ck_assert_ptr_nonnull(strstr(lr_last_error(), "holds neither model.safetensors nor"));
    ck_assert_int_eq(open_folder("{\"weight_map\":{\"a\":\"a.safetensors\"}}"), LR_OK);
    ck_assert_int_eq(
        open_folder("{\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\"}}"), LR_OK);
    static const struct {
        const char *index, *part;
        lr_status status;
    } lies[] = {
        {"{\"weight_map\":{\"a\":\"b.safetensors\"}}", "\"a\" is not in b", LR_E_FORMAT},
        {"{\"weight_map\":{\"b\":\"a.safetensors\",\"a\":\"b.safetensors\"}}", "is not in",
         LR_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"c.safetensors\"}}", "c.safetensors: cannot open", LR_E_NOTFOUND},
        {"{\"weight_map\":{\"a\":\"../a.safetensors\"}}", "expected a file beside", LR_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "expected a file beside", LR_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"..\"}}", "expected a file beside", LR_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"\"}}", "expected a file beside", LR_E_FORMAT},
        {"{\"weight_map\":{\"a\":3}}", "not given a file name", LR_E_FORMAT},
        {"{\"weight_map\":{}}", "no \"weight_map\"", LR_E_FORMAT},
        {"{\"weight_map\":[\"a\"]}", "no \"weight_map\"", LR_E_FORMAT},
        {"{}", "no \"weight_map\"", LR_E_FORMAT},
        {"[]", "no \"weight_map\"", LR_E_FORMAT},
        {"", "line 1", LR_E_FORMAT},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        ck_assert_int_eq(open_folder(lies[i].index), lies[i].status);
        ck_assert_msg(strstr(lr_last_error(), lies[i].part) != NULL, "\"%s\" lacks \"%s\"",
                      lr_last_error(), lies[i].part);
    }
}
END_TEST

/* Some hundreds of tensors, of which every second may be found again. */
START_TEST(test_many) {
    char *header = malloc(100000);
    unsigned char *data = malloc(120000);
    size_t used = 0;
    lr__stored_list list = {0};
    for (int i = 0; i < 500; i++)
        used += (size_t)snprintf(header + used, 100000 - used,
                                 "%s\"t.%d\":{\"dtype\":\"U8\",\"shape\":[2],"
                                 "\"data_offsets\":[%d,%d]}",
                                 i ? "," : "{", i, 2 * i, 2 * i + 2);
    snprintf(header + used, 100000 - used, "}");
    ck_assert_int_eq(
        lr__safetensors_add(&list, scratch_memory(data, build(data, header, 1000)), 0, NULL),
        LR_OK);
    ck_assert_uint_eq(list.count, 500);
    ck_assert_uint_eq(list.mapping_count, 1);
    for (int i = 0; i < 500; i += 2) {
        char name[20];
        snprintf(name, sizeof name, "t.%d", i);
        const lr__stored *stored = lr__stored_find(&list, name);
        ck_assert_ptr_nonnull(stored);
        ck_assert_int_eq(((const unsigned char *)stored->data)[1], (2 * i + 1) % 256);
    }
    lr__stored_list_clear(&list);
    free(header);
    free(data);
}
END_TEST

START_TEST(test_no_memory) {
    lr_status status = LR_E_NOMEM;
    for (long i = 0; status < 0; i++) {
        lr__stored_list list = {0};
        ck_assert_int_lt(i, 200);
        faults_begin(i);
        status = lr__safetensors_add_folder(&list, golden_path("shards"), 1);
        lr__stored_list_clear(&list);
        ck_assert_int_eq(faults_end(), 0);
        ck_assert(status == LR_OK || status == LR_E_NOMEM);
    }
}
END_TEST

Suite *safetensors_suite(void);
Suite *safetensors_suite(void) {
    Suite *suite = suite_create("safetensors");
    TCase *tests = tcase_create("read");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, test_headers, 0, (int)(sizeof cases / sizeof cases[0]));
    tcase_add_test(tests, test_lengths);
    tcase_add_test(tests, test_truncated);
    tcase_add_test(tests, test_flipped);
    tcase_add_loop_test(tests, test_content, 0, 2);
    tcase_add_loop_test(tests, test_alignment, 0, 2);
    tcase_add_loop_test(tests, test_golden, 0, 2);
    tcase_add_loop_test(tests, test_shards, 0, 2);
    tcase_add_test(tests, test_index_lies);
    tcase_add_test(tests, test_many);
    tcase_add_test(tests, test_no_memory);
    suite_add_tcase(suite, tests);
    return suite;
}
