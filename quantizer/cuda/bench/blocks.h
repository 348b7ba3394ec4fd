#ifndef BPDQ_QUANTIZER_CUDA_BENCH_BLOCKS_H
#define BPDQ_QUANTIZER_CUDA_BENCH_BLOCKS_H

#include <stdint.h>

#include "core/status.h"

typedef struct bpdq_bench_shape {
  int blocks, model_blocks;                /* quantized here; of the whole model */
  int64_t hidden, heads, middle, head_dim; /* heads: channels of k and of v; middle: of the MLP */
  int64_t windows, length;                 /* of calibration */
  double device_memory;                    /* bytes that may be taken; 0: all */
  int rounds;                              /* of sweeps and a refit: fewer take less time and the same memory */
} bpdq_bench_shape;

/* Makes a Qwen2 model with random weights in FOLDER, quantizes it, prints where the time went and the peaks of memory, and removes both. */
bpdq_status bpdq_bench_blocks(const bpdq_bench_shape *shape, const char *folder, const char *algebra, bpdq_error *error);

#endif
