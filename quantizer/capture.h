/* The residual streams of all calibration windows, moved through the model block by block, and the inputs of the linears on the way.
 *
 * The quantized stream has passed through everything that is quantized so far; the dense stream through the original weights. Inside a
 * block the stages come in the order of bpdq_stage, each captured after the linears of the one before it were quantized (true sequential).
 */
#ifndef BPDQ_QUANTIZER_CAPTURE_H
#define BPDQ_QUANTIZER_CAPTURE_H

#include "calibration.h"
#include "forward.h"
#include "linalg.h"

typedef enum bpdq_stage {
  BPDQ_STAGE_QKV,
  BPDQ_STAGE_O,
  BPDQ_STAGE_GATE_UP,
  BPDQ_STAGE_DOWN,
  BPDQ_STAGES,
  BPDQ_STAGE_HEAD = BPDQ_STAGES
} bpdq_stage;

typedef struct bpdq_streams bpdq_streams;

/* Starts both streams at the embeddings of the windows. The dense stream is kept where `dense_target` or `residual_target` asks for it (see
 * bpdq_recipe). `calibration` and `checkpoint` outlive the streams. The activations live in host memory: windows * length * hidden * 4
 * bytes per stream. */
bpdq_status bpdq_streams_create(const bpdq_checkpoint *checkpoint, const bpdq_calibration *calibration, bool dense_target,
                                bool residual_target, int threads, const volatile int *cancel, bpdq_streams **streams, bpdq_error *error);
void bpdq_streams_destroy(bpdq_streams *streams); /* NULL is allowed */

/* The statistics that a stage feeds: H; with a dense target C for q k v, gate and up; for o and down whole targets of `rows` rows. */
bpdq_statistics_desc bpdq_streams_statistics(const bpdq_streams *streams, bpdq_stage stage, const char *name, int64_t rows,
                                             int64_t columns);

/* Adds the inputs of one stage's linears to `statistics`, created with the description above, after the quantized linears of the stage
 * before have been applied. `quantized` holds the weights found so far. */
bpdq_status bpdq_streams_capture(bpdq_streams *streams, bpdq_stage stage, const bpdq_block *dense, const bpdq_block *quantized,
                                 bpdq_algebra *algebra, bpdq_statistics *statistics, bpdq_error *error);

/* Adds the inputs of the head behind the last block: `norm` f32 [hidden] is the final norm. */
bpdq_status bpdq_streams_capture_head(bpdq_streams *streams, const float *norm, bpdq_algebra *algebra, bpdq_statistics *statistics,
                                      bpdq_error *error);

/* Applies the block's quantized down_proj: both streams stand behind the block. */
bpdq_status bpdq_streams_finish_block(bpdq_streams *streams, const bpdq_block *quantized, bpdq_error *error);

/* Moves both streams through a whole block whose quantized weights are known: bit for bit what capturing it stage by stage does. */
bpdq_status bpdq_streams_replay(bpdq_streams *streams, const bpdq_block *dense, const bpdq_block *quantized, bpdq_error *error);

int64_t bpdq_streams_tokens(const bpdq_streams *streams);

#endif
