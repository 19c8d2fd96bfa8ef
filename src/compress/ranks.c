/*
 * Rank budgets. Exact shares are fractions budget out in / (dense (out + in)); they are compared by
 * cross multiplication in 128 bits, so the bounds below are what keeps every product in range:
 * 2^53 2^48 2^25 = 2^126, and for bytes, half as wide, 2^52 2^48 2^26.
 */
#include "compress/ranks.h"

#include <math.h>

__extension__ typedef __int128 wide;

static const int64_t size_limit = (int64_t)1 << 24;
static const int64_t total_limit = (int64_t)1 << 53;

/* Of a matrix of one of the forms. */
static int64_t matrix_cost(const lr__rank_item *item, int64_t rows, int64_t cols) {
    enum { BLOCK = 32, SCALE = 2 };
    if (item->width == 1) return rows * (cols + SCALE * ((cols + BLOCK - 1) / BLOCK));
    return rows * cols * (item->width ? item->width : 1);
}

static int64_t dense_cost(const lr__rank_item *item) {
    return matrix_cost(item, item->out, item->in);
}

/* A narrow input, with which the cost would fall where the form changes, has pivots at any rank. */
static int is_pivot(const lr__rank_item *item, int64_t rank) {
    if (item->storage != LR__STORAGE_PIVOT) return 0;
    return rank * rank > item->out || (item->in - 1) * (item->in - 1) <= 4 * item->out;
}

static int64_t cost_of_rank(const lr__rank_item *item, int64_t rank) {
    int64_t right = matrix_cost(item, rank, item->in), index = item->width ? 4 * item->out : 0;
    if (!is_pivot(item, rank)) return matrix_cost(item, item->out, rank) + right;
    int64_t rest = item->out > rank ? item->out - rank : 0;
    return matrix_cost(item, rest, rank) + right + index;
}

static lr_status check_items(const lr__rank_item *items, int64_t count) {
    int64_t total = 0;
    if (count < 1) return lr__fail(LR_E_INVALID, "ranks of %lld matrices", (long long)count);
    for (int64_t i = 0; i < count; i++) {
        const lr__rank_item *item = &items[i];
        int64_t m = item->out, n = item->in, r = item->rank, most = size_limit >> !!item->width;
        if (m < 1 || n < 1 || m > most || n > most)
            return lr__fail(LR_E_SHAPE, "matrix %lld: shape [%lld, %lld], expected 1 to %lld",
                            (long long)i, (long long)m, (long long)n, (long long)most);
        if (r < 0 || r > most)
            return lr__fail(LR_E_INVALID, "matrix %lld: rank %lld, expected 0 to %lld",
                            (long long)i, (long long)r, (long long)most);
        int64_t dense = dense_cost(item), now = cost_of_rank(item, r);
        total += now > dense ? now : dense;
        if (total > total_limit >> !!item->width)
            return lr__fail(LR_E_UNSUPPORTED, "more than %lld parameters or bytes",
                            (long long)(total_limit >> !!item->width));
    }
    return LR_OK;
}

/* Of the rank after this one, its last also. */
static int64_t marginal_cost(const lr__rank_item *item) {
    return cost_of_rank(item, item->rank + 1) - cost_of_rank(item, item->rank);
}

static int64_t item_cost(const lr__rank_item *item) { return lr__rank_cost(item, item->rank); }

int64_t lr__rank_params(const lr__rank_item *item) {
    lr__rank_item numbers = *item;
    numbers.width = 0;
    return item_cost(&numbers);
}

int64_t lr__rank_cost(const lr__rank_item *item, int64_t rank) {
    return rank ? cost_of_rank(item, rank) : dense_cost(item);
}

int64_t lr__rank_most(const lr__rank_item *item) {
    int64_t rank = lr__rank_full(item);
    while (rank && cost_of_rank(item, rank) >= dense_cost(item)) rank--;
    return rank;
}

int lr__rank_is_pivot(const lr__rank_item *item) { return is_pivot(item, item->rank); }

static int reads_one_input(const lr__rank_item *a, const lr__rank_item *b) {
    return a->storage == LR__STORAGE_SHARED && b->storage == LR__STORAGE_SHARED &&
           a->input == b->input;
}

int lr__ranks_share(const lr__rank_item *a, const lr__rank_item *b) {
    return reads_one_input(a, b) && a->rank == b->rank && a->rank > 0;
}

int64_t lr__ranks_fold(lr__rank_item *folded, const lr__rank_item *items, int64_t count) {
    int64_t sets = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t set = 0;
        while (set < sets && !reads_one_input(&folded[set], &items[i])) set++;
        if (set < sets)
            folded[set].out += items[i].out;
        else
            folded[sets++] = items[i];
    }
    return sets;
}

void lr__ranks_unfold(lr__rank_item *items, int64_t count, const lr__rank_item *folded) {
    int64_t next = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t first = 0;
        while (!reads_one_input(&items[first], &items[i]) && first < i) first++;
        items[i].rank = first < i ? items[first].rank : folded[next++].rank;
    }
}

int64_t lr__rank_stacked_out(const lr__rank_item *items, int64_t count, int64_t which) {
    int64_t out = 0;
    for (int64_t i = 0; i < count; i++)
        if (i == which || reads_one_input(&items[i], &items[which])) out += items[i].out;
    return out;
}

/* The right factor counts with the first that has it. */
static int64_t params_among(const lr__rank_item *items, int64_t which) {
    const lr__rank_item *item = &items[which];
    for (int64_t i = 0; i < which; i++)
        if (lr__ranks_share(&items[i], item)) return item->rank * item->out;
    return lr__rank_params(item);
}

lr_status lr__ranks_params(int64_t *out, const lr__rank_item *items, int64_t count) {
    *out = 0;
    lr_status status = check_items(items, count);
    for (int64_t i = 0; status == LR_OK && i < count; i++) *out += params_among(items, i);
    return status;
}

lr_status lr__ranks_dense(int64_t *out, const lr__rank_item *items, int64_t count) {
    *out = 0;
    lr_status status = check_items(items, count);
    for (int64_t i = 0; status == LR_OK && i < count; i++) *out += dense_cost(&items[i]);
    return status;
}

lr_status lr__ranks_budget(int64_t *out, double keep, int64_t total) {
    *out = 0;
    if (!(keep > 0)) return lr__fail(LR_E_INVALID, "keep is %g, expected more than 0", keep);
    if (total < 1 || total > total_limit)
        return lr__fail(LR_E_UNSUPPORTED, "%lld parameters, expected 1 to %lld", (long long)total,
                        (long long)total_limit);
    if (keep >= 1) {
        *out = total;
        return LR_OK;
    }
    int64_t budget = (int64_t)floorl((long double)keep * (long double)total);
    if ((double)(budget + 1) / (double)total <= keep) budget++;
    *out = budget;
    return LR_OK;
}

/* What the next rank of an item adds; 0 when it is dense. */
static int64_t step_cost(const lr__rank_item *item) {
    if (!item->rank) return 0;
    int64_t next = cost_of_rank(item, item->rank + 1);
    return (next < dense_cost(item) ? next : dense_cost(item)) - item_cost(item);
}

static void step(lr__rank_item *item) {
    item->rank++;
    if (cost_of_rank(item, item->rank) >= dense_cost(item)) item->rank = 0;
}

typedef struct share {
    int64_t budget, dense;
} share;

/* Exact share minus cost, times dense. */
static wide shortfall(const lr__rank_item *item, share s) {
    return (wide)s.budget * dense_cost(item) - (wide)s.dense * cost_of_rank(item, item->rank);
}

/* 1 when a is further below its share than b; both are factorised. */
static int is_shorter(const lr__rank_item *a, const lr__rank_item *b, share s) {
    return shortfall(a, s) * marginal_cost(b) > shortfall(b, s) * marginal_cost(a);
}

/* The largest rank whose cost is within the share. */
static int64_t rank_of_share(const lr__rank_item *item, share s) {
    int64_t low = 0, high = lr__rank_full(item);
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if ((wide)s.dense * cost_of_rank(item, middle) <= (wide)s.budget * dense_cost(item))
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Returns the cost of all items. */
static int64_t start(lr__rank_item *items, int64_t count, share s) {
    int64_t used = 0;
    for (int64_t i = 0; i < count; i++) {
        lr__rank_item *item = &items[i];
        item->rank = rank_of_share(item, s);
        if (item->rank < 1) item->rank = 1;
        if (cost_of_rank(item, item->rank) >= dense_cost(item)) item->rank = 0;
        used += item_cost(item);
    }
    return used;
}

/* Items that rank 1 lifted above their share are paid for by those furthest above theirs. */
static int64_t take_back(lr__rank_item *items, int64_t count, share s, int64_t used) {
    while (used > s.budget) {
        lr__rank_item *most = NULL;
        for (int64_t i = 0; i < count; i++)
            if (items[i].rank > 1 && (!most || is_shorter(most, &items[i], s))) most = &items[i];
        if (!most) break;
        used -= item_cost(most);
        most->rank--;
        used += item_cost(most);
    }
    return used;
}

void lr__ranks_fill(lr__rank_item *items, int64_t count, int64_t left, lr__rank_prefers prefers,
                    const void *user) {
    for (;;) {
        int64_t best = -1;
        for (int64_t i = 0; i < count; i++) {
            int64_t added = step_cost(&items[i]);
            if (!items[i].rank || added > left) continue;
            if (best < 0 || prefers(user, i, best)) best = i;
        }
        if (best < 0) return;
        left -= step_cost(&items[best]);
        step(&items[best]);
    }
}

typedef struct shares {
    const lr__rank_item *items;
    share s;
} shares;

static int prefers_shorter(const void *user, int64_t item, int64_t than) {
    const shares *all = user;
    return is_shorter(&all->items[item], &all->items[than], all->s);
}

lr_status lr__ranks_uniform(lr__rank_item *items, int64_t count, int64_t budget) {
    share s = {budget, 0};
    for (int64_t i = 0; i < count; i++) items[i].rank = 0;
    lr_status status = lr__ranks_dense(&s.dense, items, count);
    if (status < 0 || budget >= s.dense) return status;
    int64_t least = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t dense = dense_cost(&items[i]), first = cost_of_rank(&items[i], 1);
        least += first < dense ? first : dense;
    }
    if (budget < least)
        return lr__fail(LR_E_INVALID,
                        "budget of %lld %s: rank 1 everywhere takes %lld of %lld, so the "
                        "smallest possible keep is %.9g",
                        (long long)budget, items->width ? "bytes" : "parameters", (long long)least,
                        (long long)s.dense, ceil(1e9 * (double)least / (double)s.dense) / 1e9);
    int64_t used = take_back(items, count, s, start(items, count, s));
    lr__ranks_fill(items, count, s.budget - used, prefers_shorter, &(shares){items, s});
    return LR_OK;
}
