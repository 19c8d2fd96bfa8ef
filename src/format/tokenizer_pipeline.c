/* The pipeline of normalisation and splits: read from the terms of tokenizer.json, or known by
 * the name that a GGUF file gives. What is not known exactly is refused. */
#include "format/tokenizer_parts.h"

#include <string.h>

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define CL100K_HEAD CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define CL100K_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define LED "[^\\r\\n\\p{L}\\p{N}]?"
#define BEGIN_WORD "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define END_WORD "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define TEKKEN                                                   \
    LED BEGIN_WORD "*" END_WORD "+|" LED BEGIN_WORD "+" END_WORD \
                   "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Patterns that are scanned by hand (tokenizer_scan.c). */
static const struct {
    const char *pattern;
    int32_t kind, digits;
} scanned[] = {
    {GPT2, LR__STEP_GPT2, 0},
    {CL100K_HEAD "\\p{N}" CL100K_TAIL, LR__STEP_CL100K, 1},
    {CL100K_HEAD "\\p{N}{1,3}" CL100K_TAIL, LR__STEP_CL100K, 3},
    {TEKKEN, LR__STEP_TEKKEN, 0},
};

#define BYTE_LEVEL(use_regex)                                                         \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_" \
    "regex\":" use_regex "}"
#define SEQUENCE(first, second) "{\"type\":\"Sequence\",\"pretokenizers\":[" first "," second "]}"
#define SPLIT(pattern)                                                                       \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern "\"},\"behavior\":\"Isolated\"," \
    "\"invert\":false}"
/* The same patterns once more escaped, as JSON wants them. */
#define JSON_CL100K(digits)                                                                       \
    CONTRACTIONS "|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits                               \
                 "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|" \
                 "\\\\s+"

#define GPT2_STEPS BYTE_LEVEL("true")
#define SMOLLM_STEPS \
    SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}", BYTE_LEVEL("true"))
#define LLAMA3_STEPS SEQUENCE(SPLIT(JSON_CL100K("\\\\p{N}{1,3}")), BYTE_LEVEL("false"))
#define JSON_LED "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?"
#define JSON_BEGIN "[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define JSON_END "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define JSON_TEKKEN                                                                 \
    JSON_LED JSON_BEGIN                                                             \
        "*" JSON_END "+|" JSON_LED JSON_BEGIN "+" JSON_END                          \
        "*|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|" \
        "\\\\s+(?!\\\\S)|\\\\s+"
#define TEKKEN_STEPS SEQUENCE(SPLIT(JSON_TEKKEN), BYTE_LEVEL("false"))
#define QWEN2_STEPS SEQUENCE(SPLIT(JSON_CL100K("\\\\p{N}")), BYTE_LEVEL("false"))
#define NFC "{\"type\":\"NFC\"}"

#define DECODER                                                                              \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":" \
    "true}"

static const lr__pipeline_name names[] = {
    {"gpt-2", "null", GPT2_STEPS, DECODER, 0, 0, 0},
    {"gpt2", "null", GPT2_STEPS, DECODER, 0, 0, 0},
    {"smollm", "null", SMOLLM_STEPS, DECODER, 0, 0, 0},
    {"llama-bpe", "null", LLAMA3_STEPS, DECODER, 1, 1, 0},
    {"llama3", "null", LLAMA3_STEPS, DECODER, 1, 1, 0},
    {"llama-v3", "null", LLAMA3_STEPS, DECODER, 1, 1, 0},
    {"qwen2", NFC, QWEN2_STEPS, DECODER, 0, 0, 0},
    {"tekken", "null", TEKKEN_STEPS, DECODER, 1, 1, 0},
};

const lr__pipeline_name *lr__pipeline_known(size_t index) {
    return index < sizeof names / sizeof *names ? &names[index] : NULL;
}

#define PREPEND "{\"type\":\"Prepend\",\"prepend\":\"" LR__MARK "\"}"
#define REPLACE(from, to) \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" from "\"},\"content\":\"" to "\"}"
#define STRIP "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"
#define PIECES(more)                                                                     \
    "{\"type\":\"Sequence\",\"decoders\":[" REPLACE(LR__MARK, " ") ",{\"type\":"         \
                                                                   "\"ByteFallback\"},{" \
                                                                   "\"type\":\"Fuse\"}" more "]}"

/* As llama.cpp and the converted Llama 2 do it: a mark before each part between special tokens. */
static const lr__pipeline_name sentencepiece[] = {
    {"llama", REPLACE(" ", LR__MARK), "null", PIECES(""), 0, 1, 1},
    {"llama", "{\"type\":\"Sequence\",\"normalizers\":[" PREPEND "," REPLACE(" ", LR__MARK) "]}",
     "null", PIECES("," STRIP), 0, 1, 1},
};

const lr__pipeline_name *lr__pipeline_sentencepiece(int32_t has_prefix) {
    return &sentencepiece[!!has_prefix];
}

lr_status lr__pipeline_named(const lr__pipeline_name **out, lr__text name) {
    char known[160] = "";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *out = &names[i];
        if (strlen(names[i].name) == name.size && !memcmp(names[i].name, name.data, name.size))
            return LR_OK;
        if (i) strcat(known, ", ");
        strcat(known, names[i].name);
    }
    *out = NULL;
    return lr__fail(LR_E_UNSUPPORTED,
                    "tokenizer.ggml.pre: the pipeline \"%.*s\" is not known, expected one of %s",
                    LR__SHOW(name), known);
}

static lr_status add_step(lr__pipeline *pipeline, lr__step **out, int32_t kind, const char *where) {
    if (pipeline->byte_level)
        return lr__fail(LR_E_UNSUPPORTED, "%s: a pre-tokenizer behind ByteLevel", where);
    if (pipeline->count == LR__MAX_STEPS)
        return lr__fail(LR_E_UNSUPPORTED, "%s: more than %d pre-tokenizers", where,
                        (int)LR__MAX_STEPS);
    *out = &pipeline->steps[pipeline->count++];
    (*out)->kind = kind;
    return LR_OK;
}

/* A boolean member; -1 when it is absent or something else. */
static int flag(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : -1;
}

static lr_status read_byte_level(lr__pipeline *pipeline, const json_t *value, const char *where) {
    lr_status status = LR_OK;
    lr__step *step = NULL;
    int add_prefix = flag(value, "add_prefix_space"), use_regex = flag(value, "use_regex");
    /* Files older than the member always used the expression. */
    if (!json_object_get(value, "use_regex")) use_regex = 1;
    LR_FAIL_IF(add_prefix < 0 || use_regex < 0, LR_E_FORMAT,
               "%s: ByteLevel without a boolean add_prefix_space and use_regex", where);
    LR_FAIL_IF(pipeline->byte_level, LR_E_UNSUPPORTED, "%s: ByteLevel twice", where);
    LR_FAIL_IF(pipeline->metaspace, LR_E_UNSUPPORTED, "%s: ByteLevel behind Metaspace", where);
    if (add_prefix) LR_TRY(add_step(pipeline, &step, LR__STEP_PREFIX, where));
    if (use_regex) LR_TRY(add_step(pipeline, &step, LR__STEP_GPT2, where));
    pipeline->byte_level = 1;
done:
    return status;
}

static lr_status read_digits(lr__pipeline *pipeline, const json_t *value, const char *where) {
    lr__step *step = NULL;
    int individual = flag(value, "individual_digits");
    if (individual < 0)
        return lr__fail(LR_E_FORMAT, "%s: Digits without a boolean individual_digits", where);
    lr_status status = add_step(pipeline, &step, LR__STEP_DIGITS, where);
    if (status >= 0) step->behaviour = individual ? LR__ISOLATED : LR__CONTIGUOUS;
    return status;
}

static lr_status read_pattern(lr__step *step, const json_t *pattern, const char *where) {
    const json_t *literal = json_object_get(pattern, "String");
    const json_t *regex = json_object_get(pattern, "Regex");
    lr__text text = {json_string_value(literal ? literal : regex),
                     json_string_length(literal ? literal : regex)};
    if (!text.data || !text.size)
        return lr__fail(LR_E_FORMAT, "%s: Split without a String or Regex pattern", where);
    if (literal) {
        step->literal = lr__strndup(text.data, text.size);
        step->literal_size = text.size;
        return step->literal ? LR_OK : lr__nomem(text.size + 1);
    }
    for (size_t i = 0; i < sizeof scanned / sizeof *scanned; i++) {
        if (strcmp(scanned[i].pattern, text.data)) continue;
        step->kind = scanned[i].kind;
        step->digits = scanned[i].digits;
        return LR_OK;
    }
    step->kind = LR__STEP_REGEX;
    return lr__regex_compile(step, text, where);
}

static lr_status read_split(lr__pipeline *pipeline, const json_t *value, const char *where) {
    static const char *const behaviours[] = {"Isolated", "Removed", "Contiguous",
                                             "MergedWithPrevious", "MergedWithNext"};
    const char *behaviour = json_string_value(json_object_get(value, "behavior"));
    int invert = json_object_get(value, "invert") ? flag(value, "invert") : 0;
    int32_t found = -1;
    for (int32_t i = 0; i < 5; i++)
        if (behaviour && !strcmp(behaviour, behaviours[i])) found = i;
    if (found < 0 || invert < 0)
        return lr__fail(LR_E_UNSUPPORTED, "%s: Split with behavior \"%.80s\", or invert no boolean",
                        where, behaviour ? behaviour : "");
    lr__step *step = NULL;
    lr_status status = add_step(pipeline, &step, LR__STEP_LITERAL, where);
    if (status < 0) return status;
    step->behaviour = found;
    step->invert = invert;
    return read_pattern(step, json_object_get(value, "pattern"), where);
}

/* NULL when there is none that is known. Older files have only add_prefix_space, which then counts;
 * beside a scheme it may not say otherwise. */
static const char *metaspace_scheme(const json_t *value) {
    const json_t *scheme = json_object_get(value, "prepend_scheme");
    int adds = flag(value, "add_prefix_space");
    const char *name = scheme ? json_string_value(scheme) : adds == 0 ? "never" : "always";
    return name && (adds != 0 || !strcmp(name, "never")) ? name : NULL;
}

/* Spaces become ▁ and one is put first; then the text may be split before each. */
static lr_status read_metaspace(lr__pipeline *pipeline, const json_t *value, const char *where) {
    static const char *const schemes[] = {"never", "first", "always"};
    lr_status status = LR_OK;
    lr__step *step = NULL, *split = NULL;
    const char *mark = json_string_value(json_object_get(value, "replacement"));
    const char *scheme = metaspace_scheme(value);
    int splits = json_object_get(value, "split") ? flag(value, "split") : 1;
    int32_t found = -1;
    for (int32_t i = 0; i < 3; i++)
        if (scheme && !strcmp(scheme, schemes[i])) found = i;
    LR_FAIL_IF(!mark || strcmp(mark, LR__MARK), LR_E_UNSUPPORTED,
               "%s: Metaspace with replacement \"%.80s\", expected \"" LR__MARK "\"", where,
               mark ? mark : "");
    LR_FAIL_IF(found < 0 || splits < 0, LR_E_UNSUPPORTED,
               "%s: Metaspace whose prepend_scheme is not never, first or always, or split no "
               "boolean",
               where);
    LR_FAIL_IF(pipeline->metaspace, LR_E_UNSUPPORTED, "%s: Metaspace twice", where);
    pipeline->metaspace = 1;
    LR_TRY(add_step(pipeline, &step, LR__STEP_METASPACE, where));
    step->scheme = found;
    if (!splits) goto done;
    LR_TRY(add_step(pipeline, &split, LR__STEP_LITERAL, where));
    split->behaviour = LR__WITH_NEXT;
    split->literal_size = LR__MARK_SIZE;
    split->literal = lr__strndup(LR__MARK, LR__MARK_SIZE);
    if (!split->literal) status = lr__nomem(LR__MARK_SIZE + 1);
done:
    return status;
}

static lr_status read_part(void *into, const json_t *part, const char *type, const char *where) {
    if (!strcmp(type, "ByteLevel")) return read_byte_level(into, part, where);
    if (!strcmp(type, "Digits")) return read_digits(into, part, where);
    if (!strcmp(type, "Split")) return read_split(into, part, where);
    if (!strcmp(type, "Metaspace")) return read_metaspace(into, part, where);
    return LR__PART_UNKNOWN;
}

/* The package asks where the piece began in the text as it was given; a text put before or replaced
 * moves that in ways of its own. */
static lr_status check_first(const lr__pipeline *pipeline, const char *where) {
    int has_first = 0;
    for (size_t i = 0; i < pipeline->count; i++)
        has_first |=
            pipeline->steps[i].kind == LR__STEP_METASPACE && pipeline->steps[i].scheme == LR__FIRST;
    for (size_t i = 0; i < pipeline->normals.count && has_first; i++)
        if (pipeline->normals.items[i].kind != LR__NORMAL_NFC)
            return lr__fail(LR_E_UNSUPPORTED,
                            "%s: Metaspace with prepend_scheme first behind Prepend or Replace",
                            where);
    return LR_OK;
}

lr_status lr__pipeline_from_json(lr__pipeline *pipeline, const json_t *normalizer,
                                 const json_t *pre_tokenizer, const char *where) {
    const lr__sequence sequence = {.what = "pre-tokenizer",
                                   .members = "pretokenizers",
                                   .known = "ByteLevel, Metaspace, Digits, Split",
                                   .read = read_part,
                                   .into = pipeline,
                                   .where = where};
    lr_status status = lr__normals_from_json(&pipeline->normals, normalizer, where);
    if (status < 0 || !pre_tokenizer || json_is_null(pre_tokenizer)) return status;
    status = lr__sequence_read(&sequence, pre_tokenizer);
    return status < 0 ? status : check_first(pipeline, where);
}

void lr__pipeline_clear(lr__pipeline *pipeline) {
    lr__normals_clear(&pipeline->normals);
    for (size_t i = 0; i < pipeline->count; i++) {
        lr__regex_free(&pipeline->steps[i]);
        lr__free(pipeline->steps[i].literal);
    }
}
