/* What a tokenizer is made of. One file each: vocabulary and added tokens, merges, pipeline of
 * splits, character classes; an encoder is the private memory of one call. */
#ifndef LR_FORMAT_TOKENIZER_PARTS_H
#define LR_FORMAT_TOKENIZER_PARTS_H

#define PCRE2_CODE_UNIT_WIDTH 8

#include "base/mem.h"
#include "format/tokenizer.h"

#include <pcre2.h>
#include <string.h>

/* Arguments of "%.*s" for a text of a file. */
#define LR__SHOW(text) (int)((text).size < 80 ? (text).size : 80), (text).data

enum {
    LR__MAX_TOKEN = 1 << 16,
    LR__MAX_ADDED = 256,
    LR__MAX_PIECE = 256,
    LR__MAX_STEPS = 12,
    LR__MAX_NORMALS = 8,
    LR__MAX_PATTERN = 2048
};

/* What SentencePiece writes for a space: U+2581. */
#define LR__MARK "\xe2\x96\x81"
enum { LR__MARK_SIZE = 3 };

/* ---- characters (tokenizer_unicode.c) ---- */

enum {
    LR__LETTER = 1,     /* \p{L} */
    LR__NUMBER = 2,     /* \p{N} of the regular expressions */
    LR__NUMERIC = 4,    /* what Digits splits: \p{N} of a newer Unicode */
    LR__SPACE = 8,      /* White_Space */
    LR__UPPER = 16,     /* \p{Lu}, \p{Lt} */
    LR__LOWER = 32,     /* \p{Ll} */
    LR__COMBINING = 64, /* \p{M} */
    /* In lr__case_ranges only: the two cases in turn. */
    LR__UPPER_FIRST = 256,
    LR__LOWER_FIRST = 512
};

/* Classes of the basic plane, one byte each; the planes above are searched. */
typedef struct lr__classes {
    unsigned char plane0[0x10000];
} lr__classes;

void lr__classes_fill(lr__classes *classes);
/* Class by search in the ranges, for any character. */
int lr__class_of(uint32_t code);

/* Tables of tokenizer_ranges.c, ascending. */
typedef struct lr__range {
    uint32_t first, last;
    uint32_t class;
} lr__range;
/* The range that holds the character, or NULL. */
const lr__range *lr__range_find(const lr__range *ranges, size_t count, uint32_t code);
extern const lr__range lr__class_ranges[], lr__young_marks[], lr__young_words[];
extern const size_t lr__class_range_count, lr__young_mark_count, lr__young_word_count;
/* Of tokenizer_case.c. */
extern const lr__range lr__case_ranges[];
extern const size_t lr__case_range_count;

/* The character at `text` of valid UTF-8; *bytes is its length. */
static inline uint32_t lr__utf8_at(const char *text, size_t *bytes) {
    const unsigned char *t = (const unsigned char *)text;
    if (t[0] < 0x80) return *bytes = 1, t[0];
    if (t[0] < 0xe0) return *bytes = 2, (t[0] & 0x1fu) << 6 | (t[1] & 0x3fu);
    if (t[0] < 0xf0) return *bytes = 3, (t[0] & 0xfu) << 12 | (t[1] & 0x3fu) << 6 | (t[2] & 0x3fu);
    *bytes = 4;
    return (t[0] & 7u) << 18 | (t[1] & 0x3fu) << 12 | (t[2] & 0x3fu) << 6 | (t[3] & 0x3fu);
}

static inline int lr__class_at(const lr__classes *classes, const char *text, size_t *bytes) {
    uint32_t code = lr__utf8_at(text, bytes);
    return code < 0x10000 ? classes->plane0[code] : lr__class_of(code);
}

/* Start of the last character before `end`. */
static inline size_t lr__utf8_back(const char *text, size_t end) {
    do end--;
    while (((unsigned char)text[end] & 0xc0) == 0x80);
    return end;
}

/* 1 when all of it is valid UTF-8. */
int lr__utf8_is_valid(const char *text, size_t size);
/* Appends to *out a copy with U+FFFD for each maximal invalid part. */
lr_status lr__utf8_repair(char **out, size_t *out_size, const char *text, size_t size);
/* NFC of valid UTF-8 (tokenizer_nfc.c). *out points to `text` itself or to *buffer. */
lr_status lr__nfc(lr__text *out, char **buffer, size_t *capacity, lr__text text);
/* 1 when a ▁ begins at `at`. */
static inline int lr__is_mark(lr__text text, size_t at) {
    return text.size - at >= LR__MARK_SIZE && !memcmp(text.data + at, LR__MARK, LR__MARK_SIZE);
}

/* The byte-level alphabet: a printable character for each byte, and back (-1: not in it). */
uint32_t lr__byte_to_code(int byte);
int lr__code_to_byte(uint32_t code);

/* ---- vocabulary (tokenizer_vocabulary.c) ---- */

/* A token outside is added to the model's vocabulary, which does not know it. */
enum { LR__PRESENT = 1, LR__ADDED = 2, LR__SPECIAL = 4, LR__OUTSIDE = 8 };

typedef struct lr__token {
    size_t start;
    uint32_t size;
    uint32_t flags;
} lr__token;

/* Spelling of each id, as the file has it, and the way back. Ids may have holes. */
typedef struct lr__vocabulary {
    lr__token *tokens;
    int32_t size;
    uint32_t longest;
    char *texts;
    size_t texts_size, texts_capacity;
    int32_t *slots; /* id + 1, 0 when free */
    size_t mask;
} lr__vocabulary;

lr_status lr__vocabulary_init(lr__vocabulary *vocabulary, size_t size, const char *where);
/* A second text for an id, or a second id for a text, is LR_E_FORMAT. */
lr_status lr__vocabulary_set(lr__vocabulary *vocabulary, int64_t id, lr__text text,
                             const char *where);
int32_t lr__vocabulary_find(const lr__vocabulary *vocabulary, lr__text text);
/* The same among the model's own tokens. */
int32_t lr__vocabulary_find_model(const lr__vocabulary *vocabulary, lr__text text);
lr__text lr__vocabulary_text(const lr__vocabulary *vocabulary, int32_t id);
void lr__vocabulary_clear(lr__vocabulary *vocabulary);

/* ---- added tokens (tokenizer_added.c) ---- */

enum { LR__NORMALIZED = 1, LR__LSTRIP = 2, LR__RSTRIP = 4, LR__SINGLE_WORD = 8 };

typedef struct lr__added {
    int32_t id;
    uint32_t flags;
    int32_t order; /* of two with one text the lower wins */
    char *text;    /* normalised when the flag says so */
    size_t size;
} lr__added;

/* Leftmost-longest search: tokens sorted by text, narrowed byte by byte. */
typedef struct lr__matcher {
    lr__added *items;
    size_t count, capacity;
    unsigned char starts[256];
} lr__matcher;

/* ---- merges (tokenizer_bpe.c) ---- */

typedef struct lr__merge {
    uint64_t pair; /* left << 32 | right; all ones when free */
    uint32_t rank;
    int32_t id;
} lr__merge;

typedef struct lr__merges {
    lr__merge *slots;
    size_t mask;
} lr__merges;

lr_status lr__merges_init(lr__merges *merges, size_t count, const char *where);
/* Of a pair that stands twice the last rank holds, as in the tokenizers package. */
lr_status lr__merges_set(lr__merges *merges, int32_t left, int32_t right, uint32_t rank,
                         int32_t id);

/* ---- parts of tokenizer.json (tokenizer_sequence.c) ---- */

/* What `read` answers for a part of a type it does not know. */
enum { LR__PART_UNKNOWN = 1 };

/* How one part, or a "Sequence" of such, is read. */
typedef struct lr__sequence {
    const char *what, *members; /* "normalizer" for messages, "normalizers" of a Sequence */
    const char *known;          /* the types that `read` knows, for messages */
    lr_status (*read)(void *into, const json_t *part, const char *type, const char *where);
    void *into;
    const char *where;
} lr__sequence;

/* Gives every part to `read`, in order; LR_E_UNSUPPORTED for one it does not know. */
lr_status lr__sequence_read(const lr__sequence *sequence, const json_t *value);
/* "type" of a part, "" when it has none. */
const char *lr__part_type(const json_t *part);

/* ---- normalisation (tokenizer_normalize.c) ---- */

enum { LR__NORMAL_NFC, LR__NORMAL_PREPEND, LR__NORMAL_REPLACE };

/* One change of the text; `to` stands before it or in the place of each `from`. */
typedef struct lr__normal {
    int32_t kind;
    char *from, *to;
    size_t from_size, to_size;
} lr__normal;

typedef struct lr__normals {
    size_t count;
    lr__normal items[LR__MAX_NORMALS];
} lr__normals;

/* Two texts in turn: a step reads one and writes the other. */
typedef struct lr__buffers {
    char *data[2];
    size_t capacity[2];
} lr__buffers;

lr_status lr__normals_from_json(lr__normals *normals, const json_t *normalizer, const char *where);
/* *out points to `text` itself or into the buffers. */
lr_status lr__normalize(lr__text *out, lr__buffers *buffers, const lr__normals *normals,
                        lr__text text);
void lr__normals_clear(lr__normals *normals);
void lr__buffers_clear(lr__buffers *buffers);
/* Appends `text` with `to` in the place of each `from`; *used is what the buffer holds. */
lr_status lr__replace(char **buffer, size_t *capacity, size_t *used, lr__text text, lr__text from,
                      lr__text to);

/* ---- pipeline (tokenizer_pipeline.c, tokenizer_pretokenize.c, tokenizer_regex.c) ---- */

enum {
    LR__STEP_DIGITS,
    LR__STEP_GPT2,
    LR__STEP_CL100K,
    LR__STEP_TEKKEN,
    LR__STEP_REGEX,
    LR__STEP_LITERAL,
    LR__STEP_PREFIX,
    LR__STEP_METASPACE
};
/* Where Metaspace puts a ▁ before a piece that has none. */
enum { LR__NEVER, LR__FIRST, LR__ALWAYS };
enum { LR__ISOLATED, LR__REMOVED, LR__CONTIGUOUS, LR__WITH_PREVIOUS, LR__WITH_NEXT };

/* One split of the text: how matches are found and what becomes of them. */
typedef struct lr__step {
    int32_t kind;
    int32_t behaviour;
    int32_t invert;
    int32_t digits;               /* of CL100K: longest run of numbers that stays together */
    int32_t scheme;               /* of METASPACE */
    pcre2_code *regex, *anchored; /* the second matches only where it is told to begin */
    char *literal;
    size_t literal_size;
} lr__step;

typedef struct lr__pipeline {
    lr__normals normals;
    int32_t byte_level; /* 1 once ByteLevel was read: nothing may follow */
    int32_t metaspace;  /* 1 once Metaspace was read: no ByteLevel may follow */
    size_t count;
    lr__step steps[LR__MAX_STEPS];
} lr__pipeline;

lr_status lr__pipeline_from_json(lr__pipeline *pipeline, const json_t *normalizer,
                                 const json_t *pre_tokenizer, const char *where);
void lr__pipeline_clear(lr__pipeline *pipeline);

/* A pipeline known by the name GGUF gives it, in the terms of tokenizer.json. */
typedef struct lr__pipeline_name {
    const char *name;
    const char *normalizer, *pre_tokenizer, *decoder;
    int32_t ignore_merges;
    int32_t adds_bos; /* when the file does not say */
    int32_t
        has_scores; /* SentencePiece: merges follow scores, bytes stand for unknown characters */
} lr__pipeline_name;

/* LR_E_UNSUPPORTED, naming it, for a pipeline we do not know exactly. */
lr_status lr__pipeline_named(const lr__pipeline_name **out, lr__text name);
/* The known ones by index, of several names for one the usual first; NULL behind the last. */
const lr__pipeline_name *lr__pipeline_known(size_t index);
/* SentencePiece's, with or without a ▁ before every text. */
const lr__pipeline_name *lr__pipeline_sentencepiece(int32_t has_prefix);
/* Of a GGUF (tokenizer_gguf.c). */
lr_status lr__pipeline_of_gguf(const lr__pipeline_name **out, const lr__gguf *gguf,
                               const char *where);

/* ---- decoder (tokenizer_decode.c) ---- */

/* Bytes of the byte-level alphabet, or SentencePiece's ▁ and <0xNN>. */
typedef struct lr__decoder {
    int32_t byte_level;
    int64_t strip; /* spaces taken from the beginning of the text */
} lr__decoder;

lr_status lr__decoder_from_json(lr__decoder *decoder, const json_t *value, const char *where);
/* The byte that "<0xNN>" stands for, -1 for other texts. */
int lr__byte_of_token(lr__text text);

/* End of the match that begins at `at` (tokenizer_scan.c): there is always one. */
size_t lr__scan_gpt2(const lr__classes *classes, lr__text text, size_t at);
size_t lr__scan_cl100k(const lr__classes *classes, lr__text text, size_t at, int32_t digits);
size_t lr__scan_tekken(const lr__classes *classes, lr__text text, size_t at);

/* Fills `regex` and `anchored`. */
lr_status lr__regex_compile(lr__step *step, lr__text pattern, const char *where);
void lr__regex_free(lr__step *step);

/* ---- the whole ---- */

struct lr_tokenizer {
    lr__vocabulary vocabulary;
    lr__merges merges;
    lr__pipeline pipeline;
    lr__decoder decoder;
    lr__matcher raw, normal; /* added tokens found before and after normalisation */
    int32_t byte_ids[256];   /* -1 when the vocabulary lacks the byte */
    int32_t unknown;         /* stands for lacking bytes or characters; -1 leaves them out */
    int32_t fuse_unknown;
    int32_t byte_fallback; /* bytes stand for a character that is no token; not byte-level */
    int32_t ignore_merges; /* a word that is a token is that token */
    int32_t joins_words;   /* some merge puts a ▁ behind something else */
    int32_t cuts_words;    /* none does, and pieces are cut before each such ▁ */
    lr__classes classes;
};

/* `text` becomes an added token that is matched in texts; its id must be set already. */
lr_status lr__tokenizer_add(lr_tokenizer *tokenizer, int32_t id, uint32_t flags, int special,
                            const char *where);
/* Sorts the matchers and fills byte_ids, once everything is read. */
void lr__tokenizer_finish(lr_tokenizer *tokenizer);
/* Merge `rank`, left and right being texts; absent tokens are LR_E_FORMAT. `joined` has room for
 * the vocabulary's longest token. */
lr_status lr__tokenizer_merge(lr_tokenizer *tokenizer, uint32_t rank, lr__text left, lr__text right,
                              char *joined, const char *where);
/* One merge of a vocabulary with scores; ranks are equal where scores are. */
typedef struct lr__pair {
    int32_t left, right, id;
    uint32_t rank;
} lr__pair;

/* Every way to join two tokens of a GGUF to a third, best score first (tokenizer_scores.c); *out is
 * freed by lr__free. */
lr_status lr__pairs_from_gguf(lr__pair **out, size_t *count, const lr__vocabulary *vocabulary,
                              const lr__gguf *gguf, const char *where);
lr_status lr__tokenizer_pair(lr_tokenizer *tokenizer, lr__pair pair);
/* "left right", which has exactly one space. */
lr_status lr__merge_split(lr__text merge, size_t rank, lr__text *left, lr__text *right,
                          const char *where);

/* ---- one call (tokenizer.c) ---- */

/* Words met before, each in one cache line; a newcomer takes the place. */
typedef struct lr__cached {
    char text[31];
    unsigned char size;
    int32_t count;
    int32_t ids[7];
} lr__cached;

/* What one regular-expression step needs while it walks its text. */
typedef struct lr__regex_state {
    pcre2_match_data *match;
    char *subject;
    size_t capacity;
} lr__regex_state;

typedef struct lr__encoder {
    const lr_tokenizer *tokenizer;
    int32_t *ids;
    size_t capacity, count;
    lr__cached *cache;
    size_t cache_mask;
    int32_t *symbols; /* three arrays: symbol, next, previous */
    uint64_t *heap;
    size_t symbols_capacity, heap_capacity;
    char *prefixed;
    size_t prefixed_capacity;
    lr__buffers normal;
    const char *text, *begin; /* the whole text; its first section when that is at work */
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_jit_stack *jit_stack;
    lr__regex_state regex[LR__MAX_STEPS];
    uint64_t regex_work; /* characters that patterns looked at beyond their first window */
    size_t bytes;        /* of the whole text */
} lr__encoder;

static inline void lr__encoder_put(lr__encoder *encoder, int32_t id) {
    if (encoder->count < encoder->capacity) encoder->ids[encoder->count] = id;
    encoder->count++;
}

/* Splits a piece of text and encodes its words. */
lr_status lr__encode_piece(lr__encoder *encoder, const char *text, size_t size);
lr_status lr__encode_word(lr__encoder *encoder, const char *text, size_t size);

typedef lr_status (*lr__piece_fn)(lr__encoder *encoder, const char *text, size_t size);
/* Puts the added tokens found in the text, and gives what lies between to `between`. */
lr_status lr__matcher_split(const lr__matcher *matcher, lr__encoder *encoder, lr__text text,
                            lr__piece_fn between);

/* Subject for lr__regex_find: `text` itself, or a copy in which each character beyond ASCII is
 * replaced by one of its class and length. NULL with a message when memory fails. */
const char *lr__regex_subject(lr__encoder *encoder, size_t step, const char *text, size_t size);
/* 1 and the next match from `from` on, 0 when there is none, negative on error. */
lr_status lr__regex_find(lr__encoder *encoder, size_t step, lr__text subject, size_t from,
                         size_t *start, size_t *end);
void lr__regex_state_clear(lr__encoder *encoder);

#endif
