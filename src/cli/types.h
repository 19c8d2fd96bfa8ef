/* Modules by type, the last component of their names. */
#ifndef LR_CLI_TYPES_H
#define LR_CLI_TYPES_H

#include "cli/report.h"

/* Puts the share of numbers that is kept into a result, and for each type its ranks, its storage
 * and its share, from the "modules" and the "config" that are there already. Nothing where every
 * module is dense. */
int types_report(json_t *result);

#endif
