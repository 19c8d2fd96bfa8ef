/* Help, made from the tables that the parser reads. */
#ifndef LR_CLI_HELP_H
#define LR_CLI_HELP_H

#include "cli/job.h"

/* `own` options of the command come first in the table. */
int help_command(const cli_command *command, arg_table table, int32_t own);
int help_overview(const cli_command *commands, size_t count);

#endif
