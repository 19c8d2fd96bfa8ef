/**
 * @file hooks.h
 * The one way to watch or alter a layer of a live model. Calibration and distillation of the
 * library itself use nothing else.
 */
#ifndef LOWRANK_HOOKS_H
#define LOWRANK_HOOKS_H

#include <lowrank/linear.h>

LR_BEGIN

/** A registry of hooks, opaque; owned by the host and given to sessions. Add and remove only
 *  while no session that uses it is inside a forward, or from inside one of its own hooks. */
typedef struct lr_hooks lr_hooks;

/** Events, a bit mask. */
enum {
    LR_BEFORE_FORWARD = 1,  /**< the input is ready */
    LR_AFTER_FORWARD = 2,   /**< the output is ready */
    LR_BEFORE_BACKWARD = 4, /**< the derivative of the loss by the output is ready */
    LR_AFTER_BACKWARD = 8,  /**< that by the input is ready */
    LR_HOOK_CHANGES = 256   /**< said with the mask by a hook that changes values: it runs again
                                 wherever a forward is recomputed, a mere observer does not */
};

/** What a hook is told; everything in it is borrowed until the hook returns. */
typedef struct lr_hook_event {
    size_t size;             /**< bytes the library filled */
    int32_t event;           /**< one of LR_BEFORE_FORWARD to LR_AFTER_BACKWARD */
    int32_t layer;           /**< index of the block, -1 outside blocks */
    const char *module;      /**< "model.layers.3.mlp.up_proj", or "model.layers.3" for a block */
    const lr_linear *linear; /**< the module; NULL for a block */
    int64_t input_id;        /**< equal for modules that read one input, and for nothing else within
                                  a forward */
    int64_t step;            /**< forwards of this session before this one */
    lr_tensor input;         /**< [tokens, in] LR_F32; before forward a LR_HOOK_CHANGES hook may
                                  write it, and modules of the same input all see the change. Before
                                  backward what it was in the forward; after backward the derivative
                                  by it, of all modules that read it together; data is NULL where
                                  nothing below is trained */
    lr_tensor output;        /**< [tokens, out] LR_F32; after forward a LR_HOOK_CHANGES hook may
                                  write it; data is NULL before forward, and for "lm_head" while a
                                  loss is computed, where logits never exist as a whole. Before and
                                  after backward the derivative by it, which a LR_HOOK_CHANGES hook
                                  may write before, and which is gone (NULL) behind a block; what
                                  such hooks did to values in the forward counts as a constant
                                  shift */
    const int32_t *tokens;   /**< token ids of the step, one for each row of input */
    const int32_t *positions; /**< their positions */
} lr_hook_event;

/** Returns zero or positive to go on; a negative status stops the forward and is returned by it. */
typedef lr_status (*lr_hook_fn)(const lr_hook_event *event, void *user);

/** Makes an empty registry. @param out owned */
LR_API lr_status lr_hooks_new(lr_hooks **out);

/** Frees a registry no session uses any more. */
LR_API void lr_hooks_free(lr_hooks *hooks);

/**
 * Registers a callback. Callbacks run in order of registration, on the calling thread.
 * @param hooks   the registry
 * @param pattern of module names, copied: "model.layers.*.mlp.{gate,up}_proj"; a pattern without a
 *                dot also matches the last component ("down_proj")
 * @param events  bit mask
 * @param fn      the callback
 * @param user    given back to it, borrowed until the hook is removed
 * @param id      written unless NULL: for lr_hook_remove()
 */
LR_API lr_status lr_hook_add(lr_hooks *hooks, const char *pattern, int32_t events, lr_hook_fn fn,
                             void *user, int32_t *id);

/** Removes a callback. @return LR_E_NOTFOUND for an unknown id */
LR_API lr_status lr_hook_remove(lr_hooks *hooks, int32_t id);

/** Registered callbacks. */
LR_API int32_t lr_hook_count(const lr_hooks *hooks);

LR_END

#endif
