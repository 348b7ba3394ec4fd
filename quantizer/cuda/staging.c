#include "staging.h"

#include <string.h>

#include "core/checked.h"
#include "core/platform.h"
#include "gpu_algebra.h"

enum { BUFFER = 32 << 20, TASK = 1 << 20, MOST_THREADS = 8 }; /* eight threads saturate the host's memory or the bus */

typedef struct copy {
  char *to;
  const char *from;
  size_t bytes;
} copy;

static void copy_task(void *context, int64_t index, int thread) {
  (void)thread;
  const copy *c = context;
  size_t begin = (size_t)index * TASK, bytes = c->bytes - begin < TASK ? c->bytes - begin : TASK;
  memcpy(c->to + begin, c->from + begin, bytes);
}

static bpdq_status start(bpdq_gpu_staging *s, const char *what, bpdq_error *error) {
  int cores = bpdq_cpu_count();
  if (s->pool) return BPDQ_OK;
  for (int i = 0; i < BPDQ_GPU_STAGES; i++) {
    if (!s->buffers[i]) BPDQ_TRY(bpdq_gpu_check(cudaMallocHost((void **)&s->buffers[i], BUFFER), what, error));
    if (!s->done[i]) BPDQ_TRY(bpdq_gpu_check(cudaEventCreateWithFlags(&s->done[i], cudaEventDisableTiming), what, error));
  }
  return bpdq_pool_create(cores < MOST_THREADS ? cores : MOST_THREADS, &s->pool, error);
}

bpdq_status bpdq_gpu_staging_upload(bpdq_gpu_staging *staging, void *to, const void *from, size_t bytes, cudaStream_t stream,
                                    const char *what, bpdq_error *error) {
  BPDQ_TRY(start(staging, what, error));
  for (size_t done = 0; done < bytes; done += BUFFER) {
    int stage = staging->next;
    copy c = {staging->buffers[stage], (const char *)from + done, bytes - done < BUFFER ? bytes - done : BUFFER};
    BPDQ_TRY(bpdq_gpu_check(cudaEventSynchronize(staging->done[stage]), what, error));
    bpdq_pool_run(staging->pool, (int64_t)bpdq_ceil_div(c.bytes, TASK), copy_task, &c);
    BPDQ_TRY(bpdq_gpu_check(cudaMemcpyAsync((char *)to + done, c.to, c.bytes, cudaMemcpyHostToDevice, stream), what, error));
    BPDQ_TRY(bpdq_gpu_check(cudaEventRecord(staging->done[stage], stream), what, error));
    staging->next = (stage + 1) % BPDQ_GPU_STAGES;
  }
  return BPDQ_OK;
}

bpdq_status bpdq_gpu_staging_download(bpdq_gpu_staging *staging, void *to, const void *from, size_t bytes, cudaStream_t stream,
                                      const char *what, bpdq_error *error) {
  BPDQ_TRY(start(staging, what, error));
  copy waiting = {0}; /* on its way to a buffer, to be copied out while the next one is */
  int waiting_stage = 0;
  for (size_t asked = 0; asked < bytes || waiting.bytes;) {
    copy next = {0};
    int stage = staging->next;
    if (asked < bytes) {
      next = (copy){(char *)to + asked, staging->buffers[stage], bytes - asked < BUFFER ? bytes - asked : BUFFER};
      BPDQ_TRY(bpdq_gpu_check(cudaEventSynchronize(staging->done[stage]), what, error));
      BPDQ_TRY(bpdq_gpu_check(
          cudaMemcpyAsync(staging->buffers[stage], (const char *)from + asked, next.bytes, cudaMemcpyDeviceToHost, stream), what, error));
      BPDQ_TRY(bpdq_gpu_check(cudaEventRecord(staging->done[stage], stream), what, error));
      staging->next = (stage + 1) % BPDQ_GPU_STAGES;
      asked += next.bytes;
    }
    if (waiting.bytes) {
      BPDQ_TRY(bpdq_gpu_check(cudaEventSynchronize(staging->done[waiting_stage]), what, error));
      bpdq_pool_run(staging->pool, (int64_t)bpdq_ceil_div(waiting.bytes, TASK), copy_task, &waiting);
    }
    waiting = next;
    waiting_stage = stage;
  }
  return BPDQ_OK;
}

void bpdq_gpu_staging_free(bpdq_gpu_staging *staging) {
  for (int i = 0; i < BPDQ_GPU_STAGES; i++) {
    if (staging->buffers[i]) (void)cudaFreeHost(staging->buffers[i]);
    if (staging->done[i]) (void)cudaEventDestroy(staging->done[i]);
  }
  bpdq_pool_destroy(staging->pool);
  *staging = (bpdq_gpu_staging){0};
}
