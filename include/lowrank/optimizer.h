/**
 * @file optimizer.h
 * Which parameters learn, and the rule by which they do.
 *
 *     lr_optimizer_new(&optimizer, ctx, NULL);                          AdamW
 *     lr_optimizer_add_linear(optimizer, linear, "*", NULL, NULL);
 *     for each batch:
 *         lr_linear_apply(linear, &x, &y);
 *         ... dy = derivative of the loss ...
 *         lr_linear_backward(linear, &x, &dy, NULL, optimizer);         gradients are added up
 *         lr_optimizer_step(optimizer, NULL);                           and used
 */
#ifndef LOWRANK_OPTIMIZER_H
#define LOWRANK_OPTIMIZER_H

#include <lowrank/linear.h>
#include <lowrank/model.h>

LR_BEGIN

/**
 * An optimizer, opaque: trained parameters, their gradients and the state of the rule. One thread
 * at a time; while it steps, nobody may read the modules it trains.
 *
 * What it changes are masters: binary32 copies that take the place of the numbers they are made
 * of, for good. Whoever shared those before, a clone of the model or another module, keeps the old
 * numbers; whoever is made from the trained module later shares the masters.
 */
typedef struct lr_optimizer lr_optimizer;

/** Rules. */
enum {
    LR_ADAMW = 0,   /**< Loshchilov and Hutter, arXiv 1711.05101 */
    LR_SGD = 1,     /**< with momentum, as PyTorch has it: v = m v + g, w -= lr v */
    LR_OWN_RULE = 2 /**< lr_optimizer_opts::update */
};

/** How the learning rate goes after the warm-up, which rises linearly from 0. With s steps made it
 *  is s / warm_up of the whole, then by the share (s - warm_up) / (steps - warm_up) of the way, as
 *  in transformers' schedules. */
enum {
    LR_CONSTANT = 0,
    LR_LINEAR = 1, /**< to final_share of it behind `steps` steps */
    LR_COSINE = 2  /**< along half a cosine (arXiv 1608.03983) to final_share of it */
};

/** One parameter at one step, told to a rule of the host's own. */
typedef struct lr_update {
    size_t size;           /**< bytes the library filled */
    const char *name;      /**< of the parameter: "model.layers.0.mlp.up_proj.left.weight" */
    int64_t count;         /**< its numbers */
    float *values;         /**< to be changed */
    const float *gradient; /**< after clipping */
    float *state;          /**< count * update_state numbers of the rule's own, 0 at first */
    int64_t step;          /**< 1 at the first */
    double learning_rate;  /**< of the group, at this step */
    double weight_decay;   /**< of the group */
} lr_update;

/** Changes the values; a negative status ends the step, which is not counted then, and is returned
 *  by it. Called for one parameter after the other on the thread that steps. */
typedef lr_status (*lr_update_fn)(const lr_update *update, void *user);

/** Options of lr_optimizer_new(). */
typedef struct lr_optimizer_opts {
    size_t size;          /**< set by lr_optimizer_opts_init() */
    int32_t rule;         /**< LR_ADAMW (default), LR_SGD or LR_OWN_RULE */
    int32_t schedule;     /**< LR_CONSTANT (default), LR_LINEAR or LR_COSINE */
    double learning_rate; /**< default 1e-4 */
    double weight_decay;  /**< default 0; AdamW's is decoupled, SGD's is added to the gradient */
    double beta1, beta2;  /**< of AdamW: 0.9, 0.999 */
    double epsilon;       /**< of AdamW: 1e-8 */
    double momentum;      /**< of SGD: default 0 */
    int64_t warm_up;      /**< steps before the learning rate is whole, the first at 0; default 0 */
    int64_t steps;        /**< of the schedule, warm-up included; LR_CONSTANT needs none */
    double final_share;   /**< of the learning rate at the end of the schedule; default 0 */
    double clip;          /**< most that the norm of all gradients together may be; 0: no limit */
    lr_update_fn update;  /**< of LR_OWN_RULE */
    void *user;           /**< given to it, borrowed */
    int32_t update_state; /**< numbers of state it keeps for each number of a parameter, to 64 */
    int32_t reserved;     /**< 0 */
} lr_optimizer_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_optimizer_opts_init(lr_optimizer_opts *opts, size_t size);

/** Options of a group of parameters. */
typedef struct lr_group_opts {
    size_t size;          /**< set by lr_group_opts_init() */
    double learning_rate; /**< before the schedule; negative (default): the optimizer's */
    double weight_decay;  /**< negative (default): the optimizer's */
    double clip;          /**< most that the norm of the group's gradients may be; 0: no limit.
                               Groups are clipped before all together are */
} lr_group_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_group_opts_init(lr_group_opts *opts, size_t size);

/** Makes an optimizer of no parameters. @param out owned @param ctx kept alive @param opts NULL:
 *  defaults */
LR_API lr_status lr_optimizer_new(lr_optimizer **out, lr_ctx *ctx, const lr_optimizer_opts *opts);

/** Frees an optimizer; what it trained keeps the values it has. NULL is allowed. */
LR_API void lr_optimizer_free(lr_optimizer *optimizer);

/**
 * Trains parameters of a module that the caller owns: those whose names match. Their masters take
 * their places in the module itself, which nobody else may read meanwhile; a parameter that several
 * modules share and that is trained in one of them is the same in the next one added. Parameters
 * are called as lr_linear_save() writes them ("proj.left.weight"). A module within a model is
 * trained by lr_optimizer_add_model().
 * @param optimizer the optimizer
 * @param linear    changed as said
 * @param pattern   of parameter names ("*.left.weight", "*.bias"); NULL: all
 * @param opts      of the group they form; NULL: defaults
 * @param count     parameters added, without those trained already; NULL: not wanted
 * @return LR_E_NOTFOUND when no parameter matches that is not trained already; LR_E_UNSUPPORTED for
 *         one that is derived from others of which none is trained; LR_E_NUMERIC for one that is
 *         not finite. Nothing has changed then
 */
LR_API lr_status lr_optimizer_add_linear(lr_optimizer *optimizer, lr_linear *linear,
                                         const char *pattern, const lr_group_opts *opts,
                                         int64_t *count);

/**
 * Trains parameters of a model, in the graph it has now: norms, embedding and head are among their
 * names. A parameter of several uses (a tied embedding, a shared factor) has the name of the first.
 * A version of the graph with the masters in place of what matches is published; edits that replace
 * a trained module later leave its parameters untrained. What comes from a GGUF keeps the order of
 * its rows there.
 * @param optimizer the optimizer
 * @param model     changed as by lr_model_set_linear()
 * @param pattern   as in lr_optimizer_add_linear()
 * @param opts      as there
 * @param count     as there
 * @return as there
 */
LR_API lr_status lr_optimizer_add_model(lr_optimizer *optimizer, lr_model *model,
                                        const char *pattern, const lr_group_opts *opts,
                                        int64_t *count);

/** Parameters it trains. */
LR_API int32_t lr_optimizer_count(const lr_optimizer *optimizer);
/** Their numbers, shared ones once. */
LR_API int64_t lr_optimizer_numbers(const lr_optimizer *optimizer);
/** Name of parameter @p index, in the order of adding. @return borrowed; NULL out of range */
LR_API const char *lr_optimizer_name(const lr_optimizer *optimizer, int32_t index);
/** Numbers of parameter @p index. */
LR_API int64_t lr_optimizer_size(const lr_optimizer *optimizer, int32_t index);
/** Reads the gradient of parameter @p index. @param gradient room for lr_optimizer_size() */
LR_API lr_status lr_optimizer_gradient(const lr_optimizer *optimizer, int32_t index,
                                       float *gradient);

/** What a step did. */
typedef struct lr_step_result {
    size_t size;          /**< of the caller's struct, set by it */
    int64_t step;         /**< 1 for the first */
    double norm;          /**< of all gradients together, before clipping */
    double learning_rate; /**< of the optimizer, at this step */
} lr_step_result;

/**
 * Clips the gradients, changes the parameters by the rule, and sets the gradients to zero. Several
 * backward passes before one step add up (gradient accumulation); their mean is the caller's to
 * take, by the scale of the losses.
 * @param optimizer the optimizer
 * @param result    NULL: not wanted
 * @return LR_E_NUMERIC, with the parameter's name, for a gradient that is not finite: nothing has
 *         changed then; or for a parameter that left the range of binary32: then all have changed,
 *         and the last state saved is the way back
 */
LR_API lr_status lr_optimizer_step(lr_optimizer *optimizer, lr_step_result *result);

/** Sets the gradients to zero. */
LR_API void lr_optimizer_zero(lr_optimizer *optimizer);

/** Steps made. */
LR_API int64_t lr_optimizer_steps(const lr_optimizer *optimizer);

/**
 * Saves values, state and step, all that a later run needs to go on bit for bit. The file appears
 * whole or not at all.
 * @param optimizer any; gradients added up since its last step are not saved
 * @param path      of the file (safetensors)
 * @param force     1 replaces an existing file
 */
LR_API lr_status lr_optimizer_save(const lr_optimizer *optimizer, const char *path, int32_t force);

/**
 * Takes up what lr_optimizer_save() wrote; the same parameters must have been added.
 * Gradients become zero. Options are not in the file: the learning rate may be another.
 * @return LR_E_FORMAT for another rule, other parameters or other shapes, LR_E_NUMERIC for numbers
 *         that are not finite: nothing has changed then
 */
LR_API lr_status lr_optimizer_restore(lr_optimizer *optimizer, const char *path);

LR_END

#endif
