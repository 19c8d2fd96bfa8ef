/* Derived parameters in the order of derivation. A parameter is made after its sources, so there is
 * such an order; forwards take it from the front and backward passes from the back. */
#include "nn/derived.h"

#include <string.h>

static int has(const lr__derived *derived, const lr__param *param) {
    for (size_t i = 0; i < derived->count; i++)
        if (derived->items[i] == param) return 1;
    return 0;
}

lr_status lr__derived_add(lr__derived *derived, lr__param *param) {
    lr_status status = LR_OK;
    if (!param->producer || has(derived, param)) return LR_OK;
    for (int32_t i = 0; i < param->source_count; i++)
        LR_TRY(lr__derived_add(derived, param->sources[i]));
    LR_TRY(
        lr__grow(&derived->items, &derived->capacity, derived->count + 1, sizeof *derived->items));
    derived->items[derived->count++] = param;
done:
    return status;
}

lr_status lr__derived_add_linear(lr__derived *derived, const lr_linear *linear) {
    lr_status status = linear->bias ? lr__derived_add(derived, linear->bias) : LR_OK;
    for (int32_t t = 0; t < linear->term_count; t++)
        for (int32_t i = 0; i < linear->terms[t].count && status >= 0; i++)
            if (linear->terms[t].ops[i].param)
                status = lr__derived_add(derived, linear->terms[t].ops[i].param);
    return status;
}

void lr__derived_clear(lr__derived *derived) {
    lr__free(derived->items);
    *derived = (lr__derived){0};
}

/* ---- before a forward ---- */

lr_status lr__derived_refresh(const lr__derived *derived, int64_t step) {
    lr_status status = LR_OK;
    for (size_t i = 0; i < derived->count && status >= 0; i++)
        status = lr__param_refresh(derived->items[i], step);
    return status;
}

lr_status lr__derived_follow(const lr__derived *derived) {
    lr_status status = LR_OK;
    for (size_t i = 0; i < derived->count && status >= 0; i++)
        status = lr__param_refresh(derived->items[i], derived->items[i]->step);
    return status;
}

lr_status lr__linear_follow(const lr_linear *linear) {
    lr__derived derived = {0};
    lr_status status = lr__derived_add_linear(&derived, linear);
    if (status >= 0) status = lr__derived_follow(&derived);
    lr__derived_clear(&derived);
    return status;
}

lr_status lr__param_follow(const lr__param *param) {
    lr__derived derived = {0};
    lr_status status = param ? lr__derived_add(&derived, (lr__param *)param) : LR_OK;
    if (status >= 0) status = lr__derived_follow(&derived);
    lr__derived_clear(&derived);
    return status;
}

/* ---- in a backward pass ---- */

static int is_wanted(const lr__gradients *gradients, const lr__param *param) {
    for (int32_t i = 0; param->producer->backward && i < param->source_count; i++)
        if (lr__gradients_has(gradients, param->sources[i])) return 1;
    return 0;
}

static lr_status want(lr__derived_pass *pass, lr__param *param, lr__arena *arena) {
    size_t count = (size_t)lr__param_count(param);
    float *values;
    lr_status status = lr__arena_take(arena, &values, count, sizeof *values);
    if (status < 0) return status;
    memset(values, 0, count * sizeof *values);
    lr__gradients_put(&pass->gradients, param, values);
    pass->wanted[pass->count++] = param;
    return LR_OK;
}

lr_status lr__derived_begin(lr__derived_pass *pass, const lr__derived *derived,
                            const lr__gradients *given, lr__arena *arena) {
    lr_status status = LR_OK;
    lr__gradient *items;
    int32_t most = 0;
    *pass = (lr__derived_pass){.gradients = *given, .given = given};
    if (!derived->count) return LR_OK;
    LR_TRY(lr__arena_take(arena, &pass->wanted, derived->count, sizeof *pass->wanted));
    LR_TRY(lr__arena_take(arena, &items, given->count + derived->count, sizeof *items));
    lr__gradients_settle(given); /* what is blank would be told to the copy alone */
    if (given->count) memcpy(items, given->items, given->count * sizeof *items);
    pass->gradients.items = items;
    for (size_t i = 0; i < derived->count; i++) {
        lr__param *param = derived->items[i];
        if (param->source_count > most) most = param->source_count;
        if (is_wanted(&pass->gradients, param)) LR_TRY(want(pass, param, arena));
    }
    status = lr__arena_take(arena, &pass->by_source, (size_t)most, sizeof *pass->by_source);
done:
    return status;
}

/* What the caller wants of a derived parameter itself is kept beside. */
static void add_given(const lr__derived_pass *pass, const lr__param *param, const float *gradient) {
    float *sum = lr__gradient_of(pass->given, param);
    for (int64_t i = 0; sum && i < lr__param_count(param); i++) sum[i] += gradient[i];
}

lr_status lr__derived_end(const lr__derived_pass *pass) {
    lr_status status = LR_OK;
    for (size_t i = pass->count; i-- > 0 && status >= 0;) {
        const lr__param *param = pass->wanted[i];
        const float *gradient = lr__gradient_of(&pass->gradients, param);
        for (int32_t s = 0; s < param->source_count; s++)
            pass->by_source[s] = lr__gradient_of(&pass->gradients, param->sources[s]);
        add_given(pass, param, gradient);
        status = param->producer->backward(param, gradient, pass->by_source, param->producer->user);
    }
    return status;
}
