/* The parts of a file of statistics. */
#ifndef LR_COMPRESS_STATS_FILE_H
#define LR_COMPRESS_STATS_FILE_H

#include "base/json.h"
#include "compress/stats.h"
#include "format/safetensors.h"

/* The tensor "module.part" of `count` numbers of binary64. */
lr_status lr__stats_declare(lr__safetensors_writer *writer, const char *module, const char *part,
                            int64_t count);
lr_status lr__stats_put(lr__safetensors_writer *writer, const double *values, int64_t count,
                        double scale);

/* Tokens or windows that a file may name: sums of as many as are ever added do not overflow. */
#define LR__COUNTED_MOST ((int64_t)1 << 53)

typedef struct lr__stats_reader {
    lr_stats *stats;
    const lr__stored_list *list;
    const char *path;
} lr__stats_reader;

/* LR_E_NOTFOUND or LR_E_SHAPE for a tensor that is not as declared. */
lr_status lr__stats_find_part(const lr__stored **out, const lr__stats_reader *r, const char *module,
                              const char *part, int64_t count);
/* The same, and LR_E_NUMERIC. */
lr_status lr__stats_read_part(const lr__stats_reader *r, const char *module, const char *part,
                              double *out, int64_t count, double scale);

/* stats_file_slopes.c: those of derivatives. Only statistics with `slopes` are given to be written;
 * a file without them leaves the statistics without. */
lr_status lr__stats_check_slopes(const lr_stats *stats);
lr_status lr__stats_describe_slopes(const lr_stats *stats, json_t *metadata);
lr_status lr__stats_declare_slopes(const lr_stats *stats, lr__safetensors_writer *writer);
lr_status lr__stats_put_slopes(const lr_stats *stats, lr__safetensors_writer *writer);
lr_status lr__stats_open_slopes(const lr__stats_reader *r, const json_t *metadata);

#endif
