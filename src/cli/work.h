/* The folder beside an output that holds what an interrupted run goes on from. */
#ifndef LR_CLI_WORK_H
#define LR_CLI_WORK_H

#include "cli/report.h"

/* ".NAME.lowrank-work" beside the output; freed by the caller. */
int work_name(char **path, const char *out);
/* The folder and the files in it; there are no folders inside. */
void work_remove(const char *path);

#endif
