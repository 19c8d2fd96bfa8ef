/*
 * A knapsack with a ladder of choices for each item (multiple-choice knapsack; Sinha and Zoltners,
 * "The multiple-choice knapsack problem", Operations Research 1979). Neither ladder is concave: the
 * pivot form's ranks get cheaper as they rise, and dense is one long last step. So an item offers
 * the step, of any length within what is left, that saves most for its cost, which is the next edge
 * of the ladder's concave hull, and the best offer is taken, until nothing fits.
 */
#include "compress/greedy.h"

#include "base/mem.h"

#include <math.h>

/* Ranks to begin with, of the share of a uniform plan; returns their cost. */
static int64_t begin_at_floor(lr__rank_item *items, int64_t count, double floor) {
    int64_t used = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t most = lr__rank_most(&items[i]), rank = items[i].rank ? items[i].rank : most;
        int64_t least = (int64_t)(floor * (double)rank);
        items[i].rank = !most ? 0 : least < 1 ? 1 : least;
        used += lr__rank_cost(&items[i], items[i].rank);
    }
    return used;
}

/* The best step of an item. */
typedef struct offer {
    double slope; /* saved for each unit of cost; negative when no step fits */
    int64_t rank, cost;
} offer;

/* saved[r] is what rank r saves, saved[length] what dense does. */
static offer best_offer(const lr__rank_item *item, const double *saved, int64_t left) {
    int64_t most = lr__rank_most(item), now = lr__rank_cost(item, item->rank);
    offer best = {-1, 0, 0};
    if (!item->rank) return best;
    for (int64_t rank = item->rank + 1; rank <= most + 1; rank++) {
        int is_dense = rank > most;
        int64_t cost = lr__rank_cost(item, is_dense ? 0 : rank) - now;
        if (cost > left) continue;
        double gain = saved[is_dense ? lr__rank_full(item) : rank] - saved[item->rank];
        double slope = cost > 0 ? gain / (double)cost : INFINITY;
        if (slope > best.slope) best = (offer){slope, is_dense ? 0 : rank, cost};
    }
    return best;
}

static void take_offers(lr__rank_item *items, int64_t count, int64_t left, double *const *saved,
                        offer *offers) {
    for (int64_t i = 0; i < count; i++) offers[i] = best_offer(&items[i], saved[i], left);
    for (;;) {
        int64_t best = 0;
        for (int64_t i = 1; i < count; i++)
            if (offers[i].slope > offers[best].slope) best = i;
        if (offers[best].slope < 0) return;
        if (offers[best].cost <= left) {
            left -= offers[best].cost;
            items[best].rank = offers[best].rank;
        }
        offers[best] = best_offer(&items[best], saved[best], left);
    }
}

static lr_status check_worth(const lr__rank_item *items, int64_t count,
                             const double *const *worth) {
    for (int64_t i = 0; i < count; i++) {
        for (int64_t r = 0; r < lr__rank_full(&items[i]); r++)
            if (!(worth[i][r] >= 0) || !isfinite(worth[i][r]))
                return lr__fail(LR_E_NUMERIC, "matrix %lld: rank %lld is worth %g", (long long)i,
                                (long long)r + 1, worth[i][r]);
    }
    return LR_OK;
}

/* Uniform ranks, cut to their floor; *left is 0 and nothing is cut where all is dense. */
static lr_status begin(lr__rank_item *items, int64_t count, int64_t budget, double floor,
                       int64_t *left) {
    int64_t dense = 0;
    *left = 0;
    if (!(floor >= 0 && floor <= 1))
        return lr__fail(LR_E_INVALID, "floor %g, expected 0 to 1", floor);
    lr_status status = lr__ranks_uniform(items, count, budget);
    if (status >= 0) status = lr__ranks_dense(&dense, items, count);
    if (status < 0 || budget >= dense) return status;
    *left = budget - begin_at_floor(items, count, floor);
    return LR_OK;
}

static lr_status sum_up(double **out, const lr__rank_item *item, const double *worth) {
    int64_t length = lr__rank_full(item);
    lr_status status = lr__new(out, (size_t)length + 1, sizeof **out);
    for (int64_t r = 0; status >= 0 && r < length; r++) (*out)[r + 1] = (*out)[r] + worth[r];
    return status;
}

lr_status lr__ranks_greedy(lr__rank_item *items, int64_t count, int64_t budget, double floor,
                           const double *const *worth) {
    lr_status status = LR_OK;
    int64_t left = 0;
    double **saved = NULL;
    offer *offers = NULL;
    LR_TRY(begin(items, count, budget, floor, &left));
    LR_TRY(check_worth(items, count, worth));
    if (!left) goto done;
    LR_TRY(lr__new(&saved, (size_t)count, sizeof *saved));
    LR_TRY(lr__new(&offers, (size_t)count, sizeof *offers));
    for (int64_t i = 0; i < count; i++) LR_TRY(sum_up(&saved[i], &items[i], worth[i]));
    take_offers(items, count, left, saved, offers);
done:
    for (int64_t i = 0; saved && i < count; i++) lr__free(saved[i]);
    lr__free(saved);
    lr__free(offers);
    return status;
}

typedef struct proportion {
    const lr__rank_item *items;
    const double *measure;
    double scale;
} proportion;

/* The item's rank at this scale, dense where that costs as much; never below its floor. */
static int64_t rank_at(const lr__rank_item *item, double measure, double scale) {
    int64_t most = lr__rank_most(item);
    double wanted = scale * measure;
    if (!item->rank || wanted >= (double)most + 1) return 0;
    return wanted > (double)item->rank ? (int64_t)wanted : item->rank;
}

static int64_t cost_at(const proportion *p, int64_t count) {
    int64_t cost = 0;
    for (int64_t i = 0; i < count; i++)
        cost += lr__rank_cost(&p->items[i], rank_at(&p->items[i], p->measure[i], p->scale));
    return cost;
}

static int prefers_behind(const void *user, int64_t item, int64_t than) {
    const proportion *p = user;
    return p->scale * p->measure[item] - (double)p->items[item].rank >
           p->scale * p->measure[than] - (double)p->items[than].rank;
}

lr_status lr__ranks_proportional(lr__rank_item *items, int64_t count, int64_t budget, double floor,
                                 const double *measure) {
    enum { HALVINGS = 100 };
    lr_status status = LR_OK;
    proportion p = {items, measure, 0};
    int64_t left = 0;
    double low = 0, high = 0;
    LR_TRY(begin(items, count, budget, floor, &left));
    for (int64_t i = 0; i < count; i++) {
        LR_FAIL_IF(!(measure[i] > 0) || !isfinite(measure[i]), LR_E_NUMERIC,
                   "matrix %lld: measure %g", (long long)i, measure[i]);
        high = fmax(high, ((double)lr__rank_most(&items[i]) + 1) / measure[i]);
    }
    if (!left) goto done;
    for (int k = 0; k < HALVINGS; k++) {
        p.scale = low + (high - low) / 2;
        if (cost_at(&p, count) > budget)
            high = p.scale;
        else
            low = p.scale;
    }
    p.scale = low;
    left = budget - cost_at(&p, count);
    for (int64_t i = 0; i < count; i++) items[i].rank = rank_at(&items[i], measure[i], low);
    lr__ranks_fill(items, count, left, prefers_behind, &p);
done:
    return status;
}
