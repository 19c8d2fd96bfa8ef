/* The one pattern language: names of modules, tensors and parameters. */
#ifndef LR_BASE_GLOB_H
#define LR_BASE_GLOB_H

/* 1 when `name` matches: `*` any run (dots too), `?` one character, `{a,b}` alternatives (they may
 * nest and hold other wildcards). A pattern without a dot also matches the last component. */
int lr__glob_match(const char *pattern, const char *name);

/* 0 when braces do not pair or the pattern is longer than 1024 bytes or nested deeper than 16;
 * such a pattern matches nothing. */
int lr__glob_is_valid(const char *pattern);

#endif
