/* Merge of sized option structs. */
#include "base/opts.h"

#include <string.h>

lr_status lr__opts_merge(void *local, size_t local_size, const void *given, const char *type) {
    if (!given) return LR_OK;
    size_t size;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size || size > 65536)
        return lr__fail(LR_E_INVALID, "%s: size %zu; call %s_init first", type, size, type);
    const unsigned char *bytes = given;
    for (size_t i = local_size; i < size; i++)
        if (bytes[i])
            return lr__fail(LR_E_UNSUPPORTED, "%s: an option at byte %zu is newer than library %s",
                            type, i, lr_version_string());
    memcpy(local, given, size < local_size ? size : local_size);
    memcpy(local, &local_size, sizeof local_size);
    return LR_OK;
}

void lr__opts_defaults(void *out, size_t size, const void *defaults, size_t defaults_size) {
    if (!out || size < sizeof size) return;
    memset(out, 0, size);
    memcpy(out, defaults, size < defaults_size ? size : defaults_size);
    memcpy(out, &size, sizeof size);
}
