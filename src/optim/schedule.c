/* Learning rates over time: a linear warm-up, then constant, a line or half a cosine (SGDR, arXiv
 * 1608.03983), step for step as transformers' get_cosine_schedule_with_warmup() and its kin. */
#include "optim/optimizer.h"

#include <math.h>

double lr__schedule_share(const lr_optimizer_opts *opts, int64_t made) {
    if (made < opts->warm_up) return (double)made / (double)opts->warm_up;
    if (opts->schedule == LR_CONSTANT) return 1;
    if (made >= opts->steps) return opts->final_share;
    double way = (double)(made - opts->warm_up) / (double)(opts->steps - opts->warm_up);
    double above = opts->schedule == LR_LINEAR ? 1 - way : 0.5 * (1 + cos(M_PI * way));
    return opts->final_share + (1 - opts->final_share) * above;
}
