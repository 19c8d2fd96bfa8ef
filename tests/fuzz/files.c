/* Files for the targets: what is fuzzed lies in memory, the small model beside it in a folder. */
#include "fuzz.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void demand(int condition, const char *what) {
    if (condition) return;
    perror(what);
    abort();
}

/* --- memory --- */

static int memory(void) {
    static int fd = -1;
    if (fd < 0) fd = memfd_create("fuzz", MFD_CLOEXEC);
    demand(fd >= 0, "memfd_create");
    return fd;
}

static void put(const void *data, size_t size, off_t at) {
    demand(pwrite(memory(), data, size, at) == (ssize_t)size, "pwrite");
}

static const char *memory_path(void) {
    static char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", memory());
    return path;
}

const char *fuzz_file(const uint8_t *data, size_t size) {
    demand(ftruncate(memory(), 0) == 0, "ftruncate");
    put(data, size, 0);
    return memory_path();
}

const char *fuzz_safetensors_file(const uint8_t *data, size_t size) {
    if (!size || *data != '{') return fuzz_file(data, size);
    uint64_t header = strnlen((const char *)data, size);
    size_t rest = header < size ? size - header - 1 : 0;
    demand(ftruncate(memory(), 0) == 0, "ftruncate");
    put(&header, sizeof header, 0);
    put(data, header, 8);
    put(data + size - rest, rest, 8 + (off_t)header);
    return memory_path();
}

/* --- the small model --- */

enum { VOCABULARY = 12, HIDDEN = 8, QUERIES = 8, KEYS = 4, HEAD = 4, WIDE = 6, RANK = 3 };

/* Whatever any architecture asks for, and tensors for chains to name. */
static const struct {
    const char *name, *type;
    int bytes, rows, cols; /* cols 0: a vector */
} tensors[] = {
    {"model.embed_tokens.weight", "F32", 4, VOCABULARY, HIDDEN},
    {"lm_head.weight", "F16", 2, VOCABULARY, HIDDEN},
    {"model.norm.weight", "F32", 4, HIDDEN, 0},
    {"model.layers.0.input_layernorm.weight", "F32", 4, HIDDEN, 0},
    {"model.layers.0.post_attention_layernorm.weight", "F64", 8, HIDDEN, 0},
    {"model.layers.0.self_attn.q_norm.weight", "F32", 4, HEAD, 0},
    {"model.layers.0.self_attn.k_norm.weight", "F32", 4, HEAD, 0},
    {"model.layers.0.self_attn.q_proj.weight", "F32", 4, QUERIES, HIDDEN},
    {"model.layers.0.self_attn.k_proj.weight", "F16", 2, KEYS, HIDDEN},
    {"model.layers.0.self_attn.v_proj.weight", "BF16", 2, KEYS, HIDDEN},
    {"model.layers.0.self_attn.o_proj.weight", "F64", 8, HIDDEN, QUERIES},
    {"model.layers.0.mlp.gate_proj.weight", "F32", 4, WIDE, HIDDEN},
    {"model.layers.0.mlp.up_proj.weight", "F32", 4, WIDE, HIDDEN},
    {"model.layers.0.mlp.down_proj.weight", "F32", 4, HIDDEN, WIDE},
    {"model.layers.0.self_attn.q_proj.bias", "F32", 4, QUERIES, 0},
    {"model.layers.0.self_attn.k_proj.bias", "F16", 2, KEYS, 0},
    {"model.layers.0.self_attn.v_proj.bias", "BF16", 2, KEYS, 0},
    {"model.layers.0.self_attn.o_proj.bias", "F64", 8, HIDDEN, 0},
    {"model.layers.0.mlp.gate_proj.bias", "F32", 4, WIDE, 0},
    {"model.layers.0.mlp.up_proj.bias", "F32", 4, WIDE, 0},
    {"model.layers.0.mlp.down_proj.bias", "F32", 4, HIDDEN, 0},
    {"left", "F32", 4, HIDDEN, RANK},
    {"right", "F16", 2, RANK, HIDDEN},
    {"bytes", "I8", 1, HIDDEN, HIDDEN},
    {"scales", "F16", 2, HIDDEN, 1},
    {"vector", "BF16", 2, HIDDEN, 0},
    {"index", "I32", 4, HIDDEN, 0},
    {"few", "I32", 4, RANK, 0},
};

enum { TENSORS = sizeof tensors / sizeof *tensors };

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Element `i` of every type: numbers between -0.5 and 0.5 and small indices without repeats. */
static void put_number(FILE *out, const char *type, int i) {
    float value = (float)((i * 37 + 11) % 64 - 32) / 64;
    double wide = (double)value;
    int32_t index = i;
    uint32_t single = bits_of(value);
    int exponent = (int)(single >> 23 & 255) - 127 + 15;
    uint16_t upper = (uint16_t)(single >> 16), half = (uint16_t)(single >> 16 & 0x8000);
    if (exponent > 0) half |= (uint16_t)(exponent << 10 | (single >> 13 & 1023));
    int8_t byte = (int8_t)(i * 37 % 255 - 127);
    if (!strcmp(type, "F32")) fwrite(&value, sizeof value, 1, out);
    if (!strcmp(type, "F64")) fwrite(&wide, sizeof wide, 1, out);
    if (!strcmp(type, "F16")) fwrite(&half, sizeof half, 1, out);
    if (!strcmp(type, "BF16")) fwrite(&upper, sizeof upper, 1, out);
    if (!strcmp(type, "I32")) fwrite(&index, sizeof index, 1, out);
    if (!strcmp(type, "I8")) fwrite(&byte, sizeof byte, 1, out);
}

static void write_weights(const char *path) {
    char header[8192];
    size_t used = 0, offset = 0;
    FILE *out = fopen(path, "wb");
    demand(out != NULL, path);
    for (int i = 0; i < TENSORS; i++) {
        int cols = tensors[i].cols, count = tensors[i].rows * (cols ? cols : 1);
        size_t end = offset + (size_t)(count * tensors[i].bytes);
        used += (size_t)snprintf(header + used, sizeof header - used,
                                 "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%d%s%.0d],"
                                 "\"data_offsets\":[%zu,%zu]}",
                                 i ? ',' : '{', tensors[i].name, tensors[i].type, tensors[i].rows,
                                 cols ? "," : "", cols, offset, end);
        offset = end;
    }
    uint64_t size = (used + 1 + 7) / 8 * 8;
    fwrite(&size, sizeof size, 1, out);
    fprintf(out, "%s}%*s", header, (int)(size - used - 1), "");
    for (int i = 0; i < TENSORS; i++)
        for (int n = 0; n < tensors[i].rows * (tensors[i].cols ? tensors[i].cols : 1); n++)
            put_number(out, tensors[i].type, n);
    demand(fclose(out) == 0, path);
}

static const char config[] =
    "{\"model_type\":\"llama\",\"hidden_act\":\"silu\",\"num_hidden_layers\":1,\"hidden_size\":8,"
    "\"intermediate_size\":6,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,"
    "\"vocab_size\":12,\"max_position_embeddings\":32,\"rms_norm_eps\":1e-5}";

static char root[256];

static int drop(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

/* A forked child leaves the folder to its parent. */
static pid_t owner;
static void remove_root(void) {
    if (getpid() == owner) nftw(root, drop, 8, FTW_PHYS | FTW_DEPTH);
}

static void make_root(void) {
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/lowrank-fuzz-XXXXXX", base && *base ? base : "/tmp");
    demand(mkdtemp(root) != NULL, root);
    owner = getpid();
    atexit(remove_root);
}

const char *fuzz_folder(const char *name) {
    static char folders[8][300];
    static const char *names[8];
    int at = 0;
    while (names[at] && strcmp(names[at], name)) at++;
    if (names[at]) return folders[at];
    if (!*root) make_root();
    char path[600];
    snprintf(folders[at], sizeof folders[at], "%s/%d", root, at);
    demand(mkdir(folders[at], 0777) == 0, folders[at]);
    snprintf(path, sizeof path, "%s/model.safetensors", folders[at]);
    if (strcmp(name, "model.safetensors.index.json")) write_weights(path);
    snprintf(path, sizeof path, "%s/shard.safetensors", folders[at]);
    write_weights(path);
    snprintf(path, sizeof path, "%s/config.json", folders[at]);
    FILE *out = fopen(path, "wb");
    demand(out && fputs(config, out) >= 0 && fclose(out) == 0, path);
    snprintf(path, sizeof path, "%s/%s", folders[at], name);
    remove(path);
    demand(symlink(memory_path(), path) == 0, path);
    names[at] = name;
    return folders[at];
}
