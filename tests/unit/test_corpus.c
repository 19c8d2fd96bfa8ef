/* Every file of the fuzzing corpus once more: seeds, and what fuzzing found before it was mended.
 */
#include "../fuzz/fuzz.h"
#include "scratch.h"

#include <dirent.h>

static const struct {
    const char *name;
    int (*run)(const uint8_t *data, size_t size);
} targets[] = {{"safetensors", fuzz_safetensors}, {"gguf", fuzz_gguf},   {"config", fuzz_config},
               {"tokenizer", fuzz_tokenizer},     {"stats", fuzz_stats}, {"plan", fuzz_plan},
               {"lowrank", fuzz_lowrank}};

/* Sanitizers see a read beyond the end only when the block ends where the file does. */
static void replay(int target, const char *path) {
    static char data[1 << 20];
    size_t size = scratch_read(path, data, sizeof data);
    uint8_t *exact = malloc(size + !size);
    memcpy(exact, data, size);
    targets[target].run(exact, size);
    free(exact);
}

START_TEST(test_corpus) {
    char folder[600], path[1200];
    const char *golden = getenv("LR_GOLDEN");
    int files = 0;
    snprintf(folder, sizeof folder, "%s/../fuzz/corpus/%s", golden ? golden : "tests/golden",
             targets[_i].name);
    DIR *dir = opendir(folder);
    ck_assert_msg(dir != NULL, "%s", folder);
    for (struct dirent *entry; (entry = readdir(dir)); files++) {
        if (*entry->d_name == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        replay(_i, path);
    }
    closedir(dir);
    ck_assert_int_gt(files, 0);
}
END_TEST

/* What no file of a corpus can be. */
START_TEST(test_nothing) { targets[_i].run((const uint8_t *)"", 0); }
END_TEST

Suite *corpus_suite(void);
Suite *corpus_suite(void) {
    Suite *suite = suite_create("corpus");
    TCase *files = tcase_create("files");
    int count = sizeof targets / sizeof *targets;
    tcase_add_loop_test(files, test_corpus, 0, count);
    tcase_add_loop_test(files, test_nothing, 0, count);
    tcase_set_timeout(files, 60);
    suite_add_tcase(suite, files);
    return suite;
}
