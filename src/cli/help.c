/* Help of one command and the overview of all. */
#include "cli/help.h"

#include <stdio.h>
#include <string.h>

enum { HELP_COLUMN = 26, HELP_WIDTH = 84 };

/* Words of `text`, wrapped between the columns; the cursor stands at `indent`. */
static void print_wrapped(const char *text, int indent, int width) {
    int column = indent;
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > indent && column + 1 + length > width) {
            printf("\n%*s", indent, "");
            column = indent;
        }
        column += printf("%s%.*s", column > indent ? " " : "", length, text);
        text += length + strspn(text + length, " ");
    }
    putchar('\n');
}

static void print_option(const arg *a) {
    int used = printf("  --%s%s%s", a->name, a->hint ? " " : "", a->hint ? a->hint : "");
    if (used > HELP_COLUMN - 2) {
        putchar('\n');
        used = 0;
    }
    printf("%*s", HELP_COLUMN - used, "");
    print_wrapped(a->help, HELP_COLUMN, HELP_WIDTH);
}

int help_command(const cli_command *command, arg_table table, int32_t own) {
    int used = printf("Usage: lowrank %s ", command->name);
    print_wrapped(command->synopsis, used, HELP_WIDTH);
    putchar('\n');
    print_wrapped(command->about, 0, HELP_WIDTH);
    if (own) printf("\nOptions:\n");
    for (int32_t i = 0; i < own; i++) print_option(&table.options[i]);
    printf("\nOptions of every command:\n");
    for (int32_t i = own; i < table.count; i++) print_option(&table.options[i]);
    printf("\nExample:\n  %s\n", command->example);
    return report_flush();
}

int help_overview(const cli_command *commands, size_t count) {
    printf("Usage: lowrank COMMAND MODEL [options]\n\n"
           "Makes language models of the Llama family smaller by low-rank structure.\n"
           "MODEL is a Hugging Face folder or a GGUF file.\n\nCommands:\n");
    for (size_t i = 0; i < count; i++) printf("  %-10s %s\n", commands[i].name, commands[i].brief);
    printf("\n'lowrank COMMAND --help' explains a command, 'lowrank --version' names this build.\n"
           "\nExit codes: 0 done, 1 the run failed, 2 the command line is wrong, 3 an input file\n"
           "is bad, 4 a number is not finite, 5 cancelled.\n");
    return report_flush();
}
