/* The order and names of convert_hf_to_gguf.py, which all readers of GGUF share. */
#include "model/gguf_layout.h"

#include <stdio.h>
#include <string.h>

void lr__gguf_module_name(const char *module, char *out, size_t size) {
    static const struct {
        const char *usual, *gguf;
    } tops[] = {{"model.embed_tokens", "token_embd"},
                {"model.norm", "output_norm"},
                {"lm_head", "output"}},
      parts[] = {{"self_attn.q_proj", "attn_q"},
                 {"self_attn.k_proj", "attn_k"},
                 {"self_attn.v_proj", "attn_v"},
                 {"self_attn.o_proj", "attn_output"},
                 {"mlp.gate_proj", "ffn_gate"},
                 {"mlp.up_proj", "ffn_up"},
                 {"mlp.down_proj", "ffn_down"},
                 {"input_layernorm", "attn_norm"},
                 {"post_attention_layernorm", "ffn_norm"},
                 {"self_attn.q_norm", "attn_q_norm"},
                 {"self_attn.k_norm", "attn_k_norm"}};
    int layer, used = 0;
    snprintf(out, size, "%s", module);
    for (size_t i = 0; i < sizeof tops / sizeof *tops; i++)
        if (!strcmp(module, tops[i].usual)) snprintf(out, size, "%s", tops[i].gguf);
    if (sscanf(module, "model.layers.%d.%n", &layer, &used) != 1 || !used) return;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strcmp(module + used, parts[i].usual))
            snprintf(out, size, "blk.%d.%s", layer, parts[i].gguf);
}

lr_status lr__gguf_head_rows(lr__index **out, const char *name, int32_t heads, int32_t head_size,
                             int inverse) {
    lr_status status = LR_OK;
    int32_t *rows = NULL, count = heads * head_size, half = head_size / 2;
    LR_TRY(lr__new(&rows, (size_t)count, sizeof *rows));
    for (int32_t i = 0; i < count; i++) {
        int32_t in_head = i % head_size;
        int32_t stored = i - in_head + 2 * (in_head % half) + in_head / half;
        rows[inverse ? stored : i] = inverse ? i : stored;
    }
    status = lr__index_new(out, name, rows, count, count);
done:
    lr__free(rows);
    return status;
}

lr_status lr__gguf_order_vector(lr__param **out, const lr__param *vector, const lr__index *rows,
                                const lr__kernels *kernels) {
    lr_status status = LR_OK;
    lr__param *ordered = NULL;
    float *numbers = NULL;
    LR_TRY(lr__new(&numbers, (size_t)lr__param_count(vector), sizeof *numbers));
    LR_TRY(lr__param_new(&ordered, vector->name, vector->matrix.rows, 1, 1));
    lr__param_widen(kernels, vector, numbers);
    for (int64_t i = 0; i < rows->count; i++)
        lr__param_floats(ordered)[i] = numbers[rows->values[i]];
    *out = ordered;
done:
    lr__free(numbers);
    return status;
}
