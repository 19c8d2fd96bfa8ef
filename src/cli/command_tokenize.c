/* lowrank tokenize: a text as token ids. */
#include "cli/job.h"
#include "cli/texts.h"

#include <stdlib.h>

static int put_ids(json_t *result, const token_list *tokens) {
    int code;
    json_t *ids = json_array();
    if (!ids) return report_nomem();
    TRY(report_put(result, "ids", ids));
    TRY(report_count(result, "count", (int64_t)tokens->count));
    for (size_t i = 0; i < tokens->count; i++)
        if (json_array_append_new(ids, json_integer(tokens->ids[i]))) return report_nomem();
done:
    return code;
}

int command_tokenize(cli_job *job) {
    const char *text = NULL;
    lr_tokenizer *tokenizer = NULL;
    token_list tokens = {0};
    int code;
    const arg options[] = {
        ARG("text", ARG_TEXT, &text, "FILE", "text to encode", .required = 1),
    };
    TRY(JOB_BEGIN(job, options));
    TRY(job_start(job));
    TRY(report_status(lr_tokenizer_open(&tokenizer, job->model_path), WHILE_READING));
    TRY(texts_load(&tokens, tokenizer, text));
    TRY(put_ids(job->result, &tokens));
    TRY(job_report(job));
done:
    free(tokens.ids);
    lr_tokenizer_free(tokenizer);
    return code;
}
