/* Jansson with our errors. */
#ifndef LR_BASE_JSON_H
#define LR_BASE_JSON_H

#include "base/status.h"

#include <jansson.h>

/* Parses an object or array of at most 256 MiB, 64 levels and 2^24 values; duplicate names and NULs
 * are refused. `where` names the file in the message, beside line and column. */
lr_status lr__json_parse(json_t **out, const char *text, size_t size, const char *where);
/* At most `limit` bytes of a file. */
lr_status lr__json_read(json_t **out, const char *path, size_t limit);
/* Text of a value, sorted as built, freed by lr__free; indent 0 is compact. Reals
 * are written in at most 17 digits, few enough to read well, and read back as the same number. */
lr_status lr__json_text(char **out, const json_t *value, int indent);
/* That text as a file, synced; the file itself, or with `save` beside it and renamed, an existing
 * one being refused unless `force`. */
lr_status lr__json_write(const char *path, const json_t *value, int indent);
lr_status lr__json_save(const char *path, const json_t *value, int indent, int force);
/* Takes over `value`, also after an error; NULL is LR_E_NOMEM. */
lr_status lr__json_set(json_t *object, const char *key, json_t *value);
lr_status lr__json_append(json_t *array, json_t *value);
/* Members by name; an absent or null one leaves *out as it was, a wrong type is LR_E_FORMAT. */
lr_status lr__json_int(const json_t *object, const char *key, int64_t *out, const char *where);
lr_status lr__json_real(const json_t *object, const char *key, double *out, const char *where);
lr_status lr__json_bool(const json_t *object, const char *key, int32_t *out, const char *where);

#endif
