/* Errors: a code for programs and one line for people, kept for each thread. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_SIZE = 1024 };

static _Thread_local char message[MESSAGE_SIZE];

/* Bytes of the UTF-8 character at `text`, 0 when it is none (RFC 3629: no surrogates, no overlong
 * forms) or a control character. */
static size_t printable_bytes(const unsigned char *text) {
    if (text[0] < 0x80) return text[0] >= 0x20 && text[0] != 0x7F;
    size_t bytes = text[0] >= 0xF0 ? 4 : text[0] >= 0xE0 ? 3 : 2;
    uint32_t point = text[0] & (0x7Fu >> bytes);
    static const uint32_t least[] = {0, 0, 0xA0, 0x800, 0x10000};
    if (text[0] < 0xC2 || text[0] > 0xF4) return 0;
    for (size_t i = 1; i < bytes; i++) {
        if ((text[i] & 0xC0) != 0x80) return 0;
        point = point << 6 | (text[i] & 0x3F);
    }
    return point < least[bytes] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000) ? 0
                                                                                           : bytes;
}

/* A message may quote bytes of a hostile file, and may be cut inside a character: one line of
 * printable UTF-8 comes out. */
static void make_printable(char *text) {
    while (*text) {
        size_t bytes = printable_bytes((const unsigned char *)text);
        if (bytes == 0) *text = '?';
        text += bytes ? bytes : 1;
    }
}

/* Formatted elsewhere first, since the arguments may point into the message itself. */
static void format_message(const char *format, va_list args, int keep) {
    char text[MESSAGE_SIZE];
    vsnprintf(text, sizeof text, format, args);
    size_t used = strlen(text), old = keep ? strlen(message) : 0, joint = keep ? 2 : 0;
    if (used + joint >= sizeof message) old = 0;
    if (old > sizeof message - 1 - used - joint) old = sizeof message - 1 - used - joint;
    if (old) memmove(message + used + joint, message, old);
    if (old) memcpy(message + used, ": ", joint);
    memcpy(message, text, used);
    message[old ? used + joint + old : used] = '\0';
    make_printable(message);
}

lr_status lr__fail(lr_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    format_message(format, args, 0);
    va_end(args);
    return status;
}

lr_status lr__fail_in(lr_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    format_message(format, args, 1);
    va_end(args);
    return status;
}

lr_status lr__nomem(size_t bytes) {
    return lr__fail(LR_E_NOMEM, "out of memory: %zu bytes wanted", bytes);
}

const char *lr_last_error(void) { return message; }

const char *lr_status_name(lr_status status) {
    switch (status) {
    case LR_OK: return "LR_OK";
    case LR_E_INVALID: return "LR_E_INVALID";
    case LR_E_NOMEM: return "LR_E_NOMEM";
    case LR_E_IO: return "LR_E_IO";
    case LR_E_FORMAT: return "LR_E_FORMAT";
    case LR_E_NOTFOUND: return "LR_E_NOTFOUND";
    case LR_E_SHAPE: return "LR_E_SHAPE";
    case LR_E_UNSUPPORTED: return "LR_E_UNSUPPORTED";
    case LR_E_BACKEND: return "LR_E_BACKEND";
    case LR_E_COMM: return "LR_E_COMM";
    case LR_E_NUMERIC: return "LR_E_NUMERIC";
    case LR_E_CANCELLED: return "LR_E_CANCELLED";
    case LR_E_EXISTS: return "LR_E_EXISTS";
    default: return status > 0 ? "LR_OK" : "LR_E_USER";
    }
}
