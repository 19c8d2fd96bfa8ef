/* lowrank: language models made smaller by low-rank structure, on the command line. */
#include "cli/help.h"

#include <stdio.h>
#include <string.h>

static const cli_command commands[] = {
    {"info", command_info, "MODEL [options]", "what a model is made of",
     "Shows the sizes of a model and the form of each of its linear modules, and of a compressed "
     "one the ranks, storage and kept share by type. Nothing is computed and nothing is changed.",
     "lowrank info SmolLM2-135M-Instruct.Q4_1.gguf"},
    {"tokenize", command_tokenize, "MODEL --text FILE [options]", "a text as token ids",
     "Encodes a text with the tokenizer of a model. The text of special tokens becomes the special "
     "token; no BOS or EOS is added.",
     "lowrank tokenize model/ --text book.txt --json"},
    {"collect", command_collect, "MODEL --out STATS [--text FILE[:WEIGHT]]... [options]",
     "statistics of a model's inputs, for plan and compress",
     "Runs texts through a model and keeps the second moments of what its linear modules read. "
     "They serve every method and every size, so one file is enough for many runs of compress. "
     "Without --text, the model writes the text itself.",
     "lowrank collect model/ --text wiki.txt --text code.txt:0.5 --out model.stats"},
    {"plan", command_plan,
     "MODEL --out PLAN (--keep R | --keep-model R | --keep-bytes SIZE | --ranks JSON) [options]",
     "a rank for each module",
     "Decides how small each linear module becomes, and writes that down in a JSON file to read, "
     "edit and give to compress. A module whose factors would not be smaller stays as it is. "
     "--allocation auto tries several ways to share the budget on held-out text, takes the best "
     "and names its loss in the plan.",
     "lowrank plan model/ --keep 0.8 --allocation auto --stats model.stats --text held.txt "
     "--out plan.json"},
    {"compress", command_compress,
     "MODEL --out DIR (--keep R | --keep-model R | --keep-bytes SIZE | --ranks JSON | --plan PLAN) "
     "[options]",
     "a smaller model, by factorising its linear modules",
     "Replaces linear modules by products of two thin matrices and saves a Hugging Face folder "
     "that this command and transformers load. Which directions matter is learnt from statistics: "
     "--stats, the given texts, or text that the model writes itself.",
     "lowrank compress model/ --keep 0.8 --text wiki.txt --out smaller/"},
    {"convert", command_convert, "MODEL --out PATH [--dtype TYPE] [--densify] [options]",
     "a model as a folder or a GGUF file, in another number type",
     "Writes a model as a Hugging Face folder or as a GGUF file for llama.cpp and its relatives. A "
     "factorised model stays factorised in a folder; GGUF has plain matrices only.",
     "lowrank convert smaller/ --out smaller.gguf --dtype q8_0 --densify"},
    {"distill", command_distill,
     "MODEL --out DIR (--keep R | --ranks JSON | --plan PLAN) [--text FILE]... [options]",
     "a smaller model, each factorised module trained against its own layer",
     "Factorises linear modules and trains each of them, by itself, to give the outputs of the "
     "layer it replaces, while the model runs: on the layer's own inputs, on those behind the "
     "smaller modules (shift), or on those towards the outputs of the whole model (anchored). The "
     "values with the least held-out loss are kept.",
     "lowrank distill model/ --ranks '{\"q_proj\": 384, \"gate_proj\": 512}' --text wiki.txt "
     "--stream anchored --out smaller/"},
    {"train", command_train, "MODEL --out DIR [--text FILE]... [--train PATTERN] [options]",
     "a model whose parameters learnt from text or from a teacher",
     "Trains the parameters that patterns name, all by default, by the loss of the next token or "
     "towards a teacher's predictions and hidden states, and saves the model with its curve of "
     "losses. An interrupted run goes on with --resume, and ends with the same bytes.",
     "lowrank train smaller/ --teacher model/ --text wiki.txt --steps 200 --lr 5e-5 --out taught/"},
    {"recover", command_recover,
     "MODEL --out DIR (--keep R | --teacher MODEL) [--text FILE]... [options]",
     "a smaller model that learns back what it lost",
     "Factorises a model, teaches each block to give what it gave in the dense model, and then all "
     "of them together to predict what the dense model predicts; how near it is after each stage "
     "is in the result. Without --text, the model writes the text itself.",
     "lowrank recover model/ --keep 0.8 --eval test.txt --out smaller/"},
    {"eval", command_eval, "MODEL --text FILE [--window N] [--reference MODEL] [options]",
     "perplexity, and the distance to another model",
     "Scores a text in consecutive windows and gives its perplexity. With a reference it also "
     "says how far the predictions are from those of the other model.",
     "lowrank eval smaller/ --text test.txt --window 512 --windows 40 --reference model/"},
    {"generate", command_generate, "MODEL --prompt TEXT [--max-tokens N] [options]",
     "text that continues a prompt",
     "Continues a prompt, token by token, until the model ends the text or --max-tokens are "
     "reached. It is greedy unless --temperature is given.",
     "lowrank generate model/ --prompt 'The river' --max-tokens 60 --temperature 0.8 --seed 7"},
};

enum { COMMANDS = sizeof commands / sizeof *commands };

static const cli_command *find_command(const char *name) {
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static int complain_of_command(const char *name) {
    const char *names[COMMANDS];
    for (size_t i = 0; i < COMMANDS; i++) names[i] = commands[i].name;
    const char *nearest = args_nearest(name, names, COMMANDS);
    if (nearest)
        return report_fail(CODE_USAGE, "%s: no such command; did you mean %s?", name, nearest);
    return report_fail(CODE_USAGE, "%s: no such command; 'lowrank --help' lists them", name);
}

static int run(const char *name, int argc, char **argv) {
    const cli_command *found = find_command(name);
    if (!found) return complain_of_command(name);
    cli_job job = {.command = found, .argc = argc, .argv = argv};
    report_begin(found->name);
    int code = found->run(&job);
    job_end(&job);
    return code == CODE_HELP ? CODE_DONE : code;
}

/* With --json, all that the library knows about its build. */
static int print_version(int argc, char **argv) {
    if (argc > 1 || (argc == 1 && strcmp(argv[0], "--json") != 0))
        return report_fail(CODE_USAGE, "--version: %s behind it, expected nothing or --json",
                           argv[0]);
    if (argc)
        puts(lr_build_info());
    else
        printf("lowrank %s\n", lr_version_string());
    return report_flush();
}

int main(int argc, char **argv) {
    static char help_word[] = "--help";
    char *help[] = {help_word};
    const char *first = argc > 1 ? argv[1] : NULL;
    if (!first)
        return report_fail(CODE_USAGE, "COMMAND: missing; 'lowrank --help' lists the commands");
    if (strcmp(first, "--version") == 0) return print_version(argc - 2, argv + 2);
    int wants_help = strcmp(first, "help") == 0;
    if (wants_help && argc > 2) return run(argv[2], 1, help);
    if (wants_help || strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0)
        return help_overview(commands, COMMANDS);
    return run(first, argc - 2, argv + 2);
}
