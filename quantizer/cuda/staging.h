/* Copies of activations and weights between host and device: several threads copy into page-locked buffers, or out of them, while the
 * device works on the other one. The driver's own way with pageable memory is one thread's. */
#ifndef BPDQ_QUANTIZER_CUDA_STAGING_H
#define BPDQ_QUANTIZER_CUDA_STAGING_H

#include <cuda_runtime_api.h>

#include "core/threads.h"

enum { BPDQ_GPU_STAGES = 2 };

/* All zero until the first upload. */
typedef struct bpdq_gpu_staging {
  bpdq_pool *pool;
  char *buffers[BPDQ_GPU_STAGES];    /* page-locked */
  cudaEvent_t done[BPDQ_GPU_STAGES]; /* the device has done with the buffer */
  int next;
} bpdq_gpu_staging;

/* Copies `bytes` of host memory to the device, ordered on `stream`. On return `from` has been read. `what` is for messages. */
bpdq_status bpdq_gpu_staging_upload(bpdq_gpu_staging *staging, void *to, const void *from, size_t bytes, cudaStream_t stream,
                                    const char *what, bpdq_error *error);
/* The other way. On return `to` is complete; everything before it on `stream` has been done. */
bpdq_status bpdq_gpu_staging_download(bpdq_gpu_staging *staging, void *to, const void *from, size_t bytes, cudaStream_t stream,
                                      const char *what, bpdq_error *error);
/* After the stream is idle; safe on a zeroed struct. */
void bpdq_gpu_staging_free(bpdq_gpu_staging *staging);

#endif
