/* The output folder: shards as they are done, then index, config and tokenizer files; it appears under its name when it is complete.
 *
 *   DESTINATION.partial/lock                  held by the running process
 *   DESTINATION.partial/settings.json         what the run was started with; --resume demands the same
 *   DESTINATION.partial/plan.json             how a bit budget was spread
 *   DESTINATION.partial/block-00003.json      the reports of a finished block; its shard is durable
 *   DESTINATION.partial/model/                becomes DESTINATION in one rename
 */
#ifndef BPDQ_QUANTIZER_WRITER_H
#define BPDQ_QUANTIZER_WRITER_H

#include <jansson.h>

#include "format/checkpoint.h"
#include "method.h"

typedef struct bpdq_writer bpdq_writer;

/* Shard 0 holds everything but the blocks, shard 1 + b block b, and the shards behind them what comes last (a quantized head). */

/* Prepares the staging folder. `settings` (borrowed) is compared with those of an interrupted run when options->resume. An existing
 * destination is refused unless options->overwrite; finished blocks of an earlier run are only thrown away with it. When the interrupted
 * run had only to be given its name, that is done and *complete is set. shards >= 1. */
bpdq_status bpdq_writer_open(const char *destination, const bpdq_quantize_options *options, int64_t blocks, int64_t shards,
                             const json_t *settings, bpdq_writer **writer, bool *complete, bpdq_error *error);
/* Leaves the staging folder for --resume, or removes it where nothing in it is worth keeping. NULL is allowed. */
void bpdq_writer_close(bpdq_writer *writer);

/* The staging folder, for what is needed only while the run lasts. */
const char *bpdq_writer_folder(const bpdq_writer *writer);
/* Number of leading blocks whose shards are done. */
int64_t bpdq_writer_finished_blocks(const bpdq_writer *writer);
/* malloc'ed; NULL when out of memory. */
char *bpdq_writer_shard_path(const bpdq_writer *writer, int64_t shard);

/* Writes a shard; that of a block with its reports (a JSON array, borrowed). Durable when it returns. */
bpdq_status bpdq_writer_shard(bpdq_writer *writer, int64_t shard, const bpdq_tensor_to_write *tensors, size_t count, const json_t *reports,
                              bpdq_error *error);
/* The reports of a finished block (a new reference). */
bpdq_status bpdq_writer_block_reports(const bpdq_writer *writer, int64_t block, json_t **reports, bpdq_error *error);

/* A decision made at the start that a resumed run must not make again: *plan is a new reference, or NULL where none was stored. */
bpdq_status bpdq_writer_store_plan(const bpdq_writer *writer, const json_t *plan, bpdq_error *error);
bpdq_status bpdq_writer_load_plan(const bpdq_writer *writer, json_t **plan, bpdq_error *error);

/* Once all shards are done: writes the index of their tensors; *bytes gets the size of them all. */
bpdq_status bpdq_writer_index(const bpdq_writer *writer, uint64_t *bytes, bpdq_error *error);

/* Writes config.json with `quantization` added, quantize_config.json and `report` as quantize_report.json, copies the tokenizer and
 * generation files of `source`, and gives the folder its name. */
bpdq_status bpdq_writer_finish(bpdq_writer *writer, const char *source, const json_t *quantization, const json_t *report,
                               bpdq_error *error);

#endif
