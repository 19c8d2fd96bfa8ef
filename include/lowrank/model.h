/**
 * @file model.h
 * Language models of the Llama family: open, look inside, replace modules, save.
 *
 * A model is an immutable graph that any number of sessions read. Replacing a module publishes the
 * next version of the graph; a session takes its version at the start of a forward.
 */
#ifndef LOWRANK_MODEL_H
#define LOWRANK_MODEL_H

#include <lowrank/linear.h>
#include <lowrank/tokenizer.h>

LR_BEGIN

/** A model, opaque. Reading and lr_model_set_linear() are allowed from any thread at any time. */
typedef struct lr_model lr_model;

/** Options of lr_model_open(). */
typedef struct lr_model_opts {
    size_t size;      /**< set by lr_model_opts_init() */
    int32_t copy;     /**< 1 reads the files instead of mapping them: then a file that is truncated
                           while the model is open cannot end the process */
    int32_t reserved; /**< 0 */
} lr_model_opts;

/** Writes the defaults; @p size is `sizeof *opts`. */
LR_API void lr_model_opts_init(lr_model_opts *opts, size_t size);

/**
 * Opens a model: a Hugging Face folder (config.json and safetensors, factorised ones included) or
 * a GGUF file. Weights stay in their stored type, memory-mapped.
 * @param out  owned
 * @param ctx  kept alive by the model
 * @param path copied
 * @param opts NULL: defaults
 * @return LR_E_FORMAT, LR_E_SHAPE, LR_E_NOTFOUND with the tensor named, or LR_E_UNSUPPORTED for an
 *         architecture beyond this version
 */
LR_API lr_status lr_model_open(lr_model **out, lr_ctx *ctx, const char *path,
                               const lr_model_opts *opts);

/** Frees a model; sessions made from it keep it alive. */
LR_API void lr_model_free(lr_model *model);

/** Second model over the same stored weights; replacing a module in one leaves the other as it
 *  is. @param out owned @param model copied in constant time */
LR_API lr_status lr_model_clone(lr_model **out, const lr_model *model);

/** How lr_model_save() and lr_model_save_gguf() write. */
typedef struct lr_save_opts {
    size_t size;      /**< set by lr_save_opts_init() */
    int32_t dtype;    /**< LR_F32, LR_F16, LR_BF16 or LR_Q8_0 */
    int32_t force;    /**< 1 replaces what exists */
    int32_t densify;  /**< 1 multiplies factors out: a plain Llama that needs no custom code */
    int32_t reserved; /**< 0 */
} lr_save_opts;

/** Writes the defaults (bf16); @p size is `sizeof *opts`. */
LR_API void lr_save_opts_init(lr_save_opts *opts, size_t size);

/**
 * Saves a Hugging Face folder: config, weights, tokenizer, chat template, generation config and
 * the licence files of the source; a factorised model also gets the modelling file with which
 * `transformers` loads it (`trust_remote_code=True`). The folder appears whole or not at all.
 * @param model any
 * @param path  of the folder
 * @param opts  NULL: defaults
 * @return LR_E_EXISTS when the folder exists and force is 0
 */
LR_API lr_status lr_model_save(const lr_model *model, const char *path, const lr_save_opts *opts);

/**
 * Saves one GGUF file of version 3, for llama.cpp and its relatives: weights, configuration, the
 * tokenizer and the chat template. Llama and Mistral become architecture `llama`, with the rows of
 * q and k in its order; Qwen2 and Qwen3 keep theirs. Matrices are written in the chosen type, in
 * f16 where q8_0 is chosen and rows are no multiple of 32 numbers; vectors are always f32. GGUF
 * has no place for a sliding window, so a model that uses one gets it as its context length. What
 * a tokenizer of this version cannot be put into is left out with a warning. The numbers stream
 * through; the file appears whole or not at all.
 * @param model any; a factorised one only with `opts->densify`, as GGUF holds plain matrices
 * @param path  of the file
 * @param opts  NULL: defaults
 * @return LR_E_EXISTS when the file exists and force is 0; LR_E_UNSUPPORTED, the reason said, for
 *         what GGUF cannot hold: factors, biases beyond its architecture, unusual YaRN;
 * LR_E_NUMERIC for a number that is not finite or that the type cannot hold
 */
LR_API lr_status lr_model_save_gguf(const lr_model *model, const char *path,
                                    const lr_save_opts *opts);

/** Sizes of a model; the library writes no further than `size`. */
typedef struct lr_model_info {
    size_t size;               /**< sizeof(lr_model_info), set by the caller */
    int64_t parameters;        /**< stored numbers, shared ones once, indices not counted */
    int64_t linear_parameters; /**< of the seven linears of each block, biases not counted */
    int64_t bytes;             /**< stored bytes of all parameters, with the index maps of
                                    factorised modules */
    int32_t layers;            /**< blocks */
    int32_t hidden_size;       /**< width of the residual stream */
    int32_t intermediate_size; /**< neurons of each MLP */
    int32_t attention_heads;   /**< query heads */
    int32_t key_value_heads;   /**< key and value heads */
    int32_t head_size;         /**< numbers of each head */
    int32_t vocabulary_size;   /**< rows of the embedding */
    int32_t context_length;    /**< positions the model was trained for */
} lr_model_info;

/** Fills @p info, whose `size` the caller has set. */
LR_API lr_status lr_model_get_info(const lr_model *model, lr_model_info *info);

/** Configuration as JSON, with Hugging Face keys. @return borrowed from the model */
LR_API const char *lr_model_config(const lr_model *model);

/** Path the model was opened from. @return borrowed from the model */
LR_API const char *lr_model_path(const lr_model *model);

/** The model's tokenizer, built on first use. @param model any @param out borrowed from it */
LR_API lr_status lr_model_tokenizer(const lr_model *model, const lr_tokenizer **out);

/** Number of linear modules, the head included. */
LR_API int32_t lr_model_linear_count(const lr_model *model);

/**
 * A linear module by index, in the order of computation.
 * @param model the model
 * @param index 0 .. count - 1
 * @param out   owned: a counted reference, freed with lr_linear_free(); it stays valid when the
 *              module is replaced
 */
LR_API lr_status lr_model_linear(const lr_model *model, int32_t index, lr_linear **out);

/** A linear module by its full name, as lr_model_linear(). */
LR_API lr_status lr_model_find_linear(const lr_model *model, const char *name, lr_linear **out);

/**
 * Replaces a module; effective from the next forward of every session.
 * @param model  the model
 * @param name   full name of the module to replace
 * @param linear of the same sizes; the model keeps a reference of its own
 */
LR_API lr_status lr_model_set_linear(lr_model *model, const char *name, const lr_linear *linear);

/** 1 when @p name matches @p pattern, else 0. `*` is any run of characters, dots included, `?` one
 *  character, `{a,b}` alternatives; a pattern without a dot also matches the last component. */
LR_API int32_t lr_name_matches(const char *pattern, const char *name);

LR_END

#endif
