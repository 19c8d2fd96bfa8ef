/* Normalizers and pre-tokenizers of tokenizer.json: one part, or a "Sequence" of parts and of
 * further sequences, in the order they are applied in. */
#include "format/tokenizer_parts.h"

enum { DEPTH_MOST = 4 };

const char *lr__part_type(const json_t *part) {
    const char *type = json_string_value(json_object_get(part, "type"));
    return type ? type : "";
}

static lr_status read_any(const lr__sequence *sequence, const json_t *value, int32_t depth) {
    const char *type = lr__part_type(value), *where = sequence->where;
    lr_status status = sequence->read(sequence->into, value, type, where);
    if (status != LR__PART_UNKNOWN) return status;
    const json_t *list = json_object_get(value, sequence->members);
    if (strcmp(type, "Sequence") || !json_is_array(list) || depth > DEPTH_MOST)
        return lr__fail(LR_E_UNSUPPORTED, "%s: %s \"%.80s\", expected %s or a Sequence of these",
                        where, sequence->what, type, sequence->known);
    for (size_t i = 0; i < json_array_size(list); i++) {
        status = read_any(sequence, json_array_get(list, i), depth + 1);
        if (status < 0) return status;
    }
    return LR_OK;
}

lr_status lr__sequence_read(const lr__sequence *sequence, const json_t *value) {
    return read_any(sequence, value, 0);
}
