/*
 * What a folder will hold. A module that transformers can build by itself, a matrix with the bias
 * its configuration promises, is written as `<module>.weight`; every other one is named in the
 * "lowrank" section. A model whose modules are all matrices stays plain: where its configuration
 * can promise more biases it does, and modules that have none get zeros.
 */
#include "model/graph.h"
#include "model/save.h"

static const char embedding_name[] = "model.embed_tokens";

typedef struct planner {
    lr__save_plan *plan;
    const lr__graph *graph;
    int densify;
} planner;

static int is_dense(const planner *p, const lr_linear *base) {
    return p->densify || lr_linear_kind(base) == LR_LINEAR_DENSE;
}

int lr__is_head_tied(const lr__graph *graph) {
    const lr_linear *head = graph->head;
    return !head->bias && lr_linear_kind(head) == LR_LINEAR_DENSE && head->terms[0].count == 1 &&
           head->terms[0].ops[0].param == graph->embedding;
}

/* Where the configuration says whether linear `which` of a block has a bias. */
static int32_t *bias_flag(lr__save_plan *plan, int which) {
    switch (which) {
    case LR__Q:
    case LR__K:
    case LR__V: return &plan->attention_bias;
    case LR__O: return &plan->output_bias;
    default: return &plan->mlp_bias;
    }
}

static lr_status is_all_dense(const planner *p, int *out) {
    *out = 1;
    for (int32_t i = 0; i < lr__graph_linear_count(p->graph) && *out; i++) {
        lr_linear *base;
        lr_status status = lr__save_base(&base, *lr__graph_linear(p->graph, i));
        if (status < 0) return status;
        *out = is_dense(p, base);
        lr_linear_free(base);
    }
    return LR_OK;
}

/* Raises the flags that the architecture's configuration has: attention_bias of Llama and Qwen3
 * stands for q, k, v and o, mlp_bias of Llama for the rest. */
static void promise_biases(const planner *p) {
    int32_t architecture = p->graph->origin->config.architecture;
    for (int32_t b = 0; b < p->graph->block_count; b++)
        for (int i = 0; i < LR__BLOCK_LINEARS; i++) {
            if (!p->graph->blocks[b].linears[i]->bias) continue;
            if (i <= LR__O && (architecture == LR__ARCH_LLAMA || architecture == LR__ARCH_QWEN3))
                p->plan->attention_bias = p->plan->output_bias = 1;
            if (i > LR__O && architecture == LR__ARCH_LLAMA) p->plan->mlp_bias = 1;
        }
}

static lr_status add_plain(const planner *p, const lr_linear *base, int has_bias) {
    lr__outgoing_list *list = &p->plan->tensors;
    lr_status status = lr__outgoing_rows(list, base->name, "weight", base);
    if (status < 0 || !has_bias) return status;
    return lr__outgoing_vector(list, base->name, "bias", base->bias, base->out);
}

static lr_status add_described(const planner *p, const lr_linear *linear) {
    json_t *structure;
    lr_status status = lr__outgoing_linear(&structure, &p->plan->tensors, linear, p->densify);
    return status < 0 ? status : lr__json_set(p->plan->modules, linear->name, structure);
}

static lr_status add_linear(const planner *p, const lr_linear *linear, int has_bias) {
    lr_status status = LR_OK;
    lr_linear *base = NULL;
    LR_TRY(lr__save_base(&base, linear));
    int is_plain =
        p->plan->tensors.dtype != LR_Q8_0 && is_dense(p, base) && (has_bias || !base->bias);
    LR_FAIL_IF(p->densify && !is_plain && p->plan->tensors.dtype != LR_Q8_0, LR_E_UNSUPPORTED,
               "%s: has a bias, for which the configuration of a plain model has no place",
               linear->name);
    LR_TRY(is_plain ? add_plain(p, base, has_bias) : add_described(p, base));
done:
    lr_linear_free(base);
    return status;
}

static lr_status add_norm(const planner *p, const char *module, const char *part,
                          const lr__param *norm) {
    if (!norm) return LR_OK;
    return lr__outgoing_vector(&p->plan->tensors, module, part, norm, lr__param_count(norm));
}

static lr_status add_block(const planner *p, const lr__block *block) {
    lr_status status = LR_OK;
    LR_TRY(add_norm(p, block->name, "input_layernorm.weight", block->attention_norm));
    LR_TRY(add_norm(p, block->name, "self_attn.q_norm.weight", block->q_norm));
    LR_TRY(add_norm(p, block->name, "self_attn.k_norm.weight", block->k_norm));
    LR_TRY(add_norm(p, block->name, "post_attention_layernorm.weight", block->mlp_norm));
    for (int i = 0; i < LR__BLOCK_LINEARS; i++)
        LR_TRY(add_linear(p, block->linears[i], *bias_flag(p->plan, i)));
done:
    return status;
}

/* The embedding is a dense module of the same parameter; described only where it is quantised. */
static lr_status add_embedding(const planner *p) {
    lr__param *param = p->graph->embedding;
    lr__outgoing_list *list = &p->plan->tensors;
    lr_linear *lookup;
    if (list->dtype != LR_Q8_0) return lr__outgoing_matrix(list, embedding_name, "weight", param);
    lr_status status = lr__linear_dense(&lookup, p->graph->ctx, embedding_name, param, NULL);
    if (status < 0) return status;
    status = add_described(p, lookup);
    lr_linear_free(lookup);
    return status;
}

lr_status lr__save_plan_make(lr__save_plan *plan, const lr__graph *graph, int32_t dtype,
                             int densify) {
    const lr__config *c = &graph->origin->config;
    const planner p = {plan, graph, densify};
    lr_status status = LR_OK;
    int all_dense;
    *plan = (lr__save_plan){.tensors = {.ctx = graph->ctx, .dtype = dtype},
                            .modules = json_object(),
                            .is_tied = lr__is_head_tied(graph),
                            .attention_bias = c->attention_bias,
                            .output_bias = c->output_bias,
                            .mlp_bias = c->mlp_bias};
    LR_FAIL_IF(!plan->modules, LR_E_NOMEM, "out of memory for JSON");
    LR_TRY(is_all_dense(&p, &all_dense));
    if (all_dense && dtype != LR_Q8_0) promise_biases(&p);
    LR_TRY(add_embedding(&p));
    for (int32_t i = 0; i < graph->block_count; i++) LR_TRY(add_block(&p, &graph->blocks[i]));
    LR_TRY(add_norm(&p, "model.norm", "weight", graph->final_norm));
    if (!plan->is_tied || dtype == LR_Q8_0) LR_TRY(add_linear(&p, graph->head, 0));
done:
    return status;
}

void lr__save_plan_clear(lr__save_plan *plan) {
    lr__outgoing_clear(&plan->tensors);
    json_decref(plan->modules);
    plan->modules = NULL;
}
