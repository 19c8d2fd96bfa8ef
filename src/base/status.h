/* Thread-local last error, and the two macros that carry a status through a function. */
#ifndef LR_BASE_STATUS_H
#define LR_BASE_STATUS_H

#include <lowrank/base.h>

/* Sets the message of this thread and returns status; called once, where the error is found. */
lr_status lr__fail(lr_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "context: " before the message of this thread and returns status. */
lr_status lr__fail_in(lr_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* lr__fail(LR_E_NOMEM) for `bytes` asked for. */
lr_status lr__nomem(size_t bytes);

/* Needs `lr_status status` and a label `done:`. */
#define LR_TRY(call)                          \
    do {                                      \
        if ((status = (call)) < 0) goto done; \
    } while (0)

/* Leaves with a new error when the condition holds. */
#define LR_FAIL_IF(condition, ...)          \
    do {                                    \
        if (condition) {                    \
            status = lr__fail(__VA_ARGS__); \
            goto done;                      \
        }                                   \
    } while (0)

#endif
