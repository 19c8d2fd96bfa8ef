/* GGUF files of metadata only, written number by number. */
#ifndef TESTS_GGUF_BYTES_H
#define TESTS_GGUF_BYTES_H

#include "format/gguf.h"
#include "scratch.h"

static struct {
    unsigned char bytes[16384];
    size_t size;
} file;

static inline void put(const void *data, size_t size) {
    ck_assert_uint_le(file.size + size, sizeof file.bytes);
    memcpy(file.bytes + file.size, data, size);
    file.size += size;
}

static inline void put_u32(uint32_t value) { put(&value, 4); }
static inline void put_u64(uint64_t value) { put(&value, 8); }

static inline void put_text(const char *text) {
    put_u64(strlen(text));
    put(text, strlen(text));
}

/* An empty file of version 3 without tensors, up to the number of members. */
static inline void put_head(void) {
    file.size = 0;
    put("GGUF\3\0\0\0\0\0\0\0\0\0\0\0", 16);
}

static inline lr__gguf *open_bytes(void) {
    lr__gguf *gguf = NULL;
    ck_assert_msg(lr__gguf_open(&gguf, scratch_memory(file.bytes, file.size), 1) >= 0, "%s",
                  lr_last_error());
    return gguf;
}

#endif
