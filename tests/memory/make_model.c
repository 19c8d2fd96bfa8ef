/* Writes a random Llama in bf16 with a tokenizer of single bytes, a block at a time.
 *     make_model FOLDER HIDDEN INTERMEDIATE LAYERS */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { HEAD = 64, VOCABULARY = 257, PATH_SIZE = 1024 };

static const char *folder;
static long hidden, wide, layers;

static FILE *create(const char *name) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (!file) {
        perror(path);
        exit(1);
    }
    return file;
}

static void finish(FILE *file) {
    if (ferror(file) | fclose(file)) {
        perror(folder);
        exit(1);
    }
}

/* Either one more tensor of the header or its numbers. Sizes of numbers fall with their column's
 * place, so that factors have something to find. */
static void tensor(FILE *file, int is_header, long layer, const char *part, long rows, long cols) {
    static unsigned long long at;
    static uint64_t state = 1;
    unsigned long long bytes = 2ull * (unsigned long long)(rows * (cols ? cols : 1));
    char name[200];
    if (layer < 0)
        snprintf(name, sizeof name, "model.%s.weight", part);
    else
        snprintf(name, sizeof name, "model.layers.%ld.%s.weight", layer, part);
    if (is_header) {
        fprintf(file, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%ld", at ? "," : "{", name, rows);
        if (cols) fprintf(file, ",%ld", cols);
        fprintf(file, "],\"data_offsets\":[%llu,%llu]}", at, at + bytes);
        at += bytes;
        return;
    }
    for (long i = 0; i < rows * (cols ? cols : 1); i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint16_t number = (uint16_t)(0x3c00 | (state >> 40 & 0x80ff)); /* 2^-7 .. 2^-5 */
        if (cols && i % cols * 4 > cols) number -= 0x80;
        if (!cols) number = 0x3f80;
        fwrite(&number, sizeof number, 1, file);
    }
}

static void tensors(FILE *file, int is_header) {
    long kv = hidden / 4;
    tensor(file, is_header, -1, "embed_tokens", VOCABULARY, hidden);
    tensor(file, is_header, -1, "norm", hidden, 0);
    for (long l = 0; l < layers; l++) {
        tensor(file, is_header, l, "self_attn.q_proj", hidden, hidden);
        tensor(file, is_header, l, "self_attn.k_proj", kv, hidden);
        tensor(file, is_header, l, "self_attn.v_proj", kv, hidden);
        tensor(file, is_header, l, "self_attn.o_proj", hidden, hidden);
        tensor(file, is_header, l, "mlp.gate_proj", wide, hidden);
        tensor(file, is_header, l, "mlp.up_proj", wide, hidden);
        tensor(file, is_header, l, "mlp.down_proj", hidden, wide);
        tensor(file, is_header, l, "input_layernorm", hidden, 0);
        tensor(file, is_header, l, "post_attention_layernorm", hidden, 0);
    }
}

static void write_weights(void) {
    char *header;
    size_t size;
    FILE *text = open_memstream(&header, &size), *file = create("model.safetensors");
    tensors(text, 1);
    fputc('}', text);
    while (ftell(text) % 8) fputc(' ', text);
    fclose(text);
    uint64_t length = size;
    fwrite(&length, sizeof length, 1, file);
    fwrite(header, 1, size, file);
    tensors(file, 0);
    finish(file);
    free(header);
}

static void write_config(void) {
    FILE *file = create("config.json");
    fprintf(file,
            "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],"
            "\"vocab_size\":%d,\"hidden_size\":%ld,\"intermediate_size\":%ld,"
            "\"num_hidden_layers\":%ld,\"num_attention_heads\":%ld,\"num_key_value_heads\":%ld,"
            "\"head_dim\":%d,\"max_position_embeddings\":512,\"tie_word_embeddings\":true,"
            "\"rms_norm_eps\":1e-5,\"torch_dtype\":\"bfloat16\"}\n",
            VOCABULARY, hidden, wide, layers, hidden / HEAD, hidden / 4 / HEAD, HEAD);
    finish(file);
}

/* Bytes as GPT-2 writes them. */
static void write_tokenizer(void) {
    FILE *file = create("tokenizer.json");
    int spare = 256;
    fprintf(file,
            "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":256,\"content\":\"<|end|>\","
            "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
            "\"special\":true}],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
            "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
            "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{"
            "\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (int b = 0; b < 256; b++) {
        int is_plain = (b > 32 && b < 127) || (b > 160 && b != 173);
        fprintf(file, "%s\"\\u%04x\":%d", b ? "," : "", is_plain ? b : spare++, b);
    }
    fprintf(file, "}}}\n");
    finish(file);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: %s FOLDER HIDDEN INTERMEDIATE LAYERS\n", argv[0]);
        return 2;
    }
    folder = argv[1];
    hidden = atol(argv[2]);
    wide = atol(argv[3]);
    layers = atol(argv[4]);
    mkdir(folder, 0777);
    write_weights();
    write_config();
    write_tokenizer();
    return 0;
}
