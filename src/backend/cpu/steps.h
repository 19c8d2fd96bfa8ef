/*
 * Steps of AdamW and SGD of one instruction level, without fused products: the bits of adamw_c.c
 * and sgd_c.c. The file that includes this has defined LEVEL_INLINE, the mark of its functions;
 * VECTOR, of LANES binary32; get, put, every, add, subtract, multiply, divide, root and beyond
 * (whether a lane is not finite) on it.
 */

/* a x + b y */
LEVEL_INLINE VECTOR mix(VECTOR a, VECTOR x, VECTOR b, VECTOR y) {
    return add(multiply(a, x), multiply(b, y));
}

LEVEL_INLINE int adamw(const lr__adamw_task *t) {
    VECTOR scale = every(t->scale), kept = every(t->kept), rate = every(t->rate);
    VECTOR spread = every(t->spread), epsilon = every(t->epsilon);
    VECTOR beta1 = every(t->beta1), fresh1 = every(t->fresh1);
    VECTOR beta2 = every(t->beta2), fresh2 = every(t->fresh2);
    int bad = 0;
    for (int64_t i = 0; i < t->n; i += LANES) {
        int64_t left = t->n - i;
        VECTOR g = multiply(get(t->gradient + i, left), scale);
        VECTOR m = mix(beta1, get(t->m + i, left), fresh1, g);
        VECTOR v = mix(beta2, get(t->v + i, left), fresh2, multiply(g, g));
        VECTOR change = multiply(rate, divide(m, add(multiply(root(v), spread), epsilon)));
        VECTOR w = subtract(multiply(kept, get(t->w + i, left)), change);
        put(t->m + i, left, m);
        put(t->v + i, left, v);
        put(t->w + i, left, w);
        bad |= beyond(w) | beyond(v);
    }
    return !bad;
}

LEVEL_INLINE int sgd(const lr__sgd_task *t) {
    VECTOR scale = every(t->scale), decay = every(t->decay);
    VECTOR momentum = every(t->momentum), rate = every(t->rate);
    int bad = 0;
    for (int64_t i = 0; i < t->n; i += LANES) {
        int64_t left = t->n - i;
        VECTOR w = get(t->w + i, left);
        VECTOR g = mix(scale, get(t->gradient + i, left), decay, w);
        if (t->v) {
            g = add(multiply(momentum, get(t->v + i, left)), g);
            put(t->v + i, left, g);
        }
        w = subtract(w, multiply(rate, g));
        put(t->w + i, left, w);
        bad |= beyond(w);
    }
    return !bad;
}
