/* The residual streams of calibration windows, moved through the model block by block, and the inputs of the linears on the way.
 *
 * The quantized stream has passed through everything that is quantized so far; the dense stream through the original weights. Inside a
 * block the stages come in the order of bpdq_stage, each captured after the linears of the one before it were quantized (true sequential).
 *
 * There are two kinds. The usual ones (streams.c) stay in host memory or on disk; forward passes on a backend of the runtime bring a batch
 * at a time through a stage, and what the linears see goes to the statistics of any algebra. The CUDA algebra has its own (cuda/capture.c),
 * which keep everything on its device: a block of a 7B model moves 31 GB of activations, and taking them to the host and back would last
 * as long as all the work on the block. multi/ shares the windows among streams of its parts. */
#ifndef BPDQ_QUANTIZER_CAPTURE_H
#define BPDQ_QUANTIZER_CAPTURE_H

#include "block.h"
#include "calibration.h"
#include "linalg.h"

typedef enum bpdq_stage {
  BPDQ_STAGE_QKV,
  BPDQ_STAGE_O,
  BPDQ_STAGE_GATE_UP,
  BPDQ_STAGE_DOWN,
  BPDQ_STAGES,
  BPDQ_STAGE_HEAD = BPDQ_STAGES
} bpdq_stage;

/* The dense stream is kept where `dense_target` or `residual_target` asks for it (see bpdq_recipe). */
struct bpdq_streams_desc {
  const bpdq_checkpoint *checkpoint; /* both outlive the streams */
  const bpdq_calibration *calibration;
  int64_t first_window, window_count; /* the range of the calibration's windows that these streams carry */
  bool dense_target, residual_target;
  int threads;                /* 0: one per core */
  const volatile int *cancel; /* NULL, or a flag: set, captures stop with BPDQ_ERROR_CANCELLED */
  const char *backend;        /* NULL, or where the forward passes run whatever the algebra: "cpu", "vulkan", "cuda" */
  int device;                 /* of that backend, or -1: its best */
  uint64_t device_memory;     /* bytes that it may take; 0: all */
  const char *spill_folder;   /* where activations may go that memory has no room for (stream_memory.h), or NULL */
  bool spill;                 /* they go there in any case, if not to a device */
  const bpdq_log *log;        /* may be NULL */
};

struct bpdq_streams {
  bpdq_streams_desc desc;
  double forward_seconds, statistics_seconds; /* spent so far, for the report: moving the streams, and adding to statistics */
  uint64_t peak_device_bytes;                 /* most that a backend of their own took of a device's memory */
  void (*destroy)(bpdq_streams *streams);
  /* Adds the inputs of one stage's linears to `statistics` (created as bpdq_streams_statistics says; NULL: only moves on), after the
   * quantized linears of the stage before have been applied. `quantized` holds the weights found so far; `dense` may be NULL where no dense
   * stream is kept. */
  bpdq_status (*capture)(bpdq_streams *streams, bpdq_stage stage, const bpdq_block *dense, const bpdq_block *quantized,
                         bpdq_statistics *statistics, bpdq_error *error);
  /* Adds the inputs of the head behind the last block: `norm` f32 [hidden] is the final norm. */
  bpdq_status (*capture_head)(bpdq_streams *streams, const float *norm, bpdq_statistics *statistics, bpdq_error *error);
  /* Applies the block's quantized down_proj: both streams stand behind the block. */
  bpdq_status (*finish_block)(bpdq_streams *streams, const bpdq_block *quantized, bpdq_error *error);
  /* Copies the residual streams of window `window` (counted from the first of these streams), f32 [length, hidden], to the host. `dense`
   * may be NULL. For tests and diagnosis. */
  bpdq_status (*read)(bpdq_streams *streams, int64_t window, float *quantized, float *dense, bpdq_error *error);
};

/* Activations in host memory, forward passes on the description's backend (NULL: the CPU's), for the statistics of any algebra. */
bpdq_status bpdq_host_streams_create(bpdq_algebra *algebra, const bpdq_streams_desc *desc, bpdq_streams **streams, bpdq_error *error);

/* Both streams at the embeddings of all windows of the calibration, whatever range the description names: in host memory where a backend
 * is named, else where the algebra wants them. */
bpdq_status bpdq_streams_create(bpdq_algebra *algebra, const bpdq_streams_desc *desc, bpdq_streams **streams, bpdq_error *error);
void bpdq_streams_destroy(bpdq_streams *streams); /* NULL is allowed */

/* Whether a dense stream is kept. */
bool bpdq_streams_dense(const bpdq_streams_desc *desc);
/* Whether a stage's linear adds to the residual stream: o_proj and down_proj. */
bool bpdq_stage_closes(bpdq_stage stage);

/* The statistics that a stage feeds: H; with a dense target C for q k v, gate and up; for o and down whole targets of `rows` rows. */
bpdq_statistics_desc bpdq_streams_statistics(const bpdq_streams *streams, bpdq_stage stage, const char *name, int64_t rows,
                                             int64_t columns);

/* Moves both streams through a whole block whose quantized weights are known: bit for bit what capturing it stage by stage does. */
bpdq_status bpdq_streams_replay(bpdq_streams *streams, const bpdq_block *dense, const bpdq_block *quantized, bpdq_error *error);

int64_t bpdq_streams_tokens(const bpdq_streams *streams);

/* BPDQ_ERROR_CANCELLED where the flag is set. */
bpdq_status bpdq_streams_check_cancelled(const bpdq_streams *streams, bpdq_error *error);

#endif
