/* Where residual streams live on the host: in memory, or where that is too small in a file without a name beside the output. */
#ifndef BPDQ_QUANTIZER_STREAM_MEMORY_H
#define BPDQ_QUANTIZER_STREAM_MEMORY_H

#include "capture.h"

typedef struct bpdq_stream_memory {
  float *values;
  uint64_t bytes;
  bool on_disk;
} bpdq_stream_memory;

/* `count` streams f32 [windows * length, hidden] of the description, one behind the other. They go to a file in desc->spill_folder where
 * the free memory has no room for them and what else a quantization needs. BPDQ_ERROR_MEMORY where neither has room. */
bpdq_status bpdq_stream_memory_create(const bpdq_streams_desc *desc, int count, bpdq_stream_memory *memory, bpdq_error *error);
void bpdq_stream_memory_free(bpdq_stream_memory *memory); /* safe on a zeroed struct */

#endif
