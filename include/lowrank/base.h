/**
 * @file base.h
 * Status codes, error messages, version and memory.
 *
 * Conventions that hold in every header:
 *  - A function that can fail returns #lr_status: zero or positive on success, negative on error.
 *    lr_last_error() then holds one line that says what, where, found and expected.
 *  - Every pointer is *owned* (the caller frees it with the matching `_free`; it arrives through
 *    the first parameter), *borrowed* (it dies with the object it came from, or at the call named
 *    in the comment) or *copied* (the library has its own copy before the call returns).
 *  - One handle, one thread at a time; different handles, any threads. Exceptions are stated.
 *  - Option structs begin with `size` and get their defaults from `_opts_init(&opts, sizeof opts)`;
 *    a NULL options pointer means all defaults.
 *  - Every `_free` accepts NULL. Objects keep what they depend on alive: any order of `_free`
 * works.
 */
#ifndef LOWRANK_BASE_H
#define LOWRANK_BASE_H

#include <stddef.h>
#include <stdint.h>

/** @cond */
#if defined(__GNUC__)
#define LR_API __attribute__((visibility("default")))
#else
#define LR_API
#endif
#ifdef __cplusplus
#define LR_BEGIN extern "C" {
#define LR_END }
#else
#define LR_BEGIN
#define LR_END
#endif
/** @endcond */

#define LR_VERSION_MAJOR 0 /**< first number of the version */
#define LR_VERSION_MINOR 1 /**< second number of the version */
#define LR_VERSION_PATCH 0 /**< third number of the version */
#define LR_ABI 0           /**< number in the soname, liblowrank.so.LR_ABI */

LR_BEGIN

/** Zero or positive: success. Negative: one of the codes below, or a host callback's own code. */
typedef int32_t lr_status;

/** Status codes; a value is never reused. */
enum {
    LR_OK = 0,             /**< success */
    LR_E_INVALID = -1,     /**< an argument or a call that makes no sense */
    LR_E_NOMEM = -2,       /**< memory could not be allocated */
    LR_E_IO = -3,          /**< the operating system refused a read or a write */
    LR_E_FORMAT = -4,      /**< a file is damaged or lies about itself */
    LR_E_NOTFOUND = -5,    /**< no such file, tensor, module or pattern match */
    LR_E_SHAPE = -6,       /**< sizes that do not fit each other */
    LR_E_UNSUPPORTED = -7, /**< well formed, but beyond this version */
    LR_E_BACKEND = -8,     /**< a numerical library or a device reported an error */
    LR_E_COMM = -9,        /**< another process of the group failed */
    LR_E_NUMERIC = -10,    /**< a value that must be finite is not, or an identity does not hold */
    LR_E_CANCELLED = -11,  /**< a progress callback asked to stop */
    LR_E_EXISTS = -12,     /**< the output exists and overwriting was not asked for */
    LR_E_USER = -100       /**< never produced here: for callbacks of the host */
};

/** Version of the library loaded at run time, `major * 10000 + minor * 100 + patch`. */
LR_API int32_t lr_version(void);

/** Version as text, for example "0.1.0". @return borrowed, lives as long as the library */
LR_API const char *lr_version_string(void);

/**
 * What this build is made of and what it found on this machine, as one JSON object: `version`,
 * `compiler`, `blas`, `isa` (the instruction level in use).
 * @return borrowed, lives as long as the library
 */
LR_API const char *lr_build_info(void);

/** Name of a code, for example "LR_E_SHAPE". @return borrowed; "LR_E_USER" for unknown codes */
LR_API const char *lr_status_name(lr_status status);

/**
 * The message of the last call of this thread that returned a negative status: one line.
 * @return borrowed until the next failing call of this thread; never NULL
 */
LR_API const char *lr_last_error(void);

/** The memory functions of the library; any of them may be called from any thread. */
typedef struct lr_alloc_ops {
    size_t size;                                             /**< sizeof(lr_alloc_ops) */
    void *(*alloc)(size_t bytes, void *user);                /**< as malloc */
    void *(*realloc)(void *block, size_t bytes, void *user); /**< as realloc */
    void (*free)(void *block, void *user);                   /**< as free */
    void *user;                                              /**< given back to the functions */
} lr_alloc_ops;

/**
 * Replaces the allocator. Call it before anything else of the library, or when nothing allocated
 * by the library is alive.
 * @param ops copied; NULL restores malloc, realloc and free
 * @return LR_E_INVALID when a function is missing
 */
LR_API lr_status lr_set_alloc(const lr_alloc_ops *ops);

LR_END

#endif
